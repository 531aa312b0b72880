"""Protects the cards as a reader sees them: on the command line, for every method, and for a plug-in without one."""

import pytest
import torch

from flowtracer import credit
from harness import cards, plugins
from tests.harness.test_cli import run

METHOD = '''
from flowtracer.credit import CreditMethod, register
import torch
@register
class Mine(CreditMethod):
    """w = 2 everywhere. It is a test."""
    name = "mine"
    needs = frozenset({"entropies"})
    def weights(self, context):
        return torch.full_like(context.response, 2, dtype=torch.float32)
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_credit.py"
    path.write_text(METHOD)
    yield path
    plugins.forget()


def test_all_methods_stand_in_one_table_of_100_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    status, output, _ = run(capsys, "methods")
    assert status == 0 and max(map(len, output.splitlines())) <= 100
    assert output.count("Credit methods") == 1  # in one piece
    names = {line.split()[0] for line in output.splitlines() if line[:1].isalnum()}
    assert set(credit.names()) <= names


@pytest.mark.parametrize("name", ["flow", "ktae", "random_mask"])
def test_the_card_of_one_says_everything(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "100")
    status, output, _ = run(capsys, "methods", name)
    card = cards.shown(credit.get(name))
    text = " ".join(output.split())
    assert status == 0 and max(map(len, output.splitlines())) <= 100
    assert all(" ".join(f"{what}: {value}".split()) in text for what, value in card.facts)
    assert all(" ".join(claim.split()) in text for claim in card.claims)
    assert all(option in text for option, _, _ in card.options)
    assert all(each.page in text for each in card.results)


def test_what_was_published_of_flow_is_counted_from_the_claims():
    facts = dict(cards.shown(credit.get("flow")).facts)
    assert "paper-4b-1k (" in facts["checked"]
    assert "checked" not in dict(cards.shown(credit.get("oracle")).facts)
    assert cards.shown(credit.get("flow")).results and "proved wrong if" in facts


def test_a_plug_in_without_a_card_is_shown_with_what_is_known(file, capsys):
    status, output, errors = run(capsys, "methods", "mine", "--import", file)
    text = " ".join(output.split())
    assert status == 0, errors
    assert "w = 2 everywhere. It is a test." in text and f"source: {cards.UNKNOWN}" in text
    assert "cost: logits" in text and "none kept" in text and "proved wrong" not in text
    status, output, _ = run(capsys, "methods", "--import", file)
    assert status == 0 and "mine" in output and "my_credit" in output


def test_defaults_are_written_as_an_experiment_file_writes_them():
    options = {name: default for name, default, _ in cards.shown(credit.get("flow")).options}
    assert options["answer_in_pool"] == "true" and options["gamma"] == "1.5"
    phrases = {name: default for name, default, _ in cards.shown(credit.get("hicra")).options}["phrases"]
    assert phrases.endswith("first") and len(phrases) < 60
    assert cards.value_in_words(None) == "not set"
    assert cards.value_in_words("\n") == r'"\n"', "a line break would end the line of its option"
    assert cards.value_in_words(("a", "b")) == "('a', 'b')" and cards.value_in_words(0.5) == "0.5"


class Signed(credit.CreditMethod):
    """w is -1 everywhere."""

    name, signed = "signed", True

    def weights(self, context):
        return -torch.ones_like(context.response, dtype=torch.float32)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (credit.get("opsd"), "an addend to the advantage"),
        (Signed(), "a factor on the advantage, which may be negative"),
    ],
    ids=["additive", "signed"],
)
def test_credit_whose_mean_may_be_zero_does_not_offer_to_hold_it(method, kind):
    """`mean_one` is refused for it, so its card must not say what it would conserve."""
    card = cards.shown(method)
    facts = dict(card.facts)
    assert facts["acts as"] == kind
    assert facts["scope"] == "response: what is read to judge a response; mean_one is not defined"
    sources = {option: source for option, _, source in card.options}
    assert "not defined for credit that may be negative" in sources["mean_one"]
    assert "conserves the total" in dict(cards.shown(credit.get("flow")).facts)["scope"]


def test_an_option_that_is_not_set_says_so():
    options = {name: value for name, value, _ in cards.shown(credit.get("opsd")).options}
    assert options["template"] == "not set" and options["scale"] == "1.0"
