"""Experiments as tables: what there is, what one declares, and the arms that it compares."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from harness.experiment import Experiment
from leaderboards.declaration import METRICS
from leaderboards.sheets import Sheet


def listed(experiments: Iterable[Experiment]) -> Sheet:
    """Experiments in one table."""
    rows = tuple(
        (
            each.name,
            each.title,
            each.policy.name,
            str(len(each.methods)),
            str(each.seeds),
            str(each.training.steps),
        )
        for each in experiments
    )
    columns = ("experiment", "what it compares", "policy", "arms", "seeds", "steps")
    note = (
        "flowtracer experiments NAME shows the arms of one, flowtracer reproduce NAME --plan what it costs."
    )
    return Sheet("Experiments", columns, rows, note, words=(0, 1, 2))


def sheets(experiment: Experiment) -> list[Sheet]:
    """The experiment as tables: its declaration, and the arms that it compares."""
    declaration, training = experiment.declaration, experiment.training
    facts = (
        ("metric", METRICS[declaration.metric]),
        (
            "smallest difference",
            f"{declaration.smallest_difference:g}, alpha {declaration.alpha:g} over all arms",
        ),
        ("estimand", declaration.estimand),
        ("stopping", declaration.stopping),
        ("policy", f"{experiment.policy.name}, {experiment.policy.dtype}, sampled by {experiment.engine}"),
        ("task", _named(experiment.task)),
        (
            "test sets",
            "; ".join(_named(extra.task) for extra in experiment.evaluation.more) or "the task's own",
        ),
        ("training", f"{experiment.seeds} seeds, {training.steps} steps of {training.rollouts} rollouts"),
    )
    arms = []
    for label, entry in experiment.methods.items():
        method, options = experiment.credit_of(label)
        named = method if isinstance(method, str) else " * ".join(method)
        arms.append((label, named, _options(options) or "-", _options(entry.get("training", {})) or "-"))
    return [
        Sheet("Declared", ("what", "value"), facts, words=(0, 1)),
        Sheet("Arms", ("arm", "credit method", "options", "training"), tuple(arms), words=(0, 1, 2, 3)),
    ]


def _named(table: Mapping[str, Any]) -> str:
    options = _options({key: value for key, value in table.items() if key != "name"})
    return f"{table['name']} ({options})" if options else str(table["name"])


def _options(table: Mapping[str, Any]) -> str:
    """A table's keys in a line; those of a table in it, options of one of several methods, with its name before."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if key not in inner]
    lines += [
        f"{key}.{name} = {json.dumps(value)}" for key, of in inner.items() for name, value in of.items()
    ]
    return ", ".join(lines)
