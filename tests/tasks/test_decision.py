"""Protects the ground truth: the decisive token is where it is said to be, and no response gains by tricks."""

import pytest

import tasks
from tasks import Verdict
from tasks.decision import FORMS, LETTERS, PLACES, TABLE

WRONG_FORMS = {
    "aligned": [
        "",
        "#",
        "#A",
        "aai#A",
        "aaiabc",
        "aaiabc#AB",
        "aaiabc#A ",
        "aaiabc#a",
        "aaiabc#A#A",
        "aalabc#A",
        "iabc#A",
        "aaijabc#A",
    ],
    "decoy": ["aaijabc#A", "aaiabc#AB", "aailabc#AB", "aaliabc#AB", "aaijabc#ABC"],
    "chain": [
        "aaai?abc#A",
        "aaai?abcA#A",
        "aaai?abcAAA#A",
        "aaaiabcAA#A",
        "aaal?abcAA#A",
        "aaai?abcAA#AA",
    ],
}


@pytest.mark.parametrize("variant", FORMS)
def test_demonstrations_copy_their_decision(variant):
    task = tasks.get("decision", variant=variant)
    pairs = task.demonstrations(400, "test")
    assert pairs == task.demonstrations(400, "test") != task.demonstrations(400, "other")
    for prompt, response in pairs:
        start, end = task.extract(response)
        ((at, after),) = task.decisive(response)
        assert after == at + 1 and response[at] in LETTERS
        body = task.drawn(response)
        # The place that the prompt names is the one where the decision stands, counted by hand.
        assert at == body.start + PLACES.index(prompt[3])
        assert response[start] == response[at].upper()
        assert prompt[:2] in TABLE and response.startswith(prompt[:2])
        if variant == "decoy":
            decoy = body.start + PLACES.index(prompt[4])
            assert decoy != at and task.named(response) == [at, decoy]
            assert response[start + 1 : end] == response[decoy].upper()
        if variant == "chain":
            assert response[body.stop : start] == response[at].upper() * 2 + "#"
    # Nothing tells the table: every letter decides about equally often, right or not.
    free = [(prompt, response) for prompt, response in pairs if prompt[-1] == "?"]
    assert len(free) == 200
    right = sum(response[task.extract(response)[0]] == TABLE[prompt[:2]] for prompt, response in free)
    assert 10 <= right <= 45


@pytest.mark.parametrize("variant", FORMS)
def test_an_order_is_written_at_its_place(variant):
    task = tasks.get("decision", variant=variant)
    orders = [pair for pair in task.demonstrations(400, "test") if pair[0][-1] != "?"]
    assert len(orders) == 200
    assert all(response[task.named(response)[0]] == prompt[-1] for prompt, response in orders)


@pytest.mark.parametrize("variant", FORMS)
def test_the_problems_order_nothing(variant):
    task = tasks.get("decision", variant=variant)
    assert all(problem.question[-1] == "?" for split in task.splits for problem in task.problems(split))


@pytest.mark.parametrize("variant", FORMS)
def test_as_many_tokens_before_the_body_as_behind_it(variant):
    task = tasks.get("decision", variant=variant)
    for _, response in task.demonstrations(20, "test"):
        body = task.drawn(response)
        assert body.start == len(response) + 1 - body.stop  # the end token counts


@pytest.mark.parametrize("variant", FORMS)
def test_verdicts(variant):
    task = tasks.get("decision", variant=variant)
    problem = task.problems("test", 1)[0]
    other = next(letter for letter in "AB" if letter != problem.gold)
    assert task.verify(problem, task.respond(problem.gold)) is Verdict.CORRECT
    assert task.verify(problem, task.respond(other)) is Verdict.WRONG
    assert task.decisive(task.respond(problem.gold)) != []
    for text in WRONG_FORMS[variant]:
        assert task.verify(problem, text) is Verdict.NO_ANSWER, text
        assert task.verify(problem, text, "length") is Verdict.TRUNCATED, text
        assert task.reward(problem, text) == 0.0


@pytest.mark.parametrize("variant", FORMS)
def test_the_decision_is_known_before_the_response_ends(variant):
    task = tasks.get("decision", variant=variant)
    _, response = task.demonstrations(1, "test")[0]
    (span,) = task.decisive(response)
    for length in range(len(response)):
        assert task.decisive(response[:length]) == ([span] if length > max(task.named(response)) else [])


def test_splits_are_disjoint_and_hold_every_context():
    for variant in FORMS:
        task = tasks.get("decision", variant=variant)
        train, test = task.problems("train"), task.problems("test")
        assert (len(train), len(test)) == (1280, 512)
        assert not {problem.question for problem in train} & {problem.question for problem in test}
        for problems in (train, test):
            assert {problem.question[:2] for problem in problems} == set(TABLE)
            assert {problem.question[3] for problem in problems} == set(PLACES)
            assert all(problem.gold == TABLE[problem.question[:2]] for problem in problems)
        assert len({problem.id for problem in [*train, *test]}) == len(train) + len(test)


def test_fewer_contexts_are_a_part_of_the_same_problems():
    whole, part = tasks.get("decision").problems("test"), tasks.get("decision", contexts=4).problems("test")
    assert set(part) < set(whole)
    assert len({problem.question[:2] for problem in part}) == 4
    assert len(tasks.get("decision", contexts=4).problems("test", 5)) == 5


@pytest.mark.parametrize("text", ["", "#", "#A", "aa", "aai", "aai#A", "aaxabc#A", "zzi", "aaiA"])
def test_nothing_decides_a_response_without_its_place(text):
    for variant in FORMS:
        assert tasks.get("decision", variant=variant).decisive(text) == []


@pytest.mark.parametrize(
    ("options", "message"), [({"variant": "x"}, "no variant"), ({"contexts": 17}, "1 to 16")]
)
def test_unknown_options_are_named(options, message):
    with pytest.raises(tasks.TaskError, match=message):
        tasks.get("decision", **options)
    with pytest.raises(tasks.TaskError, match="no split 'dev'"):
        tasks.get("decision").problems("dev")
    with pytest.raises(tasks.TaskError, match="gold must be one of"):
        tasks.get("decision").problem_from("aaai?", "z")
