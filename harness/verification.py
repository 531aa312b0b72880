"""Verdicts asked for one by one, so that slow ones are found while other responses are still being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
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
        wait([one.verdict for one in asked], timeout=seconds)
        for one in asked:
            one.verdict.cancel()  # does nothing to those that are begun; the pool has a deadline of its own for them
        return [self._verdict(one) for one in asked]

    def _verdict(self, one: Judged) -> Verdict:
        if not one.verdict.cancelled():
            return one.verdict.result()
        if self.task.extract(one.text) is not None:
            return Verdict.TIMEOUT
        return self.task.verify(one.problem, one.text, one.reason)
