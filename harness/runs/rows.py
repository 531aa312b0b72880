"""Rows of the record that a training gives: those of its rollouts, and what is measured of a step beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowtracer import CreditGRPOTrainer
from flowtracer.batches import RolloutBatch


@dataclass(frozen=True)
class Drawn:
    """How a rollout was drawn and judged, which its batch does not know.

    sample: its number among those of its prompt. key: of its noise, "" where it has none. verdict_error: what a
    verifier raised instead of a verdict, in one line, or None. The others are columns of the record.
    """

    problem_id: str
    sample: int
    key: str
    finish_reason: str
    verdict: str
    sampler_logprobs: Sequence[float]
    verdict_error: str | None = None


def rollout_rows(batch: RolloutBatch, step: int, drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    """The rollouts of this process as rows of the table `rollouts`. drawn: of each row of the batch."""
    group, advantages = batch.group.tolist(), batch.advantages.tolist()
    weights, trainer_logprobs = batch.weights_of_tokens(), batch.trainer_logprobs.tolist()
    return [
        {
            "step": step,
            "problem_id": rollout.problem_id,
            "sample": rollout.sample,
            "group": group[row],
            "key": rollout.key,
            "prompt_ids": batch.prompt_ids[row],
            "response_ids": batch.response_ids[row],
            "text": batch.texts[row],
            "finish_reason": rollout.finish_reason,
            "verdict": rollout.verdict,
            "reward": batch.rewards[row],
            "advantage": advantages[row],
            "weights": weights[row],
            "sampler_logprobs": rollout.sampler_logprobs,
            "trainer_logprobs": trainer_logprobs[row][: len(batch.response_ids[row])],
            "abstained": batch.abstentions.get(row),
            "verdict_error": rollout.verdict_error,
        }
        for row, rollout in enumerate(drawn)
    ]


def step_row(
    trainer: CreditGRPOTrainer,
    logs: Mapping[str, float],
    step: int,
    rollout_seconds: float,
    reward_seconds: float,
    seconds: float,
) -> dict[str, Any]:
    """The columns of a row of the table `steps` that its rollouts do not give.

    logs: TRL's numbers of the step's last update, before it clears them. seconds: of the whole step.
    """
    return {
        "step": step,
        "loss": logs["loss"],
        "gradient_norm": logs.get("grad_norm", math.nan),
        "learning_rate": logs["learning_rate"],
        "entropy": trainer.mean_entropy,
        "turn": trainer.turn.mean if trainer.turn else None,
        "seconds_rollout": rollout_seconds,
        "seconds_reward": reward_seconds,
        "seconds_credit": trainer.credit_seconds,
        "seconds_update": seconds - rollout_seconds - reward_seconds - trainer.credit_seconds,
        "seconds_step": seconds,
    }
