"""What the runs of one experiment say about its methods, by the rule that the experiment declared beforehand.

Every arm is compared with the baseline seed by seed: the paired t over training seeds decides,
Holm-adjusted over the declared arms (estimand "these problems, new training seeds"). Beside it stand the
interval for new problems too, the exact sign-flip test, and what more seeds would bring.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leaderboards import estimates
from leaderboards.estimates import Decision, Interval
from leaderboards.records import VERDICTS, RecordError, Run

METRICS = ("training_reward_area", "evaluation_area", "final_accuracy")
#: Credit methods that know the decisive tokens, the sharper first: what perfect credit would gain.
ORACLES = ("oracle_mask", "oracle")
#: How a declaration of optional stopping begins; any other rule fixes the number of seeds beforehand.
SEQUENTIAL = "until decided"

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
    #: Means over training steps; `distance_from_start` is the last step's.
    training: dict[str, float]
    #: Seconds a step by phase, `seconds_total`, `tokens`.
    cost: dict[str, float]
    #: What was asked at the last evaluation, and with which sampling keys.
    questions: str = field(repr=False)
    keys: str = field(repr=False)

    def total(self, verdict: str) -> int:
        """How many samples of the last evaluation had this verdict, over all tasks."""
        return sum(counts[verdict] for counts in self.verdicts.values())


@dataclass(frozen=True)
class Score:
    """One metric of one arm: its value on each training seed, their mean and Student's interval."""

    values: dict[int, float]
    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class Arm:
    """One method. Differences are arm minus baseline on the same seed, of the declared metric."""

    label: str
    credit: str
    seeds: tuple[int, ...]
    scores: dict[str, Score]
    metric: str
    #: What the declared rule says of this arm, in words: "better", "cannot tell: about 3 more seeds", "baseline" ...
    outcome: str
    #: Place by difference among all arms of the comparison.
    rank: int = 0
    differences: dict[int, float] = field(default_factory=dict)
    difference: float | None = None
    interval_of_difference: Interval | None = None
    decision: Decision | None = None
    #: Exact sign-flip test: its p, the smallest p that this number of seeds can reach, and whether that,
    #: times the number of arms, is within alpha.
    sign_flip_p: float | None = None
    sign_flip_minimum: float = 1.0
    sign_flip_reaches_alpha: bool = False
    smallest_detectable: float | None = None
    #: The e-process after the last seed; None where the declaration fixes the number of seeds.
    e_value: float | None = None
    #: Final accuracy minus the baseline's with the interval for new seeds and new problems.
    accuracy_difference: float | None = None
    crossed_interval: Interval | None = None
    tasks: dict[str, float] = field(default_factory=dict)
    verdicts: dict[str, dict[str, int]] = field(default_factory=dict)
    training: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean of the declared metric over this arm's seeds."""
        return self.scores[self.metric].mean

    @property
    def interval(self) -> Interval | None:
        """Student's interval of that mean; None for one seed."""
        return self.scores[self.metric].interval

    @property
    def p(self) -> float | None:
        """p of the deciding test, not adjusted."""
        return self.decision.p if self.decision else None

    @property
    def p_holm(self) -> float | None:
        """p of the deciding test, Holm-adjusted over the declared arms."""
        return self.decision.p_holm if self.decision else None

    @property
    def seeds_needed(self) -> int | None:
        """About how many more seeds a decision takes; None where there is one, or the spread is unknown."""
        return self.decision.seeds_needed if self.decision else None


@dataclass(frozen=True)
class PositiveControl:
    """Whether this comparison can tell methods apart: whether known decisive tokens beat the baseline."""

    outcome: Literal["sensitive", "not sensitive", "not tested"]
    arm: str | None
    text: str


