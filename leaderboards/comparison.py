"""Comparisons: the methods of one experiment against its baseline, by the rule that was declared beforehand.

Every arm is compared with the baseline seed by seed: the paired t over training seeds decides,
Holm-adjusted over the declared arms (estimand "these problems, new training seeds"). Beside it stand the
interval for new problems too, the exact sign-flip test, and what more seeds would bring.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from leaderboards import estimates
from leaderboards.declaration import BASELINE, METRICS, Declaration
from leaderboards.estimates import Decision, Interval
from leaderboards.foreign import ForeignRun
from leaderboards.format import VERDICTS, RecordError
from leaderboards.names import hint
from leaderboards.notes import notes, nothing_learnt, run_set_hash, tier, weakened
from leaderboards.records import Run
from leaderboards.scores import RunScores, score_run
from leaderboards.sheets import p_value

#: Credit methods that know the decisive tokens: what perfect credit would gain.
ORACLES = ("oracle_mask", "oracle")


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
    #: The declared rule's word on this arm: "better", "cannot tell: about 3 more seeds", "baseline" ...
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
    #: By the paired t; None for fewer than two seeds, and where the e-process decides.
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
    """The check that this comparison can tell methods apart: credit on known decisive tokens beats the baseline."""

    outcome: Literal["sensitive", "not sensitive", "not tested"]
    arm: str | None
    text: str


@dataclass(frozen=True)
class Comparison:
    """All arms of one experiment against its baseline; `arms` are ranked by paired difference."""

    arms: tuple[Arm, ...]
    baseline: str
    declaration: Declaration
    experiment: dict[str, Any] = field(repr=False)
    experiment_hash: str
    #: sha256 over method, seed and content hashes of every run used.
    run_set_hash: str
    positive_control: PositiveControl
    tier: str
    #: Notes for a reader: unfinished and missing runs, mixed versions, timeouts.
    notes: tuple[str, ...]
    scores: dict[tuple[str, int], RunScores] = field(repr=False)

    @property
    def metric(self) -> str:
        """The declared metric."""
        return self.declaration.metric

    @property
    def smallest_difference(self) -> float:
        """The smallest difference that matters, as declared."""
        return self.declaration.smallest_difference

    @property
    def alpha(self) -> float:
        """The declared error rate over all arms: of any false better or worse, and again of any false no difference."""
        return self.declaration.alpha

    @property
    def foreign(self) -> bool:
        """True where the runs were made elsewhere: there are values, and no rollouts or samples."""
        return any(isinstance(score.run, ForeignRun) for score in self.scores.values())

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
        raise RecordError(f"no arm {label!r}; {hint(label, [arm.label for arm in self.arms])}")


# ------------------------------------------------------------------------------------- refusals


def experiments(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by experiment hash, in order of first appearance: each list can be compared by itself."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.manifest.experiment_hash, []).append(run)
    return groups


def _checked(runs: Sequence[Run], baseline: str) -> list[Run]:
    if not runs:
        raise RecordError("no runs to compare; give the folder of a sweep")
    groups = experiments(runs)
    if len(groups) > 1:
        named = ", ".join(f"{group[0].manifest.described} ({group[0].folder})" for group in groups.values())
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
        raise RecordError(f"no run of the baseline {baseline!r}; {hint(baseline, methods)}")
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
        these, those = (some.manifest.shared for some in (run, first))
        if these != those:
            differing = sorted(key for key in these.keys() | those.keys() if these.get(key) != those.get(key))
            raise RecordError(
                f"{run.folder}: under the same hash, its experiment is not that of {first.folder} "
                f"({', '.join(differing)}): one manifest was changed; restore it, or remove the run"
            )
        other = arms.setdefault(run.method, run)
        options, theirs = (some.manifest.options for some in (run, other))
        if options != theirs:
            raise RecordError(
                f"{run.folder}: {run.method} ran with {json.dumps(options)}, and in {other.folder} with "
                f"{json.dumps(theirs)}: two arms under one label; remove one of them"
            )


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
        for what, these, those in (
            ("training steps", score.rewards, first.rewards),
            ("evaluation steps", score.accuracies, first.accuracies),
        ):
            if list(these) != list(those):
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


def compare(runs: Sequence[Run], baseline: str = BASELINE) -> Comparison:
    """Compare all methods of one experiment with `baseline`, by its declaration.

    Only finished runs count; the others are named in `.notes`. Arms are paired over the seeds that both
    have, and never otherwise. Raises RecordError that names the runs for runs of different experiments, two
    runs of one method and seed, a missing baseline, values that are not finite, and evaluations that
    differ.
    """
    finished = _checked(runs, baseline)
    scored = [run.scores() if isinstance(run, ForeignRun) else score_run(run) for run in finished]
    first = finished[0].manifest
    declaration = first.declaration(finished[0].folder)
    scores = {(score.run.method, score.run.seed): score for score in scored}
    _check_alike(scored, declaration.metric)
    methods = _methods(finished)
    labels = sorted({run.method for run in finished})
    # The adjustment is over what was declared, not over what was run: leaving arms out must not sharpen a
    # test.
    count = max(len({*methods, *labels} - {baseline}), 1)
    differences = {
        label: _differences(scores, label, baseline, declaration.metric)
        for label in labels
        if label != baseline
    }
    decisions = estimates.decide(
        {label: list(values.values()) for label, values in differences.items()},
        declaration.smallest_difference,
        declaration.alpha,
        count,
        declaration.scale if declaration.sequential else None,
    )
    arms = []
    for label in labels:
        manifest = next(run.manifest for run in finished if run.method == label)
        arm = _describe(scores, label, declaration, manifest.credit_name)
        if label != baseline:
            arm = _against(arm, scores, baseline, differences[label], decisions[label], declaration, count)
        arms.append(arm)
    ordered = sorted(arms, key=lambda arm: _rank(arm, baseline))
    ranked = tuple(replace(arm, rank=rank) for rank, arm in enumerate(ordered, start=1))
    decided = [arm.label for arm in ranked if arm.decision and arm.decision.outcome in ("better", "worse")]
    learnt = nothing_learnt([scores[baseline, seed] for seed in _seeds(scores, baseline)], declaration)
    return Comparison(
        arms=ranked,
        baseline=baseline,
        declaration=declaration,
        # Arms that were added later stand in the later manifests only.
        experiment={**first.experiment, "methods": methods},
        experiment_hash=first.experiment_hash,
        run_set_hash=run_set_hash(finished),
        positive_control=_positive_control(
            ranked, baseline, methods, declaration, first.experiment.get("seeds")
        ),
        tier=tier(finished, scored),
        notes=(
            *notes(runs, finished, scores, methods, declaration),
            *weakened({label: list(differences[label].values()) for label in decided}, declaration),
            *learnt,
        ),
        scores=scores,
    )


def _differences(
    scores: Mapping[tuple[str, int], RunScores], label: str, baseline: str, metric: str
) -> dict[int, float]:
    """Arm minus baseline on every seed that both have."""
    return {
        seed: scores[label, seed].metrics[metric] - scores[baseline, seed].metrics[metric]
        for seed in _seeds(scores, label)
        if (baseline, seed) in scores
    }


def _least(name: str, of: str = "training") -> Callable[[Arm], float]:
    return lambda arm: getattr(arm, of).get(name, math.inf)


def _most(metric: str) -> Callable[[Arm], float]:
    return lambda arm: -arm.scores[metric].mean if metric in arm.scores else math.inf


#: The orders that arms can be sorted in: name to a key, of which the smallest comes first.
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
        raise RecordError(f"arms cannot be sorted by {sort!r}; {hint(sort, SORTS)}")
    shown = {comparison.arm(label).label for label in only} | {comparison.baseline}
    arms = [arm for arm in comparison.arms if not only or arm.label in shown]
    notes = comparison.notes
    if len(arms) < len(comparison.arms):
        notes += (f"{len(arms)} of {len(comparison.arms)} methods shown; p is adjusted over all of them",)
    return replace(comparison, arms=tuple(sorted(arms, key=SORTS[sort])), notes=notes)


def _methods(runs: Sequence[Run]) -> dict[str, Any]:
    """Every declared arm with its options: arms may have been added between runs, so all manifests count."""
    declared: dict[str, Any] = {}
    for run in runs:
        for label, options in run.manifest.methods.items():
            if label == run.method or label not in declared:
                declared[label] = options
    return declared


def _seeds(scores: Mapping[tuple[str, int], RunScores], label: str) -> list[int]:
    return sorted(seed for method, seed in scores if method == label)


def _rank(arm: Arm, baseline: str) -> tuple[float, bool, str]:
    difference = 0.0 if arm.label == baseline else arm.difference
    return (math.inf if difference is None else -difference, arm.label != baseline, arm.label)


def _mean_of(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each value over the runs that have it."""
    result = {}
    for name in dict.fromkeys(name for entry in entries for name in entry):
        values = [entry[name] for entry in entries if name in entry]
        result[name] = math.fsum(values) / len(values)
    return result


