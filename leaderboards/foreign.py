"""Runs that declare nothing: CSV files of values that others made, and records of scripts. The same statistics.

A CSV file has the columns `method`, `seed`, one column of values, whose name is free, and where they apply `step`,
`task` and `problem`:

    method,seed,pass@1
    uniform,0,0.412
    flow,0,0.431

A value stands for a run, or for a step of it, a task or a single problem; larger is better. Means are taken over
problems, then over tasks. Nothing is known of how such runs were made: their tier is "unknown".
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from leaderboards.declaration import BASELINE, NOT_DECLARED, Declaration
from leaderboards.format import TABLES, RecordError, check_table
from leaderboards.manifest import UNKNOWN, Manifest
from leaderboards.names import hint
from leaderboards.records import Run
from leaderboards.scores import Problem, RunScores, accuracy, metrics_of, over_tasks, questions_of

REQUIRED, OPTIONAL = ("method", "seed"), ("step", "task", "problem")
#: Stands for the task or the problem of a file without that column.
WHOLE = "all"
#: Of a seed or a step.
MOST_DIGITS = 18


@dataclass(frozen=True)
class ForeignRun(Run):
    """One method and seed of a CSV file. It has values and no tables."""

    #: Step to problem to value; a file without steps has the step 0, one without problems a single one.
    values: Mapping[int, Mapping[Problem, float]] = field(repr=False)

    def table(self, name: str, columns: Sequence[str] | None = None, step: int | None = None) -> pa.Table:
        """An empty table: a CSV file holds no rollouts, steps or samples."""
        check_table(name)
        wanted = TABLES[name].names if columns is None else columns
        return pa.schema([TABLES[name].field(column) for column in wanted]).empty_table()

    def step_numbers(self, name: str) -> list[int]:
        """No steps are recorded."""
        return []

    def faults(self) -> list[str]:
        """None: the file was checked when it was read."""
        return []

    def scores(self) -> RunScores:
        """The run's numbers, as `score_run` gives them of a recorded one."""
        curve = {step: accuracy(over_tasks(problems), None) for step, problems in self.values.items()}
        training = self.manifest.experiment["declaration"]["metric"] == "training_reward_area"
        rewards, accuracies = (curve, {}) if training else ({}, curve)
        last = self.values[max(self.values)]
        named = {problem: value for problem, value in last.items() if problem[1] != WHOLE}
        return RunScores(
            run=self,
            metrics=metrics_of(rewards, accuracies),
            rewards=rewards,
            accuracies=accuracies,
            tasks={} if training else over_tasks(last),
            problems={} if training else named,
            verdicts={},
            answers={},
            training={},
            cost={},
            questions=questions_of((task, problem, 0) for task, problem in last),
            keys="",
        )


def read_csv(
    file: str | os.PathLike[str],
    smallest_difference: float,
    metric: str = "final_accuracy",
    alpha: float = 0.05,
    column: str | None = None,
    baseline: str = BASELINE,
) -> list[ForeignRun]:
    """The runs of a CSV file, for `compare`.

    smallest_difference: the smallest difference that matters, in the unit of the values. metric: one of METRICS, the
    last step's value, the area over steps, or the mean over steps. column: the column of values, where there are more
    than one. baseline: the method whose seeds all others must have.

    Raises RecordError, one line with the file and the line in it, for a column that is missing or unknown, a value that
    is no finite number, two values in one place, and seeds that cannot be paired.
    """
    path = Path(file)
    declaration = Declaration(metric, smallest_difference, alpha, NOT_DECLARED, NOT_DECLARED)
    fault = declaration.fault()
    if fault:
        raise RecordError(f"{path}: {fault}")
    try:
        content = path.read_bytes()
        rows = list(csv.reader(content.decode("utf-8-sig").splitlines(), strict=True))
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(
            f"{path}: cannot be read as CSV ({error}); give a file with commas, in UTF-8"
        ) from None
    if len(rows) < 2:
        raise RecordError(f"{path}: holds no values; the first line names the columns: method,seed,accuracy")
    header = [name.strip() for name in rows[0]]
    column = _values_column(path, header, column)
    runs: dict[tuple[str, int], dict[int, dict[Problem, float]]] = {}
    for place, method, seed, step, problem, value in _cells(path, header, column, rows[1:]):
        problems = runs.setdefault((method, seed), {}).setdefault(step, {})
        if problem in problems:
            raise RecordError(
                f"{place}: a second value for {method} seed {seed} in one place; remove one of the two"
            )
        problems[problem] = value
    _check_paired(path, runs, baseline)
    if metric == "evaluation_area" and len(next(iter(runs.values()))) < 2:
        raise RecordError(
            f"{path}: {metric} is the area under a curve, and there is one step: give a column step, or another metric"
        )
    experiment = {
        "name": path.stem,
        "title": f"{column}, from {path.name}",
        "declaration": asdict(declaration),
        "methods": {method: {} for method, _ in sorted(runs)},
        "seeds": len({seed for _, seed in runs}),
        "value": column,
        "file": str(path),
    }
    identity = hashlib.sha256(content).hexdigest()
    return [
        ForeignRun(
            folder=Path(f"{path}, {method} seed {seed}"),
            manifest=Manifest(experiment, identity, method, seed, {}, {}, "", UNKNOWN),
            closing={"content_hash": {"values": _hash(values)}, "summary": {}},
            values=dict(sorted(values.items())),
        )
        for (method, seed), values in sorted(runs.items())
    ]


