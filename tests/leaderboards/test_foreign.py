"""Runs made elsewhere: the same statistics as for our own, marked as what they are, and bad files in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import write_run

from leaderboards import RecordError, compare, load, read_csv, report, terminal

GOOD = "method,seed,accuracy\nuniform,0,0.5\nflow,0,0.6\nuniform,1,0.4\nflow,1,0.55\n"


def written(folder: Path, text: str) -> Path:
    file = folder / "results.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_same_numbers_as_of_recorded_runs(tmp_path: Path) -> None:
    """A recorded sweep that is written down as a CSV file comes out the same in every number that decides."""
    lines = ["method,seed,step,problem,share"]
    shares = {"wrong": 0, "correct": 1}
    for method, gain in (("uniform", 0), ("flow", 1), ("random", 0)):
        for seed in range(4):
            verdicts = [["correct" if (seed + p) % 3 < gain + (p < 2) else "wrong"] for p in range(6)]
            write_run(tmp_path / "runs", method, seed, [0.5], {0: [["wrong"]] * 6, 1: verdicts})
            for step, rows in ((0, [["wrong"]] * 6), (1, verdicts)):
                lines += [f"{method},{seed},{step},{p},{shares[row[0]]}" for p, row in enumerate(rows)]
    recorded = load(tmp_path / "runs")
    for run in recorded:
        run.manifest.experiment["declaration"]["metric"] = "evaluation_area"
    ours = compare(recorded)
    theirs = compare(read_csv(written(tmp_path, "\n".join(lines)), 0.02, "evaluation_area"))
    for arm in ours.arms:
        other = theirs.arm(arm.label)
        assert (other.differences, other.p_holm, other.outcome) == (arm.differences, arm.p_holm, arm.outcome)
        assert (other.rank, other.crossed_interval) == (arm.rank, arm.crossed_interval)


def test_they_are_marked_as_made_elsewhere(tmp_path: Path) -> None:
    runs = read_csv(written(tmp_path, GOOD), 0.01)
    comparison = compare(runs)
    assert comparison.foreign and comparison.tier == "unknown"
    assert any(note.startswith("made elsewhere") for note in comparison.notes)
    facts = dict(terminal.provenance(comparison, runs))
    assert facts["tier"].startswith("unknown: made elsewhere") and facts["estimand"] == "not declared"
    assert "declared" not in facts and "training in all" not in facts["runs"]
    assert comparison.arm("flow").differences == pytest.approx({0: 0.1, 1: 0.15})


@pytest.mark.parametrize("metric", ["final_accuracy", "evaluation_area", "training_reward_area"])
def test_every_page_shows_them(tmp_path: Path, metric: str) -> None:
    head, *rows = GOOD.splitlines()
    text = "\n".join(
        [f"{head},step,task", *(f"{row},{step},{task}" for row in rows for step in (1, 2) for task in "ab")]
    )
    runs = read_csv(written(tmp_path, text), 0.01, metric)
    comparison = compare(runs)
    assert comparison.arm("flow").difference == pytest.approx(0.125)
    for write in (report.to_json, report.to_csv, report.to_markdown, report.to_html):
        assert "flow" in write(comparison, runs)
    assert "column accuracy" in report.to_markdown(comparison, runs)


def test_means_over_problems_then_over_tasks(tmp_path: Path) -> None:
    """Tasks count alike, whatever their size."""
    text = "seed,method,task,problem,value\n"
    for method, easy in (("uniform", 0.5), ("flow", 1.0)):
        text += (
            "".join(f"0,{method},easy,{problem},{easy}\n" for problem in range(3)) + f"0,{method},hard,0,0\n"
        )
    (flow, uniform) = read_csv(written(tmp_path, text), 0.01)
    assert flow.scores().metrics == {"final_accuracy": 0.5} and uniform.scores().metrics == {
        "final_accuracy": 0.25
    }
    assert flow.scores().tasks == {"easy": 1.0, "hard": 0.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no values"),
        ("method,seed,accuracy\n", "holds no values"),
        ("method,accuracy\nflow,1\n", "has no column 'seed'; it has method, accuracy"),
        ("method,seed\nflow,1\n", "and there is none"),
        ("method,seed,a,b\nflow,0,1,2\n", "a, b are 2: choose one with --column"),
        ("method,seed,seed,a\nflow,0,0,1\n", "two columns are called 'seed'"),
        (GOOD + "flow,2\n", "line 6: has 2 cells, and the first line 3"),
        (GOOD + "flow,2,nan\n", "line 6: accuracy is 'nan'; it must be a finite number"),
        (GOOD + "flow,2,\n", "line 6: accuracy is ''"),
        (GOOD + "flow,x,0.5\n", "line 6: seed is 'x'; it is a whole number"),
        (GOOD + f"flow,{'9' * 5000},0.5\n", "0 or more, of at most 18 digits"),
        (GOOD + ",2,0.5\n", "line 6: has no method"),
        (GOOD + "flow,1,0.5\n", "line 6: a second value for flow seed 1"),
        (GOOD + "flow,2,0.5\n", "flow has seed 2 and uniform has not: differences are paired by seed"),
        (GOOD + "uniform,7,0.5\n", "uniform has seed 7 and flow has not"),
        (
            GOOD.replace("uniform", "unifrom"),
            "has no method 'uniform' to compare with; did you mean 'unifrom'?",
        ),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(RecordError, match=re.escape(words)) as caught:
        read_csv(file, 0.01)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.0,), "declaration.smallest_difference must be positive"),
        ((0.1, "loss"), "declaration.metric must be one of"),
        ((0.1, "evaluation_area"), "and there is one step: give a column step, or another metric"),
        ((0.1, "final_accuracy", 0.05, "acuracy"), "no column of values 'acuracy'; did you mean 'accuracy'?"),
    ],
)
def test_rules_that_cannot_be_followed(tmp_path: Path, arguments: Any, words: str) -> None:
    with pytest.raises(RecordError, match=re.escape(words)):
        read_csv(written(tmp_path, GOOD), *arguments)


def test_files_that_are_no_csv(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="absent.csv: cannot be read: No such file"):
        read_csv(tmp_path / "absent.csv", 0.01)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00m")
    with pytest.raises(RecordError, match="cannot be read as CSV"):
        read_csv(tmp_path / "binary.csv", 0.01)


def test_other_problems_on_a_seed_cannot_be_compared(tmp_path: Path) -> None:
    text = "method,seed,problem,value\nuniform,0,a,1\nflow,0,b,1\n"
    with pytest.raises(RecordError, match="its problems are not those of") as caught:
        compare(read_csv(written(tmp_path, text), 0.01))
    assert "results.csv, flow seed 0" in str(caught.value)


def test_what_spreadsheets_write_is_read(tmp_path: Path) -> None:
    text = "\ufeff" + GOOD.replace("\n", "\r\n").replace("flow", ' "flow"'.strip()) + "\r\n"
    assert len(read_csv(written(tmp_path, text), 0.01)) == 4


def test_runs_of_other_steps_are_named(tmp_path: Path) -> None:
    """Nothing can be removed and run again here: the line says which step stands where."""
    text = "method,seed,step,accuracy\nuniform,0,0,0.1\nuniform,0,100,0.5\nflow,0,0,0.1\nflow,0,50,0.6\n"
    words = "flow seed 0 has step 50 and uniform seed 0 has not: every run needs the same steps"
    with pytest.raises(RecordError, match=words):
        read_csv(written(tmp_path, text), 0.01)
