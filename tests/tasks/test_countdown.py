"""Countdown: only the given numbers, each at most once, exact; hostile expressions are wrong, fast, and never run."""

import itertools
import time
from fractions import Fraction

import pytest

import tasks
from tasks.countdown import ExpressionError, evaluate

GOLD = {"numbers": [25, 3, 7, 2], "target": 54}


@pytest.fixture(scope="module")
def task():
    return tasks.get("countdown")


def box(expression):
    return f"So it is \\boxed{{{expression}}}."


@pytest.mark.parametrize(
    "expression",
    [
        "25 * 2 + 7 - 3",
        "(25*2)+(7-3)",
        "25\\times 2 + 7 - 3",
        "25 \\cdot 2 + \\left(7 - 3\\right)",
        "25×2+7−3",
        "25*2+7-3 = 54",
        "$25*2+7-3$",
        "((((25))*2+7-3))",
    ],
)
def test_right_expressions(task, expression):
    assert task.verify(task.problem_from("q", GOLD), box(expression)) == "correct"


def test_not_all_numbers_are_needed_and_fractions_are_exact(task):
    problem = task.problem_from("q", {"numbers": [8, 3, 8, 3], "target": 24})
    assert task.verify(problem, box("8/(3-8/3)")) == "correct"
    assert task.verify(problem, box("\\frac{8}{3-\\frac{8}{3}}")) == "correct"
    assert task.verify(problem, box("\\dfrac{8}{3-8/3}")) == "correct"
    assert task.verify(problem, box("8*3")) == "correct"
    assert (
        task.verify(task.problem_from("q", {"numbers": [1, 3], "target": 1}), box("1/3+1/3+1/3")) == "wrong"
    )


@pytest.mark.parametrize(
    "expression",
    [
        "25*2+7-3 = 55",
        "54 = 25*2+7-3",
        "25*2+7-3 = 54 = 54",
        "54",
        "25+25+7-3",
        "27*2",
        "50 + 7 - 3",
        "25*2+7-3!",
        "25*2+4",
        "25**2",
        "25//2",
        "25^2",
        "25 2",
        "2 5*2+7-3",
        "2_5*2+7-3",
        "2.5e1*2+7-3",
        "25.0*2+7-3",
        "025*2+7-3",
        "25(2)+7-3",
        "-3+7+25*2",
        "+25*2+7-3",
        "25*2+7+-3",
        "25*2-(-7)-3",
        "２５*2+7-3",
        "२५*2+7-3",
        "25*2+7-3, or 54",
        "25*2+(7-3",
        "25*2+7-3)",
        "25*2+7-",
        "*25",
        "()",
        "25/(3-3)",
        "25/(7-7)*2",
        "\\sqrt{25}*2",
        "\\frac{25}{}",
        "\\frac25",
        "__import__('os').system('touch pwned')",
        "(lambda: 54)()",
        "x",
        "=",
        "25*2+7-3=",
    ],
)
def test_wrong_expressions(task, expression):
    assert task.verify(task.problem_from("q", GOLD), box(expression)) == "wrong"


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 100_000 + "25" + ")" * 100_000,
        "(" * 190 + "25" + ")" * 190,
        "\\frac{" * 60 + "25",
        "9" * 100_000,
        "9^9^9^9^9",
        "9**9**9**9",
        "99999999999999999999*99999999999999999999",
        "1" + "+1" * 100_000,
        "1/" * 190 + "1",
        "{" * 300 + "}" * 300,
        " " * 1_000_000,
        "\\boxed{" * 10_000 + "1" + "}" * 10_000,
    ],
)
def test_hostile_expressions_are_wrong_and_fast(task, expression):
    started = time.process_time()
    assert task.verify(task.problem_from("q", GOLD), box(expression)) in ("wrong", "no_answer")
    assert time.process_time() - started < 1


def test_evaluate_keeps_to_precedence_and_left_association():
    assert evaluate("10-4-3") == (Fraction(3), [10, 4, 3], None)
    assert evaluate("2+3*4")[0] == 14
    assert evaluate("8/4/2")[0] == 1
    assert evaluate("8/(4/2)")[0] == 4
    assert evaluate("1/3 = 4") == (Fraction(1, 3), [1, 3], 4)
    with pytest.raises(ExpressionError, match="division by zero"):
        evaluate("1/(2-2)")


def test_verdict_without_a_box(task):
    problem = task.problem_from("q", GOLD)
    assert task.verify(problem, "25*2+7-3", "stop") == "no_answer"
    assert task.verify(problem, "25*2+7-3", "length") == "truncated"
    assert task.verify(problem, "\\boxed{25*2+7-3", "length") == "truncated"
    assert task.verify(problem, box("25*2+7-3") + " and", "length") == "correct"
    assert task.reward(problem, "") == 0.0


def test_the_last_box_is_the_answer(task):
    text = box("1") + box(" 25*2+7-3 ")
    start, end = task.extract(text)
    assert text[start:end] == "25*2+7-3"
    assert task.verify(task.problem_from("q", GOLD), box("25*2+7-3") + box("1")) == "wrong"


def solutions(values):
    """All values that some expression over all the given numbers reaches."""
    if len(values) == 1:
        return {values[0]}
    reached = set()
    for i, j in itertools.permutations(range(len(values)), 2):
        rest = [value for index, value in enumerate(values) if index not in (i, j)]
        a, b = values[i], values[j]
        for value in (a + b, a - b, a * b, *([a / b] if b else [])):
            reached |= solutions((value, *rest))
    return reached


def test_items_are_solvable_distinct_and_stable(task):
    test, train = task.problems("test"), task.problems("train")
    assert (len(train), len(test)) == (20_000, 512)
    keys = [(tuple(sorted(p.gold["numbers"])), p.gold["target"]) for p in [*train, *test]]
    assert len(set(keys)) == len(keys)
    assert all(len(p.gold["numbers"]) == 4 and p.gold["target"] not in p.gold["numbers"] for p in train)
    for problem in test[:15]:
        assert problem.gold["target"] in solutions(tuple(map(Fraction, problem.gold["numbers"])))
        for number in problem.gold["numbers"]:
            assert str(number) in problem.question
    assert test[0].id == "countdown/test/0"
    assert test[0].gold == {"numbers": [78, 18, 67, 71], "target": 92}
    assert train[:5] == task.problems("train", limit=5)
    assert task.problems("test", limit=0) == []


def test_prompt_asks_for_the_marker_that_is_extracted(task):
    prompt = task.prompt(task.problems("test", limit=1)[0])
    assert "\\boxed{}" in prompt
    assert "at most once" in prompt


@pytest.mark.parametrize(
    "gold",
    [
        None,
        5,
        {},
        {"numbers": [1]},
        {"numbers": [], "target": 1},
        {"numbers": [1.5], "target": 1},
        {"numbers": [True], "target": 1},
        {"numbers": [1], "target": "1"},
        {"numbers": "12", "target": 1},
    ],
)
def test_bad_gold_is_refused(task, gold):
    with pytest.raises(tasks.TaskError, match="countdown.*gold must be"):
        task.problem_from("q", gold)
