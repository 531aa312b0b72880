"""Protects what a step's record says of its rollouts."""

import math

import pytest

import tasks
from harness.errors import ExperimentError
from harness.experiment import Training
from harness.runs import run
from harness.runs.measures import duplicate_share, measures
from harness.runs.recorder import Rewards
from leaderboards import RecordError, RunWriter, read_run
from tasks.decision import Decision


def rollout(group, verdict, reward, ids, **changes):
    values = [1.0] * len(ids)
    row = {"group": group, "verdict": verdict, "reward": reward, "response_ids": ids, "weights": values}
    return {**row, "sampler_logprobs": values, "trainer_logprobs": values, "abstained": None, **changes}


def training(**changes):
    return Training(
        steps=1,
        prompts_per_step=2,
        samples_per_prompt=4,
        max_response_tokens=20,
        learning_rate=1e-3,
        **changes,
    )


def test_a_step_is_measured_by_hand():
    rows = [
        rollout(0, "correct", 1.0, [5, 6, 1], weights=[2.0, 1.0, 1.0]),
        rollout(0, "wrong", 0.0, [5, 1], trainer_logprobs=[1.5, 1.0]),
        rollout(1, "wrong", 0.0, [7, 1], abstained="no answer"),
        rollout(1, "error", None, [7, 1]),
    ]
    found = measures(rows)
    assert found["reward"] == pytest.approx(1 / 3), "what could not be judged has no reward"
    assert (found["correct"], found["wrong"], found["error"], found["timeout"]) == (1, 2, 1, 0)
    assert found["tokens"] == 9 and found["response_length"] == 9 / 4
    assert found["signal_share"] == 1 / 2, "the second group has one reward only"
    assert found["duplicate_share"] == 1 / 4 and found["abstained"] == 1
    assert found["mean_weight"] == pytest.approx(10 / 9) and found["sampler_gap"] == pytest.approx(0.5 / 9)


def test_a_step_in_which_nothing_could_be_judged_has_no_reward():
    found = measures([rollout(0, "error", None, []), rollout(0, "error", None, [])])
    assert math.isnan(found["reward"]) and found["signal_share"] == 0
    assert found["mean_weight"] == found["sampler_gap"] == 0


def test_duplicate_share():
    one, other = [5, 1], [6, 1]
    assert duplicate_share([one, one, other, one, one, other], [0, 0, 0, 0, 1, 1]) == pytest.approx(2 / 6)
    assert duplicate_share([one, one], [0, 1]) == 0.0
    assert duplicate_share([], []) == 0.0


def test_random_rewards_leave_verdicts_as_they_are():
    """The record must tell the control from the truth."""
    task = tasks.get("decision")
    problems = task.problems("train")[:2]
    columns = {
        "completions": [task.demonstrations(1, "test")[0][1], ""] * 4,
        "problem_id": [problem.id for problem in problems] * 4,
        "finish_reason": ["stop"] * 8,
        "key": [f"{number:032x}" for number in range(8)],
    }
    honest, control = Rewards(task, problems, training()), Rewards(task, problems, training(reward="random"))
    earned, drawn = honest(**columns), control(**columns)
    assert control.verdicts == honest.verdicts
    assert earned == [tasks.reward_of(verdict) for verdict in honest.verdicts]
    assert set(drawn) <= {0.0, 1.0} and drawn == control(**columns)


