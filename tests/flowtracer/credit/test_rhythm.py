"""Protects credit by the rhythm of attention: which heads count, and where the bonus goes."""

import pytest
import torch

from flowtracer import credit
from flowtracer.readings import HeadVectors
from tests.flowtracer.credit.cases import make, ten


def test_heads_are_chosen_by_their_mean_distance():
    """Ten heads; head h looks back h + 1 tokens: the three nearest are local, the three farthest global."""
    reach, influence, distance = (torch.zeros(1, 10, 11) for _ in range(3))
    for h in range(10):
        distance[0, h] = h + 1
        reach[0, h], influence[0, h] = h + 1, (h + 1) / 100
    vectors = HeadVectors(reach, distance, influence)
    context = ten("coupled", head_vectors=vectors)
    method = credit.get("coupled")
    assert method.local_reach(context)[0, 5] == pytest.approx(2.0)
    assert method.influence(context)[0, 5] == pytest.approx(0.09)
    one = credit.get("coupled", heads=0.0)
    assert one.local_reach(context)[0, 5] == pytest.approx(1.0), "at least one head"


def test_global_anchor_abstains_on_what_is_too_short():
    method, context = make("global_anchor", responses=(14, 9, 12, 14))
    assert method.assess(context).abstentions == {1: "no token far enough ahead"}, (
        "nine tokens have none ten ahead of another"
    )


def test_coupled_conserves_the_bonus():
    method, context = make("coupled", near=1, far=4)
    anchors = credit.get("global_anchor", near=1, far=4)
    weights = method(context)
    _, other = make("global_anchor", near=1, far=4)
    expected = anchors(other)
    assert torch.allclose(weights.sum(1), expected.sum(1)) and not torch.equal(weights, expected)
