"""Protects the kernels as compiled for GPUs that are not there: products on tensor cores, registers that suffice."""

import os

import pytest
import torch

pytest.importorskip("triton", reason="triton comes with torch's CUDA builds, or with the extra `kernels`")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"
)

KERNELS = ("_log_sum_exp_kernel", "_head_mean_kernel")


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("dtype", "width", "capability"),
    [
        (torch.bfloat16, 64, 90),
        (torch.bfloat16, 128, 80),
        (torch.bfloat16, 128, 90),
        (torch.bfloat16, 512, 80),
        (torch.float32, 128, 80),
    ],
)
def test_kernels_compile_for_gpus_without_one(benchmarks, name, dtype, width, capability):
    """What the interpreter lets pass, triton's compiler may not; bf16 goes to the tensor cores, no product to TF32."""
    import triton_kernels

    half = dtype == torch.bfloat16
    ptx = triton_kernels.compiled(name, dtype, width, capability).asm["ptx"]
    assert (".bf16.bf16" in ptx) == half and "tf32" not in ptx
    row = triton_kernels.resources(name, dtype, width, capability)
    assert row["product"] == ({80: "mma.sync", 90: "wgmma"}[capability] if half else "fma")
    # The least of today's GPUs with tensor cores for bf16 has 99 KB.
    assert row["shared"] <= 99 * 1024
    # Registers that do not suffice cost more than all the rest.
    assert row["spilled"] < 512 and 32 <= row["registers"] <= 255
    if (dtype, width, capability) == (torch.bfloat16, 128, 90):
        assert row["blocks"] >= 2, "one block's exponentials run beside another's products"


def test_a_tile_that_spills_is_seen(benchmarks):
    """The report would be no use if it could not tell: the tile that this one replaced at width 64."""
    import triton_kernels

    tile = {"BLOCK_ROWS": 64, "BLOCK_COLUMNS": 128, "num_warps": 4, "num_stages": 2}
    row = triton_kernels.resources("_log_sum_exp_kernel", torch.bfloat16, 64, 90, **tile)
    assert row["spilled"] > 512 and row["tile"] == "64 x 128"
