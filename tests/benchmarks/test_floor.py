"""Protects the floor: its formulas against operations counted in tiny real calls."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from flowtracer import capacity_from_qk, solve_flow
from harness.shapes import Shape

SHAPE = Shape(3, 32, 48, 4, 2, 16, 64, True, 4096, True)


def test_products_of_the_map_are_those_that_run(benchmarks):
    """The CPU reads 64 tokens in one tile of all of them, so the formula's tile is that."""
    import floor

    query, key = (torch.randn(1, heads, 64, 16) for heads in (4, 2))
    with FlopCounterMode(display=False) as counter:
        capacity_from_qk(query, key, scale=0.25)
    design = floor.Design("as on the CPU", rows=64, columns=64)
    assert counter.get_total_flops() == floor.head_mean(SHAPE, 64, 1, design).flops
    # Half as many entries lie in tiles that follow the diagonal closely.
    fine = floor.head_mean(SHAPE, 1024, 1, floor.Design("fine", rows=16, columns=16)).flops
    whole = floor.head_mean(SHAPE, 1024, 1, floor.Design("whole", rows=1024, columns=1024)).flops
    assert 0.5 < fine / whole < 0.52


def test_a_training_step_is_that_of_the_plan(benchmarks):
    """Forward, recomputation and backward of a model; PyTorch counts attention without its causal half."""
    import floor
    import random_policy
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = random_policy.shaped(SHAPE, torch.float32, "sdpa", "cpu")
    tokens = 64
    ids = torch.zeros(1, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(input_ids=ids, use_cache=False).logits.mean().backward()
    head = 2.0 * SHAPE.vocabulary * SHAPE.width * tokens
    attention = 2.0 * SHAPE.layers * SHAPE.queries * tokens**2
    counted = counter.get_total_flops()
    # Nothing needs a layer's last product again, nor the head's; full attention is twice the causal one.
    last = 2.0 * SHAPE.layers * SHAPE.inner * SHAPE.width * tokens
    expected = floor.step(SHAPE, tokens).flops - head - last + 4 * attention
    assert counted == pytest.approx(expected, rel=1e-3)  # rotary embeddings are the rest


class Read(TorchDispatchMode):
    """Adds up the bytes of the largest argument of each product and solve, and counts what is launched."""

    def __init__(self):
        super().__init__()
        self.bytes = self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if any(part in name for part in ("mm", "matmul", "mv.", "solve_triangular", "amin", "amax")):
            self.bytes += max(
                part.numel() * part.element_size() for part in tree_leaves(args) if hasattr(part, "numel")
            )
        self.calls += "view" not in name and "slice" not in name
        return func(*args, **(kwargs or {}))


def test_bytes_of_the_solves_are_those_that_run(benchmarks):
    """Blocks on the diagonal are read whole, which the formula leaves out: they shrink with the length."""
    import floor

    tokens = 4096
    capacity = torch.rand(1, tokens, tokens).tril(-1) / tokens
    position = torch.arange(tokens).unsqueeze(0)
    with Read() as read:
        solve_flow(capacity, position < 1000, position >= tokens - 8)
    assert read.bytes == pytest.approx(floor.solves(SHAPE, tokens, 1).memory, rel=0.1)
    blocks = tokens // floor.BLOCK
    assert read.calls / (2 * blocks) == pytest.approx(floor.LAUNCHES, rel=0.25)


def test_limits_shares_and_designs(benchmarks):
    import floor

    work = floor.Work(flops=989e12, memory=3.35e12 / 2)
    assert work.floor() == 1.0 and work.estimate() == 1.5
    rows = floor.rows_of({("Qwen3-4B", 8192, "map"): 0.01})
    assert len(rows) == 3 * 8 and {row["tokens"] for row in rows} >= {1024, 131072}
    (row,) = [row for row in rows if row["policy"] == "Qwen3-4B" and row["tokens"] == 8192]
    assert row["measured"] == {"map": 0.01, "solves": None, "share": None}
    # Beyond the dense lengths no map is made, and its tiles are computed in the solves, twice.
    (long,) = [row for row in rows if row["policy"] == "Qwen3-8B" and row["tokens"] == 131072]
    assert not any(long["limits"]["map"].values()) and long["limits"]["solves"]["flops"] > 1.0
    shares = {row["design"]: row["estimated_share"] for row in floor.designs() if row["policy"] == "Qwen3-4B"}
    before, built = (
        next(share for name, share in shares.items() if name.startswith(start))
        for start in ("128 x 64", "64 x 128")
    )
    assert built < before


def test_the_design_in_use_is_the_one_of_the_floor(benchmarks):
    pytest.importorskip("triton", reason="triton comes with torch's CUDA builds, or with the extra `kernels`")
    import floor

    from flowtracer.kernels import head_mean

    size = head_mean.blocks(torch.bfloat16, 128)
    assert (size["BLOCK_ROWS"], size["BLOCK_COLUMNS"]) == (floor.BUILT.rows, floor.BUILT.columns)
