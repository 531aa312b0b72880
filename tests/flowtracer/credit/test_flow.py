"""Protects FlowTracer's credit: its options, its abstentions, and its controls."""

import pytest
import torch

from flowtracer import CreditError, credit
from tests.flowtracer.credit.cases import TAU, make, ten


def flow_weights(tau, **options):
    """flow's weights on ten response tokens of throughput `tau`."""
    fields = {key: options.pop(key) for key in ("advantage",) if key in options}
    method = credit.get("flow", **options)
    return method(ten("flow", scores=torch.tensor([[0.0, *tau]]), **fields))[0, 1:].tolist()


def test_flow_never_up_weights_a_token_of_throughput_zero():
    assert flow_weights([0, 0.3, 0, 0, 0, 0, 0, 0, 0, 2.0]) == [1, 1.5, 1, 1, 1, 1, 1, 1, 1, 1.5]


def test_flow_ratio_and_gamma():
    assert flow_weights(TAU, ratio=0.2, gamma=3.0) == [1, 3, 1, 1, 1, 1, 1, 1, 3, 1]
    assert flow_weights(TAU, ratio=0.6).count(1.5) == 6
    assert flow_weights(TAU, ratio=1.0).count(1.5) == 8, "the two of throughput 0 stay"
    assert flow_weights(TAU, ratio=0.0) == [1] * 10
    for wrong in ({"ratio": 1.1}, {"ratio": -0.1}, {"gamma": float("nan")}, {"gamma": -1}, {"ratio": "0.4"}):
        with pytest.raises(CreditError, match=f"credit flow: {next(iter(wrong))} must lie between"):
            credit.get("flow", **wrong)
    for option in ("source", "answer_rows", "first_token", "sign", "abstain", "shape"):
        with pytest.raises(CreditError, match=f"credit flow: {option} must be one of"):
            credit.get("flow", **{option: "neither"})


def test_flow_pool_without_the_answer():
    """The tenth token is the answer; its place goes to the next one, and the number of up-weighted tokens stays."""
    tau = [0.2, 0.9, 0.1, 0.9, 0.3, 0.0, 0.4, 0.0, 0.0, 2.0]
    assert flow_weights(tau) == [1, 1.5, 1, 1.5, 1, 1, 1.5, 1, 1, 1.5]
    assert flow_weights(tau, answer_in_pool=False) == [1, 1.5, 1, 1.5, 1.5, 1, 1.5, 1, 1, 1]


@pytest.mark.parametrize(("sign", "advantage", "applies"), [
    ("both", 1.0, True), ("both", -1.0, True), ("positive", 1.0, True), ("positive", -1.0, False),
    ("negative", 1.0, False), ("negative", -1.0, True), ("positive", 0.0, False),
])  # fmt: skip
def test_flow_sign(sign, advantage, applies):
    got = flow_weights(TAU, sign=sign, advantage=torch.tensor([advantage]))
    assert (1.5 in got) == applies
    with pytest.raises(CreditError, match="needs the advantages"):
        flow_weights(TAU, sign="positive", advantage=None)


def test_flow_continuous_weights_are_proportional_and_keep_the_mean():
    got = torch.tensor(flow_weights(TAU, shape="continuous"))
    assert float(got.mean()) == pytest.approx(1.2)
    assert torch.allclose((got - 1) / (got[8] - 1), torch.tensor(TAU) / 2.0, atol=1e-6)
    with pytest.raises(CreditError, match="bottom_flow has two levels"):
        credit.get("bottom_flow", shape="continuous")


def test_flow_abstention_of_one():
    method, context = make("flow", answers="some", abstain="one")
    credit_given = method.assess(context)
    assert set(credit_given.abstentions) == {1, 3} and (credit_given.weights[[1, 3]] == 1).all()


def test_flow_abstains_where_nothing_of_the_source_reaches_the_answer():
    capacity = torch.zeros(1, 11, 11)
    capacity[0, 10, 5] = 0.5
    context = ten("flow", capacity=capacity)
    assert credit.get("flow").assess(context).abstentions == {0: "answer unreachable"}


