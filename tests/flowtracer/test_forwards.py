"""Protects the rule for the forward that a method is read in: every case once, without a trainer."""

import pytest

from flowtracer import credit
from flowtracer.forwards import ReadAt, from_forward, read_at, reads_distributions

PLAIN = {"old_logprobs": False, "split": False, "whitened_after": False}


@pytest.mark.parametrize(
    ("name", "changes", "place"),
    [
        ("uniform", {}, ReadAt.NOWHERE),
        ("uniform", {"old_logprobs": True, "whitened_after": True}, ReadAt.NOWHERE),
        ("flow", {}, ReadAt.TRAINING_FORWARD),
        ("flow", {"split": True}, ReadAt.TRAINING_FORWARD),  # a response is whole in its micro-batch
        ("flow", {"old_logprobs": True}, ReadAt.OLD_LOGPROBS),
        ("flow", {"whitened_after": True}, ReadAt.EXTRA_FORWARD),
        ("flow", {"old_logprobs": True, "whitened_after": True}, ReadAt.OLD_LOGPROBS),
        ("entropy_mask", {}, ReadAt.TRAINING_FORWARD),
        ("entropy_mask", {"split": True}, ReadAt.EXTRA_FORWARD),  # a threshold over the whole batch
        ("entropy_mask", {"old_logprobs": True, "split": True}, ReadAt.OLD_LOGPROBS),
        ("otb", {}, ReadAt.NOWHERE),  # its own pass shows its log-probabilities too
        ("spo", {}, ReadAt.NOWHERE),
    ],
)
def test_where_a_method_is_read(name, changes, place):
    assert read_at(credit.get(name), **{**PLAIN, **changes}) is place


def test_beside_a_pass_of_its_own_a_method_is_read_apart():
    """What is read beside passes over a whole generation batch is read there too."""
    flow = credit.get("flow")

    class Both(type(flow)):
        needs = type(flow).needs | {"saliency"}

    assert read_at(Both(), **PLAIN) is ReadAt.EXTRA_FORWARD


def test_a_pass_over_distributions_shows_all_of_them():
    assert reads_distributions(credit.get("otb")) and not from_forward(credit.get("otb"))
    assert not reads_distributions(credit.get("entropy")) and from_forward(credit.get("entropy")) == {
        "entropies"
    }
