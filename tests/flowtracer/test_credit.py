"""Protects the contract that every registered credit method keeps, each method's rule, and each docstring's example."""

import random
import re
from dataclasses import replace

import numpy
import pytest
import scipy.stats
import torch
from trl import GRPOTrainer

from flowtracer import CreditError, credit
from flowtracer.credit import CreditContext
from flowtracer.credit.controls import pool_size, top
from flowtracer.credit.method import MAPS, NEEDS, CreditMethod
from flowtracer.credit.outcome import fisher_exact
from flowtracer.readings import HeadVectors

NAMES = credit.names()
RANDOM = {"random", "shuffled_flow"}
ABSTAINS_WITHOUT_ANSWER = {
    "flow", "shuffled_flow", "bottom_flow", "one_hop", "attention_rollout", "answer_attention", "gradient",
}  # fmt: skip

TABLE = """
    uniform constant random shuffled_flow bottom_flow delimiters position oracle oracle_mask anti_oracle entropy
    entropy_mask entropy_advantage probability local_chunk global_anchor coupled answer_attention one_hop raw_flow
    attention_rollout gradient ktae tempo flow
"""


def make(
    name, responses=(14, 11, 12, 14), prompts=(3, 5, 4, 2), answers="last", rewards=None, seed=0, **options
):
    """A method and a random context for it: left-padded prompts, right-padded responses, everything that is needed.

    answers: "last" two tokens, "first" token, "none", or "some" (rows 1 and 3 have none).
    """
    source = torch.Generator().manual_seed(seed)
    rows, left, right = len(responses), max(prompts), max([*responses, 1])
    width, heads = left + right, 4
    column = torch.arange(width)
    prompt = torch.stack([(column >= left - p) & (column < left) for p in prompts])
    response = torch.stack([(column >= left) & (column < left + n) for n in responses])
    token = prompt | response
    answer = torch.zeros_like(response)
    for row, n in enumerate(responses):
        if n and answers != "none" and not (answers == "some" and row % 2):
            answer[row, left if answers == "first" else slice(left + max(n - 2, 0), left + n)] = True
    decisive = response & (column == left)
    reward = torch.tensor(rewards or [1.0, 0.0, 0.0, 1.0][:rows])
    group = torch.arange(rows) // 4
    advantage = torch.nan_to_num(reward - reward.nanmean()) * 1.7
    method = credit.get(name, **options)
    context = CreditContext(
        token_ids=torch.randint(2, 9, (rows, width), generator=source) * token,
        prompt=prompt,
        response=response,
        source=prompt.clone(),
        answer=answer,
        advantage=advantage,
        reward=reward,
        group=group,
        generator=torch.Generator().manual_seed(seed),
    )
    if "decisive" in method.needs:
        context.decisive = decisive
    if "logprobs" in method.needs:
        context.logprobs = -2.0 * torch.rand(rows, width, generator=source) * response
    if "entropies" in method.needs:
        context.entropies = 2.0 * torch.rand(rows, width, generator=source) * response
    if "saliency" in method.needs:
        context.saliency = torch.rand(rows, width, generator=source) * token * answer.any(1, keepdim=True)
    if "pieces" in method.needs:
        letters = ["a", " b", ".", "\n", "", "12", "=", "#"]
        chosen = torch.randint(len(letters), (rows, width), generator=source).tolist()
        context.pieces = [[letters[i] if own else "" for i, own in zip(*pair, strict=True)] for pair in
                          zip(chosen, response.tolist(), strict=True)]  # fmt: skip
    visible = token.unsqueeze(2) & token.unsqueeze(1) & torch.ones(width, width, dtype=torch.bool).tril()
    logits = 2.0 * torch.randn(2, rows, heads, width, width, generator=source)
    fill(method, context, [layer.masked_fill(~visible.unsqueeze(1), -1e9).softmax(-1) * visible.unsqueeze(1)
                           for layer in logits])  # fmt: skip
    return method, context


