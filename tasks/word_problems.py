"""Word problems: one or two steps of small-integer arithmetic in plain English, for a small pretrained
model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from tasks.marked import MARKERS, NumberTask
from tasks.problem import Problem, register
from tasks.verdict import TaskError
from tasks.verify import extraction

#: The answer is the last number of the response: for a policy that keeps to no marker.
LAST = "last"
SENTENCE_INSTRUCTION = "Answer in one sentence."
TRAIN_PROBLEMS = 2048
TEST_PROBLEMS = 256
STEPS = (1, 2)

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack", "Kate", "Leo")
THINGS = ("apples", "books", "coins", "eggs", "flowers", "marbles", "pencils", "shells", "stamps", "stickers")
PLACES = ("box", "bag", "basket", "drawer", "jar")

#: Each draws its numbers through `n(lowest)` (up to the task's largest) and gives a text and its answer.
_Draw = Callable[[random.Random, Callable[..., int]], tuple[str, int]]


def _who(source: random.Random) -> tuple[str, str, str]:
    first, second = source.sample(NAMES, 2)
    return first, second, source.choice(THINGS)


def _gets_more(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, other, what = _who(source)
    a, b = n(), n()
    return (
        f"{who} has {a} {what}. {other} gives {who} {b} more {what}. How many {what} does {who} have now?",
        a + b,
    )


def _gives_away(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, other, what = _who(source)
    b, left = n(), n()
    return (
        f"{who} has {b + left} {what} and gives {b} of them to {other}. "
        f"How many {what} does {who} have left?",
        left,
    )


def _in_places(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, _, what = _who(source)
    place, a, b = source.choice(PLACES), n(2), n(2)
    plural = place + ("es" if place.endswith("x") else "s")
    return (
        f"{who} has {a} {plural} with {b} {what} in each {place}. How many {what} does {who} have in total?",
        a * b,
    )


def _together(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, other, what = _who(source)
    a, b = n(), n()
    return (
        f"{who} found {a} {what} and {other} found {b} {what}. How many {what} did they find together?",
        a + b,
    )


def _how_many_more(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, other, what = _who(source)
    b, more = n(), n()
    return (
        f"{who} has {b + more} {what}. {other} has {b} {what}. "
        f"How many more {what} does {who} have than {other}?",
        more,
    )


def _shared(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, _, what = _who(source)
    friends, each = n(2), n()
    return (
        f"{who} shares {friends * each} {what} equally among {friends} friends. "
        f"How many {what} does each friend get?",
        each,
    )


def _buys(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, _, what = _who(source)
    a, b = n(2), n(2)
    return f"{who} buys {a} {what} at {b} dollars each. How many dollars does {who} spend?", a * b


def _gets_and_gives(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, other, what = _who(source)
    a, b = n(2), n()
    c = source.randint(1, a)
    return (
        f"{who} has {a} {what}. {who} finds {b} more and then gives {c} to {other}. "
        f"How many {what} does {who} have now?",
        a + b - c,
    )


def _places_and_more(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, other, what = _who(source)
    place, a, b, c = source.choice(PLACES), n(2), n(2), n()
    plural = place + ("es" if place.endswith("x") else "s")
    return (
        f"{who} has {a} {plural} with {b} {what} in each {place}. {other} gives {who} {c} more {what}. "
        f"How many {what} does {who} have in total?",
        a * b + c,
    )


def _pays(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, _, what = _who(source)
    a, b, c = n(2), n(2), n()
    return (
        f"{who} has {a * b + c} dollars and buys {a} {what} at {b} dollars each. "
        f"How many dollars does {who} have left?",
        c,
    )


def _three_days(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, _, what = _who(source)
    a, b, c = n(), n(), n()
    return (
        f"{who} found {a} {what} on Monday, {b} on Tuesday and {c} on Wednesday. "
        f"How many {what} did {who} find in total?",
        a + b + c,
    )


def _has_more_than(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, other, what = _who(source)
    a, b = n(), n()
    return (
        f"{who} has {a} {what}. {other} has {b} more {what} than {who}. "
        f"How many {what} do they have together?",
        a + a + b,
    )


def _joined_and_shared(source: random.Random, n: Callable[..., int]) -> tuple[str, int]:
    who, other, what = _who(source)
    each = n(2)
    a = source.randint(1, 2 * each - 1)
    return (
        f"{who} has {a} {what} and {other} has {2 * each - a} {what}. "
        f"They put them together and share them equally. "
        f"How many {what} does each of them get?",
        each,
    )


TEMPLATES: dict[int, tuple[_Draw, ...]] = {
    1: (_gets_more, _gives_away, _in_places, _together, _how_many_more, _shared, _buys),
    2: (_gets_and_gives, _places_and_more, _pays, _three_days, _has_more_than, _joined_and_shared),
}


@register
class WordProblems(NumberTask):
    """Generated; 2,048 problems to train, 256 others to test.

    `steps` is how many operations an answer takes (1 or 2), `largest` the largest number that a template
    draws (at least 5; totals and products exceed it). `answer`: a marker as everywhere, or "last", the last number of
    the response, for a policy that keeps to no marker.
    """

    name: ClassVar[str] = "word_problems"
    source: ClassVar[str] = "generated by this file"
    licence: ClassVar[str] = "Apache-2.0"
    answer_format: ClassVar[str] = "a number after the last ####"
    marker: ClassVar[str] = "hashes"
    markers: ClassVar[tuple[str, ...]] = (*MARKERS, LAST)

    def __init__(self, steps: int = 1, largest: int = 20, answer: str | None = None) -> None:
        super().__init__(answer)
        if steps not in STEPS:
            raise TaskError(f"task word_problems: steps must be 1 or 2, not {steps!r}")
        if not isinstance(largest, int) or not 5 <= largest <= 10_000:
            raise TaskError(
                f"task word_problems: largest must be an integer from 5 to 10000, not {largest!r}"
            )
        self.steps = steps
        self.largest = largest

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        source = random.Random(f"word_problems/{self.steps}/{self.largest}")

        def n(lowest: int = 1) -> int:
            return source.randint(lowest, self.largest)

        drawn: dict[str, int] = {}
        while len(drawn) < TEST_PROBLEMS + TRAIN_PROBLEMS:
            question, answer = source.choice(TEMPLATES[self.steps])(source, n)
            drawn[question] = answer
        items = list(drawn.items())
        chosen = items[:TEST_PROBLEMS] if split == "test" else items[TEST_PROBLEMS:]
        return [
            Problem(id=f"word_problems/{split}/{index}", question=question, gold=answer)
            for index, (question, answer) in enumerate(chosen[:limit])
        ]

    def prompt(self, problem: Problem) -> str:
        return (
            f"{problem.question} {SENTENCE_INSTRUCTION}" if self.answer == LAST else super().prompt(problem)
        )

    def extract(self, text: str) -> tuple[int, int] | None:
        return extraction.last_number(text) if self.answer == LAST else super().extract(text)

    def respond(self, answer: str) -> str:
        return f"The answer is {answer}." if self.answer == LAST else super().respond(answer)

    def respelled(self, answer: str) -> Iterator[str]:
        return iter(()) if self.answer == LAST else super().respelled(answer)
