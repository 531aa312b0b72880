"""Protects further rollouts of a credit method: their noise, the run's engine and verifier, and their cost."""

import pytest

import tasks
from harness import experiment as experiments
from harness import plan, seeds, shapes
from harness.engines.base import Sampling
from harness.engines.keyed import sample
from harness.experiment import task_of
from harness.runs import run
from leaderboards import read_run

EVERY, SAMPLES, LIMIT = 8, 2, 32


@pytest.fixture
def trained(tiny_experiment, tmp_path):
    """One step by vine, and one by uniform, on the same prompts."""
    arms = {"uniform": {}, "vine": {"every": EVERY, "samples": SAMPLES}}
    built = tiny_experiment(arms, steps=1, max_response_tokens=LIMIT)
    for label in arms:
        assert run.train(built, label, 0, tmp_path / label)
    return built, {label: read_run(tmp_path / label) for label in arms}


def test_values_are_sampled_by_name_and_counted(trained):
    """Sampled once more here, by the documented names: the recorded credit, and the tokens of the step."""
    built, runs = trained
    policy, task = run.policy_of(built), task_of(built.task)
    problems = {problem.id: problem for problem in task.problems("train")}
    rows = {label: recorded.table("rollouts").to_pylist() for label, recorded in runs.items()}
    assert [row["response_ids"] for row in rows["vine"]] == [row["response_ids"] for row in rows["uniform"]]
    values, further = {}, 0
    for row in rows["vine"]:
        for spent in range(0, len(row["response_ids"]), EVERY):
            prefix = row["response_ids"][:spent]
            name = (row["problem_id"], tuple(prefix))
            if name in values:
                continue
            keys = [
                seeds.key("value", 0, 0, row["problem_id"], " ".join(map(str, prefix)), number)
                for number in range(SAMPLES)
            ]
            prompts = [[*row["prompt_ids"], *prefix]] * SAMPLES
            drawn = sample(policy.model, policy.tokenizer, prompts, keys, Sampling(LIMIT - spent))
            texts = [policy.tokenizer.decode([*prefix, *one.ids], skip_special_tokens=True) for one in drawn]
            items = [
                (problems[row["problem_id"]], text, one.finish_reason)
                for text, one in zip(texts, drawn, strict=True)
            ]
            rewards = [tasks.reward_of(verdict) for verdict in task.verify_all(items)]
            values[name] = sum(rewards) / SAMPLES
            further += sum(len(one.ids) for one in drawn)
    told = 0
    for row in rows["vine"]:
        ids, advantage = row["response_ids"], row["advantage"]
        if not advantage:
            continue  # no weight can show what is added to 0
        ends = [values[row["problem_id"], tuple(ids[:cut])] for cut in range(0, len(ids), EVERY)] + [
            row["reward"]
        ]
        changes = [ends[place // EVERY + 1] - ends[place // EVERY] for place in range(len(ids))]
        assert [advantage * weight for weight in row["weights"]] == pytest.approx(changes, abs=1e-5)
        told += len(set(changes)) > 1
    assert told, "against a policy whose values never change"
    steps = {label: recorded.table("steps").to_pylist()[0] for label, recorded in runs.items()}
    assert steps["vine"]["tokens"] == steps["uniform"]["tokens"] + further and further > 0
    assert steps["vine"]["response_length"] == steps["uniform"]["response_length"]
    planned = plan.plan(built, shapes.Device("a CPU", "cpu", 24e9, *shapes.CPU)).arms["vine"]
    assert further <= planned.further_tokens and planned.further_tokens <= 3 * further
    assert steps["vine"]["seconds_credit"] > steps["uniform"]["seconds_credit"]


def test_the_shipped_experiment_spends_as_much_on_more_rollouts():
    """`uniform_more` has no other difference from uniform than its samples a prompt."""
    built = experiments.load("vine-spo")
    assert set(built.methods) == {"uniform", "uniform_more", "random_3", "vine", "spo", "oracle_10"}
    assert built.methods["uniform_more"]["credit"] == "uniform"
    more, base = built.training_of("uniform_more"), built.training_of("uniform")
    # 7.6 times the tokens, as measured: the comment in the file.
    assert more.samples_per_prompt == round(7.6 * base.samples_per_prompt)
    assert more.samples_per_prompt * base.prompts_per_step == more.rollouts
    assert base.samples_per_prompt == built.training_of("vine").samples_per_prompt
