"""Protects what is shown of runs under way: counts, the baseline at the same step, the time left, lines in a file."""

import math
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.commands import watch
from leaderboards import load

sys.path.insert(0, str(Path(__file__).parents[1] / "leaderboards"))
from recorded_runs import EXPERIMENT, write_run

EVALUATIONS = {0: [["wrong", "wrong"]], 3: [["correct", "wrong"]]}
SMALL = {**EXPERIMENT, "seeds": 2}


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def test_a_run_under_way_stands_against_the_baseline_at_the_same_step(tmp_path):
    write_run(tmp_path, "uniform", 0, [0.1, 0.2, 0.9], EVALUATIONS, experiment=SMALL)
    write_run(tmp_path, "flow", 0, [0.2, 0.4], finish=False, experiment=SMALL)
    write_run(tmp_path, "uniform", 1, [0.5], finish=False, experiment=SMALL)
    write_run(tmp_path, "flow", 1, [], finish=False, experiment=SMALL)
    found = watch.state(load(tmp_path), "uniform", watch.Curves())
    assert (found.finished, found.whole, found.steps, found.whole_steps) == (1, 4, 6, 12)
    by_run = {(run.method, run.seed): run for run in found.going}
    flow = by_run["flow", 0]
    assert (flow.step, flow.steps, flow.shared) == (2, 3, 2)
    assert flow.reward == pytest.approx(0.3) and flow.difference == pytest.approx(0.15), (
        "not over its third step"
    )
    assert by_run["flow", 1].shared == 0 and math.isnan(by_run["flow", 1].difference)
    assert math.isnan(by_run["uniform", 1].difference), "the baseline is not held against itself"
    words = watch.line(found, 90.0)
    assert words.startswith("1 of 4 runs finished, 6 of 12 steps; ") and words.endswith("about 90.0 s left")
    assert "flow seed 0 at step 2 (+0.150 over 2 steps)" in words and "flow seed 1 at step 0;" in words
    rows = {row[:2]: row for row in watch.sheet(found, "uniform").rows}
    assert rows["flow", "0"] == ("flow", "0", "2 of 3", "0.300", "+0.150", "2")
    assert rows["flow", "1"] == ("flow", "1", "0 of 3", "-", "-", "-")


def test_a_record_that_does_not_say_what_was_declared_is_watched_all_the_same(tmp_path):
    """As another program may write them."""
    write_run(tmp_path, "flow", 0, [0.2, 0.4], finish=False, experiment={"name": "theirs"})
    seen = watch.state(load(tmp_path), "uniform", watch.Curves())
    assert (seen.whole, seen.steps, seen.whole_steps) == (1, 2, 0)
    assert "flow seed 0 at step 2" in watch.line(seen, math.nan)


def test_steps_are_read_once(tmp_path, monkeypatch):
    from leaderboards.records import Run

    write_run(tmp_path, "flow", 0, [0.2, 0.4], finish=False)
    curves, asked, table = watch.Curves(), [], Run.table
    monkeypatch.setattr(
        Run,
        "table",
        lambda run, name, columns=None, step=None: asked.append(step) or table(run, name, columns, step),
    )
    for _ in range(3):
        watch.state(load(tmp_path), "uniform", curves)
    assert asked == [1, 2]


def test_the_time_left_follows_the_steps_that_were_seen():
    now = [100.0]
    clock = watch.Clock(lambda: now[0])

    def at(steps):
        return watch.State(0, 4, steps, 100, ())

    assert math.isnan(clock.left(at(40))), "steps of before say nothing of the pace"
    now[0] = 110.0
    assert math.isnan(clock.left(at(40)))
    assert clock.left(at(50)) == pytest.approx(50.0)


def test_into_a_file_there_is_a_line_a_minute_until_all_are_finished(capsys, tmp_path, monkeypatch):
    folder = tmp_path / "runs"

    def minute(wait):
        assert wait == watch.MINUTE
        if folder.exists():
            for method in ("uniform", "flow"):
                write_run(folder, method, 1, [0.1, 0.2, 0.3], EVALUATIONS, experiment=SMALL)
        else:
            for method in ("uniform", "flow"):
                write_run(folder, method, 0, [0.1, 0.2, 0.3], EVALUATIONS, experiment=SMALL)

    monkeypatch.setattr(watch.time, "sleep", minute)
    assert cli.main(["leaderboard", str(folder), "--watch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "no such folder" in lines[0]
    assert "2 of 4 runs finished, 6 of 12 steps" in lines[1]
    assert "4 of 4 runs finished, 12 of 12 steps" in lines[2] and "left" not in lines[2]
    assert any(line.startswith("Ranking by paired difference") for line in lines[3:])
