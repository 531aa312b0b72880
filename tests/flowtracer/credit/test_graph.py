"""Protects credit from the attention map without a flow: the entropy of a token's attention."""

import math

import pytest
import torch

from flowtracer import CreditError, credit
from tests.flowtracer.credit.cases import make, ten


def entropies_by_hand(context):
    """Row by row in plain numbers: the entropy of each token's attention, over the log of how many tokens it sees."""
    rows = []
    for capacity, prompt, response in zip(context.capacity, context.prompt, context.response, strict=True):
        entropies = []
        for t, token in enumerate((prompt | response).tolist()):
            seen = int((prompt | response)[: t + 1].sum())
            attention = [float(value) for value in capacity[t, : t + 1] if value > 0]
            entropy = -sum(value * math.log(value) for value in attention)
            entropies.append(entropy / math.log(seen) if token and seen > 1 else 0.0)
        rows.append(entropies)
    return torch.tensor(rows)


def test_attention_entropy_against_a_loop():
    method, context = make("attention_entropy")
    got = method.score(context)
    expected = entropies_by_hand(context)
    assert torch.allclose(got[context.response], expected[context.response], atol=1e-5)
    assert got[context.response].min() > 0.1 and got.max() <= 1.0 + 1e-6


def test_attention_spread_evenly_has_entropy_one_and_a_single_look_none():
    even = torch.ones(11, 11).tril() / torch.arange(1, 12).unsqueeze(1)
    single = torch.eye(11)
    method = credit.get("attention_entropy")
    for capacity, entropy in ((even, 1.0), (single, 0.0)):
        context = ten("attention_entropy", capacity=capacity.unsqueeze(0))
        assert method.score(context)[0, 1:].tolist() == pytest.approx([entropy] * 10, abs=1e-6)
        assert method(context)[0, 1:].tolist() == [1.0] * 10, "equal entropies say nothing"


SCORES = torch.tensor([[0.0, 0, 0.5, 1, 0.25, 0.75, 0.5, 0.5, 0, 1, 0.5]])


@pytest.mark.parametrize(("options", "expected"), [
    ({"favour": "high"}, [0.5, 1, 1.5, 0.75, 1.25, 1, 1, 0.5, 1.5, 1]),
    ({"beta": 0.0}, [1] * 10),
    ({"shape": "mask"}, [1, 0, 0, 0, 0, 0, 0, 1, 0, 0]),
    ({"shape": "mask", "favour": "high"}, [0, 0, 1, 0, 0, 0, 0, 0, 1, 0]),
])  # fmt: skip
def test_attention_entropy_favours_anchors_or_explorers(options, expected):
    method = credit.get("attention_entropy", **options)
    assert method(ten("attention_entropy", scores=SCORES))[0, 1:].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{"favour": "both"}, {"shape": "hard"}, {"beta": 1.5}, {"ratio": 2}])
def test_bad_options_are_named(wrong):
    with pytest.raises(CreditError, match=f"credit attention_entropy: {next(iter(wrong))}"):
        credit.get("attention_entropy", **wrong)
