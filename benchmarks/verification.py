"""Verifications a second on one core: our tasks against plain math_verify, on answers whose verdicts are known.

Ours: `verify_all` of the tasks gsm8k and math500, which find the answer in the response and judge it, hard cases in a
process that can be killed; only what our own reader of formulas does not take needs one. math_verify:
`verify(parse(gold), parse(response))`, with its own time-outs.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable

import math_verify
import measure
from report import Report, Row, Table, figure, spread

import tasks

COUNT = 100
#: Draws a gold and an answer.
Draw = Callable[[random.Random], tuple[str, str]]


def _integer(source: random.Random) -> tuple[str, str]:
    value = source.randrange(10**6)
    return str(value), str(value)


def _wrong_integer(source: random.Random) -> tuple[str, str]:
    value = source.randrange(10**6)
    return str(value), str(value + source.randrange(1, 10))


def _grouped_integer(source: random.Random) -> tuple[str, str]:
    value = source.randrange(10**4, 10**9)
    return str(value), f"\\${value:,}"


def _fraction(source: random.Random) -> tuple[str, str]:
    over, under = source.randrange(1, 10**4), source.choice((7, 11, 13, 17, 19))
    over += over % under == 0
    return f"\\frac{{{over}}}{{{under}}}", f"{over}/{under}"


def _decimal(source: random.Random) -> tuple[str, str]:
    eighths = 2 * source.randrange(10**5) + 1
    return f"\\frac{{{eighths}}}{{8}}", str(eighths / 8)


def _interval(source: random.Random) -> tuple[str, str]:
    low, width = source.randrange(-(10**4), 10**4), source.randrange(1, 10**4)
    return f"({low}, {low + width}]", f"\\left( {low}, {low + width} \\right]"


def _polynomial(source: random.Random) -> tuple[str, str]:
    a, b = source.randrange(2, 1000), source.randrange(2, 1000)
    return f"x^2 + {a + b}x + {a * b}", f"(x + {a})(x + {b})"


def _wrong_polynomial(source: random.Random) -> tuple[str, str]:
    gold, answer = _polynomial(source)
    return gold + "1", answer


def _surd(source: random.Random) -> tuple[str, str]:
    a, b = source.randrange(2, 1000), source.choice((2, 3, 5, 6, 7, 10))
    return f"\\sqrt{{{a * a * b}}}", f"{a}\\sqrt{{{b}}}"


def _line(source: random.Random) -> tuple[str, str]:
    a, b = source.randrange(2, 1000), source.randrange(2, 1000)
    return f"y = {a}x + {b}", f"2y - {2 * a}x = {2 * b}"


def _series(source: random.Random) -> tuple[str, str]:
    n = source.randrange(3, 5000)
    return str(n * (n + 1) // 2), f"\\sum_{{k=1}}^{{{n}}} k"


#: What is asked -> task, how gold and answer are drawn, and whether the answer is right.
KINDS: dict[str, tuple[str, Draw, bool]] = {
    "integer": ("gsm8k", _integer, True),
    "wrong integer": ("gsm8k", _wrong_integer, False),
    "integer with $ and commas": ("gsm8k", _grouped_integer, True),
    "fraction, a/b": ("math500", _fraction, True),
    "fraction as a decimal": ("math500", _decimal, True),
    "half-open interval": ("math500", _interval, True),
    "factored polynomial": ("math500", _polynomial, True),
    "wrong polynomial": ("math500", _wrong_polynomial, False),
    "surd": ("math500", _surd, True),
    "equation of a line": ("math500", _line, True),
    "sum, by a worker": ("math500", _series, True),
}


def measure_kind(kind: str, repeats: int, count: int) -> Row:
    """Rates of both verifiers on `count` answers of one kind, anew for each repeat, in this process and on one core."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    if hasattr(os, "sched_setaffinity"):  # what verifies for us in other processes inherits it
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    name, draw, right = KINDS[kind]
    task = tasks.get(name)
    rates: dict[str, list[float]] = {"ours": [], "math_verify": []}
    as_expected = dict.fromkeys(rates, 0)
    for repeat in range(repeats + 1):
        source = random.Random(f"{kind}/{repeat}")
        drawn = {draw(source) for _ in range(count)}  # nothing twice: both keep results
        asked = [
            (gold, f"Step by step, we find that the answer is \\boxed{{{answer}}}.") for gold, answer in drawn
        ]
        problem_gold = "#### {}" if name == "gsm8k" else "{}"
        items = [
            (task.problem_from("What is it?", problem_gold.format(gold)), text, None) for gold, text in asked
        ]
        found: dict[str, list[bool]] = {}

        def judge_ours(items: list = items, found: dict = found) -> None:
            found["ours"] = [verdict is tasks.Verdict.CORRECT for verdict in task.verify_all(items)]

        def judge_math_verify(asked: list = asked, found: dict = found) -> None:
            parse = math_verify.parse
            found["math_verify"] = [
                math_verify.verify(parse(f"${gold}$"), parse(text)) for gold, text in asked
            ]

        for verifier, judge in (("ours", judge_ours), ("math_verify", judge_math_verify)):
            seconds = measure.clock(judge)
            if repeat:  # the first loads grammars and starts processes
                rates[verifier].append(len(asked) / seconds)
                as_expected[verifier] += sum(verdict is right for verdict in found[verifier]) / len(asked)
    return {
        "kind": kind,
        "task": name,
        **{verifier: measure.quartiles(values) for verifier, values in rates.items()},
        **{f"{verifier}_as_expected": total / repeats for verifier, total in as_expected.items()},
    }


def run(settings: measure.Settings) -> Report:
    """All kinds of answers, each in a fresh process."""
    count = 5 if settings.smoke else COUNT
    rows = []
    for kind in KINDS:
        measure.progress(f"verify: {kind}")
        rows.append(measure.fresh(measure_kind, kind, settings.repeats, count))
    text = [
        f"One core. Answers a second: median and quartiles of {settings.repeats} repeats of {count} answers, all "
        "different, after a repeat that is not counted. As expected: the share of verdicts that are right."
    ]
    return Report("verify", "Verifications a second", text, [Table(COLUMNS, rows)])


COLUMNS = {
    "answer": lambda row: row["kind"],
    "task": lambda row: row["task"],
    "ours (quartiles)": lambda row: spread(row, "ours"),
    "math_verify (quartiles)": lambda row: spread(row, "math_verify"),
    "ratio": lambda row: figure(row["ours"]["median"] / row["math_verify"]["median"]),
    "ours as expected": lambda row: f"{row['ours_as_expected']:.0%}",
    "math_verify as expected": lambda row: f"{row['math_verify_as_expected']:.0%}",
}
