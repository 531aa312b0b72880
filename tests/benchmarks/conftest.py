"""The benchmarks' own modules, which import each other by their plain names."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """Makes the benchmarks importable, and gives their folder."""
    monkeypatch.syspath_prepend(FOLDER)
    return FOLDER
