"""Runs reduced to numbers: each is the mean that its definition says, and what cannot be scored is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from recorded_runs import (
    EVALUATIONS,
    manifest,
    sample_rows,
    step_row,
    write_run,
)

from leaderboards import RecordError, RunWriter, compare, estimates, load


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts are the business of the records' own tests; here hundreds of small files are written."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def test_metrics_of_an_evaluation(tmp_path: Path) -> None:
    write_run(tmp_path, "uniform", 0, [0.25, 0.75], EVALUATIONS)
    arm = compare(load(tmp_path)).arm("uniform")
    means = {name: score.mean for name, score in arm.scores.items()}
    assert means == pytest.approx(
        {"training_reward_area": 0.5, "final_accuracy": 1.0, "evaluation_area": (0.125 + 0.625) / 2}
    )
    counts = {"correct": 3, "wrong": 0, "no_answer": 0, "truncated": 0, "timeout": 0, "error": 1}
    assert arm.verdicts == {"decision": counts}


def test_accuracy_is_that_of_the_training_task(tmp_path: Path) -> None:
    """Further test sets are shown, and leave the declared metric alone; without the task, all count alike."""
    for name, tasks, accuracy in (("own", ("decision", "hard"), 1.0), ("others", ("easy", "hard"), 0.5)):
        for method in ("uniform", "flow"):
            for seed in range(2):
                writer = RunWriter(tmp_path / name / method / str(seed), manifest(method, seed))
                writer.write("steps", 1, step_row(1))
                right = ["correct", "wrong" if method == "flow" and seed else "correct"]
                rows = sample_rows(1, [right, ["correct"]], tasks[0]) + sample_rows(1, [["wrong"]], tasks[1])
                writer.write("samples", 1, rows)
                writer.finish({})
        found = compare(load(tmp_path / name))
        assert found.arm("uniform").scores["final_accuracy"].mean == accuracy
        assert found.arm("uniform").tasks == {tasks[0]: 1.0, tasks[1]: 0.0}
        crossed = estimates.crossed_interval([[0.0, 0.0], [-0.5, 0.0]]) if name == "own" else None
        assert found.arm("flow").crossed_interval == crossed


def test_a_verdict_outside_the_closed_set_is_refused(tmp_path: Path) -> None:
    """It would count as an answer that is not correct, and stand in no column."""
    folder = write_run(tmp_path, "uniform", 0, [0.1], {1: [["correct", "perfect"]]})
    with pytest.raises(RecordError, match="the verdict 'perfect'; there are correct, wrong") as caught:
        compare(load(tmp_path))
    assert str(folder) in str(caught.value)


def test_nan_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "uniform", 0, [0.1, math.nan])
    with pytest.raises(RecordError, match="reward of step 2 is nan") as caught:
        compare(load(tmp_path))
    assert str(folder) in str(caught.value)


def test_nan_in_an_evaluation_is_refused_by_name(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", manifest())
    writer.write("samples", 1, [{**sample_rows(1, [["wrong"]])[0], "reward": math.nan}])
    writer.finish({})
    with pytest.raises(RecordError, match="run: an evaluation reward is NaN"):
        compare(load(tmp_path))


@pytest.mark.parametrize("table", ["steps", "samples"])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, table: str) -> None:
    write_run(tmp_path, "flow", 0, [0.1], {1: [["wrong"]]})
    file = write_run(tmp_path, "uniform", 0, [0.1], {1: [["wrong"]]}) / f"{table}.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(RecordError, match=f"{table}.parquet: torn or corrupt") as caught:
        compare(load(tmp_path))
    assert str(file) in str(caught.value)


def test_unscored_evaluations_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "uniform", 0, [0.1], {1: [["error"]]})
    with pytest.raises(RecordError, match="could be scored") as caught:
        compare(load(tmp_path))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(("failed", "refused"), [("decision", True), ("hard", False)])
def test_an_accuracy_is_never_that_of_the_tasks_that_are_left(
    tmp_path: Path, failed: str, refused: bool
) -> None:
    """The mean over the other tasks would stand for the training task's, and be held against a baseline's of it."""
    writer = RunWriter(tmp_path, manifest("uniform"))
    writer.write("steps", 1, step_row(1))
    rows = [row for task in ("decision", "hard") for row in sample_rows(1, [["correct"]], task)]
    errors = [{**row, "verdict": "error", "reward": None} if row["task"] == failed else row for row in rows]
    writer.write("samples", 1, errors)
    writer.finish({})
    if refused:
        with pytest.raises(RecordError, match="no sample of an evaluation could be scored"):
            compare(load(tmp_path))
    else:
        assert compare(load(tmp_path)).arm("uniform").scores["final_accuracy"].mean == 1.0
