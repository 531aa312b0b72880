"""Controls: credit methods that a comparison needs to know what its other rows mean.

uniform is GRPO. constant has FlowTracer's mean weight without its contrast. random has both without its ranking.
random_mask is what any mask must beat. delimiters knows punctuation and nothing else, position, first_tokens and
last_tokens the position. oracle, oracle_mask and anti_oracle know the
decisive tokens: what perfect credit would gain, and what its opposite costs (positive controls).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowtracer.credit import draws
from flowtracer.credit.levels import TwoLevel, pool_size, top
from flowtracer.credit.method import CreditContext, CreditMethod, register


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


@register
@dataclass(frozen=True)
class RandomTokens(TwoLevel):
    """gamma for a random 40% of the response: FlowTracer's contrast without its ranking (control in 2510.13554).

    Drawn from each response's own stream. Ten response tokens, four drawn: 1 1.5 1 1 1.5 1 1 1.5 1.5 1.
    """

    name: ClassVar[str] = "random"

    def weights(self, context: CreditContext) -> Tensor:
        count = pool_size(context.response.sum(1), self.ratio)
        return self.up_weighted(top(draws.uniform(self.name, context), context.response, count))


@register
@dataclass(frozen=True)
class RandomMask(CreditMethod):
    """w = 1 on a random 20% of the response, 0 elsewhere: the control without which no mask can be read.

    arXiv 2605.07660 finds that it keeps most of the gain of masks that choose their tokens. Our reading: floor(ratio n)
    of n tokens, so that with ratio 0.2 a response of less than five tokens has no part in the update. The loss is still
    divided by all tokens. Drawn from each response's own stream.

    Ten response tokens, two drawn: 0 0 1 0 0 0 0 1 0 0.
    """

    name: ClassVar[str] = "random_mask"
    ratio: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("ratio", 0.0, 1.0)

    @property
    def usual_mean(self) -> float:
        return self.ratio

    def weights(self, context: CreditContext) -> Tensor:
        count = pool_size(context.response.sum(1), self.ratio)
        return top(draws.uniform(self.name, context), context.response, count).to(torch.float32)


@register
@dataclass(frozen=True)
class FirstTokens(TwoLevel):
    """gamma for the first 40% of the response: FlowTracer's levels with the position in place of its ranking.

    A control of ours: a ranking that favours early tokens must beat it.

    Ten response tokens: 1.5 1.5 1.5 1.5 1 1 1 1 1 1.
    """

    name: ClassVar[str] = "first_tokens"

    def weights(self, context: CreditContext) -> Tensor:
        response = context.response
        return self.up_weighted(
            top(-response.cumsum(1).double(), response, pool_size(response.sum(1), self.ratio))
        )


@register
@dataclass(frozen=True)
class LastTokens(TwoLevel):
    """gamma for the last 40% of the response: FlowTracer's levels with the position in place of its ranking.

    A control of ours: a ranking that favours what stands near the answer must beat it.

    Ten response tokens: 1 1 1 1 1 1 1.5 1.5 1.5 1.5.
    """

    name: ClassVar[str] = "last_tokens"

    def weights(self, context: CreditContext) -> Tensor:
        response = context.response
        return self.up_weighted(
            top(response.cumsum(1).double(), response, pool_size(response.sum(1), self.ratio))
        )


@register
@dataclass(frozen=True)
class Delimiters(CreditMethod):
    """gamma on punctuation and line breaks: a control, since they are most of what high flow picks out.

    A token is a delimiter if its text holds nothing but blanks, punctuation and symbols (Unicode categories P and S,
    so that `=`, `+` and `$` count) and at least one of these or a line break. The published sources name "punctuation
    and newlines" and no list; this one is our choice. Special tokens have no text and are none.

    Ten response tokens `So`, ` 2`, `+`, `3`, ` =`, ` 5`, `.`, `\\n`, `####`, ` 5`: 1 1 1.5 1 1.5 1 1.5 1.5 1.5 1.
    """

    name: ClassVar[str] = "delimiters"
    needs: ClassVar[frozenset[str]] = frozenset({"pieces"})
    gamma: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("gamma", 0.0, 1e6)

    def weights(self, context: CreditContext) -> Tensor:
        assert context.pieces is not None
        delimiter = torch.tensor(
            [[_is_delimiter(piece) for piece in row] for row in context.pieces], dtype=torch.bool
        )
        return torch.where(delimiter.to(context.response.device).view_as(context.response), self.gamma, 1.0)


def _is_delimiter(piece: str) -> bool:
    visible = "".join(piece.split())
    if not visible:
        return "\n" in piece
    return all(unicodedata.category(character)[0] in "PS" for character in visible)


@register
@dataclass(frozen=True)
class Position(CreditMethod):
    """Weights that rise with the position from `floor` to 1: the controls of the ATPO trainer.

    shape: "linear"; "exponential", decay ** (tokens to the end), rescaled to start at 0; "sigmoid", an S-curve
    sigmoid(3 sharpness x) over x from -1 to 1, rescaled to 0 and 1. Then w = floor + (1 - floor) shape. floor 0.5 and
    sharpness 2 are that trainer's defaults; its decay is unpublished, 0.99 is ours, and so is the rescaling, without
    which a short response would have no contrast. It stops the rise before the answer; here it runs over the whole
    response, so that nothing need be known of the answer. A response of one token gets 1.

    Ten response tokens, linear: 0.5 0.5556 0.6111 0.6667 0.7222 0.7778 0.8333 0.8889 0.9444 1.
    """

    name: ClassVar[str] = "position"
    shape: str = "linear"
    floor: float = 0.5
    decay: float = 0.99
    sharpness: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("shape", ("linear", "exponential", "sigmoid"))
        self.check_range("floor", 0.0, 1.0)
        self.check_range("decay", 0.01, 0.9999)
        self.check_range("sharpness", 0.01, 100.0)

    @property
    def usual_mean(self) -> float:
        return (1.0 + self.floor) / 2.0

    def weights(self, context: CreditContext) -> Tensor:
        response = context.response
        last = (response.sum(1, keepdim=True) - 1).double()
        index = response.cumsum(1).double() - 1.0
        if self.shape == "exponential":
            lowest = self.decay**last
            rise = (self.decay ** (last - index) - lowest) / (1.0 - lowest)
        elif self.shape == "sigmoid":
            steep = 3.0 * self.sharpness
            lowest = torch.sigmoid(torch.tensor(-steep, dtype=torch.float64))
            curve = torch.sigmoid(steep * (2.0 * index / last - 1.0))
            rise = (curve - lowest) / (1.0 - 2.0 * lowest)
        else:
            rise = index / last
        rise = torch.where(last > 0, rise, 1.0)
        return self.floor + (1.0 - self.floor) * rise


@dataclass(frozen=True)
class _Decisive(CreditMethod):
    needs: ClassVar[frozenset[str]] = frozenset({"decisive"})

    def decisive(self, context: CreditContext) -> Tensor:
        assert context.decisive is not None
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
class ShuffledOracle(Oracle):
    """oracle's weights, permuted at random within each response: its strength without its knowledge.

    Drawn from each response's own stream. Where it gains, a testbed rewards contrast, and its oracle proves nothing.
    Ten response tokens, one decisive: nine 1 and one 1.5 in any order, such as 1 1 1 1 1 1 1.5 1 1 1.
    """

    name: ClassVar[str] = "shuffled_oracle"

    def weights(self, context: CreditContext) -> Tensor:
        weights, response = super().weights(context), context.response
        drawn = draws.uniform(self.name, context).masked_fill(~response, float("inf"))
        in_order = response.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        return weights.scatter(1, drawn.argsort(dim=1, stable=True), weights.gather(1, in_order))


@register
@dataclass(frozen=True)
class OracleMask(_Decisive):
    """Credit on the decisive tokens only: w = 1 there, 0 elsewhere. The best that any credit method could do.

    Ten response tokens, the first decisive: 1 0 0 0 0 0 0 0 0 0.
    """

    name: ClassVar[str] = "oracle_mask"

    def weights(self, context: CreditContext) -> Tensor:
        return self.decisive(context).to(torch.float32)


@register
@dataclass(frozen=True)
class AntiOracle(_Decisive):
    """gamma off the decisive tokens of a task that knows them, 1 on them: credit that points away from what matters.

    Ten response tokens, the first decisive: 1 1.5 1.5 1.5 1.5 1.5 1.5 1.5 1.5 1.5.
    """

    name: ClassVar[str] = "anti_oracle"
    gamma: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("gamma", 0.0, 1e6)

    def weights(self, context: CreditContext) -> Tensor:
        return torch.where(self.decisive(context), 1.0, self.gamma)
