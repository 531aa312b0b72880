"""FlowTracer's credit, by throughput on the attention graph (Dong et al., ICML 2026, arXiv 2606.10646), and controls.

flow is the method. bottom_flow turns its ranking round, shuffled_flow takes the ranking away and keeps the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowtracer.attention import Layers
from flowtracer.credit import draws
from flowtracer.credit.card import Card
from flowtracer.credit.graph import ANSWER_ROWS, rows_of_answer
from flowtracer.credit.levels import DEFAULTS, TwoLevel, pool_size, top
from flowtracer.credit.method import ABSTENTIONS, CreditContext, register
from flowtracer.errors import CreditError
from flowtracer.flow import solve_flow
from flowtracer.readings import DENSE_TOKENS, MeanMap, Reading

#: Where the defaults of flow's options come from, for its card and those of its controls.
_DEFAULTS = {
    **DEFAULTS,
    "layers": "published: the middle third, its tuned 15 to 25 of 36; ours: every layer of it",
    "source": "published in a figure: the whole prompt",
    "answer_rows": "ours: the answer's own tokens; unpublished",
    "answer_in_pool": "ours: true; unpublished",
    "first_token": "ours: kept; unpublished",
    "sign": "ours: both; unpublished",
    "abstain": "ours: the mean weight of the batch's other responses; unpublished",
    "shape": "published: two levels",
    "dense_tokens": "ours: memory only, it changes no weight",
}


@register
@dataclass(frozen=True)
class FlowCredit(TwoLevel):
    """The top 40% of response tokens by throughput get weight 1.5, the rest 1.

    Published (arXiv 2606.10646, sections 3 and 4): the graph, the conditioned flow, throughput, ratio 0.4, gamma 1.5,
    the middle layers. Unpublished, and therefore options whose default is our choice:

    layers: the traced layers, every one of the middle third (`attention.traced_layers`).
    source: "prompt" (the whole prompt, as in the paper's Figure 1) or "question" (the user's question text; the
        trainer then needs a `question` column).
    answer_rows: "answer" (the answer tokens themselves) or "emitting" (the positions one earlier, which emit them).
    answer_in_pool: whether answer tokens compete for the 40%.
    first_token: "keep" the attention sink, or "drop" it and renormalise the rows.
    sign: apply weights to "both" signs of the advantage, or only to "positive" or "negative" ones (others weigh 1, but
        for those that abstain, as for any other).
    abstain: what a response without an answer gets, "mean" (the mean weight of the batch's others) or "one".
    shape: "levels", or "continuous" (the paper's ablation, whose formula is unpublished): 1 + c tau, with c such that
        the response keeps the mean weight that the two levels would give it.
    dense_tokens: longer sequences never hold their attention map: its tiles are computed twice instead, and memory
        grows with T (`blocked.BlockedCapacity`). An option of ours, which changes no weight.

    Throughput counts what an answer token hands on to the sink; the paper's sum over later tokens may leave it out, and
    then the answer's tokens would have half. Tokens of throughput 0 never get the bonus; ties go to the earliest token.
    Abstains on a response without an answer, on one whose answer nothing of the source reaches, and on one whose flow
    passes no token that competes: an answer at the very start, with "emitting" or without the answer in the pool.

    Ten response tokens of throughput 0.2 0.9 0.1 0.9 0.3 0 0.4 0.8 2 0 (answer the ninth), 4 of them up-weighted:
    1 1.5 1 1.5 1 1 1 1.5 1.5 1.
    """

    name: ClassVar[str] = "flow"
    card: ClassVar[Card | None] = Card(
        rule="gamma for the 40% of the response with the highest throughput on the attention graph, 1 elsewhere",
        source="FlowTracer, arXiv 2606.10646, sections 3 and 4",
        url="https://arxiv.org/abs/2606.10646",
        fidelity="our reading of sections 3 and 4: no code is public, and ten settings are left open",
        defaults=_DEFAULTS,
        claims=(
            "average of five mathematics benchmarks, GRPO -> FlowTracer: Qwen3-4B at 1K 37.1 -> 39.4, at 8K "
            "44.8 -> 48.6; Qwen3-8B at 1K 39.4 -> 43.4, at 8K 50.3 -> 52.5",
            "Countdown (4B) 52.6 -> 63.2; CrossThink-QA (4B) 48.0 -> 50.2",
            "average of five other benchmarks, Minerva and GSM8K in place of AIME: Llama-3.2-3B 4.8 -> 5.9; "
            "Llama-3.1-8B 7.7 -> 9.1",
            "overhead of 2.2% of a step at 1K, 4.5% at 8K",
            "hiding 20% of the response by flow changes the answer in 45.9% of the cases, at random in 29.5%",
        ),
        estimand="a token's influence on the answer along all paths of attention, as a unit flow from the prompt",
        evidence="a table of training results, as far as told of one run a cell; an intervention on GSM8K",
        falsification=(
            "flow does not beat shuffled_flow, one_hop and constant where oracle_mask beats uniform; or hiding its "
            "tokens changes the answer no more often than hiding those of delimiters (flowtracer intervene)"
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"capacity"})

    layers: Layers = "middle"
    source: str = "prompt"
    answer_rows: str = "answer"
    answer_in_pool: bool = True
    first_token: str = "keep"
    sign: str = "both"
    abstain: str = "mean"
    shape: str = "levels"
    dense_tokens: int = DENSE_TOKENS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("source", ("prompt", "question"))
        self.check_choice("answer_rows", ANSWER_ROWS)
        self.check_choice("first_token", ("keep", "drop"))
        self.check_choice("sign", ("both", "positive", "negative"))
        self.check_choice("abstain", ABSTENTIONS)
        self.check_choice("shape", ("levels", "continuous"))
        self.check_range("dense_tokens", 0, float("inf"))

    def reading(self) -> Reading:
        return MeanMap(self.dense_tokens)

    def score(self, context: CreditContext) -> Tensor:
        """Throughput tau, (B, T) float32."""
        capacity = context.capacity
        assert capacity is not None
        answer = rows_of_answer(context.answer, self.answer_rows)
        if self.first_token == "drop":
            if not isinstance(capacity, Tensor):
                raise CreditError(
                    f"credit {self.name} with first_token='drop' changes the whole attention map, which is not held "
                    f"for {context.answer.shape[1]} tokens; dense_tokens sets how many are"
                )
            capacity = _without_first_token(capacity, context.prompt | context.response)
        return solve_flow(capacity, context.source, answer).throughput

    def weights(self, context: CreditContext) -> Tensor:
        throughput = context.scores
        assert throughput is not None
        response = context.response
        pool = response if self.answer_in_pool else response & ~context.answer
        context.abstain_where(~context.answer.any(1), "no answer")
        context.abstain_where(~(throughput > 0).any(1), "answer unreachable")
        context.abstain_where(~((throughput > 0) & pool).any(1), "no token before the answer")
        weights = self.up_weighted_by(throughput, pool, context)
        if self.sign != "both":
            if context.advantage is None:
                raise CreditError(
                    f"credit {self.name} with sign={self.sign!r} needs the advantages in its context"
                )
            applies = context.advantage > 0 if self.sign == "positive" else context.advantage < 0
            weights = torch.where(applies.unsqueeze(1), weights, 1.0)
        return weights

    def up_weighted_by(self, throughput: Tensor, pool: Tensor, context: CreditContext) -> Tensor:
        """Weights (B, T) by throughput (B, T) among the tokens of `pool` (B, T), before the sign is looked at."""
        chosen = top(throughput, pool & (throughput > 0), pool_size(context.response.sum(1), self.ratio))
        if self.shape == "levels":
            return self.up_weighted(chosen)
        bonus = (self.gamma - 1.0) * chosen.sum(1, keepdim=True)
        carried = throughput * pool
        return 1.0 + bonus * carried / carried.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

    def _abstention_weight(self, weights: Tensor, judged: Tensor, context: CreditContext) -> float:
        return 1.0 if self.abstain == "one" else super()._abstention_weight(weights, judged, context)


@register
@dataclass(frozen=True)
class BottomFlow(FlowCredit):
    """gamma for the 40% of lowest throughput, tokens of throughput 0 among them (ablation in arXiv 2606.10646).

    The options of flow. Ties go to the earliest token; it abstains where flow does.

    Ten response tokens of throughput 0.2 0.9 0.1 0.9 0.3 0 0.4 0.8 2 0: 1.5 1 1.5 1 1 1.5 1 1 1 1.5.
    """

    name: ClassVar[str] = "bottom_flow"
    card: ClassVar[Card | None] = Card(
        rule="gamma for the 40% of the response with the lowest throughput, 1 elsewhere",
        source="ablation in arXiv 2606.10646",
        url="https://arxiv.org/abs/2606.10646",
        fidelity="our reading of the ablation: flow's ranking turned round; no code is public",
        defaults=_DEFAULTS,
        claims=("worse than GRPO (arXiv 2606.10646)",),
        estimand="the loss that credit on the tokens of least flow costs",
        evidence="one printed ablation",
        falsification="it is no worse than random with the same levels: then the ranking by flow carries no sign",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape != "levels":
            raise CreditError("credit bottom_flow has two levels; shape='continuous' belongs to flow")

    def up_weighted_by(self, throughput: Tensor, pool: Tensor, context: CreditContext) -> Tensor:
        return self.up_weighted(top(-throughput, pool, pool_size(context.response.sum(1), self.ratio)))


@register
@dataclass(frozen=True)
class ShuffledFlow(FlowCredit):
    """flow's weights, permuted at random within each response: its levels, mean and abstentions without its ranking.

    The options of flow. Drawn from each response's own stream. Ten response tokens that flow gives
    1 1.5 1 1.5 1 1 1 1.5 1.5 1: these ten numbers in another order, such as 1.5 1 1 1 1.5 1 1.5 1 1 1.5.
    """

    name: ClassVar[str] = "shuffled_flow"
    card: ClassVar[Card | None] = Card(
        rule="flow's weights, permuted at random within each response",
        source="this project",
        fidelity="ours: flow without its ranking",
        defaults=_DEFAULTS,
        estimand="the share of flow's gain that levels, mean weight and abstentions explain",
        evidence="by construction it has flow's weights and none of its ranking",
        falsification="as a control it fails where flow abstains on nearly all responses: then both are the same",
    )

    def up_weighted_by(self, throughput: Tensor, pool: Tensor, context: CreditContext) -> Tensor:
        weights = super().up_weighted_by(throughput, pool, context)
        response = context.response
        drawn = draws.uniform(self.name, context).masked_fill(~response, float("inf"))
        in_order = response.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        at_random = drawn.argsort(dim=1, stable=True)
        return weights.scatter(1, at_random, weights.gather(1, in_order))


def _without_first_token(capacity: Tensor, token: Tensor) -> Tensor:
    """The map without each row's first real token, rows renormalised to the sum they had."""
    first = token.to(torch.uint8).argmax(1)
    rows = torch.arange(len(capacity), device=capacity.device)
    before = capacity.sum(-1, keepdim=True)
    capacity = capacity.clone()  # others may read the map, or read it again
    capacity[rows, :, first] = 0.0
    capacity[rows, first, :] = 0.0
    after = capacity.sum(-1, keepdim=True)
    return capacity * torch.where(after > 0, before / after.clamp(min=torch.finfo(capacity.dtype).tiny), 0.0)
