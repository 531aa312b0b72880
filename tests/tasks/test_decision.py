"""Protects the ground truth: the decisive token is where it is said to be, and no response gains by tricks."""

import hashlib
from collections import Counter

import pytest

import tasks
from tasks import Verdict
from tasks.decision import CODE, FORMS, LABELS, LETTERS, MOST, PLACES, TABLE, alphabet

TEN = "iajbkcldmenfogphqarb"
WRONG_FORMS = {
    "aligned": [
        "",
        "#",
        "#3A",
        f"aa3{TEN}",
        f"aa3{TEN}#3",
        f"aa3{TEN}#A",
        f"aa3{TEN}#3AB",
        f"aa3{TEN}#3A ",
        f"aa3{TEN}#3a",
        f"aa3{TEN}#3A#3A",
        f"aa3{TEN[:-2]}#3A",
        f"aa3{TEN}ra#3A",
        f"aa3{TEN[2:]}ra#3A",
        f"aa3{TEN[2:4]}{TEN[:2]}{TEN[4:]}#3A",
        f"a3{TEN}#3A",
        f"aaa34{TEN}#3A4B",
    ],
    "decoy": [f"aaa34{TEN}#3A", f"aa3{TEN}#3A", f"aaa34{TEN}#AB", f"aaa34{TEN}#3A4B5C", f"aa34{TEN}#3A4B"],
    "chain": [
        f"aaa3?{TEN}3A#A",
        f"aaa3?{TEN}3AAA#A",
        f"aaa3{TEN}3AA#A",
        f"aaa3?{TEN}AA#A",
        f"aaa3?{TEN}3AA#AA",
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
        # The place that the prompt names is the one where the decision stands, found by its label.
        assert at == response.index(LABELS[int(prompt[3])]) + 1 == after - 1
        assert response[task.drawn(response)[0] - 1] == LABELS[LETTERS.index(prompt[2])]
        assert response[at] in LETTERS and response[start] == CODE[response[at]]
        assert prompt[:2] in TABLE and response.startswith(prompt[:2])
        if variant == "decoy":
            decoy = response.index(LABELS[int(prompt[4])]) + 1
            assert decoy != at and task.named(response) == [at, decoy]
            assert response[start:end] == CODE[response[at]] + prompt[4] + CODE[response[decoy]]
        if variant == "chain":
            assert response[start - 3 : end] == "{0}{0}#{0}".format(CODE[response[at]])
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
    response = orders[0][1]
    assert task.named(response)[0] in task.drawn(response)


#: SHA-256 of all problems and 2,000 demonstrations, as they were before the number of places was an option.
BEFORE = {
    "aligned": "c3ae81c4b23da76e0f74db53c2bedbe6c37012b0bce3c48abb30d317e7ba68a9",
    "decoy": "85b06bbae2cadc16ef0f2aab97c64f818bbcdc47af9ed54a04a6c5af5ff295e9",
    "chain": "8e27aa5f995b8df8b05e3a0dcedc54062cdf81cb3e0e46972b875be51ea56e43",
}


@pytest.mark.parametrize("variant", FORMS)
def test_ten_places_are_what_they_always_were(variant):
    """Kept records, trained policies and predictions rest on it."""
    for task in (tasks.get("decision", variant=variant), tasks.get("decision", variant=variant, places=10)):
        lines = [
            f"{one.id} {one.question} {one.gold}\n" for split in task.splits for one in task.problems(split)
        ]
        lines += [f"{prompt} {text}\n" for prompt, text in task.demonstrations(2000, "golden")]
        assert hashlib.sha256("".join(lines).encode()).hexdigest() == BEFORE[variant]
    assert alphabet() == "abcdefghijklmnopqr0123456789ABCDEFGH?#"


@pytest.mark.parametrize("variant", FORMS)
@pytest.mark.parametrize("places", [2, 5, 9, 17, 30, 126, MOST])
def test_any_number_of_places_keeps_the_design(variant, places):
    """Every place decides as often; as many tokens on either side of the letters; labels tell where a place is."""
    task = tasks.get("decision", variant=variant, places=places)
    assert len(set(alphabet(places))) == len(alphabet(places)) == 18 + 2 * places
    train, test = task.problems("train"), task.problems("test")
    for problems in (train, test):
        cells = Counter((problem.question[2], problem.question[3]) for problem in problems)
        assert len(cells) == min(places, 8) * places and len(set(cells.values())) == 1
    assert len(test) * 3 == len(train) == 12 * min(places, 8) * places
    extra = {"aligned": 7, "decoy": 11, "chain": 11}[variant]
    for prompt, text in task.demonstrations(40, "test"):
        assert set(prompt + text) <= set(alphabet(places))
        assert len(text) + 1 == 2 * places + extra < task.longest
        drawn = task.drawn(text)
        assert len(drawn) == places and drawn[0] == len(text) - drawn[-1]
        ((at, _),) = task.decisive(text)
        assert text[at - 1] == LABELS[PLACES.index(prompt[3])] and at in drawn
        assert task.extract(text) is not None and text.endswith(task.copied(text))
        start, _ = task.extract(text)
        assert text[start] == CODE[text[at]]
    assert task.verify(train[0], task.respond(train[0].gold)) is Verdict.CORRECT
    other = next(letter for letter in "AB" if letter != train[0].gold)
    assert task.verify(train[0], task.respond(other)) is Verdict.WRONG


def test_labels_of_another_length_or_order_are_no_answer():
    for places in (5, 30):
        task = tasks.get("decision", places=places)
        problem = task.problems("test", 1)[0]
        body = "".join(label + "a" for label in LABELS[:places])
        assert task.verify(problem, f"aa0{body}#0{problem.gold}") is Verdict.CORRECT
        turned = body[4:] + body[:4]
        assert task.verify(problem, f"aa0{turned}#0{problem.gold}") is Verdict.CORRECT
        swapped = body[2:4] + body[:2] + body[4:]
        longer = body + LABELS[places] + "a"
        beyond = PLACES[places]
        for head, wrong in ((0, swapped), (0, body[2:]), (0, longer), (beyond, body)):
            assert task.verify(problem, f"aa{head}{wrong}#0{problem.gold}") is Verdict.NO_ANSWER
        assert task.verify(problem, f"aa0{body}#{beyond}{problem.gold}") is Verdict.NO_ANSWER


def test_turns_are_spread_over_the_labels():
    """So that the distance from label to answer, of a place, is no constant however long the response is."""
    starts = {places: tasks.get("decision", places=places).turns for places in (5, 10, 30)}
    assert starts == {5: [0, 1, 2, 3, 4], 10: [*range(8)], 30: [0, 3, 6, 9, 12, 15, 18, 21]}


@pytest.mark.parametrize("variant", FORMS)
def test_the_problems_order_nothing(variant):
    task = tasks.get("decision", variant=variant)
    assert all(problem.question[-1] == "?" for split in task.splits for problem in task.problems(split))


@pytest.mark.parametrize("variant", FORMS)
def test_as_many_tokens_before_the_ten_letters_as_behind_them(variant):
    task = tasks.get("decision", variant=variant)
    for _, response in task.demonstrations(20, "test"):
        drawn = task.drawn(response)
        assert len(drawn) == 10 and {response[place] for place in drawn} <= set(LETTERS)
        assert drawn[0] == len(response) - drawn[-1]  # the end token counts


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
        assert (len(train), len(test)) == (960, 320)
        assert not {problem.question for problem in train} & {problem.question for problem in test}
        for problems in (train, test):
            assert {problem.question[:2] for problem in problems} == set(TABLE)
            cells = Counter((problem.question[2], problem.question[3]) for problem in problems)
            assert set(cells) == {(turn, place) for turn in LETTERS for place in PLACES[:10]}
            assert len(set(cells.values())) == 1
            assert all(problem.gold == TABLE[problem.question[:2]] for problem in problems)
        assert len({problem.id for problem in [*train, *test]}) == 1280


def test_fewer_contexts_are_a_part_of_the_same_problems():
    whole, part = tasks.get("decision").problems("test"), tasks.get("decision", contexts=4).problems("test")
    assert set(part) < set(whole)
    assert len({problem.question[:2] for problem in part}) == 4
    assert len(tasks.get("decision", contexts=4).problems("test", 5)) == 5


@pytest.mark.parametrize(
    "text", ["", "#", "#3A", "aa", "aa3", "aa3#3A", "aa3iajb", "aa3jaibkcld", "zz3iajbkcld"]
)
def test_nothing_decides_a_response_without_its_place(text):
    for variant in FORMS:
        assert tasks.get("decision", variant=variant).decisive(text) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "x"}, "no variant"),
        *(({"contexts": value}, "contexts must be an integer from 1 to 16") for value in (0, 17, True, 4.0)),
        *(
            ({"places": value}, f"places must be an integer from 2 to {MOST}")
            for value in (1, 0, -3, MOST + 1, 10.0, True, "ten", None)
        ),
    ],
)
def test_unknown_options_are_named(options, message):
    with pytest.raises(tasks.TaskError, match=message):
        tasks.get("decision", **options)
    with pytest.raises(tasks.TaskError, match="no split 'dev'"):
        tasks.get("decision").problems("dev")
    with pytest.raises(tasks.TaskError, match="gold must be one of"):
        tasks.get("decision").problem_from("aaa3?", "z")
