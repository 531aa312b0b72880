"""Recorded runs and what they say: the record format, statistics, tables and reports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leaderboards.comparison import Arm, Comparison, PositiveControl, arranged, compare, experiments
    from leaderboards.foreign import read_csv
    from leaderboards.format import RecordError, content_hash
    from leaderboards.frames import frame
    from leaderboards.manifest import Manifest
    from leaderboards.records import Run, load, read_run
    from leaderboards.writer import RunWriter

__all__ = [
    "Arm",
    "Comparison",
    "Manifest",
    "PositiveControl",
    "RecordError",
    "Run",
    "RunWriter",
    "arranged",
    "compare",
    "content_hash",
    "experiments",
    "frame",
    "load",
    "read_csv",
    "read_run",
]

_HOMES = {
    "comparison": ("Arm", "Comparison", "PositiveControl", "arranged", "compare", "experiments"),
    "foreign": ("read_csv",),
    "format": ("RecordError", "content_hash"),
    "frames": ("frame",),
    "manifest": ("Manifest",),
    "records": ("Run", "load", "read_run"),
    "writer": ("RunWriter",),
}


def __getattr__(name: str) -> Any:
    # Imported when first used: the command line asks for a declaration and need not wait for pyarrow, and worker
    # processes, which only write records, need not wait for scipy.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"leaderboards.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
