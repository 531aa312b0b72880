"""Protects replay, intervene and trace on a GPU from tensors of two devices in one operation, where there is no GPU.

The stand-in for one (`standin.py`) stays for good in the process that made it, so these tests run in a process of their
own, which `test_on_a_stand_in` starts. Where there is a GPU, the commands' own tests run on it.
"""

import io
import json
import os
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten

import tasks
from flowtracer import credit, trace
from harness import cli, seeds
from harness.engines.base import Sampling
from harness.engines.keyed import sample
from harness.experiment import task_of
from harness.policy import load_policy
from harness.runs import run
from harness.studies import rollouts, weighing

OWN_PROCESS = os.environ.get("FLOWTRACER_TEST_STANDIN") == "1"
on_stand_in = pytest.mark.skipif(not OWN_PROCESS, reason="in a process of their own, below")

if OWN_PROCESS:
    from tests.harness.standin import There, moved, standin


@pytest.fixture(autouse=True)
def plain_attention():
    """The attention that the stand-in computes, for the CPU too: then nothing differs between the two."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@pytest.fixture
def to_stand_in(monkeypatch):
    """Moves policies to the stand-in where a command would move them to the GPU; lists them."""
    policies = []

    def move(policy):
        policies.append(policy)
        return moved(policy)

    monkeypatch.setattr("harness.policy.to_gpu", move)
    return policies


@on_stand_in
@pytest.mark.parametrize(
    "mistake",
    [
        lambda there, here: there + here,
        lambda there, here: torch.where(there > 0, there, here),
        lambda there, here: here[there > 0],
        lambda there, here: here.masked_fill_(there > 0, 0.0),
        lambda there, here: there.index_put_((here > 0,), here),
        lambda there, here: torch.cat([there, here]),
        lambda there, here: there.sum() * here,
        lambda there, here: there.numpy(),
        lambda there, here: torch.rand(3, generator=torch.Generator(), device=there.device),
        lambda there, here: there * torch.tensor([1.0, 2.0, 3.0]),
        lambda there, here: torch.nn.functional.linear(there, here),
    ],
)
def test_what_a_gpu_refuses_is_refused(mistake):
    with standin(), pytest.raises((RuntimeError, TypeError)):
        mistake(There(torch.arange(3.0)), torch.arange(3.0))


@on_stand_in
def test_what_a_gpu_allows_is_computed():
    with standin():
        there, here = There(torch.arange(3.0)), torch.arange(3.0)
        assert torch.tensor([1.0], device=there.device).device == there.device
        assert (there + torch.tensor(1.0)).tolist() == [1.0, 2.0, 3.0]
        assert there[here > 0].tolist() == [1.0, 2.0]
        there[[0]] = 5.0
        here.copy_(there)
        assert here.tolist() == there.cpu().tolist() == [5.0, 1.0, 2.0]
        there.requires_grad_().square().sum().backward()
        assert isinstance(there.grad, There) and there.grad.tolist() == [10.0, 2.0, 4.0]


@on_stand_in
@pytest.mark.parametrize(
    "arguments",
    [
        "replay decision --batches=2 --set=training.prompts_per_step=2 --methods=flow --valued=2 --continuations=2",
        "intervene decision decision:contexts=4 --problems=4 --samples=2 --methods=flow,random",
        "intervene decision decision:contexts=4 --problems=4 --samples=2 --masking=deletion",
    ],
)
def test_a_command_finds_there_what_it_finds_here(arguments, to_stand_in, tmp_path):
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.policy.to_gpu", lambda policy: policy)
        assert cli.main([*arguments.split(), "--export", str(here)]) == 0
    with standin():
        assert cli.main([*arguments.split(), "--export", str(there)]) == 0
    assert [policy.model.device.type for policy in to_stand_in] == ["standin"]
    found, wanted = (tree_flatten(_untimed(json.loads(file.read_text()))) for file in (there, here))
    assert found[1] == wanted[1]
    for value, other in zip(found[0], wanted[0], strict=True):
        # Backward adds up in another order there.
        near = isinstance(other, float)
        assert value == (pytest.approx(other, rel=1e-3, abs=1e-6, nan_ok=True) if near else other)


def _untimed(kept):
    """What a command wrote, without the seconds that each method took and the command, which names the file."""
    assert kept.pop("command").startswith("flowtracer ")
    for figures in kept.get("figures", ()):
        del figures["seconds"]
    return kept


@on_stand_in
def test_trace_shows_there_what_it_shows_here(to_stand_in, tmp_path, capsys):
    page = tmp_path / "trace.html"
    arguments = ["trace", "--policy=decision", "--task=decision", "--layers=all", "--html", str(page)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.policy.to_gpu", lambda policy: policy)
        assert cli.main(arguments) == 0
    here = capsys.readouterr().out, page.read_text()
    with standin():
        assert cli.main(arguments) == 0
    assert (capsys.readouterr().out, page.read_text()) == here
    assert [policy.model.device.type for policy in to_stand_in] == ["standin"]


@on_stand_in
def test_a_map_that_is_never_whole_stays_there():
    task, policy = tasks.get("decision"), load_policy("decision")
    prompt = policy.encode(task.prompt(task.problems("test", 1)[0]))
    key = seeds.key("evaluation", task.name, "decision/test/0", 0)
    response = sample(policy.model, policy.tokenizer, [prompt], [key], Sampling(32, temperature=0.0))[0].ids

    def shown():
        found = trace(policy.model, policy.tokenizer, prompt, response, task=task, dense_tokens=0)
        screen = Console(file=io.StringIO(), width=80)
        screen.print(found.to_terminal())
        return found.capacity.device.type, screen.file.getvalue()

    here = shown()
    moved(policy)
    with standin():
        assert shown() == ("standin", here[1])


@on_stand_in
def test_a_gradient_comes_from_there_a_parameter_at_a_time(monkeypatch):
    """As one vector it would take as much of a GPU's memory as the policy."""
    model, made, begin = moved(load_policy("decision")).model, [], There.__init__
    with standin():
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        monkeypatch.setattr(
            There, "__init__", lambda self, values: made.append(values.numel()) or begin(self, values)
        )
        assert weighing.flat_gradient(model, None).sum() == sum(map(torch.numel, model.parameters()))
    assert max(made, default=0) <= max(map(torch.numel, model.parameters()))


@on_stand_in
@pytest.mark.parametrize("name", [name for name in credit.names() if "values" not in credit.get(name).needs])
def test_a_credit_method_gives_there_the_weights_that_it_gives_here(name, tiny_experiment):
    built = tiny_experiment(samples_per_prompt=4)
    policy, task, method = run.policy_of(built), task_of(built.task), credit.get(name)
    batches = rollouts.fresh(built, policy, 1, 0)
    here = weighing.gradients(policy, task, built.training, batches, method)
    moved(policy)
    with standin():
        there = weighing.gradients(policy, task, built.training, batches, method)
    assert [weights.tolist() for weights in there.weights[0]] == [
        weights.tolist() for weights in here.weights[0]
    ]


@pytest.mark.slow
@pytest.mark.skipif(OWN_PROCESS, reason="is the other process")
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices in Python",
)
def test_on_a_stand_in():
    environment = {**os.environ, "FLOWTRACER_TEST_STANDIN": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout, done.stdout[-4000:]
