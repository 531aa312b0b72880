"""Protects `training.turn_every`: the record has the turn of the steps it names, and nothing else of a run changes."""

import pytest

from harness import experiment as experiments
from harness.errors import ExperimentError
from harness.runs import run
from leaderboards import read_run
from tests.harness import tiny

ARMS = {"uniform": {}, "random": {}}


def steps(folder, label, **training):
    """The rows of a run's steps, and the hash of what it recorded."""
    built = experiments.from_table(tiny.table(ARMS, 1, {"every": 4}, steps=4, **training), "x")
    run.train(built, label, 0, folder)
    recorded = read_run(folder)
    return recorded.table("steps").to_pylist(), recorded.content_hash("steps")


def test_the_record_has_the_turn_and_the_training_is_the_same(tmp_path):
    measured, hash_measured = steps(tmp_path / "measured", "random", turn_every=2)
    plain, hash_plain = steps(tmp_path / "plain", "random")
    assert [row["turn"] for row in plain] == [None] * 4
    for row in measured:
        if row["step"] % 2 or row["signal_share"] == 0:
            assert row["turn"] is None
        else:
            assert 0 < row["turn"] < 1
    assert any(row["turn"] is not None for row in measured)
    assert hash_measured == hash_plain and len({row["parameters_hash"] for row in plain}) == 4


def test_with_several_updates_a_batch_the_first_of_a_named_step_is_measured(tmp_path):
    rows, _ = steps(tmp_path, "random", turn_every=2, updates_per_batch=2)
    assert {row["step"] for row in rows if row["turn"] is not None} <= {0, 2}
    assert any(row["turn"] for row in rows)


def test_uniform_turns_nothing(tmp_path):
    rows, _ = steps(tmp_path, "uniform", turn_every=1)
    known = [row["turn"] for row in rows if row["turn"] is not None]
    assert known and max(known) < 1e-6


def test_where_it_is_not_asked_for_it_stands_in_no_record_of_an_experiment():
    """Its hash is that of before, so that runs of before can still be joined."""
    assert "turn_every" not in experiments.from_table(tiny.table(), "x").resolved()["training"]
    assert experiments.from_table(tiny.table(turn_every=5), "x").resolved()["training"]["turn_every"] == 5
    with pytest.raises(ExperimentError, match="training.turn_every must not be negative"):
        experiments.from_table(tiny.table(turn_every=-1), "x")
