"""Protects the controls: levels at random, by position, by punctuation."""

import pytest

from flowtracer import credit
from tests.flowtracer.credit.cases import make, ten


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


def test_shuffled_oracle_keeps_the_weights_and_forgets_the_place():
    oracle, context = make("oracle", gamma=3.0)
    expected = oracle(context)
    shuffled, context = make("shuffled_oracle", gamma=3.0)
    weights = shuffled(context)
    places = set()
    for row in range(4):
        members = context.response[row]
        assert sorted(weights[row, members].tolist()) == sorted(expected[row, members].tolist())
        assert (weights[row, ~members] == expected[row, ~members]).all()
        places.add(int(weights[row, members].argmax()))
    assert places != {0}
    context.streams = [stream + 1 for stream in context.streams]
    assert not (shuffled(context) == weights).all()