def _describe(
    scores: Mapping[tuple[str, int], RunScores], label: str, declaration: Declaration, credit: str
) -> Arm:
    seeds = _seeds(scores, label)
    scored = [scores[label, seed] for seed in seeds]
    metrics = {}
    for name in METRICS:
        if name in scored[0].metrics:
            values = {seed: score.metrics[name] for seed, score in zip(seeds, scored, strict=True)}
            numbers = list(values.values())
            metrics[name] = Score(
                values,
                math.fsum(numbers) / len(numbers),
                estimates.t_interval(numbers, 1 - declaration.alpha),
            )
    return Arm(
        label=label,
        credit=credit,
        seeds=tuple(seeds),
        scores=metrics,
        metric=declaration.metric,
        outcome="baseline",
        tasks=_mean_of([score.tasks for score in scored]),
        verdicts={
            task: {verdict: sum(score.verdicts[task][verdict] for score in scored) for verdict in VERDICTS}
            for task in scored[0].verdicts
        },
        training=_mean_of([score.training for score in scored]),
        cost=_mean_of([score.cost for score in scored]),
    )


def _against(
    arm: Arm,
    scores: Mapping[tuple[str, int], RunScores],
    baseline: str,
    differences: dict[int, float],
    decision: Decision,
    declaration: Declaration,
    count: int,
) -> Arm:
    values, alpha = list(differences.values()), declaration.alpha
    scale = declaration.scale if declaration.sequential else None
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
        "outcome": _outcome(decision, values, baseline, declaration),
        "sign_flip_p": estimates.sign_flip_p(values),
        "sign_flip_minimum": minimum,
        "sign_flip_reaches_alpha": minimum * count <= alpha,
        # That of the paired t, so none where the e-process decides.
        "smallest_detectable": None if scale else estimates.smallest_detectable(values, alpha / count),
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
    trained = scores[label, seeds[0]].run.manifest.task
    problems = set.intersection(*(set(table) for pair in tables for table in pair))
    tasks = {name for name, _ in problems}
    if trained in tasks:
        problems = {problem for problem in problems if problem[0] == trained}
    elif len(tasks) != 1:
        return None
    order = sorted(problems)
    return np.array([[arm[problem] - base[problem] for problem in order] for arm, base in tables])


