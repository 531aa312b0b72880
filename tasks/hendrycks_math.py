"""MATH (Hendrycks et al. 2021, arXiv 2103.03874) and MATH-500, the 500 of its test problems that are
commonly scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tasks.marked import ExpressionTask
from tasks.problem import Problem, register
from tasks.source import Hub, Row, load, without_overlap


def _question(row: Row) -> str:
    """The hub calls the field `problem`; the folder's MATH-500 calls it `question`."""
    return row.text("question" if "question" in row.fields else "problem")


def _gold(row: Row) -> Any:
    """MATH-500's `answer`, or the published solution with the answer in its last box."""
    return row.text("answer" if "answer" in row.fields else "solution")


@register
class HendrycksMath(ExpressionTask):
    """7,500 problems to train (less what overlaps the test problems), 5,000 to test, of seven subjects."""

    name: ClassVar[str] = "math"
    source: ClassVar[str] = "hendrycks/math"
    licence: ClassVar[str] = "MIT"
    hub: ClassVar[Hub] = Hub(
        "EleutherAI/hendrycks_math",
        "21a5633873b6a120296cce3e2df9d5550074f4a3",
        "algebra,counting_and_probability,geometry,intermediate_algebra,number_theory,prealgebra,precalculus",
    )

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        problems = load(self, split, f"math_{split}.jsonl", self.hub, _question, _gold, repeated=True)
        if split == "train":
            tests = self.problems("test"), Math500().problems("test")
            problems, self.removed = without_overlap(problems, *tests)
        return problems[:limit]


@register
class Math500(ExpressionTask):
    """500 of MATH's test problems, as chosen by Lightman et al. 2023 (arXiv 2305.20050)."""

    name: ClassVar[str] = "math500"
    source: ClassVar[str] = "openai/prm800k, a part of hendrycks/math"
    licence: ClassVar[str] = "MIT"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    hub: ClassVar[Hub] = Hub("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be")

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        return load(self, split, "math500.jsonl", self.hub, _question, _gold)[:limit]
