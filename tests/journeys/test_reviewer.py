"""A reviewer: somebody's table of results, two evaluations on the same items, and a folder of records to check."""

import json
import sys
from pathlib import Path

import pytest

from harness import experiment as experiments
from tests.harness import tiny
from tests.journeys.outside import block, flowtracer, run

sys.path.insert(0, str(Path(__file__).parents[1] / "leaderboards"))
from recorded_runs import write_run


def test_results_of_somebody_elses_trainer_get_a_verdict_and_a_page(tmp_path):
    """The file and the command of the how-to page."""
    (tmp_path / "results.csv").write_text(block("elsewhere.md", "", 0))
    command = block("elsewhere.md", "sh", 0).split()[1:]
    table = flowtracer(tmp_path, *command).stdout
    assert "made elsewhere" in table and "column accuracy" in table and "+0.035" in table
    flowtracer(tmp_path, *command, "--html", "board.html")
    assert "made elsewhere" in (tmp_path / "board.html").read_text()


@pytest.mark.slow
def test_two_policies_are_compared_on_the_same_items(tmp_path):
    for policy, file in (("decision", "a.jsonl"), ("decision-chain", "b.jsonl")):
        flowtracer(
            tmp_path, "evaluate", policy, "decision", "--problems", "16", "--samples", "2", "--out", file
        )
    compared = flowtracer(tmp_path, "compare-policies", "a.jsonl", "b.jsonl", "--export", "flips.csv").stdout
    rows = {}
    for side in "ab":
        lines = (tmp_path / f"{side}.jsonl").read_text().splitlines()[1:]
        rows[side] = [json.loads(line)["reward"] for line in lines]
    means = {side: sum(values) / len(values) for side, values in rows.items()}
    assert f"{means['b'] - means['a']:+.4f}" in compared and "16" in compared and "pass@2" in compared
    assert (tmp_path / "flips.csv").read_text().startswith("task,item,a,b")


def test_a_folder_of_records_is_checked_before_it_is_believed(tmp_path):
    experiment = experiments.from_table(tiny.table(), "tiny")
    made = {"experiment": experiment.resolved(), "experiment_hash": experiment.hash}
    for method, gain in (("uniform", 0.0), ("flow", 0.1)):
        for seed in range(2):
            write_run(tmp_path / "runs", method, seed, [0.1 + 0.01 * seed, 0.2 + gain], **made)
    assert flowtracer(tmp_path, "doctor", "runs").stdout.count("finished, sound") == 4
    assert "flow" in flowtracer(tmp_path, "leaderboard", "runs").stdout
    steps = tmp_path / "runs" / "flow" / "seed-0001" / "steps.parquet"
    steps.write_bytes(steps.read_bytes()[:-40])
    done = run(tmp_path, "-m", "harness.cli", "doctor", "runs")
    assert done.returncode == 2 and "flow seed 1: finished, damaged" in done.stdout
    done = run(tmp_path, "-m", "harness.cli", "leaderboard", "runs")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "steps.parquet" in done.stderr
