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
    left, right = key
    for _ in range(ROUNDS):
        upper, lower = first * MULTIPLIERS[0], third * MULTIPLIERS[1]
        first, third = (
            (lower >> 32).bitwise_xor_(second).bitwise_xor_(left).bitwise_and_(WORD),
            (upper >> 32).bitwise_xor_(fourth).bitwise_xor_(right).bitwise_and_(WORD),
        )
        second, fourth = lower.bitwise_and_(WORD), upper.bitwise_and_(WORD)
        left, right = (left + WEYL[0]) & WORD, (right + WEYL[1]) & WORD
    return first, second, third, fourth
