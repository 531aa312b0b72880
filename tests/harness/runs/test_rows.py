"""Protects the rows of a training: every column of the record has one place where it is filled in."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flowtracer.batches import RolloutBatch
from flowtracer.seam import TrainerSeam
from harness.runs.measures import measures
from harness.runs.rows import Drawn, rollout_rows, step_row
from leaderboards.format import TABLES


def batch() -> RolloutBatch:
    """Two rollouts of a group, of three tokens and of none."""
    return RolloutBatch(
        rows=[{}, {}],
        step=4,
        prompt_ids=[[1, 2], [1, 2]],
        response_ids=[[3, 4, 5], []],
        texts=["abc", ""],
        rewards=[1.0, None],
        advantages=torch.tensor([0.5, -0.5]),
        group=torch.tensor([7, 7]),
        weights=torch.tensor([[1.0, 1.5, 2.0], [1.0, 1.0, 1.0]]),
        trainer_logprobs=torch.tensor([[-0.5, -0.25, -0.125], [math.nan] * 3]),
        abstentions={1: "no answer"},
    )


def drawn(sample: int, **changes: Any) -> Drawn:
    values = {
        "sampler_logprobs": [-0.5, -0.25, -0.125],
        "verdict": "correct",
        "finish_reason": "stop",
        **changes,
    }
    return Drawn(problem_id="decision/train/3", sample=sample, key="00ff", **values)


def test_rows_of_rollouts_have_the_columns_of_the_record_without_pads() -> None:
    failed = drawn(1, sampler_logprobs=[], verdict="error", verdict_error="KeyError: 'x'")
    first, second = rollout_rows(batch(), 2, [drawn(0), failed])
    assert list(first) == list(second) == TABLES["rollouts"].names
    assert first["weights"] == [1.0, 1.5, 2.0] and first["trainer_logprobs"] == [-0.5, -0.25, -0.125]
    assert second["weights"] == second["trainer_logprobs"] == second["response_ids"] == []
    assert (first["step"], first["group"], first["sample"], first["advantage"]) == (2, 7, 0, 0.5)
    assert (second["reward"], second["abstained"], second["verdict_error"]) == (
        None,
        "no answer",
        "KeyError: 'x'",
    )
    assert (first["abstained"], first["verdict_error"]) == (None, None)


class Training(TrainerSeam):
    """A trainer without a training: what a step's row reads of one."""

    def __init__(self, entropies: list[float] | None) -> None:
        numbers: Any = {} if entropies is None else {"entropy": entropies}
        self._metrics = {"train": numbers}
        self.credit_seconds = 0.25
        self.turn = SimpleNamespace(mean=0.125)


@pytest.mark.parametrize("entropies", [None, []])
def test_rows_of_steps_have_the_columns_that_rollouts_do_not_give(entropies: list[float] | None) -> None:
    logs = {"loss": 0.5, "learning_rate": 1e-3}
    trainer: Any = Training([1.0, 2.0, 4.5])
    row = step_row(trainer, logs, 3, rollout_seconds=1.0, reward_seconds=0.5, seconds=4.0)
    given = measures(rollout_rows(batch(), 3, [drawn(0), drawn(1, sampler_logprobs=[])]))
    beside = {"distance_from_start", "parameters_hash"}
    assert not set(row) & set(given) and {*row, *given, *beside} == set(TABLES["steps"].names)
    assert row["entropy"] == 2.5 and row["turn"] == 0.125 and math.isnan(row["gradient_norm"])
    assert row["seconds_update"] == 4.0 - 1.0 - 0.5 - 0.25
    # A loss of TRL's that computes no entropy, and a log that has just been written.
    silent: Any = Training(entropies)
    assert math.isnan(step_row(silent, logs, 3, 1.0, 0.5, 4.0)["entropy"])
