"""Protects what a plan says of memory: it follows the sizes and how a run is launched, and names what would fit."""

from dataclasses import replace

import pytest
import torch

from harness import ExperimentError, experiment, fits, parallel, plan, shapes
from harness.engines.base import BESIDE_TRAINING
from harness.parallel import Split
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
    assert size / (2 * 3 * 97) == pytest.approx(fits._activations(shape, bfloat16), rel=0.12)


def test_what_each_choice_saves():
    def needed(name="qwen3-0.6b", gpus=1, **training):
        built = experiment.load(name)
        shape, training = shapes.shape_of(built.policy.name), replace(built.training, **training)
        return fits.memory(built, "flow", shape, 256, GPU, training, gpus, Split.PARAMETERS)

    whole = needed()
    assert whole["weights"] == 4 * shapes.SHAPES["Qwen/Qwen3-0.6B-Base"].parameters
    assert whole["attention map"] > needed(micro_batch=1)["attention map"] > 0
    assert needed(gradient_checkpointing=False)["activations"] > 5 * whole["activations"]
    assert needed(lora_rank=16)["Adam"] < whole["Adam"] / 20
    assert needed(optimizer="adamw_8bit")["Adam"] == pytest.approx(whole["Adam"] / 4, rel=0.02)
    assert needed(gpus=4)["Adam"] == whole["Adam"] / 4
    # Uniform's gradient stands beside that of the update.
    assert needed(turn_every=20)["gradients"] == 2 * whole["gradients"]
    # Sampling and training do not hold their largest parts at once.
    assert fits.total({**whole, "cache": 0.0}) < fits.total({**whole, "cache": 1e12}) < 1.1e12


@pytest.mark.parametrize(
    ("name", "gigabytes", "enough"),
    [
        ("qwen3-0.6b", 24, True),
        ("qwen3-1.7b", 48, True),
        ("qwen3-1.7b", 24, False),
        ("paper-4b-1k", 80, False),
    ],
)
def test_the_rungs_fit_where_they_say(name, gigabytes, enough):
    device = shapes.Device("a GPU", "gpu", gigabytes * 1e9, *shapes.RATES["A100"])
    found = plan.plan(experiment.load(name), device)
    if enough:
        fits.refuse(found)
        return
    with pytest.raises(
        ExperimentError, match="does not fit here: the arm .* needs .* GB; what would: "
    ) as error:
        fits.refuse(found)
    assert "\n" not in str(error.value)
    if name == "qwen3-1.7b":
        assert "training.lora_rank = 16" in str(error.value)
    assert "by FSDP" in str(error.value)


def test_a_server_takes_the_engine_off_the_gpu():
    """Where that is what keeps a run from fitting, it is named as a way out."""
    built = replace(experiment.load("qwen3-0.6b"), engine="vllm")
    alone = fits.total(plan.plan(built, GPU).memory["as declared"]) - BESIDE_TRAINING * GPU.memory
    device = shapes.Device("a GPU", "gpu", 1.05 * alone, *shapes.RATES["A100"])
    found = plan.plan(built, device)
    with pytest.raises(ExperimentError, match="what would: --server, with vLLM elsewhere"):
        fits.refuse(found)
    fits.refuse(found, served=True)


def test_no_map_of_a_very_long_sequence_is_counted():
    """Beyond 32K tokens credit holds strips of it."""
    built = experiment.load("qwen3-0.6b")
    shape = shapes.SHAPES["meta-llama/Llama-3.2-3B"]
    maps = {
        tokens: fits.memory(
            built,
            "flow",
            shape,
            0,
            GPU,
            replace(built.training, max_response_tokens=tokens, micro_batch=1),
        )["attention map"]
        for tokens in (32 * 1024, 64 * 1024)
    }
    assert maps[64 * 1024] < maps[32 * 1024] / 10


def test_two_workers_share_one_machine():
    found = plan.plan(experiment.load("smollm2"), CPU)
    fits.refuse(found)
    with pytest.raises(
        ExperimentError, match="for 4 processes at once; what would: --workers 1; or training"
    ):
        fits.refuse(found, 4)


