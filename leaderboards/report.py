"""Exports of a comparison: all of it in JSON, a row a run in CSV, the tables in Markdown, a page in HTML."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from leaderboards import terminal
from leaderboards.comparison import METRICS, Arm, Comparison
from leaderboards.page import to_html
from leaderboards.records import SCHEMA_VERSION, VERDICTS, Run

__all__ = ["sheet_to_markdown", "to_csv", "to_html", "to_json", "to_markdown"]


def _plain(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _arm(arm: Arm) -> dict[str, Any]:
    decision = arm.decision
    return {
        "rank": arm.rank,
        "label": arm.label,
        "credit": arm.credit,
        "seeds": arm.seeds,
        "verdict": arm.verdict,
        "scores": {
            name: {"mean": score.mean, "interval": score.interval, "values": score.values}
            for name, score in arm.scores.items()
        },
        "differences": arm.differences,
        "difference": arm.difference,
        "interval_of_difference": arm.interval_of_difference,
        "p": arm.p,
        "p_holm": arm.p_holm,
        "equivalence_p": decision.equivalence_p if decision else None,
        "equivalence_p_holm": decision.equivalence_p_holm if decision else None,
        "sign_flip_p": arm.sign_flip_p,
        "sign_flip_minimum": arm.sign_flip_minimum,
        "sign_flip_reaches_alpha": arm.sign_flip_reaches_alpha,
        "smallest_detectable": arm.smallest_detectable,
        "seeds_needed": arm.seeds_needed,
        "e_value": arm.e_value,
        "accuracy_difference": arm.accuracy_difference,
        "crossed_interval": arm.crossed_interval,
        "tasks": arm.tasks,
        "verdicts": arm.verdicts,
        "training": arm.training,
        "cost": arm.cost,
    }


def to_json(comparison: Comparison, runs: Sequence[Run]) -> str:
    """Everything that the leaderboard shows, and the summary per seed and problem from which it was computed."""
    problems = sorted({problem for score in comparison.scores.values() for problem in score.problems})
    content = {
        "schema_version": SCHEMA_VERSION,
        "title": terminal.title(comparison),
        "experiment": comparison.experiment,
        "experiment_hash": comparison.experiment_hash,
        "run_set_hash": comparison.run_set_hash,
        "declaration": comparison.declaration,
        "baseline": comparison.baseline,
        "metric": comparison.metric,
        "assay": {
            "verdict": comparison.assay.verdict,
            "arm": comparison.assay.arm,
            "text": comparison.assay.text,
        },
        "tier": comparison.tier,
        "notes": comparison.notes,
        "arms": [_arm(arm) for arm in comparison.arms],
        "problems": [{"task": task, "id": problem} for task, problem in problems],
        "runs": [
            {
                "method": label,
                "seed": seed,
                "versions": score.run.manifest["versions"],
                "hardware": score.run.manifest["hardware"],
                "git_commit": score.run.manifest["git_commit"],
                "tier": score.run.manifest["tier"],
                "content_hash": score.run.closing["content_hash"] if score.run.closing else None,
                "metrics": score.metrics,
                "verdicts": score.verdicts,
                "training": score.training,
                "cost": score.cost,
                "rewards": [[step, round(reward, 6)] for step, reward in score.rewards.items()],
                "accuracies": [[step, accuracy] for step, accuracy in score.accuracies.items()],
                # The share of correct samples of each problem at the last evaluation, in the order of
                # "problems".
                "problems": [score.problems.get(problem) for problem in problems],
            }
            for (label, seed), score in sorted(comparison.scores.items())
        ],
        "unfinished": [{"method": run.method, "seed": run.seed} for run in runs if not run.finished],
    }
    # One line a run keeps the file small and its changes readable.
    head = {key: value for key, value in _plain(content).items() if key not in ("runs", "problems")}
    text = json.dumps(head, indent=1, allow_nan=False, ensure_ascii=False)
    parts = [text[: text.rindex("\n}")]]
    for name in ("problems", "runs"):
        rows = [
            json.dumps(row, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
            for row in _plain(content[name])
        ]
        parts.append(f',\n "{name}": [\n' + ",\n".join(rows) + "\n ]")
    return "".join(parts) + "\n}\n"


def to_csv(comparison: Comparison, runs: Sequence[Run]) -> str:
    """One row a finished run: metrics, difference from the baseline on the same seed, verdicts, training, cost."""
    training = sorted({name for score in comparison.scores.values() for name in score.training})
    cost = sorted({name for score in comparison.scores.values() for name in score.cost})
    header = ["experiment", "experiment_hash", "method", "credit", "seed", "tier", *METRICS, "difference"]
    header += [f"samples_{verdict}" for verdict in VERDICTS]
    header += [f"training_{name}" for name in training] + cost
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(header)
    for arm in comparison.arms:
        for seed in arm.seeds:
            score = comparison.scores[arm.label, seed]
            row: list[Any] = [comparison.experiment.get("name", ""), comparison.experiment_hash, arm.label]
            row += [arm.credit, seed, score.run.manifest["tier"]]
            row += [score.metrics.get(metric, "") for metric in METRICS]
            row += [arm.differences.get(seed, ""), *(score.total(verdict) for verdict in VERDICTS)]
            row += [score.training.get(name, "") for name in training]
            row += [score.cost.get(name, "") for name in cost]
            writer.writerow([f"{cell:.7g}" if isinstance(cell, float) else cell for cell in row])
    return output.getvalue()


def _escaped(text: str) -> str:
    for character in "\\|<>`*":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def sheet_to_markdown(sheet: terminal.Sheet) -> str:
    """One table in Markdown, under its title."""
    lines = [f"### {_escaped(sheet.title)}", ""]
    lines.append("| " + " | ".join(map(_escaped, sheet.columns)) + " |")
    lines.append(
        "|" + "|".join("---" if i in sheet.words else "--:" for i in range(len(sheet.columns))) + "|"
    )
    lines += ["| " + " | ".join(map(_escaped, row)) + " |" for row in sheet.rows]
    return "\n".join([*lines, *(["", _escaped(sheet.note)] if sheet.note else []), ""])


def to_markdown(comparison: Comparison, runs: Sequence[Run]) -> str:
    """The leaderboard's tables in Markdown, with what was declared and the hashes of what was run."""
    lines = [
        f"## {_escaped(terminal.title(comparison))}",
        "",
        _escaped(terminal.headline(comparison)) + ".",
        "",
    ]
    lines += [f"**{_escaped(comparison.assay.text)}**", ""]
    for sheet in terminal.sheets(comparison, runs):
        lines.append(sheet_to_markdown(sheet))
    for name, text in terminal.provenance(comparison, runs):
        if name != "assay":
            lines.append(f"- {name}: {_escaped(text)}")
    lines += [f"- note: {_escaped(note)}" for note in comparison.notes]
    return "\n".join(lines) + "\n"
