"""The leaderboard as it is printed: readable at 80 columns, complete, and the same numbers in every export."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import EXPERIMENT, manifest, sample_rows, step_row, write_run
from rich.console import Console

from leaderboards import Comparison, Run, RunWriter, arranged, compare, estimates, load, report, terminal

METHODS = ("uniform", "flow", "oracle_mask")
EVALUATION = {0: [["wrong", "wrong"]], 2: [["correct", "truncated"]]}


@pytest.fixture(autouse=True, scope="module")
def no_sync() -> Iterator[None]:
    """Power cuts are the business of the records' own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, list[Run]]:
    """Three seeds of three methods."""
    return sweep(tmp_path_factory.mktemp("few"), 3)


def sweep(
    root: Path, seeds: int = 8, methods: Sequence[str] = METHODS, most: int = 8, **declaration: Any
) -> tuple[Comparison, list[Run]]:
    """A sweep in which each method gains 0.02 more than the one before, with seeds that differ."""
    experiment = copy.deepcopy(EXPERIMENT)
    experiment["methods"] = {method: {"credit": method} for method in methods}
    experiment["declaration"] |= declaration
    experiment["seeds"] = most
    for index, method in enumerate(methods):
        for seed in range(seeds):
            reward = 0.3 + 0.01 * seed + 0.02 * index + 0.004 * index * math.sin(seed)
            write_run(root, method, seed, [reward, reward], EVALUATION, experiment=experiment)
    runs = load(root)
    return compare(runs), runs


