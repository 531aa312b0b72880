"""Sums: what counts as the answer, disjoint and stable splits, demonstrations that leak no test question."""

import pytest

import tasks
from tasks.arithmetic import worked


@pytest.fixture(scope="module")
def task():
    return tasks.get("arithmetic")


@pytest.mark.parametrize(
    ("text", "finish_reason", "verdict"),
    [
        ("25+13=38;38+39=77#77", "stop", "correct"),
        ("#77", "stop", "correct"),
        ("#077", "stop", "correct"),
        ("#76#77\n", "stop", "correct"),
        ("#77#76", "stop", "wrong"),
        ("#-77", "stop", "wrong"),
        ("#7", "length", "wrong"),
        ("#77", "length", "correct"),
        ("25+13=38;38+39=77", "stop", "no_answer"),
        ("25+13=38;38+39=77", "length", "truncated"),
        ("#", "stop", "no_answer"),
        ("77", None, "no_answer"),
        ("#77.", "stop", "no_answer"),
        ("#77 78", "stop", "no_answer"),
        ("#77#", "stop", "no_answer"),
        ("#７７", "stop", "no_answer"),
        ("#7_7", "stop", "no_answer"),
        ("#" + "9" * 5000, "stop", "no_answer"),
        ("", "length", "truncated"),
    ],
)
def test_verdict(task, text, finish_reason, verdict):
    problem = task.problem_from("25+13+39=?", 77)
    assert task.verify(problem, text, finish_reason) == verdict
    assert task.reward(problem, text, finish_reason) == (1.0 if verdict == "correct" else 0.0)


def test_span_is_the_integer(task):
    text = "1+2=3;3+4=7#7 "
    assert task.extract(text) == (12, 13)


def test_splits_are_disjoint_stable_and_solvable(task):
    train, test = task.problems("train"), task.problems("test")
    assert (len(train), len(test)) == (4096, 256)
    assert len({problem.question for problem in [*train, *test]}) == 4096 + 256
    assert train[0].id == "arithmetic/train/0"
    assert test[:3] == tasks.get("arithmetic").problems("test", limit=3)
    assert [problem.question for problem in test[:2]] == ["49+1+54=?", "37+6+26+52=?"]
    for problem in test:
        assert task.verify(problem, worked(problem.question)) == "correct"
        assert task.verify(problem, f"#{problem.gold + 1}") == "wrong"


def test_demonstrations_are_right_and_never_of_the_test_split(task):
    held_out = {problem.question for problem in task.problems("test")}
    pairs = task.demonstrations(2000, "a")
    assert pairs == task.demonstrations(2000, "a")
    assert pairs != task.demonstrations(2000, "b")
    assert not held_out & {prompt for prompt, _ in pairs}
    for prompt, response in pairs[:200]:
        total = sum(map(int, prompt.removesuffix("=?").split("+")))
        assert task.verify(task.problem_from(prompt, total), response) == "correct"


@pytest.mark.parametrize("gold", [None, True, "x", 1.5, "", [77]])
def test_gold_that_is_no_integer_is_refused(task, gold):
    with pytest.raises(tasks.TaskError, match="arithmetic.*gold"):
        task.problem_from("1+2+3=?", gold)


def test_unknown_split(task):
    with pytest.raises(tasks.TaskError, match="validation.*train, test"):
        task.problems("validation")
