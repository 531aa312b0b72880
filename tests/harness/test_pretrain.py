"""Protects the shipped policies: the recipe is deterministic, and the weights are what their cards say."""

import dataclasses
import hashlib
import operator
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import ExperimentError, policy_card, pretrain, seeds
from harness.engines.base import Sample, Sampling
from harness.engines.keyed import sample
from harness.policy import FOLDER, SHIPPED, Policy, character_tokenizer, load_policy
from tasks import Problem, Task
from tasks.decision import ANSWERS, LABELS, LETTERS, Decision
from tasks.graph import Graph
from tests.harness.letters import as_drawn, right


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
    assert len(response) == len("ca3jbkelamgncodpbqbrfih#3F") + 1
    assert torch.equal(batch["labels"][0][scored], response)


def test_copied_capitals_weigh_more_in_the_loss(tmp_path: Path) -> None:
    """The loss of two demonstrations of different length, against a loop over their tokens."""
    trainer: Any = pretrain._trainer("decision-decoy", small("decision-decoy"), 1, str(tmp_path))
    rows = [trainer.train_dataset[row] for row in range(2)]
    rows[1] = {name: column[:-4] for name, column in rows[1].items()}
    batch = trainer.data_collator(rows)
    tokenizer, sums = trainer.processing_class, [0.0, 0.0]
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        logits = trainer.model(ids[None], attention_mask=mask[None]).logits[0].log_softmax(-1).detach()
        for at in range(1, len(ids)):
            if labels[at] != -100:
                weight = 8.0 if tokenizer.decode([ids[at]]) in tuple(ANSWERS) else 1.0
                sums[0] -= weight * float(logits[at - 1, ids[at]])
                sums[1] += weight
    assert sums[1] > 2 * len("caa38jbkelamgncodpbqbrfih") + 8
    assert float(trainer.compute_loss(trainer.model, batch).detach()) == pytest.approx(
        sums[0] / sums[1], rel=1e-5
    )


def test_a_policy_that_starts_from_another_does_what_that_one_does() -> None:
    """Before its first step, and with the characters that both have."""
    recipe, known = pretrain.RECIPES["decision-20"], load_policy("decision")
    tokenizer = character_tokenizer(recipe.alphabet)
    model = pretrain._begun(recipe, tokenizer).eval()
    text, both = "cab3?ca3jbkelamgn", pretrain.RECIPES["decision"].alphabet

    def logits(of: Any, reader: Any) -> torch.Tensor:
        with torch.no_grad():
            return of(torch.tensor([reader(text).input_ids])).logits[0][
                :, reader.convert_tokens_to_ids(list(both))
            ]

    # A head of another width may be multiplied by another kernel.
    torch.testing.assert_close(
        logits(model, tokenizer), logits(known.model, known.tokenizer), atol=1e-5, rtol=1e-5
    )
    embeddings, before = model.get_input_embeddings().weight, known.model.get_input_embeddings().weight
    copied, original = (of.convert_tokens_to_ids(list(both)) for of in (tokenizer, known.tokenizer))
    assert torch.equal(embeddings[copied], before[original])
    new = model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(LABELS[19])]
    assert 0.5 < float(new.detach().std()) * recipe.width**0.5 < 1.5
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


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
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 12_000_000


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


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_that_is_shipped_is_the_one_that_would_be_written(name: str) -> None:
    """From the figures that it states: everything in it except the versions of packages."""
    shipped = (FOLDER / name / "README.md").read_text()
    recipe, made_with = pretrain.RECIPES[name], "Made with Python"
    rows = re.findall(r"^\| (\w.*?) \| (.+) \|$", shipped, flags=re.MULTILINE)
    digest = hashlib.sha256((FOLDER / name / "model.safetensors").read_bytes()).hexdigest()
    words = pretrain._loop_of(recipe).words(name, recipe)
    written = policy_card.card(name, recipe, load_policy(name).model, digest, rows, words)
    assert len(rows) >= 2 and written.split(made_with)[0] == shipped.split(made_with)[0]