def _outcome(
    decision: Decision, differences: Sequence[float], baseline: str, declaration: Declaration
) -> str:
    if decision.outcome in ("better", "worse"):
        return decision.outcome
    if decision.outcome == "no difference":
        return f"no difference larger than {declaration.smallest_difference:g}"
    if not differences:
        return f"cannot tell: no seed shared with {baseline}"
    if len(differences) == 1:
        return "cannot tell: one seed"
    needed = decision.seeds_needed
    if needed is None and declaration.sequential:
        return "cannot tell: evidence does not grow"
    if needed is None and not estimates.spread(differences) > 0:
        return f"cannot tell: the same difference on all {len(differences)} seeds"
    if needed is None:
        return f"cannot tell: more than {estimates.MOST_SEEDS} more seeds"
    return f"cannot tell: about {needed} more seed{'s' * (needed != 1)}"


# ------------------------------------------------------------------------------------- the positive control


def _positive_control(
    arms: Sequence[Arm],
    baseline: str,
    declared: Mapping[str, Any],
    declaration: Declaration,
    most: int | None,
) -> PositiveControl:
    """Any oracle that is better will do: Holm's correction counts them all. Else the one of highest rank is shown.

    Several kinds of oracle are there because a mask is the sharpest, and on some tasks it lets the format go.
    most: the declared number of seeds.
    """
    # An oracle with a learning rate of its own may be better by that rate, and would show nothing about credit.
    oracles = [
        arm
        for arm in arms
        if arm.credit in ORACLES and arm.label != baseline and _trained_alike(declared, arm.label, baseline)
    ]
    if not oracles:
        return PositiveControl("not tested", None, _no_oracle(arms, declared, baseline))
    judged = [arm for arm in oracles if len(arm.differences) > 1]
    if not judged:
        label = oracles[0].label
        return PositiveControl(
            "not tested", label, f"positive control not tested: {label} shares too few seeds"
        )
    for arm in judged:
        if _decided(arm) == "better":
            size = _size(arm, declaration)
            words = f" beats {baseline}: {size}" if declaration.sequential else f" beats {baseline} by {size}"
            return PositiveControl("sensitive", arm.label, f"positive control sensitive: {arm.label}{words}")
    best = judged[0]
    # A sweep that goes on has not failed yet.
    yet = declaration.sequential and _decided(best) == "cannot tell" and len(best.differences) < (most or 0)
    apart = [arm.label for arm in arms if _decided(arm) in ("better", "worse")]
    so = "a gain can go unseen" if apart else "cannot tell methods apart"
    size = _size(best, declaration, most if yet else None)
    return PositiveControl(
        "not sensitive",
        best.label,
        f"positive control NOT sensitive{' yet' * yet}, {so}: {best.label} minus {baseline} is {size}",
    )


