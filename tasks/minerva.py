"""Minerva's OCW courses (Lewkowycz et al. 2022, arXiv 2206.14858): 272 undergraduate science problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tasks.marked import ExpressionTask
from tasks.problem import Problem, register
from tasks.source import Hub, Row, load


def _question(row: Row) -> str:
    return row.text("problem" if "problem" in row.fields else "question")


def _gold(row: Row) -> Any:
    """The published solution with the answer in its last box; the hub's copy has the `answer` alone."""
    return row.text("solution" if "solution" in row.fields else "answer")


@register
class Minerva(ExpressionTask):
    """272 problems to test. Numbers are compared exactly, as printed: no rounding is forgiven."""

    name: ClassVar[str] = "minerva"
    source: ClassVar[str] = "MIT OpenCourseWare, collected by Lewkowycz et al. 2022"
    licence: ClassVar[str] = "CC BY-NC-SA 4.0 (OpenCourseWare)"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    hub: ClassVar[Hub] = Hub("math-ai/minervamath", "ee46ddc498933b1977577953250ca5c66be64f96")

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        return load(self, split, "minerva_math.jsonl", self.hub, _question, _gold)[:limit]
