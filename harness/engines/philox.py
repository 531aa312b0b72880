"""Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"), by PyTorch's
operations: a counter-based generator, whose output at a counter needs no output before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Multipliers and key increments (Weyl constants) of Philox4x32, from the paper.
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: the four words for each counter of four words under a key of two words.

    int64 tensors that hold values of 32 bits, of shapes that broadcast. The product of two words may wrap around in
    64 bits; its upper and lower half are right all the same.
    """
    first, second, third, fourth = torch.broadcast_tensors(*counter)
    # Both multiplications of a round are one operation, and so is each that follows: where few numbers are drawn,
    # calling an operation takes longer than its arithmetic.
    multiplied, mixed = torch.stack((first, third)), torch.stack((second, fourth))
    ones = [1] * (multiplied.dim() - 1)
    multipliers = multiplied.new_tensor(MULTIPLIERS[::-1]).view(2, *ones)
    for words in _round_keys(key, ones):
        product = multiplied.flip(0) * multipliers
        multiplied = (product >> 32).bitwise_xor_(mixed).bitwise_xor_(words).bitwise_and_(WORD)
        mixed = product  # its upper bits are in no word: a later round, or the line below, takes them away
    first, third = multiplied.unbind()
    second, fourth = mixed.bitwise_and_(WORD).unbind()
    return first, second, third, fourth


def _round_keys(key: tuple[Tensor, Tensor], ones: list[int]) -> tuple[Tensor, ...]:
    """The two key words of every round, (2, ...) each."""
    words = torch.stack(torch.broadcast_tensors(*key))
    words = words.view(2, *ones[words.dim() - 1 :], *words.shape[1:])
    steps = words.new_tensor(WEYL) * torch.arange(ROUNDS, device=words.device).unsqueeze(1)
    return ((words + steps.view(ROUNDS, 2, *ones)) & WORD).unbind()
