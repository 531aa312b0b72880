"""What a training step of ours does that stock TRL's does not, part by part, in milliseconds of its thread.

Timed where it happens, in a run of its own beside the whole steps: the processor's time of the thread that does it, so
that waiting for a disk or for the other thread counts nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from report import Row, figure

from flowtracer import CreditGRPOTrainer
from harness import seeds
from harness.engines import keyed
from harness.experiment import Experiment
from harness.runs import ahead, recorder
from harness.runs import run as runs
from leaderboards import RunWriter

TRAINING, BACKGROUND = "training", "background"

#: Part, the thread that does it, what it buys, and where it happens.
PARTS: list[tuple[str, str, str, Any, str]] = [
    ("keys of rollouts", TRAINING, "samples that no batch, order or process changes", seeds, "key"),
    ("keyed noise", TRAINING, "the same, and arms that share their luck", keyed.Noise, "at"),
    ("text of a response", TRAINING, "verdicts while others are still written", keyed, "decoded"),
    ("figures of credit", TRAINING, "a warning where credit cannot act", CreditGRPOTrainer, "_finish"),
    ("copy of the policy", TRAINING, "hash and distance", recorder, "parameters"),
    ("rows of the record", TRAINING, "every rollout on record", recorder.RecordedTrainer, "_rows"),
    ("hash of the policy", BACKGROUND, "runs compared bit for bit, step by step", ahead, "hash_of"),
    ("distance from the start", BACKGROUND, "how far a policy moved", ahead, "distance_between"),
    ("measures of the step", BACKGROUND, "signal, duplicates, gap of sampler and trainer", ahead, "measures"),
    ("files", BACKGROUND, "a record that survives a power cut", RunWriter, "write"),
]

COLUMNS = {
    "beyond stock TRL's": lambda row: row["part"],
    "thread": lambda row: row["thread"],
    "ms a step": lambda row: figure(row["milliseconds"]),
    "buys": lambda row: row["buys"],
}


def measured(experiment: Experiment, label: str, seed: int, folder: Path, warm_up: int) -> list[Row]:
    """A row for each part: its mean over the steps behind the first `warm_up` and before the last, which saves."""
    spent = dict.fromkeys([part for part, *_ in PARTS], 0.0)
    marks: list[dict[str, float]] = []

    def report(*_: object) -> None:
        marks.append(dict(spent))

    with ExitStack() as stack:
        for part, _, _, place, name in PARTS:
            stack.enter_context(patch.object(place, name, _timed(getattr(place, name), spent, part)))
        runs.train(experiment, label, seed, folder, report=report)
    # The first report comes before the first step.
    first, last = marks[warm_up], marks[-2]
    steps = len(marks) - 2 - warm_up
    return [
        {
            "part": part,
            "thread": thread,
            "buys": buys,
            "milliseconds": (last[part] - first[part]) / steps * 1e3,
        }
        for part, thread, buys, _, _ in PARTS
    ]


def _timed(function: Callable[..., Any], spent: dict[str, float], part: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **keywords: Any) -> Any:
        begin = time.thread_time()
        try:
            return function(*arguments, **keywords)
        finally:
            spent[part] += time.thread_time() - begin

    return timed
