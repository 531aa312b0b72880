"""A file of finished rows that a stopped command goes on from."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import ExperimentError

#: Seconds between two times that a file is forced to the disk: what a power cut can cost.
SYNC_SECONDS = 1.0


def whole_lines(content: bytes) -> list[bytes]:
    """The lines of a file with their ends, without a last one that was cut off as it was written."""
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)


def _line(row: Mapping[str, Any]) -> bytes:
    """A row as it stands in a file."""
    return json.dumps(row).encode() + b"\n"


class Journal:
    """Rows of finished work, samples of an evaluation for one; in a file, one JSON line each, where a `path` is given.

    The file begins with `identity`, what the rows are rows of: the same policy, task and options go on in it, others
    are refused. Lines are only added, each as soon as its row is there: a process that is killed loses the line that it
    was writing and no other. A line that was cut off is dropped.

    names: the fields that name a row, whose values are its key in `rows`. needs: further fields that every row has.
    what: the word for a row in errors.

    Raises ExperimentError for a file of something else, that cannot be read or written, or that another process uses.
    """

    def __init__(
        self,
        path: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        names: Sequence[str] = ("problem_id", "sample"),
        needs: Sequence[str] = ("text", "reward"),
        what: str = "sample",
    ) -> None:
        self.path, self.rows = path, dict[tuple[Any, ...], dict[str, Any]]()
        self.names, self.needs, self.what = names, needs, what
        self.lock, self.synced, self.file = threading.Lock(), 0.0, None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("ab+")
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.file.seek(0)
            content = self.file.read()
        except BlockingIOError:
            raise ExperimentError(
                f"{path} is in use by another command: wait for it, or take another file"
            ) from None
        except OSError as error:
            raise ExperimentError(f"{path} cannot be used: {error.strerror}; take another file") from None
        written, first = whole_lines(content), _line(identity or {})
        if not written and not first.startswith(content):
            raise ExperimentError(f"{path} holds something else than {what}s: take another file")
        lines = [self._read(line, number) for number, line in enumerate(written, start=1)]
        if lines:
            self._check(lines[0], json.loads(first))
        # Only now: the last line of a file of something else is not ours to drop.
        self.file.truncate(sum(map(len, written)))
        if not lines:
            self._write(dict(identity or {}))
            return
        self.rows = {self.key(row): row for row in lines[1:]}

    def _check(self, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Raises ExperimentError where the file's identity is not the wanted one."""
        for name in sorted({*there, *wanted}):
            if there.get(name) != wanted.get(name):
                raise ExperimentError(
                    f"{self.path} holds {self.what}s with {name} {json.dumps(there.get(name))}, "
                    f"not {json.dumps(wanted.get(name))}: take another file"
                )

    def key(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """The row's key in `rows`."""
        return tuple(row[name] for name in self.names)

    def add(self, row: dict[str, Any]) -> None:
        """Adds a finished row."""
        with self.lock:
            self.rows[self.key(row)] = row
            self._write(row)

    def close(self) -> None:
        """Forces what was added to the disk. Further rows stay in memory."""
        with self.lock:
            if self.file is not None:
                os.fsync(self.file.fileno())
                self.file.close()
            self.file = None

    def _write(self, row: dict[str, Any]) -> None:
        if self.file is None:
            return
        self.file.write(_line(row))
        self.file.flush()
        if time.monotonic() - self.synced > SYNC_SECONDS:
            os.fsync(self.file.fileno())
            self.synced = time.monotonic()

    def _read(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
            if number > 1:
                for name in (*self.names, *self.needs):
                    row[name]
            return dict(row)
        except (ValueError, KeyError, TypeError):
            raise ExperimentError(
                f"{self.path}: line {number} is no {self.what}; remove that line, or take another file"
            ) from None
