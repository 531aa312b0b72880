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
from flowtracer.credit.card import Card
from flowtracer.credit.levels import DEFAULTS, TwoLevel, pool_size, top
from flowtracer.credit.method import CreditContext, CreditMethod, register


@register
@dataclass(frozen=True)
class Uniform(CreditMethod):
    """w = 1: every token of a response gets the same credit (GRPO, Shao et al. 2024, arXiv 2402.03300).

    Ten response tokens: 1 1 1 1 1 1 1 1 1 1.
    """

    name: ClassVar[str] = "uniform"
    card: ClassVar[Card | None] = Card(
        rule="w = 1",
        source="GRPO, arXiv 2402.03300",
        url="https://arxiv.org/abs/2402.03300",
        fidelity="identical to GRPOTrainer of huggingface/trl, bitwise: a test holds its steps to it",
        estimand="the policy gradient of the expected reward, every token of a response with the same advantage",
        evidence="the baseline of every paper on this page; tests hold its step to TRL's bitwise",
        falsification="a run of CreditGRPOTrainer with credit='uniform' that differs from TRL's in one bit",
    )

    def weights(self, context: CreditContext) -> Tensor:
        return torch.ones_like(context.response, dtype=torch.float32)


@register
@dataclass(frozen=True)
class Constant(CreditMethod):
    """w = weight everywhere: a control with the mean weight of a method and none of its contrast.

    Ten response tokens: 1.2 1.2 1.2 1.2 1.2 1.2 1.2 1.2 1.2 1.2.
    """

    name: ClassVar[str] = "constant"
    card: ClassVar[Card | None] = Card(
        rule="w = weight everywhere, 1.2",
        source="this project",
        fidelity="ours: a control for the mean weight",
        defaults={"weight": "the mean weight of FlowTracer's two levels: 1 + 0.4 x 0.5"},
        estimand="the share of a method's gain that larger steps explain",
        evidence="theory: Adam and norm clipping take most of a common factor out",
        falsification="as a control it fails where its mean weight is not that of the method beside it",
    )
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
    card: ClassVar[Card | None] = Card(
        rule="gamma for a random 40% of the response, 1 elsewhere",
        source="control in arXiv 2510.13554 and 2606.10646",
        url="https://arxiv.org/abs/2510.13554",
        fidelity="our reading of the random control of arXiv 2510.13554: drawn anew for each response, from its stream",
        defaults=DEFAULTS,
        claims=(
            "Qwen3-4B at 1K: 37.1 as GRPO's 37.1; Countdown 55.0 against 52.6; ZebraLogic 89.3 against 83.9 "
            "(arXiv 2510.13554v2, tables 3, 4 and 15)",
        ),
        estimand="the share of a method's gain that contrast without a ranking explains",
        evidence="one printed number a setting; on two of three tasks random is above GRPO",
        falsification="as a control it fails where it turns an update as far as no method beside it does: see the turn",
    )

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
    card: ClassVar[Card | None] = Card(
        rule="w = 1 on a random 20% of the response, 0 elsewhere",
        source="arXiv 2605.07660, uniformly random subsets of tokens",
        url="https://arxiv.org/abs/2605.07660",
        fidelity="our reading of the random subsets of arXiv 2605.07660: floor(ratio n) tokens of each response",
        defaults={"ratio": "published: 20% (arXiv 2605.07660)"},
        claims=(
            "a random 20% keeps much of the held-out performance of all tokens (arXiv 2605.07660, abstract)",
        ),
        estimand="the gradient over all tokens, from a fifth of them without bias up to a factor",
        evidence="training runs on Qwen3-8B-Base",
        falsification="it loses more against uniform than the masks that choose their tokens do",
    )
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
    card: ClassVar[Card | None] = Card(
        rule="gamma for the first 40% of the response, 1 elsewhere",
        source="this project",
        fidelity="ours: FlowTracer's levels by position",
        defaults=DEFAULTS,
        estimand="the share of a method's gain that a preference for early tokens explains",
        evidence="on a testbed whose deciding token stands first, position alone is an oracle",
        falsification="as a control it fails where decisive tokens stand everywhere alike; there it equals random",
    )

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
    card: ClassVar[Card | None] = Card(
        rule="gamma for the last 40% of the response, 1 elsewhere",
        source="this project",
        fidelity="ours: FlowTracer's levels by position",
        defaults=DEFAULTS,
        estimand="the share of a method's gain that nearness to the answer explains",
        evidence="attention falls with distance, so rankings from the answer favour what stands near it",
        falsification="as a control it fails where decisive tokens stand everywhere alike; there it equals random",
    )

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
    card: ClassVar[Card | None] = Card(
        rule="gamma on punctuation, symbols and line breaks, 1 elsewhere",
        source="this project, after the high-flow tokens that arXiv 2606.10646 shows",
        url="https://arxiv.org/abs/2606.10646",
        fidelity="ours: Unicode categories P and S; the sources name no list",
        defaults={"gamma": DEFAULTS["gamma"]},
        estimand="the share of a method's gain that punctuation explains",
        evidence="on SmolLM2-135M most tokens of high flow are full stops, line breaks, =, + and ####",
        falsification="as a control it fails where the method beside it up-weights few delimiters: see replay's shares",
    )
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
    sigmoid(3 sharpness x) over x from -1 to 1, rescaled to 0 and 1. Then w = floor + (1 - floor) shape. A response of
    one token gets 1.

    "linear" and "sigmoid" give what _compute_token_weights in grpo.py of the ATPO repository gives, if all of the
    response is reasoning: there the rise ends at `</think>`, here it runs over the whole response, so that nothing need
    be known of the answer. "exponential" is rescaled here only: without it a short response would have no contrast.
    floor 0.5 and sharpness 2 are the arguments' defaults in that code; its script trains with 0 and 3, and a decay of
    0.995.

    Ten response tokens, linear: 0.5 0.5556 0.6111 0.6667 0.7222 0.7778 0.8333 0.8889 0.9444 1.
    """

    name: ClassVar[str] = "position"
    card: ClassVar[Card | None] = Card(
        rule="w = floor + (1 - floor) shape(position): linear, exponential or sigmoid",
        source="controls in the trainer of ATPO, Credit Where Credit Is Due",
        fidelity="our reading of _compute_token_weights in grpo.py of the ATPO repository (no commit is known to us): "
        "linear and sigmoid give what it gives for a response that is all reasoning; exponential is rescaled here only",
        defaults={
            "shape": "ours: linear, the simplest of that trainer's three",
            "floor": "that code's default: 0.5; its script sets 0",
            "decay": "ours: 0.99; its script sets 0.995",
            "sharpness": "that code's default: 2; its script sets 3",
        },
        estimand="the share of answer_attention's gain that position explains",
        evidence="that trainer ran it beside its method and dropped the attention as noise on Qwen3-0.6B",
        falsification="as a control it fails where answer_attention's weights do not rise with the position",
    )
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
    card: ClassVar[Card | None] = Card(
        rule="gamma on the tokens that decide the answer, 1 elsewhere",
        source="this project",
        fidelity="ours: a positive control at FlowTracer's strength",
        defaults={"gamma": DEFAULTS["gamma"]},
        estimand="the gain of perfect credit at a factor of 1.5",
        evidence="generated tasks whose decisive tokens are known by construction",
        falsification="it does not beat shuffled_oracle: then the testbed rewards contrast, not knowledge",
    )
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
    card: ClassVar[Card | None] = Card(
        rule="oracle's weights, permuted at random within each response",
        source="this project",
        fidelity="ours: a control of the positive control",
        defaults={"gamma": DEFAULTS["gamma"]},
        estimand="the share of oracle's gain that contrast without knowledge explains",
        evidence="by construction it has oracle's weights and none of its knowledge",
        falsification="as a control it fails where most tokens of a response are decisive",
    )

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
    card: ClassVar[Card | None] = Card(
        rule="w = 1 on the tokens that decide the answer, 0 elsewhere",
        source="this project",
        fidelity="ours: the positive control of a leaderboard",
        estimand="the gain of perfect credit: the gradient of the decisive tokens and of no other",
        evidence="on the embedded testbeds its gradient has the highest signal to noise; see replay",
        falsification="it does not beat uniform by the declared rule: then the comparison can tell nothing",
    )

    def weights(self, context: CreditContext) -> Tensor:
        return self.decisive(context).to(torch.float32)


@register
@dataclass(frozen=True)
class AntiOracle(_Decisive):
    """gamma off the decisive tokens of a task that knows them, 1 on them: credit that points away from what matters.

    Ten response tokens, the first decisive: 1 1.5 1.5 1.5 1.5 1.5 1.5 1.5 1.5 1.5.
    """

    name: ClassVar[str] = "anti_oracle"
    card: ClassVar[Card | None] = Card(
        rule="gamma off the tokens that decide the answer, 1 on them",
        source="this project",
        fidelity="ours: a negative control",
        defaults={"gamma": DEFAULTS["gamma"]},
        estimand="the loss that credit away from the decisive tokens costs",
        evidence="generated tasks whose decisive tokens are known by construction",
        falsification="it beats uniform by more than constant does: then a factor acts and no credit",
    )
    gamma: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("gamma", 0.0, 1e6)

    def weights(self, context: CreditContext) -> Tensor:
        return torch.where(self.decisive(context), 1.0, self.gamma)
