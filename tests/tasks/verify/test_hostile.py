"""Protects against answers that are made to hang, crash or flood a verifier: a verdict in time, never an error."""

import time

import pytest

import tasks
from tasks import Verdict
from tasks.verify import points, spelling

HOSTILE = {
    "long": "1+" * 100_000 + "1",
    "many boxes": "\\boxed{1} and " * 15_000,
    "a broken surrogate": "\ud800 7 \udfff",
    "deep brackets": "(" * 5000 + "7" + ")" * 5000,
    "deep braces": "{" * 5000 + "7" + "}" * 5000,
    "deep fractions": "\\frac{1}{" * 5000 + "7" + "}" * 5000,
    "deep roots": "\\sqrt{" * 300 + "7" + "}" * 300,
    "a tower": "9^{9^{9^{9^{9}}}}",
    "powers in program notation": "((((9**9999)**9999)**9999)**9999)",
    "the sine of a tower": "\\sin(10^{9999}^{9999})",
    "the sine of a large power": "\\sin((10^{9999})^{9999})",
    "a large factorial": "((10^{9000})^{9000})!",
    "a large binomial": "\\binom{10^{9000}}{5}",
    "many signs": "-" * 1400 + "7",
    "many equals": "7=" * 700 + "7",
    "many letters": "\\text{A" + ", A" * 400 + "!}",
    "blanks in a row": "7" + " " * 5900 + "x",
    "blanks of TeX in a row": "7" + "~" * 5900 + "x",
    "only spaces": " " * 1400 + "x" + " " * 50,
    "unclosed": "\\text{" * 200,
    "nulls": "\x00\x01\x02",
}


@pytest.mark.parametrize("name", ["math500", "gsm8k", "crossthink", "countdown"])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_verdict_in_time(name, what):
    task = tasks.get(name)
    gold = (
        {"numbers": [7, 8], "target": 15} if name == "countdown" else "7 m/s" if name == "crossthink" else "7"
    )
    problem = task.problem_from("What is it?", gold)
    began = time.monotonic()
    verdict = task.verify(problem, f"So it is \\boxed{{{HOSTILE[what]}}}.")
    assert isinstance(verdict, Verdict) and verdict is not Verdict.ERROR
    assert time.monotonic() - began < 30  # PATIENCE for a worker on a busy machine; alone it is far less


@pytest.mark.parametrize("blank", [" ", "~", "\\quad "])
def test_a_run_of_blanks_costs_nothing(blank):
    """Each pattern that looks for words between blanks would take the cube of their number: a minute for 6,000."""
    began = time.process_time()
    assert spelling.clean("7" + blank * (5900 // len(blank)) + "x") == "7 x"
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "what", ["long", "a broken surrogate", "deep brackets", "deep fractions", "unclosed", "nulls"]
)
def test_a_gold_that_cannot_be_read_raises_nothing(what):
    task = tasks.get("math500")
    problem = tasks.Problem("given", "", HOSTILE[what])
    assert isinstance(task.verify(problem, "\\boxed{x+7}"), Verdict)


@pytest.mark.parametrize(
    "text", ["\\sin((10^{9999})^{9999})", "((10^{9000})^{9000})!", "9^{9^{9^{9}}}", "x^{x^{x}}"]
)
def test_what_would_take_long_is_left_to_a_worker(text):
    began = time.process_time()
    assert points.same(text, "7", {}) is not True
    assert time.process_time() - began < 2
