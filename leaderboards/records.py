"""Reading recorded runs: one of them, every one below a folder, and what is wrong with their files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leaderboards.format import (
    ADDED,
    COLUMNS,
    SCHEMA_VERSION,
    TABLES,
    RecordError,
    by_step,
    check_table,
    combined,
    missing_step,
    part_paths,
    read_json,
    step_digest,
)
from leaderboards.manifest import Manifest
from leaderboards.names import hint


@dataclass(frozen=True)
class Run:
    """One recorded run, finished or not. Tables are read when asked for."""

    folder: Path
    manifest: Manifest = field(repr=False)
    #: The values of finished.json: content hashes, row counts, summary; None while the run is not finished.
    closing: dict[str, Any] | None = field(repr=False)

    @property
    def method(self) -> str:
        """The label of the arm, as the experiment names it."""
        return self.manifest.method

    @property
    def seed(self) -> int:
        """The training seed."""
        return self.manifest.seed

    @property
    def finished(self) -> bool:
        """True where the run went to its end."""
        return self.closing is not None

    def _tables(
        self, name: str, columns: Sequence[str] | None, only: int | None = None
    ) -> Iterator[pa.Table]:
        check_table(name)
        if not self.finished:
            yield from read_parts(self.folder, name, columns, only)
            return
        path = self.folder / f"{name}.parquet"
        with _reading(path, "remove the run's folder and run it again, or restore the file") as file:
            wanted = _columns(path, file, name, columns)
            for group in range(file.num_row_groups):
                if only is None:
                    yield _read(file, name, wanted, group)
                    continue
                steps = file.read_row_group(group, columns=["step"], use_threads=False)["step"]
                rows_of_step = np.flatnonzero(steps.to_numpy() == only)
                if len(rows_of_step):
                    yield _read(file, name, wanted, group).slice(rows_of_step[0], len(rows_of_step))

    def step_numbers(self, name: str) -> list[int]:
        """The steps that a table holds, ascending."""
        if not self.finished:
            return list(part_paths(self.folder, name))
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
        hashes: dict[int, str] = {}
        for rows in by_step(self._tables(name, None)):
            step = rows["step"][0].as_py()
            if step in hashes:
                raise RecordError(
                    f"{self.folder / name}.parquet: holds step {step} twice; remove the run's folder and run it again"
                )
            hashes[step] = step_digest(rows)
        return hashes

    def content_hash(self, name: str) -> str:
        """sha256 of the values of a table as they are on disk now; see the function `content_hash`."""
        return combined(self.step_hashes(name))

    def faults(self) -> list[str]:
        """The faults of the run's files, one line each; empty for a sound run. Reads everything."""
        faults = []
        if not self.finished:
            gaps = [missing_step(self.folder, name) for name in ("rollouts", "steps")]
            faults += [gap for gap in gaps if gap]
        for name in TABLES:
            try:
                now = self.content_hash(name)
            except RecordError as error:
                faults.append(str(error))
                continue
            if self.closing is not None and now != self.closing["content_hash"].get(name):
                faults.append(
                    f"{self.folder / name}.parquet: content differs from finished.json; run it again"
                )
        return faults


def read_run(folder: str | os.PathLike[str]) -> Run:
    """The run in `folder`, finished or not. Raises RecordError for a missing or unreadable manifest."""
    folder = Path(folder)
    manifest = Manifest.read(folder)
    closing = _read_closing(folder) if (folder / "finished.json").exists() else None
    return Run(folder=folder, manifest=manifest, closing=closing)


def _lost_manifest(place: Path, folders: Sequence[str], files: Sequence[str]) -> bool:
    # The empty folders of a run that was killed before its manifest was written are no loss.
    whole = {"finished.json", *(f"{table}.parquet" for table in TABLES)}
    return not whole.isdisjoint(files) or any(
        table in folders and part_paths(place, table) for table in TABLES
    )


def load(folder: str | os.PathLike[str]) -> list[Run]:
    """Every run below `folder`, at any depth (a folder with a manifest.json is a run), by method and seed.

    Symbolic links are followed; what several lead to is taken once.

    Raises RecordError for a folder without runs, and one that names every run that cannot be read: also what holds
    tables and has lost its manifest, or a seed would be missing from a comparison without a word.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "is a file" if root.exists() else "no such folder"
        raise RecordError(f"{root}: {what}; give the folder of a run, a sweep, or several sweeps")
    runs, unreadable = list[Run](), list[str]()
    seen = set()

    def closed(error: OSError) -> None:
        unreadable.append(f"{error.filename} cannot be read: {error.strerror}")

    for place, folders, files in os.walk(root, onerror=closed, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()  # a link to what was there already, or round in a circle
            continue
        seen.add(real)
        folders.sort()
        for path in (Path(place) / name for name in files if not name.startswith(".")):
            if path.is_symlink() and not path.exists():
                unreadable.append(f"{path} is a link to {path.readlink()}, which is not there")
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
    unknown = [name for name in wanted if name not in COLUMNS[table]]
    if unknown:
        raise RecordError(
            f"table {table} has no column {unknown[0]!r}; {hint(unknown[0], TABLES[table].names)}"
        )
    if [name for name in TABLES[table].names if name not in ADDED] != [
        name for name in file.schema_arrow.names if name not in ADDED
    ]:
        raise RecordError(f"{path}: not the columns of schema {SCHEMA_VERSION}; remove it and run again")
    return wanted


def _read(file: pq.ParquetFile, table: str, wanted: Sequence[str], group: int | None = None) -> pa.Table:
    """The columns `wanted` of a file or of a row group; values of those that an older record lacks are missing."""
    held = [name for name in wanted if name in file.schema_arrow.names] or ["step"]
    rows = (
        file.read(columns=held, use_threads=False)
        if group is None
        else file.read_row_group(group, columns=held, use_threads=False)
    )
    for name in wanted:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, TABLES[table].field(name).type))
    # Parquet names list items in its own way: every reader gets the one schema.
    return rows.select(list(wanted)).cast(pa.schema([TABLES[table].field(name) for name in wanted]))


def read_parts(
    folder: Path, table: str, columns: Sequence[str] | None = None, only: int | None = None
) -> Iterator[pa.Table]:
    """The parts of a table of a run that is not finished, ascending; `only` that step.

    Raises RecordError that names a torn or corrupt part.
    """
    for step, path in part_paths(folder, table).items():
        if only is not None and step != only:
            continue
        way_out = "remove this part and the later ones and run the same command again, it goes on before them"
        with _reading(path, way_out) as file:
            part = _read(file, table, _columns(path, file, table, columns))
            if "step" in part.column_names and pc.any(pc.not_equal(part["step"], step)).as_py():
                raise RecordError(f"{path}: holds rows of another step; {way_out}")
        yield part


def _read_closing(folder: Path) -> dict[str, Any]:
    path, way_out = folder / "finished.json", "remove it and run the same command again"
    closing = read_json(path, way_out)
    hashes = closing.get("content_hash")
    if not isinstance(hashes, dict) or hashes.keys() != TABLES.keys():
        raise RecordError(f"{path}: content_hash does not name every table; {way_out}")
    if not isinstance(closing.get("summary"), dict):
        raise RecordError(f"{path}: lacks the summary; {way_out}")
    return closing
