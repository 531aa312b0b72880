"""One comparison of an answer with a gold: what it may still spend, and what could not be judged."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from tasks.verify import numbers, points
from tasks.verify.pool import TIMEOUT, Pool


@dataclass
class Comparison:
    """Shared by the rules of one comparison: the question, and the worker processes with the time that is left.

    Without a pool, what needs a worker is different.
    """

    question: str
    pool: Pool | None
    left: float
    timed_out: bool = False
    unreadable: bool = False

    def percent_asked(self, gold: Fraction) -> bool:
        """True if the question asks for a percentage, given the gold's value."""
        return numbers.asks_percent(self.question, gold)

    def same(self, gold: str, answer: str, rename: dict[str, str] | None = None) -> bool:
        """True if two texts are one quantity: by their values at points, else by a worker."""
        known = points.same(gold, answer, rename or {})
        return self._ask("value", gold, answer, rename) if known is None else known

    def proportional(self, gold: str, answer: str) -> bool:
        """True if two sides brought to nought describe one equation."""
        known = points.proportional(gold, answer)
        return self._ask("equation", gold, answer, None) if known is None else known

    def _ask(self, kind: str, gold: str, answer: str, rename: dict[str, str] | None) -> bool:
        if self.pool is None:
            return False
        outcome, seconds = self.pool.compare(kind, gold, answer, rename or {}, self.left)
        self.left -= seconds
        self.timed_out |= outcome == TIMEOUT
        self.unreadable |= outcome == "unreadable gold" or outcome.startswith("failed")
        return outcome == "same"
