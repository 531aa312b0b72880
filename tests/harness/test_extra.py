"""Protects what a plan says of credit methods that sample or compute beside the rollouts: tokens, FLOPs, seconds."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from flowtracer.seam import TrainerSeam
from harness import cli, experiment, extra, plan, shapes
from harness.runs.settings import grpo_config

CPU = shapes.Device("a CPU", "cpu", 24e9, *shapes.CPU)
LONGEST, PROMPTS, SAMPLES = 32, 4, 16
ROLLOUTS = PROMPTS * SAMPLES


def built(training=None, **arms):
    """An experiment on the embedded policy with these arms beside uniform."""
    table = {
        "base": "decision",
        "training": {
            "prompts_per_step": PROMPTS,
            "samples_per_prompt": SAMPLES,
            "max_response_tokens": LONGEST,
            **(training or {}),
        },
        "methods": {"uniform": {}, **arms},
    }
    made = experiment.from_table(table, "x")
    return replace(made, methods={label: made.methods[label] for label in ("uniform", *arms)})


def beyond(arm, options, training=None):
    """A step of an arm, and of uniform beside it."""
    costs = plan.plan(built(training, **{arm: options}), CPU)
    return costs.arms[arm], costs.arms["uniform"], costs


def test_the_further_rollouts_of_vine_are_counted_by_hand():
    """A cut every 8 tokens, at 0, 8, 16 and 24: what begins at the prompt is sampled once a group."""
    step, uniform, costs = beyond("vine", {"every": 8, "samples": 3})
    assert step.further == 3 * (PROMPTS + 3 * ROLLOUTS)
    assert step.further_tokens == 3 * (PROMPTS * 32 + ROLLOUTS * (24 + 16 + 8))
    assert (step.rollouts, step.tokens) == (uniform.rollouts, uniform.tokens) == (ROLLOUTS, ROLLOUTS * 32)
    assert uniform.further == uniform.further_tokens == 0
    steps = costs.experiment.training.steps * costs.experiment.seeds
    assert costs.further_tokens == steps * step.further_tokens
    # Each is a forward of the whole text, and takes time.
    whole = costs.shape.forward(costs.prompt + LONGEST)
    assert step.flops - uniform.flops == pytest.approx(step.further * whole)
    assert step.seconds > 2 * uniform.seconds
    assert costs.seconds == pytest.approx(
        costs.experiment.seeds * costs.experiment.training.steps * (step.seconds + uniform.seconds),
        rel=0.2,  # evaluations
    )


def test_twice_the_continuations_cost_twice():
    one, uniform, _ = beyond("vine", {"every": 8, "samples": 2})
    two, _, _ = beyond("vine", {"every": 8, "samples": 4})
    assert two.further_tokens == 2 * one.further_tokens
    assert two.flops - uniform.flops == pytest.approx(2 * (one.flops - uniform.flops))


def test_a_line_is_assumed_where_vine_asks_for_lines():
    """Whatever ends one."""
    for boundary in ("\n", ". "):
        step, _, _ = beyond("vine", {"samples": 1, "boundary": boundary})
        assert step.further == PROMPTS + ROLLOUTS * (LONGEST // extra.LINE - 1)


def test_spo_cuts_where_the_assumed_response_is_unsure():
    """A share of its tokens, the first among them; and one pass shows where."""
    unsure = int(LONGEST * extra.UNSURE)
    step, uniform, costs = beyond("spo", {"samples": 1, "interval": 1})
    assert step.further == PROMPTS + ROLLOUTS * (unsure - 1)
    whole = costs.shape.forward(costs.prompt + LONGEST)
    assert step.flops - uniform.flops == pytest.approx((step.further + ROLLOUTS) * whole)
    rarer, _, _ = beyond("spo", {"samples": 1, "interval": 4})
    assert rarer.further == PROMPTS + ROLLOUTS * (-(-unsure // 4) - 1)


@pytest.mark.parametrize("name", ["rlsd", "opsd", "oppo"])
def test_a_teacher_costs_a_forward_behind_its_own_prompt(name):
    """Longer by its words: a template of 30 letters is 30 tokens of a policy of letters, and the gold one more."""
    words = "{question}" + "a" * 30 + "{gold}"
    step, uniform, costs = beyond(name, {"template": words}, {"max_response_tokens": 20})
    assert step.further_tokens == 0 and step.seconds > uniform.seconds
    taught = costs.shape.forward(costs.prompt + 31 + 20)
    assert step.flops - uniform.flops == pytest.approx(ROLLOUTS * taught)


def test_passes_of_their_own():
    """Beside uniform's step, in forwards of every rollout: the pad token stands once in the place of each token."""
    for name, forwards in {"otb": 1, "gradient": 2, "oar_perturb": LONGEST, "flow": 0, "entropy": 0}.items():
        step, uniform, costs = beyond(name, {})
        whole = ROLLOUTS * costs.shape.forward(costs.prompt + LONGEST)
        assert step.flops - uniform.flops == pytest.approx(forwards * whole), name


