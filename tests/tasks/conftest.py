"""The folder of real benchmark files, where this machine has one; and none by default, so that tests stay local."""

import os
from pathlib import Path

import pytest

_FOLDER = Path(os.environ.get("FLOWTRACER_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    monkeypatch.delenv("FLOWTRACER_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def real_data(monkeypatch):
    """Points FLOWTRACER_DATA at the real files; skips the test where there are none."""
    if not (_FOLDER / "gsm8k_test.jsonl").is_file():
        pytest.skip("no folder of benchmark files on this machine")
    monkeypatch.setenv("FLOWTRACER_DATA", str(_FOLDER))
    return _FOLDER
