"""Protects the shipped teachers: the arms of the experiment train in its smoke size, and are what the file says."""

import pytest

from harness import experiment as experiments
from harness.runs import run
from leaderboards import read_run


def first_step(folder, label):
    """The rollouts of the first step, and its row."""
    built = experiments.load("teachers", smoke=True, changes=["training.steps=1", "evaluation.every=1"])
    run.train(built, label, 0, folder / label)
    recorded = read_run(folder / label)
    return recorded.table("rollouts").to_pylist(), recorded.table("steps").to_pylist()[0]


def test_the_teachers_of_the_smoke_train_and_say_how_far_they_turn(tmp_path):
    """All on the same rollouts; what stands beside the advantage in opsd_beside is the advantage itself."""
    steps = {}
    rows = {}
    for label in ("rlsd", "opsd", "opsd_beside", "oppo"):
        rows[label], steps[label] = first_step(tmp_path, label)
    assert len({tuple(row["key"] for row in each) for each in rows.values()}) == 1
    assert 0 < steps["rlsd"]["turn"] < 0.1 < min(steps[label]["turn"] for label in ("opsd", "oppo"))
    assert len({step["parameters_hash"] for step in steps.values()}) == 4
    compared = 0
    for alone, beside in zip(rows["opsd"], rows["opsd_beside"], strict=True):
        if alone["advantage"]:
            compared += 1
            assert beside["weights"] == pytest.approx([1 + weight for weight in alone["weights"]], abs=1e-4)
    assert compared
