"""Journals: a file that a stopped command goes on from; whatever else a user names by mistake stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ExperimentError
from harness.journal import Journal

IDENTITY = {"task": "sums", "temperature": 1.0}
ROW = {"problem_id": "a", "sample": 0, "text": "2", "reward": 1.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"results": [1, 2, 3]}', "holds something else than samples: take another file"),
        (b"\x89PNG without an end of a line", "holds something else than samples: take another file"),
        (b"a thesis\nand its last line", "line 1 is no sample"),
        (b'{"task": "sums"}\n{"half": ', "holds samples with temperature null, not 1.0"),
    ],
)
def test_a_file_of_something_else_is_refused_and_not_touched(
    content: bytes, message: str, tmp_path: Path
) -> None:
    """Its last line may have no end: that was taken for a row that had been cut off, and dropped."""
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(ExperimentError, match=message):
        Journal(path, IDENTITY)
    assert path.read_bytes() == content


def test_a_file_that_was_cut_off_anywhere_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    journal = Journal(path, IDENTITY)
    journal.add(ROW)
    journal.close()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        journal = Journal(path, IDENTITY)
        assert journal.rows == {}
        journal.add(ROW)
        journal.close()
        assert path.read_bytes() == whole
