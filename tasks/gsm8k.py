"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school word problems whose answers are integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tasks.marked import NumberTask
from tasks.problem import Problem, register
from tasks.source import Hub, load, without_overlap


@register
class GSM8K(NumberTask):
    """7,473 problems to train, 1,319 to test. The gold is the integer behind `####` in the published
    solution.
    """

    name: ClassVar[str] = "gsm8k"
    source: ClassVar[str] = "openai/grade-school-math"
    licence: ClassVar[str] = "MIT"
    answer_format: ClassVar[str] = "a number in the last \\boxed{} or after the last ####"
    samples: ClassVar[int] = 4
    hub: ClassVar[Hub] = Hub("openai/gsm8k", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c", "main")

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        problems = load(self, split, f"gsm8k_{split}.jsonl", self.hub, question="question", gold="answer")
        if split == "train":
            problems, self.removed = without_overlap(problems, self.problems("test"))
        return problems[:limit]
