"""Protects methods put together: the product, one sign, a mask, and what cannot be put together."""

import pytest
import torch

from flowtracer import CreditError, credit
from tests.flowtracer.credit.cases import TAU, make, ten

ENTROPIES = [0.0, 2, 0, 1, 1, 0, 3, 0, 2, 1]


def test_a_product_multiplies_and_shares_abstentions():
    both = credit.get(["flow", "gtpo"], flow={"gamma": 2.0})
    context = ten("flow", scores=TAU, entropies=ENTROPIES)
    alone = credit.get("flow", gamma=2.0)(context) * credit.get("gtpo")(context)
    assert torch.allclose(both(context), alone)
    assert both.needs == {"capacity", "entropies"} and both.layers == "middle" and both.name == "flow * gtpo"
    _, context = make("flow", answers="some")
    context.entropies = torch.ones(context.response.shape)
    judged = both.assess(context)
    assert judged.abstentions == {1: "no answer", 3: "no answer"}
    assert judged.weights[[1, 3]][context.response[[1, 3]]].unique().numel() == 1


@pytest.mark.parametrize(("sign", "advantage"), [("positive", -1.0), ("negative", 1.0)])
def test_the_other_sign_weighs_one(sign, advantage):
    method = credit.get("entropy", sign=sign)
    there = ten("entropy", entropies=ENTROPIES, advantage=torch.tensor([-advantage]))
    assert torch.equal(method(there), credit.get("entropy")(there))
    there.advantage = torch.tensor([advantage])
    assert (method(there) == 1).all()
    there.advantage = None
    with pytest.raises(CreditError, match="needs the advantages"):
        method(there)


def test_a_mask_keeps_the_up_weighted():
    weights = credit.get("entropy", as_mask=True)(ten("entropy", entropies=ENTROPIES))[0, 1:]
    assert weights.tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1, 0]
    assert (credit.get("constant", as_mask=True)(ten("constant")) == 1).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tempo", {"as_mask": True}, "as_mask is not defined"),
        (["ktae", "entropy"], {}, "ktae adds to the advantage"),
        (["flow", "one_hop"], {}, "both read attention"),
        (["flow", "flow"], {}, "different credit methods"),
        ([], {}, "different credit methods"),
        (["entropy", "gtpo"], {"gamma": 2.0}, "has no option 'gamma'"),
        ("entropy", {"sign": "up"}, "sign must be one of"),
        ("entropy", {"as_mask": 1}, "as_mask must be true or false"),
        (["flow", "gtpo"], {"flow": {"abstain": "one"}}, "abstain='one'"),
    ],
)
def test_what_cannot_be_put_together_is_refused(name, options, message):
    with pytest.raises(CreditError, match=message):
        credit.get(name, **options)


@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_abstentions_of_the_other_sign_weigh_one(sign):
    """Rows 1 (negative) and 3 (positive) have no answer; each gets the mean of its own sign's judged rows, or 1."""
    method, context = make("one_hop", answers="some")
    method = credit.get("one_hop", sign=sign)
    plain = credit.get("one_hop").assess(context)
    assert set(plain.abstentions) == {1, 3} and (context.advantage > 0).tolist() == [True, False, False, True]
    assessed = method.assess(context)
    mine, other, judged = (3, 1, 0) if sign == "positive" else (1, 3, 2)
    assert set(assessed.abstentions) == {mine}
    inside = context.response
    assert (assessed.weights[other][inside[other]] == 1).all()
    mean = plain.weights[judged][inside[judged]].double().mean()
    assert torch.allclose(assessed.weights[mine][inside[mine]].double(), mean, atol=1e-6)


def test_mean_one_is_of_the_mask_and_of_the_one_sign():
    there = ten("entropy", entropies=ENTROPIES, advantage=torch.tensor([1.0]))
    masked = credit.get("entropy", as_mask=True, mean_one=True)(there)[0, 1:]
    assert masked.tolist() == [0, 2.5, 0, 2.5, 0, 0, 2.5, 0, 2.5, 0]
    signed = credit.get("entropy", sign="negative", mean_one=True)
    assert (signed(there) == 1).all()
    there.advantage = torch.tensor([-1.0])
    weights = signed(there)[0, 1:]
    assert abs(float(weights.double().mean()) - 1) < 1e-6 and float(weights.max()) > 1.1
