"""Protects the testbed's claim: no rule that does not count finds the deciding token, and the measure would see one."""

import pytest

from harness import shortcuts
from harness.policy import load_policy
from tasks.decision import FORMS, Decision

POLICIES = {"aligned": "decision", "decoy": "decision-decoy", "chain": "decision-chain"}
#: The rule that reads the copy itself: it takes the capital of a letter for that letter.
READS_THE_COPY = "frequent, capitals too"


def test_the_area_is_the_share_of_pairs_that_are_in_order():
    scores = [0.0, 3.0, 1.0, 2.0, 2.0]
    assert shortcuts.area(scores, 1, range(5)) == 1
    assert shortcuts.area(scores, 0, range(5)) == 0
    assert shortcuts.area(scores, 3, range(5)) == (2 + 0.5) / 4
    assert shortcuts.area(scores, 3, [3, 4]) == 0.5


def free(task):
    return [pair for pair in task.demonstrations(4000, "rules") if pair[0][-1] == "?"]


@pytest.mark.parametrize("variant", FORMS)
def test_every_rule_of_the_text_is_at_chance_among_the_letters(variant):
    task = Decision(variant)
    scored = [(text, shortcuts.rules_of_text(prompt, text)) for prompt, text in free(task)]
    measured = shortcuts.areas(task, scored)
    assert set(measured) == set(shortcuts.RULES)
    for rule, (drawn, _) in measured.items():
        if rule != READS_THE_COPY:
            assert drawn == pytest.approx(0.5, abs=0.02), rule
    assert measured[READS_THE_COPY][0] > 0.6
    # Early and late stay at chance where the tokens around the body count too.
    assert measured["early"][1] == pytest.approx(0.5, abs=0.02)


def test_a_testbed_with_a_shortcut_is_found_out():
    """The testbed before this one: its decision always came first."""
    task = Decision()
    scored = [
        (text, shortcuts.rules_of_text(prompt, text))
        for prompt, text in free(task)
        if task.named(text)[0] == task.drawn(text)[0]
    ]
    measured = shortcuts.areas(task, scored)
    assert measured["early"][0] == measured["after the head"][0] == 1
    assert measured["part 5 of 5"][0] < 0.5


@pytest.mark.parametrize("variant", FORMS)
def test_every_rule_of_the_policy_is_at_chance_among_the_letters(variant):
    measured = shortcuts.measure(load_policy(POLICIES[variant]), Decision(variant), 512)
    for rule in ("entropy", "probability", "early", "frequent in the response"):
        assert measured[rule][0] == pytest.approx(0.5, abs=0.05), rule


def test_an_unknown_name_is_one_line(capsys):
    with pytest.raises(SystemExit) as error:
        shortcuts.main(["arithmetic"])
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
