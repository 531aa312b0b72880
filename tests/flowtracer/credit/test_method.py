"""Protects the contract that every registered credit method keeps."""

import copy
import random
from typing import ClassVar

import numpy
import pytest
import torch

from flowtracer import CreditError, credit
from flowtracer.credit.elsewhere import LEFT_OUT
from flowtracer.credit.method import MAPS, NEEDS, Credit, CreditMethod, register
from flowtracer.readings import HeadVectors
from tests.flowtracer.credit.cases import ABSTAINS_WITHOUT_ANSWER, NAMES, RANDOM, make, rearranged

TABLE = """
    uniform constant random shuffled_flow bottom_flow delimiters position oracle oracle_mask anti_oracle entropy
    entropy_mask entropy_advantage probability local_chunk global_anchor coupled answer_attention one_hop raw_flow
    attention_rollout gradient ktae tempo flow random_mask first_tokens last_tokens low_probability gtpo hicra delight
    shuffled_oracle otb attention_entropy oar_perturb rlsd opsd oppo vine spo
"""


def test_the_registry_holds_every_method_of_the_table():
    assert NAMES == sorted(TABLE.split())


def test_unknown_names_and_options_are_named():
    with pytest.raises(CreditError, match="unknown credit method 'flwo'; did you mean 'flow'"):
        credit.get("flwo")
    with pytest.raises(CreditError, match="credit flow has no option 'gama'; did you mean 'gamma'"):
        credit.get("flow", gama=2.0)


def test_a_method_that_is_left_out_says_why():
    with pytest.raises(CreditError, match="'fipo' is left out: .* change with each further one") as raised:
        credit.get("fipo")
    assert "\n" not in str(raised.value) and not set(LEFT_OUT) & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_declarations_are_known(name):
    method = credit.get(name)
    assert method.needs <= set(NEEDS) and method.scope in ("response", "group", "batch")
    reading = method.reading()
    assert (None if reading is None else {reading.fills}) == (set(method.needs & MAPS) or None)
    assert method.usual_mean > 0
    assert "Ten response tokens" in type(method).__doc__ or "ten response tokens" in type(method).__doc__


@pytest.mark.parametrize("name", NAMES)
def test_shape_mask_type_and_detachment(name):
    method, context = make(name, answers="some")
    for field in ("logprobs", "teacher_logprobs", "entropies", "saliency", "squares", "divergence"):
        if getattr(context, field) is not None:
            setattr(context, field, getattr(context, field).requires_grad_())
    weights = method(context)
    assert weights.shape == context.response.shape and weights.dtype == torch.float32
    assert not weights.requires_grad
    assert (weights[~context.response] == 1).all() and weights.isfinite().all()
    assert method.signed or method.additive or (weights >= 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("uniform", "constant")])
def test_every_other_method_makes_a_difference(name):
    """Against contract tests that a method of constant weights would pass."""
    method, context = make(name)
    inside = method(context)[context.response]
    assert inside.min() < inside.max()


@pytest.mark.parametrize("name", NAMES)
def test_own_random_numbers_only(name):
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    method, context = make(name)
    one = method(context)
    assert torch.equal(one, method(make(name)[1]))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), numpy.random.get_state()[1].tolist())
    if name in RANDOM:
        other = make(name)[1]
        other.streams = [stream + 99 for stream in other.streams]
        assert not torch.equal(one, method(other))
        other.streams = None
        with pytest.raises(CreditError, match=f"credit {name} draws at random and needs a stream"):
            method(other)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_needed_and_missing_is_named(name):
    method, _ = make(name)
    for need in method.needs:
        _, context = make(name)
        setattr(context, need, None)
        with pytest.raises(CreditError, match=f"credit {name} needs .*{need}"):
            method(context)


@pytest.mark.parametrize("name", NAMES)
def test_scores_taken_earlier_give_the_same_weights(name):
    """Maps are read in one pass and weights computed after another, with the maps gone."""
    method, context = make(name, answers="some")
    weights = method(context)
    _, early = make(name, answers="some")
    scores = method.score(early)
    late = rearranged(early, lambda value: value)
    for field in MAPS:
        setattr(late, field, None)
    late.scores = scores
    assert torch.equal(weights, method(late))


@pytest.mark.parametrize("name", NAMES)
def test_abstentions_are_counted_and_get_the_mean_of_the_others(name):
    method, context = make(name, answers="some")
    judged_credit = method.assess(context)
    weights, abstentions = judged_credit.weights, judged_credit.abstentions
    assert set(abstentions) == ({1, 3} if name in ABSTAINS_WITHOUT_ANSWER else set())
    if abstentions:
        assert set(abstentions.values()) == {"no answer"}
        judged = context.response.clone()
        judged[[1, 3]] = False
        mean = float(weights[judged].double().mean())
        assert weights[[1, 3]][context.response[[1, 3]]].tolist() == pytest.approx([mean] * 25)