def fill(method, context, layers):
    """Feeds per-head probabilities (B, H, T, T) of each layer to the method's own reading."""
    reading = method.reading()
    if reading is None:
        return
    reading.begin(context.prompt | context.response, len(layers))
    for probabilities in layers:
        reading.add(slice(0, len(probabilities)), 0, probabilities)
        reading.end_layer()
    setattr(context, reading.fills, reading.finish(padded=True))


def rearranged(context, change):
    """The context with `change` applied to every tensor and list of rows in it."""
    values = {}
    for name, value in vars(context).items():
        if isinstance(value, HeadVectors):
            value = HeadVectors(*(change(part) for part in vars(value).values()))
        elif isinstance(value, (torch.Tensor, list)):
            value = change(value)
        values[name] = value
    return replace(context, **{**values, "abstentions": {}})


# The contract, over every registered method.


def test_the_registry_holds_every_method_of_the_table():
    assert NAMES == sorted(TABLE.split())


def test_unknown_names_and_options_are_named():
    with pytest.raises(CreditError, match="unknown credit method 'flwo'; known: answer_attention"):
        credit.get("flwo")
    with pytest.raises(CreditError, match="credit flow has no option 'gama'; it has: .*gamma"):
        credit.get("flow", gama=2.0)


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
    for field in ("logprobs", "entropies", "saliency"):
        if getattr(context, field) is not None:
            setattr(context, field, getattr(context, field).requires_grad_())
    weights = method(context)
    assert weights.shape == context.response.shape and weights.dtype == torch.float32
    assert not weights.requires_grad
    assert (weights[~context.response] == 1).all() and weights.isfinite().all()
    assert method.signed or (weights >= 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("uniform", "constant")])
def test_every_other_method_makes_a_difference(name):
    """Against contract tests that a method of constant weights would pass."""
    method, context = make(name)
    inside = method(context)[context.response]
    assert inside.min() < inside.max()


@pytest.mark.parametrize("name", NAMES)
def test_own_generator_only(name):
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    method, context = make(name)
    one = method(context)
    assert torch.equal(one, method(make(name)[1]))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), numpy.random.get_state()[1].tolist())
    if name in RANDOM:
        other = make(name)[1]
        other.generator.manual_seed(99)
        assert not torch.equal(one, method(other))
        other.generator, other.abstentions = None, {}
        with pytest.raises(CreditError, match=f"credit {name} needs a generator"):
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
    late.generator = torch.Generator().manual_seed(0)
    assert torch.equal(weights, method(late))


@pytest.mark.parametrize("name", NAMES)
def test_abstentions_are_counted_and_get_the_mean_of_the_others(name):
    method, context = make(name, answers="some")
    weights = method(context)
    assert set(context.abstentions) == ({1, 3} if name in ABSTAINS_WITHOUT_ANSWER else set())
    if context.abstentions:
        assert set(context.abstentions.values()) == {"no answer"}
        judged = context.response.clone()
        judged[[1, 3]] = False
        mean = float(weights[judged].double().mean())
        assert weights[[1, 3]][context.response[[1, 3]]].tolist() == pytest.approx([mean] * 25)


@pytest.mark.parametrize("name", sorted(ABSTAINS_WITHOUT_ANSWER))
def test_nothing_but_abstentions_get_the_usual_mean(name):
    method, context = make(name, answers="none")
    weights = method(context)
    assert len(context.abstentions) == 4
    assert weights[context.response].unique().tolist() == pytest.approx([method.usual_mean])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answers", ["last", "some"])
def test_mean_one_conserves_the_total_over_the_scope(name, answers):
    if credit.get(name).signed:
        with pytest.raises(CreditError, match=f"credit {name}: mean_one is not defined"):
            credit.get(name, mean_one=True)
        return
    plain = make(name, answers=answers)
    plain_weights = plain[0](plain[1])
    method, context = make(name, answers=answers, mean_one=True)
    weights = method(context).double()
    members = [[0], [1], [2], [3]] if method.scope == "response" else [[0, 1, 2, 3]]
    for rows in members:
        inside = context.response[rows]
        assert float(weights[rows][inside].sum()) == pytest.approx(int(inside.sum()), rel=1e-6)
        if not set(rows) & set(context.abstentions):
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
    assert method.signed or (weights >= 0).all()
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
    if name not in RANDOM:
        assert torch.equal(weights, weights[:1].expand_as(weights))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in RANDOM])