#: What accelerate launch sets for each of our configurations (accelerate.utils.launch).
LAUNCHED = {
    "ddp": {},
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"},
    "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}


@pytest.mark.parametrize("name", LAUNCHED)
def test_launched_processes_hold_what_is_not_split(monkeypatch, name):
    """DDP has all of it on every GPU, and its gradients twice; a run that cannot fit must not pass."""
    built = replace(experiment.load("qwen3-0.6b"), engine="transformers")
    built = replace(built, training=replace(built.training, micro_batch=0))
    one = plan.plan(built, GPU, ["flow"]).memory["as declared"]
    for variable, value in {**LAUNCHED[name], "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(variable, value)
    four = plan.plan(built, GPU, ["flow"]).memory["as declared"]
    shares = {part: four[part] / one[part] for part in ("weights", "gradients", "Adam")}
    assert (
        shares
        == {
            "ddp": {"weights": 1, "gradients": 2, "Adam": 1},
            "zero2": {"weights": 1, "gradients": 1 / 4, "Adam": 1 / 4},
            "fsdp2": {"weights": 1 / 4, "gradients": 1 / 4, "Adam": 1 / 4},
            "zero3": {"weights": 1 / 4, "gradients": 1 / 4, "Adam": 1 / 4},
        }[name]
    )
    # The rollouts are dealt out, whoever holds the policy, and so is a batch that is not split further.
    assert four["cache"] == one["cache"] / 4
    assert four["activations"] == one["activations"] / 4


def test_a_micro_batch_is_never_larger_than_a_process_has_rollouts(monkeypatch):
    built = experiment.load("qwen3-0.6b")
    rollouts = built.training.rollouts

    def activations(processes, micro):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        changed = replace(built, training=replace(built.training, micro_batch=micro))
        return plan.plan(changed, GPU, ["flow"]).memory["as declared"]["activations"]

    assert activations(4, rollouts // 2) == activations(1, rollouts // 4)
    assert activations(4, rollouts // 8) == activations(1, rollouts // 8)
    with pytest.raises(ExperimentError, match="cannot be dealt out to 7 processes; give another number"):
        activations(7, 0)


def test_a_split_policy_is_put_together_to_sample(monkeypatch):
    """By the engine that makes forwards of it; in bfloat16 the copies that are counted anyway are those."""
    for variable, value in {**LAUNCHED["fsdp2"], "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(variable, value)
    for dtype, whole in (("float32", 4), ("bfloat16", 0)):
        built = replace(experiment.load("qwen3-0.6b"), engine="transformers")
        built = replace(built, policy=replace(built.policy, dtype=dtype))
        costs = plan.plan(built, GPU, ["flow"])
        assert costs.memory["as declared"]["weights, put together"] == whole * costs.shape.parameters
    parts = {"weights": 1.0, "gradients": 2.0, "cache": 1.0, "weights, put together": 4.0}
    assert fits.total(parts) == 1 + max(2, 1 + 4)


def test_how_a_run_is_split_is_read_as_accelerate_reads_it(monkeypatch):
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    def split(**variables):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            return parallel.split()

    assert split() is Split.NOTHING
    assert split(ACCELERATE_USE_DEEPSPEED="true") is Split.GRADIENTS, "accelerate takes stage 2"
    for stage in range(4):
        assert split(ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_DEEPSPEED_ZERO_STAGE=str(stage)) == stage
    for options, expected in (
        (["--fsdp_version", "2"], Split.PARAMETERS),
        (["--fsdp_version", "2", "--fsdp_reshard_after_forward", "false"], Split.GRADIENTS),
        (["--fsdp_version", "1", "--fsdp_sharding_strategy", "SHARD_GRAD_OP"], Split.GRADIENTS),
        (["--fsdp_version", "1", "--fsdp_sharding_strategy", "3"], Split.NOTHING),
        (["--fsdp_version", "1", "--fsdp_sharding_strategy", "FULL_SHARD"], Split.PARAMETERS),
    ):
        words = ["--mixed_precision", "no", "--num_machines", "1", "--dynamo_backend", "no"]
        words += ["--num_cpu_threads_per_process", "1", "--use_fsdp", *options, "script.py"]
        parsed = launch_command_parser().parse_args(words)
        variables = prepare_multi_gpu_env(parsed)
        assert split(**{k: v for k, v in variables.items() if "FSDP" in k}) is expected, options


def test_an_arm_that_is_not_run_keeps_no_other_from_running():
    """Several times the rollouts of one arm are no reason to refuse another."""
    whole = experiment.load("fairness")
    costs, uniform = plan.plan(whole, CPU), plan.plan(whole, CPU, ["uniform"])
    assert (costs.arm, uniform.arm, set(uniform.arms)) == ("uniform_more", "uniform", {"uniform"})
    needed = [fits.total(each.memory["as declared"]) for each in (costs, uniform)]
    device = replace(CPU, memory=sum(needed) / 2)
    fits.refuse(plan.plan(whole, device, ["uniform"]))
    with pytest.raises(ExperimentError, match="the arm uniform_more needs"):
        fits.refuse(plan.plan(whole, device))
    assert (uniform.runs, costs.runs) == (whole.seeds, whole.seeds * len(whole.methods))
    assert uniform.rollouts == whole.seeds * whole.training.steps * whole.training.rollouts
