"""The record format: hashes see every value and nothing but values, and errors on files name the way out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import new_writer, rollout_rows, step_row

from leaderboards import format
from leaderboards.format import TABLES, content_hash
from leaderboards.records import read_run


def test_hash_depends_on_values_only(tmp_path: Path) -> None:
    one, two = new_writer(tmp_path / "one"), new_writer(tmp_path / "two")
    for step in (1, 2, 3):
        one.write("rollouts", step, rollout_rows(step))
        one.write("steps", step, step_row(step, seconds_step=1.0))
    for step in (3, 1, 2):
        two.write("rollouts", step, rollout_rows(step))
        two.write("steps", step, step_row(step, seconds_step=2.0))
    hashes = {table: read_run(tmp_path / "one").content_hash(table) for table in TABLES}
    two.finish({})
    run = read_run(tmp_path / "two")
    assert run.closing is not None
    assert {table: run.content_hash(table) for table in TABLES} == hashes == run.closing["content_hash"]
    assert content_hash(run.table("rollouts")) == hashes["rollouts"]
    assert run.faults() == []


@pytest.mark.parametrize(
    "change",
    [
        {"reward": None},
        {"abstained": ""},
        {"weights": [1.0, 1.5000001]},
        {"weights": [1.0], "response_ids": [4, 6, 6]},
        {"text": "a#c"},
        {"problem_id": "decision/train/", "key": "100ff"},  # the same bytes, cut at another place
        {"advantage": math.nan},
    ],
)
def test_hash_sees_every_value(tmp_path: Path, change: dict[str, Any]) -> None:
    for name, extra in (("one", {}), ("two", change)):
        new_writer(tmp_path / name).write("rollouts", 1, rollout_rows(1, **extra))
    first, second = (read_run(tmp_path / name) for name in ("one", "two"))
    assert first.content_hash("rollouts") != second.content_hash("rollouts")


def test_step_hashes_show_where_two_runs_part(tmp_path: Path) -> None:
    for name, text in (("one", "x"), ("two", "y")):
        writer = new_writer(tmp_path / name)
        writer.write("rollouts", 1, rollout_rows(1))
        writer.write("rollouts", 2, rollout_rows(2, text=text))
    one, two = (read_run(tmp_path / name).step_hashes("rollouts") for name in ("one", "two"))
    assert one[1] == two[1] and one[2] != two[2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert "free some space" in str(format.trouble(tmp_path / "part", caught.value))
