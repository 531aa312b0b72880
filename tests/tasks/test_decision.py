"""Protects the ground truth: the decisive tokens are where they are said to be, and no response gains by tricks."""

import pytest

import tasks
from tasks import Verdict
from tasks.decision import FORMATS, TABLE


@pytest.mark.parametrize("variant", FORMATS)
def test_demonstrations_copy_their_decision(variant):
    task = tasks.get("decision", variant=variant)
    pairs = task.demonstrations(300, "test")
    assert pairs == task.demonstrations(300, "test") != task.demonstrations(300, "other")
    for prompt, response in pairs:
        start, end = task.extract(response)
        decisive = task.decisive(response)
        assert len(decisive) == (3 if variant == "chain" else 1)
        assert {response[first:last] for first, last in decisive} == {response[start]} == {response[0]}
        assert (response[start + 1 : end] == response[start - 2]) == (variant == "decoy")
        assert prompt[:2] in TABLE and prompt[-1] == "?"
    # Nothing tells the table: every letter decides about equally often, right or not.
    right = sum(response[0] == TABLE[prompt[:2]] for prompt, response in pairs)
    assert 15 <= right <= 65


@pytest.mark.parametrize("variant", FORMATS)
def test_verdicts(variant):
    task = tasks.get("decision", variant=variant)
    problem = task.problems("test", 1)[0]
    other = next(letter for letter in "ab" if letter != problem.gold)
    assert task.verify(problem, task.respond(problem.gold)) is Verdict.CORRECT
    assert task.verify(problem, task.respond(other)) is Verdict.WRONG
    for text in (
        "",
        "#",
        "abc",
        f"#{problem.gold}",
        f"abc#{other}#{problem.gold}",
        f"abc#{problem.gold} ",
        "ab?#a",
    ):
        assert task.verify(problem, text) is Verdict.NO_ANSWER, text
        assert task.verify(problem, text, "length") is Verdict.TRUNCATED, text
        assert task.reward(problem, text) == 0.0


def test_splits_are_disjoint_and_hold_every_context():
    task = tasks.get("decision")
    train, test = task.problems("train"), task.problems("test")
    assert (len(train), len(test)) == (768, 256)
    assert not {problem.question for problem in train} & {problem.question for problem in test}
    for problems in (train, test):
        assert {problem.question[:2] for problem in problems} == set(TABLE)
        assert all(problem.gold == TABLE[problem.question[:2]] for problem in problems)
    assert len({problem.id for problem in [*train, *test]}) == 1024


def test_fewer_contexts_are_a_part_of_the_same_problems():
    whole, part = tasks.get("decision").problems("test"), tasks.get("decision", contexts=4).problems("test")
    assert set(part) < set(whole)
    assert len({problem.question[:2] for problem in part}) == 4
    assert len(tasks.get("decision", contexts=4).problems("test", 5)) == 5


@pytest.mark.parametrize("text", ["", "#", "#a"])
def test_nothing_decides_an_empty_body(text):
    assert tasks.get("decision").decisive(text) == []
    assert tasks.get("decision", variant="chain").decisive(text) == []


@pytest.mark.parametrize(
    ("options", "message"), [({"variant": "x"}, "no variant"), ({"contexts": 17}, "1 to 16")]
)
def test_unknown_options_are_named(options, message):
    with pytest.raises(tasks.TaskError, match=message):
        tasks.get("decision", **options)
    with pytest.raises(tasks.TaskError, match="no split 'dev'"):
        tasks.get("decision").problems("dev")
    with pytest.raises(tasks.TaskError, match="gold must be one of"):
        tasks.get("decision").problem_from("ab?", "z")
