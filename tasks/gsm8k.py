"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school word problems whose answers are integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tasks.marked import NumberTask
from tasks.problem import Problem, TaskError, register
from tasks.source import Hub, rows, unique


@register
class GSM8K(NumberTask):
    """7,473 problems to train, 1,319 to test. The gold is the integer behind `####` in the published
    solution.
    """

    name: ClassVar[str] = "gsm8k"
    source: ClassVar[str] = "openai/grade-school-math"
    licence: ClassVar[str] = "MIT"
    answer_format: ClassVar[str] = "a number in the last \\boxed{} or after the last ####"
    hub: ClassVar[Hub] = Hub("openai/gsm8k", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c", "main")

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        found = rows(self.name, split, f"gsm8k_{split}.jsonl", self.hub)
        unique(self.name, found, "question")
        problems = []
        for row in found:
            try:
                gold = self.number_gold(_final(row.text("answer")))
            except TaskError as error:
                raise TaskError(f"{row.place}: field 'answer': {error}") from None
            problems.append(
                Problem(id=f"gsm8k/{split}/{row.index}", question=row.text("question"), gold=gold)
            )
        return problems[:limit]

    def problem_from(self, question: str, gold: Any) -> Problem:
        """`gold` is an integer, its text, or a published solution that ends in `#### 42`."""
        return super().problem_from(question, self.number_gold(_final(gold)))


def _final(gold: Any) -> Any:
    """What stands behind the last `####` of a published solution; a gold without one as it is."""
    return gold.rsplit("####", 1)[1] if isinstance(gold, str) and "####" in gold else gold
