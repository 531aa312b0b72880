"""Where published problems come from: a folder of JSON lines, or the hub at a pinned revision; broken data
is refused.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.problem import Problem, Task
from tasks.verdict import TaskError

#: Largest share of items whose golds may be unreadable: published sets have a few such, a wrong file only such.
UNREADABLE = 0.005
#: Name of the environment variable that names a folder of offline data sets.
FOLDER_VARIABLE = "FLOWTRACER_DATA"


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub, at one revision. Several configurations, joined by commas, are
    read in turn.
    """

    name: str
    revision: str
    config: str | None = None

    def load_command(self) -> str:
        """The shell command that fetches this data set into the hub's cache."""
        calls = []
        for config in self.configs():
            named = f"'{config}', " if config else ""
            calls.append(f"datasets.load_dataset('{self.name}', {named}revision='{self.revision}')")
        return 'python -c "import datasets; ' + "; ".join(calls) + '"'

    def configs(self) -> Sequence[str | None]:
        """The configurations to read, in order; the data set's only one is None."""
        return self.config.split(",") if self.config else [None]


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


def load(
    task: Task,
    split: str,
    file: str,
    hub: Hub,
    question: str | Callable[[Row], str],
    gold: str | Callable[[Row], Any],
    hub_split: str | None = None,
    repeated: bool = False,
) -> list[Problem]:
    """The problems of one split, from `file` in the folder that FLOWTRACER_DATA names, else from the hub.

    `question` and `gold` are field names, or functions of a row; a gold goes through the task's
    `problem_from`, so that a folder and the hub give the same problems. Two items with the same question are
    an error, or, where the published data is `repeated`, one item: the first.

    An item whose gold states no answer (an empty box in a published solution) is left out and noted in
    `task.unreadable`, if there are few of them.

    Raises TaskError for a folder or file that is missing, data that cannot be fetched, and, with the place
    of the item, for what cannot be read in it. All items are read, whatever part of them is wanted.
    """
    asked = question if callable(question) else _field(question)
    answered = gold if callable(gold) else lambda row: row[gold]
    problems: dict[str, tuple[Problem, Row]] = {}
    unreadable: list[tuple[str, str]] = []
    for row in rows(task.name, hub_split or split, file, hub):
        text = asked(row)
        if text in problems:
            if repeated:
                continue
            raise TaskError(
                f"{row.place}: the question repeats that of {problems[text][1].place}; remove one"
            )
        published = answered(row)
        try:
            problem = task.problem_from(text, published)
        except TaskError as error:
            reason = str(error).removeprefix(f"task {task.name}: ")
            where = f"field {gold!r}: " if isinstance(gold, str) else ""
            unreadable.append((f"{task.name}/{split}/{row.index}", f"{row.place}: {where}{reason}"))
            continue
        problems[text] = (Problem(f"{task.name}/{split}/{row.index}", text, problem.gold), row)
    if len(unreadable) > UNREADABLE * (len(problems) + len(unreadable)):
        raise TaskError(unreadable[0][1])
    others = [
        (item, reason) for item, reason in task.unreadable if not item.startswith(f"{task.name}/{split}/")
    ]
    task.unreadable = [*others, *unreadable]
    return [problem for problem, _ in problems.values()]


def _field(name: str) -> Callable[[Row], str]:
    return lambda row: row.text(name)


def rows(task: str, split: str, file: str, hub: Hub | None) -> Iterator[Row]:
    """All rows of one split, from the folder or from the hub, as `load` does."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        path = Path(folder) / file
        if path.is_file():
            return read_json_lines(path)
        if not Path(folder).is_dir():
            raise TaskError(f"task {task}: {FOLDER_VARIABLE} names {folder}, which is not a folder")
        raise TaskError(f"task {task}: there is no {file} in {folder} ({FOLDER_VARIABLE})")
    if hub is None:
        raise TaskError(f"task {task}: set {FOLDER_VARIABLE} to a folder that holds {file}")
    return _hub_rows(task, split, file, hub)


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
        parts = [
            datasets.load_dataset(hub.name, config, split=split, revision=hub.revision)
            for config in hub.configs()
        ]
    except Exception as error:
        # The hub's client raises dozens of classes, and all of them mean this one thing.
        raise TaskError(
            f"task {task}: cannot load {hub.name} ({type(error).__name__}); set {FOLDER_VARIABLE} to a folder "
            f"that holds {file}, or fetch it where the hub can be reached: {hub.load_command()}"
        ) from None
    for index, fields in enumerate(fields for part in parts for fields in part):
        yield Row(index, dict(fields), f"{hub.name} {split} row {index}")


_WORD = re.compile(r"[^\W_]+")
#: Words in a run, and the share of a test question's runs that makes a training question contain it.
RUN, SHARE = 13, 0.75


def words(text: str) -> tuple[str, ...]:
    """A text's words and numbers in lower case, without punctuation, LaTeX's braces and blanks."""
    return tuple(_WORD.findall(text.lower()))


def without_overlap(
    train: Sequence[Problem], *tests: Sequence[Problem]
) -> tuple[list[Problem], list[tuple[str, str]]]:
    """The training problems that no test set contains, and the pairs (training id, test id) that were
    removed.

    Contained: the same words in the same order, or, from 13 words on, at least three quarters of the test
    question's runs of 13 words. A single shared run is no overlap: competition questions share whole sentences of
    instructions.
    """
    same: dict[tuple[str, ...], str] = {}
    runs: dict[tuple[str, ...], set[str]] = {}
    counts: dict[str, int] = {}
    for problem in (problem for test in tests for problem in test):
        text = words(problem.question)
        same.setdefault(text, problem.id)
        runs_of_text = {text[start : start + RUN] for start in range(len(text) - RUN + 1)}
        counts[problem.id] = len(runs_of_text)
        for run in runs_of_text:
            runs.setdefault(run, set()).add(problem.id)
    clean, removed = [], []
    for problem in train:
        text = words(problem.question)
        match = same.get(text)
        if match is None:
            shared: Counter[str] = Counter()
            for run in {text[start : start + RUN] for start in range(len(text) - RUN + 1)}:
                shared.update(runs.get(run, ()))
            match = next(
                (test for test, number in shared.most_common(1) if number >= SHARE * counts[test]), None
            )
        if match is None:
            clean.append(problem)
        else:
            removed.append((problem.id, match))
    return clean, removed
