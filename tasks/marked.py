"""What tasks with one number as their answer share: the markers of an answer, the prompts that ask for them,
the verdict.
"""

from __future__ import annotations

import re
from typing import Any

from tasks.problem import Problem, Task, TaskError, Verdict
from tasks.verify import extraction, numbers

#: The system prompt of the paper.
BOXED_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
HASHES_INSTRUCTION = (
    "Please reason step by step, and write your final answer as a number on the last line, after ####."
)
MARKERS = ("either", "boxed", "hashes")

_VARIABLE = re.compile(r"\s*\$?\s*[A-Za-z]\s*=\s*")


class NumberTask(Task):
    """A task whose answer is one number, marked by `\\boxed{42}` or by a line `#### 42`, compared exactly.

    `answer` says which marker counts: "boxed", "hashes", or "either", the last of both. The prompt asks for
    hashes only where they alone count.
    """

    def __init__(self, answer: str = "either") -> None:
        if answer not in MARKERS:
            raise TaskError(f"task {self.name}: answer must be one of {', '.join(MARKERS)}, not {answer!r}")
        self.answer = answer

    def prompt(self, problem: Problem) -> str:
        return f"{problem.question}\n{HASHES_INSTRUCTION if self.answer == 'hashes' else BOXED_INSTRUCTION}"

    def extract(self, text: str) -> tuple[int, int] | None:
        boxed = extraction.last_box(text) if self.answer != "hashes" else None
        hashes = extraction.last_hashes(text, _is_number) if self.answer != "boxed" else None
        return max((span for span in (boxed, hashes) if span is not None), default=None)

    def judge(self, problem: Problem, answer: str) -> Verdict:
        amount = numbers.parse(answer) or numbers.parse(_VARIABLE.sub("", answer, count=1))
        if amount is None:
            return Verdict.WRONG
        same = numbers.equal(numbers.Amount(problem.gold), amount, numbers.asks_percent(problem.question))
        return Verdict.CORRECT if same else Verdict.WRONG

    def number_gold(self, gold: Any) -> int:
        """The integer that a published gold states: an integer, or a text that is one; TaskError
        otherwise.
        """
        amount = None if isinstance(gold, bool) else numbers.parse(str(gold))
        if amount is None or amount.percent or amount.value.denominator != 1:
            raise TaskError(f"task {self.name}: gold must be an integer, not {gold!r:.60}")
        return int(amount.value)


def _is_number(text: str) -> bool:
    return numbers.parse(text) is not None
