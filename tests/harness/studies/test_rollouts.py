"""Protects the rollouts that methods are compared on: those of a run, and the values of their tokens."""

import numpy as np
import pytest

from harness.experiment import task_of
from harness.runs import run
from harness.studies import replay, rollouts
from leaderboards import read_run
from tests.harness.letters import as_drawn, right


@pytest.fixture
def policy(tiny_experiment):
    return run.policy_of(tiny_experiment())


def test_token_values_end_in_the_reward_and_find_the_decision(tiny_experiment, policy):
    """On `decision` the letter at the named place settles the verdict: no other token changes the value."""
    built = tiny_experiment()
    task = task_of(built.task)
    rows = [row for row in rollouts.fresh(built, policy, 2, 0)[0] if row["finish_reason"] == "stop"]
    good = [row for row in rows if row["verdict"] == "correct"][:1]
    bad = [row for row in rows if row["verdict"] == "wrong"][:1]
    assert good and bad
    values = rollouts.token_values(policy, task, built.training, good + bad, 12)
    for row, found in zip(good + bad, values, strict=True):
        assert found.shape == (len(row["response_ids"]) + 1, 12)
        assert set(found[-1]) == {row["reward"]}
        changes = rollouts.value_changes(found)
        assert changes.sum() == pytest.approx(row["reward"] - found[0].mean())
    for row, found in zip(good + bad, values, strict=True):
        ((at, _),) = task.decisive(row["text"])
        chance = as_drawn(row["text"][at - 1])[right(row["question"])]
        assert found[: at + 1].mean() == pytest.approx(chance, abs=0.12)
        assert found[at + 1 :].mean() == pytest.approx(row["reward"], abs=0.05)
    ((at, _),) = task.decisive(good[0]["text"])
    assert rollouts.value_changes(values[0]).argmax() == at
    again = rollouts.token_values(policy, task, built.training, good + bad, 12, batch_size=50)
    for one, other in zip(values, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_recorded_rollouts_of_the_earliest_steps(tiny_experiment, tmp_path):
    built = tiny_experiment(("flow", "uniform"), steps=2, save_every=1)
    for label, seed in (("flow", 0), ("uniform", 0), ("uniform", 1)):
        run.train(built, label, seed, tmp_path / label / f"seed-{seed:04d}")
    experiment_found, batches = rollouts.stored(tmp_path, 3)
    assert experiment_found.hash == built.hash
    own = {seed: read_run(tmp_path / "uniform" / f"seed-{seed:04d}") for seed in (0, 1)}
    flow = read_run(tmp_path / "flow" / "seed-0000")
    expected = [
        flow.table("rollouts", step=0), own[1].table("rollouts", step=0), flow.table("rollouts", step=1)
    ]  # fmt: skip
    assert [[row["key"] for row in rows] for rows in batches] == [
        table["key"].to_pylist() for table in expected
    ]
    found = replay.replay(
        experiment_found,
        run.policy_of(built),
        batches[:1],
        "",
        replay.methods_of(built, ["flow"]),
        continuations=0,
    )
    assert found.gap < 1e-5