def test_rows_may_come_in_any_order(name):
    method, context = make(name, answers="some")
    weights = method(context)
    order = [2, 0, 3, 1]
    shuffled = rearranged(context_of(name), lambda value: [value[i] for i in order] if isinstance(value, list)
                          else value[order])  # fmt: skip
    assert torch.allclose(method(shuffled), weights[order], rtol=1e-6, atol=1e-6)


def context_of(name):
    return make(name, answers="some")[1]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in RANDOM])
def test_padding_changes_nothing(name):
    """Three more columns of pads on the left and two on the right."""
    method, context = make(name, answers="some")
    weights = method(context)

    def pad(value):
        if isinstance(value, list):
            return [[""] * 3 + row + [""] * 2 for row in value]
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
    for field in ("logprobs", "entropies", "saliency"):
        if getattr(other, field) is not None:
            setattr(other, field, torch.where(other.response, getattr(other, field), 7.0))
    assert torch.equal(weights, method(other))


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
    "capacity", "rollout", "head_vectors", "entropies", "saliency", "logprobs"}])  # fmt: skip
def test_numbers_that_are_not_finite_are_refused(name, wrong):
    """In what was read of one response token: a ranking would put it first, or nowhere, without a word."""
    method, context = make(name)
    for need in method.needs & {"entropies", "saliency", "logprobs"}:
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


# The hand-worked examples of the docstrings: ten response tokens behind one prompt token.


def ten(name, rows=1, **fields):
    """A context of one prompt token and ten response tokens a row, with the given fields (ten values, or tensors)."""
    column = torch.arange(11).expand(rows, 11)
    context = CreditContext(
        token_ids=column.clone(),
        prompt=column == 0,
        response=column > 0,
        source=column == 0,
        answer=column == 10,
        advantage=torch.ones(rows),
        reward=torch.ones(rows),
        group=torch.zeros(rows, dtype=torch.long),
        generator=torch.Generator().manual_seed(0),
    )
    for field, value in fields.items():
        if isinstance(value, list) and len(value) == 10:
            value = torch.tensor([[0.0, *value]] * rows)
        setattr(context, field, value)
    return context


def answer_row(values):
    """A map in which the tenth response token attends to the ten with these weights."""
    capacity = torch.zeros(1, 11, 11)
    capacity[0, 10, 1:] = torch.tensor(values)
    return capacity


def chain():
    capacity = torch.zeros(1, 11, 11)
    for k in range(1, 11):
        capacity[0, k, k - 1] = 0.5
    return capacity


def heads(reach=None, influence=None):
    vectors = [torch.zeros(1, 1, 11) for _ in range(3)]
    for vector, values in ((vectors[0], reach), (vectors[2], influence)):
        if values is not None:
            vector[0, 0, 1:] = torch.tensor(values)
    return HeadVectors(*vectors)


def first_decisive():
    return torch.arange(11).unsqueeze(0) == 1


TAU = [0.2, 0.9, 0.1, 0.9, 0.3, 0.0, 0.4, 0.8, 2.0, 0.0]
PIECES = [["", "So", " 2", "+", "3", " =", " 5", ".", "\n", "####", " 5"]]
ENTROPIES = [0.0, 2.0, 0.1, 1.0, 0.5, 0.0, 1.0, 0.0, 1.0, 0.2]
BONUS_ENTROPIES = [0.0, 2.0, 0.1, 1.0, 0.5, 0.0, 1.0, 0.0, 1.25, 0.25]
PROBABILITIES = [1.0, 0.5, 0.25, 1e-30, 0.75, 1.0, 1.0, 0.1, 0.9, 0.5]

