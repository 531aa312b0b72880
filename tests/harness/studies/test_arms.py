"""Protects the joining of arms: the same credit under two labels is one arm, and unlike options never are."""

import pytest

from flowtracer import credit
from harness.studies.arms import ALWAYS, RULES, arm_of, names_of


def words(name, **options):
    return arm_of(name, options).words


def test_default_options_are_the_same_whether_they_are_said_or_not():
    assert words("flow") == words("flow", gamma=1.5, layers="middle") == "flow ×1.5"


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 3.0},
        {"answer_rows": "emitting"},
        {"layers": "all"},
        {"ratio": 0.2},
        {"mean_one": True},
        {"sign": "positive"},
        {"as_mask": True},
        {"training": {"learning_rate": 1e-4}},
    ],
)
def test_no_two_arms_of_unlike_options_have_the_same_words(options):
    """Flow at 1.5 on the answer's own rows is not flow at 3, nor flow of other rows, layers or settings."""
    assert words("flow", **options) != words("flow")
    assert words("flow", **options) != words("flow", **{**options, "gamma": 2.0})


def test_words_show_options_and_factor():
    assert words("flow", answer_rows="emitting", gamma=3.0, layers="all") == "flow, all, emitting ×3"
    assert words("constant") == "constant ×1.2", "its weight is its factor"
    assert words("oracle_mask") == "oracle_mask", "a mask has none"
    assert words("random", ratio=0.2) == "random, ratio=0.2 ×1.5"
    assert words("flow", as_mask=True, gamma=3.0) == "flow ×3 as a mask"
    assert words(["flow", "gtpo"], flow={"gamma": 3.0}) == "flow ×3 * gtpo"


def test_a_method_that_is_not_known_here_keeps_what_the_record_says():
    """A user reads a file of a method whose code is not at hand. Its defaults are unknown, so nothing is filled in."""
    assert words("mine", gamma=2.0, depth=3) == "mine, depth=3 ×2"
    assert arm_of("mine", {}).role == "method"
    assert words("mine") != words("mine", gamma=1.5)


def test_roles_mark_the_control_and_the_rules():
    assert arm_of("oracle", {"gamma": 10.0}).marked == "oracle ×10 *"
    assert arm_of("first_tokens", {}).marked == "first_tokens ×1.5 †"
    assert arm_of("uniform", {}).marked == "uniform"
    faster = arm_of("uniform", {"training": {"learning_rate": 6e-4}})
    assert faster.marked.endswith(" †"), (
        "uniform credit at another rate reads no model: a gain like its own is none"
    )
    assert arm_of("anti_oracle", {}).role == "method", "it knows the tokens, and is no control of a gain"
    assert set(ALWAYS) <= set(RULES) <= set(credit.names())


def test_names_make_the_same_method_again():
    """Replay writes them beside the options, and the two must lead back to the method."""
    for name, options in (
        ("flow", {"gamma": 3.0}),
        ("flow", {"as_mask": True, "gamma": 3.0}),
        (["flow", "gtpo"], {"flow": {"gamma": 3.0}, "sign": "positive"}),
    ):
        method = credit.get(name, **options)
        assert credit.get(names_of(method, options), **options) == method
