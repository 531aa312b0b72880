"""The record format: the columns of every table, the files of a run's folder, and the hashes of what they hold.

A run is one training seed of one arm. Its folder holds

    manifest.json                  what was run: experiment, hash, method, seed, versions, hardware, tier
    rollouts/step-000012.parquet   one row a rollout of that generation batch
    steps/step-000012.parquet      one row
    samples/step-000100.parquet    one row an evaluation sample; step 0 is the initial policy
    finished.json                  content hashes and the run's summary; its presence means "finished"

Every file is written aside in the same folder, synced, renamed, and the folder is synced: a process killed at
any byte leaves a readable prefix of whole parts. A finished run has each table in one file, `<table>.parquet`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leaderboards.names import hint

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
        nullable=("reward", "abstained", "verdict_error"),
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
        verdict_error=_TEXT,
    ),
    "steps": _schema(
        nullable=("turn",),
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
        turn=_FLOAT,
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
#: Columns that older records lack. They read as missing there, and no content hash takes them in: what a verifier
#: raised may be worded otherwise by another version of a library, and whether a turn is measured changes no training.
ADDED = frozenset({"verdict_error", "turn"})
VERDICTS = ("correct", "wrong", "no_answer", "truncated", "timeout", "error")


#: The columns of each table, to look a name up.
COLUMNS = {table: frozenset(schema.names) for table, schema in TABLES.items()}
_PART = re.compile(r"step-(\d{6,})\.parquet")


# ---------------------------------------------------------------------------------------------- files


def trouble(path: Path, error: OSError) -> RecordError:
    """The operating system's error on a file of a run, with the way out."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RecordError(
            f"{path.parent}: the disk is full, {path.name} was not written; the rest is intact: "
            f"free some space and run the same command again, it goes on where it stopped"
        )
    return RecordError(f"{path}: {error.strerror or error}; check the folder's permissions and its disk")


def check_table(table: str) -> None:
    """RecordError for a table that no run has."""
    if table not in TABLES:
        raise RecordError(f"unknown table {table!r}; {hint(table, TABLES)}")


def part_paths(folder: Path, table: str) -> dict[int, Path]:
    """The files of a table's parts by their step, ascending; none where the table was compacted."""
    try:
        names = os.listdir(folder / table)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise trouble(folder / table, error) from error
    parts = {int(match[1]): folder / table / name for name in names if (match := _PART.fullmatch(name))}
    return dict(sorted(parts.items()))


def missing_step(folder: Path, table: str) -> str | None:
    """A sentence where a part is missing between others, else None; evaluations have steps of their own."""
    steps = list(part_paths(folder, table))
    absent = sorted(set(range(steps[0], steps[-1] + 1)) - set(steps)) if steps else []
    if not absent:
        return None
    return (
        f"{folder / table}: step {absent[0]} is missing between recorded ones; remove the run's folder and run the "
        f"same command again"
    )


def part_path(folder: Path, table: str, step: int) -> Path:
    """The file that holds one step of a table while the run is not finished."""
    return folder / table / f"step-{step:06d}.parquet"


def read_json(path: Path, way_out: str) -> dict[str, Any]:
    """A JSON object of this version's schema. RecordError with the `way_out` for a missing or unreadable file."""
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


def step_digest(rows: pa.Table) -> str:
    """sha256 of one step's rows."""
    total = hashlib.sha256()
    for entry, column in zip(rows.schema, rows.columns, strict=True):
        if entry.name.startswith(("seconds_", "memory_")) or entry.name in ADDED:
            continue
        total.update(f"{entry.name}:{entry.type}\n".encode())
        chunks = column.chunks
        for piece in _canonical(chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)):
            total.update(piece)
    return total.hexdigest()


def combined(digests: Mapping[int, str]) -> str:
    """The hash of a table from those of its steps."""
    lines = "".join(f"{step} {digest}\n" for step, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def content_hash(rows: pa.Table) -> str:
    """sha256 of a table's values, rows sorted by their step.

    Columns that start with `seconds_` or `memory_` measure the machine and are left out, as are those of `ADDED`.
    Parts, compression, row groups and metadata do not enter: a run's hash is the same before and after compaction.
    """
    return combined({piece["step"][0].as_py(): step_digest(piece) for piece in by_step([rows])})


def by_step(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
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
