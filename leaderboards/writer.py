"""Writing a run while it runs: part by part, each safe against a kill at any byte; compacted and hashed at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from leaderboards.format import (
    ADDED,
    COLUMNS,
    SCHEMA_VERSION,
    TABLES,
    RecordError,
    check_table,
    combined,
    missing_step,
    part_path,
    part_paths,
    step_digest,
    trouble,
)
from leaderboards.manifest import Manifest
from leaderboards.records import read_parts

_IDENTITY = ("experiment_hash", "method", "seed")
_ASIDE = ".aside"
# A compacted row group: big enough to read fast, small enough that a run of long responses fits in memory.
_GROUP_ROWS, _GROUP_BYTES = 65_536, 64 * 2**20


class RunWriter:
    """Writes one run, part by part; creates its folder, or reopens it after a stop.

    Reopening a folder that holds another experiment, method or seed raises RecordError. Where the run is
    reopened under other versions, hardware or commit, that place is added to the manifest's `resumed` list: a
    result never claims to come from one machine when it came from two.
    """

    def __init__(self, folder: str | os.PathLike[str], manifest: Manifest) -> None:
        self.folder = Path(folder)
        self.manifest = manifest
        try:
            for table in TABLES:
                if not (self.folder / "finished.json").exists():
                    (self.folder / table).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise trouble(self.folder, error) from error
        self._remove_leftovers()
        if (self.folder / "manifest.json").exists():
            self._reopen()
        elif any(part_paths(self.folder, table) for table in TABLES):
            raise RecordError(f"{self.folder}: holds parts but no manifest.json; give another folder")
        else:
            self._write_manifest()

    def _write_manifest(self) -> None:
        _write_json(self.folder / "manifest.json", self.manifest.to_json())

    def _remove_leftovers(self) -> None:
        for folder in (self.folder, *(self.folder / table for table in TABLES)):
            for path in folder.glob(f".*{_ASIDE}"):
                path.unlink(missing_ok=True)
        if self.finished:  # stopped between finished.json and the removal of the parts that it replaces
            for table in TABLES:
                shutil.rmtree(self.folder / table, ignore_errors=True)

    def _reopen(self) -> None:
        old = Manifest.read(self.folder)
        for key in _IDENTITY:
            was, is_now = getattr(old, key), getattr(self.manifest, key)
            if was != is_now:
                raise RecordError(
                    f"{self.folder}: holds a run with {key} {was}, not {is_now}; "
                    f"give another output folder, or remove this one"
                )
        # As it would be read back: JSON makes lists of tuples.
        written = json.loads(json.dumps(self.manifest.to_json()))
        here = Manifest.from_json(written, self.folder).place
        self.manifest = old
        if here not in old.places and not self.finished:
            self.manifest = replace(old, resumed=(*old.resumed, here))
            self._write_manifest()

    @property
    def finished(self) -> bool:
        """True once `finish` has completed; a finished run takes no more rows."""
        return (self.folder / "finished.json").exists()

    def steps(self, table: str) -> list[int]:
        """The steps whose parts of `table` are on disk, ascending."""
        check_table(table)
        return list(part_paths(self.folder, table))

    def write(self, table: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put the rows of one step on disk, replacing the part that is there, if any.

        Rows must have exactly the columns of `TABLES[table]`. When this returns they survive a power cut.
        """
        check_table(table)
        self._open()
        if step < 0:
            raise RecordError(f"table {table}: step {step} is negative")
        part = _rows_to_table(table, step, rows)
        # Parts are small and short-lived: compression, dictionaries and statistics cost more than they save.
        sink = pa.BufferOutputStream()
        pq.write_table(
            part,
            sink,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            store_schema=False,
            write_page_checksum=True,
        )
        _write_bytes(part_path(self.folder, table, step), sink.getvalue())

    def drop_after(self, table: str, step: int) -> None:
        """Remove the parts of `table` later than `step`: what a run resumed from that checkpoint must do."""
        check_table(table)
        self._open()
        later = [path for part_step, path in part_paths(self.folder, table).items() if part_step > step]
        try:
            for path in reversed(later):  # the latest first: a stop in between leaves a prefix
                path.unlink()
            if later:
                _sync_folder(self.folder / table)
        except OSError as error:
            raise trouble(later[0], error) from error

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Compact every table, hash it, and declare the run finished with `summary` (plain JSON values)."""
        self._open()
        gap = missing_step(self.folder, "steps")
        if gap:
            raise RecordError(gap)
        hashes, counts = {}, {}
        for table in TABLES:
            digests: dict[int, str] = {}
            parts = read_parts(self.folder, table)
            counts[table] = compact(self.folder / f"{table}.parquet", TABLES[table], parts, digests)
            hashes[table] = combined(digests)
        _write_json(
            self.folder / "finished.json",
            {
                "schema_version": SCHEMA_VERSION,
                "content_hash": hashes,
                "rows": counts,
                "summary": dict(summary),
            },
        )
        self._remove_leftovers()

    def _open(self) -> None:
        if self.finished:
            raise RecordError(
                f"{self.folder}: this run is finished, no rows can be added; give another folder"
            )


@contextmanager
def _aside(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under `path` complete and on disk, or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}{_ASIDE}")
    try:
        with open(aside, "wb", buffering=0) as file:
            yield file
            os.fsync(file.fileno())
        os.rename(aside, path)
        _sync_folder(path.parent)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise trouble(path, error) from error
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_bytes(path: Path, data: bytes | pa.Buffer) -> None:
    with _aside(path) as file:
        view = memoryview(data)
        while view:  # a raw write may take only a part, most of all on a disk that is nearly full
            view = view[file.write(view) :]


def _write_json(path: Path, value: Any) -> None:
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordError(f"{path}: not JSON ({error}); give plain, finite values") from error
    _write_bytes(path, text.encode() + b"\n")


def _rows_to_table(table: str, step: int, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    schema, columns = TABLES[table], COLUMNS[table]
    if not rows:
        raise RecordError(f"table {table}, step {step}: no rows; write nothing for a step without any")
    for row in rows:
        if row.keys() | ADDED != columns | ADDED:
            unknown, missing = sorted(row.keys() - columns), sorted(columns - row.keys() - ADDED)
            wrong = [f"unknown {', '.join(unknown)}"] * bool(unknown)
            wrong += [f"missing {', '.join(missing)}"] * bool(missing)
            raise RecordError(
                f"table {table}, step {step}: {'; '.join(wrong)}; its columns are {', '.join(schema.names)}"
            )
        if row["step"] != step:
            raise RecordError(f"table {table}: a row of step {row['step']} in the part of step {step}")
    try:
        result = pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"table {table}, step {step}: {_misfit(schema, rows) or error}") from error
    for entry, column in zip(schema, result.columns, strict=True):
        nested = pa.types.is_list(entry.type) and any(chunk.flatten().null_count for chunk in column.chunks)
        if nested or (column.null_count and not entry.nullable):
            raise RecordError(f"table {table}, step {step}: column {entry.name} has a missing value")
    return result


def _misfit(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> str | None:
    for entry in schema:
        for row in rows:
            try:
                pa.array([row.get(entry.name)], type=entry.type)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                return (
                    f"column {entry.name} takes {entry.type}, not {str(row.get(entry.name))[:40]!r} ({error})"
                )
    return None


def compact(path: Path, schema: pa.Schema, parts: Iterable[pa.Table], digests: dict[int, str]) -> int:
    """Write a table's parts into one file, and each step's hash into `digests`; gives the number of rows."""
    rows, waiting, waiting_rows, waiting_bytes = 0, [], 0, 0
    with (
        _aside(path) as file,
        pq.ParquetWriter(
            pa.PythonFile(file, mode="w"), schema, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        for part in parts:
            digests[part["step"][0].as_py()] = step_digest(part)
            rows += part.num_rows
            waiting.append(part)
            waiting_rows += part.num_rows
            waiting_bytes += part.nbytes
            if waiting_rows >= _GROUP_ROWS or waiting_bytes >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting, waiting_rows, waiting_bytes = [], 0, 0
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
    return rows
