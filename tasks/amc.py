"""AMC 2023: forty problems of AMC 12A and 12B, reworded by their publisher so that each answer is an
integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tasks.marked import NumberTask
from tasks.problem import Problem, register
from tasks.source import Hub, load


@register
class Amc23(NumberTask):
    """40 problems to test. The published answers are floats with integer values."""

    name: ClassVar[str] = "amc23"
    source: ClassVar[str] = "Mathematical Association of America, through the Art of Problem Solving wiki"
    licence: ClassVar[str] = "not stated by the publisher"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    answer_format: ClassVar[str] = "an integer in the last \\boxed{}"
    marker: ClassVar[str] = "boxed"
    samples: ClassVar[int] = 16
    hub: ClassVar[Hub] = Hub("math-ai/amc23", "80815d37005feb82cd7f8fbc6901d5d3eff43057")

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        return load(self, split, "amc23.jsonl", self.hub, question="question", gold="answer")[:limit]
