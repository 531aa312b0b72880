"""Verdicts, what they are worth, and the error of a user's mistake: what tasks and verifiers both stand on."""

from __future__ import annotations

from enum import StrEnum


class TaskError(ValueError):
    """A user's mistake about a task or its data: one line that names the input and the way out."""


class Verdict(StrEnum):
    """The judgement of one answer. A closed set: every sample has exactly one, and every table shows them all."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    ERROR = "error"


def reward_of(verdict: Verdict) -> float | None:
    """The reward of a verdict: 1 for correct, None for error, else 0."""
    if verdict is Verdict.ERROR:
        return None
    return 1.0 if verdict is Verdict.CORRECT else 0.0
