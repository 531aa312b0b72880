"""Credit from the attention map without FlowTracer's flow: what multi-hop and conditioning add, and three rivals.

one_hop is FlowTracer without the graph, raw_flow without the answer. attention_rollout mixes layers instead of walking
over positions; answer_attention looks at the last layer only; attention_entropy asks how widely a token looks back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowtracer.attention import Layers
from flowtracer.blocked import BlockedRollout
from flowtracer.credit.card import Card
from flowtracer.credit.levels import DEFAULTS, TwoLevel, pool_size, top
from flowtracer.credit.method import CreditContext, CreditMethod, register
from flowtracer.errors import CreditError
from flowtracer.flow import Capacity, forward_visits, full_float32, strips
from flowtracer.readings import Reading, Rollout

_MIDDLE = "FlowTracer's: every layer of the middle third"
#: Which rows of the attention map are the answer's: its tokens' own, or those of the positions that emit them.
ANSWER_ROWS = ("answer", "emitting")


def rows_of_answer(answer: Tensor, which: str) -> Tensor:
    """The rows to trace from, (B, T) bool, for the answer's tokens (B, T): one of ANSWER_ROWS."""
    if which == "answer":
        return answer
    rows = torch.zeros_like(answer)
    rows[:, :-1] = answer[:, 1:]
    return rows


@dataclass(frozen=True)
class _Ranked(TwoLevel):
    """gamma for the 40% of response tokens of highest score; those of score 0 never get it, ties go to the earliest."""

    #: Why a response whose tokens all have score 0 cannot be judged.
    silence: ClassVar[str] = "answer unreachable"

    def weights(self, context: CreditContext) -> Tensor:
        scores, response = context.scores, context.response
        assert scores is not None
        if bool((scores < 0).any()):
            raise CreditError(
                f"credit {self.name}: attention holds negative entries; probabilities are needed"
            )
        context.abstain_where(~((scores > 0) & response).any(1), self.silence)
        return self.up_weighted(top(scores, response & (scores > 0), pool_size(response.sum(1), self.ratio)))


@register
@dataclass(frozen=True)
class OneHop(_Ranked):
    """Ranked by the attention that a token gets from the answer tokens directly: FlowTracer without multi-hop.

    score(i) = sum over answer tokens a > i of W[a, i], with FlowTracer's capacity W of the traced `layers`; with
    answer_rows "emitting", over the positions that emit them, one earlier. A control for what the graph adds;
    published nowhere. Abstains on a response without an answer.

    Ten response tokens, the answer the tenth, whose row of W on them is 0.1 0.2 0 0.05 0.3 0 0.1 0 0.2 0.05 (the last
    is the diagonal and does not count): 4 up-weighted, of the two 0.1 the earlier: 1.5 1.5 1 1 1.5 1 1 1 1.5 1.
    """

    name: ClassVar[str] = "one_hop"
    card: ClassVar[Card | None] = Card(
        rule="gamma for the 40% of the response with the most attention from the answer's tokens, 1 elsewhere",
        source="this project",
        fidelity="ours: FlowTracer with one hop in place of all paths",
        defaults={**DEFAULTS, "layers": _MIDDLE, "answer_rows": "ours: as for flow"},
        estimand="the share of flow's gain that direct attention explains",
        evidence="by construction it has flow's map, levels and abstentions, without the graph",
        falsification="as a control it fails where its ranking and flow's are the same: see replay's overlaps",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"capacity"})
    layers: Layers = "middle"
    answer_rows: str = "answer"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("answer_rows", ANSWER_ROWS)

    def score(self, context: CreditContext) -> Tensor:
        assert context.capacity is not None
        return _from_answer(
            context.capacity, rows_of_answer(context.answer, self.answer_rows), diagonal=False
        )

    def weights(self, context: CreditContext) -> Tensor:
        context.abstain_where(~context.answer.any(1), "no answer")
        return super().weights(context)