def test_a_degraded_verifier_errs_as_often_as_declared():
    """And where it errs seldom, it errs often too: arms differ by the share, and by no other luck."""
    task = tasks.get("decision")
    problem = task.problems("train")[0]
    right = task.respond(problem.gold)
    count = 4000
    columns = {
        "completions": [right, ""] * (count // 2),
        "problem_id": [problem.id] * count,
        "finish_reason": ["stop"] * count,
        "key": [f"{number:032x}" for number in range(count)],
    }

    def paid(**options):
        rewards = Rewards(task, [problem], training(**options))
        earned = rewards(**columns)
        assert earned == rewards(**columns), "the noise is keyed"
        assert [str(verdict) for verdict in rewards.verdicts[:2]] == ["correct", "no_answer"]
        return earned[::2], earned[1::2]

    assert paid() == ([1.0] * (count // 2), [0.0] * (count // 2))
    right_10, wrong_10 = paid(false_rewards=0.1)
    right_30, wrong_30 = paid(false_rewards=0.3)
    assert set(right_10) == set(right_30) == {1.0}, "a correct response is not refused"
    assert sum(wrong_10) / len(wrong_10) == pytest.approx(0.1, abs=0.02)
    assert sum(wrong_30) / len(wrong_30) == pytest.approx(0.3, abs=0.03)
    assert all(more >= less for less, more in zip(wrong_10, wrong_30, strict=True))
    refused, wrong = paid(false_refusals=0.3)
    assert sum(refused) / len(refused) == pytest.approx(0.7, abs=0.03) and set(wrong) == {0.0}
    assert paid(false_rewards=1.0, false_refusals=1.0) == ([0.0] * (count // 2), [1.0] * (count // 2))


def test_what_cannot_be_judged_has_no_reward_by_a_degraded_verifier_either(monkeypatch):
    task = tasks.get("decision")
    rewards = Rewards(task, task.problems("train")[:1], training(false_rewards=1.0))
    monkeypatch.setattr(rewards.judging, "verdicts", lambda asked, seconds: [tasks.Verdict.ERROR])
    assert rewards([""], [task.problems("train")[0].id], ["stop"], ["00"]) == [None]


def test_the_record_says_what_a_verifier_raised(tiny_experiment, tmp_path, monkeypatch):
    """A verdict `error` without its reason could not be mended; and the step goes on."""
    original = Decision.judge

    def judge(task, problem, answer):
        if answer[:1] in "ABCD":
            raise KeyError("no such letter")
        return original(task, problem, answer)

    monkeypatch.setattr(Decision, "judge", judge)
    run.train(tiny_experiment(("uniform",), steps=2), "uniform", 0, tmp_path)
    rows = read_run(tmp_path).table("rollouts").to_pylist()
    errors = [row for row in rows if row["verdict"] == "error"]
    assert errors and all(row["verdict_error"] == "KeyError: 'no such letter'" for row in errors)
    assert all(row["verdict_error"] is None for row in rows if row["verdict"] != "error")
    assert all(row["reward"] is None for row in errors)


def test_every_step_before_a_failure_is_on_record(tiny_experiment, tmp_path, monkeypatch):
    """It waits for a backward that never comes."""
    original, calls = Rewards.__call__, []

    def call(self, *arguments, **keywords):
        calls.append(arguments)
        if len(calls) == 2:  # before the first checkpoint, which would wait for the record
            raise ExperimentError("the verifier's machine is gone")
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(Rewards, "__call__", call)
    with pytest.raises(ExperimentError, match="machine is gone"):
        run.train(tiny_experiment(("uniform",)), "uniform", 0, tmp_path)
    assert read_run(tmp_path).step_numbers("steps") == [0]


def test_what_is_lost_in_the_background_ends_the_training(tiny_experiment, tmp_path, monkeypatch):
    """A record that cannot be written is an error of a step soon after, or of the end: never a silent hole."""
    written = []

    def write(self, table, step, rows):
        if (table, step) == ("steps", 2):
            raise RecordError("the disk is full")
        written.append((table, step))

    monkeypatch.setattr(RunWriter, "write", write)
    with pytest.raises(RecordError, match="the disk is full"):
        run.train(tiny_experiment(("uniform",)), "uniform", 0, tmp_path)
    assert written[:5] == [("rollouts", 0), ("steps", 0), ("rollouts", 1), ("steps", 1), ("rollouts", 2)]
    assert not (tmp_path / "policies" / "step-000006").exists()
