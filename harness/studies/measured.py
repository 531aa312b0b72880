"""Measured: what a JSON file of `leaderboard`, `replay`, `steps` or `values` says of its arms, figure by figure.

A figure that a file does not hold of an arm is a cell with the reason. Files of earlier versions are read too: their
words for outcomes and controls, and what they lack.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from harness import experiment as experiments
from harness.errors import ExperimentError
from harness.studies import steps
from harness.studies.answering import changed_settings, values_fact
from harness.studies.arms import Arm, arm_of, known
from harness.studies.value_figures import CEILING, CUT
from leaderboards.declaration import BASELINE, METRICS
from leaderboards.estimates import Interval
from leaderboards.older import control_of, outcome_of, turn_of

TRAINING, REPLAY, STEPS, VALUES = "training", "replay", "study of steps", "study of values"
#: The command that writes a file of each kind.
COMMANDS: Mapping[str, str] = {TRAINING: "leaderboard", REPLAY: "replay", STEPS: "steps", VALUES: "values"}


@dataclass(frozen=True)
class Cell:
    """A figure of an arm: its value and 95% interval, or an outcome in words, or why there is none.

    single: it comes from one seed, batch or problem only, so that there is no interval. A figure of several without an
    interval had the same value on all of them.
    """

    value: float | None = None
    interval: Interval | None = None
    outcome: str = ""
    missing: str = ""
    single: bool = False

    @property
    def measured(self) -> bool:
        """True where there is a figure."""
        return not self.missing


@dataclass(frozen=True)
class Row:
    """An arm as a file has it: the file's label, and a cell for every figure of the file's kind."""

    arm: Arm
    label: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Measured:
    """A file: its testbed, by experiment (of `steps` and `values` by task) and policy; facts; a row for each arm.

    An experiment that --set changed is no testbed of its own; the facts say what was changed.
    """

    kind: str
    path: Path
    testbed: str
    policy: str
    facts: Sequence[str]
    rows: Sequence[Row] = field(repr=False)


def read(paths: Sequence[Path]) -> list[Measured]:
    """The files, in their order. Raises ExperimentError for one that cannot be read or is of no known kind, and for two
    of one testbed and kind.
    """
    every: dict[tuple[str, str, str], Measured] = {}
    for path in paths:
        measured = read_one(path)
        key = (measured.kind, measured.testbed, measured.policy)
        if key in every:
            raise ExperimentError(
                f"{every[key].path} and {path} are both a {measured.kind} of {measured.testbed} with policy "
                f"{measured.policy}: give one of them"
            )
        every[key] = measured
    return list(every.values())


def read_one(path: Path) -> Measured:
    """One file. Raises ExperimentError as `read` does."""
    table = _loaded(path)
    kind = kind_of(table)
    if kind is None:
        ways = ", ".join(f"`flowtracer {command}`" for command in COMMANDS.values())
        raise ExperimentError(f"{path} is no JSON of {ways}: give files that their --export FILE.json wrote")
    readers: Mapping[str, Callable[[Path, Any], Measured]] = {
        TRAINING: _training,
        REPLAY: _replay,
        STEPS: _steps,
        VALUES: _values,
    }
    try:
        measured = readers[kind](path, table)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, ExperimentError):
            raise
        raise ExperimentError(
            f"{path} is damaged ({type(error).__name__}: {error}): write it again with `flowtracer {COMMANDS[kind]}`"
        ) from None
    if not measured.rows:
        raise ExperimentError(f"{path} holds no arm: write it again with `flowtracer {COMMANDS[kind]}`")
    return measured


def kind_of(table: Any) -> str | None:
    """TRAINING, REPLAY, STEPS or VALUES, by the keys of a file's table; None for every other."""
    if not isinstance(table, dict):
        return None
    if {"arms", "baseline", "metric"} <= table.keys():
        return TRAINING
    if {"figures", "experiment", "policy", "valued"} <= table.keys():
        return REPLAY
    results = table.get("results")
    if not isinstance(results, dict):
        return None
    if {"rows", "carried"} <= results.keys():
        return STEPS
    return VALUES if {"rules", "methods", "halves"} <= results.keys() else None


