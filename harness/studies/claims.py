"""Published claims, and what recorded runs say about each.

A claim is settled only by the runs of the experiment that tests it, exactly as it is shipped: same policy, same
settings, by hash, and the same options of the arms that it is about, which the hash leaves out. Runs of anything else
that compares the same methods, a smaller policy first of all, are shown beside it as what they are.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness import experiment as experiments
from leaderboards import Comparison, Run, compare, estimates
from leaderboards import experiments as by_experiment
from leaderboards.declaration import BASELINE, METRICS
from leaderboards.estimates import Interval
from leaderboards.sheets import NOTHING, Sheet, level

FILE = Path(__file__).with_name("claims.toml")
KINDS = ("level", "difference", "ordering", "rate", "overhead")
REPRODUCED, SMALLER, NOT_REPRODUCED = "reproduced", "smaller than claimed", "not reproduced"
CONTRADICTED, CANNOT_TELL, NOT_RUN = "contradicted", "cannot tell", "not run"
STATUSES = (REPRODUCED, SMALLER, NOT_REPRODUCED, CONTRADICTED, CANNOT_TELL, NOT_RUN)
#: Half of the last printed digit, in percent: a printed 2.3 may stand for 2.25.
ROUNDING = 0.05


@dataclass(frozen=True)
class Claim:
    """One published number or order; see claims.toml, from which it comes."""

    id: str
    kind: str
    text: str
    #: As printed, in percent; None for an ordering.
    percent: float | None
    #: The experiment that tests it; None where none does.
    experiment: str | None
    #: The command whose counts it is about, where those are not training runs.
    command: str | None
    policy: str
    tasks: tuple[str, ...]
    source: str
    arm: str | None
    against: tuple[str, ...]
    more_than: str | None

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that it takes."""
        return (*((self.arm,) if self.arm else ()), *self.against)


@dataclass(frozen=True)
class Measured:
    """A mean over training seeds and its interval, in percent."""

    value: float
    interval: Interval | None
    seeds: int


@dataclass(frozen=True)
class Beside:
    """The same difference in runs that cannot settle the claim, of their own declared metric."""

    experiment: str
    measured: Measured


@dataclass(frozen=True)
class Finding:
    """The answer of the recorded runs to a claim. `reason`: why there is no more to say."""

    claim: Claim
    status: str
    measured: Measured | None = None
    reason: str = ""
    beside: tuple[Beside, ...] = ()


@cache
def load() -> tuple[Claim, ...]:
    """Every claim, in the order of the file."""
    return tuple(_read(tomllib.loads(FILE.read_text(encoding="utf-8"))))


def _read(table: Mapping[str, Any]) -> Iterator[Claim]:
    for group in table["group"]:
        for entry in group["claims"]:
            against = entry.get("against", [])
            against = tuple([against] if isinstance(against, str) else against)
            arm = entry.get("arm")
            yield Claim(
                id=entry["id"],
                kind=entry["kind"],
                text=entry.get("text") or " minus ".join([arm, *against]),
                percent=entry.get("percent"),
                experiment=group.get("experiment"),
                command=group.get("command"),
                policy=group["policy"],
                tasks=tuple(group["tasks"]),
                source=group["source"],
                arm=arm,
                against=against,
                more_than=entry.get("more_than"),
            )


# ------------------------------------------------------------------------------------- from runs to a status


def judge(claims: Iterable[Claim], runs: Sequence[Run]) -> list[Finding]:
    """The status of every claim, from recorded runs alone; runs may be of any number of experiments.

    Raises RecordError for runs that cannot be compared.
    """
    comparisons = _compared(runs)
    return [_judge(claim, comparisons) for claim in claims]


def _compared(runs: Sequence[Run]) -> list[Comparison]:
    return [
        compare(group, baseline=BASELINE)
        for group in by_experiment(runs).values()
        if any(run.finished and run.method == BASELINE for run in group)
        if "declaration" in group[0].manifest.experiment  # a script's run has none, and settles nothing
    ]


