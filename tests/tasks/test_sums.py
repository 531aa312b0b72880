"""Protects the sums that a small policy trains on: all of them, disjoint splits, the last integer judged exactly."""

import pytest

import tasks
from tasks import Verdict


def test_all_sums_in_disjoint_splits():
    task = tasks.get("sums", largest=9)
    train, test = task.problems("train"), task.problems("test")
    assert (len(train), len(test)) == (61, 20)
    assert len({problem.question for problem in [*train, *test]}) == 81
    for problem in [*train, *test]:
        one, _, other = problem.question.removeprefix("What is ").rstrip("?").partition(" + ")
        assert problem.gold == int(one) + int(other)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("12", Verdict.CORRECT),
        ("5 + 7 = 12.", Verdict.CORRECT),
        ("The answer is 12", Verdict.CORRECT),
        ("12 or 13", Verdict.WRONG),
        ("-12", Verdict.WRONG),
        ("20-8=12", Verdict.CORRECT),
        ("it is 9-12", Verdict.CORRECT),
        ("0012", Verdict.CORRECT),
        ("1.2", Verdict.WRONG),
        ("9" * 5000, Verdict.WRONG),
        ("twelve", Verdict.NO_ANSWER),
        ("", Verdict.NO_ANSWER),
        ("\u0661\u0662", Verdict.NO_ANSWER),
    ],
)
def test_verdicts(text, verdict):
    task = tasks.get("sums")
    assert task.verify(task.problem_from("What is 5 + 7?", 12), text) is verdict


def test_spans_are_of_the_whole_text():
    text = "x" * 20_000 + " 7 "
    assert tasks.get("sums").extract(text) == (20_001, 20_002)


@pytest.mark.parametrize("largest", [1, 2.5, "9", True])
def test_unknown_options_are_named(largest):
    with pytest.raises(tasks.TaskError, match="largest must be"):
        tasks.get("sums", largest=largest)
