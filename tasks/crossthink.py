"""CrossThink-QA (Akter et al. 2025, arXiv 2504.13941): questions of many fields, with options or short
answers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from tasks.dapo_math import asked, rule_gold
from tasks.marked import ExpressionTask
from tasks.problem import Problem, register
from tasks.source import Hub, Row, load, without_overlap
from tasks.verdict import TaskError, Verdict
from tasks.verify import answers
from tasks.verify.spelling import unwrapped

TEST_PROBLEMS = 1000

_OPTION = re.compile(r"\(?\s*([A-J])\s*(?:[).:]\s*(.*))?", re.DOTALL)
_WRAPPED = re.compile(r"\s*\\(?:text|mathrm|textbf|mathbf|textit|emph)\s*\{([^{}]*)\}\s*")
#: A second option behind the first: the answer hedges.
_ANOTHER = re.compile(
    r"(?<![A-Za-z])(?:or|and|,|/)\s*\(?([A-J])\s*(?:[).:,]|$)|(?<![A-Za-z])(?:or|and)\s+\(?([A-J])(?![A-Za-z])"
)
_FORMULA = re.compile(r"(?:[A-Z][a-z]?[0-9]*|\([A-Za-z0-9]+\)[0-9]*)+[+-]?")


def _question(row: Row) -> str:
    extra = row.fields.get("meta_data")
    stated = extra.get("question") if isinstance(extra, dict) else None
    return stated.strip() if isinstance(stated, str) and stated.strip() else asked(row)


@register
class CrossThink(ExpressionTask):
    """187,496 published questions. The publisher has no test split: 1,000 drawn by a fixed seed are held
    out.
    """

    name: ClassVar[str] = "crossthink"
    source: ClassVar[str] = "nvidia/Nemotron-CrossThink, its split train_qa"
    licence: ClassVar[str] = "CC BY 4.0"
    answer_format: ClassVar[str] = "an option letter or a short answer in the last \\boxed{}"
    hub: ClassVar[Hub] = Hub("nvidia/Nemotron-CrossThink", "a4ce9a3b9434c5f231e2cbe30696d9a721c11d69")

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        problems = load(
            self, split, "crossthink_qa.jsonl", self.hub, _question, rule_gold, "train_qa", repeated=True
        )
        order = list(range(len(problems)))
        random.Random("crossthink/split").shuffle(order)
        held_out = set(order[: min(TEST_PROBLEMS, len(problems) // 5)])
        test = [problem for index, problem in enumerate(problems) if index in held_out]
        if split == "test":
            return test[:limit]
        rest = [problem for index, problem in enumerate(problems) if index not in held_out]
        to_train, self.removed = without_overlap(rest, test)
        return to_train[:limit]

    def gold_of(self, gold: Any) -> str:
        """The option's letter or the answer's text."""
        if not isinstance(gold, (str, int, float)) or isinstance(gold, bool) or not str(gold).strip():
            raise TaskError(f"task crossthink: gold must be a letter or a text, not {gold!r:.60}")
        return str(gold).strip()

    def judge(self, problem: Problem, answer: str) -> Verdict:
        """An option by its letter alone; other answers as words without regard to case, or as mathematics."""
        option, given = _OPTION.fullmatch(problem.gold), _OPTION.fullmatch(_unwrapped(answer))
        if option is not None:
            hedged = given is not None and _ANOTHER.search(given.group(2) or "") is not None
            right = given is not None and given.group(1) == option.group(1) and not hedged
            return Verdict.CORRECT if right else Verdict.WRONG
        if _FORMULA.fullmatch(problem.gold) and re.search("[0-9]", problem.gold):
            return Verdict.CORRECT if _substance(answer) == problem.gold else Verdict.WRONG
        if _words(problem.gold) == _words(_unwrapped(answer)):
            return Verdict.CORRECT
        if re.search(r"[0-9\\^=]", problem.gold) is None:
            return Verdict.WRONG
        return answers.judge(problem.gold, answer, problem.question)


def _unwrapped(answer: str) -> str:
    answer = unwrapped(answer)
    match = _WRAPPED.fullmatch(answer)
    return (match.group(1) if match else answer).strip()


def _substance(answer: str) -> str:
    """A chemical formula without fonts and subscripts: `\\text{H}_2\\text{O}` is H2O."""
    return re.sub(r"\\(?:text|mathrm|ce|rm|mathbf|textbf)(?![a-zA-Z])|[{}_\s$]", "", answer)


def _words(text: str) -> str:
    return " ".join(text.lower().strip(" .\"'").split())
