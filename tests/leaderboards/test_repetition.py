"""Two sweeps beside each other: equal ones are told to be, and others by the first value that differs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import manifest, rollout_rows, sample_rows, step_row

from leaderboards import RecordError, Run, RunWriter, load
from leaderboards.repetition import Pair, pair_up, places


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts are the business of the records' own tests."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def record(
    root: Path, method: str = "uniform", steps: int = 4, finish: bool = True, **changes: Any
) -> list[Run]:
    """A run whose `changes` are those of a row: table_step_column=value."""
    writer = RunWriter(root / method, manifest(method))
    for step in range(steps):
        tables = {"rollouts": rollout_rows(step), "steps": step_row(step)}
        if step % 2 == 0:
            tables["samples"] = sample_rows(step, [["wrong", "correct"]])
        for table, rows in tables.items():
            for name, value in changes.items():
                of, at, column = name.split("_", 2)
                if (of, int(at)) == (table, step):
                    rows[-1][column] = value
            writer.write(table, step, rows)
    if finish:
        writer.finish({})
    return load(root)


def pair(tmp_path: Path, **changes: Any) -> Pair:
    (found,) = pair_up(record(tmp_path / "a"), record(tmp_path / "b", **changes))
    return found


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "identical"),
        ({"steps_2_seconds_step": 9.0, "steps_1_distance_from_start": 0.25}, "identical"),
        ({"rollouts_2_text": "other"}, "first differs at step 2, rollouts: text"),
        (
            {"rollouts_2_text": "other", "rollouts_2_reward": 1.0, "steps_1_loss": 9.0},
            "first differs at step 1, steps: loss",
        ),
        (
            {"rollouts_2_text": "x", "samples_2_verdict": "timeout"},
            "first differs at step 2, samples: verdict",
        ),
        ({"steps_3_loss": float("nan")}, "first differs at step 3, steps: loss"),
    ],
)
def test_the_first_difference_is_named(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    found = pair(tmp_path, **changes)
    assert found.text == text and found.identical == (text == "identical")


def test_nan_is_equal_to_itself(tmp_path: Path) -> None:
    """Large policies have no distance from the start."""
    nan = {"steps_1_distance_from_start": float("nan")}
    (found,) = pair_up(record(tmp_path / "a", **nan), record(tmp_path / "b", **nan, steps_1_loss=1.0))
    assert found.text == "first differs at step 1, steps: loss"


def test_compaction_is_no_difference_and_a_prefix_is_no_repetition(tmp_path: Path) -> None:
    found = pair(tmp_path / "one", finish=False)
    assert found.text == "identical, not finished" and found.identical
    found = pair(tmp_path / "other", finish=False, steps=2)
    assert found.text == "identical as far as B goes" and not found.identical
    found = pair(tmp_path / "third", finish=False, steps=2, rollouts_1_text="x")
    assert found.text == "first differs at step 1, rollouts: text"


def test_runs_that_stand_alone_are_named(tmp_path: Path) -> None:
    record(tmp_path / "a", "flow")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, other = record(tmp_path / "a", "constant"), record(tmp_path / "b", "random")
    assert [(found.method, found.text, found.identical) for found in pair_up(one, other)] == [
        ("constant", "only in A", False),
        ("flow", "identical", True),
        ("random", "only in B", False),
    ]


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    one = record(tmp_path / "a")
    RunWriter(tmp_path / "b", manifest(experiment_hash="ffff"))
    with pytest.raises(RecordError, match="different experiments, decision 0123456789ab and decision ffff"):
        pair_up(one, load(tmp_path / "b"))
    shutil.copytree(tmp_path / "a" / "uniform", tmp_path / "a" / "copy")
    with pytest.raises(RecordError, match="two runs of uniform with seed 0") as caught:
        pair_up(load(tmp_path / "a"), one)
    assert "copy" in str(caught.value)


def test_where_they_were_made(tmp_path: Path) -> None:
    one = record(tmp_path / "a")
    assert places(one, one) == []
    RunWriter(tmp_path / "b", manifest(versions={"python": "3.12.1", "torch": "2.13.0"}, git_commit=""))
    assert places(one, load(tmp_path / "b")) == [
        "python: 3.11.0 in A, 3.12.1 in B",
        "commit: abc in A, unknown in B",
    ]
