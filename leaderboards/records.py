"""Run directories: how one training run is written while it runs, and read ever after.

A run is one training seed of one credit method. Its folder holds

    manifest.json                  what was run: experiment, hash, method, seed, versions, hardware, tier
    rollouts/step-000012.parquet   one row a rollout of that generation batch
    steps/step-000012.parquet      one row
    samples/step-000100.parquet    one row an evaluation sample; step 0 is the initial policy
    finished.json                  content hashes and the run's summary; its presence means "finished"

Every file is written aside in the same folder, synced, renamed, and the folder is synced: a process killed at
any byte leaves a readable prefix of whole parts. `finish` compacts each table's parts into `<table>.parquet`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCHEMA_VERSION = 1


class RecordError(ValueError):
    """Runs that cannot be written, read or compared: one line that names the file and the way out."""


def _schema(nullable: Sequence[str] = (), **columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=name in nullable) for name, kind in columns.items()])


_INT, _FLOAT, _TEXT = pa.int32(), pa.float32(), pa.string()
_INTS, _FLOATS = pa.list_(_INT), pa.list_(_FLOAT)

#: Columns of each table. `seconds_*` and `memory_*` measure the machine, so `content_hash` leaves them out.
TABLES: dict[str, pa.Schema] = {
    "rollouts": _schema(
        nullable=("reward", "abstained"),
        step=_INT,
        problem_id=_TEXT,
        sample=_INT,
        group=_INT,
        key=_TEXT,
        prompt_ids=_INTS,
        response_ids=_INTS,
        text=_TEXT,
        finish_reason=_TEXT,
        verdict=_TEXT,
        reward=_FLOAT,
        advantage=_FLOAT,
        weights=_FLOATS,
        sampler_logprobs=_FLOATS,
        trainer_logprobs=_FLOATS,
        abstained=_TEXT,
    ),
    "steps": _schema(
        step=_INT,
        reward=_FLOAT,
        loss=_FLOAT,
        gradient_norm=_FLOAT,
        learning_rate=_FLOAT,
        entropy=_FLOAT,
        response_length=_FLOAT,
        correct=_INT,
        wrong=_INT,
        no_answer=_INT,
        truncated=_INT,
        timeout=_INT,
        error=_INT,
        abstained=_INT,
        duplicate_share=_FLOAT,
        signal_share=_FLOAT,
        mean_weight=_FLOAT,
        distance_from_start=_FLOAT,
        sampler_gap=_FLOAT,
        tokens=pa.int64(),
        parameters_hash=_TEXT,
        seconds_rollout=_FLOAT,
        seconds_reward=_FLOAT,
        seconds_credit=_FLOAT,
        seconds_update=_FLOAT,
        seconds_step=_FLOAT,
    ),
    "samples": _schema(
        nullable=("reward",),
        step=_INT,
        task=_TEXT,
        problem_id=_TEXT,
        sample=_INT,
        key=_TEXT,
        text=_TEXT,
        response_tokens=_INT,
        finish_reason=_TEXT,
        verdict=_TEXT,
        reward=_FLOAT,
    ),
}
VERDICTS = ("correct", "wrong", "no_answer", "truncated", "timeout", "error")

_COLUMNS = {table: frozenset(schema.names) for table, schema in TABLES.items()}
_MANIFEST_KEYS = (
    "experiment",
    "experiment_hash",
    "method",
    "seed",
    "versions",
    "hardware",
    "git_commit",
    "tier",
)
_KINDS = {
    "experiment": dict,
    "experiment_hash": str,
    "method": str,
    "seed": int,
    "versions": dict,
    "hardware": dict,
    "tier": str,
}
_IDENTITY = ("experiment_hash", "method", "seed")
_PLACE = ("versions", "hardware", "git_commit")
_PART = re.compile(r"step-(\d{6,})\.parquet")
_ASIDE = ".aside"
# A compacted row group: big enough to read fast, small enough that a run of long responses fits in memory.
_GROUP_ROWS, _GROUP_BYTES = 65_536, 64 * 2**20


# ---------------------------------------------------------------------------------------------- writing


def _trouble(path: Path, error: OSError) -> RecordError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RecordError(
            f"{path.parent}: the disk is full, {path.name} was not written; the rest is intact: "
            f"free some space and run the same command again, it goes on where it stopped"
        )
    return RecordError(f"{path}: {error.strerror or error}; check the folder's permissions and its disk")


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
            raise _trouble(path, error) from error
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
    schema, columns = TABLES[table], _COLUMNS[table]
    if not rows:
        raise RecordError(f"table {table}, step {step}: no rows; write nothing for a step without any")
    for row in rows:
        if row.keys() != columns:
            unknown, missing = sorted(row.keys() - columns), sorted(columns - row.keys())
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
                pa.array([row[entry.name]], type=entry.type)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                return f"column {entry.name} takes {entry.type}, not {str(row[entry.name])[:40]!r} ({error})"
    return None


class RunWriter:
    """Writes one run, part by part; creates its folder, or reopens it after a stop.

    Reopening a folder that holds another experiment, method or seed raises RecordError. Where the run is
    reopened under other versions, hardware or commit, that place is added to the manifest's `resumed` list: a
    result never claims to come from one machine when it came from two.
    """

    def __init__(self, folder: str | os.PathLike[str], manifest: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        absent = [key for key in _MANIFEST_KEYS if key not in manifest]
        if absent:
            raise RecordError(f"{self.folder}: the manifest lacks {', '.join(absent)}")
        if manifest.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise RecordError(
                f"{self.folder}: records are written with schema {SCHEMA_VERSION}, "
                f"not {manifest['schema_version']}"
            )
        self.manifest: dict[str, Any] = {**manifest, "schema_version": SCHEMA_VERSION}
        try:
            for table in TABLES:
                if not (self.folder / "finished.json").exists():
                    (self.folder / table).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _trouble(self.folder, error) from error
        self._remove_leftovers()
        if (self.folder / "manifest.json").exists():
            self._reopen()
        elif any(_part_paths(self.folder, table) for table in TABLES):
            raise RecordError(f"{self.folder}: holds parts but no manifest.json; give another folder")
        else:
            _write_json(self.folder / "manifest.json", self.manifest)

    def _remove_leftovers(self) -> None:
        for folder in (self.folder, *(self.folder / table for table in TABLES)):
            for path in folder.glob(f".*{_ASIDE}"):
                path.unlink(missing_ok=True)
        if self.finished:  # stopped between finished.json and the removal of the parts that it replaces
            for table in TABLES:
                shutil.rmtree(self.folder / table, ignore_errors=True)

    def _reopen(self) -> None:
        old = _read_manifest(self.folder)
        for key in _IDENTITY:
            if old[key] != self.manifest[key]:
                raise RecordError(
                    f"{self.folder}: holds a run with {key} {old[key]}, not {self.manifest[key]}; "
                    f"give another output folder, or remove this one"
                )
        places = [{key: place.get(key) for key in _PLACE} for place in (old, *old.get("resumed", ()))]
        here = json.loads(json.dumps({key: self.manifest[key] for key in _PLACE}))
        self.manifest = old
        if here not in places and not self.finished:
            self.manifest = {**old, "resumed": [*old.get("resumed", ()), here]}
            _write_json(self.folder / "manifest.json", self.manifest)

    @property
    def finished(self) -> bool:
        """Whether `finish` has completed; a finished run takes no more rows."""
        return (self.folder / "finished.json").exists()

    def steps(self, table: str) -> list[int]:
        """The steps whose parts of `table` are on disk, ascending."""
        _known(table)
        return list(_part_paths(self.folder, table))

    def write(self, table: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put the rows of one step on disk, replacing the part that is there, if any.

        Rows must have exactly the columns of `TABLES[table]`. When this returns they survive a power cut.
        """
        _known(table)
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
        _write_bytes(self.folder / table / f"step-{step:06d}.parquet", sink.getvalue())

    def drop_after(self, table: str, step: int) -> None:
        """Remove the parts of `table` later than `step`: what a run resumed from that checkpoint must do."""
        _known(table)
        self._open()
        later = [path for part_step, path in _part_paths(self.folder, table).items() if part_step > step]
        try:
            for path in reversed(later):  # the latest first: a stop in between leaves a prefix
                path.unlink()
            if later:
                _sync_folder(self.folder / table)
        except OSError as error:
            raise _trouble(later[0], error) from error

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Compact every table, hash it, and declare the run finished with `summary` (plain JSON values)."""
        self._open()
        gap = _gap(self.folder, "steps")
        if gap:
            raise RecordError(gap)
        hashes, counts = {}, {}
        for table in TABLES:
            digests: dict[int, str] = {}
            parts = _read_parts(self.folder, table)
            counts[table] = _compact(self.folder / f"{table}.parquet", TABLES[table], parts, digests)
            hashes[table] = _combine(digests)
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


def _gap(folder: Path, table: str) -> str | None:
    """What is wrong where a part is missing between others; evaluations have steps of their own."""
    steps = list(_part_paths(folder, table))
    absent = sorted(set(range(steps[0], steps[-1] + 1)) - set(steps)) if steps else []
    if not absent:
        return None
    return (
        f"{folder / table}: step {absent[0]} is missing between recorded ones; remove the run's folder and run the "
        f"same command again"
    )


def _known(table: str) -> None:
    if table not in TABLES:
        raise RecordError(f"unknown table {table!r}; a run has {', '.join(TABLES)}")


def _compact(path: Path, schema: pa.Schema, parts: Iterable[pa.Table], digests: dict[int, str]) -> int:
    rows, waiting, waiting_rows, waiting_bytes = 0, [], 0, 0
    with (
        _aside(path) as file,
        pq.ParquetWriter(
            pa.PythonFile(file, mode="w"), schema, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        for part in parts:
            digests[part["step"][0].as_py()] = _digest(part)
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


# ---------------------------------------------------------------------------------------------- hashing


def _canonical(values: pa.Array) -> Iterator[bytes]:
    """The bytes of an array's values, whatever its chunks, offsets and the garbage under its nulls."""
    yield len(values).to_bytes(8, "little")
    if values.null_count:
        yield values.is_valid().to_numpy(zero_copy_only=False).tobytes()
    if pa.types.is_list(values.type):
        yield pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype("<i4").tobytes()
        yield from _canonical(values.flatten())
    elif pa.types.is_string(values.type):
        values = values.fill_null("") if values.null_count else values
        yield pc.binary_length(values).to_numpy(zero_copy_only=False).astype("<i4").tobytes()
        yield "".join(values.to_pylist()).encode()
    else:
        values = values.fill_null(0) if values.null_count else values
        numbers = values.to_numpy(zero_copy_only=False)
        if numbers.dtype.kind == "f":  # one NaN, whatever its payload
            numbers = np.where(np.isnan(numbers), numbers.dtype.type(np.nan), numbers)
        yield numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()


