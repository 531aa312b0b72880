"""One finished run reduced to numbers: its metrics, its curves, and what was asked at the last evaluation."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from leaderboards import estimates
from leaderboards.format import VERDICTS, RecordError
from leaderboards.records import Run

Problem = tuple[str, str]  # task, problem id


@dataclass(frozen=True)
class RunScores:
    """One finished run reduced to numbers."""

    run: Run = field(repr=False)
    #: Metric name to value; a metric that the run cannot give is absent.
    metrics: dict[str, float]
    #: Training step to mean reward; evaluation step to accuracy on the training task's own test problems
    #: (the mean over tasks where that task is not among those evaluated).
    rewards: dict[int, float] = field(repr=False)
    accuracies: dict[int, float] = field(repr=False)
    #: At the last evaluation: accuracy of each task, share of correct samples of each problem, verdicts by
    #: task.
    tasks: dict[str, float]
    problems: dict[Problem, float] = field(repr=False)
    verdicts: dict[str, dict[str, int]]
    #: Verdicts of all evaluations together.
    answers: dict[str, int] = field(repr=False)
    #: Means over training steps; `distance_from_start` is the last step's. `turn` where it was measured.
    training: dict[str, float]
    #: Seconds a step by phase, `seconds_total`, `tokens`.
    cost: dict[str, float]
    #: Hashes of the questions of the last evaluation, and of its sampling keys.
    questions: str = field(repr=False)
    keys: str = field(repr=False)

    def total(self, verdict: str) -> int:
        """How many samples of the last evaluation had this verdict, over all tasks."""
        return sum(counts[verdict] for counts in self.verdicts.values())


_TRAINING = (
    "entropy",
    "response_length",
    "duplicate_share",
    "signal_share",
    "mean_weight",
    "gradient_norm",
    "sampler_gap",
)
_SECONDS = tuple(f"seconds_{phase}" for phase in ("rollout", "reward", "credit", "update", "step"))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def score_run(run: Run) -> RunScores:
    """Reduce a finished run to numbers. RecordError that names the run for values that are not finite."""
    training = _training(run)
    evaluation = _evaluation(run)
    metrics = metrics_of(training["rewards"], evaluation["accuracies"])
    return RunScores(run=run, metrics=metrics, **training, **evaluation)


def _mean_known(values: Iterable[float]) -> float:
    """The mean of the values that are known; NaN where none is, as a script's sampler gap."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _training(run: Run) -> dict[str, Any]:
    """The fields of RunScores that come from the training steps."""
    columns = (
        "step",
        "reward",
        "abstained",
        "distance_from_start",
        "tokens",
        "turn",
        *_TRAINING,
        *_SECONDS,
        *VERDICTS,
    )
    steps = run.table("steps", columns).to_pydict()
    rewards = dict(zip(steps["step"], steps["reward"], strict=True))
    for step, reward in rewards.items():
        if not math.isfinite(reward):
            raise RecordError(
                f"{run.folder}: the reward of step {step} is {reward}; remove the run and repeat it"
            )
    if not rewards:
        return {"rewards": {}, "training": {}, "cost": {}}
    rollouts = max(1, sum(sum(steps[verdict]) for verdict in VERDICTS))
    training = {name: _mean_known(steps[name]) for name in _TRAINING}
    training["truncated"] = sum(steps["truncated"]) / rollouts
    training["timeout"] = sum(steps["timeout"])
    training["error"] = sum(steps["error"])
    training["abstained"] = sum(steps["abstained"]) / rollouts
    if turns := [value for value in steps["turn"] if value is not None]:
        training["turn"] = math.fsum(turns) / len(turns)
    training["distance_from_start"] = steps["distance_from_start"][-1]
    cost = {name: math.fsum(steps[name]) / len(rewards) for name in _SECONDS}
    cost["seconds_total"] = math.fsum(steps["seconds_step"])
    cost["tokens"] = sum(steps["tokens"])
    return {"rewards": rewards, "training": training, "cost": cost}