def test_the_optimizers_settings_are_the_recipes_in_both_loops_and_on_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"beta2": 0.9, "clip_norm": 0.25}
    arithmetic = dataclasses.replace(small("arithmetic"), **other)
    args = pretrain._trainer("arithmetic", arithmetic, 1, str(tmp_path)).args
    assert (args.adam_beta2, args.max_grad_norm) == (0.9, 0.25)
    graph, seen = dataclasses.replace(small("graph"), **other), {}
    optimizer, clip = torch.optim.AdamW, torch.nn.utils.clip_grad_norm_

    def noted_optimizer(*values: Any, **options: Any) -> Any:
        seen.update(betas=options["betas"])
        return optimizer(*values, **options)

    def noted_clip(weights: Any, norm: float) -> Any:
        seen.update(norm=norm)
        return clip(weights, norm)

    monkeypatch.setattr(torch.optim, "AdamW", noted_optimizer)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted_clip)
    model, _ = pretrain._loop_of(graph).train("graph", graph)
    assert seen == {"betas": (0.9, 0.9), "norm": 0.25}
    for recipe in (arithmetic, graph):
        card = policy_card.card("x", recipe, model, "0", [], "")
        assert "AdamW (beta2 0.9)" in card and "clip norm 0.25" in card


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


TESTBEDS = [name for name in SHIPPED if name.startswith("decision")]


def decision_of(name: str) -> Decision:
    task = pretrain.RECIPES[name].task_of()
    assert isinstance(task, Decision)
    return task


def deciding(policy: Policy, task: Decision, pairs: Sequence[tuple[str, str]]) -> torch.Tensor:
    """(pairs, letters): the policy's probabilities where each response decides, behind the label that is named."""
    letters = policy.tokenizer.convert_tokens_to_ids(list(LETTERS))
    ids = torch.tensor([policy.encode(prompt) + policy.encode(text) for prompt, text in pairs])
    with torch.no_grad():
        probabilities = policy.model(ids).logits.softmax(-1)[:, :, letters]
    before = torch.tensor([len(prompt) + task.named(text)[0] - 1 for prompt, text in pairs])
    return probabilities[torch.arange(len(pairs)), before]


@pytest.mark.parametrize("name", TESTBEDS)
def test_decisions_are_blind_and_copied(name: str) -> None:
    """The testbed rests on it: decisions as chance draws them, nothing known of the table, copies that hold."""
    task, (_, answered) = decision_of(name), answers(name, 320)
    formed = [
        (one.question, sample.text) for one, sample in answered if task.extract(sample.text) is not None
    ]
    assert len(formed) >= 0.98 * len(answered)
    assert sum(text.endswith(task.copied(text)) for _, text in formed) >= 0.97 * len(answered)
    places = [[task.places.index(place) for place in question[3:-1]] for question, _ in formed]
    labels = [[LABELS.index(text[at - 1]) for at in task.named(text)] for _, text in formed]
    assert sum(map(operator.eq, places, labels)) >= 0.98 * len(answered), "it decides where it is asked to"
    probabilities = deciding(load_policy(name), task, formed)
    drawn = torch.tensor([as_drawn(LABELS[named[0]]) for named in labels])
    apart = (probabilities - drawn).abs().sum(1) / 2
    assert apart.mean() < 0.05 and apart.max() < 0.15
    answers_of = [right(question) for question, _ in formed]
    known = (probabilities / drawn)[torch.arange(len(formed)), answers_of]
    assert known.mean() == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("name", TESTBEDS)
def test_an_order_is_obeyed_where_it_stands(name: str) -> None:
    """So the policy knows the place of its decision, which it is never shown where it decides itself."""
    task = decision_of(name)
    ordered = [pair for pair in task.demonstrations(256, "test") if not pair[0].endswith("?")]
    wanted = [LETTERS.index(prompt[-1]) for prompt, _ in ordered]
    obeyed = deciding(load_policy(name), task, ordered)[torch.arange(len(ordered)), wanted]
    # Among the two places that a decoy's prompt names, its policy takes the wrong one in some prompts; decision-20 does
    # not know one of its twenty places.
    least = {"decision-decoy": 0.85, "decision-20": 0.9}
    assert len(ordered) == 128 and obeyed.mean() > least.get(name, 0.95)


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