@pytest.mark.parametrize("name", sorted(ABSTAINS_WITHOUT_ANSWER))
def test_nothing_but_abstentions_get_the_usual_mean(name):
    method, context = make(name, answers="none")
    judged_credit = method.assess(context)
    assert len(judged_credit.abstentions) == 4
    assert judged_credit.weights[context.response].unique().tolist() == pytest.approx([method.usual_mean])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answers", ["last", "some"])
def test_mean_one_conserves_the_total_over_the_scope(name, answers):
    if credit.get(name).signed or credit.get(name).additive:
        with pytest.raises(CreditError, match=f"credit {name}: mean_one is not defined"):
            credit.get(name, mean_one=True)
        return
    plain = make(name, answers=answers)
    plain_weights = plain[0](plain[1])
    method, context = make(name, answers=answers, mean_one=True)
    judged_credit = method.assess(context)
    weights = judged_credit.weights.double()
    members = [[0], [1], [2], [3]] if method.scope == "response" else [[0, 1, 2, 3]]
    for rows in members:
        inside = context.response[rows]
        assert float(weights[rows][inside].sum()) == pytest.approx(int(inside.sum()), rel=1e-6)
        if not set(rows) & set(judged_credit.abstentions):
            factor = weights[rows][inside] / plain_weights[rows][inside].double()
            factor = factor[factor.isfinite()]
            assert torch.allclose(factor, factor[:1].expand_as(factor), rtol=1e-5), (
                "only the scale may change"
            )


