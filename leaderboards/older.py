"""Older files: what they hold under keys and words of before, read as today's. Nothing writes these any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaderboards.estimates import Interval


def outcome_of(arm: Mapping[str, Any]) -> str:
    """The outcome of a comparison's arm in words, `cannot tell: about 8 more seeds`. It was once called verdict."""
    return str(arm["outcome"] if "outcome" in arm else arm["verdict"])


def control_of(table: Mapping[str, Any]) -> dict[str, str]:
    """`outcome` and `text` of a comparison's positive control, which was once called assay."""
    control = table.get("positive_control") or table.get("assay") or {}
    text = str(control.get("text", "positive control not tested"))
    return {
        "outcome": str(control.get("outcome", control.get("verdict", "not tested"))),
        "text": text.replace("assay", "positive control"),
    }


def turn_of(row: Mapping[str, Any]) -> tuple[float, Interval | None] | None:
    """The turn of a replay's method and its interval; None without a gradient.

    It is 1 - the cosine to uniform's update, which stood there before the turn had a key of its own.
    """
    if "turn" in row:
        turn: tuple[float, Interval | None] | None = row["turn"]
        return turn
    if row["to_uniform"] is None:
        return None
    cosine, interval = row["to_uniform"]
    return 1 - cosine, None if interval is None else (1 - interval[1], 1 - interval[0])