@dataclass(frozen=True)
class Comparison:
    """All arms of one experiment against its baseline; `arms` are ranked by paired difference."""

    arms: tuple[Arm, ...]
    baseline: str
    metric: str
    smallest_difference: float
    alpha: float
    sequential: bool
    declaration: dict[str, Any]
    experiment: dict[str, Any] = field(repr=False)
    experiment_hash: str
    #: sha256 over method, seed and content hashes of every run used.
    run_set_hash: str
    positive_control: PositiveControl
    tier: str
    #: What a reader must know: unfinished and missing runs, mixed versions, timeouts.
    notes: tuple[str, ...]
    scores: dict[tuple[str, int], RunScores] = field(repr=False)

    @property
    def undecided(self) -> tuple[str, ...]:
        """Arms that are not decided; declared ones of which nothing has run count among them."""
        decided = {arm.label for arm in self.arms if arm.decision and arm.decision.outcome != "cannot tell"}
        declared = [*self.experiment["methods"], *(arm.label for arm in self.arms)]
        return tuple(
            label for label in dict.fromkeys(declared) if label not in decided and label != self.baseline
        )

    def arm(self, label: str) -> Arm:
        """The arm of that label; RecordError for an unknown one."""
        for arm in self.arms:
            if arm.label == label:
                return arm
        raise RecordError(f"no arm {label!r}; there are {', '.join(arm.label for arm in self.arms)}")


