"""Protects credit by phrases: where they stand, and that a bad plan loses less."""

import pytest
import torch

from flowtracer import CreditError, credit
from tests.flowtracer.credit.cases import ten


def weights(pieces, advantage=1.0, **options):
    context = ten("hicra", pieces=[["", *pieces, *["."] * (10 - len(pieces))]],
                  advantage=torch.tensor([advantage]))  # fmt: skip
    return credit.get("hicra", **options)(context)[0, 1:].tolist()


def test_a_phrase_stands_at_word_boundaries_in_any_case():
    assert weights(["ALTER", "natively", ","])[:3] == pytest.approx([1.2, 1.2, 1])
    assert weights([" alternatively", "x"]) == [1.0] * 10
    assert weights(["Let", "\u2019s", " try"])[:3] == pytest.approx([1.2] * 3)


def test_a_bad_plan_loses_less_and_no_advantage_changes_nothing():
    assert weights([" alternatively", "."], advantage=-2.0)[:2] == pytest.approx([0.8, 1])
    assert weights([" alternatively", "."], advantage=0.0)[:2] == [1, 1]


def test_phrases_are_an_option():
    assert weights([" a+", "b"], phrases=["a+"], alpha=0.5)[:2] == [1, 1]
    assert weights([" a+", " b"], phrases=["a+"], alpha=0.5)[:2] == [1.5, 1]
    for wrong in ("wait", [], [""], [3]):
        with pytest.raises(CreditError, match="credit hicra: phrases must"):
            credit.get("hicra", phrases=wrong)