@register
@dataclass(frozen=True)
class RawFlow(_Ranked):
    """Ranked by the flow that reaches a token from the source, with no regard to the answer: no h-transform.

    f(k) = source(k) + sum over i < k of W[k, i] f(i), a unit shared equally by the source tokens; W as in FlowTracer.
    A control for what conditioning on the answer adds; published nowhere. Abstains where nothing of the source
    reaches the response.

    One source token, then ten response tokens: the first attends to the source with 0.5, every later one to the one
    before it with 0.5. f = 0.5, 0.25, 0.125, ...: 1.5 1.5 1.5 1.5 1 1 1 1 1 1.
    """

    name: ClassVar[str] = "raw_flow"
    card: ClassVar[Card | None] = Card(
        rule="gamma for the 40% of the response with the most flow from the source, whatever the answer, 1 elsewhere",
        source="this project",
        fidelity="ours: FlowTracer without the h-transform",
        defaults={**DEFAULTS, "layers": _MIDDLE},
        estimand="the share of flow's gain that conditioning on the answer does not explain",
        evidence="by construction it has flow's map and levels, without the answer",
        falsification="as a control it fails where its ranking and flow's are the same: see replay's overlaps",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"capacity"})
    silence: ClassVar[str] = "response unreachable"
    layers: Layers = "middle"

    def score(self, context: CreditContext) -> Tensor:
        assert context.capacity is not None
        source = context.source.to(context.capacity.dtype)
        source = source / source.sum(1, keepdim=True).clamp(min=1.0)
        return forward_visits(context.capacity, source, torch.zeros_like(context.source))


@register
@dataclass(frozen=True)
class AttentionRollout(_Ranked):
    """Ranked by attention rollout from the answer (Abnar and Zuidema, 2020, arXiv 2005.00928).

    The rows of the answer tokens in the product over `layers` (all, as in the source) of (A + I) / 2, A the head-mean
    attention of a layer: compute_joint_attention of samiraabnar/attention_flow at 8044f53,
    attention_graph_util.py:104-119. The source has no rule for credit: ranking and levels are FlowTracer's. An answer
    token's own share is part of its score. Abstains on a response without an answer.

    Ten response tokens, the answer the tenth, one layer, whose answer row is 0.2 0.1 0 0.3 0 0 0.1 0 0 0.3: half of
    it, plus half at the tenth itself: 1.5 1.5 1 1.5 1 1 1 1 1 1.5.
    """

    name: ClassVar[str] = "attention_rollout"
    card: ClassVar[Card | None] = Card(
        rule="gamma for the 40% of the response with most of the answer's attention rollout, 1 elsewhere",
        source="Abnar and Zuidema, arXiv 2005.00928, section 3; no rule for credit there",
        url="https://arxiv.org/abs/2005.00928",
        fidelity="our reading of section 3; the rollout is that of attention_graph_util.py:104-119 of "
        "samiraabnar/attention_flow at 8044f53, ranking and levels are FlowTracer's",
        defaults={**DEFAULTS, "layers": "published: the product over all layers"},
        estimand="the share of the answer's representation that comes from a token, mixed over layers",
        evidence="correlation with ablation scores of a classifier; nothing about training",
        falsification="it does not beat one_hop with the same levels: then mixing over layers adds nothing",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"rollout"})
    layers: Layers = "all"

    def reading(self) -> Reading:
        return Rollout()

    def score(self, context: CreditContext) -> Tensor:
        assert context.rollout is not None
        if isinstance(context.rollout, BlockedRollout):
            return context.rollout.sum_of_rows(context.answer)
        return _from_answer(context.rollout, context.answer)

    def weights(self, context: CreditContext) -> Tensor:
        context.abstain_where(~context.answer.any(1), "no answer")
        return super().weights(context)