def _judge(claim: Claim, comparisons: Sequence[Comparison]) -> Finding:
    tested = {
        name: next((comparison for comparison in comparisons if _tests(name, comparison)), None)
        for name in (claim.experiment, claim.more_than)
        if name is not None
    }
    beside = tuple(
        Beside(str(comparison.experiment.get("name", "experiment")), measured)
        for comparison in comparisons
        if all(comparison is not other for other in tested.values())
        if (measured := _beside(claim, comparison)) is not None
    )
    if claim.experiment is None:
        how = f"counted by {claim.command}" if claim.command else "no experiment tests it"
        return Finding(claim, NOT_RUN, reason=how, beside=beside)
    for name, comparison in tested.items():
        if comparison is None:
            return Finding(claim, NOT_RUN, reason=f"flowtracer reproduce {name}", beside=beside)
        ran = {arm.label for arm in comparison.arms}
        absent = [label for label in claim.arms if label not in ran]
        if absent:
            reason = f"no finished run of {', '.join(absent)}"
            return Finding(claim, NOT_RUN, reason=reason, beside=beside)
        shipped = _shipped(name)["methods"]
        changed = [
            label for label in claim.arms if comparison.experiment["methods"].get(label) != shipped[label]
        ]
        if changed:
            reason = f"{', '.join(changed)} ran with other options than {name} declares"
            return Finding(claim, NOT_RUN, reason=reason, beside=beside)
    comparison, other = tested[claim.experiment], tested.get(claim.more_than or "")
    assert comparison is not None
    each = [_measured(values, comparison.alpha) for values in _values(claim, comparison, other)]
    if not each or any(estimate is None for estimate in each):
        return Finding(
            claim, NOT_RUN, reason=f"no evaluation on all of {', '.join(claim.tasks)}", beside=beside
        )
    negligible = 100 * comparison.smallest_difference
    verdicts = [(_status(claim, estimate, negligible), estimate) for estimate in each if estimate is not None]
    # What fails first speaks for an ordering of several.
    order = (CONTRADICTED, NOT_REPRODUCED, CANNOT_TELL, SMALLER, REPRODUCED)
    status, worst = min(verdicts, key=lambda pair: order.index(pair[0]))
    declared = comparison.experiment["seeds"]
    if worst.seeds < declared:  # a look, and not the declared test
        reason = f"{worst.seeds} of {declared} declared seeds"
        return Finding(claim, CANNOT_TELL, worst, reason, beside)
    return Finding(claim, status, worst, beside=beside)


@cache
def _hash(name: str) -> str:
    return experiments.load(name).hash


@cache
def _shipped(name: str) -> dict[str, Any]:
    return experiments.load(name).resolved()


def _tests(name: str, comparison: Comparison) -> bool:
    """True for runs of that experiment: a manifest must hold what its hash stands for."""
    recorded, shipped = comparison.experiment, _shipped(name)
    return comparison.experiment_hash == _hash(name) and {**recorded, "methods": {}} == {
        **shipped,
        "methods": {},
    }


def _status(claim: Claim, measured: Measured, negligible: float) -> str:
    """By the interval: does it exclude 0 in the claimed direction, and does it reach the claimed size?"""
    if measured.interval is None:
        return CANNOT_TELL
    low, high = measured.interval
    if claim.kind == "overhead":
        assert claim.percent is not None
        return REPRODUCED if low <= claim.percent + ROUNDING else CONTRADICTED  # to cost less is no failure
    if claim.percent == 0:  # claimed to change nothing
        if low > 0 or high < 0:
            return CONTRADICTED
        return REPRODUCED if -negligible < low and high < negligible else CANNOT_TELL
    # An ordering has no size: it fails where the difference, if any, is shown to be negligible.
    size = negligible if claim.percent is None else claim.percent
    if size < 0:
        low, high, size = -high, -low, -size
    reaches = high >= (size if claim.percent is None else size - ROUNDING)
    if high < 0:
        return CONTRADICTED
    if low > 0:
        return REPRODUCED if reaches or claim.kind == "ordering" else SMALLER
    return CANNOT_TELL if reaches else NOT_REPRODUCED


Values = dict[int, float]  # training seed to percent


