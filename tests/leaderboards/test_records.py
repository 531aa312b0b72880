"""A run directory: what is on disk is whole, typed and hashed by content, or it is refused by name."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from recorded_runs import manifest, rollout_rows, sample_rows, step_row, write_run

from leaderboards import records
from leaderboards.records import TABLES, RecordError, RunWriter, content_hash, load, read_run


def new_writer(folder: Path, **changes: Any) -> RunWriter:
    return RunWriter(folder, manifest(**changes))


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


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run")
    with pytest.raises(RecordError, match="unknown table 'losses'; a run has rollouts"):
        writer.write("losses", 1, step_row(1))
    writer.write("steps", 1, step_row(1))
    with pytest.raises(RecordError, match="has no column colour"):
        read_run(tmp_path / "run").table("steps", ["colour"])
    with pytest.raises(RecordError, match="manifest lacks seed, tier"):
        RunWriter(tmp_path / "other", {k: v for k, v in manifest().items() if k not in ("seed", "tier")})


@pytest.mark.parametrize("change", [{"experiment_hash": "other"}, {"method": "flow"}, {"seed": 3}])
def test_another_run_is_not_written_into(tmp_path: Path, change: dict[str, Any]) -> None:
    new_writer(tmp_path / "run")
    with pytest.raises(RecordError, match=next(iter(change))):
        new_writer(tmp_path / "run", **change)


def test_a_run_resumed_elsewhere_says_so(tmp_path: Path) -> None:
    new_writer(tmp_path / "run")
    new_writer(tmp_path / "run")
    assert "resumed" not in read_run(tmp_path / "run").manifest
    for _ in range(2):
        new_writer(tmp_path / "run", versions={"torch": "2.14.0"})
    resumed = read_run(tmp_path / "run").manifest["resumed"]
    assert [place["versions"] for place in resumed] == [{"torch": "2.14.0"}]


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


@pytest.mark.parametrize("name", ["steps/step-000002.parquet", "steps.parquet"])
def test_a_torn_file_is_named_at_every_length(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path, "uniform", 0, [0.1, 0.2, 0.3], finish="/" not in name)
    whole = (folder / name).read_bytes()
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        (folder / name).write_bytes(whole[:size])
        with pytest.raises(RecordError, match=name.split("/")[-1]):
            read_run(folder).table("steps")
    assert any(name.split("/")[-1] in fault for fault in read_run(folder).faults())


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "uniform", 0, [0.1, 0.2, 0.3])
    data = bytearray((folder / "steps.parquet").read_bytes())
    column = pq.ParquetFile(folder / "steps.parquet").metadata.row_group(0).column(1)
    data[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1  # the last byte of its page
    (folder / "steps.parquet").write_bytes(data)
    assert len(read_run(folder).faults()) == 1


def test_a_replaced_table_is_found(tmp_path: Path) -> None:
    folder, other = write_run(tmp_path, "uniform", 0, [0.1]), write_run(tmp_path, "uniform", 1, [0.2])
    (folder / "steps.parquet").write_bytes((other / "steps.parquet").read_bytes())
    assert [("steps" in fault, "finished.json" in fault) for fault in read_run(folder).faults()] == [
        (True, True)
    ]


@pytest.mark.parametrize("steps", [(1, 2, 1, 2), (2, 1, 2)])
def test_rows_that_stand_twice_are_found(tmp_path: Path, steps: tuple[int, ...]) -> None:
    """Hashes are taken step by step: of two blocks of one step, the first would leave no trace."""
    folder = write_run(tmp_path, "uniform", 0, [0.1, 0.2])
    rows = pq.read_table(folder / "steps.parquet")
    pq.write_table(rows.take([step - 1 for step in steps]), folder / "steps.parquet")
    assert ["steps.parquet: holds step" in fault for fault in read_run(folder).faults()] == [True]


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("manifest.json", {"experiment": "decision"}, "experiment is 'decision', not of type dict"),
        ("manifest.json", {"seed": "3"}, "seed is '3', not of type int"),
        ("manifest.json", {"method": None}, "method is 'None', not of type str"),
        ("manifest.json", {"versions": None}, "versions is 'None', not of type dict"),
        ("finished.json", {"content_hash": {}}, "content_hash does not name every table"),
        ("finished.json", {"content_hash": None}, "content_hash does not name every table"),
        ("finished.json", {"summary": None}, "lacks the summary"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(
    tmp_path: Path, file: str, changes: dict[str, Any], words: str
) -> None:
    path = write_run(tmp_path, "uniform", 0, [0.1]) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RecordError, match=words) as caught:
        load(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("finish", [True, False])
def test_a_run_that_lost_its_manifest_is_named(tmp_path: Path, finish: bool) -> None:
    """Left out, its seed would be missing from a comparison without a word."""
    write_run(tmp_path, "uniform", 0, [0.1])
    folder = write_run(tmp_path, "uniform", 1, [0.1], finish=finish)
    (folder / "manifest.json").unlink()
    with pytest.raises(RecordError, match="manifest.json: missing") as caught:
        load(tmp_path)
    assert str(folder) in str(caught.value)
    for name in TABLES:  # as a run that was killed before its manifest was written
        (tmp_path / "killed" / name).mkdir(parents=True)
    write_run(tmp_path / "killed", "flow", 0, [0.1])
    assert len(load(tmp_path / "killed")) == 1


def test_a_part_under_another_step_is_found(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "uniform", 0, [0.1], finish=False)
    (folder / "steps" / "step-000001.parquet").rename(folder / "steps" / "step-000004.parquet")
    with pytest.raises(RecordError, match="another step"):
        read_run(folder).table("steps")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    writer = new_writer(tmp_path / "run")
    writer.write("steps", 1, step_row(1))

    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(records.os, "fsync", fail)
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert "free some space" in str(records._trouble(tmp_path / "part", caught.value))


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


def test_load_finds_runs_at_any_depth_and_names_unreadable_ones(tmp_path: Path) -> None:
    for sweep in ("a", "b/c"):
        for seed in (1, 0):
            write_run(tmp_path / sweep, "flow", seed, [0.1])
    assert [run.seed for run in load(tmp_path)] == [0, 0, 1, 1]
    assert [run.method for run in load(tmp_path / "a" / "flow" / "seed-0001")] == ["flow"]
    bad = tmp_path / "a" / "flow" / "seed-0001" / "manifest.json"
    bad.write_text(bad.read_text()[:50])
    with pytest.raises(RecordError, match="1 unreadable") as caught:
        load(tmp_path)
    assert str(bad) in str(caught.value)
    bad.write_text(json.dumps(manifest() | {"schema_version": 2}))
    with pytest.raises(RecordError, match="schema 2"):
        load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="no run in it"):
        load(tmp_path / "empty")
    with pytest.raises(RecordError, match="no such folder"):
        load(tmp_path / "absent")


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


def test_samples_table(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run")
    writer.write("samples", 0, sample_rows(0, [["correct", "error"], ["timeout", "wrong"]]))
    assert read_run(tmp_path / "run").table("samples")["reward"].to_pylist() == [1.0, None, 0.0, 0.0]


@pytest.mark.parametrize("finish", [False, True])
def test_one_step_can_be_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finish: bool) -> None:
    monkeypatch.setattr(records, "_GROUP_ROWS", 6)  # a step is not cut: groups end between parts
    folder = write_run(tmp_path, "uniform", 0, [0.1] * 5, finish=finish)
    for step in range(1, 6):
        found = read_run(folder).table("rollouts", ["response_ids", "step"], step=step)
        assert set(found["step"].to_pylist()) == {step} and found.num_rows == 4
        assert found["response_ids"].to_pylist()[0] == [4, 5 + step]
    assert read_run(folder).table("rollouts", step=9).num_rows == 0


def test_a_run_with_a_hole_does_not_finish(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "uniform", 0, [0.1] * 4, finish=False)
    assert read_run(folder).faults() == []
    (folder / "steps" / "step-000002.parquet").unlink()
    assert ["step 2 is missing" in fault for fault in read_run(folder).faults()] == [True]
    with pytest.raises(RecordError, match="step 2 is missing"):
        new_writer(folder).finish({})
