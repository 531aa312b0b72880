"""The predecessor's three rules: preplan tokens, anchor tokens, and the two coupled (Li et al., arXiv 2510.13554).

All three read per-head vectors of the traced layers (`attention.HeadVectors`). "Local" is the mean over the 30% of
heads of smallest mean distance, "global" over the 30% of largest. Published: distances averaged over the response's
tokens, the 30%, the window of WAAD (10), that of FAI (10 to 50 tokens ahead; 100 in version 2), ratio 0.4, gamma 1.5,
five layers spread over the middle third. Version 1 weighs responses of advantage 0 or more only; version 2 both signs,
as here, and finds that better (`sign = "positive"` gives version 1). Unpublished, and our choice: heads are chosen for
each response anew, and ties go to the earlier head and token. Ours: every layer of the middle third, as FlowTracer
(`layers="middle/5"` takes five).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowtracer.attention import Layers
from flowtracer.credit.card import Card
from flowtracer.credit.levels import DEFAULTS, TwoLevel, pool_size, top
from flowtracer.credit.method import CreditContext, register
from flowtracer.errors import CreditError
from flowtracer.readings import HeadReading, HeadVectors, Reading

#: Where the defaults of the three methods come from, for their cards.
_DEFAULTS = {
    **DEFAULTS,
    "layers": "ours: FlowTracer's middle third, every layer; published: five layers spread over it",
    "heads": "published: the 30% of smallest or largest mean distance",
    "clip": "published: 10",
    "near": "published: 10",
    "far": "published: 50 in version 1; version 2 has 100, and 37.8 against 38.2 for it (Qwen3-4B at 1K)",
}

#: The ground of the three methods' numbers, for their cards.
_EVIDENCE = (
    "training results without a number of seeds; "
    "its curves are moving averages that only a better score moves (appendix A.2), so that they never fall"
)


@dataclass(frozen=True)
class _Rhythm(TwoLevel):
    needs: ClassVar[frozenset[str]] = frozenset({"head_vectors"})

    layers: Layers = "middle"
    heads: float = 0.3
    clip: int = 10
    near: int = 10
    far: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("heads", 0.0, 1.0)
        self.check_range("clip", 1, 1e6)
        self.check_range("near", 1, 1e6)
        self.check_range("far", self.near, 1e6)

    def reading(self) -> Reading:
        return HeadReading(clip=self.clip, near=self.near, far=self.far)

    def vectors(self, context: CreditContext) -> HeadVectors:
        vectors = context.head_vectors
        assert vectors is not None
        if not all(
            bool(part.isfinite().all()) for part in (vectors.reach, vectors.distance, vectors.influence)
        ):
            raise CreditError(
                f"credit {self.name}: attention holds NaN or infinite entries; does the forward give finite logits?"
            )
        return vectors

    def local_reach(self, context: CreditContext) -> Tensor:
        """WAAD, (B, T): the clipped mean distance that a token looks back, mean over the local heads."""
        vectors = self.vectors(context)
        return self._mean_of_heads(vectors.reach, -self._distances(vectors, context.response))

    def jump(self, context: CreditContext) -> Tensor:
        """|WAAD(t) - WAAD(t + 1)|, (B, T); 0 at the last response token, which has no successor."""
        reach, response = self.local_reach(context), context.response
        jump = torch.zeros_like(reach)
        jump[:, :-1] = (reach[:, :-1] - reach[:, 1:]).abs()
        followed = torch.zeros_like(response)
        followed[:, :-1] = response[:, :-1] & response[:, 1:]
        return jump.masked_fill(~followed, 0.0)

    def influence(self, context: CreditContext) -> Tensor:
        """FAI, (B, T): the mean attention that a token gets from those `near` to `far` after it, over global heads."""
        vectors = self.vectors(context)
        return self._mean_of_heads(vectors.influence, self._distances(vectors, context.response))

    @staticmethod
    def _distances(vectors: HeadVectors, response: Tensor) -> Tensor:
        inside = response.unsqueeze(1).to(vectors.distance.dtype)
        return (vectors.distance * inside).sum(2) / inside.sum(2).clamp(min=1.0)

    def _mean_of_heads(self, vectors: Tensor, order: Tensor) -> Tensor:
        """The mean (B, T) of the share `heads` of vectors (B, H, T) that is highest in `order` (B, H); at least one."""
        count = max(1, int(pool_size(torch.tensor(vectors.shape[1]), self.heads)))
        chosen = order.argsort(dim=1, descending=True, stable=True)[:, :count]
        return vectors.gather(1, chosen.unsqueeze(2).expand(-1, -1, vectors.shape[2])).mean(1)

    def anchors(self, influence: Tensor, context: CreditContext) -> Tensor:
        """The top share of the response by FAI, (B, T) boolean; tokens of FAI 0 are never anchors."""
        response = context.response
        return top(influence, response & (influence > 0), pool_size(response.sum(1), self.ratio))


@register
@dataclass(frozen=True)
class LocalChunk(_Rhythm):
    """gamma for the 40% of tokens with the largest jump |WAAD(t) - WAAD(t + 1)|: preplan tokens (arXiv 2510.13554).

    WAAD(t) = sum over s <= t of A[t, s] min(t - s, clip), A the mean over the local heads; see the file's docstring.
    The last token of a response has no jump. Ties go to the earliest token.

    Ten response tokens of WAAD 1 5 4 4 9 2 2 3 3 8, jumps 4 1 0 5 7 0 1 0 5 -: 1.5 1 1 1.5 1.5 1 1 1 1.5 1.
    """

    name: ClassVar[str] = "local_chunk"
    card: ClassVar[Card | None] = Card(
        rule="gamma for the 40% of the response with the largest jump of WAAD, 1 elsewhere",
        source="preplan tokens, arXiv 2510.13554",
        url="https://arxiv.org/abs/2510.13554",
        fidelity="our reading of section 5.2, equations 9, 14 and 15 of version 2; no code is public",
        defaults=_DEFAULTS,
        claims=(
            "average of five mathematics benchmarks, GRPO -> local chunks: Qwen3-4B at 1K 37.1 -> 38.6, at 8K "
            "44.8 -> 47.2; Qwen3-8B at 1K 39.4 -> 41.3 (arXiv 2510.13554v2, table 4)",
            "Countdown 52.6 -> 59.9; CrossThink-QA 48.0 -> 50.0; ZebraLogic 83.9 -> 91.4 (the same, tables 3 and 15)",
            "the 40% of smallest jumps: 39.4 -> 37.6 on Qwen3-8B (the same, table 5)",
            "the five numbers other than ZebraLogic's stand in arXiv 2606.10646 too, as its baseline Attention, beside "
            "50.3 -> 50.9 on Qwen3-8B at 8K",
        ),
        estimand="the tokens with which the policy looks back to plan a phrase",
        evidence=_EVIDENCE,
        falsification="it does not beat delimiters with the same gamma, for chunks begin where phrases end",
    )

    def score(self, context: CreditContext) -> Tensor:
        return self.jump(context)

    def weights(self, context: CreditContext) -> Tensor:
        assert context.scores is not None
        response = context.response
        return self.up_weighted(top(context.scores, response, pool_size(response.sum(1), self.ratio)))


@register
@dataclass(frozen=True)
class GlobalAnchor(_Rhythm):
    """gamma for the 40% of tokens with the highest FAI: anchor tokens (arXiv 2510.13554).

    FAI(s) = mean over t in [s + near, s + far] of A[t, s], A the mean over the global heads; see the file's docstring.
    Tokens of FAI 0, among them the last `near` ones, never get the bonus. Abstains on a response without any other.

    Ten response tokens of FAI 0.1 0.3 0.2 0.3 0 0.1 0.05 0 0 0, 4 up-weighted, of the two 0.1 the earlier:
    1.5 1.5 1.5 1.5 1 1 1 1 1 1.
    """

    name: ClassVar[str] = "global_anchor"
    card: ClassVar[Card | None] = Card(
        rule="gamma for the 40% of the response with the highest FAI, 1 elsewhere",
        source="anchor tokens, arXiv 2510.13554",
        url="https://arxiv.org/abs/2510.13554",
        fidelity="our reading of section 5.2, equations 10, 16 and 17 of version 2; no code is public",
        defaults=_DEFAULTS,
        claims=(
            "average of five mathematics benchmarks, GRPO -> anchors: Qwen3-4B at 1K 37.1 -> 38.2, at 8K 44.8 -> 47.1; "
            "Qwen3-8B at 1K 39.4 -> 42.1 (arXiv 2510.13554v2, table 4)",
            "Countdown 52.6 -> 60.4; CrossThink-QA 48.0 -> 49.6; ZebraLogic 83.9 -> 93.2 (the same, tables 3 and 15)",
            "the 40% of lowest FAI: 39.4 -> 33.1 on Qwen3-8B (the same, table 5)",
        ),
        estimand="a token's influence on what follows it, as the attention that it gets from there",
        evidence=_EVIDENCE,
        falsification="it does not beat first_tokens; or hiding its tokens changes the answer no more than others do",
    )

    def score(self, context: CreditContext) -> Tensor:
        return self.influence(context)

    def weights(self, context: CreditContext) -> Tensor:
        assert context.scores is not None
        anchors = self.anchors(context.scores, context)
        context.abstain_where(~((context.scores > 0) & context.response).any(1), "no token far enough ahead")
        return self.up_weighted(anchors)


@register
@dataclass(frozen=True)
class Coupled(_Rhythm):
    """Anchors keep gamma, but locally dominated ones share their bonus with a preplan token (arXiv 2510.13554).

    An anchor (top 40% by FAI) is locally dominated if its WAAD is at most the response's median and one of the `back`
    tokens before it has a jump above the response's median jump; then a share alpha of its bonus moves to the one of
    them with the largest jump (the earliest of equals). Equation 19 of version 2 gives a preplan token its share once,
    however many anchors it leads to; an anchor that is one too has its bonus and the share.
    Published: that equation and back <= 3. Unpublished, and our choice: alpha 0.5, the medians as thresholds (lower
    ones of even counts), and that the largest jump is the preplan token. Abstains where global_anchor does.

    Ten response tokens of FAI 0 0 0 0.4 0.3 0 0.2 0.1 0 0 and WAAD 1 9 2 1 8 8 8 8 8 8: the median of WAAD is 8, the
    jumps are 8 7 1 7 0 0 0 0 0 - (median 0). The anchors are the tokens 4, 5, 7 and 8. All have WAAD <= 8. Token 4
    looks at 1 to 3 and shares with 1; token 5 looks at 2 to 4, where 2 and 4 both jump by 7, and shares with 2; token
    7 looks at 4 to 6 and shares with 4; token 8 looks at 5 to 7, where nothing jumps, and keeps all:
    1.25 1.25 1 1.5 1.25 1 1.25 1.5 1 1.
    """

    name: ClassVar[str] = "coupled"
    card: ClassVar[Card | None] = Card(
        rule="gamma on anchors, of which dominated ones share their bonus with an earlier preplan token",
        source="arXiv 2510.13554",
        url="https://arxiv.org/abs/2510.13554",
        fidelity="our reading of section 5.2, equations 18 and 19 of version 2; share and thresholds are unpublished",
        defaults={
            **_DEFAULTS,
            "alpha": "ours: 0.5; unpublished",
            "back": "published: at most 3",
        },
        claims=(
            "average of five mathematics benchmarks, GRPO -> coupled: Qwen3-4B at 1K 37.1 -> 39.2, at 8K 44.8 -> 47.3; "
            "Qwen3-8B at 1K 39.4 -> 43.2 (arXiv 2510.13554v2, table 4)",
            "Countdown 52.6 -> 63.1; CrossThink-QA 48.0 -> 50.1; ZebraLogic 83.9 -> 93.5 (the same, tables 3 and 15)",
            "average of AMC23, MATH500, OlympiadBench, Minerva and GSM8K: Llama-3.2-3B 4.8 -> 5.7, Llama-3.1-8B "
            "7.7 -> 8.7 (the same, table 17)",
            "on positive advantages only 42.0, on negative ones only 40.8, on both 43.2 (Qwen3-8B, the same, table 7)",
        ),
        estimand="the influence of a plan and of the anchor that it leads to, as one unit",
        evidence=_EVIDENCE,
        falsification="it does not beat global_anchor: then moving the bonus adds nothing",
    )
    alpha: float = 0.5
    back: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("alpha", 0.0, 1.0)
        self.check_range("back", 1, 1000)

    def score(self, context: CreditContext) -> Tensor:
        """The share of the bonus at each token, (B, T): 1 on an anchor that keeps its own, up to 1 + alpha."""
        response, reach, jump = context.response, self.local_reach(context), self.jump(context)
        anchors = self.anchors(self.influence(context), context)
        near = reach <= _median(reach, response)
        large = (jump > _median(jump, response)) & response
        candidates = []
        for step in range(self.back, 0, -1):
            shifted = torch.full_like(jump, -1.0)
            shifted[:, step:] = jump.masked_fill(~large, -1.0)[:, :-step]
            candidates.append(shifted)
        stacked = torch.stack(candidates, dim=2)
        # argmax takes the first of equals, which is the earliest token.
        which = stacked.argmax(dim=2)
        gives = anchors & near & (stacked.amax(dim=2) >= 0)
        # Once, however many anchors a token leads to: a set of tokens, not a sum over anchors.
        receives = torch.zeros_like(gives)
        for step in range(1, self.back + 1):
            receives[:, :-step] |= (gives & (which == self.back - step))[:, step:]
        return anchors.float() + self.alpha * (receives.float() - gives.float())

    def weights(self, context: CreditContext) -> Tensor:
        assert context.scores is not None
        context.abstain_where(~((context.scores > 0) & context.response).any(1), "no token far enough ahead")
        return 1.0 + (self.gamma - 1.0) * context.scores


def _median(values: Tensor, members: Tensor) -> Tensor:
    """The lower median of each row's members, (B, 1); NaN for a row without."""
    return values.masked_fill(~members, float("nan")).nanmedian(dim=1, keepdim=True).values
