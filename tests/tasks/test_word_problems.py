"""Word problems: right answers, disjoint and stable splits, difficulty options that are checked."""

import re

import pytest

import tasks


@pytest.mark.parametrize(
    "options", [{}, {"steps": 2}, {"steps": 1, "largest": 5}, {"steps": 2, "largest": 100}]
)
def test_splits(options):
    task = tasks.get("word_problems", **options)
    train, test = task.problems("train"), task.problems("test")
    assert (len(train), len(test)) == (2048, 256)
    assert len({problem.question for problem in [*train, *test]}) == 2048 + 256
    assert task.problems("train", limit=7) == train[:7]
    assert test[3].id == "word_problems/test/3"
    for problem in test:
        assert isinstance(problem.gold, int) and problem.gold >= 0
        assert task.verify(problem, f"so\n#### {problem.gold}", "stop") == "correct"
        assert task.verify(problem, f"so\n#### {problem.gold + 1}", "stop") == "wrong"
        assert "####" in task.prompt(problem)


CHECKS = [
    (r"has (\d+) \w+\. \w+ gives \w+ (\d+) more \w+\. How many \w+ does \w+ have now", lambda a, b: a + b),
    (r"has (\d+) \w+ and gives (\d+) of them", lambda a, b: a - b),
    (r"has (\d+) \w+ with (\d+) \w+ in each \w+\. How", lambda a, b: a * b),
    (r"found (\d+) \w+ and \w+ found (\d+)", lambda a, b: a + b),
    (r"has (\d+) \w+\. \w+ has (\d+) \w+\. How many more", lambda a, b: a - b),
    (r"shares (\d+) \w+ equally among (\d+)", lambda a, b: a // b),
    (r"^\w+ buys (\d+) \w+ at (\d+) dollars", lambda a, b: a * b),
    (r"has (\d+) \w+\. \w+ finds (\d+) more and then gives (\d+)", lambda a, b, c: a + b - c),
    (r"has (\d+) \w+ with (\d+) \w+ in each \w+\. \w+ gives \w+ (\d+)", lambda a, b, c: a * b + c),
    (r"has (\d+) dollars and buys (\d+) \w+ at (\d+)", lambda a, b, c: a - b * c),
    (r"found (\d+) \w+ on Monday, (\d+) on Tuesday and (\d+)", lambda a, b, c: a + b + c),
    (r"has (\d+) \w+\. \w+ has (\d+) more \w+ than", lambda a, b: a + a + b),
    (r"has (\d+) \w+ and \w+ has (\d+) \w+\. They put", lambda a, b: (a + b) // 2),
]


def test_golds_follow_from_the_texts():
    """Each question is read back by a pattern of its own; every template occurs."""
    seen = set()
    for steps in (1, 2):
        for problem in tasks.get("word_problems", steps=steps).problems("train"):
            matching = [(i, re.search(pattern, problem.question)) for i, (pattern, _) in enumerate(CHECKS)]
            found = [(i, match) for i, match in matching if match]
            assert len(found) == 1, problem.question
            index, match = found[0]
            assert CHECKS[index][1](*map(int, match.groups())) == problem.gold, problem.question
            seen.add(index)
    assert seen == set(range(len(CHECKS)))


@pytest.mark.parametrize(
    "options", [{"steps": 3}, {"largest": 4}, {"largest": "9"}, {"answer": "x"}, {"size": 1}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(tasks.TaskError, match="word_problems"):
        tasks.get("word_problems", **options)


def test_the_last_number_answers_where_no_marker_is_asked_for():
    task = tasks.get("word_problems", answer="last")
    problem = task.problem_from("Anna has 3 eggs. Ben gives Anna 4 more eggs. How many now?", 7)
    assert task.prompt(problem) == f"{problem.question} Answer in one sentence."
    for text in ("Anna has 3 + 4 = 7 eggs.", "7", "She has 7.0 eggs now.", task.respond("7")):
        assert task.verify(problem, text, "stop") == "correct"
    for text in ("She has 7 eggs of 9.", "She has 7.5 eggs.", "-7", "1,007", "#### 7, or 8"):
        assert task.verify(problem, text, "stop") == "wrong"
    assert task.verify(problem, "seven", "stop") == "no_answer"
    assert task.verify(problem, "seven", "length") == "truncated"
    assert task.extract("9-1") == (2, 3) and task.extract("a" * 20_000 + " 5.") == (20_001, 20_002)
    assert list(task.respelled("7")) == []
    with pytest.raises(tasks.TaskError, match="one of either, boxed, hashes, not 'last'"):
        tasks.get("gsm8k", answer="last")
