"""Protects the shipped policies: the recipe is deterministic, and the weights are what their cards say."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness import ExperimentError, pretrain, seeds
from harness.engines.base import Sample, Sampling
from harness.engines.keyed import sample
from harness.policy import FOLDER, SHIPPED, load_policy
from tasks import Problem, Task
from tasks.decision import FILLER, LETTERS
from tasks.graph import Graph


@pytest.fixture(autouse=True)
def unharmed_process() -> Iterator[None]:
    """The recipe seeds torch; other tests must not notice."""
    with torch.random.fork_rng():
        yield


def small(name: str) -> pretrain.Recipe:
    return dataclasses.replace(
        pretrain.RECIPES[name], width=16, inner_width=16, heads=2, groups=1, head_width=8, steps=2, batch=4
    )


def test_the_recipe_gives_the_same_file_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pretrain.RECIPES, "arithmetic", small("arithmetic"))
    torch.manual_seed(5)
    first = pretrain.pretrain("arithmetic", tmp_path / "first")
    torch.manual_seed(6)
    second = pretrain.pretrain("arithmetic", tmp_path / "second")
    assert first == second
    for file in ("model.safetensors", "tokenizer.json", "README.md", "config.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    card = (tmp_path / "first" / "README.md").read_text()
    assert first in card and "2 steps of 4 demonstrations" in card


def test_only_the_response_and_its_end_are_scored(tmp_path: Path) -> None:
    trainer = pretrain._trainer("decision", small("decision"), 1, str(tmp_path))
    batch = trainer.data_collator([trainer.train_dataset[0]])
    scored = batch["labels"][0] != -100
    tokenizer = trainer.processing_class
    assert tokenizer.decode(batch["input_ids"][0][~scored]).endswith("?")
    response = batch["input_ids"][0][scored]
    assert response[-1] == tokenizer.eos_token_id
    assert FILLER[0] <= len(response) - len("a#a") - 1 <= FILLER[1]
    assert torch.equal(batch["labels"][0][scored], response)


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExperimentError, match="did you mean .decision"):
        pretrain.pretrain("decisions", Path("nowhere"))
    with pytest.raises(SystemExit) as error:
        pretrain.main(["decisions"])
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_shipped_policy_has_a_recipe() -> None:
    assert set(pretrain.RECIPES) == set(SHIPPED)


def test_the_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 10_000_000


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_describes_these_weights(name: str) -> None:
    weights = (FOLDER / name / "model.safetensors").read_bytes()
    card = (FOLDER / name / "README.md").read_text()
    recipe = pretrain.RECIPES[name]
    assert hashlib.sha256(weights).hexdigest() in card
    assert f"{recipe.steps} steps of {recipe.batch} demonstrations" in card
    policy = load_policy(name)
    assert policy.model.config.num_hidden_layers == recipe.layers
    assert policy.model.config.num_key_value_heads == recipe.groups < policy.model.config.num_attention_heads
    longest = max(
        len(policy.encode(recipe.task_of().prompt(problem))) for problem in recipe.task_of().problems("train")
    )
    assert longest + recipe.max_new_tokens <= policy.model.config.max_position_embeddings


def answers(name: str, count: int, temperature: float = 1.0) -> tuple[Task, list[tuple[Problem, Sample]]]:
    policy, task = load_policy(name), pretrain.RECIPES[name].task_of()
    problems = list(task.problems("test", count))
    samples = sample(
        policy.model,
        policy.tokenizer,
        [policy.encode(task.prompt(problem)) for problem in problems],
        [seeds.key("test", problem.id) for problem in problems],
        Sampling(pretrain.RECIPES[name].max_new_tokens, temperature),
    )
    return task, list(zip(problems, samples, strict=True))


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("decision")])
def test_decisions_are_blind_and_copied(name: str) -> None:
    """What the testbed rests on: uniform decisions, nothing known of the table, copies that hold."""
    task, answered = answers(name, 256)
    texts = [one.text for _, one in answered]
    formed = {text: span for text in texts if (span := task.extract(text)) is not None}
    assert len(formed) >= 0.98 * len(texts)
    copied = [
        text
        for text, (start, _) in formed.items()
        if {text[hop] for hop, _ in task.decisive(text) or ()} == {text[start]}
    ]
    assert len(copied) >= 0.97 * len(texts)
    if name == "decision-decoy":
        assert sum(text[start - 2] == text[start + 1] for text, (start, _) in formed.items()) >= 0.97 * len(
            texts
        )
    policy = load_policy(name)
    problems = task.problems("test")
    letters = policy.tokenizer.convert_tokens_to_ids(list(LETTERS))
    with torch.no_grad():
        logits = policy.model(torch.tensor([policy.encode(task.prompt(one)) for one in problems])).logits
    decisions = logits[:, -1].softmax(-1)[:, letters]
    assert decisions.min() > 0.85 / len(LETTERS) and decisions.max() < 1.15 / len(LETTERS)


def test_arithmetic_can_be_improved() -> None:
    """Neither ignorant nor finished: reinforcement learning needs right answers to find, and wrong ones to lose."""
    task, answered = answers("arithmetic", 256, temperature=0)
    right = sum(task.verify(problem, one.text) == "correct" for problem, one in answered)
    assert 0.4 < right / len(answered) < 0.7
    assert sum(task.extract(one.text) is not None for _, one in answered) > 250


def test_graph_has_its_mechanics_and_no_plan() -> None:
    """The graph's testbed rests on it: steps are worked out right, and which ones is left to chance."""
    task, answered = answers("graph", 64)
    assert isinstance(task, Graph)
    steps = [step for problem, one in answered for step in task.steps(problem, one.text)]
    assert sum(step.faithful for step in steps) >= 0.95 * len(steps)
    assert 0.6 < sum(step.workable for step in steps) / len(steps) < 0.95
    right = sum(task.verify(problem, one.text) == "correct" for problem, one in answered)
    assert 0.3 < right / len(answered) < 0.7
