"""Protects the testbed's claim: no rule that does not count finds the deciding token, and the measure would see one."""

import pytest

from harness import shortcuts
from harness.policy import load_policy
from tasks.decision import FORMS, LABELS, Decision


def test_the_area_is_the_share_of_pairs_that_are_in_order():
    scores = [0.0, 3.0, 1.0, 2.0, 2.0]
    assert shortcuts.area(scores, 1, range(5)) == 1
    assert shortcuts.area(scores, 0, range(5)) == 0
    assert shortcuts.area(scores, 3, range(5)) == (2 + 0.5) / 4
    assert shortcuts.area(scores, 3, [3, 4]) == 0.5


@pytest.mark.parametrize(
    ("variant", "places", "count"),
    [*((variant, 10, 12000) for variant in FORMS), ("aligned", 5, 12000), ("aligned", 20, 6000)],
)
def test_every_rule_of_the_text_is_at_chance(variant, places, count):
    task = Decision(variant, places=places)
    # Without those whose prompt orders a letter.
    pairs = [pair for pair in task.demonstrations(count, "shortcuts") if pair[0].endswith("?")]
    measured = shortcuts.areas(
        task, [(text, shortcuts.rules_of_text(prompt, text)) for prompt, text in pairs]
    )
    assert set(measured) == set(shortcuts.RULES)
    for rule, (among, _) in measured.items():
        assert among == pytest.approx(0.5, abs=0.02), rule
    # Early and late stay at chance where the tokens around the body count too.
    assert measured["early"][1] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("variant", FORMS)
def test_a_rule_that_knows_the_code_finds_the_token(variant):
    """What the pages admit: the code hides the decision from those only who do not know it."""
    task = Decision(variant)
    pairs = [pair for pair in task.demonstrations(2000, "shortcuts") if pair[0].endswith("?")]
    rules = shortcuts.READERS
    scored = [(text, shortcuts.rules_of_text(prompt, text, rules)) for prompt, text in pairs]
    ((among, _),) = shortcuts.areas(task, scored).values()
    assert 0.8 < among < 0.96


def test_a_rule_that_finds_the_token_is_seen():
    """The measure itself: a text whose deciding letter is the only one of its kind is found by its letter alone."""
    text = "ab0" + "".join(label + ("h" if label == "i" else "a") for label in LABELS[:10]) + "#0H"
    assert Decision().decisive(text) == [(4, 5)]
    measured = shortcuts.areas(Decision(), [(text, shortcuts.rules_of_text("aba0?", text))])
    assert measured["letter h"] == (1, 1) and measured["letter a"][0] == 0 and measured["early"][0] == 1


@pytest.mark.parametrize("name", ["decision", "decision-5", "decision-20"])
def test_samples_of_a_policy_are_measured_with_its_rules(name):
    measured = shortcuts.measure(load_policy(name), Decision(**shortcuts.POLICIES[name]), 1024)
    assert set(measured) == {*shortcuts.RULES, "entropy", "probability", *shortcuts.READERS}
    assert measured["early"][0] == pytest.approx(0.5, abs=0.03)
    assert measured["probability"][0] == pytest.approx(0.5, abs=0.05)


def test_the_command_prints_a_table(capsys):
    shortcuts.main(["decision"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "decision" and len(lines) == 4 + len(shortcuts.RULES) + 2 + len(shortcuts.READERS)


def test_an_unknown_name_is_one_line(capsys):
    with pytest.raises(SystemExit) as error:
        shortcuts.main(["arithmetic"])
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