def printed(comparison: Comparison, runs: Sequence[Run], width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal.render(comparison, runs, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def body(lines: Sequence[str], title: str) -> list[str]:
    """The lines of one table, without its title and its head."""
    start = next(index for index, line in enumerate(lines) if line.startswith(title))
    rest = list(lines[start + 3 :])
    return rest[: next((index for index, line in enumerate(rest) if not line.strip()), len(rest))]


@pytest.mark.parametrize("seeds", [1, 3, 10])
@pytest.mark.parametrize("methods", [METHODS, ("uniform", "flow_positive_mean_one", "oracle_mask")])
def test_eighty_columns_are_enough(tmp_path: Path, seeds: int, methods: Sequence[str]) -> None:
    comparison, runs = sweep(tmp_path, seeds, methods)
    lines = printed(comparison, runs)
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    for title in ("Ranking", "Levels", "Strength", "Verdicts", "During training", "Cost"):
        rows = body(lines, title)
        found = [line.split()[0] for line in rows if line.split()[0] in methods]
        assert found == [arm.label for arm in comparison.arms if title != "Strength" or arm.differences]


def test_what_a_large_policy_does_not_measure_is_no_number(tmp_path: Path) -> None:
    comparison, runs = sweep(tmp_path, 2)
    for arm in comparison.arms:
        arm.training["distance_from_start"] = math.nan
    rows = body(printed(comparison, runs, 100), "During training")
    assert [line.split()[-1] for line in rows[: len(comparison.arms)]] == ["-"] * len(comparison.arms)


def test_a_turn_that_was_measured_stands_beside_the_outcome(
    tmp_path: Path, few: tuple[Comparison, list[Run]]
) -> None:
    """Mean over the steps and seeds that have one; an arm without any has none. Unmeasured there is no column.

    With a long label the table has two parts, each of 80 columns at most.
    """
    long = "flow_positive_mean_one"
    experiment = {
        **EXPERIMENT,
        "methods": {label: {"credit": label} for label in ("uniform", "random", long)},
    }
    for seed in range(3):
        for label, turns in (
            ("uniform", (0.0, None)),
            ("random", (0.25, 0.75) if seed else (None, None)),
            (long, ()),
        ):
            rewards = [0.25, 0.5 + seed / 8 + (label == long) * (seed + 1) / 64]
            write_run(tmp_path, label, seed, rewards, turns=turns, experiment=experiment)
    runs = load(tmp_path)
    lines = printed(compare(runs), runs)
    head = next(line for line in lines if "outcome" in line)
    assert head.split()[-2:] == ["turn", "outcome"]
    rows = body(lines, lines[lines.index(head) - 1])[:3]
    cells = {line.split()[0]: line[head.index("turn") - 2 :].split()[0] for line in rows}
    assert cells == {"uniform": "0.0000", "random": "0.5000", long: "-"}
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    assert "random, which knows nothing, is its yardstick" in " ".join(" ".join(lines).split())
    assert "| 0.5000 |" in report.to_markdown(compare(runs), runs)
    assert "turn" not in terminal.sheets(*few)[0].columns


def test_what_a_reader_needs_is_there(tmp_path: Path) -> None:
    comparison, runs = sweep(tmp_path, 6)
    text = "\n".join(printed(comparison, runs, 130))
    for words in (
        "Decision, aligned",
        "3 methods, 6 training seeds",
        "positive control sensitive: oracle_mask beats uniform by +0.0",
        "d = 0.02, alpha = 0.05 over all arms (Holm) for better or worse, and again for no difference",
        "these problems, new training seeds",
        "fixed: 8 seeds",
        "T0: bitwise repeatable",
        comparison.experiment_hash[:16],
        comparison.run_set_hash[:16],
        "baseline",
    ):
        assert words in text
    ranking = body(printed(comparison, runs, 100), "Ranking")
    assert ["better" in line for line in ranking[:3]] == [True, True, False]
    assert all("●" in line for line in ranking[:2]) and "┼" not in ranking[2]
    verdicts = body(printed(comparison, runs), "Verdicts")
    assert verdicts[0].split() == ["oracle_mask", "6", "0", "0", "6", "0", "0", "12"]


def test_the_ranking_comes_first_however_few_the_seeds(
    tmp_path: Path, few: tuple[Comparison, list[Run]]
) -> None:
    many = sweep(tmp_path, 5, ("uniform", "flow"))
    orders = [[sheet.title.split()[0] for sheet in terminal.sheets(*found)][:2] for found in (few, many)]
    assert orders == [["Ranking", "Difference"]] * 2
    assert "Sign-flip cannot reach 0.05 with 3 seeds" in " ".join(
        sheet.note for sheet in terminal.sheets(*few)
    )


def test_many_seeds_are_spread_over_tables(tmp_path: Path) -> None:
    lines = printed(*sweep(tmp_path, 20, ("uniform", "oracle_mask")))
    heads = [
        line for line, title in zip(lines[1:], lines, strict=False) if title.startswith("Difference from")
    ]
    seeds = [word for line in heads for word in line.split() if word.isdigit()]
    assert len(heads) == 3 and seeds == [str(seed) for seed in range(20)]


def test_an_insensitive_positive_control_says_so_in_the_title(tmp_path: Path) -> None:
    comparison, runs = sweep(tmp_path, 4, ("uniform", "oracle_mask", "flow"), smallest_difference=0.001)
    assert comparison.positive_control.outcome == "sensitive"
    comparison, runs = sweep(tmp_path / "worse", 4, ("oracle_mask", "flow", "uniform"))
    assert printed(comparison, runs)[3].startswith("positive control NOT sensitive, a gain can go unseen")


def test_unfinished_runs_show_as_such(tmp_path: Path) -> None:
    sweep(tmp_path, 2)
    write_run(tmp_path, "flow", 2, [0.1], finish=False, experiment={**EXPERIMENT})
    runs = load(tmp_path)
    lines = printed(compare(runs), runs)
    assert any(line.startswith("flow") and line.rstrip().endswith("2 of 3") for line in lines)
    assert any("1 unfinished, not counted: flow seed 2" in line for line in lines)


def test_sequential_declarations_show_the_e_value(tmp_path: Path) -> None:
    comparison, runs = sweep(tmp_path, 3, stopping="until decided", scale=0.02)
    lines = printed(comparison, runs)
    assert max(map(len, lines)) <= 80
    assert any("e-value" in line for line in lines) and any("e-process" in line for line in lines)
    assert "as if their number had been fixed" in " ".join(line.strip() for line in lines)
    assert "as if their number" not in " ".join(printed(*sweep(tmp_path / "fixed", 3)))


def test_under_optional_stopping_no_figure_is_of_the_test_that_does_not_decide(tmp_path: Path) -> None:
    """The power of the paired t says nothing of the e-process; what so few seeds cannot reach stands in its place."""
    rule: dict[str, Any] = {"stopping": "until decided", "scale": 0.02}
    comparison, runs = sweep(tmp_path / "few", 3, **rule)
    lines = " ".join(" ".join(printed(comparison, runs)).split())
    assert (
        "detectable" not in lines
        and "The e-process cannot reach 0.05 with 3 seeds and this many arms" in lines
    )
    assert (
        "about N more seeds: if the evidence goes on growing as it did; at most 5 more are declared" in lines
    )
    comparison, runs = sweep(tmp_path / "more", 7, most=7, scale=0.05, stopping="until decided")
    lines = " ".join(" ".join(printed(comparison, runs)).split())
    assert "cannot reach" not in lines and "no more are declared" in lines
    assert "detectable" in " ".join(printed(*sweep(tmp_path / "fixed", 3)))


def test_a_seed_that_is_half_run_does_not_end_a_sweep(tmp_path: Path) -> None:
    """The last seed counts when every arm has it."""
    comparison, _ = sweep(tmp_path, 3, most=4, stopping="until decided", scale=0.01)
    experiment = dict(comparison.experiment)
    write_run(tmp_path, "uniform", 3, [0.3, 0.3], EVALUATION, experiment=experiment)
    runs = load(tmp_path)
    compared = compare(runs)
    for shown in (compared, arranged(compared, only=["uniform"])):
        assert "3 of at most 4 seeds are run; undecided" in terminal.stopping(shown)


@pytest.mark.parametrize(
    ("seeds", "most", "words"),
    [
        (3, 30, "3 of at most 30 seeds are run; undecided: flow, oracle_mask"),
        (3, 3, "the most seeds, 3, are run; undecided: flow, oracle_mask"),
        (14, 30, "every arm is decided after 14 of at most 30 seeds"),
    ],
)
def test_where_a_sequential_sweep_stopped(tmp_path: Path, seeds: int, most: int, words: str) -> None:
    comparison, runs = sweep(tmp_path, seeds, most=most, stopping="until decided", scale=0.01)
    assert terminal.stopping(comparison) == f"until decided (e-process, scale 0.01): {words}"
    assert max(map(len, printed(comparison, runs))) <= 80


def test_several_tasks_get_a_table(tmp_path: Path) -> None:
    for method in ("uniform", "flow"):
        writer = RunWriter(tmp_path / method, manifest(method))
        writer.write("steps", 1, step_row(1))
        rows = sample_rows(1, [["correct"]], "easy") + sample_rows(1, [["wrong"]], "hard")
        writer.write("samples", 1, rows)
        writer.finish({})
    runs = load(tmp_path)
    lines = printed(compare(runs), runs)
    assert body(lines, "Final accuracy by task")[0].split()[1:] == ["1.000", "0.000", "0.500"]
    assert body(lines, "Final accuracy by task, minus uniform's")[0].split() == ["flow", "+0.000", "+0.000"]
    titles = [f"Verdicts on the samples of the last evaluation: {task}" for task in ("easy", "hard")]
    assert all(title in lines for title in titles)


def test_a_task_that_could_not_be_judged_leaves_a_dash(tmp_path: Path) -> None:
    """Its verifier failed on every answer of one run: that was a traceback, behind the last run of a sweep."""
    for method in ("uniform", "flow"):
        for seed in range(3):
            writer = RunWriter(tmp_path / method / str(seed), manifest(method, seed))
            writer.write("steps", 1, step_row(1))
            failed = method == "flow" and seed == 1
            rows = sample_rows(1, [["correct"]]) + sample_rows(1, [["error" if failed else "wrong"]], "hard")
            writer.write("samples", 1, rows)
            writer.finish({})
    runs = load(tmp_path)
    lines = printed(compare(runs), runs)
    levels = {line.split()[0]: line.split()[1:] for line in body(lines, "Final accuracy by task")[:2]}
    assert levels == {"uniform": ["1.000", "0.000", "0.500"], "flow": ["1.000", "0.000", "-"]}
    assert body(lines, "Final accuracy by task, minus uniform's")[0].split() == ["flow", "+0.000", "+0.000"]
    assert report.to_markdown(compare(runs), runs)


def test_the_interval_over_tasks_draws_whole_seeds(tmp_path: Path) -> None:
    """One run is evaluated on all tasks: a seed that is right on one is right on the other."""
    table = [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]
    for seed, scores in enumerate(table):
        writer = RunWriter(tmp_path / f"{seed}", manifest(seed=seed))
        writer.write("steps", 1, step_row(1))
        rows = []
        for task, score in zip(("easy", "hard"), scores, strict=True):
            rows += sample_rows(1, [["correct" if score else "wrong"]], task)
        writer.write("samples", 1, rows)
        writer.finish({})
    runs = load(tmp_path)
    (sheet,) = [
        sheet for sheet in terminal.sheets(compare(runs), runs) if sheet.title == "Final accuracy by task"
    ]
    cells = []
    for together in (True, False):
        middle, interval = estimates.bootstrap_over_tasks(table, together=together)
        assert interval is not None
        cells.append(f"{middle:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]")
    assert sheet.rows[0][-1] == cells[0] != cells[1]


def test_a_sweep_without_evaluations_is_printed(tmp_path: Path) -> None:
    for method in ("uniform", "flow"):
        write_run(tmp_path, method, 0, [0.1, 0.2])
    runs = load(tmp_path)
    lines = printed(compare(runs), runs)
    assert not any(line.startswith("Verdicts") for line in lines)
    assert body(lines, "Levels")[0].split()[1:] == ["-", "0.150", "-", "1"]


# ------------------------------------------------------------------------------- exports


def test_json_holds_everything(few: tuple[Comparison, list[Run]]) -> None:
    comparison, runs = few
    text = report.to_json(comparison, runs)
    content = json.loads(text)
    assert text == report.to_json(comparison, runs) and "NaN" not in text
    assert [arm["label"] for arm in content["arms"]] == [arm.label for arm in comparison.arms]
    flow, arm = next(arm for arm in content["arms"] if arm["label"] == "flow"), comparison.arm("flow")
    assert flow["difference"] == arm.difference and flow["outcome"] == arm.outcome
    assert [flow["differences"][str(seed)] for seed in arm.seeds] == list(arm.differences.values())
    assert len(content["runs"]) == 9 and content["runs"][0]["problems"] == [0.5]
    assert content["problems"] == [{"task": "decision", "id": "decision/test/0"}]
    assert content["run_set_hash"] == comparison.run_set_hash


def test_json_turns_nan_into_null(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", manifest())
    writer.write("steps", 1, step_row(1, entropy=math.nan, reward=0.5))
    writer.finish({})
    runs = load(tmp_path)
    comparison = compare(runs)
    assert json.loads(report.to_json(comparison, runs))["arms"][0]["training"]["entropy"] is None
    assert any(" - " in line or line.rstrip().endswith("-") for line in printed(comparison, runs))


def test_csv_has_one_row_a_run(few: tuple[Comparison, list[Run]]) -> None:
    comparison, runs = few
    rows = list(csv.DictReader(io.StringIO(report.to_csv(comparison, runs))))
    assert len(rows) == 9
    flow = [row for row in rows if row["method"] == "flow"]
    assert [float(row["difference"]) for row in flow] == pytest.approx(
        list(comparison.arm("flow").differences.values()), rel=1e-5
    )
    assert {row["difference"] for row in rows if row["method"] == "uniform"} == {""}
    assert {row["samples_truncated"] for row in rows} == {"1"}


def test_markdown_shows_the_same_tables_and_escapes(few: tuple[Comparison, list[Run]]) -> None:
    comparison, runs = few
    text = report.to_markdown(comparison, runs)
    for sheet in terminal.sheets(comparison, runs):
        assert f"### {sheet.title}" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
