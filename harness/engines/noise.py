"""Keyed noise: standard Gumbel numbers that are a function of a row's key, a position and a token, and of nothing else.

They come from Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"), a
counter-based generator: its output at a counter needs no output before it. So all rows and positions are drawn at once,
on the device that holds the logits, and no order of drawing, batch or block can change a number. PyTorch has no such
generator that takes a key a row: its own Philox has one seed for a whole tensor.

A key of 128 bits fills the generator's two key words and two of its four counter words. The other two count blocks of
four tokens and positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from harness.engines.philox import philox

#: Numbers that one call draws ahead, over rows, positions and tokens: enough to pay for the call, few enough to waste
#: little where responses end early.
AHEAD = 2**16
#: Numbers that are computed at once. A CPU's cache holds the words of so many; a GPU has room for more, not for all.
AT_ONCE = {"cpu": 2**16}
AT_ONCE_ELSEWHERE = 2**24


def gumbel(keys: Tensor, positions: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise (rows, positions, vocabulary), float32, for `keys` (rows, 4) and `positions` (P,), int64.

    A word w of 32 bits is the uniform number u = (w + 1/2) / 2^32; the noise is -log(-log u), at most 22.9. u is exact
    in double precision, so that large noise, where u is close to 1, is as exact as any other. Logarithms are those of
    double precision too: every device rounds them to the same float32, except where a last bit is at stake.
    """
    if keys.device.type == "cuda" and find_spec("triton") is not None:
        from harness.engines import noise_kernel

        return noise_kernel.gumbel(keys, positions, vocabulary)
    rows, length, blocks = len(keys), len(positions), -(-vocabulary // 4)
    noise = torch.empty(rows * length, 4 * blocks, dtype=torch.float32, device=keys.device)
    key = keys.repeat_interleave(length, dim=0).unsqueeze(2)
    position = positions.repeat(rows).unsqueeze(1)
    block = torch.arange(blocks, device=keys.device)
    at_once = AT_ONCE.get(keys.device.type, AT_ONCE_ELSEWHERE)
    lines, width = max(1, at_once // max(1, 4 * blocks)), at_once // 4
    for line in range(0, rows * length, lines):
        some = slice(line, line + lines)
        for start in range(0, blocks, width):
            drawn = philox(
                (block[start : start + width], position[some], key[some, 2], key[some, 3]),
                (key[some, 0], key[some, 1]),
            )
            uniform = torch.stack(drawn, dim=-1).flatten(1).double().add_(0.5).mul_(2.0**-32)
            noise[some, 4 * start : 4 * (start + width)] = uniform.log_().neg_().log_().neg_()
    return noise[:, :vocabulary].view(rows, length, vocabulary)


def words(keys: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
    """Keys of 32 hexadecimal digits as their four words, most significant first: (rows, 4) int64."""
    numbers = [[int(key[start : start + 8], 16) for start in range(0, 32, 8)] for key in keys]
    return torch.tensor(numbers, dtype=torch.int64, device=device).view(-1, 4)


class Noise:
    """The noise of a batch of rows, position after position; drawn ahead for the rows that still run."""

    def __init__(self, keys: Sequence[str], positions: int, vocabulary: int, device: torch.device) -> None:
        self.keys, self.vocabulary, self.positions = words(keys, device), vocabulary, positions
        self.first, self.drawn = 0, torch.empty(len(keys), 0, vocabulary, device=device)

    def at(self, position: int, running: Sequence[int]) -> Tensor:
        """(rows, vocabulary) float32; 0 in rows that are not `running`. Positions are asked for in rising order."""
        if position >= self.first + self.drawn.shape[1]:
            ahead = max(1, AHEAD // max(1, len(running) * self.vocabulary))
            asked = torch.arange(position, min(position + ahead, self.positions), device=self.keys.device)
            rows = torch.tensor(running, dtype=torch.long, device=self.keys.device)
            drawn = gumbel(self.keys[rows], asked, self.vocabulary)
            self.drawn = drawn.new_zeros(len(self.keys), *drawn.shape[1:]).index_copy_(0, rows, drawn)
            self.first = position
        return self.drawn[:, position - self.first]