def _evaluation(run: Run) -> dict[str, Any]:
    """The fields of RunScores that come from the evaluation samples."""
    samples = run.table("samples", ["step", "task", "problem_id", "sample", "key", "verdict", "reward"])
    if pc.any(pc.is_nan(pc.fill_null(samples["reward"], 0.0))).as_py():
        raise RecordError(f"{run.folder}: an evaluation reward is NaN; remove the run and repeat it")
    unknown = sorted(set(samples["verdict"].unique().to_pylist()) - set(VERDICTS))
    if unknown:
        raise RecordError(
            f"{run.folder}: an evaluation has the verdict {unknown[0]!r}; there are {', '.join(VERDICTS)}"
        )
    by_step = _shares(samples)
    trained = run.manifest.task
    accuracies = {
        step: accuracy(dict.fromkeys(tasks, math.nan) | over_tasks(by_step[step]), trained)
        for step, tasks in _asked_tasks(samples).items()
    }
    if any(math.isnan(value) for value in accuracies.values()):
        raise RecordError(
            f"{run.folder}: no sample of an evaluation could be scored (verdict error): mend the task's verifier, "
            "remove the run and repeat it"
        )
    if not accuracies:
        empty: dict[str, Any] = {"accuracies": {}, "tasks": {}, "problems": {}, "verdicts": {}, "answers": {}}
        return {**empty, "questions": "", "keys": ""}
    last = max(accuracies)
    final = samples.filter(pc.equal(samples["step"], last)).to_pydict()
    counts = Counter(zip(final["task"], final["verdict"], strict=True))
    asked = list(zip(final["task"], final["problem_id"], final["sample"], final["key"], strict=True))
    return {
        "accuracies": accuracies,
        "tasks": over_tasks(by_step[last]),
        "problems": by_step[last],
        "verdicts": {
            name: {verdict: counts[name, verdict] for verdict in VERDICTS}
            for name in sorted({name for name, _ in counts})
        },
        "answers": Counter(samples["verdict"].to_pylist()),
        "questions": questions_of((task, problem, sample) for task, problem, sample, _ in asked),
        "keys": _digest(f"{task}\t{problem}\t{sample}\t{key}" for task, problem, sample, key in asked),
    }


def questions_of(asked: Iterable[tuple[str, str, int]]) -> str:
    """A hash of what was asked: task, problem and sample, in any order."""
    return _digest(f"{task}\t{problem}\t{sample}" for task, problem, sample in asked)


def metrics_of(rewards: Mapping[int, float], accuracies: Mapping[int, float]) -> dict[str, float]:
    """The metrics that these curves give: training step to mean reward, evaluation step to accuracy."""
    metrics = {}
    if rewards:
        metrics["training_reward_area"] = math.fsum(rewards.values()) / len(rewards)
    if accuracies:
        metrics["final_accuracy"] = accuracies[max(accuracies)]
    if len(accuracies) > 1:
        area = estimates.area_under_curve(list(accuracies), list(accuracies.values()))
        metrics["evaluation_area"] = area
    return metrics


def _asked_tasks(samples: pa.Table) -> dict[int, list[str]]:
    """Step to the tasks that were asked, those as well of which no sample could be judged.

    Without them an accuracy would silently be that of the other tasks, and be held against a baseline's of all.
    """
    asked = samples.group_by(["step", "task"]).aggregate([]).to_pydict()
    tasks: dict[int, list[str]] = {}
    for step, task in sorted(zip(asked["step"], asked["task"], strict=True)):
        tasks.setdefault(step, []).append(task)
    return tasks


def _shares(samples: pa.Table) -> dict[int, dict[Problem, float]]:
    """Step to problem to the share of correct samples; those that could not be judged are left out."""
    by_step: dict[int, list[tuple[Problem, float | None]]] = {}
    names = ("step", "task", "problem_id", "verdict")
    for step, task, problem, verdict in zip(*(samples[name].to_pylist() for name in names), strict=True):
        value = None if verdict == "error" else float(verdict == "correct")
        by_step.setdefault(step, []).append(((task, problem), value))
    return {
        step: dict(sorted(estimates.problem_means(values).items()))
        for step, values in sorted(by_step.items())
    }


def over_tasks(problems: Mapping[Problem, float]) -> dict[str, float]:
    """The mean over each task's problems."""
    means = estimates.problem_means((task, value) for (task, _), value in problems.items())
    return dict(sorted(means.items()))


def accuracy(tasks: Mapping[str, float], trained: str | None) -> float:
    """The accuracy on the task that was trained, which the declared metrics are about.

    The mean over tasks where the trained one is not among them; NaN without any.
    """
    if trained is not None and trained in tasks:
        return tasks[trained]
    return math.fsum(tasks.values()) / len(tasks) if tasks else math.nan
