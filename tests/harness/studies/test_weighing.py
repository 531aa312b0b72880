"""Protects the weighing of given rollouts: its gradients are those that the trainer steps along."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from flowtracer import credit, weigh
from harness.experiment import task_of
from harness.runs import run
from harness.runs.checkpoints import Boundaries, parameters_hash
from harness.studies import rollouts, weighing
from leaderboards import read_run


@pytest.fixture
def policy(tiny_experiment):
    return run.policy_of(tiny_experiment())


def weighed(built, policy, batches, name, **options):
    method = credit.get(name, **options)
    return weighing.gradients(policy, task_of(built.task), built.training, batches, method)


@pytest.mark.parametrize(
    ("label", "micro", "dtype"),
    [("uniform", 0, "float32"), ("flow", 0, "float32"), ("flow", 4, "float32"), ("flow", 0, "bfloat16")],
)
def test_the_gradient_is_the_one_that_the_trainer_steps_along(
    tiny_experiment, tmp_path, monkeypatch, label, micro, dtype
):
    """A run's first gradient, taken from the trainer before it is clipped, on rollouts that it sampled itself."""
    built = tiny_experiment((label,), micro_batch=micro, steps=1, save_every=1, max_gradient_norm=1e9)
    object.__setattr__(built, "policy", dataclasses.replace(built.policy, dtype=dtype))
    seen = []

    class Spy(Boundaries):
        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            seen.append(np.concatenate([p.grad.numpy().ravel() for p in model.parameters()]))

    monkeypatch.setattr(run, "Boundaries", Spy)
    run.train(built, label, 0, tmp_path)
    policy = run.policy_of(built)
    policy.model.float()
    batches = rollouts.fresh(built, policy, 1, 0)
    recorded = read_run(tmp_path).table("rollouts").to_pylist()
    assert [row["response_ids"] for row in batches[0]] == [row["response_ids"] for row in recorded]
    assert [row["reward"] for row in batches[0]] == [row["reward"] for row in recorded]
    method = credit.get(label)
    kept = weighing.gradients(policy, task_of(built.task), built.training, batches, method, dtype)
    assert np.abs(seen[0]).max() > 0
    # The same rows, order, micro-batches, loss and type: nothing is rounded elsewhere.
    np.testing.assert_array_equal(kept.gradients[0], seen[0])
    for ours, theirs in zip(kept.weights[0], recorded, strict=True):
        assert ours.tolist() == theirs["weights"]
    assert len(kept.seconds) == 1 and kept.seconds[0] > 0
    assert kept.gap < (1e-5 if dtype == "float32" else 1e-2)


def test_further_responses_are_those_of_a_run(tiny_experiment, tmp_path):
    """Weights by continuations, of a run's first step and of its replay: the same names, engine and verifier."""
    options = {"every": 8, "samples": 2}
    built = tiny_experiment({"vine": options}, steps=1, save_every=1)
    run.train(built, "vine", 0, tmp_path)
    policy = run.policy_of(built)
    batches = rollouts.fresh(built, policy, 1, 0)
    recorded = read_run(tmp_path).table("rollouts").to_pylist()
    again = weighing.gradients(
        policy, task_of(built.task), built.training, batches, credit.get("vine", **options)
    )
    for ours, theirs in zip(again.weights[0], recorded, strict=True):
        assert ours.tolist() == theirs["weights"]
    assert len({weight for row in recorded for weight in row["weights"]}) > 2, (
        "against values that never change"
    )
    foreign = [[{**row, "problem_id": "dump/0"} for row in rows] for rows in batches]
    trouble = weighing.values_trouble(task_of(built.task), foreign, credit.get("vine"))
    assert trouble is not None and trouble.startswith("dump/0 is no training problem")
    assert weighing.values_trouble(task_of(built.task), batches, credit.get("vine")) is None


def test_the_policy_does_not_move_and_methods_share_rollouts(tiny_experiment, policy):
    built = tiny_experiment()
    before = parameters_hash(policy.model)
    batches = rollouts.fresh(built, policy, 2, 0)
    one, again = (weighed(built, policy, batches, "uniform") for _ in range(2))
    assert parameters_hash(policy.model) == before
    assert not policy.model.training and all(p.grad is None for p in policy.model.parameters())
    np.testing.assert_array_equal(one.gradients, again.gradients)
    larger = weighed(built, policy, batches, "constant", weight=2.0)
    np.testing.assert_allclose(larger.gradients, 2 * one.gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["uniform", "flow", "gradient", "entropy", "ktae", "tempo", "oracle"])
def test_the_weights_are_those_of_weigh(name, tiny_experiment, policy):
    """Bit for bit, in both batches: the trainer and the public function are one reading of a response."""
    built = tiny_experiment()
    batches = rollouts.fresh(built, policy, 2, 0)
    # Of an answer that is certain the gradient is rounding noise, which depends on the layout of a batch.
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(0.2)
    task, method = task_of(built.task), credit.get(name)
    passed = weighing.gradients(policy, task, built.training, batches, method)
    for number, rows in enumerate(batches):
        weighed = weigh(
            policy.model,
            policy.tokenizer,
            [row["prompt_ids"] for row in rows],
            [row["response_ids"] for row in rows],
            method,
            task=task,
            rewards=[row["reward"] for row in rows],
            groups=[row["group"] for row in rows],
            advantages=passed.advantages[number],
            questions=[row["question"] for row in rows],
            temperature=built.training.temperature,
        )
        assert [response.weights.tolist() for response in weighed] == [
            weights.tolist() for weights in passed.weights[number]
        ]
        abstained = {(number, row) for row, response in enumerate(weighed) if response.abstained}
        assert abstained == {place for place in passed.abstained if place[0] == number}


def test_each_response_has_the_question_of_its_prompt(tiny_experiment, policy):
    """A method whose source is the question alone finds it; another question would be refused or weigh otherwise."""
    built = tiny_experiment()
    batches = rollouts.fresh(built, policy, 2, 0)
    task, method = task_of(built.task), credit.get("flow", source="question")
    passed = weighing.gradients(policy, task, built.training, batches, method)
    rows = batches[1]
    weighed = weigh(
        policy.model,
        policy.tokenizer,
        [row["prompt_ids"] for row in rows],
        [row["response_ids"] for row in rows],
        method,
        task=task,
        questions=[row["question"] for row in rows],
    )
    assert [w.weights.tolist() for w in weighed] == [w.tolist() for w in passed.weights[1]]
    assert any(weights.max() > 1 for weights in passed.weights[1])


def test_projection_keeps_inner_products(monkeypatch):
    monkeypatch.setattr(weighing, "SKETCH", 4096)
    model = torch.nn.Linear(100, 100)
    signs = weighing.random_signs(model)
    vectors, projected = [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator) + 0.3
        vectors.append(weighing.flat_gradient(model, None))
        projected.append(weighing.flat_gradient(model, signs))
    assert projected[0].shape == (4096,)
    exact, kept = (
        np.stack(rows).astype(float) @ np.stack(rows).T.astype(float) for rows in (vectors, projected)
    )
    lengths = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert np.abs(kept - exact).max() / lengths.max() < 5 / math.sqrt(4096)
    assert weighing.random_signs(torch.nn.Linear(10, 10)) is None
