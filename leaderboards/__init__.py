"""What recorded runs say: the record format, statistics, tables and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leaderboards.records import RecordError, Run, RunWriter, content_hash, load, read_run

if TYPE_CHECKING:
    from leaderboards.comparison import Arm, Comparison, PositiveControl, arranged, compare, experiments

__all__ = [
    "Arm",
    "Comparison",
    "PositiveControl",
    "RecordError",
    "Run",
    "RunWriter",
    "arranged",
    "compare",
    "content_hash",
    "experiments",
    "load",
    "read_run",
]


def __getattr__(name: str) -> Any:
    # Worker processes only write records: they need not wait two seconds for scipy.
    if name in __all__:
        from leaderboards import comparison

        return getattr(comparison, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
