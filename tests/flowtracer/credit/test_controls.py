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
