"""A run under way in its tracker: everything that TRL logs at a step, and evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from harness import parallel
from harness.runs.evaluate import accuracy
from harness.trackers import Tracked, Tracker, opened
from leaderboards import read_run


class Followed(TrainerCallback):
    """Hands each step's numbers to a tracker, under `train/`."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """The last lines of a training, which sum it up, have no loss and no step of their own."""
        if logs is None or "loss" not in logs or not state.is_world_process_zero:
            return
        numbers = {f"train/{name}": float(value) for name, value in logs.items() if _is_number(value)}
        self.tracker.log(state.global_step, numbers)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@contextmanager
def followed(trainer: Any, name: str | None, run: Tracked, checkpoint: int | None) -> Iterator[None]:
    """Shows the training in the tracker called `name`, from the optimizer step of its checkpoint on; None: in none."""
    if name is None or not parallel.first():
        yield
        return
    tracker = opened(name, run, checkpoint is not None, checkpoint)
    trainer.add_callback(Followed(tracker))
    try:
        yield
    finally:
        tracker.close()


def show_evaluations(name: str | None, run: Tracked, updates_per_batch: int) -> None:
    """Adds the accuracies of a run's recorded evaluations, by task, at the optimizer steps that they belong to."""
    if name is None:
        return
    tracker = opened(name, run, resumed=True)
    try:
        rows = read_run(run.folder).table("samples", ["step", "task", "problem_id", "reward"]).to_pylist()
        parts: dict[int, dict[str, list[dict[str, Any]]]] = {}
        for row in rows:
            parts.setdefault(row["step"], {}).setdefault(row["task"], []).append(row)
        for step, tasks in sorted(parts.items()):
            values = {f"evaluation/{task}": accuracy(of_task) for task, of_task in tasks.items()}
            tracker.log(step * updates_per_batch, values)
    finally:
        tracker.close()
