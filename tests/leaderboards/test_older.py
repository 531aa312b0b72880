"""Protects the reading of older files: their words and keys mean what today's mean."""

import pytest

from leaderboards.older import control_of, outcome_of, turn_of


def test_an_outcome_was_called_verdict():
    assert outcome_of({"outcome": "better"}) == outcome_of({"verdict": "better"}) == "better"
    assert outcome_of({"verdict": "cannot tell: one seed"}) == "cannot tell: one seed"
    with pytest.raises(KeyError):
        outcome_of({})


def test_a_positive_control_was_called_assay():
    new = {"positive_control": {"outcome": "sensitive", "text": "positive control sensitive"}}
    old = {"assay": {"verdict": "sensitive", "text": "assay sensitive"}}
    assert control_of(new) == control_of(old) == new["positive_control"]
    assert control_of({}) == {"outcome": "not tested", "text": "positive control not tested"}


def test_a_turn_was_told_by_its_cosine():
    assert turn_of({"turn": [0.2, [0.1, 0.3]], "to_uniform": [0.7, None]}) == [0.2, [0.1, 0.3]]
    value, interval = turn_of({"to_uniform": [0.8, [0.7, 0.95]]})
    assert value == pytest.approx(0.2) and interval == pytest.approx((0.05, 0.3)), "the ends change places"
    assert turn_of({"to_uniform": [1.0, None]}) == (0.0, None)
    assert turn_of({"turn": None, "to_uniform": [1.0, None]}) is turn_of({"to_uniform": None}) is None
