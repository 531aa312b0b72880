"""Declarations: one that no comparison can follow is refused with its key; old ones are read for what they say."""

from __future__ import annotations

from typing import Any

import pytest

from leaderboards.declaration import FIXED, NOT_DECLARED, UNTIL_DECIDED, Declaration


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "loss"}, "declaration.metric must be one of training_reward_area"),
        ({"smallest_difference": 0.0}, "declaration.smallest_difference must be positive, not 0.0"),
        ({"smallest_difference": float("nan")}, "smallest_difference must be positive"),
        ({"alpha": 1.0}, "declaration.alpha must lie between 0 and 1"),
        ({"alpha": True}, "declaration.alpha must lie between 0 and 1"),
        ({"stopping": UNTIL_DECIDED}, "declaration.scale must be a positive number"),
        ({"stopping": UNTIL_DECIDED, "scale": -0.1}, "declaration.scale must be a positive number"),
    ],
)
def test_what_cannot_be_followed_is_said(changes: dict[str, Any], words: str) -> None:
    sound: dict[str, Any] = {"metric": "final_accuracy", "smallest_difference": 0.01}
    assert Declaration(**sound).fault() is None
    assert words in str(Declaration(**{**sound, **changes}).fault())


def test_a_recorded_declaration_claims_no_more_than_it_says() -> None:
    """Defaults are for new experiments: an old record that lacks the estimand has none."""
    old = Declaration.recorded(
        {"metric": "final_accuracy", "smallest_difference": 0.1, "alpha": 0.05, "colour": 1}
    )
    assert (old.estimand, old.stopping, old.sequential) == (NOT_DECLARED, NOT_DECLARED, False)
    assert Declaration.recorded({"stopping": "until decided, at most 40", "scale": 0.1}).sequential
    assert "metric" in str(Declaration.recorded({}).fault())
    assert Declaration("final_accuracy", 0.1).stopping == FIXED