def _values(claim: Claim, comparison: Comparison, other: Comparison | None) -> list[Values | None]:
    """Seed by seed what the claim is about, once for each arm that it is against; None where tasks are missing."""
    assert claim.arm is not None
    if claim.kind == "overhead":
        return [_overheads(comparison, claim.arm)]
    scores = _scores(comparison, claim.arm, claim.tasks)
    if claim.kind == "level":
        return [scores]
    measured = [_minus(scores, _scores(comparison, label, claim.tasks)) for label in claim.against]
    if other is None:
        return measured
    arms = [_scores(other, label, claim.tasks) for label in claim.arms]
    return [_minus(measured[0], _minus(arms[0], arms[1]))]


def _scores(comparison: Comparison, label: str, tasks: Sequence[str]) -> Values | None:
    """Final accuracy of each seed, the mean over `tasks`."""
    measured = {}
    for seed in comparison.arm(label).seeds:
        accuracies = comparison.scores[label, seed].tasks
        if not set(tasks) <= accuracies.keys():
            return None
        measured[seed] = 100 * math.fsum(accuracies[task] for task in tasks) / len(tasks)
    return measured


def _minus(first: Values | None, second: Values | None) -> Values | None:
    if first is None or second is None:
        return None
    return {seed: first[seed] - second[seed] for seed in first if seed in second}


def _overheads(comparison: Comparison, label: str) -> Values:
    """Seconds of credit against those of all else in a step: arms whose responses differ in length stay comparable."""
    measured = {}
    for seed in comparison.arm(label).seeds:
        cost = comparison.scores[label, seed].cost
        credit, whole = cost.get("seconds_credit", 0.0), cost.get("seconds_step", 0.0)
        if whole > credit:
            measured[seed] = 100 * credit / (whole - credit)
    return measured


def _measured(values: Values | None, alpha: float) -> Measured | None:
    if not values:
        return None
    numbers = list(values.values())
    return Measured(math.fsum(numbers) / len(numbers), estimates.t_interval(numbers, 1 - alpha), len(numbers))


def _beside(claim: Claim, comparison: Comparison) -> Measured | None:
    """The result of other runs with the same arms: the first arm that it is against, by their own declared metric."""
    labels = {arm.label for arm in comparison.arms}
    if claim.arm is None or claim.more_than or not set(claim.arms) <= labels:
        return None
    if claim.kind == "overhead":
        return _measured(_overheads(comparison, claim.arm), comparison.alpha)
    if not claim.against:
        return None  # the level of another policy on another task says nothing here
    arms = [comparison.arm(label).scores[comparison.metric].values for label in claim.arms]
    pairs = [_minus(arms[0], other) for other in arms[1:]]
    measured = [
        _measured({seed: 100 * value for seed, value in (pair or {}).items()}, comparison.alpha)
        for pair in pairs
    ]
    return min(
        (estimate for estimate in measured if estimate is not None),
        key=lambda estimate: estimate.value,
        default=None,
    )


# ------------------------------------------------------------------------------------- in words


def counts(findings: Sequence[Finding]) -> str:
    """How many claims have each status."""
    number = Counter(finding.status for finding in findings)
    parts = [f"{number[status]} {status}" for status in STATUSES if number[status]]
    return f"{len(findings)} published claims: {', '.join(parts)}"


def _shown(measured: Measured | None, sign: bool) -> str:
    return level(measured.value, measured.interval, 1, "+" if sign else "") if measured else NOTHING


def sheets(findings: Sequence[Finding]) -> list[Sheet]:
    """A table for each experiment that tests claims; then, by itself, what other runs say of the same methods.

    Numbers of another policy never stand in a row with a printed one: they would read as its measurement.
    """
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        place = finding.claim.experiment or finding.claim.command or "no experiment"
        groups.setdefault(f"{place}: {finding.claim.policy}", []).append(finding)
    tables = []
    for title, members in groups.items():
        rows = []
        for finding in members:
            claim = finding.claim
            signed = claim.kind in ("difference", "ordering")
            printed = NOTHING if claim.percent is None else f"{claim.percent:{'+' if signed else ''}.1f}"
            rows.append((claim.text, printed, _shown(finding.measured, signed), finding.status))
        sources = dict.fromkeys(finding.claim.source for finding in members)
        reasons = dict.fromkeys(finding.reason for finding in members if finding.reason)
        note = "; ".join(sources) + (f". Not judged: {'; '.join(reasons)}" if reasons else "") + "."
        columns = ("claim", "printed", "measured", "status")
        tables.append(Sheet(title, columns, tuple(rows), note, words=(0, 3)))
    others = _elsewhere(findings)
    return [*tables, *([others] if others else [])]


