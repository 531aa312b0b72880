"""Writing a run's record in the background, while the next step is trained."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from leaderboards import RunWriter


class Ahead:
    """Writes parts of a run's record in the background, in their order: syncing them to the disk takes a tenth of an
    embedded step.

    What was lost on the way is an error of the next `write` or `settle`. A checkpoint must not outrun its records:
    `settle` before one is saved.
    """

    def __init__(self, writer: RunWriter) -> None:
        self.writer = writer
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self.pending: deque[Future[None]] = deque()

    def write(self, table: str, step: int, rows: list[dict[str, Any]]) -> None:
        # A disk that is slower than the training holds it up, before rows pile up in memory.
        while self.pending and (self.pending[0].done() or len(self.pending) > 4):
            self.pending.popleft().result()
        self.pending.append(self.thread.submit(self.writer.write, table, step, rows))

    def settle(self) -> None:
        """Returns when everything is on the disk."""
        while self.pending:
            self.pending.popleft().result()
