"""A generation batch of one process, from its rows to the credit of its tokens."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flowtracer import contexts
from flowtracer.contexts import Located
from flowtracer.credit import CreditContext
from flowtracer.credit.method import Credit

#: The share of a response's tokens whose share of the scores is shown: the top 10%.
TOP = 0.1


@dataclass
class Observed:
    """Sums over the responses of a generation batch, of one process or of all.

    tokens: response tokens in the loss. weight: their weights together. up_weighted: how many weigh more than 1.
    not_zero: how many have a weight that is not 0. responses: those
    with a token in the loss. answers: how many of them have an answer. scored, top: how many have scores, and the
    shares of their top 10% together. seconds: what credit took in each of the `processes` together. reasons:
    abstentions by reason.
    """

    tokens: int = 0
    weight: float = 0.0
    up_weighted: int = 0
    not_zero: int = 0
    responses: int = 0
    answers: int = 0
    scored: int = 0
    top: float = 0.0
    seconds: float = 0.0
    processes: int = 1
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def mean_weight(self) -> float:
        """The mean weight of a response token, 1 without any."""
        return self.weight / self.tokens if self.tokens else 1.0

    @property
    def is_silent(self) -> bool:
        """True if the method judged none of the responses."""
        return self.responses > 0 and self.reasons.total() == self.responses

    @property
    def trains_nothing(self) -> bool:
        """True if every token has the weight 0, so that the loss is 0 whatever the advantages are."""
        return self.tokens > 0 and self.not_zero == 0

    def metrics(self) -> dict[str, float]:
        """Numbers for trackers, by their names."""
        responses, tokens = max(self.responses, 1), max(self.tokens, 1)
        numbers = {
            "credit/mean_weight": self.mean_weight,
            "credit/up_weighted": self.up_weighted / tokens,
            "credit/abstained": self.reasons.total() / responses,
            "credit/answer_found": self.answers / responses,
            "credit/seconds": self.seconds / self.processes,
        }
        for reason, count in sorted(self.reasons.items()):
            numbers[f"credit/abstained/{reason.replace(' ', '_')}"] = count / responses
        if self.scored:
            numbers["credit/top_share"] = self.top / self.scored
        return numbers


def in_loss(output: dict[str, Any]) -> Tensor:
    """The response tokens that count in the loss, (B, C) boolean, of TRL's tensors of a generation batch."""
    mask = output["completion_mask"].bool()
    return mask & output["tool_mask"].bool() if "tool_mask" in output else mask


