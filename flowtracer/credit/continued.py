"""Credit by further rollouts: what a part of a response changes in the mean reward of responses that go on from there.

The values are measured, not learned: K responses are sampled from each cut, by whoever trains (`values` of the
context). Each rule gives a segment between two cuts the change of the value over it, in units of the reward, in place
of the advantage: A' = V(end) - V(start), written as an addend A' - A.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowtracer.credit.card import Card
from flowtracer.credit.method import CreditContext, CreditMethod, register
from flowtracer.errors import CreditError


@dataclass(frozen=True)
class _Continued(CreditMethod):
    additive: ClassVar[bool] = True
    samples: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_count("samples", "continuations of each cut")

    def check_count(self, option: str, meaning: str) -> None:
        """Raises CreditError unless the option is a whole number of at least 1."""
        value: Any = getattr(self, option)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CreditError(
                f"credit {self.name}: {option} must be a whole number of {meaning}, 1 or more, not {value!r}"
            )

    @property
    def continuations(self) -> int:
        return self.samples

    @abstractmethod
    def cuts(self, context: CreditContext) -> Tensor:
        """The response tokens before which the value is measured, (B, T) boolean."""

    def paid(self, context: CreditContext) -> Tensor:
        """The response tokens that get the change of their segment, (B, T) boolean; the others get 0."""
        return context.response

    def weights(self, context: CreditContext) -> Tensor:
        assert context.values is not None and context.reward is not None and context.advantage is not None
        change = torch.zeros(context.response.shape, dtype=torch.float64, device=context.response.device)
        for row, cuts in enumerate(self.cuts(context) & context.response):
            places = cuts.nonzero().flatten().tolist()
            values = [float(context.values[row, place]) for place in places] + [float(context.reward[row])]
            if not all(map(math.isfinite, values)):
                context.abstain(row, "no value")
            elif places:
                change[row] = self._of_segments(places, values, len(cuts)).to(change)
        return torch.where(self.paid(context), change, 0.0) - context.advantage.double().unsqueeze(1)

    @staticmethod
    def _of_segments(places: list[int], values: list[float], width: int) -> Tensor:
        """The change of the value over each token's segment, (width,): 0 before the first of `places`.

        values: at each of the places, and at the end.
        """
        change = torch.zeros(width, dtype=torch.float64)
        for start, before, after in zip(places, values[:-1], values[1:], strict=True):
            change[start:] = after - before
        return change


@register
@dataclass(frozen=True)
class Vine(_Continued):
    """A step's change of the value of the text so far, by continuations from its start and its end (VinePPO).

    V(prefix) = the mean reward of `samples` responses that the policy goes on with from there (9, as published); the
    value of the whole response is its reward. Every token of a step gets A' = V(after the step) - V(before it).
    A step ends with a token whose text holds `boundary`, a line feed by default; or, with `every` above 0, after that
    many tokens.

    The change of the value is identical, for a reward at the end, to _compute_step_advantages of McGill-NLP/VinePPO at
    efe7228, src/treetune/episode_generators/math_episode_generator_with_mc_advantages.py:377-401. Ours: where steps end
    (there a splitter of mathematical solutions), no whitening of the changes over the batch, and TRL's loss in place of
    PPO's. Continuations cost many times the rollouts: compare it with `uniform` at as many sampled tokens.

    Abstains on a response without a reward, and where no continuation of a cut could be judged.

    Ten response tokens of a correct response (r = 1, A = 1), a line feed in the fourth and in the eighth; V = 0.5 at
    the start, 0.75 after the fourth, 0.25 after the eighth; as weights
    0.25 0.25 0.25 0.25 -0.5 -0.5 -0.5 -0.5 0.75 0.75.
    """

    name: ClassVar[str] = "vine"
    card: ClassVar[Card | None] = Card(
        rule="A' = V(after the step) - V(before it), V the mean reward of continuations; delta = A' - A",
        source="VinePPO, arXiv 2410.01679",
        url="https://arxiv.org/abs/2410.01679",
        fidelity="identical to src/treetune/episode_generators/math_episode_generator_with_mc_advantages.py:377-401 of "
        "McGill-NLP/VinePPO at efe7228; where steps end, no whitening and TRL's loss are ours",
        defaults={
            "samples": "published: 9",
            "boundary": "ours: a line is a step",
            "every": "ours: 0, steps end at the boundary",
        },
        claims=(
            "above PPO on MATH and GSM8K with up to 9 times fewer updates and up to 3 times less time "
            "(arXiv 2410.01679, abstract)",
        ),
        estimand="the advantage of a step under the policy that wrote it",
        evidence="training on MATH and GSM8K at 1.1B and 7B; value estimates held against many more continuations",
        falsification="uniform with as many sampled tokens learns as much (experiment `vine-spo`)",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"advantage", "pieces", "reward", "values"})
    boundary: str = "\n"
    every: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.boundary, str) or not self.boundary:
            raise CreditError(f"credit vine: boundary must be a text, not {self.boundary!r}")
        if self.every != 0:
            self.check_count("every", "tokens of a step")

    def cuts(self, context: CreditContext) -> Tensor:
        response = context.response
        number = response.cumsum(1) - 1
        if self.every:
            return response & (number % self.every == 0)
        assert context.pieces is not None
        ends = torch.tensor(
            [[self.boundary in piece for piece in row] for row in context.pieces], dtype=torch.bool
        )
        after = torch.zeros_like(response)
        after[:, 1:] = ends.to(response.device).view_as(response)[:, :-1] & response[:, :-1]
        return response & (after | (number == 0))


@register
@dataclass(frozen=True)
class Segments(_Continued):
    """A segment's change of the value, between cuts where the policy was unsure (SPO-chain, arXiv 2505.23564).

    Cuts stand before every `interval`-th response token whose probability is below `threshold`, from the first on.
    V(cut) = the mean reward of `samples` responses that the policy goes on with from there; the value of the whole
    response is its reward. Tokens of a segment get A' = V(its end) - V(its start) where their probability is at most
    `threshold`, and 0 elsewhere. threshold 0.9, interval 5 and samples 9.

    Identical to _compute_token_advantages and the cuts of AIFrameResearch/SPO at b9fc6a2,
    src/treetune/episode_generators/math_episode_generator_with_mc_advantages.py:396-440 and 927-929, with an interval
    that its configurations offer. Ours: no whitening of the changes over the batch; TRL's loss, divided by all tokens
    and not by those that are left.

    Abstains as vine does. A response that the policy was sure of throughout gets A' = 0 everywhere.

    Ten response tokens of a correct response (r = 1, A = 1), of probability 0.5, but 1 of the sixth and the eighth:
    cuts before the first and, the sixth of the unsure, the seventh; V = 0.5 and 0.25 there; as weights
    -0.25 -0.25 -0.25 -0.25 -0.25 0 0.75 0 0.75 0.75.
    """

    name: ClassVar[str] = "spo"
    card: ClassVar[Card | None] = Card(
        rule="A' = V(end of the segment) - V(its start) at unsure tokens, 0 at sure ones; delta = A' - A",
        source="SPO-chain, arXiv 2505.23564",
        url="https://arxiv.org/abs/2505.23564",
        fidelity="identical to src/treetune/episode_generators/math_episode_generator_with_mc_advantages.py:396-440 "
        "and 927-929 of AIFrameResearch/SPO at b9fc6a2; no whitening and TRL's loss are ours",
        defaults={
            "samples": "published: 9",
            "threshold": "published: 0.9",
            "interval": "one of those in its configurations, 1 to 100",
        },
        claims=("6 to 12 points above PPO and GRPO on GSM8K (arXiv 2505.23564, abstract)",),
        estimand="the advantage of a segment between two tokens at which the policy could have gone elsewhere",
        evidence="training on GSM8K and MATH at 1.1B and 1.5B",
        falsification="uniform with as many sampled tokens learns as much (experiment `vine-spo`)",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"advantage", "logprobs", "reward", "values"})
    threshold: float = 0.9
    interval: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("threshold", 0.0, 1.0)
        self.check_count("interval", "unsure tokens of a segment")

    def cuts(self, context: CreditContext) -> Tensor:
        assert context.logprobs is not None
        unsure = context.response & (context.logprobs.double().exp() < self.threshold)
        return unsure & ((unsure.cumsum(1) - 1) % self.interval == 0)

    def paid(self, context: CreditContext) -> Tensor:
        assert context.logprobs is not None
        return context.response & (context.logprobs.double().exp() <= self.threshold)
