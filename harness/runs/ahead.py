"""Writing a run's record in the background, while the next step is trained."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from harness.runs.checkpoints import Parameters, distance_between, hash_of
from harness.runs.measures import measures
from leaderboards import RunWriter

#: Steps that may wait to be written. More would pile up in memory where a disk is slower than the training.
WAITING = 2


class Ahead:
    """Writes a run's record in the background, step after step: hashing the policy, measuring the step and syncing
    files to the disk take a tenth of an embedded step.

    Much of it is Python, which threads take turns at. A thread that waits for its turn slows the small operations of a
    generation down; during a backward, which is one long operation, it has Python to itself: hold a step until then.

    start: the parameters that a policy's distance is measured from, None where they are too many.

    What was lost on the way is an error of the next `write` or `settle`. A checkpoint must not outrun its records:
    `settle` before one is saved.
    """

    def __init__(self, writer: RunWriter, start: Parameters | None) -> None:
        self.writer, self.start = writer, start
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self.pending: deque[Future[None]] = deque()
        self.held: list[tuple[list[dict[str, Any]], dict[str, Any], Parameters | None]] = []

    def hold(self, rows: list[dict[str, Any]], measured: dict[str, Any], policy: Parameters | None) -> None:
        """Takes a step, as `write` does, to be written from the next `release` or `settle` on."""
        self.held.append((rows, measured, policy))

    def release(self) -> None:
        """Begins to write the steps that are held."""
        while self.held:
            self.write(*self.held.pop(0))

    def write(self, rows: list[dict[str, Any]], measured: dict[str, Any], policy: Parameters | None) -> None:
        """Begins to write a step: its rollouts, and its row, of which `measured` has what they do not give.

        policy: the parameters after the step, None where they are too many.
        """
        while self.pending and (self.pending[0].done() or len(self.pending) > WAITING):
            self.pending.popleft().result()
        self.pending.append(self.thread.submit(self._write, rows, measured, policy))

    def settle(self) -> None:
        """Returns when everything is on the disk."""
        self.release()
        while self.pending:
            self.pending.popleft().result()

    def _write(self, rows: list[dict[str, Any]], measured: dict[str, Any], policy: Parameters | None) -> None:
        step = measured["step"]
        self.writer.write("rollouts", step, rows)
        far = math.nan if policy is None or self.start is None else distance_between(policy, self.start)
        row = {
            **measures(rows),
            **measured,
            "distance_from_start": far,
            "parameters_hash": "" if policy is None else hash_of(policy),
        }
        self.writer.write("steps", step, [row])
