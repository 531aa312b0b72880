"""The keyed noise of `noise.py` in one Triton kernel, for CUDA devices: numbers are written and nothing is read.

By PyTorch's operations the same numbers pass through memory some thirty times, which on a GPU takes longer than the
forward that they are for. The arithmetic is the same, and a test holds the two together.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from harness.engines.philox import MULTIPLIERS, ROUNDS, WEYL

BLOCK = 256
_M0, _M1 = tl.constexpr(MULTIPLIERS[0]), tl.constexpr(MULTIPLIERS[1])
_W0, _W1 = tl.constexpr(WEYL[0]), tl.constexpr(WEYL[1])
_ROUNDS = tl.constexpr(ROUNDS)


@triton.jit
def _gumbel_kernel(keys, positions, noise, length, vocabulary, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    line = tl.program_id(0)
    row = line // length
    block = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    left = tl.load(keys + 4 * row).to(tl.uint32)
    right = tl.load(keys + 4 * row + 1).to(tl.uint32)
    first = block.to(tl.uint32)
    second = tl.load(positions + line % length).to(tl.uint32) + tl.zeros_like(first)
    third = tl.load(keys + 4 * row + 2).to(tl.uint32) + tl.zeros_like(first)
    fourth = tl.load(keys + 4 * row + 3).to(tl.uint32) + tl.zeros_like(first)
    m0 = tl.full((BLOCK,), _M0, tl.uint32)
    m1 = tl.full((BLOCK,), _M1, tl.uint32)
    for _ in tl.static_range(_ROUNDS):
        upper, lower = tl.umulhi(first, m0), tl.umulhi(third, m1)
        upper_low, lower_low = first * m0, third * m1
        first, second = lower ^ second ^ left, lower_low
        third, fourth = upper ^ fourth ^ right, upper_low
        left += _W0
        right += _W1
    start = noise + line.to(tl.int64) * vocabulary
    place = 4 * block
    tl.store(start + place, _gumbel(first), mask=place < vocabulary)
    tl.store(start + place + 1, _gumbel(second), mask=place + 1 < vocabulary)
    tl.store(start + place + 2, _gumbel(third), mask=place + 2 < vocabulary)
    tl.store(start + place + 3, _gumbel(fourth), mask=place + 3 < vocabulary)


@triton.jit
def _gumbel(word):  # type: ignore[no-untyped-def]
    uniform = (word.to(tl.float64) + 0.5) * 2.3283064365386963e-10
    return (-tl.log(-tl.log(uniform))).to(tl.float32)


def gumbel(keys: torch.Tensor, positions: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """As `noise.gumbel`, on the device of `keys`."""
    rows, length = len(keys), len(positions)
    noise = torch.empty(rows, length, vocabulary, dtype=torch.float32, device=keys.device)
    grid = (rows * length, triton.cdiv(triton.cdiv(vocabulary, 4), BLOCK))
    _gumbel_kernel[grid](keys.contiguous(), positions, noise, length, vocabulary, BLOCK=BLOCK)
    return noise
