"""Reads evaluations item by item: files of `flowtracer evaluate --out`, and lm-eval's `--log_samples` folders."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from leaderboards.format import RecordError
from leaderboards.names import hint
from leaderboards.paired_items import Items

_OURS = ("problem_id", "sample", "reward")
#: The metric that is compared where lm-eval recorded several and nobody chose: the share of right answers.
SCORE = "exact_match"


def read_evaluation(
    place: Path, metric: str | None = None, filter: str | None = None, cluster: str | None = None
) -> dict[str, Items]:
    """The items of each task that was evaluated.

    place: a file of ours or of lm-eval, or a folder that lm-eval wrote. metric, filter: of lm-eval's, where a file
    holds more than one. cluster: a key of a row, or of its `doc`, whose value items of one group share.

    Raises RecordError for what cannot be read, and for a choice that has to be made or does not exist.
    """
    if place.is_file():
        files = [place]
    elif place.is_dir():
        files = sorted(place.rglob("samples_*.jsonl"))
    else:
        raise RecordError(f"{place}: no such file or folder")
    if not files:
        raise RecordError(
            f"{place}: no samples_*.jsonl in it; give a file that `flowtracer evaluate --out` wrote, or the output "
            "folder of lm-eval with --log_samples"
        )
    tasks: dict[str, Items] = {}
    origin: dict[str, Path] = {}
    for file in files:
        ours, subject, rows = _rows(file)
        if not rows:
            raise RecordError(f"{file}: no sample in it")
        items = (
            _of_ours(file, subject, rows, cluster)
            if ours
            else replace(_of_lm_eval(file, rows, metric, filter, cluster), of_lm_eval=True)
        )
        if items.task in tasks:
            raise RecordError(
                f"{place}: two evaluations of {items.task}, {origin[items.task].name} and {file.name}: give one file"
            )
        tasks[items.task], origin[items.task] = items, file
    return tasks


def _rows(file: Path) -> tuple[bool, str, list[dict[str, Any]]]:
    """True for a file of ours, the task with its options, from the first line of ours, and the rows of samples."""
    ours, subject, rows = False, "", list[dict[str, Any]]()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{file} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise RecordError(f"{file}: line {number} is no JSON object")
        if number == 1 and "policy" in row and "problem_id" not in row:
            subject = str(row.get("task", ""))
            continue
        if not rows:
            ours = "problem_id" in row
        for key in _OURS if ours else ("doc_id",):
            if key not in row:
                raise RecordError(
                    f"{file}: line {number} is no sample of flowtracer or lm-eval: no {key} in it"
                )
        rows.append(row)
    return ours, subject, rows


def _of_ours(file: Path, subject: str, rows: Iterable[dict[str, Any]], cluster: str | None) -> Items:
    values: dict[str, list[float]] = {}
    clusters: dict[str, str] = {}
    unjudged, task = 0, file.stem
    seen: set[tuple[str, str]] = set()
    for row in sorted(rows, key=lambda row: (str(row["problem_id"]), str(row["sample"]))):
        name, task = str(row["problem_id"]), str(row.get("task", task))
        if (name, str(row["sample"])) in seen:
            raise RecordError(
                f"{file}: sample {row['sample']} of item {name} is there twice; remove one of them"
            )
        seen.add((name, str(row["sample"])))
        if cluster is not None:
            clusters[name] = _cluster(file, row, cluster)
        if row["reward"] is None:
            unjudged += 1
        else:
            values.setdefault(name, []).append(_number(file, name, row["reward"]))
    return _items(file, task, values, clusters, dict.fromkeys(values, subject), unjudged)


def _of_lm_eval(
    file: Path, rows: list[dict[str, Any]], metric: str | None, filter: str | None, cluster: str | None
) -> Items:
    task = file.stem.removeprefix("samples_").rpartition("_")[0] or file.stem
    filter = _choice(file, "filter", filter, sorted({str(row.get("filter", "none")) for row in rows}))
    rows = [row for row in rows if str(row.get("filter", "none")) == filter]
    known = list(rows[0].get("metrics") or [])
    if not known:
        raise RecordError(f"{file}: its samples name no metrics, as those of lm-eval do; evaluate again")
    if metric is None and SCORE in known:
        metric = SCORE  # the others are shares of verdicts, or say how the answer was written
    metric = _choice(file, "metric", metric, known)
    values: dict[str, list[float]] = {}
    clusters: dict[str, str] = {}
    questions: dict[str, str] = {}
    unjudged = 0
    for row in rows:
        name = str(row["doc_id"])
        if name in values:
            raise RecordError(f"{file}: item {name} is there twice")
        given = row.get(metric)
        samples = given if isinstance(given, list) else [given]
        judged = [value for value in samples if value is not None]
        unjudged += len(samples) - len(judged)
        if judged:
            values[name] = [_number(file, name, value) for value in judged]
        questions[name] = str(row.get("doc_hash", ""))
        if cluster is not None:
            clusters[name] = _cluster(file, row, cluster)
    return _items(file, task, values, clusters, questions, unjudged)


def _items(
    file: Path,
    task: str,
    values: dict[str, list[float]],
    clusters: dict[str, str],
    questions: dict[str, str],
    unjudged: int,
) -> Items:
    if not values:
        raise RecordError(f"{file}: none of its {unjudged} samples could be judged")
    return Items(task, values, clusters, questions, unjudged)


def _choice(file: Path, what: str, asked: str | None, known: list[str]) -> str:
    if asked is None and len(known) == 1:
        return known[0]
    if asked is None:
        raise RecordError(f"{file}: several of it; choose one by --{what}: {', '.join(known)}")
    if asked not in known:
        raise RecordError(f"{file}: no {what} {asked!r}; {hint(asked, known)}")
    return asked


def _cluster(file: Path, row: dict[str, Any], key: str) -> str:
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    for table in (row, doc):
        if key in table:
            return str(table[key])
    raise RecordError(f"{file}: --cluster {key}: no such key; {hint(key, {**row, **doc})}")


def _number(file: Path, name: str, value: Any) -> float:
    if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
        raise RecordError(f"{file}: item {name}: {str(value)[:40]!r} is no number")
    return float(value)