EXAMPLES = {
    "uniform": (dict, "1 1 1 1 1 1 1 1 1 1"),
    "constant": (dict, "1.2 1.2 1.2 1.2 1.2 1.2 1.2 1.2 1.2 1.2"),
    "flow": (lambda: {"scores": TAU}, "1 1.5 1 1.5 1 1 1 1.5 1.5 1"),
    "bottom_flow": (lambda: {"scores": TAU}, "1.5 1 1.5 1 1 1.5 1 1 1 1.5"),
    "delimiters": (lambda: {"pieces": PIECES}, "1 1 1.5 1 1.5 1 1.5 1.5 1.5 1"),
    "position": (dict, "0.5 0.5556 0.6111 0.6667 0.7222 0.7778 0.8333 0.8889 0.9444 1"),
    "oracle": (lambda: {"decisive": first_decisive()}, "1.5 1 1 1 1 1 1 1 1 1"),
    "oracle_mask": (lambda: {"decisive": first_decisive()}, "1 0 0 0 0 0 0 0 0 0"),
    "anti_oracle": (lambda: {"decisive": first_decisive()}, "1 1.5 1.5 1.5 1.5 1.5 1.5 1.5 1.5 1.5"),
    "entropy": (lambda: {"entropies": ENTROPIES}, "1 1.5 1 1.5 1 1 1.5 1 1.5 1"),
    "entropy_mask": (
        lambda: {"entropies": [0.0, 2.0, 0.1, 1.0, 0.5, 0.0, 0.9, 0.0, 0.8, 0.2]},
        "0 1 0 1 0 0 0 0 0 0",
    ),
    "entropy_advantage": (lambda: {"entropies": BONUS_ENTROPIES}, "1 1.5 1.04 1.4 1.2 1 1.4 1 1.5 1.1"),
    "probability": (
        lambda: {"logprobs": torch.tensor(PROBABILITIES).log().tolist()},
        "1 0.9 0.85 0.8 0.95 1 1 0.82 0.98 0.9",
    ),
    "local_chunk": (
        lambda: {"head_vectors": heads(reach=[1.0, 5, 4, 4, 9, 2, 2, 3, 3, 8])},
        "1.5 1 1 1.5 1.5 1 1 1 1.5 1",
    ),
    "global_anchor": (
        lambda: {"head_vectors": heads(influence=[0.1, 0.3, 0.2, 0.3, 0, 0.1, 0.05, 0, 0, 0])},
        "1.5 1.5 1.5 1.5 1 1 1 1 1 1",
    ),
    "coupled": (
        lambda: {
            "head_vectors": heads(
                reach=[1.0, 9, 2, 1, 8, 8, 8, 8, 8, 8], influence=[0, 0, 0, 0.4, 0.3, 0, 0.2, 0.1, 0, 0]
            )
        },
        "1.25 1.25 1 1.5 1.25 1 1.25 1.5 1 1",
    ),
    "answer_attention": (
        lambda: {"capacity": answer_row([0.2, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05])},
        "1 0.5 0.75 0.75 0.75 0.75 0.75 0.75 0.75 1",
    ),
    "one_hop": (
        lambda: {"capacity": answer_row([0.1, 0.2, 0, 0.05, 0.3, 0, 0.1, 0, 0.2, 0.05])},
        "1.5 1.5 1 1 1.5 1 1 1 1.5 1",
    ),
    "raw_flow": (lambda: {"capacity": chain()}, "1.5 1.5 1.5 1.5 1 1 1 1 1 1"),
    "attention_rollout": (
        lambda: {"rollout": answer_row([0.1, 0.05, 0, 0.15, 0, 0, 0.05, 0, 0, 0.65])},
        "1.5 1.5 1 1.5 1 1 1 1 1 1.5",
    ),
    "gradient": (
        lambda: {"saliency": [0.1, 0.4, 0, 0.3, 0, 0.1, 0.2, 0, 0, 0]},
        "1.5 1.5 1 1.5 1 1 1.5 1 1 1",
    ),
    "ktae": (
        lambda: {
            "rows": 2,
            "token_ids": torch.tensor([[0, 5, 5, 6, 7, 8, 9, 2, 3, 4, 1], [0, 6, 7, 8, 9, 2, 3, 4, 1, 0, 0]]),
            "response": torch.tensor([[False] + [True] * 10, [False] + [True] * 8 + [False] * 2]),
            "reward": torch.tensor([1.0, 0.0]),
            "advantage": torch.tensor([1.0, -1.0]),
        },
        "1.1869 1.1869 1 1 1 1 1 1 1 1",
    ),
    "tempo": (
        lambda: {
            "rows": 2,
            "token_ids": torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1], [0, 1, 2, 3, 9, 5, 6, 7, 8, 9, 1]]),
            "reward": torch.tensor([1.0, 0.0]),
        },
        "1 1 1 2 1 1 1 1 1 1",
    ),
}


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_hand_worked_example(name):
    fields, expected = EXAMPLES[name]
    method = credit.get(name)
    weights = method(ten(name, **fields()))
    assert weights[0, 1:].tolist() == pytest.approx([float(word) for word in expected.split()], abs=2e-4)
    stated = " ".join(type(method).__doc__.split())
    assert expected in stated, "the docstring must state the numbers that this test checks"


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_hand_worked_example_of_random_methods(name):
    """The docstring's numbers, in some order: here the order is drawn."""
    method = credit.get(name)
    stated = " ".join(type(method).__doc__.split())
    numbers = re.findall(r"(?:1(?:\.5)? ){9}1(?:\.5)?", stated)
    weights = method(ten(name, scores=TAU))[0, 1:]
    for stated_weights in numbers:
        assert sorted(weights.tolist()) == sorted(float(word) for word in stated_weights.split())
    assert numbers


