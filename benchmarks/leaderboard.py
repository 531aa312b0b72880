"""Seconds until a leaderboard stands: folders of finished runs, up to one million rollouts, by the command line."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
import pyarrow as pa
from report import Report, Row, Table, figure, spread

from leaderboards import Manifest, format, writer
from leaderboards.manifest import BITWISE

STEPS, ROLLOUTS, TOKENS, PROMPT = 200, 32, 16, 8
EVERY, PROBLEMS, SAMPLES = 50, 64, 4
#: Methods and seeds of each folder; the last holds 1,024,000 rollouts.
SIZES = ((5, 8), (16, 10))
EXPERIMENT = {
    "name": "many",
    "title": "many runs",
    "declaration": {"metric": "training_reward_area", "smallest_difference": 0.01, "alpha": 0.05},
    "policy": {"name": "made up"},
    "task": {"name": "decision"},
    "training": {"steps": STEPS},
    "seeds": 10,
}


def _column(entry: pa.Field, rows: int, source: np.random.Generator) -> pa.Array:
    """Made-up values of a column, of the sizes that a sweep on a testbed has."""
    kind = entry.type
    if pa.types.is_list(kind):
        size = PROMPT if entry.name == "prompt_ids" else TOKENS
        flat = (
            source.integers(0, 30, rows * size)
            if kind.value_type == pa.int32()
            else source.random(rows * size)
        )
        offsets = pa.array(np.arange(rows + 1) * size, pa.int32())
        return pa.ListArray.from_arrays(offsets, pa.array(flat).cast(kind.value_type)).cast(kind)
    if pa.types.is_string(kind):
        letters = source.integers(97, 105, (rows, TOKENS), dtype=np.uint8)
        return pa.array([bytes(row).decode() for row in letters], kind)
    values = source.random(rows) if pa.types.is_floating(kind) else source.integers(0, 8, rows)
    return pa.array(values).cast(kind)


def _table(name: str, steps: np.ndarray, source: np.random.Generator, **columns: list) -> pa.Table:
    schema = format.TABLES[name]
    known = {"step": pa.array(steps, pa.int32()), **{key: pa.array(value) for key, value in columns.items()}}
    return pa.table(
        [
            known[entry.name].cast(entry.type) if entry.name in known else _column(entry, len(steps), source)
            for entry in schema
        ],
        schema=schema,
    )


def make(root: Path, methods: int, seeds: int, steps: int = STEPS) -> int:
    """Finished runs of `methods` x `seeds`, compacted as `RunWriter.finish` does it; gives the number of rollouts."""
    labels = ["uniform", *(f"method_{number}" for number in range(1, methods))]
    experiment = {**EXPERIMENT, "methods": {label: {"credit": label} for label in labels}}
    asked = [(problem, sample) for problem in range(PROBLEMS) for sample in range(SAMPLES)]
    evaluations = range(0, steps + 1, EVERY)
    for number, label in enumerate(labels):
        for seed in range(seeds):
            source = np.random.default_rng([number, seed])
            verdicts = source.choice(["correct", "wrong"], len(asked) * len(evaluations)).tolist()
            tables = {
                "rollouts": _table("rollouts", np.repeat(np.arange(steps), ROLLOUTS), source),
                "steps": _table("steps", np.arange(steps), source),
                "samples": _table(
                    "samples",
                    np.repeat(np.array(evaluations), len(asked)),
                    source,
                    task=["decision"] * len(verdicts),
                    problem_id=[f"decision/test/{problem}" for problem, _ in asked] * len(evaluations),
                    sample=[sample for _, sample in asked] * len(evaluations),
                    key=[f"{problem:08x}{sample:08x}" for problem, sample in asked] * len(evaluations),
                    verdict=verdicts,
                ),
            }
            folder = root / label / f"seed-{seed:04d}"
            folder.mkdir(parents=True)
            for name, table in tables.items():
                writer.compact(folder / f"{name}.parquet", table.schema, [table], {})
            manifest = Manifest(experiment, "made up", label, seed, {}, {}, "", BITWISE).to_json()
            closing = {"content_hash": dict.fromkeys(tables, f"{label} {seed}"), "summary": {}}
            for file, value in (("manifest", manifest), ("finished", closing)):
                text = json.dumps({**value, "schema_version": format.SCHEMA_VERSION})
                (folder / f"{file}.json").write_text(text)
    return methods * seeds * steps * ROLLOUTS


def _command(*arguments: object) -> tuple[float, float]:
    """Seconds of one call of the command line from start to end, and those that the processor worked on it."""
    command = [sys.executable, "-m", "harness.cli", *map(str, arguments)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = measure.clock(lambda: subprocess.run(command, check=True, capture_output=True))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def run(settings: measure.Settings) -> Report:
    """The table on the terminal, and the page, of each folder."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        for methods, seeds in ((2, 2),) if settings.smoke else SIZES:
            folder = Path(place) / f"{methods}x{seeds}"
            measure.progress(f"leaderboard: {methods} methods x {seeds} seeds")
            rollouts = make(folder, methods, seeds, 10 if settings.smoke else STEPS)
            size = sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 1e6
            for what, more in (("table", ()), ("page", ("--export", Path(place) / "page.html"))):
                if not settings.smoke:
                    _command("leaderboard", folder, *more)  # the first reads the disk
                calls = [_command("leaderboard", folder, *more) for _ in range(settings.repeats)]
                rows.append(
                    {
                        "what": what,
                        "rollouts": rollouts,
                        "runs": methods * seeds,
                        "megabytes": size,
                        "seconds": measure.quartiles([seconds for seconds, _ in calls]),
                        "processor": measure.quartiles([processor for _, processor in calls]),
                    }
                )
    text = [
        "Wall-clock of `flowtracer leaderboard FOLDER` and of `--export page.html`, imports included: median and "
        f"quartiles of {settings.repeats} calls, the folder in the system's cache; of the processor: its own time for "
        "them, which other work on the machine does not lengthen. Runs are made up, of the sizes of a sweep on "
        f"a testbed: {STEPS} steps of {ROLLOUTS} rollouts, {PROBLEMS} x {SAMPLES} samples an evaluation.",
    ]
    return Report("leaderboard", "Opening a leaderboard", text, [Table(COLUMNS, rows)])


COLUMNS = {
    "what": lambda row: row["what"],
    "rollouts": lambda row: f"{row['rollouts']:,}",
    "runs": lambda row: str(row["runs"]),
    "MB on disk": lambda row: figure(row["megabytes"]),
    "seconds (quartiles)": lambda row: spread(row, "seconds"),
    "of the processor": lambda row: spread(row, "processor"),
}
