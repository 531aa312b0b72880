"""Records as pandas frames: a table of every run below a folder, each row with the run that it comes from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from leaderboards.format import TABLES, RecordError
from leaderboards.names import hint
from leaderboards.records import Run, load

if TYPE_CHECKING:
    import pandas

#: The table that is no file: one row a run.
RUNS = "runs"
#: Stands before every table's own columns.
IDENTITY = pa.schema([("experiment", pa.string()), ("method", pa.string()), ("seed", pa.int32())])
#: Columns of RUNS after these.
RUN_COLUMNS = pa.schema(
    [
        ("credit", pa.string()),
        ("finished", pa.bool_()),
        ("tier", pa.string()),
        ("git_commit", pa.string()),
        ("experiment_hash", pa.string()),
        ("folder", pa.string()),
    ]
)


def frame(
    folder: str | os.PathLike[str], table: str = "steps", columns: Sequence[str] | None = None
) -> pandas.DataFrame:
    """A table of every run below `folder`, finished or not, as one pandas frame.

    table: "rollouts", "steps" or "samples", with the columns that docs/records.md explains; or "runs", one row a run.
    columns: only these of the table, in this order. `experiment`, `method` and `seed` come first in any case. Rows are
    ordered by method, seed and step.

    Raises RecordError for an unknown table or column, a folder without runs, and an unreadable file.
    """
    try:
        import pandas  # noqa: F401  to_pandas needs it
    except ImportError:
        raise RecordError("a frame needs pandas, which is not installed: pip install pandas") from None
    runs = load(folder)
    if table == RUNS:
        whole = pa.concat_tables([_identified(run, _of_run(run)) for run in runs])
        known = [name for name in whole.column_names if name not in IDENTITY.names]
        wanted = known if columns is None else list(columns)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise RecordError(f"table {RUNS} has no column {unknown[0]!r}; {hint(unknown[0], known)}")
        return whole.select([*IDENTITY.names, *wanted]).to_pandas()
    if table not in TABLES:
        raise RecordError(f"unknown table {table!r}; {hint(table, [*TABLES, RUNS])}")
    return pa.concat_tables([_identified(run, run.table(table, columns)) for run in runs]).to_pandas()


def _of_run(run: Run) -> pa.Table:
    manifest = run.manifest
    row: dict[str, Any] = {
        "credit": manifest.credit_name,
        "finished": run.finished,
        "tier": manifest.tier,
        "git_commit": manifest.git_commit,
        "experiment_hash": manifest.experiment_hash,
        "folder": str(run.folder),
    }
    return pa.Table.from_pylist([row], schema=RUN_COLUMNS)


def _identified(run: Run, rows: pa.Table) -> pa.Table:
    """The rows with the run's experiment, arm and seed before them."""
    values = (run.manifest.name, run.method, run.seed)
    for place, (entry, value) in enumerate(zip(IDENTITY, values, strict=True)):
        rows = rows.add_column(place, entry, pa.array([value] * rows.num_rows, entry.type))
    return rows