def test_every_method_has_an_example():
    assert set(EXAMPLES) | RANDOM == set(NAMES)


# The rules themselves.


@pytest.mark.parametrize("count", range(60))
def test_pool_size_is_exactly_two_fifths(count):
    """floor(0.4 n) in floating point is 1 for n = 5 in some orders of rounding; (2 n) // 5 never is."""
    assert int(pool_size(torch.tensor(count), 0.4)) == (2 * count) // 5


def test_ties_go_to_the_earliest_token():
    pool = torch.tensor([[False, True, True, True, True]])
    chosen = top(torch.tensor([[9.0, 1, 2, 2, 2]]), pool, torch.tensor([2]))
    assert chosen.tolist() == [[False, False, True, True, False]]
    large = top(torch.zeros(1, 3000), torch.ones(1, 3000, dtype=torch.bool), torch.tensor([1200]))
    assert large.nonzero()[:, 1].tolist() == list(range(1200))


def flow_weights(tau, **options):
    """flow's weights on ten response tokens of throughput `tau`."""
    fields = {key: options.pop(key) for key in ("advantage",) if key in options}
    method = credit.get("flow", **options)
    return method(ten("flow", scores=torch.tensor([[0.0, *tau]]), **fields))[0, 1:].tolist()


def test_flow_never_raises_a_token_of_throughput_zero():
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
    """The tenth token is the answer; its place goes to the next one, and the number of raised tokens stays."""
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
    weights = method(context)
    assert set(context.abstentions) == {1, 3} and (weights[[1, 3]] == 1).all()


def test_flow_abstains_where_nothing_of_the_source_reaches_the_answer():
    capacity = torch.zeros(1, 11, 11)
    capacity[0, 10, 5] = 0.5
    context = ten("flow", capacity=capacity)
    credit.get("flow")(context)
    assert context.abstentions == {0: "answer unreachable"}


@pytest.mark.parametrize("options", [{"answer_rows": "emitting"}, {"answer_in_pool": False}])
@pytest.mark.parametrize("name", ["flow", "bottom_flow", "shuffled_flow"])
def test_flow_abstains_where_it_passes_no_token_that_competes(name, options):
    """The prompt goes straight to an answer at the start: equal weights would be no judgement."""
    method, context = make(name, answers="first", **options)
    context.answer[1] = context.answer[1].roll(5)
    method(context)
    assert context.abstentions == dict.fromkeys((0, 2, 3), "no token before the answer")
    method, context = make(name, answers="first")
    method(context)
    assert not context.abstentions, "the answer itself competes"


