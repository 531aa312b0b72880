"""Credit by how much the answer leans on each token: by its gradient (OAR-G) or by perturbation (OAR-P), 2601.07408."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowtracer.credit.card import Card
from flowtracer.credit.levels import DEFAULTS, TwoLevel, pool_size, top
from flowtracer.credit.method import CreditContext, CreditMethod, register


@register
@dataclass(frozen=True)
class Gradient(TwoLevel):
    """Ranked by |gradient . embedding| of the answer's log-probability at each token: one forward and one backward.

    The signal of OAR-G (arXiv 2601.07408), from the policy that wrote the response, before it is updated. The forward
    and the backward are extra: this method costs about one more training forward and backward, without parameter
    gradients. Frozen per rollout.

    shape: "levels", the top 40% get gamma as in FlowTracer (tokens of score 0 never do, ties go to the earliest), so
        that only the ranking differs; or "oar", the source's reshaping of the response tokens before the answer: s =
        the scores on the `scale`, rescaled to 0 and 1, threshold = its `quantile`; below, max(s / threshold, 0.1);
        from it on, 1 + beta (s - threshold) / (1 - threshold); then rescaled to mean 1. Tokens from the answer on
        weigh 1. quantile 0.5 is our choice, beta 1 that of the README below, which has 0.25 for the quantile.
    scale: of the shape "oar": "log", log(score + 1e-12), which tells small scores apart; or "log1p", log(1 + score), as
        in the authors' code.

    With "log1p" the reshaping is identical to OAR-main.py:207-236 of Valsure/Outcome-Grounded-Advantage-Reshaping at
    8dbc478 with sum_to_L, for the first response of a batch: later ones take the threshold before as their quantile
    there, which we take for a slip. The README of the same code at OAR in XINGYUN-AI-LAB/XINGYUN_LAB, f19fd22, states
    its defaults. The signal is our reading of the paper: that code takes the gradient at noisy embeddings, of the
    divergence of the answer's mean distribution by default; its "answer_joint" takes the mean log-probability of the
    answer's tokens, whose sum is taken here.

    Abstains on a response without an answer, on one whose answer leans on none of its tokens, and with the shape "oar"
    on one with nothing before the answer.

    Ten response tokens of score 0.1 0.4 0 0.3 0 0.1 0.2 0 0 0: 1.5 1.5 1 1.5 1 1 1.5 1 1 1.
    """

    name: ClassVar[str] = "gradient"
    card: ClassVar[Card | None] = Card(
        rule="gamma for the 40% of the response on which the answer's log-probability leans most, 1 elsewhere",
        source="OAR-G, arXiv 2601.07408",
        url="https://arxiv.org/abs/2601.07408",
        fidelity="our reading of the signal; the reshaping (shape oar, scale log1p) is identical to "
        "OAR-main.py:207-236 of Valsure/Outcome-Grounded-Advantage-Reshaping at 8dbc478",
        defaults={
            **DEFAULTS,
            "shape": "ours: FlowTracer's two levels, so that only the ranking differs",
            "scale": "ours: log(score + 1e-12); the authors' code has log1p",
            "quantile": "ours: 0.5; the README of its authors' laboratory says 0.25",
            "beta": "1, as the README of its authors' laboratory",
        },
        claims=("well above GRPO, near OAR-P, at negligible cost (arXiv 2601.07408, abstract)",),
        estimand="the change of the answer's log-probability under a small change of a token's embedding",
        evidence="training results on mathematics",
        falsification="its ranking does not predict which hidden tokens change the answer (flowtracer intervene)",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"saliency"})
    shape: str = "levels"
    scale: str = "log"
    quantile: float = 0.5
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("shape", ("levels", "oar"))
        self.check_choice("scale", ("log", "log1p"))
        self.check_range("quantile", 0.0, 1.0)
        self.check_range("beta", 0.0, 1e6)

    @property
    def usual_mean(self) -> float:
        return 1.0 if self.shape == "oar" else super().usual_mean

    def weights(self, context: CreditContext) -> Tensor:
        assert context.saliency is not None
        saliency, response = context.saliency.float(), context.response
        context.abstain_where(~context.answer.any(1), "no answer")
        context.abstain_where(~((saliency > 0) & response).any(1), "answer leans on no token")
        if self.shape == "levels":
            return self.up_weighted(
                top(saliency, response & (saliency > 0), pool_size(response.sum(1), self.ratio))
            )
        before = before_answer(context)
        logs = saliency.double().log1p() if self.scale == "log1p" else (saliency.double() + 1e-12).log()
        return reshaped(logs, before, self.quantile, self.beta)


def before_answer(context: CreditContext) -> Tensor:
    """The response tokens before the answer, (B, T) boolean; a response without any is an abstention."""
    before = context.response & (context.answer.cumsum(1) == 0)
    context.abstain_where(~before.any(1), "no token before the answer")
    return before


def reshaped(logs: Tensor, members: Tensor, quantile: float, beta: float) -> Tensor:
    """OAR's weights (B, T) float64 from the logs of scores: of mean 1 over each row's `members`, and 1 elsewhere.

    s = the logs rescaled to 0 and 1 over the row's members, threshold = their `quantile`; below, max(s / threshold,
    0.1); from it on, 1 + beta (s - threshold) / (1 - threshold); then divided by their mean.
    """
    weights = torch.ones_like(logs)
    for row in members.any(1).nonzero().flatten().tolist():
        values = logs[row][members[row]]
        low, high = values.min(), values.max()
        score = (values - low) / (high - low) if high > low else torch.full_like(values, 0.5)
        threshold = score.quantile(quantile)
        below = (score / threshold.clamp(min=1e-12)).clamp(min=0.1)
        above = 1.0 + beta * (score - threshold) / (1.0 - threshold).clamp(min=1e-12)
        shaped = torch.where(score < threshold, below, above)
        weights[row, members[row]] = shaped * len(shaped) / shaped.sum()
    return weights


@register
@dataclass(frozen=True)
class Perturbation(CreditMethod):
    """Weights by how far the answer's distribution moves when the pad token stands in a token's place (OAR-P).

    score = the Kullback-Leibler divergence KL(p || q) of the answer's distribution p from that, q, of the same text
    with the token replaced by the tokenizer's pad token; both are the softmax of the mean of the logits that the
    answer's tokens are drawn from, at temperature 1. For response tokens before the answer: s = log(1 + score) rescaled
    to 0 and 1, threshold = its `quantile`; below, max(s / threshold, 0.1); from it on,
    1 + beta (s - threshold) / (1 - threshold); then rescaled to mean 1. Tokens from the answer on weigh 1.

    The divergence and its reshaping are identical to OAR-main.py:1-47 and 207-240 of
    Valsure/Outcome-Grounded-Advantage-Reshaping at 8dbc478 with sum_to_L and pfinal_mode "last", its default, for an
    answer of one token: p is the distribution behind the last token before it. Of a longer answer "last" reads the
    first token only, and its mode "answer_mean" calls a function that is not published: ours is read off its name. One
    more thing differs: that code's loop overwrites the threshold's quantile with the threshold of the response before,
    which we take for a slip; here every response has the same quantile. There the reasoning, what concludes it and the
    answer are parts of a template; here everything before the verifier's span is reasoning. quantile 0.5 is our
    choice; the README of the same code at OAR in XINGYUN-AI-LAB/XINGYUN_LAB, f19fd22, has 0.25, beta 1 and the mode
    "last". Frozen per rollout.

    It costs one forward for each token before the answer: a tool for short responses and for studies.

    Abstains on a response without an answer, and on one with nothing before it.

    Ten response tokens, the answer the tenth, of s = 0 1 0 0.5 0 0.25 0.75 0 1 on the nine before it: the threshold is
    0.25, the raw weights 0.1 2 0.1 1.3333 0.1 1 1.6667 0.1 2, together 8.4; times 9/8.4:
    0.1071 2.1429 0.1071 1.4286 0.1071 1.0714 1.7857 0.1071 2.1429 1.
    """

    name: ClassVar[str] = "oar_perturb"
    card: ClassVar[Card | None] = Card(
        rule="w = the reshaped log(1 + KL) of the answer's distribution when the pad token replaces the token; mean 1",
        source="OAR-P, arXiv 2601.07408",
        url="https://arxiv.org/abs/2601.07408",
        fidelity="identical to OAR-main.py:1-47 and OAR-main.py:207-240 of "
        "Valsure/Outcome-Grounded-Advantage-Reshaping at 8dbc478 with pfinal_mode last and sum_to_L, for an answer of "
        "one token and the first response of a batch: later ones take the threshold before as their quantile there. Of "
        "longer answers ours takes the mean of the logits, which that code calls answer_mean and does not publish",
        defaults={
            "quantile": "ours: 0.5; the README of its authors' laboratory says 0.25",
            "beta": "1, as the README of its authors' laboratory",
        },
        claims=("the upper bound of the method, above OAR-G and GRPO (arXiv 2601.07408, abstract)",),
        estimand="the change of the answer's distribution when a token is taken away",
        evidence="training results on mathematics",
        falsification="its ranking does not predict which hidden tokens change the answer (flowtracer intervene)",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"divergence"})
    quantile: float = 0.5
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("quantile", 0.0, 1.0)
        self.check_range("beta", 0.0, 1e6)

    def weights(self, context: CreditContext) -> Tensor:
        assert context.divergence is not None
        context.abstain_where(~context.answer.any(1), "no answer")
        before = before_answer(context)
        # Rounding may take the divergence of nothing a little below 0.
        return reshaped(context.divergence.double().clamp(min=0.0).log1p(), before, self.quantile, self.beta)
