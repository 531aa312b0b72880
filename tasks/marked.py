"""Shared by the tasks whose answers are marked: the markers, the prompts that ask for them, the verdicts on
what they hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, ClassVar

from tasks.problem import Problem, Task
from tasks.verdict import TaskError, Verdict
from tasks.verify import answers, extraction, numbers, spellings

#: The system prompt of the paper.
BOXED_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
HASHES_INSTRUCTION = (
    "Please reason step by step, and write your final answer as a number on the last line, after ####."
)
MARKERS = ("either", "boxed", "hashes")

#: A numbered heading of markdown, `#### 3. Conclude`, which answers nothing.
_HEADING = re.compile(r"[0-9]+[.):]\s+\**[A-Za-z]")


class NumberTask(Task):
    """A task whose answer is one integer, marked by `\\boxed{42}` or by a line `#### 42`, compared exactly.

    `answer` says which marker counts: "boxed", "hashes", or "either", the last of both. The prompt asks for
    hashes only where they alone count.
    """

    marker: ClassVar[str] = "either"
    markers: ClassVar[tuple[str, ...]] = MARKERS

    def __init__(self, answer: str | None = None) -> None:
        if answer is not None and answer not in self.markers:
            raise TaskError(
                f"task {self.name}: answer must be one of {', '.join(self.markers)}, not {answer!r}"
            )
        self.answer = answer or self.marker

    def prompt(self, problem: Problem) -> str:
        return f"{problem.question}\n{HASHES_INSTRUCTION if self.answer == 'hashes' else BOXED_INSTRUCTION}"

    def extract(self, text: str) -> tuple[int, int] | None:
        boxed = extraction.last_box(text) if self.answer != "hashes" else None
        hashes = extraction.last_hashes(text, _is_number) if self.answer != "boxed" else None
        return max((span for span in (boxed, hashes) if span is not None), default=None)

    def respond(self, answer: str) -> str:
        return f"#### {answer}" if self.answer == "hashes" else f"\\boxed{{{answer}}}"

    def respelled(self, answer: str) -> Iterator[str]:
        return spellings.integers(answer, boxed=self.answer != "hashes")

    def lenient(self, text: str) -> tuple[int, int] | None:
        return self.extract(text) or extraction.lenient(text)

    def judge(self, problem: Problem, answer: str) -> Verdict:
        amount = numbers.parse(answer)
        if amount is None:
            same = answers.is_integer(problem.gold, answer, problem.question)
        else:
            gold = numbers.Amount(Fraction(problem.gold))
            same = numbers.equal(
                gold, amount, amount.percent and numbers.asks_percent(problem.question, gold.value)
            )
        return Verdict.CORRECT if same else Verdict.WRONG

    def problem_from(self, question: str, gold: Any) -> Problem:
        """`gold` is an integer, its text, or a published solution that marks it."""
        return super().problem_from(question, self.gold_of(gold))

    def gold_of(self, gold: Any) -> int:
        """The integer that a published gold states: a number, its text, or a solution that ends in a marked
        one.
        """
        if isinstance(gold, str):
            span = extraction.last_hashes(gold, _is_number) or extraction.last_box(gold)
            gold = gold[span[0] : span[1]] if span else gold
        amount = None if isinstance(gold, bool) else numbers.parse(str(gold))
        if amount is None or amount.percent or amount.value.denominator != 1:
            raise TaskError(f"task {self.name}: gold must be an integer, not {gold!r:.60}")
        return int(amount.value)


class ExpressionTask(Task):
    """A task whose answer is what its last `\\boxed{}` holds: a number, expression, tuple, set, word, ..."""

    answer_format: ClassVar[str] = "the last \\boxed{}"
    samples: ClassVar[int] = 4
    slow: ClassVar[bool] = True

    def prompt(self, problem: Problem) -> str:
        return f"{problem.question}\n{BOXED_INSTRUCTION}"

    def extract(self, text: str) -> tuple[int, int] | None:
        return extraction.last_box(text)

    def respelled(self, answer: str) -> Iterator[str]:
        as_integer = list(spellings.integers(answer, boxed=True))
        return iter(as_integer) if as_integer else spellings.expressions(answer)

    def lenient(self, text: str) -> tuple[int, int] | None:
        return self.extract(text) or extraction.lenient(text)

    def judge(self, problem: Problem, answer: str) -> Verdict:
        return answers.judge(problem.gold, answer, problem.question)

    def verify(self, problem: Problem, text: str, finish_reason: str | None = None) -> Verdict:
        """As every task; where the gold lists several answers, the boxes of one closing sentence count together."""
        verdict = super().verify(problem, text, finish_reason)
        if verdict is not Verdict.WRONG or text.count("boxed") < 2:
            return verdict
        spans = extraction.closing_boxes(text)
        gold = self.gold_answer(problem)
        if len(spans) < 2 or gold is None or not answers.is_list(gold):
            return verdict
        return self.judge(problem, ", ".join(text[start:end] for start, end in spans))

    def problem_from(self, question: str, gold: Any) -> Problem:
        """`gold` is the answer's LaTeX, a number, or a published solution with the answer in its last
        `\\boxed{}`.
        """
        return super().problem_from(question, self.gold_of(gold))

    def gold_of(self, gold: Any) -> str:
        """The LaTeX of the answer that a published gold states; TaskError if there is none."""
        if isinstance(gold, float) and gold.is_integer():
            gold = int(gold)
        text = "" if isinstance(gold, bool) or not isinstance(gold, (str, int, float)) else str(gold)
        if "\\boxed" in text:
            span = extraction.last_box(text)
            bare = extraction.bare_box(text) if not extraction.boxes(text) else None
            text = text[span[0] : span[1]] if span else bare or ""
        if not text.strip():
            raise TaskError(
                f"task {self.name}: gold must be a number or LaTeX with an answer in it, not {gold!r:.60}"
            )
        return text.strip()


def _is_number(text: str) -> bool:
    return _HEADING.match(text) is None and numbers.parse(text) is not None
