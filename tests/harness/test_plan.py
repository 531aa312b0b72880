"""Protects the plan: estimates follow the sizes, and what cannot fit is refused before it starts."""

import os
from dataclasses import replace

import pytest
import torch

from harness import ExperimentError, cli, experiment, fits, plan, shapes

CPU = shapes.Device("a CPU", "cpu", 24e9, *shapes.CPU)
GPU = shapes.Device("a GPU of 24 GB", "gpu", 24e9, *shapes.RATES["RTX 4090"])


def test_the_embedded_step_is_estimated_as_it_was_measured():
    """160 ms for 64 rollouts of uniform, one run to a core of an AMD EPYC (Zen 4): an upper bound, and no wild one."""
    training = {"prompts_per_step": 4, "samples_per_prompt": 16}
    measured = experiment.from_table({"base": "decision", "training": training}, "x")
    assert 0.160 < plan.plan(measured, CPU).arms["uniform"].seconds < 2 * 0.160


def test_the_noise_of_a_large_vocabulary_costs_a_cpu_and_no_gpu(monkeypatch):
    """2.3 ms a row and position of Qwen3's 152K tokens on one thread, measured; a kernel writes it on a GPU."""
    built = replace(experiment.load("qwen3-0.6b"), engine="transformers")
    drawn = built.training.rollouts * built.training.max_response_tokens
    seconds = {device.kind: plan.plan(built, device).step_seconds for device in (CPU, GPU)}
    monkeypatch.setattr(plan, "NOISE", {"cpu": 0.0, "gpu": 0.0})
    without = {device.kind: plan.plan(built, device).step_seconds for device in (CPU, GPU)}
    assert 0.9 < (seconds["cpu"] - without["cpu"]) / (2.3e-3 * drawn) < 1.1
    assert seconds["gpu"] - without["gpu"] < 0.01 * without["gpu"]


def test_counts_and_what_they_depend_on():
    built = experiment.load("decision")
    found = plan.plan(built, CPU)
    runs, step = len(built.methods) * 8, built.training.prompts_per_step * built.training.samples_per_prompt
    assert (found.runs, found.rollouts) == (runs, runs * 160 * step)
    assert found.tokens == found.rollouts * 32 and found.prompt == 5
    assert found.samples == runs * 5 * 64 * 4
    # An arm that samples more is counted with what it samples.
    fairness = experiment.load("fairness")
    more = fairness.training_of("uniform_more").rollouts
    assert more > step
    assert plan.plan(fairness, CPU).rollouts == 8 * 160 * ((len(fairness.methods) - 1) * step + more)
    # DAPO-Math has no test problems of its own.
    paper = plan.plan(experiment.load("paper-4b-1k"), GPU)
    assert paper.samples == 18 * 8 * 6 * (16 * (30 + 30 + 40) + 4 * (500 + 675))


def test_measuring_the_turn_is_a_training_pass_more_at_some_steps():
    built = experiment.load("decision")
    measured = replace(built, training=replace(built.training, turn_every=10))
    # A forward to sample, three to train; three more at every tenth step.
    plain, more = (plan.plan(each, CPU).arms["uniform"].flops for each in (built, measured))
    assert more == pytest.approx(plain * (4 + 3 / 10) / 4)


@pytest.mark.parametrize("name", experiment.names())
def test_every_experiment_of_the_package_can_be_planned_and_so_can_its_smoke(name):
    """Without weights and data: what a reader may run has its cost in view, every arm of it."""
    whole, smoke = (experiment.load(name, smoke=smoke) for smoke in (False, True))
    costs, of_smoke = plan.plan(whole, GPU), plan.plan(smoke, GPU)
    assert set(costs.arms) == set(whole.methods) and set(of_smoke.arms) == set(smoke.methods)
    assert 0 < of_smoke.flops < costs.flops


def test_responses_longer_than_the_context_are_refused():
    table = {"base": "decision", "training": {"max_response_tokens": 64}}
    with pytest.raises(ExperimentError, match="64 tokens do not fit the policy's context of 64"):
        plan.plan(experiment.from_table(table, "x"), CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fits there")
def test_the_command_plans_and_refuses_without_starting(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", "decision", "--plan"]) == 0
    assert " arms x 8 seeds, 160 steps each" in capsys.readouterr().out
    for command in (["reproduce", "paper-8b-8k", "--plan"], ["reproduce", "paper-8b-8k"]):
        assert cli.main(command) == 2
        assert "flowtracer: experiment paper-8b-8k does not fit here" in capsys.readouterr().err
    assert cli.main(["train", "paper-8b-8k", "--method", "flow"]) == 2
    assert not os.listdir(tmp_path)


def test_train_and_noise_are_judged_by_their_own_arm(capsys, tmp_path, monkeypatch):
    """Where `uniform_more` does not fit, uniform may still be trained."""
    from harness.sweeps import sweep

    whole, trained = experiment.load("fairness"), []
    needed = [
        fits.total(plan.plan(whole, CPU, [arm]).memory["as declared"]) for arm in ("uniform", "uniform_more")
    ]
    monkeypatch.setattr(plan, "here", lambda: replace(CPU, memory=sum(needed) / 2))
    monkeypatch.setattr(sweep, "reproduce", lambda *given, **_: trained.append(given[4]))
    out = ["--out", str(tmp_path / "runs")]
    assert cli.main(["train", "fairness", "--method", "uniform", *out]) == 0
    assert cli.main(["train", "fairness", "--method", "uniform_more", *out]) == 2
    assert "the arm uniform_more needs" in capsys.readouterr().err
    noise = ["noise", "fairness", "--seeds", "2", "--workers", "1", *out]
    assert cli.main([*noise, "--arm", "uniform"]) == 2
    assert "holds 0 finished runs of uniform" in capsys.readouterr().err, (
        "nothing was trained here, but allowed"
    )
    assert cli.main([*noise, "--arm", "uniform_more"]) == 2
    assert "the arm uniform_more needs" in capsys.readouterr().err
    assert trained == [[("uniform", 0)], [("uniform", 0), ("uniform", 1)]]