def _decided(arm: Arm) -> str | None:
    return arm.decision.outcome if arm.decision else None


def _size(arm: Arm, declaration: Declaration, most: int | None = None) -> str:
    """The difference of an oracle as far as the deciding test goes with it, and p where the interval cannot say it.

    An interval beside 0 is of this arm by itself, while the outcome is of all arms; and under optional stopping it
    would claim too much.
    """
    size = f"{arm.difference:+.3f}"
    if declaration.sequential:
        size += f" over {len(arm.differences)}{f' of at most {most}' if most else ''} seeds"
    elif arm.interval_of_difference:
        size += " [{:+.3f}, {:+.3f}]".format(*arm.interval_of_difference)
    if arm.p_holm is not None and (declaration.sequential or _decided(arm) != "better"):
        size += f", p {p_value(arm.p_holm)} (Holm)"
    return size


def _trained_alike(declared: Mapping[str, Any], label: str, baseline: str) -> bool:
    arm, other = ((declared.get(name) or {}).get("training") or {} for name in (label, baseline))
    return bool(arm == other)


def _no_oracle(arms: Sequence[Arm], declared: Mapping[str, Any], baseline: str) -> str:
    there = {arm.label for arm in arms}
    waiting = [
        label
        for label, options in declared.items()
        if label not in there
        and options
        and options.get("credit", label) in ORACLES
        and _trained_alike(declared, label, baseline)
    ]
    if waiting:
        return f"positive control not tested: no run of {waiting[0]} is finished"
    return "positive control not tested: no arm knows the decisive tokens (oracle_mask or oracle)"
