"""Protects the hand-worked example in each docstring: ten response tokens behind one prompt token."""

import math
import re

import pytest
import torch

from flowtracer import credit
from tests.flowtracer.credit.cases import (
    BONUS_ENTROPIES,
    NAMES,
    RANDOM,
    TAU,
    answer_row,
    chain,
    first_decisive,
    heads,
    ten,
)

PIECES = [["", "So", " 2", "+", "3", " =", " 5", ".", "\n", "####", " 5"]]

ENTROPIES = [0.0, 2.0, 0.1, 1.0, 0.5, 0.0, 1.0, 0.0, 1.0, 0.2]

PROBABILITIES = [1.0, 0.5, 0.25, 1e-30, 0.75, 1.0, 1.0, 0.1, 0.9, 0.5]

PLANNING = [["", "Let", "'s", " try", " 2", "+", "3", ".", " Alternatively", ",", " 5"]]

SURPRISALS = [0.0, -1.0, -2.0, 0.0, -0.5, 0.0, -1.0, -3.0, 0.0, -1.0]


def evidence(ratios):
    """Log-probabilities of a student and a teacher with these ratios p_T / p_S."""
    return {"logprobs": [-9.0] * 10, "teacher_logprobs": [math.log(ratio) - 9.0 for ratio in ratios]}


def measured(values):
    """Values (1, 11) at some positions, NaN elsewhere."""
    return torch.tensor([[values.get(position, float("nan")) for position in range(11)]])


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
    "first_tokens": (dict, "1.5 1.5 1.5 1.5 1 1 1 1 1 1"),
    "last_tokens": (dict, "1 1 1 1 1 1 1.5 1.5 1.5 1.5"),
    "low_probability": (
        lambda: {"logprobs": torch.tensor([1, 0.5, 0.25, 0.95, 0.75, 1, 1, 0.1, 0.92, 0.5]).log().tolist()},
        "0 1 1 0 1 0 0 1 0 1",
    ),
    "gtpo": (lambda: {"entropies": [0.0, 2, 0, 1, 1, 0, 3, 0, 2, 1]}, "0.9 1.1 0.9 1 1 0.9 1.2 0.9 1.1 1"),
    "delight": (
        lambda: {"logprobs": SURPRISALS},
        "0.5 0.7311 0.8808 0.5 0.6225 0.5 0.7311 0.9526 0.5 0.7311",
    ),
    "hicra": (lambda: {"pieces": PLANNING}, "1.2 1.2 1.2 1 1 1 1 1.2 1 1"),
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
            "ends": torch.tensor([[False] * 10 + [True], [False] * 8 + [True] + [False] * 2]),
        },
        "2 2 1 1 1 1 1 1 1 1",
    ),
    "rlsd": (
        lambda: evidence([1, 1.1, 0.9, 2, 0.5, 1, 1.2, 0.8, 1.04, 0.96]),
        "1 1.05 0.95 1.1 0.9 1 1.1 0.9 1.02 0.98",
    ),
    "opsd": (
        lambda: evidence([math.exp(value) for value in (0, 0.5, -0.5, 2, -1, 0, 0.25, -3, 0, 1)]),
        "0 0.5 -0.5 2 -1 0 0.25 -3 0 1",
    ),
    "oppo": (
        lambda: {
            "rows": 2,
            "reward": torch.tensor([1.0, 0.0]),
            "advantage": torch.tensor([1.0, -1.0]),
            **evidence([1, 3, 1, 1 / 3, 1, 9, 1, 1, 1, 1]),
        },
        "0 0.25 0 0 0 0.4 0 0 0 0",
    ),
    "otb": (
        lambda: {
            "rows": 2,
            "reward": torch.tensor([1.0, 0.0]),
            "advantage": torch.tensor([1.0, -1.0]),
            "logprobs": torch.tensor([[0.5] * 11, [1.0] * 6 + [0.5] * 5]).log(),
            "squares": torch.tensor([[0.5] * 11, [1.0] * 6 + [0.5] * 5]),
        },
        "0 0 0 0 0 0.2857 0.4444 0.5455 0.6154 0.6667",
    ),
    "attention_entropy": (
        lambda: {"scores": torch.tensor([[0.0, 0, 0.5, 1, 0.25, 0.75, 0.5, 0.5, 0, 1, 0.5]])},
        "1.5 1 0.5 1.25 0.75 1 1 1.5 0.5 1",
    ),
    "oar_perturb": (
        lambda: {"divergence": torch.tensor([0.0, 1, 0, 0.5, 0, 0.25, 0.75, 0, 1, 9]).expm1().tolist()},
        "0.1071 2.1429 0.1071 1.4286 0.1071 1.0714 1.7857 0.1071 2.1429 1",
    ),
    "vine": (
        lambda: {
            "pieces": [["", "a", "b", "c", ".\n", "d", "e", "f", "\n", "g", "h"]],
            "values": measured({1: 0.5, 5: 0.75, 9: 0.25}),
        },
        "0.25 0.25 0.25 0.25 -0.5 -0.5 -0.5 -0.5 0.75 0.75",
    ),
    "spo": (
        lambda: {
            "logprobs": torch.tensor([0.5] * 5 + [1.0, 0.5, 1.0, 0.5, 0.5]).log().tolist(),
            "values": measured({1: 0.5, 7: 0.25}),
        },
        "-0.25 -0.25 -0.25 -0.25 -0.25 0 0.75 0 0.75 0.75",
    ),
    "tempo": (
        lambda: {
            "rows": 2,
            "token_ids": torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1], [0, 1, 2, 3, 9, 5, 6, 7, 8, 9, 1]]),
            "reward": torch.tensor([1.0, 0.0]),
            "advantage": torch.tensor([1.0, -1.0]),
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
    numbers = re.findall(r"(?:[01](?:\.5)? ){9}[01](?:\.5)?", stated)
    known = {"decisive": first_decisive()} if "decisive" in method.needs else {}
    weights = method(ten(name, scores=TAU, **known))[0, 1:]
    for stated_weights in numbers:
        assert sorted(weights.tolist()) == sorted(float(word) for word in stated_weights.split())
    assert numbers


def test_every_method_has_an_example():
    assert set(EXAMPLES) | RANDOM == set(NAMES)
