"""Frames and their documentation: every value is where the page says, and the page's examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from recorded_runs import write_run

from leaderboards import compare, frame, load
from leaderboards.format import TABLES, RecordError
from leaderboards.frames import IDENTITY, RUN_COLUMNS

PAGE = Path(__file__).parents[2] / "docs" / "records.md"
EVALUATIONS = {0: [["wrong", "wrong"], ["correct", "wrong"]], 3: [["correct", "wrong"], ["correct", "error"]]}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        write_run(tmp_path, "uniform", seed, [0.25, 0.5, 0.25 * seed], EVALUATIONS)
        write_run(tmp_path, "flow", seed, [0.5, 0.75, 0.5], EVALUATIONS)
    write_run(tmp_path, "flow", 2, [0.5], finish=False)
    return tmp_path


def test_rows_say_which_run_they_come_from(runs: Path) -> None:
    steps = frame(runs, "steps")
    assert list(steps.columns) == ["experiment", "method", "seed", *TABLES["steps"].names]
    assert len(steps) == 4 * 3 + 1 and set(steps["experiment"]) == {"decision"}
    uniform = steps[(steps["method"] == "uniform") & (steps["seed"] == 1)]
    assert uniform["reward"].tolist() == [0.25, 0.5, 0.25]
    some = frame(runs, "rollouts", ["weights", "step"])
    assert list(some.columns) == ["experiment", "method", "seed", "weights", "step"]
    assert list(some["weights"][0]) == [1.0, 1.5]


def test_one_row_a_run(runs: Path) -> None:
    table = frame(runs, "runs")
    assert table[["method", "seed", "finished"]].values.tolist() == [
        ["flow", 0, True],
        ["flow", 1, True],
        ["flow", 2, False],
        ["uniform", 0, True],
        ["uniform", 1, True],
    ]
    assert set(table["credit"]) == {"flow", "uniform"} and set(table["tier"]) == {"T0"}
    assert list(frame(runs, "runs", ["tier"]).columns) == ["experiment", "method", "seed", "tier"]


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    write_run(tmp_path, "uniform", 0, [0.5])
    assert list(frame(tmp_path, "samples").columns)[3:] == TABLES["samples"].names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("step",), "unknown table 'step'; did you mean 'steps'?"),
        (("steps", ["rewards"]), "table steps has no column 'rewards'; did you mean 'reward'?"),
        (("runs", ["tiers"]), "table runs has no column 'tiers'; did you mean 'tier'?"),
    ],
)
def test_names_that_are_unknown(runs: Path, arguments: Any, words: str) -> None:
    with pytest.raises(RecordError, match=re.escape(words)):
        frame(runs, *arguments)


def sections() -> dict[str, str]:
    return {
        part.split("\n", 1)[0].strip(): part for part in re.split(r"^##? ", PAGE.read_text(), flags=re.M)[1:]
    }


def described(text: str) -> list[tuple[str, str]]:
    rows = re.findall(r"^\| ([a-z_]+) \| ([^|]+) \| [^|]+ \|$", text, flags=re.M)
    return [(name, kind.strip()) for name, kind in rows if name != "column"]


def declared(schema: pa.Schema) -> list[tuple[str, str]]:
    def kind(entry: pa.Field) -> str:
        words = str(entry.type).replace("list<item: ", "list<").replace("element: ", "")
        return words + (", may be null" if entry.nullable else "")

    return [(entry.name, kind(entry)) for entry in schema]


@pytest.mark.parametrize("table", [*TABLES, "runs", "Reading the records"])
def test_the_page_describes_every_column(table: str) -> None:
    """A column that is added, renamed or of another type must be described before it can be released."""
    free = {"runs": RUN_COLUMNS, "Reading the records": IDENTITY}
    never_null = [entry.with_nullable(False) for entry in free.get(table, ())]
    assert described(sections()[table]) == declared(pa.schema(never_null) if table in free else TABLES[table])


def test_the_examples_run_and_agree_with_the_leaderboard(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    assert len(examples) == 5
    names: dict[str, Any] = {}
    for example in examples:
        scope: dict[str, Any] = {"runs": str(runs)}
        exec(example, scope)
        names |= scope
    assert capsys.readouterr().out
    comparison = compare(load(runs))
    finished = names["differences"]["flow"].dropna().to_dict()
    assert finished == pytest.approx(comparison.arm("flow").differences)
    accuracies = comparison.arm("uniform").scores["final_accuracy"].values
    assert names["accuracy"]["uniform"].to_dict() == pytest.approx(accuracies)
    assert names["curves"].loc[1, "flow"] == 0.5
    assert names["weights"].idxmax() == 6 and set(names["seconds"].index) == {"flow", "uniform"}