@register
@dataclass(frozen=True)
class AnswerAttention(CreditMethod):
    """Weights between `floor` and 1 by the last layer's attention from the answer to the reasoning before it (ATPO).

    "Credit Where Credit Is Due: Attention-weighted Token-level Credit Assignment in Policy Gradient" (ATPO): mean
    attention of the answer rows on a reasoning token; log(. + 1e-5); z-score over the response's reasoning tokens;
    sigmoid(sharpness z); rescaled to 0 and 1; w = floor + (1 - floor) of it. Tokens from the answer on weigh 1, equal
    attention gives the middle. Abstains on a response without an answer, and on one with nothing before it.

    For the same attention the weights are those of extract_attention_weights in grpo.py of the ATPO repository. That
    code takes what follows `</think>` for the answer, everything before it for reasoning, and reads a forward without
    the prompt; here the answer is the span that the verifier judges, behind its prompt. layers "last" is what its
    script trains with (the argument's default is the mean of the last 8). floor 0.5 and sharpness 2 are its arguments'
    defaults; its authors say that with such a floor accuracy held. Its script sets 0 and 3, and 1e-6 in the log.

    Ten response tokens, the answer the tenth, whose attention on the nine is 0.1, but 0.2 on the first and 0.05 on the
    second. In logs 0.693 above and below the rest, so z is 2, -2 and 0: 1 0.5 0.75 0.75 0.75 0.75 0.75 0.75 0.75 1.
    """

    name: ClassVar[str] = "answer_attention"
    card: ClassVar[Card | None] = Card(
        rule="w = floor + (1 - floor) of the rescaled sigmoid of the answer's log-attention, last layer",
        source="ATPO, Credit Where Credit Is Due: Attention-weighted Token-level Credit Assignment in Policy Gradient",
        fidelity="our reading of extract_attention_weights in grpo.py of the ATPO repository (no commit is known to "
        "us): the same weights for the same attention; there the answer is what follows </think>, the prompt unread",
        defaults={
            "layers": "that code's: the last, with which it trains",
            "floor": "that code's default: 0.5; its script sets 0",
            "sharpness": "that code's default: 2; its script sets 3",
        },
        claims=("its authors dropped the direction of attention as noise on Qwen3-0.6B",),
        estimand="how much the answer reads a token, in the last layer",
        evidence="runs of its authors on one small policy",
        falsification="it does not beat position with the same floor: then it is a ruler",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"capacity"})
    layers: Layers = "last"
    floor: float = 0.5
    sharpness: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("floor", 0.0, 1.0)
        self.check_range("sharpness", 0.01, 100.0)

    @property
    def usual_mean(self) -> float:
        return (1.0 + self.floor) / 2.0

    def score(self, context: CreditContext) -> Tensor:
        assert context.capacity is not None
        return _from_answer(context.capacity, context.answer) / context.answer.sum(1, keepdim=True).clamp(
            min=1
        )

    def weights(self, context: CreditContext) -> Tensor:
        scores, response, answer = context.scores, context.response, context.answer
        assert scores is not None
        reasoning = response & (answer.cumsum(1) == 0)
        context.abstain_where(~answer.any(1), "no answer")
        context.abstain_where(~reasoning.any(1), "no token before the answer")
        count = reasoning.sum(1, keepdim=True).clamp(min=1)
        logs = (scores.double() + 1e-5).log().masked_fill(~reasoning, 0.0)
        centred = (logs - logs.sum(1, keepdim=True) / count).masked_fill(~reasoning, 0.0)
        spread = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        flat = spread < 1e-9
        curve = torch.sigmoid(self.sharpness * centred / torch.where(flat, 1.0, spread))
        low = curve.masked_fill(~reasoning, 2.0).amin(1, keepdim=True)
        high = curve.masked_fill(~reasoning, -1.0).amax(1, keepdim=True)
        rise = torch.where(flat, 0.5, (curve - low) / torch.where(flat, 1.0, high - low))
        return torch.where(reasoning, self.floor + (1.0 - self.floor) * rise, 1.0)


