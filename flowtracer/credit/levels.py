"""Two levels of credit: gamma for the highest share of a response's tokens by some score, 1 for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from flowtracer.credit.method import CreditMethod

#: Where the defaults of gamma and ratio come from, for the cards of methods that differ in their ranking only.
DEFAULTS = {
    "gamma": "FlowTracer's published 1.5 (arXiv 2606.10646; there 1.2 is too weak and 3 too strong)",
    "ratio": "FlowTracer's published 40% (arXiv 2606.10646; there 20% and 60% are worse)",
}


def pool_size(members: Tensor, ratio: float) -> Tensor:
    """floor(ratio n) of n = members, computed exactly: 0.4 means two fifths, so 5 tokens give 2."""
    exact = Fraction(str(ratio))
    return members * exact.numerator // exact.denominator


def top(scores: Tensor, pool: Tensor, count: Tensor) -> Tensor:
    """Boolean (B, T): the `count` (B,) highest scores of each row's `pool` (B, T); ties go to the earliest token."""
    order = scores.masked_fill(~pool, float("-inf")).argsort(dim=1, descending=True, stable=True)
    chosen = torch.arange(scores.shape[1], device=scores.device) < count.unsqueeze(1)
    return torch.zeros_like(pool).scatter(1, order, chosen) & pool


@dataclass(frozen=True)
class TwoLevel(CreditMethod):
    """Base of the methods that give `gamma` to a share `ratio` of the response and 1 to the rest."""

    gamma: float = 1.5
    ratio: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("gamma", 0.0, 1e6)
        self.check_range("ratio", 0.0, 1.0)

    @property
    def usual_mean(self) -> float:
        return 1.0 + (self.gamma - 1.0) * self.ratio

    def up_weighted(self, chosen: Tensor) -> Tensor:
        """gamma where `chosen`, 1 elsewhere, (B, T)."""
        return torch.where(chosen, self.gamma, 1.0)