def test_flow_rows_of_the_answer():
    """The emitting position is one earlier: here token 9 looks at 2, the answer itself at 8."""
    capacity = torch.zeros(1, 11, 11)
    for k, i in ((2, 0), (8, 0), (9, 2), (10, 8)):
        capacity[0, k, i] = 0.5
    own = credit.get("flow")(ten("flow", capacity=capacity.clone()))
    emitting = credit.get("flow", answer_rows="emitting")(ten("flow", capacity=capacity.clone()))
    assert (own[0] == 1.5).nonzero().flatten().tolist() == [8, 10]
    assert (emitting[0] == 1.5).nonzero().flatten().tolist() == [2, 9]


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


def test_random_levels():
    _, context = make("random")
    weights = credit.get("random")(context)
    assert [int((row == 1.5).sum()) for row in weights] == [5, 4, 4, 5]


def test_position_shapes_rise_from_floor_to_one():
    for shape in ("linear", "exponential", "sigmoid"):
        method, context = make("position", shape=shape, floor=0.25)
        weights = method(context)
        for row in range(4):
            own = weights[row, context.response[row]]
            assert own[0] == pytest.approx(0.25) and own[-1] == pytest.approx(1.0)
            assert (own.diff() > 0).all()


def test_delimiters_follow_unicode():
    method = credit.get("delimiters")
    for piece, expected in {
        ".": True, " =": True, "\n\n": True, "$$": True, "—": True, "。": True, "): ": True,
        "": False, " ": False, "a.": False, "4": False, "\t": False, "½": False, "é": False,
    }.items():  # fmt: skip
        context = ten("delimiters", pieces=[["", piece, *"a" * 9]])
        assert (method(context)[0, 1] == 1.5) == expected, repr(piece)


def test_entropy_mask_is_trl_s_rule_over_the_batch():
    method, context = make("entropy_mask")

    class Alone:
        accelerator = type(
            "", (), {"pad_across_processes": lambda self, x, **_: x, "gather": lambda self, x: x}
        )()

    expected = GRPOTrainer.get_high_entropy_mask(Alone(), context.entropies, context.response, 0.8)
    got = method(context)
    assert torch.equal(got.bool() & context.response, expected)
    assert 0.15 < float(got[context.response].mean()) < 0.25


def test_entropy_advantage_of_a_negative_advantage_and_of_none():
    method = credit.get("entropy_advantage")
    fields = {"entropies": BONUS_ENTROPIES}
    down = method(ten("entropy_advantage", advantage=torch.tensor([-1.0]), **fields))[0, 1:]
    assert down.tolist() == pytest.approx([1, 0.5, 0.96, 0.6, 0.8, 1, 0.6, 1, 0.5, 0.9])
    assert (method(ten("entropy_advantage", advantage=torch.tensor([0.0]), **fields)) == 1).all()
    # A' = A + min(alpha H, |A| / kappa), the form in which it was published.
    advantage = torch.tensor([-0.3])
    context = ten("entropy_advantage", advantage=advantage, **fields)
    bonus = (0.4 * torch.tensor(BONUS_ENTROPIES)).clamp(max=0.15)
    assert torch.allclose(method(context)[0, 1:] * advantage, advantage + bonus)
    with pytest.raises(CreditError, match="kappa"):
        credit.get("entropy_advantage", kappa=0.5)


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
    method(context)
    assert context.abstentions == {1: "no token far enough ahead"}, (
        "nine tokens have none ten ahead of another"
    )


def test_coupled_conserves_the_bonus():
    method, context = make("coupled", near=1, far=4)
    anchors = credit.get("global_anchor", near=1, far=4)
    weights = method(context)
    _, other = make("global_anchor", near=1, far=4)
    expected = anchors(other)
    assert torch.allclose(weights.sum(1), expected.sum(1)) and not torch.equal(weights, expected)