@dataclass
class RolloutBatch:
    """One generation batch of this process, row by row in the order in which it was generated.

    It is filled in stages. As it begins: rows, the data set's rows, one a rollout, with what a rollout function added;
    step, the optimizer steps before it; earlier, the generation batches before it that feed the same step. Generated:
    prompt_ids, response_ids, token ids without pads; texts, the content that the reward sees; masks, 1 for each token
    that the policy wrote, None where it wrote all; located, answer and decisive tokens; source, tokens of the question
    where the method asks for them; teacher_prompts, token ids, where the method has a teacher. Read in a forward over
    the whole batch: read, context fields of each part. Rewarded: all_rewards, of all processes, None where unscorable.
    Scored: rewards, of this process; advantages (B,); group (B,), counted over all processes; streams, the seed of each
    row's own random numbers; teacher_logprobs (B, C), where the method has a teacher; shown, what the table of logged
    completions has of every process's weights, filled when they are known. Judged: weights (B, C) over the padded
    response, of an additive method 1 + addend / A; addends (B, C) or None; in_loss (B, C), tokens in the loss;
    abstentions, row -> reason. Trained: trainer_logprobs (B, C), of the first training forward, NaN elsewhere.
    sampler_logprobs (B, C) or None, where TRL keeps none. clock: when it "began", was "generated" and was "rewarded",
    in seconds.
    """

    rows: list[dict[str, Any]]
    step: int
    earlier: int = 0
    prompt_ids: list[list[int]] = field(default_factory=list)
    response_ids: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    masks: list[Sequence[int] | None] = field(default_factory=list)
    located: list[Located] = field(default_factory=list)
    source: list[list[int]] | None = None
    teacher_prompts: list[list[int]] | None = None
    read: list[dict[str, Any]] = field(default_factory=list)
    all_rewards: list[float | None] = field(default_factory=list)
    rewards: list[float | None] = field(default_factory=list)
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))
    group: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    streams: list[int] = field(default_factory=list)
    teacher_logprobs: Tensor | None = None
    shown: list[list[float]] = field(default_factory=list)
    weights: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    addends: Tensor | None = None
    in_loss: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.bool))
    abstentions: dict[int, str] = field(default_factory=dict)
    trainer_logprobs: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    sampler_logprobs: Tensor | None = None
    clock: dict[str, float] = field(default_factory=lambda: {"began": time.perf_counter()})
    _judged: int = 0
    _top: dict[int, float] = field(default_factory=dict)

    def read_fields(self) -> dict[str, Any]:
        """All readings of the whole batch, by the names of context fields."""
        if not self.read:
            return {}
        return {name: torch.cat([part[name] for part in self.read]) for name in self.read[0]}

    def scored(self, output: dict[str, Any], process: int, group_size: int, seed: int) -> None:
        """Fills in what rewards and advantages bring. output: TRL's tensors of the batch."""
        first = process * len(self.rows)
        self.rewards = self.all_rewards[first : first + len(self.rows)]
        mask = output["completion_mask"]
        self.in_loss = in_loss(output)
        self.advantages = output["advantages"].clone()
        places = torch.arange(first, first + len(self.rows), device=mask.device)
        self.group = places // group_size
        # Groups are counted on over the batches of a step: each batch draws its own.
        before = self.earlier * (len(self.all_rewards) // group_size)
        self.streams = [
            contexts.stream(seed, self.step, before + place // group_size, place % group_size)
            for place in places.tolist()
        ]
        self.weights = torch.ones_like(mask, dtype=torch.float32)
        self.trainer_logprobs = torch.full_like(mask, float("nan"), dtype=torch.float32)
        self.sampler_logprobs = output.get("sampling_per_token_logps")

    def judged(self, members: Tensor, context: CreditContext, credit: Credit, length: int) -> Tensor:
        """Fills in the credit of the rows `members` (b,), and returns their weights (b, length)."""
        rows = members.tolist()
        if credit.addend is not None:
            if self.addends is None:
                self.addends = torch.zeros_like(self.weights)
            self.addends[members] = credit.addend[:, -length:]
        weights = credit.as_weights(self.advantages[members])[:, -length:]
        self.weights[members] = weights
        source = None if self.source is None else [self.source[row] for row in rows]
        named = contexts.named(credit.abstentions, [self.located[row] for row in rows], source)
        for row, reason in named.items():
            # A response that is masked out of the loss is nobody's to judge.
            if bool(self.in_loss[rows[row]].any()):
                self.abstentions[rows[row]] = reason
        if context.scores is not None:
            self._remember_top(rows, context.scores[:, -length:], context.response[:, -length:])
        self._judged += len(rows)
        return weights

    def _remember_top(self, rows: Sequence[int], scores: Tensor, response: Tensor) -> None:
        """Keeps the share of each response's scores on its top 10%, which is a flow's concentration."""
        positive = scores.double().clamp(min=0).masked_fill(~response, 0.0)
        largest = positive.sort(1, descending=True).values.cumsum(1)
        for row, count, sums in zip(rows, response.sum(1).tolist(), largest, strict=True):
            if count and float(sums[-1]) > 0:
                self._top[row] = float(sums[math.ceil(TOP * count) - 1] / sums[-1])

    @property
    def is_judged(self) -> bool:
        """True if every row has its credit."""
        return self._judged >= len(self.rows)

    def observed(self, answered: Sequence[bool], seconds: float) -> Observed:
        """Sums over this batch. answered: for each row, whether its text holds an answer. seconds: spent on credit."""
        inside = self.weights[self.in_loss]
        alive = self.in_loss.any(1).tolist()
        return Observed(
            tokens=len(inside),
            weight=float(inside.double().sum()),
            up_weighted=int((inside > 1).sum()),
            not_zero=int((inside != 0).sum()),
            responses=sum(alive),
            answers=sum(has and live for has, live in zip(answered, alive, strict=True)),
            scored=len(self._top),
            top=sum(self._top.values()),
            seconds=seconds,
            reasons=Counter(self.abstentions.values()),
        )

    def weights_of_tokens(self) -> list[list[float]]:
        """The weights of each response's tokens."""
        lengths = [len(ids) for ids in self.response_ids]
        return [row[:length] for row, length in zip(self.weights.tolist(), lengths, strict=True)]

    def remember_logprobs(self, members: Tensor, logprobs: Tensor) -> None:
        """Keeps the log-probabilities (b, length) of each rollout's first training forward, for records."""
        stored = self.trainer_logprobs
        fresh = stored[members].isnan().all(1)
        stored[members[fresh], : logprobs.shape[1]] = logprobs.detach()[fresh].to(stored.dtype)
