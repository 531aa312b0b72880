"""Questions and golds of recorded problems: a record holds their ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from harness.errors import ExperimentError
from harness.experiment import task_of
from tasks import TaskError


def asked(experiment: Mapping[str, Any]) -> Callable[[str, str], tuple[str, str] | None]:
    """From a test set's name, "" for training, and a problem's id to its question and its gold, in words.

    experiment: as a manifest records it. None where the task is not known here, or its data are not to be had.
    """
    trained = experiment.get("task")
    extra = [each.get("task") for each in experiment.get("evaluation", {}).get("more", ())]
    tables = [table for table in (trained, *extra) if isinstance(table, Mapping) and "name" in table]

    @cache
    def problems(task: str) -> dict[str, tuple[str, str]]:
        named = [table for table in tables if table["name"] == task] if task else tables[:1]
        known: dict[str, tuple[str, str]] = {}
        for table in named:
            try:
                given = task_of(table).problems("test" if task else "train")
            except (TaskError, ExperimentError):
                continue
            known |= {problem.id: (problem.question, _words(problem.gold)) for problem in given}
        return known

    return lambda task, problem: problems(task).get(problem)


def _words(gold: Any) -> str:
    if isinstance(gold, Mapping):
        return ", ".join(f"{name} {value}" for name, value in gold.items())
    return str(gold)