def _elsewhere(findings: Sequence[Finding]) -> Sheet | None:
    """The same comparisons in runs that settle no claim, one row each: what was compared, where, and the result."""
    rows: dict[tuple[str, str, str], None] = {}
    for finding in findings:
        claim = finding.claim
        signed = claim.kind in ("difference", "ordering")
        nearest = "the nearest of " * (len(claim.against) > 1) + ", ".join(claim.against)
        compared = f"{claim.arm} minus {nearest}" if signed else f"{claim.arm}, {claim.kind}"
        for other in finding.beside:
            row = (compared, other.experiment, _shown(other.measured, signed))
            rows[row] = None
    if not rows:
        return None
    note = (
        "Percent, or points of the metric that those runs declare. They measure another policy, on another task, and "
        "settle none of the claims above."
    )
    return Sheet(
        "The same methods elsewhere", ("methods", "runs", "measured"), tuple(rows), note, words=(0, 1)
    )


NOTE = (
    "Percent, differences in points, ± the declared interval over training seeds. uniform is GRPO. A claim is settled "
    "only by the experiment that tests it, on its policy; each is judged by itself, and printed numbers carry an error "
    "of their own that was not published. Printed scores seem to be the ends of curves that only a better score moves, "
    "and a final score lies below those. Other runs of the same methods have a table of their own."
)


def beside(runs: Sequence[Run]) -> Sheet | None:
    """The experiments of these runs that settle no claim."""
    tests = {_hash(claim.experiment) for claim in load() if claim.experiment}
    rows = []
    for key, group in by_experiment(runs).items():
        manifest = group[0].manifest
        if key not in tests:
            # Records of other programs need not say all that ours do.
            policy, declared = (manifest.experiment.get(table, {}) for table in ("policy", "declaration"))
            metric = METRICS.get(declared.get("metric"), "?")
            finished = len({run.seed for run in group if run.finished})
            rows.append((manifest.name, policy.get("name", "?"), manifest.task or "?", metric, str(finished)))
    if not rows:
        return None
    columns = ("beside", "policy", "task", "metric", "seeds")
    note = "They say what they say about their own policy and task, and nothing about the policies above."
    return Sheet("Runs that settle no claim", columns, tuple(rows), note, words=(0, 1, 2, 3))


def about(comparison: Comparison, runs: Sequence[Run]) -> list[Sheet]:
    """The tables of those claims of which these runs of one experiment, compared already, say anything."""
    comparisons = [comparison] if comparison.baseline == BASELINE else _compared(runs)
    every = (_judge(claim, comparisons) for claim in load())
    findings = [finding for finding in every if finding.status != NOT_RUN or finding.beside]
    others = beside(runs)
    return [*sheets(findings), *([others] if others else [])] if findings else []


def to_json(findings: Sequence[Finding]) -> str:
    """Every claim with its status, measured number and reason."""

    def plain(measured: Measured | None) -> dict[str, Any] | None:
        if measured is None:
            return None
        return {"percent": measured.value, "interval": measured.interval, "seeds": measured.seeds}

    rows = [
        {
            "id": finding.claim.id,
            "kind": finding.claim.kind,
            "text": finding.claim.text,
            "percent": finding.claim.percent,
            "source": finding.claim.source,
            "experiment": finding.claim.experiment,
            "policy": finding.claim.policy,
            "tasks": finding.claim.tasks,
            "arms": finding.claim.arms,
            "status": finding.status,
            "found": plain(finding.measured),
            "reason": finding.reason,
            "beside": [
                {"experiment": other.experiment, "found": plain(other.measured)} for other in finding.beside
            ],
        }
        for finding in findings
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
