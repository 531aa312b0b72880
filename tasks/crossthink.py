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
from tasks.verify.spelling import LONGEST, lowered, unwrapped

TEST_PROBLEMS = 1000

_OPTION = re.compile(r"\(?\s*([A-J])\s*(?:[).:]\s*(.*))?", re.DOTALL)
_FONT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|emph|boxed)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(?:\\\\|\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\\[()\[\]]|(?<!\\)\$|\s)+")
_LEAD = re.compile(
    r"(?:the\s+)?(?:(?:correct|final)\s+)?(?:answer|option|choice)\s*(?:is\s*:?|:)?\s*", re.IGNORECASE
)
#: A second option behind the first: the answer hedges.
_ANOTHER = re.compile(
    r"(?:[,/;&]|(?<![A-Za-z])(?:or|and|not|also|maybe|rather|option|choice))\s*\(?([A-J])(?![A-Za-z'])"
    r"|(?<![A-Za-z])\(?([A-J])\s*(?:\)|[.:](?=\s))"
    r"|^\W*[A-J](?:\W+[A-J])*\W*$"
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
        """An option by its letter alone; other answers as words without regard to case, or as mathematics.

        Behind the letter the option's own words may stand, or others that name no second option.
        """
        if len(answer) > 4 * LONGEST:
            return Verdict.WRONG
        option = _OPTION.fullmatch(problem.gold)
        if option is not None:
            given = _OPTION.fullmatch(_LEAD.sub("", _plain(answer), count=1))
            right = given is not None and given.group(1) == option.group(1)
            right = right and not _hedges(problem.question, option.group(1), (given and given.group(2)) or "")
            return Verdict.CORRECT if right else Verdict.WRONG
        if _FORMULA.fullmatch(problem.gold) and re.search("[0-9]", problem.gold):
            return Verdict.CORRECT if _substance(answer) == problem.gold else Verdict.WRONG
        if _words(problem.gold) == _words(_plain(answer)):
            return Verdict.CORRECT
        if re.search(r"[0-9\\^=]", problem.gold) is None:
            return Verdict.WRONG
        return answers.judge(problem.gold, answer, problem.question)


def _plain(answer: str) -> str:
    """The answer's words: no fonts, no delimiters, one blank between them."""
    answer = unwrapped(answer)
    for _ in range(3):
        answer = _FONT.sub(r" \1 ", answer)
    return re.sub(r" (?=[).:])", "", _SPACE.sub(" ", answer)).strip()


def _hedges(question: str, letter: str, words: str) -> bool:
    """True if the words behind an option's letter name a second option, and are not that option's own words."""
    words = words.rstrip(" .")
    if not words or _words(words) == _words(_option(question, letter)):
        return False
    return _ANOTHER.search(words) is not None


def _option(question: str, letter: str) -> str:
    """The words of an option as the question lists it; "" where it lists none by that letter."""
    following = chr(ord(letter) + 1)
    listed = re.search(
        rf"(?<![A-Za-z])\(?{letter}\s*[).:]\s*(.*?)(?:\s*(?<![A-Za-z])\(?{following}\s*[).:]|\n|$)",
        question,
        re.DOTALL,
    )
    return _plain(listed.group(1)) if listed else ""


def _substance(answer: str) -> str:
    """A chemical formula without fonts and subscripts: `\\text{H}_2\\text{O}` is H2O."""
    return re.sub(r"\\(?:text|mathrm|ce|rm|mathbf|textbf)(?![a-zA-Z])|[{}_\s$]", "", lowered(answer))


def _words(text: str) -> str:
    return " ".join(text.lower().strip(" .\"'").split())
