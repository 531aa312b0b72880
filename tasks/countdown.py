"""Countdown: reach a target from four numbers, each used at most once, with + - * / and parentheses.

The problems are generated as in the paper's set-up (20,000 to train, 512 to test). A response's text is
parsed by the small parser below and computed in exact fractions; it is never handed to Python's own
evaluator.

What counts as an answer, where public descriptions leave it open: numbers may be left out ("at most once");
the expression may be followed by `= target`, but not by `=` and anything else; a sign in front of a number
or bracket is refused, as are numbers glued together, decimals, powers, factorials and implicit products.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, ClassVar

from tasks.marked import BOXED_INSTRUCTION
from tasks.problem import Problem, Task, register
from tasks.verdict import TaskError, Verdict
from tasks.verify import spellings
from tasks.verify.extraction import last_box
from tasks.verify.spelling import MINUS

COUNT = 4
LARGEST = 99
TARGETS = (10, 99)
PROBLEMS = {"train": 20_000, "test": 512}

#: Longer or deeper expressions are refused unread; four numbers need neither.
LONGEST = 400
DEEPEST = 32

_TOKEN = re.compile(r"\s*(?:(0|[1-9][0-9]{0,8})(?![0-9])|(\\frac\b|\\over\b|[-+*/(){}=]))")
_WRITTEN = re.compile(
    r"\\(?:displaystyle|left|right|[bB]igg?[lrm]?|q?quad|bf|rm)(?![a-zA-Z])|\\[,;:! ]|\$|\\[()\[\]]"
    r"|[\u00a0\u2009\u202f]"
)
_FONT = re.compile(r"\\(?:text|textbf|mathbf|mathrm|boxed)\s*\{([^{}]*)\}")
_REPLACED = (
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("\\*", "*"),
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\div", "/"),
    ("\\ast", "*"),
    ("∗", "*"),
    ("[", "("),
    ("]", ")"),
    ("×", "*"),
    ("✕", "*"),
    ("·", "*"),
    ("⋅", "*"),
    ("÷", "/"),
    ("∕", "/"),
    ("⁄", "/"),
)


class ExpressionError(ValueError):
    """A text that is not an expression of this game."""


class _Parser:
    """Recursive descent over +, -, *, /, parentheses and `\\frac{}{}`; collects the numbers that it meets."""

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise ExpressionError(f"longer than {LONGEST} characters")
        text = _FONT.sub(r" \1 ", _WRITTEN.sub(" ", text)).strip().rstrip(".;")
        text = MINUS.sub("-", text)
        for old, new in _REPLACED:
            text = text.replace(old, new)
        self.tokens: list[str] = []
        self.numbers: list[int] = []
        self.at = 0
        position, text = 0, text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise ExpressionError(f"unexpected {text[position : position + 10]!r}")
            self.tokens.append(match.group(1) or match.group(2))
            position = match.end()

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise ExpressionError(f"expected {expected or 'a number'}, found {token or 'the end'}")
        self.at += 1
        return token

    def sum(self, depth: int = 0) -> Fraction:
        if depth > DEEPEST:
            raise ExpressionError(f"nested deeper than {DEEPEST}")
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            value = value + self.product(depth) if self.take() == "+" else value - self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while self.peek() in ("*", "/"):
            operator, factor = self.take(), self.factor(depth)
            value = value * factor if operator == "*" else self.quotient(value, factor)
        return value

    def factor(self, depth: int) -> Fraction:
        token = self.take()
        if token in ("(", "{"):
            value = self.sum(depth + 1)
            if self.peek() == "\\over":  # TeX divides all before it in the group by all behind it
                self.take()
                value = self.quotient(value, self.sum(depth + 1))
            self.take(")" if token == "(" else "}")
            return value
        if token == "\\frac":
            self.take("{")
            top = self.sum(depth + 1)
            self.take("}")
            self.take("{")
            bottom = self.sum(depth + 1)
            self.take("}")
            return self.quotient(top, bottom)
        if not token.isdigit():
            raise ExpressionError(f"expected a number, found {token}")
        self.numbers.append(int(token))
        return Fraction(int(token))

    @staticmethod
    def quotient(top: Fraction, bottom: Fraction) -> Fraction:
        if bottom == 0:
            raise ExpressionError("division by zero")
        return top / bottom


def evaluate(text: str) -> tuple[Fraction, list[int], int | None]:
    """Value of an expression, the numbers it uses, and the integer behind its `=`, None without one.

    Raises ExpressionError for anything that is not such an expression.
    """
    parser = _Parser(text)
    value = parser.sum()
    claimed = None
    if parser.peek() == "=":
        parser.take()
        token = parser.take()
        if not token.isdigit():
            raise ExpressionError(f"expected an integer behind =, found {token}")
        claimed = int(token)
    if parser.peek():
        raise ExpressionError(f"unexpected {parser.peek()}")
    return value, parser.numbers, claimed


def _draw(source: random.Random) -> tuple[tuple[int, ...], int] | None:
    """Four numbers and a target that a random expression over all four reaches; None if this draw reaches
    none.
    """
    numbers = tuple(source.randint(1, LARGEST) for _ in range(COUNT))
    values = list(numbers)
    while len(values) > 1:
        source.shuffle(values)
        left, right = values.pop(), values.pop()
        reached = [left + right, left * right]
        if left > right:
            reached.append(left - right)
        if right > 1 and left % right == 0:
            reached.append(left // right)
        values.append(source.choice(reached))
    target = values[0]
    return (numbers, target) if TARGETS[0] <= target <= TARGETS[1] and target not in numbers else None


def _generate(split: str, taken: set[tuple[tuple[int, ...], int]]) -> Iterator[tuple[tuple[int, ...], int]]:
    """The items of a split, each from a stream of its own; none repeats another or one that is `taken`."""
    for index in range(PROBLEMS[split]):
        source = random.Random(f"countdown/{split}/{index}")
        while True:
            item = _draw(source)
            if item is not None:
                key = (tuple(sorted(item[0])), item[1])
                if key not in taken:
                    break
        taken.add(key)
        yield item


def _search(values: list[tuple[Fraction, str]], target: int) -> str | None:
    for value, text in values:
        if value == target:
            return text
    for i, (a, left) in enumerate(values):
        for j, (b, right) in enumerate(values):
            if i == j:
                continue
            rest = [value for index, value in enumerate(values) if index not in (i, j)]
            made = [(a - b, f"({left}-{right})")]
            if i < j:
                made += [(a + b, f"({left}+{right})"), (a * b, f"({left}*{right})")]
            if b:
                made.append((a / b, f"({left}/{right})"))
            for item in made:
                solution = _search([item, *rest], target)
                if solution is not None:
                    return solution
    return None


@register
class Countdown(Task):
    """Generated; every item has a solution that uses all four numbers, and no target is one of the
    numbers.
    """

    name: ClassVar[str] = "countdown"
    source: ClassVar[str] = "generated by this file, after the four-number Countdown of the FlowTracer paper"
    licence: ClassVar[str] = "Apache-2.0"
    answer_format: ClassVar[str] = "an expression in the last \\boxed{}"

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        taken: set[tuple[tuple[int, ...], int]] = set()
        if split == "train":
            for _ in _generate("test", taken):
                pass
        problems: list[Problem] = []
        for index, (numbers, target) in enumerate(_generate(split, taken)):
            if limit is not None and index >= limit:
                break
            listed = ", ".join(map(str, numbers))
            question = f"Using the numbers {listed}, make an expression that equals {target}."
            gold = {"numbers": list(numbers), "target": target}
            problems.append(Problem(id=f"countdown/{split}/{index}", question=question, gold=gold))
        return problems

    def problem_from(self, question: str, gold: Any) -> Problem:
        def whole(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= 0

        if (
            not isinstance(gold, dict)
            or not whole(gold.get("target"))
            or not isinstance(gold.get("numbers"), (list, tuple))
            or not gold["numbers"]
            or not all(map(whole, gold["numbers"]))
        ):
            form = '{"numbers": [integers], "target": integer}'
            raise TaskError(f"task countdown: gold must be {form}, not {gold!r:.80}")
        return super().problem_from(question, {"numbers": list(gold["numbers"]), "target": gold["target"]})

    def prompt(self, problem: Problem) -> str:
        rules = "Use each number at most once, with + - * / and parentheses only."
        return f"{problem.question} {rules} {BOXED_INSTRUCTION}"

    def gold_answer(self, problem: Problem) -> str | None:
        """Some expression that reaches the target, by search; None if there is none."""
        return _search(
            [(Fraction(number), str(number)) for number in problem.gold["numbers"]], problem.gold["target"]
        )

    def extract(self, text: str) -> tuple[int, int] | None:
        return last_box(text)

    def changed(self, problem: Problem, answer: str) -> Iterator[str]:
        return spellings.other_numbers(answer)

    def judge(self, problem: Problem, answer: str) -> Verdict:
        try:
            value, used, claimed = evaluate(answer)
        except ExpressionError:
            return Verdict.WRONG
        target = problem.gold["target"]
        allowed = Counter(used) <= Counter(problem.gold["numbers"])
        right = allowed and value == target and claimed in (None, target)
        return Verdict.CORRECT if right else Verdict.WRONG
