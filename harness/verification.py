"""Verdicts asked for one by one, so that slow ones are found while other responses are still being written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from tasks import Problem, Task, Verdict
from tasks.verify import pool


@dataclass(frozen=True)
class Judged:
    """A response and the verdict that is on its way."""

    problem: Problem
    text: str
    reason: str
    verdict: Future[Verdict]


class Verification:
    """Judges the responses of one task: at once where that is quick, else beside whatever the caller does next.

    Threads only wait here: a slow task compares in the processes of `tasks.verify.pool`.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.threads = ThreadPoolExecutor(pool.WORKERS, "verifier") if task.slow else None

    def __enter__(self) -> Verification:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.threads is not None:
            self.threads.shutdown()

    def begin(
        self, problem: Problem, text: str, reason: str, then: Callable[[Verdict], None] = lambda _: None
    ) -> Judged:
        """Asks for the verdict on a response. `then` is called with it first, in whichever thread finds it."""

        def judge() -> Verdict:
            verdict = self.task.verify(problem, text, reason)
            then(verdict)
            return verdict

        if self.threads is not None:
            return Judged(problem, text, reason, self.threads.submit(judge))
        known: Future[Verdict] = Future()
        known.set_result(judge())
        return Judged(problem, text, reason, known)

    def verdicts(self, asked: Sequence[Judged], seconds: float) -> list[Verdict]:
        """The verdicts, waiting for them. What is not begun after `seconds` is a timeout, if there is an answer."""
        until = time.monotonic() + seconds
        return [self._verdict(one, until) for one in asked]

    def _verdict(self, one: Judged, until: float) -> Verdict:
        try:
            return one.verdict.result(timeout=max(0.0, until - time.monotonic()))
        except TimeoutError:
            if not one.verdict.cancel():
                return one.verdict.result()  # begun, and the pool has a deadline of its own
            judged = self.task.extract(one.text) is not None
            return Verdict.TIMEOUT if judged else self.task.verify(one.problem, one.text, one.reason)