def _digest(rows: pa.Table) -> str:
    total = hashlib.sha256()
    for entry, column in zip(rows.schema, rows.columns, strict=True):
        if entry.name.startswith(("seconds_", "memory_")):
            continue
        total.update(f"{entry.name}:{entry.type}\n".encode())
        chunks = column.chunks
        for piece in _canonical(chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)):
            total.update(piece)
    return total.hexdigest()


def _combine(digests: Mapping[int, str]) -> str:
    lines = "".join(f"{step} {digest}\n" for step, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def content_hash(rows: pa.Table) -> str:
    """sha256 of a table's values, rows sorted by their step.

    Columns that start with `seconds_` or `memory_` measure the machine and are left out. Parts, compression,
    row groups and metadata do not enter: a run's hash is the same before and after compaction.
    """
    return _combine({piece["step"][0].as_py(): _digest(piece) for piece in _by_step([rows])})


def _by_step(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Split consecutive tables, sorted by step, into one table a step."""
    carried: pa.Table | None = None
    for table in tables:
        if carried is not None:
            table = pa.concat_tables([carried, table])
        if not table.num_rows:
            continue
        steps = table["step"].to_numpy()
        edges = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
        for start, end in zip(edges[:-2], edges[1:-1], strict=True):
            yield table.slice(start, end - start)
        carried = table.slice(edges[-2])
    if carried is not None:
        yield carried


# ---------------------------------------------------------------------------------------------- reading


def _part_paths(folder: Path, table: str) -> dict[int, Path]:
    try:
        names = os.listdir(folder / table)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _trouble(folder / table, error) from error
    found = {int(match[1]): folder / table / name for name in names if (match := _PART.fullmatch(name))}
    return dict(sorted(found.items()))


@contextmanager
def _reading(path: Path, way_out: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except RecordError:
        raise
    except FileNotFoundError as error:
        raise RecordError(f"{path}: missing; {way_out}") from error
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise RecordError(f"{path}: torn or corrupt ({reason}); {way_out}") from error


def _columns(path: Path, file: pq.ParquetFile, table: str, columns: Sequence[str] | None) -> list[str]:
    wanted = list(columns) if columns is not None else TABLES[table].names
    unknown = [name for name in wanted if name not in _COLUMNS[table]]
    if unknown:
        known = ", ".join(TABLES[table].names)
        raise RecordError(f"table {table} has no column {', '.join(unknown)}; it has {known}")
    if file.schema_arrow.names != TABLES[table].names:
        raise RecordError(f"{path}: not the columns of schema {SCHEMA_VERSION}; remove it and run again")
    return wanted


def _typed(rows: pa.Table, table: str) -> pa.Table:
    # Parquet names list items in its own way: every reader gets the one schema.
    return rows.cast(pa.schema([TABLES[table].field(name) for name in rows.column_names]))


def _read_parts(
    folder: Path, table: str, columns: Sequence[str] | None = None, only: int | None = None
) -> Iterator[pa.Table]:
    for step, path in _part_paths(folder, table).items():
        if only is not None and step != only:
            continue
        way_out = "remove this part and the later ones and run the same command again, it goes on before them"
        with _reading(path, way_out) as file:
            part = _typed(file.read(columns=_columns(path, file, table, columns), use_threads=False), table)
            if "step" in part.column_names and pc.any(pc.not_equal(part["step"], step)).as_py():
                raise RecordError(f"{path}: holds rows of another step; {way_out}")
        yield part


def _read_json(path: Path, way_out: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{path}: missing; {way_out}") from error
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: unreadable ({error}); {way_out}") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path}: is not a JSON object; {way_out}")
    version = value.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"{path}: has schema {version}, this version reads {SCHEMA_VERSION}; "
            f"read it with the version that wrote it"
        )
    return value


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    way_out = "give the folder of a recorded run, or remove this one and run it again"
    manifest = _read_json(path, way_out)
    absent = [key for key in _MANIFEST_KEYS if key not in manifest]
    if absent:
        raise RecordError(f"{path}: lacks {', '.join(absent)}; {way_out}")
    for key, kind in _KINDS.items():
        if not isinstance(manifest[key], kind):
            raise RecordError(
                f"{path}: {key} is {str(manifest[key])[:40]!r}, not of type {kind.__name__}; {way_out}"
            )
    return manifest


def _read_closing(folder: Path) -> dict[str, Any]:
    path, way_out = folder / "finished.json", "remove it and run the same command again"
    closing = _read_json(path, way_out)
    hashes = closing.get("content_hash")
    if not isinstance(hashes, dict) or hashes.keys() != TABLES.keys():
        raise RecordError(f"{path}: content_hash does not name every table; {way_out}")
    if not isinstance(closing.get("summary"), dict):
        raise RecordError(f"{path}: lacks the summary; {way_out}")
    return closing


@dataclass(frozen=True)
class Run:
    """One recorded run, finished or not. Tables are read when asked for."""

    folder: Path
    manifest: dict[str, Any] = field(repr=False)
    #: What finished.json holds: content hashes, row counts, summary; None while the run is not finished.
    closing: dict[str, Any] | None = field(repr=False)

    @property
    def method(self) -> str:
        """The label of the arm, as the experiment names it."""
        return str(self.manifest["method"])

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.manifest["seed"])

    @property
    def finished(self) -> bool:
        """Whether the run went to its end."""
        return self.closing is not None

    def _tables(
        self, name: str, columns: Sequence[str] | None, only: int | None = None
    ) -> Iterator[pa.Table]:
        _known(name)
        if not self.finished:
            yield from _read_parts(self.folder, name, columns, only)
            return
        path = self.folder / f"{name}.parquet"
        with _reading(path, "remove the run's folder and run it again, or restore the file") as file:
            wanted = _columns(path, file, name, columns)
            for group in range(file.num_row_groups):
                if only is None:
                    yield _typed(file.read_row_group(group, columns=wanted, use_threads=False), name)
                    continue
                steps = file.read_row_group(group, columns=["step"], use_threads=False)["step"]
                found = np.flatnonzero(steps.to_numpy() == only)
                if len(found):
                    rows = file.read_row_group(group, columns=wanted, use_threads=False)
                    yield _typed(rows.slice(found[0], len(found)), name)

    def step_numbers(self, name: str) -> list[int]:
        """The steps that a table holds, ascending."""
        if not self.finished:
            return list(_part_paths(self.folder, name))
        return sorted(set(self.table(name, ["step"])["step"].to_pylist()))

    def table(self, name: str, columns: Sequence[str] | None = None, step: int | None = None) -> pa.Table:
        """A whole table, or some `columns` or one `step` of it, sorted by step; empty where nothing was recorded.

        Raises RecordError that names a torn or corrupt file.
        """
        tables = list(self._tables(name, columns, step))
        if tables:
            return pa.concat_tables(tables)
        wanted = TABLES[name].names if columns is None else columns
        return pa.schema([TABLES[name].field(column) for column in wanted]).empty_table()

    def step_hashes(self, name: str) -> dict[int, str]:
        """The content hash of each step's rows: where two runs first differ.

        Raises RecordError where the rows of a step stand in two places: one of them would leave no trace in the hash.
        """
        found: dict[int, str] = {}
        for rows in _by_step(self._tables(name, None)):
            step = rows["step"][0].as_py()
            if step in found:
                raise RecordError(
                    f"{self.folder / name}.parquet: holds step {step} twice; remove the run's folder and run it again"
                )
            found[step] = _digest(rows)
        return found

    def content_hash(self, name: str) -> str:
        """sha256 of the values of a table as they are on disk now; see the function `content_hash`."""
        return _combine(self.step_hashes(name))

    def faults(self) -> list[str]:
        """What is wrong with the run's files, one line each; empty for a sound run. Reads everything."""
        found = []
        if not self.finished:
            gaps = [_gap(self.folder, name) for name in ("rollouts", "steps")]
            found += [gap for gap in gaps if gap]
        for name in TABLES:
            try:
                now = self.content_hash(name)
            except RecordError as error:
                found.append(str(error))
                continue
            if self.closing is not None and now != self.closing["content_hash"].get(name):
                found.append(
                    f"{self.folder / name}.parquet: content differs from finished.json; run it again"
                )
        return found


def read_run(folder: str | os.PathLike[str]) -> Run:
    """The run in `folder`, finished or not. Raises RecordError for a missing or unreadable manifest."""
    folder = Path(folder)
    manifest = _read_manifest(folder)
    closing = _read_closing(folder) if (folder / "finished.json").exists() else None
    return Run(folder=folder, manifest=manifest, closing=closing)


def _lost_manifest(place: Path, folders: Sequence[str], files: Sequence[str]) -> bool:
    # The empty folders of a run that was killed before its manifest was written are no loss.
    whole = {"finished.json", *(f"{table}.parquet" for table in TABLES)}
    return not whole.isdisjoint(files) or any(
        table in folders and _part_paths(place, table) for table in TABLES
    )


def load(folder: str | os.PathLike[str]) -> list[Run]:
    """Every run below `folder`, at any depth (a folder with a manifest.json is a run), by method and seed.

    Raises RecordError for a folder without runs, and one that names every run that cannot be read: also what holds
    tables and has lost its manifest, or a seed would be missing from a comparison without a word.
    """
    root = Path(folder)
    if not root.is_dir():
        raise RecordError(f"{root}: no such folder; give the folder of a run, a sweep, or several sweeps")
    runs, unreadable = [], []
    for place, folders, files in os.walk(root, followlinks=False):
        folders.sort()
        if "manifest.json" in files or _lost_manifest(Path(place), folders, files):
            folders.clear()
            try:
                runs.append(read_run(place))
            except RecordError as error:
                unreadable.append(str(error))
    if unreadable:
        raise RecordError(f"{root}: {len(unreadable)} unreadable: " + " | ".join(unreadable))
    if not runs:
        raise RecordError(f"{root}: no run in it (a run has a manifest.json); give the folder of a sweep")
    return sorted(runs, key=lambda run: (run.method, run.seed, str(run.folder)))
