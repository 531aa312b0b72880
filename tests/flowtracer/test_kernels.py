"""Protects the Triton kernels: against float64, natively on a GPU and in triton's interpreter elsewhere.

The interpreter has to be chosen before triton is imported, so where there is no GPU the tests of this file run in a
process of their own, which `test_in_the_interpreter` starts.
"""

import os
import subprocess
import sys

import pytest
import torch

from flowtracer import AttentionTap, CreditError, capacity_from_qk, solve_flow
from flowtracer.blocked import BlockedCapacity, TracedLayer
from flowtracer.readings import MeanMap
from tests.flowtracer.conftest import tiny_model

pytest.importorskip("triton", reason="triton comes with torch's CUDA builds, or with the extra `kernels`")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
kernel = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="in the interpreter, below"
)


def case(dtype, heads=4, key_heads=2, tokens=70, width=24, padded=True):
    """Queries and keys as models lay them out, a mask with left pads in the first row, and the float64 truth."""
    generator = torch.Generator().manual_seed(0)
    query, key = (
        torch.randn(2, tokens, count, width, generator=generator).transpose(1, 2).to(dtype)
        for count in (heads, key_heads)
    )
    query, scale = query * 2, width**-0.5
    visible = torch.ones(2, 1, tokens, tokens, dtype=torch.bool).tril()
    if padded:
        visible[0, :, :7], visible[0, :, :, :7] = False, False
    scores = query.double() @ key.double().repeat_interleave(heads // key_heads, 1).transpose(-1, -2) * scale
    scores = scores.masked_fill(~visible, float("-inf"))
    truth = scores.softmax(-1).masked_fill(~visible, 0.0).mean(1)
    mask = visible.to(DEVICE) if padded else None
    return query.to(DEVICE), key.to(DEVICE), scale, mask, scores.logsumexp(-1), truth


@kernel
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.float32, {"padded": False}),
        (torch.float32, {"key_heads": 4, "tokens": 129, "width": 16}),
        (torch.bfloat16, {}),
        (torch.bfloat16, {"key_heads": 1, "width": 64, "padded": False}),
        (torch.float16, {}),
    ],
)
def test_head_mean_is_the_float64_one(dtype, shape):
    """Grouped heads, widths and lengths that fill no block; half precision is read as it is and added up in float32."""
    from flowtracer.kernels import head_mean

    query, key, scale, mask, expected, truth = case(dtype, **shape)
    normalizers = head_mean.log_sum_exp(query, key, scale=scale, mask=mask)
    torch.testing.assert_close(normalizers.cpu().double(), expected, rtol=1e-5, atol=1e-5)
    tokens = truth.shape[1]
    before = torch.rand(2, tokens, tokens)
    options = {"scale": scale, "mask": mask, "weight": 0.5}

    def added(rows, columns):
        out = before[:, rows, columns].clone().to(DEVICE)
        head_mean.add_head_mean(out, query, key, normalizers, rows=rows, columns=columns, **options)
        return out.cpu()

    everything = slice(0, tokens)
    whole = added(everything, everything)
    torch.testing.assert_close(whole.double(), before + truth / 2, rtol=0, atol=2e-6)
    hidden = truth == 0
    assert torch.equal(whole[hidden], before[hidden]), "what is hidden gets exactly nothing"
    assert torch.equal(whole, added(everything, everything)), "the same bits every time"
    some = slice(9, 40), slice(3, 37)
    torch.testing.assert_close(added(*some), whole[:, some[0], some[1]], rtol=0, atol=1e-6)


@kernel
@pytest.mark.gpu
def test_the_interpreter_or_the_gpu_is_what_runs():
    from flowtracer.kernels import head_mean

    assert head_mean.INTERPRETED == INTERPRETED


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_the_tap_on_a_gpu_reads_what_the_cpu_reads(dtype, padded, train):
    """Through the model: dense and blocked, with the op's normalisers and without, against float32 tiles on the CPU."""
    ids = torch.randint(2, 32, (2, 200), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :9] = 0
    model = tiny_model("qwen3").to("cuda", dtype).train(train)
    seen = []
    for dense_tokens in (200, 199):
        with (
            torch.set_grad_enabled(train),
            AttentionTap(model, [1]).open(mask.cuda(), MeanMap(dense_tokens)) as capture,
        ):
            model(input_ids=ids.cuda(), attention_mask=mask.cuda())
        seen.append(capture.capacity)
    dense, blocked = seen
    assert isinstance(blocked, BlockedCapacity)
    everything = slice(0, 200)
    torch.testing.assert_close(blocked.tile(everything, everything), dense, rtol=0, atol=1e-5)
    layer: TracedLayer = blocked._layers[0]
    cpu = capacity_from_qk(
        layer.query.cpu(),
        layer.key.cpu(),
        scale=layer.scale,
        mask=None if layer.mask is None else layer.mask.cpu(),
    )
    real = mask.bool().unsqueeze(1) & mask.bool().unsqueeze(2)
    torch.testing.assert_close(dense.cpu(), cpu * real, rtol=0, atol=2e-5)
    position = torch.arange(200)
    source, answer = mask.bool() & (position < 50), mask.bool() & (position >= 190)
    on_gpu = [solve_flow(capacity, source.cuda(), answer.cuda()).flow.cpu() for capacity in seen]
    expected = solve_flow(cpu * real, source, answer).flow
    for flow in on_gpu:
        torch.testing.assert_close(flow, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_properties(0).total_memory < 70e9,
    reason="needs a GPU of 80 GB",
)
@pytest.mark.gpu
def test_128k_tokens_of_an_8b_shaped_attention_fit_in_80_gb():
    """12 layers of 32 query and 8 key heads, 128 wide: 16 GB of queries and keys, and no map of 69 GB."""
    tokens, device = 2**17, "cuda"
    torch.cuda.reset_peak_memory_stats()
    reading = MeanMap()
    reading.begin(torch.ones(1, tokens, dtype=torch.bool, device=device), layers=12)
    for _ in range(12):
        query, key = (
            torch.randn(1, heads, tokens, 128, dtype=torch.bfloat16, device=device) for heads in (32, 8)
        )
        reading.read(query, key, 128**-0.5, None, None)
    capacity = reading.finish(padded=False)
    assert isinstance(capacity, BlockedCapacity)
    position = torch.arange(tokens, device=device).unsqueeze(0)
    answer = position >= tokens - 8
    flow = solve_flow(capacity, position < tokens // 4, answer).flow
    assert float(flow[answer].sum()) == pytest.approx(1.0, rel=1e-3)
    assert torch.cuda.max_memory_allocated() < 80e9


@pytest.mark.skipif(INTERPRETED, reason="tested in the other process")
def test_heads_wider_than_any_tile_are_refused():
    from flowtracer.kernels import head_mean

    with pytest.raises(CreditError, match="up to 512 wide, not 576"):
        head_mean.blocks(torch.bfloat16, 576)


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="runs natively, or is the other process")
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "6 passed" in done.stdout, done.stdout[-4000:]
