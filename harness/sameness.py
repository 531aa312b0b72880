"""Sameness: runs that join others must be of the same experiment, the same arm and the same code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import provenance
from harness.errors import ExperimentError
from harness.experiment import Experiment, task_of
from leaderboards.code import changes, runs_by_other_code

if TYPE_CHECKING:
    from flowtracer.credit import CreditMethod
    from leaderboards.manifest import Manifest


def check_arm(experiment: Experiment, label: str, manifest: Manifest, folder: Path) -> None:
    """Raises ExperimentError where a recorded run of that label had other options, which the hash leaves out."""
    recorded = manifest.methods.get(label)
    if recorded != experiment.resolved()["methods"][label]:
        raise ExperimentError(
            f"{folder} holds the arm {label} with other options ({json.dumps(recorded)}); "
            "give another output folder, or another label to the arm"
        )


def method_of(experiment: Experiment, label: str) -> CreditMethod:
    """The credit method of an arm, with its options."""
    from flowtracer import credit

    name, options = experiment.credit_of(label)
    return credit.get(name, **options)


def code_of(experiment: Experiment, label: str) -> dict[str, Any]:
    """A manifest's record of an arm's method, under `credit`, and of code outside the package, under `code`."""
    from flowtracer.teaching import words_of

    method = method_of(experiment, label)
    words = words_of(method, task_of(experiment.task))
    tables = [experiment.task, *(extra.task for extra in experiment.evaluation.more)]
    return {
        "credit": provenance.credit_of(method) | ({} if words is None else {"teacher": words.text}),
        "code": provenance.code_of([method], [task_of(table) for table in tables]),
    }


def check_code(experiment: Experiment, label: str, manifests: Sequence[Manifest], folder: Path) -> None:
    """Raises ExperimentError where recorded runs of an arm, which more runs join, were made by other code.

    Under one label there would be two methods.
    """
    now = code_of(experiment, label)
    lines = [changes(each, replace(each, **now)) for each in manifests]
    other = [each for each in lines if each]
    if other:
        named = dict.fromkeys(line for each in other for line in each)
        raise ExperimentError(
            f"{folder}: {label}: {runs_by_other_code(len(other), named)}; give another output folder, or another "
            "label to the arm, or restore that code"
        )


def differing(first: Mapping[str, Any], second: Mapping[str, Any], place: str = "") -> list[str]:
    """The keys in which two resolved experiments differ, arms left out: `training.steps 40 -> 60`."""
    lines: list[str] = []
    for key in sorted({*first, *second} - ({"methods"} if not place else set())):
        before, now = first.get(key), second.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            lines += differing(before, now, f"{place}{key}.")
        elif before != now:
            lines.append(f"{place}{key} {json.dumps(before)} -> {json.dumps(now)}")
    return lines
