"""Validation finds bad verifiers, and every benchmark with data here passes it."""

import pytest

import tasks
from tasks.validate import REQUIRED, validate

GENERATED = {"arithmetic": 300, "decision": 200, "word_problems": 200, "countdown": 12}
PUBLISHED = {
    "aime24": 30,
    "aime25": 30,
    "amc23": 40,
    "math500": 120,
    "minerva": 60,
    "olympiadbench": 150,
    "gsm8k": 400,
}


@pytest.mark.parametrize("name", GENERATED)
def test_generated_tasks(name):
    for found in validate(tasks.get(name), limit=GENERATED[name]):
        assert found.passed, found
        assert found.items > 0
        assert found.mutated >= found.items // 2
        assert found.shared == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tasks(real_data, name):
    """A part of each; the command `flowtracer validate` takes all of them."""
    for found in validate(tasks.get(name), "test", limit=PUBLISHED[name]):
        assert found.passed, found
        assert found.items == PUBLISHED[name]
        assert found.respelled_rate >= REQUIRED
        assert found.mutated > found.items / 2


def test_a_verifier_that_refuses_or_accepts_too_much_fails():
    class Strict(tasks.get("word_problems").__class__):
        def judge(self, problem, answer):
            return (
                tasks.Verdict.CORRECT
                if answer == str(problem.gold) and problem.gold > 9
                else tasks.Verdict.WRONG
            )

    class Blind(tasks.get("word_problems").__class__):
        def judge(self, problem, answer):
            return tasks.Verdict.CORRECT

    (strict,) = validate(Strict(), "test", limit=100)
    assert not strict.passed
    assert strict.rate < REQUIRED
    assert strict.refused[0][0].startswith("word_problems/test/")
    assert strict.respelled_rate < REQUIRED
    (blind,) = validate(Blind(), "test", limit=100)
    assert not blind.passed
    assert blind.rate == 1
    assert len(blind.mutated_passed) == blind.mutated


def test_unknown_split():
    with pytest.raises(tasks.TaskError, match="no split 'dev'"):
        validate(tasks.get("arithmetic"), "dev")
