"""Protects what a step's record says of its rollouts."""

import pytest

from harness.runs.recorder import duplicate_share


def test_duplicate_share() -> None:
    one, other = [5, 1], [6, 1]
    assert duplicate_share([one, one, other, one, one, other], [0, 0, 0, 0, 1, 1]) == pytest.approx(2 / 6)
    assert duplicate_share([one, one], [0, 1]) == 0.0
    assert duplicate_share([], []) == 0.0
