"""Writing a run: what is on disk is whole and typed, after a kill, a full disk or a wrong row as well."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import new_writer, rollout_rows, step_row, write_run

from leaderboards import writer as writer_module
from leaderboards.format import TABLES, RecordError
from leaderboards.records import read_run


def test_a_step_is_replaced_and_later_steps_dropped(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run")
    for step in (1, 2, 3):
        writer.write("steps", step, step_row(step))
    writer.write("steps", 2, step_row(2, reward=0.75))
    writer.drop_after("steps", 2)
    assert writer.steps("steps") == [1, 2]
    assert read_run(tmp_path / "run").table("steps")["reward"].to_pylist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows"),
        ([{**rollout_rows(1)[0], "colour": 1}], "unknown colour"),
        ([{key: value for key, value in rollout_rows(1)[0].items() if key != "verdict"}], "missing verdict"),
        (rollout_rows(2), "step 2"),
        (rollout_rows(1, advantage=None), "advantage has a missing value"),
        (rollout_rows(1, weights=[1.0, None]), "weights has a missing value"),
        (rollout_rows(1, key=7), "column key"),
        (rollout_rows(1, prompt_ids=["a"]), "column prompt_ids"),
        (rollout_rows(1, text="\ud800"), "column text"),
    ],
)
def test_bad_rows_are_refused_and_leave_nothing(tmp_path: Path, rows: list[Any], words: str) -> None:
    writer = new_writer(tmp_path / "run")
    with pytest.raises(RecordError, match=words) as caught:
        writer.write("rollouts", 1, rows)
    assert "rollouts" in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "run" / "rollouts") == []


@pytest.mark.parametrize("change", [{"experiment_hash": "other"}, {"method": "flow"}, {"seed": 3}])
def test_another_run_is_not_written_into(tmp_path: Path, change: dict[str, Any]) -> None:
    new_writer(tmp_path / "run")
    with pytest.raises(RecordError, match=next(iter(change))):
        new_writer(tmp_path / "run", **change)


def test_finished_runs_take_nothing_more(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "uniform", 0, [0.1])
    writer = new_writer(folder)
    assert writer.finished
    for action in (
        lambda: writer.write("steps", 2, step_row(2)),
        lambda: writer.drop_after("steps", 0),
        lambda: writer.finish({}),
    ):
        with pytest.raises(RecordError, match="finished"):
            action()


def test_a_summary_that_is_no_json_does_not_finish_the_run(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run")
    writer.write("steps", 1, step_row(1))
    with pytest.raises(RecordError, match="finite values"):
        writer.finish({"score": math.nan})
    assert not read_run(tmp_path / "run").finished
    writer.finish({"score": 1})
    assert read_run(tmp_path / "run").finished


def test_half_written_files_are_ignored_and_cleaned(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run")
    writer.write("steps", 1, step_row(1))
    half = tmp_path / "run" / "steps" / ".step-000002.parquet.99.aside"
    half.write_bytes(b"PAR1")
    assert read_run(tmp_path / "run").table("steps").num_rows == 1
    new_writer(tmp_path / "run")
    assert not half.exists()


def test_a_stop_between_hashing_and_cleaning_is_finished(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "uniform", 0, [0.1, 0.2])
    (folder / "steps").mkdir()
    (folder / "steps" / "step-000009.parquet").write_bytes(b"PAR1")
    assert read_run(folder).table("steps").num_rows == 2
    assert new_writer(folder).finished
    assert not (folder / "steps").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    writer = new_writer(tmp_path / "run")
    writer.write("steps", 1, step_row(1))

    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(writer_module.os, "fsync", fail)
        with pytest.raises(
            RecordError, match="free some space" if number == errno.ENOSPC else "error"
        ) as caught:
            writer.write("steps", 2, step_row(2))
        assert str(tmp_path / "run" / "steps") in str(caught.value)
        with pytest.raises(RecordError):
            writer.finish({})
    assert sorted(os.listdir(tmp_path / "run" / "steps")) == ["step-000001.parquet"]
    assert not read_run(tmp_path / "run").finished
    writer.write("steps", 2, step_row(2))
    assert read_run(tmp_path / "run").table("steps").num_rows == 2


def test_folders_that_cannot_be_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordError, match="file"):
        new_writer(tmp_path / "file" / "run")
    folder = write_run(tmp_path, "uniform", 0, [0.1], finish=False)
    (folder / "manifest.json").unlink()
    with pytest.raises(RecordError, match="no manifest.json"):
        new_writer(folder)
    with pytest.raises(RecordError, match="missing"):
        read_run(folder)


def test_a_kill_at_any_moment_leaves_whole_parts(tmp_path: Path) -> None:
    """A process that writes as fast as it can is killed; what it left is a prefix, and goes on."""
    script = (
        "import sys; from recorded_runs import *; w = RunWriter(sys.argv[1], manifest())\n"
        "s = max(w.steps('rollouts'), default=0)\n"
        "while True:\n"
        "    s += 1; w.write('rollouts', s, rollout_rows(s)); print(s, flush=True)\n"
    )
    reached = 0
    for delay in (0.0, 0.003, 0.011):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.stdout.read().split()]
        process.wait()
        steps = sorted(set(read_run(tmp_path / "run").table("rollouts")["step"].to_pylist()))
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= max(reported, default=1) and len(steps) > reached
        reached = len(steps)


def test_writing_a_step_is_cheap(tmp_path: Path) -> None:
    """A training step takes 50 ms; its records may not. The bound is loose: shared machines sync slowly."""
    writer = new_writer(tmp_path / "run")
    long = {name: [1.0] * 16 for name in ("weights", "sampler_logprobs", "trainer_logprobs")}
    seconds = []
    for step in range(1, 31):
        rollouts, row = rollout_rows(step, count=32, response_ids=list(range(16)), **long), step_row(step)
        start = time.process_time()
        writer.write("rollouts", step, rollouts)
        writer.write("steps", step, row)
        seconds.append(time.process_time() - start)
    assert sorted(seconds)[15] < 0.006


def test_a_run_with_a_hole_does_not_finish(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "uniform", 0, [0.1] * 4, finish=False)
    assert read_run(folder).faults() == []
    (folder / "steps" / "step-000002.parquet").unlink()
    assert ["step 2 is missing" in fault for fault in read_run(folder).faults()] == [True]
    with pytest.raises(RecordError, match="step 2 is missing"):
        new_writer(folder).finish({})


def test_rows_come_back_as_written_before_and_after_compaction(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run")
    written = {step: rollout_rows(step, reward=None if step == 2 else 1.0) for step in (10, 2, 1)}
    for step, rows in written.items():
        writer.write("rollouts", step, rows)
    expected = [row for step in (1, 2, 10) for row in written[step]]
    parts = read_run(tmp_path / "run")
    assert parts.table("rollouts").to_pylist() == expected
    assert not parts.finished
    writer.finish({"note": "done"})
    compacted = read_run(tmp_path / "run")
    assert compacted.finished and compacted.closing is not None
    assert compacted.closing["summary"] == {"note": "done"}
    assert compacted.closing["rows"] == {"rollouts": 12, "steps": 0, "samples": 0}
    assert compacted.table("rollouts").to_pylist() == expected
    assert compacted.table("rollouts").schema.equals(TABLES["rollouts"])
    assert compacted.table("steps").num_rows == 0
    assert compacted.table("rollouts", ["verdict", "step"]).column_names == ["verdict", "step"]
    assert not (tmp_path / "run" / "rollouts").exists()