def test_a_method_of_the_whole_batch_reads_apart_where_the_batch_is_split():
    for micro, forwards in ((0, 0), (16, 1)):
        step, uniform, costs = beyond("entropy_mask", {}, {"micro_batch": micro})
        whole = ROLLOUTS * costs.shape.forward(costs.prompt + LONGEST)
        assert step.flops - uniform.flops == pytest.approx(forwards * whole), micro
    step, uniform, _ = beyond("entropy", {}, {"micro_batch": 16})
    assert step.flops == uniform.flops


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
@pytest.mark.parametrize(
    "changes", [{}, {"updates_per_batch": 2}, {"micro_batch": 16}, {"top_k": 5}, {"top_p": 0.9}]
)
def test_old_log_probabilities_are_counted_where_trl_makes_them(engine, changes, tmp_path):
    """By the rule of the trainer itself, on the arguments that a run gives to TRL."""
    training = built(changes).training
    config = grpo_config(training, "float32", 0, tmp_path)
    trainer = SimpleNamespace(
        args=config,
        num_iterations=config.num_iterations,
        use_vllm=engine == "vllm",
        vllm_importance_sampling_correction=config.vllm_importance_sampling_correction,
    )
    assert extra.old_logprobs(training, engine) == TrainerSeam.passes_over_old_logprobs.fget(trainer)


def test_a_batch_that_is_whole_on_each_of_several_processes_is_not_read_apart(monkeypatch):
    """A micro-batch is no larger than what a process has of a step."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    for micro, forwards in ((16, 0), (8, 1)):
        step, uniform, costs = beyond("entropy_mask", {}, {"micro_batch": micro})
        whole = ROLLOUTS * costs.shape.forward(costs.prompt + LONGEST)
        assert step.flops - uniform.flops == pytest.approx(forwards * whole), micro


def test_the_shipped_teachers_stand_beside_uniform_at_their_cost():
    """In arithmetic; the teacher of `decision` reads a question as long as the student's. What the turn costs is 1%."""
    arms = plan.plan(experiment.load("teachers"), CPU).arms
    taught = {label for label, step in arms.items() if step.flops > arms["uniform"].flops} - {"uniform_more"}
    assert taught == {"rlsd", "opsd", "opsd_beside", "oppo"}
    for label in taught:
        assert arms["uniform_more"].flops == pytest.approx(arms[label].flops, rel=0.01)
    assert not any(step.further for step in arms.values())


def test_the_plan_shows_a_step_of_each_arm_where_arms_differ(capsys):
    assert cli.main(["reproduce", "vine-spo", "--plan"]) == 0
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.split()}
    arms = plan.plan(experiment.load("vine-spo")).arms
    assert "Cost of a step by arm" in shown and "further rollouts" in shown
    assert lines["uniform"][3:5] == ["-", "-"]
    assert lines["vine"][4] == plan._amount(arms["vine"].further_tokens)
    assert cli.main(["reproduce", "decision", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "Cost of a step" not in shown and "further" not in shown
