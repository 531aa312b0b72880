"""Controls: credit methods that a comparison needs to know what its other rows mean.

uniform is GRPO. constant has FlowTracer's mean weight without its contrast. random has both without its ranking.
oracle and oracle_mask know the decisive tokens: what perfect credit would gain (assay sensitivity).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from flowtracer.credit.method import CreditContext, CreditMethod, register


def pool_size(members: Tensor, ratio: float) -> Tensor:
    """floor(ratio n) of n = members, computed exactly: 0.4 means two fifths, so 5 tokens give 2."""
    exact = Fraction(str(ratio))
    return members * exact.numerator // exact.denominator


def top(scores: Tensor, pool: Tensor, count: Tensor) -> Tensor:
    """Boolean (B, T): the `count` (B,) highest scores of each row's `pool` (B, T); ties go to the earliest token."""
    order = scores.masked_fill(~pool, float("-inf")).argsort(dim=1, descending=True, stable=True)
    chosen = torch.arange(scores.shape[1], device=scores.device) < count.unsqueeze(1)
    return torch.zeros_like(pool).scatter(1, order, chosen) & pool


@register
@dataclass(frozen=True)
class Uniform(CreditMethod):
    """w = 1: every token of a response gets the same credit (GRPO, Shao et al. 2024, arXiv 2402.03300).

    Ten response tokens: 1 1 1 1 1 1 1 1 1 1.
    """

    name: ClassVar[str] = "uniform"

    def weights(self, context: CreditContext) -> Tensor:
        return torch.ones_like(context.response, dtype=torch.float32)


@register
@dataclass(frozen=True)
class Constant(CreditMethod):
    """w = weight everywhere: a control with the mean weight of a method and none of its contrast.

    Ten response tokens: 1.2 1.2 1.2 1.2 1.2 1.2 1.2 1.2 1.2 1.2.
    """

    name: ClassVar[str] = "constant"
    weight: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("weight", 0.0, 1e6)

    @property
    def usual_mean(self) -> float:
        return self.weight

    def weights(self, context: CreditContext) -> Tensor:
        return torch.full_like(context.response, self.weight, dtype=torch.float32)


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

    def raised(self, chosen: Tensor) -> Tensor:
        """gamma where `chosen`, 1 elsewhere, (B, T)."""
        return torch.where(chosen, self.gamma, 1.0)


@register
@dataclass(frozen=True)
class RandomTokens(TwoLevel):
    """gamma for a random 40% of the response: FlowTracer's contrast without its ranking (control in 2510.13554).

    Drawn from the context's own generator. Ten response tokens, four drawn: 1 1.5 1 1 1.5 1 1 1.5 1.5 1.
    """

    name: ClassVar[str] = "random"

    def weights(self, context: CreditContext) -> Tensor:
        if context.generator is None:
            raise ValueError("credit random needs a generator of its own in the context")
        # Drawn on the generator's device and for the whole padded batch, in one call.
        device = context.generator.device
        scores = torch.rand(context.response.shape, generator=context.generator, device=device)
        count = pool_size(context.response.sum(1), self.ratio)
        return self.raised(top(scores.to(context.response.device), context.response, count))


@dataclass(frozen=True)
class _Decisive(CreditMethod):
    needs: ClassVar[frozenset[str]] = frozenset({"decisive"})

    def decisive(self, context: CreditContext) -> Tensor:
        if context.decisive is None:
            raise ValueError(f"credit {self.name} needs a task that knows its decisive tokens")
        decisive = context.decisive & context.response
        context.abstain_where(~decisive.any(1), "no decisive token")
        return decisive


@register
@dataclass(frozen=True)
class Oracle(_Decisive):
    """gamma on the decisive tokens of a task that knows them, 1 elsewhere.

    Ten response tokens, the first decisive: 1.5 1 1 1 1 1 1 1 1 1.
    """

    name: ClassVar[str] = "oracle"
    gamma: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("gamma", 0.0, 1e6)

    def weights(self, context: CreditContext) -> Tensor:
        return torch.where(self.decisive(context), self.gamma, 1.0)


@register
@dataclass(frozen=True)
class OracleMask(_Decisive):
    """Credit on the decisive tokens only: w = 1 there, 0 elsewhere. The best that any credit method could do.

    Ten response tokens, the first decisive: 1 0 0 0 0 0 0 0 0 0.
    """

    name: ClassVar[str] = "oracle_mask"

    def weights(self, context: CreditContext) -> Tensor:
        return self.decisive(context).to(torch.float32)
