"""Exports of a comparison: all of it in JSON, a row a run in CSV, the tables in Markdown, a page in HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from leaderboards import sheets, terminal
from leaderboards.comparison import Arm, Comparison
from leaderboards.declaration import METRICS
from leaderboards.format import SCHEMA_VERSION, VERDICTS
from leaderboards.pages.board import to_html
from leaderboards.records import Run
from leaderboards.sheets import escaped, plain

__all__ = ["to_csv", "to_html", "to_json", "to_markdown"]


def _arm(arm: Arm) -> dict[str, Any]:
    decision = arm.decision
    return {
        "rank": arm.rank,
        "label": arm.label,
        "credit": arm.credit,
        "seeds": arm.seeds,
        "outcome": arm.outcome,
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
        "declaration": asdict(comparison.declaration),
        "baseline": comparison.baseline,
        "metric": comparison.metric,
        "positive_control": {
            "outcome": comparison.positive_control.outcome,
            "arm": comparison.positive_control.arm,
            "text": comparison.positive_control.text,
        },
        "tier": comparison.tier,
        "notes": comparison.notes,
        "arms": [_arm(arm) for arm in comparison.arms],
        "problems": [{"task": task, "id": problem} for task, problem in problems],
        "runs": [
            {
                "method": label,
                "seed": seed,
                "versions": score.run.manifest.versions,
                "hardware": score.run.manifest.hardware,
                "git_commit": score.run.manifest.git_commit,
                "tier": score.run.manifest.tier,
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
    head = {key: value for key, value in plain(content).items() if key not in ("runs", "problems")}
    text = json.dumps(head, indent=1, allow_nan=False, ensure_ascii=False)
    parts = [text[: text.rindex("\n}")]]
    for name in ("problems", "runs"):
        rows = [
            json.dumps(row, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
            for row in plain(content[name])
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
    rows = []
    for arm in comparison.arms:
        for seed in arm.seeds:
            score = comparison.scores[arm.label, seed]
            row: list[Any] = [comparison.experiment.get("name", ""), comparison.experiment_hash, arm.label]
            row += [arm.credit, seed, score.run.manifest.tier]
            row += [score.metrics.get(metric, "") for metric in METRICS]
            row += [arm.differences.get(seed, ""), *(score.total(verdict) for verdict in VERDICTS)]
            row += [score.training.get(name, "") for name in training]
            row += [score.cost.get(name, "") for name in cost]
            rows.append(row)
    return sheets.to_csv(header, rows)


def to_markdown(comparison: Comparison, runs: Sequence[Run]) -> str:
    """The leaderboard's tables in Markdown, with what was declared and the hashes of what was run."""
    lines = [
        f"## {escaped(terminal.title(comparison))}",
        "",
        escaped(terminal.headline(comparison)) + ".",
        "",
    ]
    lines += [f"**{escaped(comparison.positive_control.text)}**", ""]
    for sheet in terminal.sheets(comparison, runs):
        lines.append(sheets.to_markdown(sheet))
    for name, text in terminal.provenance(comparison, runs):
        if name != "positive control":
            lines.append(f"- {name}: {escaped(text)}")
    lines += [f"- note: {escaped(note)}" for note in comparison.notes]
    return "\n".join(lines) + "\n"