@pytest.mark.parametrize(("first", "second"), [(3, 5), (1, 1), (8, 8), (2, 14)])
def test_fisher_exact_equals_scipy(first, second):
    for a in range(first + 1):
        for b in range(second + 1):
            expected = scipy.stats.fisher_exact([[a, b], [first - a, second - b]]).pvalue
            numbers = [torch.tensor([value], dtype=torch.float64) for value in (a, b)]
            sizes = [torch.tensor(value, dtype=torch.float64) for value in (first, second)]
            assert float(fisher_exact(*numbers, *sizes)) == pytest.approx(expected, rel=1e-6)


def test_ktae_is_additive_and_follows_the_sign_of_the_association():
    method, context = make("ktae", responses=(12,) * 4, prompts=(3,) * 4, rewards=[1.0, 1.0, 0.0, 0.0])
    ids = context.token_ids
    ids[context.response] = 2
    ids[:2, 5], ids[2:, 6] = 7, 8
    delta = (method(context) - 1) * context.advantage.unsqueeze(1)
    assert (delta[:2, 5] > 0.1).all() and (delta[2:, 6] < -0.1).all()
    assert torch.allclose(delta[:2, 5], -delta[2:, 6])
    delta[:2, 5] = delta[2:, 6] = 0
    assert delta.abs().max() < 1e-6, "a token in every response says nothing"


def tempo_by_hand(ids, rewards):
    """delta of each token, from prefixes as tuples."""

    def value(prefix):
        sharing = [
            r for other, r in zip(ids, rewards, strict=True) if tuple(other[: len(prefix)]) == tuple(prefix)
        ]
        return sum(sharing) / len(sharing)

    return [[value(own[: t + 1]) - value(own[:t]) for t in range(len(own))] for own in ids]


def test_tempo_equals_prefixes_by_hand():
    source = random.Random(0)
    ids = [[source.randint(1, 2) for _ in range(source.randint(1, 7))] for _ in range(8)]
    ids[3] = ids[0][:2]
    rewards = [float(source.randint(0, 1)) for _ in ids]
    context = make("tempo", responses=tuple(map(len, ids)), prompts=(2,) * 8, rewards=rewards)[1]
    context.group = torch.zeros(8, dtype=torch.long)
    for row, own in enumerate(ids):
        context.token_ids[row, context.response[row]] = torch.tensor(own)
    weights = credit.get("tempo")(context)
    mean = sum(rewards) / 8
    for row, deltas in enumerate(tempo_by_hand(ids, rewards)):
        expected = [1 + delta / (rewards[row] - mean) for delta in deltas]
        assert weights[row, context.response[row]].tolist() == pytest.approx(expected, abs=1e-5)


def test_groups_do_not_mix():
    """Two groups side by side get what each gets alone."""
    for name in ("ktae", "tempo"):
        method, context = make(name, responses=(6,) * 8, prompts=(2,) * 8, rewards=[1.0, 0, 0, 1, 0, 0, 1, 0])
        together = method(context)
        halves = [method(rearranged(context, lambda value, part=part: value[part])) for part in
                  (slice(0, 4), slice(4, 8))]  # fmt: skip
        assert torch.allclose(together, torch.cat(halves))


def test_gradient_reshaping_of_the_source():
    """Four tokens, log scores 0, 1/3, 2/3 and 1 after rescaling; threshold at the median, 1/2."""
    score = torch.tensor([[0.0, 1e-6, 1e-4, 1e-2, 1.0]])
    context = ten("gradient")
    for field in ("prompt", "response", "answer", "token_ids", "source"):
        setattr(context, field, getattr(context, field)[:, :5])
    context.answer = torch.tensor([[False] * 4 + [True]])
    context.saliency = score
    weights = credit.get("gradient", shape="oar")(context)[0, 1:]
    raw = torch.tensor([0.1, 2 / 3, 1 + 1 / 3, 2.0])
    assert torch.allclose(weights, raw * 4 / raw.sum(), atol=1e-4)