@pytest.mark.parametrize("options", [{"answer_rows": "emitting"}, {"answer_in_pool": False}])
@pytest.mark.parametrize("name", ["flow", "bottom_flow", "shuffled_flow"])
def test_flow_abstains_where_it_passes_no_token_that_competes(name, options):
    """The prompt goes straight to an answer at the start: equal weights would be no judgement."""
    method, context = make(name, answers="first", **options)
    context.answer[1] = context.answer[1].roll(5)
    assert method.assess(context).abstentions == dict.fromkeys((0, 2, 3), "no token before the answer")
    method, context = make(name, answers="first")
    assert not method.assess(context).abstentions, "the answer itself competes"


def test_flow_rows_of_the_answer():
    """The emitting position is one earlier: here token 9 looks at 2, the answer itself at 8."""
    capacity = torch.zeros(1, 11, 11)
    for k, i in ((2, 0), (8, 0), (9, 2), (10, 8)):
        capacity[0, k, i] = 0.5
    own = credit.get("flow")(ten("flow", capacity=capacity.clone()))
    emitting = credit.get("flow", answer_rows="emitting")(ten("flow", capacity=capacity.clone()))
    assert (own[0] == 1.5).nonzero().flatten().tolist() == [8, 10]
    assert (emitting[0] == 1.5).nonzero().flatten().tolist() == [2, 9]


def test_one_hop_reads_the_emitting_row_where_it_is_asked_to():
    """Position 9 emits token 10, the answer: it looks at 2, and the answer's own row at 8."""
    capacity = torch.zeros(1, 11, 11)
    capacity[0, 10, 8] = 0.9
    capacity[0, 9, 2] = 0.9
    for rows, expected in (("answer", 8), ("emitting", 2)):
        weights = credit.get("one_hop", answer_rows=rows)(ten("one_hop", capacity=capacity.clone()))
        assert (weights[0] == 1.5).nonzero().flatten().tolist() == [expected]
    with pytest.raises(CreditError, match="answer_rows"):
        credit.get("one_hop", answer_rows="both")


def test_flow_without_the_first_token():
    """Dropping the sink alone changes no flow between others; renormalising the rows is what acts."""
    method, context = make("flow")
    token = context.prompt | context.response
    before = context.capacity.clone()
    kept, dropped = credit.get("flow"), credit.get("flow", first_token="drop")
    _, other = make("flow")
    tau, without = kept.score(context), dropped.score(other)
    first = token.to(torch.uint8).argmax(1)
    assert (without[torch.arange(4), first] == 0).all() and (tau[torch.arange(4), first] > 0).all()
    assert not torch.allclose(tau, without)
    # By hand: the map without that token, rows scaled back to their sums, no token dropped by the method.
    rows = torch.arange(4)
    by_hand = before.clone()
    by_hand[rows, :, first] = 0
    by_hand[rows, first] = 0
    by_hand *= (before.sum(-1) / by_hand.sum(-1).clamp(min=1e-30)).unsqueeze(-1) * (
        by_hand.sum(-1) > 0
    ).unsqueeze(-1)
    _, manual = make("flow")
    manual.capacity = by_hand
    assert torch.allclose(without, kept.score(manual), atol=1e-6)


def test_flow_does_not_depend_on_what_it_must_not_read():
    """Advantage, reward and token ids are no part of the flow."""
    method, context = make("flow")
    _, other = make("flow", rewards=[0.0, 0.0, 1.0, 0.0])
    other.token_ids = other.token_ids.roll(1, 1)
    assert torch.equal(method(context), method(other))


def test_shuffled_flow_keeps_each_response_s_weights():
    plain, context = make("flow", answers="some")
    expected = plain(context)
    shuffled, context = make("shuffled_flow", answers="some")
    got = shuffled(context)
    for row in range(4):
        own = context.response[row]
        assert sorted(got[row, own].tolist()) == pytest.approx(sorted(expected[row, own].tolist()))
    assert not torch.equal(got, expected)