def declared(
    run: Run, smallest_difference: float, metric: str = "training_reward_area", alpha: float = 0.05
) -> Run:
    """A recorded run that declares nothing, as a script's, under a rule that is given now and marked as such.

    smallest_difference: the smallest difference that matters, in the metric's unit. metric: one of METRICS. Raises
    RecordError for a rule that no comparison can follow.
    """
    declaration = Declaration(metric, smallest_difference, alpha, NOT_DECLARED, NOT_DECLARED)
    fault = declaration.fault()
    if fault:
        raise RecordError(f"{run.folder}: {fault}")
    experiment = {**run.manifest.experiment, "declaration": asdict(declaration)}
    return replace(run, manifest=replace(run.manifest, experiment=experiment))


def _values_column(path: Path, header: list[str], column: str | None) -> str:
    """The name of the column of values. RecordError for columns that are missing, unknown or there twice."""
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise RecordError(f"{path}: two columns are called {twice!r}; rename or remove one")
    for name in REQUIRED:
        if name not in header:
            raise RecordError(f"{path}: has no column {name!r}; it has {', '.join(header)}")
    others = [name for name in header if name not in (*REQUIRED, *OPTIONAL)]
    if column is not None:
        if column not in others:
            raise RecordError(f"{path}: has no column of values {column!r}; {hint(column, others)}")
        return column
    if len(others) != 1:
        what = (
            f"{', '.join(others)} are {len(others)}: choose one with --column" if others else "there is none"
        )
        raise RecordError(
            f"{path}: one column of values is expected beside {', '.join((*REQUIRED, *OPTIONAL))}, and {what}"
        )
    return others[0]


def _cells(
    path: Path, header: list[str], column: str, rows: list[list[str]]
) -> Iterator[tuple[str, str, int, int, Problem, float]]:
    """Of every line its place, method, seed, step, problem and value."""
    for number, cells in enumerate(rows, start=2):
        place = f"{path}, line {number}"
        if not cells:
            continue
        if len(cells) != len(header):
            raise RecordError(f"{place}: has {len(cells)} cells, and the first line {len(header)}")
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        if not row["method"]:
            raise RecordError(f"{place}: has no method")
        problem = (row.get("task") or WHOLE, row.get("problem") or WHOLE)
        value = _number(place, column, row[column])
        yield place, row["method"], _whole(place, "seed", row), _whole(place, "step", row), problem, value


def _whole(place: str, name: str, row: Mapping[str, str]) -> int:
    """A whole number that is not negative; 0 in a file without that column."""
    text = row.get(name, "0")
    if not text.isdecimal() or len(text) > MOST_DIGITS:
        raise RecordError(
            f"{place}: {name} is {text[:40]!r}; it is a whole number, 0 or more, of at most {MOST_DIGITS} digits"
        )
    return int(text)


def _number(place: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RecordError(f"{place}: {name} is {text!r}; it must be a finite number")
    return value


def _check_paired(path: Path, runs: Mapping[tuple[str, int], Any], baseline: str) -> None:
    """Differences are taken seed by seed and step by step: every method needs the baseline's seeds and no others, and
    every run the same steps.
    """
    seeds: dict[str, set[int]] = {}
    for method, seed in runs:
        seeds.setdefault(method, set()).add(seed)
    if baseline not in seeds:
        raise RecordError(
            f"{path}: has no method {baseline!r} to compare with; {hint(baseline, seeds)}: name one with --baseline"
        )
    for method, these in seeds.items():
        odd = sorted(these ^ seeds[baseline])
        if odd:
            has, lacks = (method, baseline) if odd[0] in these else (baseline, method)
            raise RecordError(
                f"{path}: {has} has seed {odd[0]} and {lacks} has not: differences are paired by seed; add what is "
                "missing, or remove the rest"
            )
    first, curve = next(iter(runs.items()))
    for run, other in runs.items():
        if odd := sorted(curve.keys() ^ other.keys()):
            (method, seed), (lacking, its) = (run, first) if odd[0] in other else (first, run)
            raise RecordError(
                f"{path}: {method} seed {seed} has step {odd[0]} and {lacking} seed {its} has not: every run needs the "
                "same steps; add what is missing, or remove the rest"
            )


def _hash(values: Mapping[int, Mapping[Problem, float]]) -> str:
    lines = [
        f"{step}\t{task}\t{problem}\t{value!r}"
        for step, problems in values.items()
        for (task, problem), value in problems.items()
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