CASES = {
    "empty responses": {"responses": (0, 9, 0, 4)},
    "only empty responses": {"responses": (0, 0, 0, 0)},
    "one token": {"responses": (1, 1, 1, 1)},
    "no answer": {"answers": "none"},
    "answer first": {"answers": "first"},
    "all correct": {"rewards": [1.0] * 4},
    "all wrong": {"rewards": [0.0] * 4},
    "unscorable": {"rewards": [1.0, float("nan"), 0.0, 1.0]},
    "none scorable": {"rewards": [float("nan")] * 4},
    "batch of one": {"responses": (6,), "prompts": (2,)},
    "one token, one row": {"responses": (1,), "prompts": (1,)},
}


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("name", NAMES)
def test_degenerate_cases(name, case):
    method, context = make(name, **CASES[case])
    weights = method(context)
    assert weights.isfinite().all() and (weights[~context.response] == 1).all()
    assert method.signed or method.additive or (weights >= 0).all()
    if method.scope == "group" and case in ("all correct", "all wrong", "none scorable", "batch of one"):
        assert (weights == 1).all(), "a group without signal has no delta"
    if case == "unscorable" and method.scope == "group":
        assert (weights[1] == 1).all() and not (weights == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_all_responses_equal(name):
    """Equal token ids, entropies and attention in every row: equal weights in every row."""
    method, context = make(name, responses=(8, 8, 8, 8), prompts=(3, 3, 3, 3))
    same = rearranged(context, lambda value: [value[0]] * 4 if isinstance(value, list) else value[:1].repeat(
        4, *[1] * (value.ndim - 1)))  # fmt: skip
    same.reward, same.advantage = torch.ones(4), torch.zeros(4)
    weights = method(same)
    assert torch.equal(weights, weights[:1].expand_as(weights))


@pytest.mark.parametrize("name", NAMES)
def test_rows_may_come_in_any_order(name):
    method, context = make(name, answers="some")
    weights = method(context)
    order = [2, 0, 3, 1]
    shuffled = rearranged(context_of(name), lambda value: [value[i] for i in order] if isinstance(value, list)
                          else value[order])  # fmt: skip
    assert torch.allclose(method(shuffled), weights[order], rtol=1e-6, atol=1e-6)


def context_of(name):
    return make(name, answers="some")[1]


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    """Three more columns of pads on the left and two on the right."""
    method, context = make(name, answers="some")
    weights = method(context)

    def pad(value):
        if isinstance(value, list):
            return [[""] * 3 + row + [""] * 2 if isinstance(row, list) else row for row in value]
        if value.ndim == 1:
            return value
        if value.ndim == 3 and value.shape[1] == value.shape[2]:
            return torch.nn.functional.pad(value, (3, 2, 3, 2))
        return torch.nn.functional.pad(value, (3, 2))

    padded = method(rearranged(context_of(name), pad))
    assert torch.allclose(padded[:, 3:-2], weights, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_values_outside_the_response_mean_nothing(name):
    method, context = make(name)
    weights = method(context)
    _, other = make(name)
    for field in ("logprobs", "entropies", "saliency", "squares", "divergence"):
        if getattr(other, field) is not None:
            setattr(other, field, torch.where(other.response, getattr(other, field), 7.0))
    assert torch.equal(weights, method(other))


@pytest.mark.parametrize("answers", ["last", "some"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_the_context_changes(name, answers):
    """Who holds a map, a mask or an advantage finds it as it was, abstentions and all: `assess` is a pure function."""
    options = {"first_token": "drop"} if name == "flow" else {}
    method, context = make(name, answers=answers, **options)
    before = copy.deepcopy(context)
    method.assess(context)
    method.score(context)
    for field, value in vars(before).items():
        same(getattr(context, field), value, field)


def same(value, expected, field):
    if isinstance(expected, torch.Tensor):
        assert torch.equal(value, expected), field
    elif isinstance(expected, HeadVectors):
        for name, part in vars(expected).items():
            same(getattr(value, name), part, field)
    else:
        assert value == expected, field


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_draws_belong_to_the_rollout(name):
    """A micro-batch of two rows gives what the whole batch gives them."""
    method, context = make(name)
    whole = method(context)
    part = rearranged(context, lambda value: value[1:3])
    assert torch.equal(method(part), whole[1:3])


@pytest.mark.parametrize("name", [name for name in NAMES if credit.get(name).additive])
def test_an_addend_is_added_where_the_advantage_is_nought(name):
    """Graded rewards, one at its group's mean: as a factor the change was lost, or blown up by rounding."""
    method, context = make(name, responses=(9,) * 4, prompts=(3,) * 4, rewards=[0.0, 0.5, 1.0, 0.5])
    assert context.advantage[1] == 0
    context.token_ids[1, :5] = context.token_ids[0, :5]  # a prefix in common, from which the two part
    judged_credit = method.assess(context)
    assert judged_credit.weights is None and (judged_credit.addend[~context.response] == 0).all()
    assert judged_credit.addend[1].abs().max() > 0
    applied = judged_credit.applied(context.advantage)
    assert torch.equal(applied[1], judged_credit.addend[1])
    assert torch.allclose(applied - context.advantage.unsqueeze(1), judged_credit.addend, atol=1e-6)
    assert (method(context)[1] == 1).all(), "no weight can show it"


def test_weights_are_multiplied():
    weights = torch.tensor([[1.0, 1.5], [2.0, 1.0]])
    assert torch.equal(
        Credit(weights, None, {}).applied(torch.tensor([-1.0, 2.0])), torch.tensor([[-1.0, -1.5], [4.0, 2.0]])
    )


def test_a_weight_that_is_not_finite_or_negative_is_refused():
    method, context = make("probability")
    context.logprobs[0, context.response[0].nonzero()[0]] = float("nan")
    with pytest.raises(CreditError, match="not finite"):
        method(context)

    class Negative(CreditMethod):
        name = "negative"

        def weights(self, context):
            return -torch.ones(context.response.shape)

    with pytest.raises(CreditError, match="negative weight"):
        Negative()(make("uniform")[1])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [name for name in NAMES if credit.get(name).needs & {
    "capacity", "rollout", "head_vectors", "entropies", "saliency", "logprobs", "squares", "divergence",
    "teacher_logprobs"}])  # fmt: skip
def test_numbers_that_are_not_finite_are_refused(name, wrong):
    """In what was read of one response token: a ranking would put it first, or nowhere, without a word."""
    method, context = make(name)
    of_tokens = {"entropies", "saliency", "logprobs", "squares", "divergence", "teacher_logprobs"}
    for need in method.needs & of_tokens:
        getattr(context, need)[0, context.response[0].nonzero()[3]] = wrong
    for need in method.needs & {"capacity", "rollout"}:
        at = context.answer[0].nonzero()[0]
        getattr(context, need)[0, at, at - 3] = wrong
    if context.head_vectors is not None:
        context.head_vectors.influence[0, :, context.response[0].nonzero()[3]] = wrong
        context.head_vectors.reach[0, :, context.response[0].nonzero()[3]] = wrong
    with pytest.raises(CreditError, match="finite"):
        method(context)


@pytest.mark.parametrize("name", ["flow", "one_hop", "raw_flow", "attention_rollout"])
def test_negative_attention_is_refused(name):
    method, context = make(name)
    for need in method.needs:
        getattr(context, need).neg_()
    with pytest.raises(CreditError, match="negative entries"):
        method(context)


def test_a_class_without_its_rule_is_refused_when_it_is_registered():
    """Python itself says so only at the first use, by a traceback."""
    with pytest.raises(CreditError, match="Halfway does not define weights"):

        @register
        class Halfway(CreditMethod):
            name: ClassVar[str] = "halfway"

    assert "halfway" not in credit.names()
