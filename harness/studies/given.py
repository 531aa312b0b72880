"""Rollouts that are there already: of recorded runs, of a script's record, and of other trainers' files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tasks
from harness.engines.base import FLOAT32
from harness.errors import ExperimentError
from harness.experiment import Evaluation, Experiment, PolicySettings, Training
from harness.policy import Policy
from harness.studies import dumps, rollouts
from harness.studies.rollouts import Batches
from leaderboards import Run, load
from leaderboards.declaration import Declaration


@dataclass(frozen=True)
class Given:
    """Rollouts with all that is known of how they were made.

    policy: the policy that their gradients are taken at. source: where they come from, in words. lacks: what is not
    known of them, one line each. values: whether their problems are known, so that continuations can be judged.
    """

    experiment: Experiment
    policy: Policy
    batches: Batches
    source: str
    lacks: tuple[str, ...] = ()
    values: bool = True


def read(
    place: Path,
    batches: int,
    policy: str | None,
    task: Mapping[str, Any] | None,
    load_named: Callable[[Experiment, str], Policy],
) -> Given:
    """The earliest rollouts in a folder of runs, or in a file or folder that TRL or verl wrote.

    policy, task: by whom they were written, and where their answers stand; of recorded runs both are known. load_named:
    loads the policy of that name for an experiment.

    Raises ExperimentError where one of the two is needed and missing, or known and given.
    """
    if dumps.is_dump(place):
        return _dumped(place, batches, policy, task, load_named)
    if not place.is_dir():
        raise ExperimentError(
            f"{place}: neither a folder of recorded runs nor a file of rollouts (.parquet of TRL, .jsonl of verl)"
        )
    runs = load(place)
    if "declaration" not in runs[0].manifest.experiment:
        return _of_script(place, runs, batches, policy, task, load_named)
    for name, value in (("policy", policy), ("task", task)):
        if value is not None:
            raise ExperimentError(
                f"--{name} goes with an experiment; recorded rollouts are taken as they are, at the initial policy"
            )
    experiment, rows = rollouts.stored(place, batches)
    return Given(experiment, load_named(experiment, experiment.policy.name), rows, f"recorded in {place}")


def _dumped(
    place: Path,
    batches: int,
    policy: str | None,
    task: Mapping[str, Any] | None,
    load_named: Callable[[Experiment, str], Policy],
) -> Given:
    missing = [name for name, value in (("policy", policy), ("task", task)) if value is None]
    if policy is None or task is None:
        raise ExperimentError(
            f"{place} does not say which {' and '.join(missing)} it is of: give --policy, which wrote the responses, "
            "and --task, which finds their answers (math for \\boxed{}, gsm8k for ####)"
        )
    first = _experiment(place.stem, policy, task, _training(1, 2, 2, 1))
    loaded = load_named(first, policy)
    dump = dumps.read(place, loaded, tasks.get(**task).extract, batches)
    longest = max(len(row["response_ids"]) for rows in dump.batches for row in rows)
    training = _training(len(dump.batches), len(dump.batches[0]) // dump.samples, dump.samples, longest)
    return Given(
        _experiment(place.stem, policy, task, training),
        loaded,
        dump.batches,
        f"written in {place}",
        (f"{place}: {dump.lacks}",),
        values=False,
    )


def _of_script(
    place: Path,
    runs: list[Run],
    batches: int,
    policy: str | None,
    task: Mapping[str, Any] | None,
    load_named: Callable[[Experiment, str], Policy],
) -> Given:
    table = runs[0].manifest.experiment
    named = task or table["task"]
    if named["name"] not in tasks.names():
        raise ExperimentError(
            f"{place}: its script found answers by {named['name']!r}, which is no registered task: say with --task "
            "where they stand (math for \\boxed{})"
        )
    steps = max(len(run.step_numbers("steps")) for run in runs)
    training = Training(**{**table["training"], "steps": max(steps, 1)})
    name = policy or table["policy"]["name"]
    experiment = _experiment(table["name"], name, named, training, table["policy"]["dtype"])
    experiment, rows = rollouts.stored(place, batches, experiment)
    known = rollouts.questions_of(experiment)
    values = all(row["problem_id"] in known for batch in rows for row in batch)
    return Given(
        experiment,
        load_named(experiment, name),
        rows,
        f"recorded in {place}",
        () if values else (f"{place}: its problems are none of task {named['name']}'s: no token values",),
        values,
    )


def _training(steps: int, prompts: int, samples: int, tokens: int) -> Training:
    # One group in a forward: the files may be of a large policy. Replay's gradient knows no learning rate.
    return Training(steps, prompts, samples, tokens, learning_rate=1e-6, micro_batch=samples)


def _experiment(
    name: str, policy: str, task: Mapping[str, Any], training: Training, dtype: str = FLOAT32
) -> Experiment:
    """An experiment for replay, which looks at policy, task and training and at nothing else."""
    return Experiment(
        name=name,
        title=name,
        seeds=1,
        declaration=Declaration("training_reward_area", 0.01),
        policy=PolicySettings(policy, dtype=dtype),
        task=task,
        training=training,
        evaluation=Evaluation(every=training.steps, problems=1),
        methods={"uniform": {"credit": "uniform"}},
    )