# ------------------------------------------------------------------------------------- one run to numbers

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
    columns = (
        "step",
        "reward",
        "abstained",
        "distance_from_start",
        "tokens",
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
    metrics: dict[str, float] = {}
    training: dict[str, float] = {}
    cost: dict[str, float] = {}
    if rewards:
        metrics["training_reward_area"] = math.fsum(rewards.values()) / len(rewards)
        rollouts = max(1, sum(sum(steps[verdict]) for verdict in VERDICTS))
        training = {name: math.fsum(steps[name]) / len(rewards) for name in _TRAINING}
        training["truncated"] = sum(steps["truncated"]) / rollouts
        training["timeout"] = sum(steps["timeout"])
        training["error"] = sum(steps["error"])
        training["abstained"] = sum(steps["abstained"]) / rollouts
        training["distance_from_start"] = steps["distance_from_start"][-1]
        cost = {name: math.fsum(steps[name]) / len(rewards) for name in _SECONDS}
        cost["seconds_total"] = math.fsum(steps["seconds_step"])
        cost["tokens"] = sum(steps["tokens"])

    samples = run.table("samples", ["step", "task", "problem_id", "sample", "key", "verdict", "reward"])
    if pc.any(pc.is_nan(pc.fill_null(samples["reward"], 0.0))).as_py():
        raise RecordError(f"{run.folder}: an evaluation reward is NaN; remove the run and repeat it")
    unknown = sorted(set(samples["verdict"].unique().to_pylist()) - set(VERDICTS))
    if unknown:
        raise RecordError(
            f"{run.folder}: an evaluation has the verdict {unknown[0]!r}; there are {', '.join(VERDICTS)}"
        )
    by_step = _accuracies(samples)
    task = run.manifest["experiment"].get("task")
    own = task.get("name") if isinstance(task, dict) else None
    accuracies = {step: _accuracy(_over_tasks(problems), own) for step, problems in by_step.items()}
    if any(math.isnan(accuracy) for accuracy in accuracies.values()):
        raise RecordError(f"{run.folder}: no sample of an evaluation could be scored (verdict error)")
    problems: dict[Problem, float] = {}
    counts: Counter[tuple[str, str]] = Counter()
    questions = keys = ""
    if accuracies:
        last = max(accuracies)
        metrics["final_accuracy"] = accuracies[last]
        if len(accuracies) > 1:
            metrics["evaluation_area"] = estimates.area_under_curve(
                list(accuracies), list(accuracies.values())
            )
        problems = by_step[last]
        final = samples.filter(pc.equal(samples["step"], last)).to_pydict()
        counts.update(zip(final["task"], final["verdict"], strict=True))
        asked = list(zip(final["task"], final["problem_id"], final["sample"], final["key"], strict=True))
        questions = _digest(f"{task}\t{problem}\t{sample}" for task, problem, sample, _ in asked)
        keys = _digest(f"{task}\t{problem}\t{sample}\t{key}" for task, problem, sample, key in asked)
    asked_tasks = sorted({name for name, _ in counts})
    return RunScores(
        run=run,
        metrics=metrics,
        rewards=rewards,
        accuracies=accuracies,
        tasks=_over_tasks(problems),
        problems=problems,
        verdicts={name: {verdict: counts[name, verdict] for verdict in VERDICTS} for name in asked_tasks},
        training=training,
        cost=cost,
        questions=questions,
        keys=keys,
    )


def _accuracies(samples: pa.Table) -> dict[int, dict[Problem, float]]:
    """Step to problem to the share of correct samples; those that could not be judged are left out."""
    judged = samples.filter(pc.not_equal(samples["verdict"], "error"))
    correct = pc.equal(judged["verdict"], "correct").cast(pa.float64())
    judged = judged.append_column("correct", correct)
    means = judged.group_by(["step", "task", "problem_id"], use_threads=False).aggregate(
        [("correct", "mean")]
    )
    found: dict[int, dict[Problem, float]] = {step: {} for step in sorted(set(samples["step"].to_pylist()))}
    for row in sorted(means.to_pylist(), key=lambda row: (row["step"], row["task"], row["problem_id"])):
        found[row["step"]][row["task"], row["problem_id"]] = row["correct_mean"]
    return found


def _over_tasks(problems: Mapping[Problem, float]) -> dict[str, float]:
    by_task: dict[str, list[float]] = {}
    for (task, _), share in problems.items():
        by_task.setdefault(task, []).append(share)
    return {task: math.fsum(shares) / len(shares) for task, shares in sorted(by_task.items())}


def _accuracy(tasks: Mapping[str, float], own: str | None) -> float:
    """The declared metrics are about the task that was trained; further test sets are shown beside it."""
    if own is not None and own in tasks:
        return tasks[own]
    return math.fsum(tasks.values()) / len(tasks) if tasks else math.nan


# ------------------------------------------------------------------------------------- refusals


def experiments(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by experiment hash, in order of first appearance: each list can be compared by itself."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.manifest["experiment_hash"], []).append(run)
    return groups


def _checked(runs: Sequence[Run], baseline: str) -> list[Run]:
    if not runs:
        raise RecordError("no runs to compare; give the folder of a sweep")
    groups = experiments(runs)
    if len(groups) > 1:
        named = ", ".join(
            f"{group[0].manifest['experiment'].get('name', '?')} {key[:12]} ({group[0].folder})"
            for key, group in groups.items()
        )
        raise RecordError(
            f"runs of {len(groups)} experiments cannot be compared: {named}; give one sweep's folder"
        )
    seen: dict[tuple[str, int], Run] = {}
    for run in runs:
        other = seen.setdefault((run.method, run.seed), run)
        if other is not run:
            raise RecordError(
                f"two runs of {run.method} with seed {run.seed}: {other.folder} and {run.folder}; remove one"
            )
    methods = sorted({run.method for run in runs})
    if baseline not in methods:
        raise RecordError(f"no run of the baseline {baseline!r}; there are {', '.join(methods)}")
    finished = [run for run in runs if run.finished]
    if not any(run.method == baseline for run in finished):
        raise RecordError(
            f"no run of the baseline {baseline!r} is finished; run the same command again to go on"
        )
    _check_one_experiment(finished)
    return finished


def _check_one_experiment(runs: Sequence[Run]) -> None:
    """The hash leaves the arms out: runs of one label are one arm only if they had the same options."""
    first = runs[0]
    arms: dict[str, Run] = {}
    for run in runs:
        mine, its = (_without_arms(one.manifest["experiment"]) for one in (run, first))
        if mine != its:
            differing = sorted(key for key in mine.keys() | its.keys() if mine.get(key) != its.get(key))
            raise RecordError(
                f"{run.folder}: under the same hash, its experiment is not that of {first.folder} "
                f"({', '.join(differing)}): one manifest was changed; restore it, or remove the run"
            )
        other = arms.setdefault(run.method, run)
        options, theirs = (_options(one) for one in (run, other))
        if options != theirs:
            raise RecordError(
                f"{run.folder}: {run.method} ran with {json.dumps(options)}, and in {other.folder} with "
                f"{json.dumps(theirs)}: two arms under one label; remove one of them"
            )


def _without_arms(experiment: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in experiment.items() if key != "methods"}


def _options(run: Run) -> Any:
    methods = run.manifest["experiment"].get("methods")
    return methods.get(run.method) if isinstance(methods, dict) else None


def _declaration(run: Run) -> tuple[dict[str, Any], str, float, float]:
    declaration = run.manifest["experiment"].get("declaration")
    where = f"{run.folder / 'manifest.json'}: the declaration"
    if not isinstance(declaration, dict):
        raise RecordError(f"{where} is missing; only experiments with a declaration can be compared")
    metric = declaration.get("metric")
    if metric not in METRICS:
        raise RecordError(f"{where} has metric {metric!r}; it is one of {', '.join(METRICS)}")
    smallest, alpha = declaration.get("smallest_difference"), declaration.get("alpha")
    if not isinstance(smallest, int | float) or not 0 < smallest < math.inf:
        raise RecordError(f"{where} has smallest_difference {smallest!r}; it is a positive number")
    if not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise RecordError(f"{where} has alpha {alpha!r}; it lies between 0 and 1")
    return declaration, str(metric), float(smallest), float(alpha)


def _scale(run: Run, declaration: Mapping[str, Any]) -> float:
    scale = declaration.get("scale")
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise RecordError(
            f"{run.folder / 'manifest.json'}: the declaration stops when decided and has scale {scale!r}; "
            "it is a positive number"
        )
    return float(scale)


def _check_alike(scores: Sequence[RunScores], metric: str) -> None:
    first = scores[0]
    by_seed: dict[int, RunScores] = {}
    for score in scores:
        folder = score.run.folder
        if metric not in score.metrics:
            what = "steps" if metric == "training_reward_area" else "evaluations"
            raise RecordError(
                f"{folder}: has no {metric}: too few {what} were recorded; remove it and run it again"
            )
        for what, mine, its in (
            ("training steps", score.rewards, first.rewards),
            ("evaluation steps", score.accuracies, first.accuracies),
        ):
            if list(mine) != list(its):
                raise RecordError(
                    f"{folder}: its {what} are not those of {first.run.folder}; remove it and run it again"
                )
        twin = by_seed.setdefault(score.run.seed, score)
        for what, same, other in (
            ("problems", score.questions == first.questions, first),
            ("evaluation keys", score.keys == twin.keys, twin),
        ):
            if not same:
                raise RecordError(
                    f"{folder}: its {what} are not those of {other.run.folder}; they cannot be compared"
                )


# ------------------------------------------------------------------------------------- the comparison


def compare(runs: Sequence[Run], baseline: str = "uniform") -> Comparison:
    """Compare all methods of one experiment with `baseline`, by its declaration.

    Only finished runs count; the others are named in `.notes`. Arms are paired over the seeds that both
    have, and never otherwise. Raises RecordError that names the runs for runs of different experiments, two
    runs of one method and seed, a missing baseline, values that are not finite, and evaluations that
    differ.
    """
    finished = _checked(runs, baseline)
    declaration, metric, smallest, alpha = _declaration(finished[0])
    scores = {(run.method, run.seed): score_run(run) for run in finished}
    _check_alike(list(scores.values()), metric)
    methods = _methods(finished)
    # Arms that were added later stand in the later manifests only.
    experiment = {**finished[0].manifest["experiment"], "methods": methods}
    labels = sorted({run.method for run in finished})
    # The adjustment is over what was declared, not over what was run: leaving arms out must not sharpen a
    # test.
    count = max(len({*methods, *labels} - {baseline}), 1)
    sequential = str(declaration.get("stopping", "")).strip().lower().startswith(SEQUENTIAL)
    scale = _scale(finished[0], declaration) if sequential else None

    pairs = {
        label: [seed for seed in _seeds(scores, label) if (baseline, seed) in scores and label != baseline]
        for label in labels
    }
    differences = {
        label: {
            seed: scores[label, seed].metrics[metric] - scores[baseline, seed].metrics[metric]
            for seed in pairs[label]
        }
        for label in labels
        if label != baseline
    }
    decisions = estimates.decide(
        {label: list(values.values()) for label, values in differences.items()}, smallest, alpha, count, scale
    )
    arms = []
    for label in labels:
        credit = methods.get(label, {})
        arm = _describe(scores, label, metric, alpha, credit.get("credit", label) if credit else label)
        if label != baseline:
            arm = _against(
                arm, scores, baseline, differences[label], decisions[label], smallest, alpha, count, scale
            )
        arms.append(arm)
    ordered = sorted(arms, key=lambda arm: _rank(arm, baseline))
    ranked = tuple(replace(arm, rank=rank) for rank, arm in enumerate(ordered, start=1))
    return Comparison(
        arms=ranked,
        baseline=baseline,
        metric=metric,
        smallest_difference=smallest,
        alpha=alpha,
        sequential=sequential,
        declaration=declaration,
        experiment=experiment,
        experiment_hash=finished[0].manifest["experiment_hash"],
        run_set_hash=_run_set_hash(finished),
        positive_control=_positive_control(ranked, baseline, methods),
        tier=_tier(finished, list(scores.values())),
        notes=(
            *_notes(runs, finished, scores, methods, sequential),
            *_nothing_learnt([scores[baseline, seed] for seed in _seeds(scores, baseline)], metric, alpha),
        ),
        scores=scores,
    )


def _least(name: str, of: str = "training") -> Callable[[Arm], float]:
    return lambda arm: getattr(arm, of).get(name, math.inf)


def _most(metric: str) -> Callable[[Arm], float]:
    return lambda arm: -arm.scores[metric].mean if metric in arm.scores else math.inf


#: What arms can be sorted by: name to a key, of which the smallest comes first.
SORTS: dict[str, Callable[[Arm], Any]] = {
    "difference": lambda arm: arm.rank,
    "method": lambda arm: arm.label,
    "p": lambda arm: math.inf if arm.p_holm is None else arm.p_holm,
    "accuracy": _most("final_accuracy"),
    "reward": _most("training_reward_area"),
    "length": _least("response_length"),
    "truncated": _least("truncated"),
    "seconds": _least("seconds_total", "cost"),
    "tokens": _least("tokens", "cost"),
}


def arranged(comparison: Comparison, sort: str = "difference", only: Sequence[str] = ()) -> Comparison:
    """The same comparison with its arms sorted, and `only` some of them beside the baseline.

    What was computed stays: ranks and adjusted p values are those among all arms. RecordError for names that are
    unknown.
    """
    if sort not in SORTS:
        raise RecordError(f"arms cannot be sorted by {sort!r}; by {', '.join(SORTS)}")
    kept = {comparison.arm(label).label for label in only} | {comparison.baseline}
    arms = [arm for arm in comparison.arms if not only or arm.label in kept]
    notes = comparison.notes
    if len(arms) < len(comparison.arms):
        notes += (f"{len(arms)} of {len(comparison.arms)} methods shown; p is adjusted over all of them",)
    return replace(comparison, arms=tuple(sorted(arms, key=SORTS[sort])), notes=notes)


def _methods(runs: Sequence[Run]) -> dict[str, Any]:
    """Every declared arm with its options: arms may have been added between runs, so all manifests count."""
    declared: dict[str, Any] = {}
    for run in runs:
        methods = run.manifest["experiment"].get("methods")
        if isinstance(methods, dict):
            for label, options in methods.items():
                if label == run.method or label not in declared:
                    declared[label] = options
    return declared


def _seeds(scores: Mapping[tuple[str, int], RunScores], label: str) -> list[int]:
    return sorted(seed for method, seed in scores if method == label)


def _rank(arm: Arm, baseline: str) -> tuple[float, bool, str]:
    difference = 0.0 if arm.label == baseline else arm.difference
    return (math.inf if difference is None else -difference, arm.label != baseline, arm.label)


def _mean_of(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: math.fsum(entry[name] for entry in entries) / len(entries) for name in entries[0]}


def _describe(
    scores: Mapping[tuple[str, int], RunScores], label: str, metric: str, alpha: float, credit: str
) -> Arm:
    seeds = _seeds(scores, label)
    mine = [scores[label, seed] for seed in seeds]
    found = {}
    for name in METRICS:
        if name in mine[0].metrics:
            values = {seed: score.metrics[name] for seed, score in zip(seeds, mine, strict=True)}
            numbers = list(values.values())
            found[name] = Score(
                values, math.fsum(numbers) / len(numbers), estimates.t_interval(numbers, 1 - alpha)
            )
    return Arm(
        label=label,
        credit=credit,
        seeds=tuple(seeds),
        scores=found,
        metric=metric,
        outcome="baseline",
        tasks=_mean_of([score.tasks for score in mine]),
        verdicts={
            task: {verdict: sum(score.verdicts[task][verdict] for score in mine) for verdict in VERDICTS}
            for task in mine[0].verdicts
        },
        training=_mean_of([score.training for score in mine]),
        cost=_mean_of([score.cost for score in mine]),
    )


def _against(
    arm: Arm,
    scores: Mapping[tuple[str, int], RunScores],
    baseline: str,
    differences: dict[int, float],
    decision: Decision,
    smallest: float,
    alpha: float,
    count: int,
    scale: float | None,
) -> Arm:
    values = list(differences.values())
    accuracy, crossed = None, None
    if values and "final_accuracy" in arm.scores:
        cells = _cells(scores, arm.label, baseline, list(differences))
        accuracy = float(
            np.mean(
                [
                    scores[arm.label, seed].metrics["final_accuracy"]
                    - scores[baseline, seed].metrics["final_accuracy"]
                    for seed in differences
                ]
            )
        )
        if cells is not None:
            crossed = estimates.crossed_interval(cells, 1 - alpha)
    minimum = estimates.sign_flip_minimum(len(values))
    changes: dict[str, Any] = {
        "differences": differences,
        "difference": math.fsum(values) / len(values) if values else None,
        "interval_of_difference": estimates.t_interval(values, 1 - alpha) if values else None,
        "decision": decision,
        "outcome": _outcome(decision, values, baseline, smallest),
        "sign_flip_p": estimates.sign_flip_p(values),
        "sign_flip_minimum": minimum,
        "sign_flip_reaches_alpha": minimum * count <= alpha,
        "smallest_detectable": estimates.smallest_detectable(values, alpha / count) if values else None,
        "e_value": float(estimates.e_process(values, scale)[-1]) if scale and values else None,
        "accuracy_difference": accuracy,
        "crossed_interval": crossed,
    }
    return replace(arm, **changes)


def _cells(
    scores: Mapping[tuple[str, int], RunScores], label: str, baseline: str, seeds: Sequence[int]
) -> np.ndarray[Any, Any] | None:
    """Accuracy differences, seeds x problems, on the task of the metric; None where that is a mean over tasks."""
    tables = [(scores[label, seed].problems, scores[baseline, seed].problems) for seed in seeds]
    task = scores[label, seeds[0]].run.manifest["experiment"].get("task")
    own = task.get("name") if isinstance(task, dict) else None
    problems = set.intersection(*(set(table) for pair in tables for table in pair))
    tasks = {name for name, _ in problems}
    if own in tasks:
        problems = {problem for problem in problems if problem[0] == own}
    elif len(tasks) != 1:
        return None
    order = sorted(problems)
    return np.array([[mine[problem] - its[problem] for problem in order] for mine, its in tables])


def _outcome(decision: Decision, differences: Sequence[float], baseline: str, smallest: float) -> str:
    if decision.outcome in ("better", "worse"):
        return decision.outcome
    if decision.outcome == "no difference":
        return f"no difference larger than {smallest:g}"
    if not differences:
        return f"cannot tell: no seed shared with {baseline}"
    if len(differences) == 1:
        return "cannot tell: one seed"
    if not estimates.spread(differences) > 0:
        return f"cannot tell: the same difference on all {len(differences)} seeds"
    if decision.seeds_needed is None:
        return f"cannot tell: more than {estimates.MOST_SEEDS} more seeds"
    return f"cannot tell: about {decision.seeds_needed} more seed{'s' * (decision.seeds_needed != 1)}"


def _positive_control(arms: Sequence[Arm], baseline: str, declared: Mapping[str, Any]) -> PositiveControl:
    for oracle in ORACLES:
        for arm in arms:
            if arm.credit != oracle or arm.label == baseline:
                continue
            if arm.difference is None or len(arm.differences) < 2:
                return PositiveControl(
                    "not tested", arm.label, f"positive control not tested: {arm.label} shares too few seeds"
                )
            size = f"{arm.difference:+.3f}"
            if arm.interval_of_difference:
                size += " [{:+.3f}, {:+.3f}]".format(*arm.interval_of_difference)
            if arm.decision is not None and arm.decision.outcome == "better":
                return PositiveControl(
                    "sensitive",
                    arm.label,
                    f"positive control sensitive: {arm.label} beats {baseline} by {size}",
                )
            return PositiveControl(
                "not sensitive",
                arm.label,
                f"positive control NOT sensitive, cannot tell methods apart: {arm.label} minus {baseline} is {size}",
            )
    there = {arm.label for arm in arms}
    waiting = [
        label
        for label, options in declared.items()
        if label not in there and options and options.get("credit", label) in ORACLES
    ]
    if waiting:
        return PositiveControl(
            "not tested", None, f"positive control not tested: no run of {waiting[0]} is finished"
        )
    return PositiveControl(
        "not tested",
        None,
        "positive control not tested: no arm knows the decisive tokens (oracle_mask or oracle)",
    )


# ------------------------------------------------------------------------------------- provenance


def _run_set_hash(runs: Sequence[Run]) -> str:
    lines = []
    for run in sorted(runs, key=lambda run: (run.method, run.seed)):
        assert run.closing is not None
        hashes = run.closing["content_hash"]
        lines.append(" ".join([run.method, str(run.seed), *(hashes[name] for name in sorted(hashes))]))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _places(runs: Sequence[Run], key: str) -> list[Any]:
    found: list[Any] = []
    for run in runs:
        for place in (run.manifest, *run.manifest.get("resumed", ())):
            if place[key] not in found:
                found.append(place[key])
    return found


def _tier(runs: Sequence[Run], scores: Sequence[RunScores]) -> str:
    """The weakest tier of the runs; T2 where places are mixed, or a timeout depended on the machine."""
    claimed = [run.manifest["tier"] for run in runs]
    claimed += [run.closing["summary"].get("tier", "") for run in runs if run.closing is not None]
    tier = max(map(str, claimed))
    timeouts = sum(score.total("timeout") + score.training.get("timeout", 0) for score in scores)
    mixed = any(len(_places(runs, key)) > 1 for key in ("versions", "hardware"))
    return max(tier, "T2") if mixed or timeouts else tier


def _notes(
    runs: Sequence[Run],
    finished: Sequence[Run],
    scores: Mapping[tuple[str, int], RunScores],
    methods: Mapping[str, Any],
    sequential: bool,
) -> Iterable[str]:
    unfinished = [f"{run.method} seed {run.seed}" for run in runs if not run.finished]
    if unfinished:
        yield f"{len(unfinished)} unfinished, not counted: {_some(unfinished)}"
    absent = [label for label in methods if label not in {run.method for run in finished}]
    if absent:
        yield f"declared but without a finished run: {', '.join(absent)}"
    declared = finished[0].manifest["experiment"].get("seeds")
    if not sequential and isinstance(declared, int):
        counts = sorted(Counter(run.method for run in finished).values())
        if counts[0] < declared:
            span = f"{counts[0]} to {counts[-1]}" if counts[0] < counts[-1] else str(counts[0])
            yield (
                f"{span} of the {declared} declared seeds are run: an outcome before the last one is a look, not the "
                "declared test"
            )
    for key, what in (("versions", "sets of versions"), ("hardware", "machines"), ("git_commit", "commits")):
        places = _places(finished, key)
        if len(places) > 1:
            yield f"runs come from {len(places)} different {what}"
    for label, shares in _left_out(finished).items():
        if max(shares) > 0:
            mean, most = 100 * sum(shares) / len(shares), 100 * max(shares)
            yield (
                f"importance sampling left {mean:.1f}% of the rollouts of {label} out of the loss, {most:.1f}% at most "
                "in a run: engine and trainer gave them other probabilities"
            )
    for verdict, what in (("timeout", "timed out"), ("error", "could not be judged")):
        hit = [
            f"{label} seed {seed}"
            for (label, seed), score in sorted(scores.items())
            if score.total(verdict) or score.training.get(verdict)
        ]
        if hit:
            yield f"answers {what} in {len(hit)} runs: {_some(hit)}"


def _left_out(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Per arm, the share that each run lost to importance sampling; only of engines that give another probability."""
    found: dict[str, list[float]] = {}
    for run in runs:
        assert run.closing is not None
        if "left_out" in run.closing["summary"]:
            found.setdefault(run.method, []).append(float(run.closing["summary"]["left_out"]))
    return found


def _nothing_learnt(scores: Sequence[RunScores], metric: str, alpha: float) -> Iterable[str]:
    """A comparison by evaluations, in which the baseline cannot be told from its own start, tests no credit."""
    if metric == "training_reward_area" or any(len(score.accuracies) < 2 for score in scores):
        return
    gains = [
        score.accuracies[max(score.accuracies)] - score.accuracies[min(score.accuracies)] for score in scores
    ]
    interval = estimates.t_interval(gains, 1 - alpha)
    if interval is not None and interval[0] <= 0:
        yield (
            f"{scores[0].run.method} itself gains {math.fsum(gains) / len(gains):+.3f} "
            f"[{interval[0]:+.3f}, {interval[1]:+.3f}] over its start: credit has little to show where little is learnt"
        )


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