def _loaded(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ExperimentError(f"{path} cannot be read: {why}") from None
    except ValueError as error:
        raise ExperimentError(f"{path} is no sound JSON: {error}; write it again with --export") from None


def _testbed(name: str, changes: Sequence[str]) -> str:
    """An experiment's name, as it is without changes: an unchanged one may bear any name."""
    return experiments.unchanged_name(name) if changes else name


def _level(value: Any, missing: str) -> Cell:
    """A cell from [mean, [low, high]], as studies write it; an interval may be null, and so may all of it."""
    if value is None:
        return Cell(missing=missing)
    mean, interval = value
    return _around(mean, interval, missing)


def _around(value: Any, interval: Any, missing: str) -> Cell:
    if value is None:
        return Cell(missing=missing)
    return Cell(float(value), None if interval is None else (float(interval[0]), float(interval[1])))


def _with_singles(rows: Sequence[Row]) -> list[Row]:
    """The rows of a study, which does not say how many batches or problems it had: a figure of which no arm of the file
    has an interval is of a single one.
    """
    spread = {key for row in rows for key, cell in row.cells.items() if cell.interval is not None}
    return [
        replace(row, cells={key: replace(cell, single=key not in spread) for key, cell in row.cells.items()})
        for row in rows
    ]


def _once(rows: Iterator[tuple[Arm, str, Mapping[str, Cell]]]) -> list[Row]:
    """The rows. A comparison may have two arms of the same method and options: the second bears its label, too."""
    every: dict[str, Row] = {}
    for arm, label, cells in rows:
        if arm.words in every:
            arm = Arm(f"{arm.words} [{label}]", arm.credit, arm.factor, arm.role)
        every[arm.words] = Row(arm, label, cells)
    return list(every.values())


# ------------------------------------------------------------------------------------- training


def _training(path: Path, table: Mapping[str, Any]) -> Measured:
    experiment = table["experiment"]
    declared = experiment.get("methods", {})
    baseline = table["baseline"]

    def rows() -> Iterator[tuple[Arm, str, Mapping[str, Cell]]]:
        for each in table["arms"]:
            options = dict(declared.get(each["label"], {}))
            arm = arm_of(options.pop("credit", each["credit"]), options)
            yield arm, each["label"], _trained(each, each["label"] == baseline)

    changes = experiments.changes_in(experiment.get("title", ""))
    seeds = sorted({len(each["seeds"]) for each in table["arms"]})
    facts = [
        f"training: {METRICS.get(table['metric'], table['metric'])}, {' or '.join(map(str, seeds))} seeds, minus "
        f"{baseline}'s on the same seed",
        control_of(table)["text"],
        *changed_settings(changes),
    ]
    policy = experiment.get("policy", {}).get("name", "not recorded")
    return Measured(TRAINING, path, _testbed(experiment["name"], changes), policy, facts, _once(rows()))


def _trained(arm: Mapping[str, Any], is_baseline: bool) -> Mapping[str, Cell]:
    missing = "the baseline" if is_baseline else "no seed shared with the baseline"
    outcome = outcome_of(arm).partition(":")[0]
    step = arm["cost"].get("seconds_step") if arm.get("cost") else None
    difference = _around(arm["difference"], arm["interval_of_difference"], missing)
    return {
        "difference": replace(difference, single=len(arm.get("differences", arm["seeds"])) < 2),
        "outcome": Cell(missing=missing) if arm["difference"] is None else Cell(outcome=outcome),
        "step_seconds": _around(step, None, "not recorded"),
    }


# ------------------------------------------------------------------------------------- replay


def _replay(path: Path, table: Mapping[str, Any]) -> Measured:
    knows = any(each["decisive"] is not None for each in table["figures"])
    valued = int(table["valued"])

    def rows() -> Iterator[tuple[Arm, str, Mapping[str, Cell]]]:
        for each in table["figures"]:
            arm = _replayed_arm(path, table["experiment"], each)
            yield arm, each["label"], _replayed(each, knows, valued > 0)
        for label, reason in table["left_out"].items():
            if known(label):
                cells = dict.fromkeys(_replayed(table["figures"][0], knows, False), Cell(missing=reason))
                yield arm_of(label, {}), label, cells

    changes = table.get("changes", ())  # files of before it had a key of its own are named as if unchanged
    facts = [
        f"replay: {table['batches']} batches, {table['responses']} responses, {table['correct']:.1%} correct",
        *changed_settings(changes),
        *values_fact(valued, table["continuations"], table["agreement"]),
    ]
    name = _testbed(table["experiment"], changes)
    return Measured(REPLAY, path, name, table["policy"], facts, _with_singles(_once(rows())))


def _replayed(row: Mapping[str, Any], knows: bool, valued: bool) -> Mapping[str, Cell]:
    is_uniform = row["label"] == BASELINE
    unvalued = "its weights are all equal" if valued else "no token values measured"
    silent = "abstains" if knows else "the task does not know its deciding tokens"
    recorded = "decisive_unsure" in row  # not in files of earlier versions
    return {
        "decisive": _level(row["decisive"], silent),
        "decisive_unsure": _level(
            row.get("decisive_unsure"), silent if recorded or not knows else "not recorded"
        ),
        "ratio_difference": _around(
            row["ratio_difference"],
            row["ratio_difference_interval"],
            "the baseline" if is_uniform else "no gradient",
        ),
        "turn": _level(turn_of(row), "no gradient"),
        "value_size": _level(row["value_size"], unvalued),
        "value_direction": _level(row["value_direction"], unvalued),
        "update_seconds": _around(row.get("seconds"), None, "not recorded"),
    }


def _replayed_arm(path: Path, experiment: str, row: Mapping[str, Any]) -> Arm:
    """The arm of a row: as it says; of an older file a registered name, or an arm of a shipped experiment."""
    label, options = row["label"], row["options"]
    if "credit" in row:
        return arm_of(row["credit"], options)
    if known(label) and not options:
        return arm_of(label, {})
    if experiment in experiments.names():
        shipped = experiments.load(experiment)
        if label in shipped.methods and shipped.credit_of(label)[1] == options:
            return arm_of(*shipped.credit_of(label))
    raise ExperimentError(
        f"{path} does not say which credit method its arm {label} is: write it again with `flowtracer replay`"
    )


# ------------------------------------------------------------------------------------- steps and values


def _steps(path: Path, table: Mapping[str, Any]) -> Measured:
    results = table["results"]
    rows = [row for row in results["rows"] if row["name"] not in (*steps.DUMB, *steps.READERS)]
    keys = {key: key for key in ("needed_matched", "wrong_matched")}
    facts = [f"steps: {results['compared']} responses compared, {results['mistaken']} wrong ones"]
    return _study(STEPS, path, table, facts, rows, keys)


def _values(path: Path, table: Mapping[str, Any]) -> Measured:
    results = table["results"]
    read = {
        part: [row for row in results[part] if row["reading"] == CUT and row["name"] != CEILING]  # read twice
        for part in ("rules", "methods")
    }
    methods = {row["name"] for row in read["methods"]}
    rules = [row for row in read["rules"] if row["name"] not in methods]
    keys = {"cut_size": "size", "cut_signed": "signed", "first_fall": "fall"}
    facts = [
        f"values: {results['ranked']} responses, {results['cuts']} cuts, {results['continuations']} continuations; the "
        f"halves of them agree at rank correlation {results['halves'][0]:.2f}"
        if results["halves"]
        else f"values: {results['ranked']} responses, {results['cuts']} cuts"
    ]
    return _study(VALUES, path, table, facts, read["methods"], keys, rules)


def _study(
    kind: str,
    path: Path,
    table: Mapping[str, Any],
    facts: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    keys: Mapping[str, str],
    rules: Sequence[Mapping[str, Any]] = (),
) -> Measured:
    """A study of methods at their default options and of variants of flow, by their names. keys: figure -> key.

    rules: rows of rankings that read no attention and are no credit methods.
    """
    testbed, policy = _testbed_of(table["command"])

    def read_rows() -> Iterator[tuple[Arm, str, Mapping[str, Cell]]]:
        missing = "ranks nothing"  # abstains everywhere, or its weights are all equal
        for row in rows:
            name = row["name"]
            arm = arm_of("flow", steps.VARIANTS[name]) if name in steps.VARIANTS else arm_of(name, {})
            yield arm, name, {figure: _level(row[key], missing) for figure, key in keys.items()}
        for row in rules:
            rule = Arm(row["name"], row["name"], None, "rule")
            yield rule, row["name"], {figure: _level(row[key], missing) for figure, key in keys.items()}
        for name, reason in table["results"]["left_out"].items():
            if known(name):
                yield arm_of(name, {}), name, dict.fromkeys(keys, Cell(missing=reason))

    return Measured(kind, path, testbed, policy, facts, _with_singles(_once(read_rows())))


def _testbed_of(command: str) -> tuple[str, str]:
    """Testbed and policy of the command of a study: `steps POLICY TASK`, or `values EXPERIMENT`."""
    source, *task = takewhile(lambda word: not word.startswith("-"), shlex.split(command)[2:])
    if task:
        return task[0].partition(":")[0], source
    shipped = source in experiments.names()
    return Path(source).stem, experiments.load(source).policy.name if shipped else "not recorded"
