"""Protects the cards: every method of the package has its own, whole, and its cost follows from what it needs."""

from dataclasses import fields

import pytest

from flowtracer import credit
from flowtracer.credit.card import (
    COST_OF_NEED,
    COSTS,
    FIDELITIES,
    IDENTICAL,
    OURS,
    READING,
    card_of,
    cost,
    defaults_of,
)
from flowtracer.credit.method import _REGISTRY, NEEDS, CreditMethod

SHIPPED = [name for name in credit.names() if _REGISTRY[name].__module__.startswith("flowtracer.")]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_method_has_a_whole_card_of_its_own(name):
    method = credit.get(name)
    card = card_of(method)
    assert card is not None, f"{name}: give the class a `card` (flowtracer.credit.card.Card)"
    said = {field.name: getattr(card, field.name) for field in fields(card)}
    assert all(said[key].strip() for key in said if key not in ("url", "defaults", "claims")), said
    assert card.fidelity.startswith(FIDELITIES)
    if card.fidelity.startswith(READING):
        assert len(card.fidelity) > len(READING) + 10
    # A source elsewhere has a place where a reader finds it; a control of ours need not.
    assert card.url.startswith("https://") or card.fidelity.startswith(OURS) or "ATPO" in card.source
    assert all(claim.strip() for claim in card.claims)
    assert set(card.defaults) == {field.name for field in fields(method)} - {"mean_one"}


def test_an_identical_rule_names_file_lines_and_commit():
    identical = {name: card_of(credit.get(name)).fidelity for name in SHIPPED if name != "uniform"}
    identical = {name: text for name, text in identical.items() if text.startswith(IDENTICAL)}
    assert {"ktae", "otb", "oar_perturb", "rlsd"} <= set(identical)
    for text in identical.values():
        assert ".py:" in text and " at " in text


def test_cost_is_that_of_the_most_expensive_need():
    assert set(COST_OF_NEED) == set(NEEDS), "flowtracer/credit/card.py: say what each need costs"
    assert set(COST_OF_NEED.values()) <= set(COSTS)
    assert cost(credit.get("uniform")) == "none" and cost(credit.get("gradient")) == "backward"
    assert cost(credit.get(["flow", "gtpo"])) == "attention"

    class Unknown(CreditMethod):
        name = "unknown"
        needs = frozenset({"capacity", "moonlight"})

        def weights(self, context):
            return context.response.float()

    assert cost(Unknown()) == "?"


def test_a_card_is_not_inherited():
    class Mine(type(credit.get("flow"))):
        name = "mine"

    assert card_of(Mine()) is None and card_of(type(credit.get("flow"))) is not None
    sources = {name: source for name, _, source in defaults_of(Mine())}
    assert sources["gamma"] == "?" and sources["mean_one"].startswith("ours")
