"""Protects the simulated allocator: it counts what lives, and the plan of a small GPU stays above what it counts."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.shapes import Shape

SHAPE = Shape(3, 32, 48, 4, 2, 16, 64, True, 4096, True)


def test_what_is_let_go_counts_no_more(benchmarks):
    import memory

    with FakeTensorMode(), memory.Allocator() as allocator:
        first = torch.zeros(1000)
        view = first[:10]
        second = first + 1
        assert allocator.held == 8000
        del first
        assert allocator.held == 8000, "a view holds the whole"
        del view, second
        assert (allocator.held, allocator.peak) == (0, 8000)
        allocator.restart()
        assert allocator.peak == 0


@pytest.mark.parametrize("index", range(5))
def test_variants_differ_by_what_they_say(benchmarks, index):
    import memory

    batch = memory.Update(rollouts=2, prompt=8, response=24)
    variant, base = memory.VARIANTS[index], memory.VARIANTS[0]
    bytes_held, reference = (memory.simulated(one, SHAPE, batch) for one in (variant, base))
    # Weights, gradients and Adam's two moments in float32 are there at the peak.
    assert reference > 16 * SHAPE.parameters
    if variant.eight_bit and not variant.rank:
        saved = 8 * SHAPE.parameters - 2 * (1 + 4 / 256) * SHAPE.parameters
        assert reference - bytes_held == pytest.approx(saved, rel=0.1)
    elif variant.rank:
        assert bytes_held < reference
    elif not variant.checkpointing:
        assert bytes_held > reference


@pytest.mark.slow
def test_the_plan_of_a_small_gpu_is_an_upper_bound(benchmarks):
    """At the real shape: what the plan says of qwen3-0.6b fits 24 GB, and the simulation holds no more."""
    import memory

    from harness.shapes import SHAPES

    row = memory.row(memory.VARIANTS[0], SHAPES[memory.POLICY], memory.DECLARED, measured=False)
    assert row["whole"] <= row["card"]
    assert 0.8 < row["simulated"] / row["planned"] <= 1.0
