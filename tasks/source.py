"""Where published problems come from: a folder of JSON lines, or the hub at a pinned revision; broken data
is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.problem import TaskError

#: Name of the environment variable that names a folder of offline data sets.
FOLDER_VARIABLE = "FLOWTRACER_DATA"


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub, at one revision."""

    name: str
    revision: str
    config: str | None = None

    def load_command(self) -> str:
        """The shell command that fetches this data set into the hub's cache."""
        config = f"'{self.config}', " if self.config else ""
        call = f"datasets.load_dataset('{self.name}', {config}revision='{self.revision}')"
        return f'python -c "import datasets; {call}"'


@dataclass(frozen=True)
class Row:
    """One item as published, and where it stands, for error messages."""

    index: int
    fields: dict[str, Any]
    place: str

    def text(self, field: str) -> str:
        """The non-empty string in `field`; TaskError otherwise."""
        value = self[field]
        if not isinstance(value, str) or not value.strip():
            raise TaskError(
                f"{self.place}: field {field!r} must be a text that is not empty, not {value!r:.60}"
            )
        return value

    def __getitem__(self, field: str) -> Any:
        if field not in self.fields:
            known = ", ".join(self.fields)
            raise TaskError(f"{self.place}: field {field!r} is missing; it has: {known:.200}")
        return self.fields[field]


def rows(task: str, split: str, file: str, hub: Hub | None) -> list[Row]:
    """All rows of one split: from `file` in the folder that FLOWTRACER_DATA names, else from the hub.

    Raises TaskError for a folder or file that is missing, a line that is broken, and data that cannot be
    fetched.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        path = Path(folder) / file
        if path.is_file():
            return list(read_json_lines(path))
        if not Path(folder).is_dir():
            raise TaskError(f"task {task}: {FOLDER_VARIABLE} names {folder}, which is not a folder")
        raise TaskError(f"task {task}: there is no {file} in {folder} ({FOLDER_VARIABLE})")
    if hub is None:
        raise TaskError(f"task {task}: set {FOLDER_VARIABLE} to a folder that holds {file}")
    return list(_hub_rows(task, split, file, hub))


def read_json_lines(path: Path) -> Iterator[Row]:
    """The rows of a JSON-lines file, one object a line, UTF-8. Raises TaskError with file and line."""
    index = 0
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        place = f"{path} line {number}"
        if not line.strip():
            continue
        try:
            fields = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise TaskError(
                f"{place}: not UTF-8 (byte {error.start}: {error.reason}); save the file as UTF-8"
            ) from None
        except (ValueError, RecursionError) as error:
            reason = str(error).split("\n")[0]
            raise TaskError(f"{place}: not a JSON object ({reason})") from None
        if not isinstance(fields, dict):
            raise TaskError(f"{place}: not a JSON object but {type(fields).__name__}")
        yield Row(index, fields, place)
        index += 1
    if index == 0:
        raise TaskError(f"{path}: holds no items")


def _hub_rows(task: str, split: str, file: str, hub: Hub) -> Iterator[Row]:
    try:
        import datasets

        datasets.utils.logging.set_verbosity_error()
        items = datasets.load_dataset(hub.name, hub.config, split=split, revision=hub.revision)
    except Exception as error:
        # The hub's client raises dozens of classes, and all of them mean this one thing.
        raise TaskError(
            f"task {task}: cannot load {hub.name} ({type(error).__name__}); set {FOLDER_VARIABLE} to a folder "
            f"that holds {file}, or fetch it where the hub can be reached: {hub.load_command()}"
        ) from None
    for index, fields in enumerate(items):
        yield Row(index, dict(fields), f"{hub.name} {split} row {index}")


def unique(task: str, found: list[Row], field: str) -> None:
    """Raises TaskError if two rows have the same value in `field`."""
    seen: dict[Any, Row] = {}
    for row in found:
        value = row[field]
        if value in seen:
            raise TaskError(
                f"{row.place}: field {field!r} repeats that of {seen[value].place}; remove one of them"
            )
        seen[value] = row
