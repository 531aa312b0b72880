"""Reading runs: whatever is torn, changed, lost or misplaced is named, and no value is read from it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from recorded_runs import manifest, new_writer, sample_rows, step_row, write_run

from leaderboards import writer
from leaderboards.format import TABLES, RecordError
from leaderboards.records import load, read_run


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run")
    with pytest.raises(RecordError, match="unknown table 'losses'; known: rollouts"):
        writer.write("losses", 1, step_row(1))
    writer.write("steps", 1, step_row(1))
    with pytest.raises(RecordError, match="has no column 'colour'"):
        read_run(tmp_path / "run").table("steps", ["colour"])


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
    bad.write_text(json.dumps(manifest().to_json() | {"schema_version": 2}))
    with pytest.raises(RecordError, match="schema 2"):
        load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="no run in it"):
        load(tmp_path / "empty")
    with pytest.raises(RecordError, match="no such folder"):
        load(tmp_path / "absent")
    with pytest.raises(RecordError, match=r"manifest\.json: is a file; give the folder"):
        load(bad)


def test_a_folder_that_cannot_be_looked_into_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seeds would be missing from a comparison without a word."""
    for seed in (0, 1):
        write_run(tmp_path, "flow", seed, [0.1])
    closed, look = tmp_path / "flow" / "seed-0001", os.scandir

    def scandir(place: Any) -> Any:
        if Path(place) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return look(place)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(RecordError, match=f"1 unreadable: {closed} cannot be read: Permission denied"):
        load(tmp_path)


def test_samples_table(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "run")
    writer.write("samples", 0, sample_rows(0, [["correct", "error"], ["timeout", "wrong"]]))
    assert read_run(tmp_path / "run").table("samples")["reward"].to_pylist() == [1.0, None, 0.0, 0.0]


@pytest.mark.parametrize("finish", [False, True])
def test_one_step_can_be_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finish: bool) -> None:
    monkeypatch.setattr(writer, "_GROUP_ROWS", 6)  # a step is not cut: groups end between parts
    folder = write_run(tmp_path, "uniform", 0, [0.1] * 5, finish=finish)
    for step in range(1, 6):
        found = read_run(folder).table("rollouts", ["response_ids", "step"], step=step)
        assert set(found["step"].to_pylist()) == {step} and found.num_rows == 4
        assert found["response_ids"].to_pylist()[0] == [4, 5 + step]
    assert read_run(folder).table("rollouts", step=9).num_rows == 0


@pytest.mark.parametrize("finished", [True, False])
def test_a_record_made_before_a_column_was_added_still_reads(tmp_path: Path, finished: bool) -> None:
    """With the hash that it was closed with: what a later version adds is missing in it, and no part of its content."""
    folder = write_run(tmp_path, "uniform", 0, [0.1] * 3, finish=finished)
    before = read_run(folder).table("rollouts")
    digest = read_run(folder).content_hash("rollouts")
    for file in [folder / "rollouts.parquet"] if finished else sorted((folder / "rollouts").iterdir()):
        table = pq.read_table(file).drop_columns(["verdict_error"])
        pq.write_table(table, file, store_schema=False, write_page_checksum=True)
    run = read_run(folder)
    assert run.faults() == [] and run.content_hash("rollouts") == digest
    assert run.table("rollouts").equals(before)
    assert run.table("rollouts", ["verdict_error"]).column(0).null_count == len(before)
    assert run.table("rollouts", ["problem_id", "verdict_error"], step=1).column_names == [
        "problem_id",
        "verdict_error",
    ]
