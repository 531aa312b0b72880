"""The figures of a step of `gpu.py`, on disk after every part of it, so that a cut loses nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from report import Row, made_here


class Records:
    """The rows of one step, by part, in OUT/STEP.json; and how many seconds the step has left.

    rehearsed: whether these are no figures to keep.
    """

    def __init__(self, step: str, out: Path, rehearsed: bool, seconds: float) -> None:
        self.step, self.out, self.rehearsed = step, out, rehearsed
        self._deadline = time.monotonic() + seconds
        self._parts: dict[str, Sequence[Row]] = {}
        self._made_on = made_here()

    @property
    def left(self) -> float:
        """Seconds until the step is killed."""
        return self._deadline - time.monotonic()

    def put(self, part: str, rows: Sequence[Row]) -> None:
        """Keeps the rows of a part, in place of those that it had."""
        self._parts[part] = list(rows)
        record = {
            "step": self.step,
            "rehearsed": self.rehearsed,
            "made_on": self._made_on,
            "parts": self._parts,
        }
        temporary = self.out / f"{self.step}.json.new"
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.out / f"{self.step}.json")

    def add(self, part: str, row: Row) -> None:
        """Keeps one more row of a part."""
        self.put(part, [*self._parts.get(part, ()), row])


def read(step: str, out: Path) -> Row:
    """The record of a step, or {} where nothing of it was measured."""
    try:
        record: Row = json.loads((out / f"{step}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return record
