"""Protects the plan: estimates follow the sizes, and what cannot fit is refused before it starts."""

import os

import pytest
import torch

from harness import ExperimentError, cli, experiment, plan, shapes
from harness.engines.base import BESIDE_TRAINING
from tests.harness.test_shapes import model_of

CPU = shapes.Device("a CPU", "cpu", 24e9, *shapes.CPU)
GPU = shapes.Device("a GPU of 24 GB", "gpu", 24e9, *shapes.RATES["RTX 4090"])


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("bfloat16", [True, False])
def test_activations_are_what_a_forward_keeps(normalised, bfloat16):
    """Measured by the tensors that autograd saves; weights cast to bfloat16 are no activations."""
    shape = shapes.Shape(2, 128, 320, 8, 2, 32, 64, True, 512, normalised)
    model = model_of(shape, attn_implementation="sdpa").train()
    kept = {}

    def keep(tensor):
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    weights = {tuple(parameter.shape) for parameter in model.parameters()}
    weights |= {tuple(reversed(size)) for size in weights}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        model.model(torch.zeros(3, 97, dtype=torch.long), use_cache=False)
    size = sum(
        tensor.untyped_storage().nbytes()
        for place, tensor in kept.items()
        if place not in own and tuple(tensor.shape) not in weights
    )
    # The forward's ends (embedding, last norm) are no layers: up to a tenth.
    assert size / (2 * 3 * 97) == pytest.approx(plan._activations(shape, bfloat16), rel=0.12)


def test_the_embedded_step_is_estimated_as_it_was_measured():
    """160 ms for 64 rollouts of uniform, one run to a core of an AMD EPYC (Zen 4): an upper bound, and no wild one."""
    training = {"prompts_per_step": 4, "samples_per_prompt": 16}
    measured = experiment.from_table({"base": "decision", "training": training}, "x")
    assert 0.160 < plan.plan(measured, CPU).arms["uniform"].seconds < 2 * 0.160


def test_the_noise_of_a_large_vocabulary_costs_a_cpu_and_no_gpu(monkeypatch):
    """2.3 ms a row and position of Qwen3's 152K tokens on one thread, measured; a kernel writes it on a GPU."""
    built = plan.replace(experiment.load("qwen3-0.6b"), engine="transformers")
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
    measured = plan.replace(built, training=plan.replace(built.training, turn_every=10))
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


def test_what_each_choice_saves():
    def needed(name="qwen3-0.6b", gpus=1, **training):
        built = experiment.load(name)
        shape, training = shapes.shape_of(built.policy.name), plan.replace(built.training, **training)
        return plan.memory(built, "flow", shape, 256, GPU, training, gpus)

    whole = needed()
    assert whole["weights"] == 4 * shapes.SHAPES["Qwen/Qwen3-0.6B-Base"].parameters
    assert whole["attention map"] > needed(micro_batch=1)["attention map"] > 0
    assert needed(gradient_checkpointing=False)["activations"] > 5 * whole["activations"]
    assert needed(lora_rank=16)["Adam"] < whole["Adam"] / 20
    assert needed(optimizer="adamw_8bit")["Adam"] == pytest.approx(whole["Adam"] / 4, rel=0.02)
    assert needed(gpus=4)["Adam"] == whole["Adam"] / 4
    # Sampling and training do not hold their largest parts at once.
    assert plan.total({**whole, "cache": 0.0}) < plan.total({**whole, "cache": 1e12}) < 1.1e12


@pytest.mark.parametrize(
    ("name", "gigabytes", "fits"),
    [
        ("qwen3-0.6b", 24, True),
        ("qwen3-1.7b", 48, True),
        ("qwen3-1.7b", 24, False),
        ("paper-4b-1k", 80, False),
    ],
)
def test_the_rungs_fit_where_they_say(name, gigabytes, fits):
    device = shapes.Device("a GPU", "gpu", gigabytes * 1e9, *shapes.RATES["A100"])
    found = plan.plan(experiment.load(name), device)
    if fits:
        plan.refuse(found)
        return
    with pytest.raises(
        ExperimentError, match="does not fit here: the arm .* needs .* GB; what would: "
    ) as error:
        plan.refuse(found)
    assert "\n" not in str(error.value)
    if name == "qwen3-1.7b":
        assert "training.lora_rank = 16" in str(error.value)
    assert "by FSDP" in str(error.value)


def test_a_server_takes_the_engine_off_the_gpu():
    """Where that is what keeps a run from fitting, it is named as a way out."""
    built = plan.replace(experiment.load("qwen3-0.6b"), engine="vllm")
    alone = plan.total(plan.plan(built, GPU).memory["as declared"]) - BESIDE_TRAINING * GPU.memory
    device = shapes.Device("a GPU", "gpu", 1.05 * alone, *shapes.RATES["A100"])
    found = plan.plan(built, device)
    with pytest.raises(ExperimentError, match="what would: --server, with vLLM elsewhere"):
        plan.refuse(found)
    plan.refuse(found, served=True)


def test_no_map_of_a_very_long_sequence_is_counted():
    """Beyond 32K tokens credit holds strips of it."""
    built = experiment.load("qwen3-0.6b")
    shape = shapes.SHAPES["meta-llama/Llama-3.2-3B"]
    maps = {
        tokens: plan.memory(
            built,
            "flow",
            shape,
            0,
            GPU,
            plan.replace(built.training, max_response_tokens=tokens, micro_batch=1),
        )["attention map"]
        for tokens in (32 * 1024, 64 * 1024)
    }
    assert maps[64 * 1024] < maps[32 * 1024] / 10


def test_two_workers_share_one_machine():
    found = plan.plan(experiment.load("smollm2"), CPU)
    plan.refuse(found)
    with pytest.raises(
        ExperimentError, match="for 4 processes at once; what would: --workers 1; or training"
    ):
        plan.refuse(found, 4)


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
