"""Advantages whitened over the tokens of a generation batch and clamped, as ROLL's stock GRPO example has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowtracer.errors import CreditError

BEFORE, AFTER = PLACES = ("before", "after")


@dataclass(frozen=True)
class Whitening:
    """Whitening over tokens, and a clamp behind it.

    place: "before" the token weights, so that they act on whitened advantages; or "after" them, which takes the mean
        of a multiplicative weight out. None leaves advantages as they are.
    clip: advantages are clamped to -clip and clip where they were, or would have been, whitened; 0 for no clamp.
    """

    place: str | None = None
    clip: float = 0.0

    def __post_init__(self) -> None:
        if self.place is not None and self.place not in PLACES:
            raise CreditError(f"whiten must be one of {', '.join(PLACES)} or None, not {self.place!r}")
        if not self.clip >= 0:
            raise CreditError(f"advantage_clip must not be negative, and is {self.clip!r}; 0 is no clamp")

    def acts(self, place: str) -> bool:
        """True if advantages change at this place; a clamp without whitening stands after the weights."""
        return place == (self.place or AFTER) and (self.place is not None or self.clip > 0)

    def __call__(
        self, advantages: Tensor, in_loss: Tensor, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Advantages of responses (B,) or of tokens (B, T), whitened over the tokens in the loss (B, T), and clamped.

        A response's advantage counts once for each of its tokens. reduce: sums a tensor over processes.
        """
        result = advantages
        if self.place is not None:
            mean, variance = _moments(advantages, in_loss, reduce)
            result = ((advantages.double() - mean) * (variance + 1e-8).rsqrt()).to(advantages.dtype)
        return result.clamp(-self.clip, self.clip) if self.clip else result


def _moments(
    advantages: Tensor, in_loss: Tensor, reduce: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over the tokens in the loss, float64; 0 and 1 where there are fewer than two."""
    values = (advantages if advantages.dim() == 2 else advantages.unsqueeze(1)).double()
    mask = in_loss.double()
    sums = torch.stack([mask.sum(), (values * mask).sum()])
    count, total = (reduce(sums) if reduce else sums).unbind()
    mean = total / count.clamp(min=1.0)
    # Around the mean: a difference of large squares would lose what it measures.
    squares = ((values - mean).square() * mask).sum()
    squares = reduce(squares) if reduce else squares
    variance = squares / (count - 1).clamp(min=1.0)
    alone = count < 2
    return torch.where(alone, 0.0, mean), torch.where(alone, 1.0, variance)
