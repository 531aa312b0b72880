"""Protects credit by the rhythm of attention: which heads count, and where the bonus goes."""

import math
import random

import pytest
import torch

from flowtracer import credit
from flowtracer.readings import HeadVectors
from tests.flowtracer.credit.cases import heads, make, ten


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


def coupled_by_hand(influence, reach, ratio=0.4, gamma=1.5, alpha=0.5, back=3):
    """Equation 19 of arXiv 2510.13554v2 on one response, in loops and sets; thresholds and preplan token as here."""
    n = len(influence)
    jump = [abs(now - then) for now, then in zip(reach, reach[1:], strict=False)] + [0.0]
    ranked = sorted((s for s in range(n) if influence[s] > 0), key=lambda s: (-influence[s], s))
    anchors = set(ranked[: math.floor(ratio * n)])
    near, far = (sorted(values)[(n - 1) // 2] for values in (reach, jump))
    intro = {}
    for t in anchors:
        before = [u for u in range(max(0, t - back), t) if jump[u] > far]
        if reach[t] <= near and before:
            intro[t] = max(before, key=lambda u: (jump[u], -u))
    weights = []
    for t in range(n):
        share = float(t in anchors) - alpha * (t in intro) + alpha * (t in set(intro.values()))
        weights.append(1.0 + (gamma - 1.0) * share)
    return weights


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("options", [{}, {"alpha": 1.0, "back": 1}, {"back": 40}])
def test_coupled_is_equation_19(seed, options):
    source = random.Random(seed)
    n = 30
    influence = [max(0.0, round(source.uniform(-0.1, 0.4), 2)) for _ in range(n)]
    reach = [float(source.randint(0, 9)) for _ in range(n)]
    context = ten("coupled", head_vectors=heads(reach=reach, influence=influence))
    column = torch.arange(n + 1).unsqueeze(0)
    context.prompt, context.response = column == 0, column > 0
    weights = credit.get("coupled", **options)(context)[0, 1:]
    expected = torch.tensor(coupled_by_hand(influence, reach, **options))
    torch.testing.assert_close(weights.double(), expected.double(), rtol=0, atol=1e-6)


def test_a_preplan_token_gets_its_share_once():
    """The anchors 3 and 4 both lead back to the first token, the earlier of two with the largest jump before either."""
    vectors = heads(reach=[1.0, 9, 1, 1, 8, 8, 8, 8, 8, 8], influence=[0, 0, 0.4, 0.3, 0, 0, 0, 0, 0, 0])
    weights = credit.get("coupled")(ten("coupled", head_vectors=vectors))[0, 1:]
    assert weights.tolist() == [1.25, 1, 1.25, 1.25, 1, 1, 1, 1, 1, 1]
