"""The pages of `gpu.py`, from whatever its steps left in a folder: gpu.md and .json, floor.md and .json.

What no step measured stands there as "unmeasured". A rehearsal's figures are marked, and floor.md leaves them out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attention_only
import credit
import floor
import memory
import training_step
import triton_kernels
from gpu_plan import DONE, STEPS, WAITING
from records import read
from report import Report, Row, Table, figure, made_here, spread

UNMEASURED = "unmeasured"
#: Shapes of `floor` by the names that the steps give them.
FLOOR_NAMES = {
    "Qwen/Qwen3-4B-Base": "Qwen3-4B",
    "Qwen/Qwen3-8B-Base": "Qwen3-8B",
}
Columns = Mapping[str, Callable[[Row], str]]


def write(out: Path) -> None:
    """Writes the pages into `out`."""
    records = {step.name: read(step.name, out) for step in STEPS}
    states = _states(out)
    measured_on = next((record["made_on"] for record in records.values() if record), None) or made_here()
    tables = [Table(_STATE_COLUMNS, [_state(step, states, records) for step in STEPS])]
    for name, part, columns in _TABLES:
        tables.append(_table(name, part, columns, records[name]))
    text = [
        "What a step did not measure stands here as unmeasured. On a machine with a GPU `python benchmarks/gpu.py "
        "--minutes 12 --out FOLDER` measures all of it; the same command with the same folder goes "
        "on where one was cut.",
        *(
            f"{name} failed: {' / '.join(state['traceback'][-3:])}"
            for name, state in states.items()
            if "traceback" in state
        ),
    ]
    if any(record.get("rehearsed") for record in records.values()):
        text.insert(0, "A rehearsal with tiny shapes: no figures to keep.")
    command = next((state["command"] for state in states.values() if "command" in state), _COMMAND)
    Report("gpu", "What only a GPU can say", text, tables, made_on=measured_on).write(out, command)
    floor.report(_for_floor(records)).write(out, command)


_COMMAND = "python benchmarks/gpu.py --minutes 12 --out FOLDER"


def _states(out: Path) -> dict[str, Any]:
    path = out / "steps.json"
    states: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return states


def _state(step: Any, states: Mapping[str, Any], records: Mapping[str, Row]) -> Row:
    state = states.get(step.name, {"status": WAITING})
    on = records[step.name].get("made_on", {}).get("hardware", {})
    return {"step": step.name, "settles": step.settles, "card": on.get("gpu"), **state}


def _table(name: str, part: str, columns: Columns, record: Row) -> Table:
    """A part's rows, or one row that says that it is not measured. part "*": the rows of all parts."""
    parts = record.get("parts", {})
    rows = [row for key, each in parts.items() if part in ("*", key) for row in each]
    if rows:
        return Table(dict(columns), rows)
    first, *others = columns
    shown: dict[str, Callable[[Row], str]] = {first: lambda row: row["part"]}
    shown |= {header: lambda row: UNMEASURED for header in others}
    return Table(shown, [{"part": f"{name}, {part}".removesuffix(", *")}])


def _for_floor(records: Mapping[str, Row]) -> dict[tuple[str, int, str], float]:
    """Measured seconds by (shape, tokens, part), and credit's share of a step."""
    result: dict[tuple[str, int, str], float] = {}
    for name, step in (("attention", "part"), ("credit", "method")):
        record = records[name]
        if not record or record["rehearsed"]:
            continue
        for row in (row for rows in record["parts"].values() for row in rows):
            shape = FLOOR_NAMES.get(row.get("policy", ""))
            if shape is None or row.get(step) is None:
                continue
            if step == "part":
                result[shape, row["tokens"], row["part"]] = row["seconds"]["median"]
            elif row["method"] == credit.CREDIT and "of_step" in row:
                result[shape, row["tokens"], "share"] = row["of_step"]
    return result


_STATE_COLUMNS: Columns = {
    "step": lambda row: row["step"],
    "settles": lambda row: row["settles"],
    "status": lambda row: (
        row["status"] if row["status"] == DONE else f"{row['status']}: {row.get('why', UNMEASURED)}"
    ),
    "seconds": lambda row: figure(row.get("seconds")),
    "card": lambda row: row["card"] or "–",
}
_TILE_COLUMNS: Columns = {
    "tile": lambda row: row["tile"],
    "seconds (quartiles)": lambda row: row.get("note") or spread(row, "seconds"),
}
_RUN_COLUMNS: Columns = {
    "table of two equal runs": lambda row: row["table"],
    "steps": lambda row: str(row["steps"]),
    "first step that differs": lambda row: (
        "none" if row["first_difference"] is None else str(row["first_difference"])
    ),
}
_REPLAY_COLUMNS: Columns = {
    "replay of": lambda row: row["experiment"],
    "batches": lambda row: str(row["batches"]),
    "responses with token values": lambda row: str(row["valued"]),
    "continuations": lambda row: str(row["continuations"]),
    "seconds": lambda row: figure(row["seconds"]),
    "files": lambda row: ", ".join(row["files"]),
}
_TEST_COLUMNS: Columns = {
    "tests marked gpu": lambda row: "passed" if row["status"] == 0 else "failed",
    "they said": lambda row: " ".join(row["said"]),
}
_TABLES: list[tuple[str, str, Columns]] = [
    ("kernels", "errors", triton_kernels.ERROR_COLUMNS),
    ("kernels", "tests", _TEST_COLUMNS),
    ("credit", "*", {"policy": lambda row: row["policy"], **credit.COLUMNS}),
    ("attention", "parts", attention_only.COLUMNS),
    ("attention", "tiles", _TILE_COLUMNS),
    ("repeat", "tables", _RUN_COLUMNS),
    ("step", "decision", training_step.COLUMNS),
    ("step", "smollm2", training_step.COLUMNS),
    ("small", "variants", memory.COLUMNS),
    ("compile", "resources", triton_kernels.COLUMNS),
    ("replay", "replays", _REPLAY_COLUMNS),
]
