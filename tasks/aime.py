"""AIME 2024 and 2025: thirty competition problems a year whose answers are integers from 0 to 999."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tasks.marked import NumberTask
from tasks.problem import Problem, register
from tasks.source import Hub, Row, load


def _gold(row: Row) -> object:
    """The `answer`; the hub's 2024 set has only a `solution`, which is the answer in a box."""
    return row["answer" if "answer" in row.fields else "solution"]


class _Aime(NumberTask):
    source: ClassVar[str] = "Mathematical Association of America, through the Art of Problem Solving wiki"
    licence: ClassVar[str] = "not stated by the publisher; the hub's copies say Apache-2.0"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    answer_format: ClassVar[str] = "an integer in the last \\boxed{}"
    marker: ClassVar[str] = "boxed"
    #: One question is 3.3 points: less than 16 samples each say little.
    samples: ClassVar[int] = 16
    hub: ClassVar[Hub]

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        return load(self, split, f"{self.name}.jsonl", self.hub, question="problem", gold=_gold)[:limit]


@register
class Aime24(_Aime):
    """AIME I and II of 2024."""

    name: ClassVar[str] = "aime24"
    hub: ClassVar[Hub] = Hub("math-ai/aime24", "83a7f387baaa524a8bda0022eac0541582297103")


@register
class Aime25(_Aime):
    """AIME I and II of 2025."""

    name: ClassVar[str] = "aime25"
    hub: ClassVar[Hub] = Hub("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b")
