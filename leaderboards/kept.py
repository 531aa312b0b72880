"""Kept results: what the files under leaderboards/results say of one credit method."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from leaderboards.older import control_of, outcome_of, turn_of
from leaderboards.sheets import level, number

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Kept:
    """One line of a kept result: the page that holds it, the arm, and what came out for it.

    page: the file beside the data, `comparison.md`. says: the difference from the baseline with its interval and the
    outcome, or the figures of a replay, with what to hold them against, or of an intervention.
    """

    page: str
    arm: str
    says: str


def results_of(method: str, folder: Path = FOLDER) -> list[Kept]:
    """Lines of the results in `folder` on the arms whose credit is `method`, by itself or in a composition.

    Read from the files, so that a result which is added or made anew needs no second place.
    """
    return [Kept(page, arm, says) for page, table in _tables(folder) for arm, says in _said(table, method)]


@cache
def _tables(folder: Path) -> list[tuple[str, Any]]:
    """The page and the data of every result that has a page, in the order of their names."""
    pages = [path.with_suffix(".md") for path in sorted(folder.glob("*.json"))]
    return [
        (page.name, json.loads(page.with_suffix(".json").read_text(encoding="utf-8")))
        for page in pages
        if page.is_file()
    ]


def _said(table: Mapping[str, Any], method: str) -> Iterator[tuple[str, str]]:
    if not isinstance(table, dict):
        return
    for arm in table.get("arms", ()):
        if "credit" in arm and method in _methods(str(arm["credit"])):
            yield arm["label"], _outcome(arm, table)
        elif "changed" in arm and str(arm.get("name", "")).partition(",")[0] == method:
            yield arm["name"], f"hiding its tokens changed the answer in {100 * arm['changed'][0]:.0f}%"
    replayed = [figures for figures in table.get("figures", ()) if "ratio" in figures]
    random = next((figures for figures in replayed if figures["label"] == "random"), None)
    for figures in replayed:
        # Files of before name the method by the label only.
        credit = figures.get("credit", figures["label"])
        if method in ([credit] if isinstance(credit, str) else credit):
            yield figures["label"], _replayed(figures, random)


def _methods(credit: str) -> list[str]:
    """The methods of a credit in words: `flow * gtpo as a mask (positive)` is of flow and of gtpo."""
    return re.sub(r"( as a mask)?( \(\w+\))?$", "", credit).split(" * ")


def _outcome(arm: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    outcome, control = outcome_of(arm), control_of(table)["outcome"]
    seeds = f"{len(arm['seeds'])} seed{'s' * (len(arm['seeds']) != 1)}"
    if arm.get("difference") is None:
        return f"{outcome}; {seeds}"
    interval = arm.get("interval_of_difference")
    difference = level(arm["difference"], tuple(interval) if interval else None, 3, "+")
    return f"{difference}: {outcome}; {seeds}, positive control {control}"


def _replayed(figures: Mapping[str, Any], random: Mapping[str, Any] | None) -> str:
    parts = [f"signal to noise {number(figures['ratio'], 3)}"]
    if figures.get("ratio_difference") is not None:
        interval = figures.get("ratio_difference_interval")
        difference = level(figures["ratio_difference"], tuple(interval) if interval else None, 3, "+")
        parts[0] += f" ({difference} from uniform's)"
    if turn := turn_of(figures):
        of_random = None if random is None or random is figures else turn_of(random)
        beside = f" (random's {number(of_random[0], 3)})" if of_random else ""
        parts.append(f"turn {number(turn[0], 3)}{beside}")
    if figures.get("decisive"):
        parts.append(f"AUC of the decisive token among all {number(figures['decisive'][0], 2)}")
    return ", ".join(parts)
