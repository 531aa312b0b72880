"""Verdicts on many responses: quick ones at once, slow ones beside whatever the caller does next.

A slow task compares in processes that can be killed (`tasks.verify.pool`), of which there are few. An answer that hangs
one of them must not cost another policy its reward. So each answer is first judged without them; what needs them gets
a short time in turn; and what is not done then gets the whole time after all others had theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Protocol

from tasks.verdict import Verdict
from tasks.verify import pool

#: Seconds of the first try: nearly every comparison ends in a tenth of it.
FIRST_TRY = 0.5

_LOG = logging.getLogger(__name__)


class Verifier(Protocol):
    """The part of a task that judges."""

    name: ClassVar[str]
    slow: ClassVar[bool]

    def extract(self, text: str) -> tuple[int, int] | None:
        """Character span of the answer, or None."""

    def verify(self, problem: Any, text: str, finish_reason: str | None = None) -> Verdict:
        """The verdict on a whole response."""


@dataclass
class Judged:
    """A response, and the verdict that is known or on its way.

    trouble: what a verifier raised instead of judging, in one line; the verdict is then error.
    """

    problem: Any
    text: str
    reason: str | None
    verdict: Future[Verdict]
    then: Callable[[Verdict], None]
    trouble: str | None = None


class Judging:
    """Judges responses of one task. Threads only wait here, for the processes that compare.

    An exception that a verifier raises is the verdict error: it is logged with the answer, and counted as every error.
    A training step must not end because of one response.
    """

    def __init__(self, task: Verifier) -> None:
        self.task = task
        self.threads = ThreadPoolExecutor(pool.WORKERS, "verifier") if task.slow else None
        self._pending: set[Future[Verdict]] = set()

    def __enter__(self) -> Judging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for every verdict that is asked for and not given up."""
        wait(list(self._pending))
        if self.threads is not None:
            self.threads.shutdown()

    def begin(
        self, problem: Any, text: str, reason: str | None, then: Callable[[Verdict], None] = lambda _: None
    ) -> Judged:
        """Asks for the verdict on a response. `then` is called with it first, in whichever thread finds it."""
        judged = Judged(problem, text, reason, Future(), then)
        if self.threads is None:
            self._settle(judged, self._verdict(judged, pool.DEADLINE))
            return judged
        verdict = self._verdict(judged, 0.0)
        if verdict is Verdict.TIMEOUT:
            self._pending.add(judged.verdict)
            judged.verdict.add_done_callback(self._pending.discard)
            self.threads.submit(self._try, judged, FIRST_TRY)
        else:
            self._settle(judged, verdict)
        return judged

    def verdicts(self, asked: Sequence[Judged], seconds: float | None) -> list[Verdict]:
        """The verdicts, waiting for them. What is not known after `seconds` is a timeout."""
        pending = wait([judged.verdict for judged in asked], timeout=seconds).not_done
        for late in pending:
            late.cancel()
        return [
            Verdict.TIMEOUT if judged.verdict.cancelled() else judged.verdict.result() for judged in asked
        ]

    def _try(self, judged: Judged, seconds: float) -> None:
        if judged.verdict.cancelled():
            return
        verdict = self._verdict(judged, seconds)
        if verdict is Verdict.TIMEOUT and seconds == FIRST_TRY and self.threads is not None:
            self.threads.submit(self._try, judged, pool.DEADLINE)
        else:
            self._settle(judged, verdict)

    def _verdict(self, judged: Judged, seconds: float) -> Verdict:
        with pool.within(seconds):
            try:
                return self.task.verify(judged.problem, judged.text, judged.reason)
            except Exception as error:  # a verifier's own fault, whatever it is
                judged.trouble = f"{type(error).__name__}: {error}".splitlines()[0][:500]
                _LOG.exception("task %s could not judge the response %.200r", self.task.name, judged.text)
                return Verdict.ERROR

    @staticmethod
    def _settle(judged: Judged, verdict: Verdict) -> None:
        if not judged.verdict.set_running_or_notify_cancel():
            return  # given up
        try:
            judged.then(verdict)
        except BaseException as error:
            judged.verdict.set_exception(error)
        else:
            judged.verdict.set_result(verdict)