@register
@dataclass(frozen=True)
class AttentionEntropy(CreditMethod):
    """Weights by how widely a token looks back: the entropy of its attention (arXiv 2605.07660).

    H(t) = -sum over s <= t of W[t, s] log W[t, s], over the log of the number of tokens that t sees: 0 for one token,
    1 for all alike. W is the mean over heads and the traced `layers`. Tokens of low entropy are the paper's anchors,
    which rely on few others and train stably, those of high entropy its explorers.
    favour: "low" or "high", which of the two weigh more.
    shape: "soft", w = 1 + beta (1 - 2 u), u the entropy rescaled to 0 and 1 over the response, or 1 - u for "high";
        all tokens of equal entropy weigh 1. Or "mask", w = 1 on the share `ratio` of the response with the lowest
        (highest) entropy and 0 elsewhere; ties go to the earliest token.
    beta 0.5 and ratio 0.2.

    Our reading, of the paper's abstract and a summary of its section on the diagnostic; no code is public. Published:
    the normalised entropy of an averaged attention distribution at a fixed layer, the subsets of 20%, and that a soft
    reweighting which changes during training gains 3 points on Qwen3-8B-Base. Ours: which layers (FlowTracer's middle
    third), the form of the soft weight, and that it stays the same throughout.

    Ten response tokens of entropy 0 0.5 1 0.25 0.75 0.5 0.5 0 1 0.5: 1.5 1 0.5 1.25 0.75 1 1 1.5 0.5 1; as a mask
    1 0 0 0 0 0 0 1 0 0.
    """

    name: ClassVar[str] = "attention_entropy"
    card: ClassVar[Card | None] = Card(
        rule="w = 1 + beta (1 - 2 u), u the entropy of the token's attention rescaled over the response",
        source="arXiv 2605.07660",
        url="https://arxiv.org/abs/2605.07660",
        fidelity="our reading of the abstract and a summary of the section on the diagnostic; no code is public",
        defaults={
            "layers": "ours: FlowTracer's middle third; there one fixed layer",
            "favour": "ours: low, the paper's anchors, which train stably",
            "shape": "ours: soft; there a soft weight that changes during training",
            "beta": "ours: 0.5",
            "ratio": "published: 20%",
        },
        claims=(
            "Qwen3-8B-Base 34.39 -> 37.40 held out, in the strongest setting (arXiv 2605.07660, abstract)",
        ),
        estimand="how stable the gradient of a token is, by how few others it relies on",
        evidence="gradient geometry and training results on one policy; controls for position and entropy",
        falsification="as a mask it does not beat random_mask with the same ratio, or it is position: see replay",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"capacity"})
    layers: Layers = "middle"
    favour: str = "low"
    shape: str = "soft"
    beta: float = 0.5
    ratio: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("favour", ("low", "high"))
        self.check_choice("shape", ("soft", "mask"))
        self.check_range("beta", 0.0, 1.0)
        self.check_range("ratio", 0.0, 1.0)

    @property
    def usual_mean(self) -> float:
        return 1.0 if self.shape == "soft" else self.ratio

    def score(self, context: CreditContext) -> Tensor:
        assert context.capacity is not None
        token = context.prompt | context.response
        entropy = torch.zeros(token.shape, dtype=torch.float32, device=token.device)
        for rows, strip in strips(context.capacity, context.response.any(0)):
            entropy[:, rows] = -torch.special.xlogy(strip, strip).sum(-1)
        # A token that sees itself only has nothing to choose from.
        seen = token.cumsum(1).clamp(min=2)
        return (entropy / seen.log()).masked_fill(~token, 0.0)

    def weights(self, context: CreditContext) -> Tensor:
        scores, response = context.scores, context.response
        assert scores is not None
        leaning = -scores if self.favour == "low" else scores
        if self.shape == "mask":
            return top(leaning, response, pool_size(response.sum(1), self.ratio)).to(torch.float32)
        low = leaning.masked_fill(~response, float("inf")).amin(1, keepdim=True)
        high = leaning.masked_fill(~response, float("-inf")).amax(1, keepdim=True)
        # Rounding must not be stretched to a contrast.
        flat = ~(high - low > 1e-5)
        share = torch.where(flat, 0.5, (leaning - low) / torch.where(flat, 1.0, high - low))
        return 1.0 + self.beta * (2.0 * share - 1.0)


def _from_answer(matrix: Capacity, answer: Tensor, diagonal: bool = True) -> Tensor:
    """Sum of the answer's rows, (B, T), from a map (B, T, T) that is 0 above the diagonal and on pads."""
    total = torch.zeros(answer.shape, dtype=matrix.dtype, device=answer.device)
    with full_float32():
        for rows, strip in strips(matrix, answer.any(0)):
            of_rows = answer[:, rows].to(strip.dtype).unsqueeze(1)
            total[:, : rows.stop] += torch.matmul(
                of_rows, strip if diagonal else strip.tril(rows.start - 1)
            ).squeeze(1)
    return total
