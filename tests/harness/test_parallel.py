"""Protects one run on several processes, real ones over gloo: its credit, its record and its stop are those of one."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config import load_config_from_file
from safetensors.torch import load_file
from torch import nn

from harness import ExperimentError, cli, experiment, parallel
from harness.policy import FOLDER
from harness.runs import run
from harness.runs.checkpoints import (
    distance_between,
    last_checkpoint,
    parameters,
    parameters_hash,
    policy_folder,
)
from harness.runs.settings import grpo_config
from leaderboards import read_run

# The processes that run this file are no pytest: behind the installed packages, the tests are found too.
sys.path.append(str(Path(__file__).parents[2]))
from tests.harness import tiny

#: A group of six is split between two processes.
TINY = tiny.table(
    ("flow",), 1, {"every": 2, "problems": 4}, steps=2, prompts_per_step=3, samples_per_prompt=6
)


def launch(*arguments, configuration=None):
    """Runs something in two processes, as accelerate does or by it, and gives what came of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    if configuration is not None:
        command = ["accelerate.commands.launch", "--config_file", str(configuration), "--num_processes", "2"]
        command += ["--main_process_port", port]
    done = subprocess.run(
        [sys.executable, "-m", *command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The experiment: a group of six is split, three rows of the second prompt here, three there."""
    path = tmp_path_factory.mktemp("experiment") / "tiny.toml"
    path.write_text(tiny.toml(TINY))
    return path


@pytest.fixture(scope="module")
def one(file, tmp_path_factory):
    """The folder of the run in one process."""
    folder = tmp_path_factory.mktemp("one")
    assert run.train(experiment.load(str(file)), "flow", 0, folder)
    return folder


def same_run(one, two):
    """The first step is the same, and where both went from there is, within float arithmetic."""
    rows = [read_run(folder).table("rollouts", step=0).to_pylist() for folder in (one, two)]
    assert len({row["key"] for row in rows[0]}) == 18
    for here, there in zip(*rows, strict=True):
        for name in ("sampler_logprobs", "trainer_logprobs"):
            assert here.pop(name) == pytest.approx(there.pop(name), abs=1e-4)
        assert here == there
    (here,), (there,) = (read_run(folder).table("steps", step=0).to_pylist() for folder in (one, two))
    # Nothing measures the turn here.
    assert here.pop("turn") is there.pop("turn") is None
    for name in here.keys() - {"parameters_hash"}:
        if not name.startswith("seconds_"):
            assert here[name] == pytest.approx(there[name], rel=1e-3, abs=1e-6), name
    start, *ends = (
        load_file(path / "model.safetensors")
        for path in (FOLDER / "decision", *(policy_folder(folder, 2) for folder in (one, two)))
    )
    moved = sum(float((ends[0][name] - start[name]).square().sum()) for name in start)
    apart = sum(float((ends[0][name] - ends[1][name]).square().sum()) for name in start)
    # Adam makes much of gradients that are all but 0.
    assert apart < 1e-3 * moved


def test_two_processes_give_the_record_of_one(file, one, tmp_path):
    printed = launch("-m", "harness.cli", "train", file, "--method", "flow", "--out", tmp_path)
    folder = tmp_path / "flow" / "seed-0000"
    assert printed.split() == [str(folder)]
    two = read_run(folder)
    assert two.finished and not two.faults()
    assert two.manifest.processes == 2 and two.manifest.tier == "T2"
    assert {row["step"] for row in two.table("samples").to_pylist()} == {0, 2}
    policy_folder(folder, 2).parent.mkdir()
    (folder / "policy").rename(policy_folder(folder, 2))
    same_run(one, folder)


def test_the_distance_of_a_policy_that_was_moved_since_it_began():
    """FSDP and DeepSpeed take it to its GPUs when training begins; the start stays where the policy was loaded."""

    class OnGpu:
        def detach(self):
            return self

        def to(self, device, **_):
            assert device == "cpu"
            return torch.full((2,), 3.0)

    moved = parameters(SimpleNamespace(named_parameters=lambda: [("module.weight", OnGpu())]))
    assert distance_between(moved, {"weight": torch.tensor([0.0, 7.0])}) == 5.0


def test_a_checkpoint_of_another_number_of_processes_is_refused(tiny_experiment, tmp_path, monkeypatch):
    built = tiny_experiment(("uniform",))
    assert not run.train(built, "uniform", 0, tmp_path, stop=lambda: True)
    checkpoint = last_checkpoint(tmp_path)
    (checkpoint / "whole").write_text("1 4\n")
    with pytest.raises(
        ExperimentError, match="checkpoint-1 was made by 4 processes, these are 1; go on with"
    ):
        run.train(built, "uniform", 0, tmp_path)


def test_a_port_that_is_taken_is_one_line(file, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        here = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
        command = [sys.executable, "-m", "harness.cli", "train", str(file), "--method", "flow"]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "runs")],
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, **place, **here},
        )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("flowtracer: the 2 processes of this run cannot meet at 127.0.0.1:")
    assert last.endswith("--main_process_port") and "Traceback" not in done.stderr


def test_rollouts_that_cannot_be_dealt_out_are_refused(tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    settings = tiny_experiment().training
    with pytest.raises(ExperimentError, match="16 rollouts a step .* cannot be dealt out to 3 processes"):
        grpo_config(settings, "float32", 0, tmp_path)


def test_the_turn_is_refused_in_several_processes_before_anything_is_written(tmp_path, monkeypatch, capsys):
    """A manifest of two processes would stay behind and cost a later run in one its tier."""
    measured = tmp_path / "measured.toml"
    measured.write_text(tiny.toml({**TINY, "training": {**TINY["training"], "turn_every": 1}}))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    folder = tmp_path / "runs"
    assert cli.main(["train", str(measured), "--method", "flow", "--out", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("flowtracer: training.turn_every: ") and line.endswith(
        "--set training.turn_every=0"
    )
    assert not folder.exists()


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_configurations_are_read_by_accelerate(name):
    config = load_config_from_file(str(parallel.FOLDER / f"{name}.yaml"))
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    assert config.distributed_type == kinds[name] and config.num_processes == 8
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if name.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(name[-1])


def test_a_sharded_policy_trains_as_a_whole_one(file, one, tmp_path):
    """FSDP2 over two CPU processes: see the rest of this file, which the processes run."""
    assert launch(__file__, file, tmp_path, "fsdp2").count("alike") == 2
    same_run(one, tmp_path)


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed: nox -s tests_deepspeed")
@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_two_deepspeed_processes_give_the_record_of_one(file, one, tmp_path, name):
    """On two CPU processes that accelerate starts with our configuration, three micro-batches an update in each."""
    small = tmp_path / "tiny.toml"
    small.write_text(tiny.toml({**TINY, "training": {**TINY["training"], "micro_batch": 3}}))
    printed = launch(__file__, small, tmp_path, name, configuration=parallel.FOLDER / f"{name}.yaml")
    assert printed.count("alike") == 2
    same_run(one, tmp_path)


def test_deepspeed_that_is_not_installed_is_one_line(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train", str(file), "--method", "flow", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "flowtracer: this run is launched with DeepSpeed, which is not installed: pip install"
    )
    assert line.endswith("fsdp2.yaml")


def check_abstention(rank):
    """The last response has no answer: it gets the mean weight of those here and of those of the other process."""
    from torch import distributed

    from flowtracer.credit import CreditContext, get

    capacity = torch.rand(4, 12, 12, generator=torch.Generator().manual_seed(0)).tril(-1) / 12
    ends = torch.tensor([12, 11, 8, 12])

    def weigh(rows, **more):
        position = torch.arange(12).expand(4, 12)[rows]
        response = (position >= 4) & (position < ends[rows, None])
        answer = (position == ends[rows, None] - 1) & (torch.arange(4)[rows, None] < 3)
        context = CreditContext(position, position < 4, response, position < 4, answer, **more)
        context.capacity = capacity[rows]
        return get("flow")(context)

    def over_processes(tensor):
        distributed.all_reduce(tensor)
        return tensor

    own = slice(2 * rank, 2 * rank + 2)
    expected = weigh(slice(None))
    assert torch.equal(weigh(own, over_processes=over_processes), expected[own])
    assert len(set(expected[3, 4:].tolist())) == 1 and 1 < expected[3, 4] < 1.5


def check_fsdp():
    """A policy split by FSDP2 against the same one whole: attention, samples, gradients."""
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    from flowtracer.attention import AttentionTap
    from flowtracer.credit import get
    from harness import seeds
    from harness.engines.base import Sampling
    from harness.engines.keyed import sample
    from harness.policy import load_policy

    whole, split = load_policy("decision"), load_policy("decision")
    ids = torch.tensor([whole.encode("cab3?") + whole.encode("ca3jbkela")])
    mask = torch.ones_like(ids)
    method = get("flow")

    def map_of(model):
        tap = AttentionTap(model, "middle")
        with tap.open(mask, method.reading()) as capture:
            logits = model(ids, attention_mask=mask).logits
        return logits, capture.fields["capacity"]

    logits, capacity = map_of(whole.model)
    for layer in split.model.model.layers:
        fully_shard(layer)
    fully_shard(split.model)
    split_logits, split_capacity = map_of(split.model)
    assert torch.equal(logits, split_logits) and torch.equal(capacity, split_capacity)

    # The second process has more to say than the first.
    rank = distributed.get_rank()
    keys = [seeds.key("test", rank, number) for number in range(1 + 2 * rank)]
    prompts = [whole.encode("cab3?")] * len(keys)
    arguments = (prompts, keys, Sampling(4 + 12 * rank))
    expected = sample(whole.model, whole.tokenizer, *arguments)
    with parallel.unsharded(split.model):
        assert sample(split.model, split.tokenizer, *arguments) == expected
    shards = [one for one in split.model.parameters() if hasattr(one, "full_tensor")]
    assert shards and all(one.to_local().numel() < one.numel() for one in shards if one.numel() > 100)
    # And trains on: forward, backward, the same gradients.
    for model in (whole.model, split.model):
        nn.functional.cross_entropy(model(ids).logits[0], ids[0]).backward()
    for (name, here), there in zip(whole.model.named_parameters(), split.model.parameters(), strict=True):
        assert torch.allclose(here.grad, there.grad.full_tensor(), atol=1e-6), name
    assert parameters_hash(whole.model) == parameters_hash(split.model)


def begin_fsdp():
    """Accelerate takes FSDP2 for GPUs alone, so these CPUs say they are."""
    from accelerate import DistributedType, PartialState

    settings = load_config_from_file(str(parallel.FOLDER / "fsdp2.yaml")).fsdp_config
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ.update({name.upper(): str(value) for name, value in settings.items()})
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


def begin_deepspeed():
    """ZeRO-3 leaves small parameters whole, and all of this policy's are small: here it must split them too."""
    import deepspeed.ops
    from accelerate import DeepSpeedPlugin

    # Training never uses it, and it takes a minute to compile.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    prepare = DeepSpeedPlugin.__post_init__

    def prepare_all_split(self):
        prepare(self)
        self.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

    DeepSpeedPlugin.__post_init__ = prepare_all_split


def train_split(file, folder, name):
    """A run whose policy is split, stopped and resumed."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    here, whole = set(), parallel.whole
    parallel.whole = lambda parameter: (here.add(parameter.numel()), whole(parameter))[1]
    built = experiment.load(str(file))
    assert not run.train(built, "flow", 0, folder, stop=lambda: parallel.first())
    parts = {path.name for path in last_checkpoint(folder).glob("*/*")}
    if name == "fsdp2":
        assert "__0_0.distcp" in parts
    else:
        assert "zero_pp_rank_1_mp_rank_00_optim_states.pt" in parts
        # A part that was in use a moment ago may still be whole.
        assert (0 in here) == (name == "zero3")
    unset_hf_deepspeed_config()  # a new process would know nothing of it
    assert run.train(built, "flow", 0, folder)


def main(file, folder, name):
    """In each of two processes."""
    from torch import distributed

    torch.set_num_threads(1)
    if name == "fsdp2":
        distributed.init_process_group("gloo")
        check_abstention(distributed.get_rank())
        check_fsdp()
        begin_fsdp()
    else:
        begin_deepspeed()
    train_split(Path(file), Path(folder), name)
    print("alike")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
