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
from tasks.decision import LABELS, LETTERS, Decision


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


def scored(recipe: pretrain.Recipe, folder: Path, row: int) -> tuple[str, str, str]:
    """Of a training row: the text, what of it is scored, and what is not. The end token is written as a dot."""
    trainer = pretrain._trainer("decision", recipe, 1, str(folder))
    batch = trainer.data_collator([trainer.train_dataset[row]])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    assert torch.equal(labels[labels != -100], ids[labels != -100])

    def text(chosen: torch.Tensor) -> str:
        return str(trainer.processing_class.decode(chosen)).replace("<eos>", ".").replace(" ", "")

    return text(ids), text(ids[labels != -100]), text(ids[labels == -100])


def test_only_the_response_and_its_end_are_scored(tmp_path: Path) -> None:
    for row in range(4):
        whole, counted, rest = scored(
            dataclasses.replace(small("decision"), unscored=0.0), tmp_path / str(row), row
        )
        assert whole == rest + counted and len(rest) == 5
        assert Decision().extract(counted.removesuffix(".")) is not None and counted[-1] == "."


def test_what_chance_draws_can_be_left_out(tmp_path: Path) -> None:
    """The order, the copy and the form are scored; a letter that nothing tells is not."""
    for row in range(4):
        whole, counted, _ = scored(
            dataclasses.replace(small("decision"), unscored=1.0), tmp_path / str(row), row
        )
        prompt, response = whole[:5], whole[5:].removesuffix(".")
        order = prompt[-1].replace("?", "")
        letters = [response[3 + 2 * place + 1] for place in range(10)]
        ordered = response.index(LABELS[int(prompt[3])])
        labels = [
            response[3 + 2 * place] + (order if 3 + 2 * place == ordered else "") for place in range(10)
        ]
        assert set(letters) <= set(LETTERS)
        assert counted == response[:3] + "".join(labels) + response[-3:] + "."


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExperimentError, match="decision-chain"):
        pretrain.pretrain("decisions", Path("nowhere"))
    with pytest.raises(SystemExit) as error:
        pretrain.main(["decisions"])
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_shipped_policy_has_a_recipe() -> None:
    assert set(pretrain.RECIPES) == set(SHIPPED)


def test_the_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 8_000_000


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
    assert isinstance(task, Decision)
    texts = [one.text for _, one in answered]
    formed = [text for text in texts if task.extract(text) is not None]
    assert len(formed) >= 0.98 * len(texts)
    assert sum(text.endswith(task.copied(text)) for text in formed) >= 0.98 * len(texts)
    policy = load_policy(name)
    letters = policy.tokenizer.convert_tokens_to_ids(list(LETTERS))
    for prompt, text in [(problem.question, one.text) for problem, one in answered if one.text in formed][
        :64
    ]:
        ids = policy.encode(prompt + text[: task.named(text)[0]])
        with torch.no_grad():
            decision = policy.model(torch.tensor([ids])).logits[0, -1].softmax(-1)[letters]
        assert decision.min() > 0.8 / len(LETTERS) and decision.max() < 1.2 / len(LETTERS)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("decision")])
def test_an_order_is_followed(name: str) -> None:
    """The policy counts: it writes an ordered letter at the place that the prompt names."""
    policy, task = load_policy(name), pretrain.RECIPES[name].task_of()
    assert isinstance(task, Decision)
    orders = [pair for pair in task.demonstrations(256, "test") if pair[0][-1] != "?"]
    samples = sample(
        policy.model,
        policy.tokenizer,
        [policy.encode(prompt) for prompt, _ in orders],
        [seeds.key("order", index) for index in range(len(orders))],
        Sampling(32),
    )
    followed = sum(
        one.text[place] == prompt[-1]
        for (prompt, _), one in zip(orders, samples, strict=True)
        for place in task.named(one.text)[:1]
    )
    assert followed >= 0.9 * len(orders)


def test_arithmetic_can_be_improved() -> None:
    """Neither ignorant nor finished: reinforcement learning needs right answers to find, and wrong ones to lose."""
    task, answered = answers("arithmetic", 256, temperature=0)
    right = sum(task.verify(problem, one.text) == "correct" for problem, one in answered)
    assert 0.4 < right / len(answered) < 0.7
    assert sum(task.extract(one.text) is not None for _, one in answered) > 250
