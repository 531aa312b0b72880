"""The model card of a shipped policy: what it can do before reinforcement learning, measured, and how it was made."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

import tasks
from harness import seeds
from harness.engines.base import Sample, Sampling
from harness.engines.keyed import sample
from harness.recipes import Recipe
from tasks.decision import Decision
from tasks.graph import Graph

#: The measurements take the test problems this many at a time, and sample each this many times.
BATCH, SAMPLES = 256, 4

Answers = Sequence[tuple[tasks.Problem, Sample]]


def measure(recipe: Recipe, model: Any, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """The rows of the card, (name, value), measured on the task's test split."""
    task = recipe.task_of()
    greedy = _answers(task, recipe, model, tokenizer, 0.0, 1)
    drawn = _answers(task, recipe, model, tokenizer, 1.0, SAMPLES)
    rows = [
        ("accuracy, greedy", _accuracy(task, greedy, 1)),
        ("accuracy, temperature 1", _accuracy(task, drawn, SAMPLES)),
    ]
    if isinstance(task, Graph):
        rows += _of_steps(task, drawn)
    if isinstance(task, Decision):
        rows += _of_decisions(task, drawn)
    return rows


def _answers(
    task: tasks.Task,
    recipe: Recipe,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    temperature: float,
    repeats: int,
) -> Answers:
    """The test problems, all of them `repeats` times over, each with a sample of the policy."""
    problems = task.problems("test")
    asked = [(problem, index) for index in range(repeats) for problem in problems]
    sampled: list[Sample] = []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        sampled += sample(
            model,
            tokenizer,
            [tokenizer(task.prompt(problem)).input_ids for problem, _ in part],
            [seeds.key("evaluation", task.name, problem.id, index) for problem, index in part],
            Sampling(recipe.max_new_tokens, temperature),
        )
    return [(problem, answer) for (problem, _), answer in zip(asked, sampled, strict=True)]


def _accuracy(task: tasks.Task, answers: Answers, repeats: int) -> str:
    """The share of correct answers, and how many have which verdict. repeats: answers to each problem."""
    verdicts = Counter(
        str(task.verify(problem, answer.text, answer.finish_reason)) for problem, answer in answers
    )
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    asked = f"{len(answers) // repeats} problems, {repeats} sample{'s' * (repeats > 1)} each"
    return f"{verdicts['correct'] / len(answers):.3f} ({counts}; {asked})"


def _of_steps(task: Graph, answers: Answers) -> list[tuple[str, str]]:
    """The rows of the card that are about the steps of responses."""
    steps = [step for problem, answer in answers for step in task.steps(problem, answer.text)]
    if not steps:
        return [("steps", "none")]
    workable, needed = sum(step.workable for step in steps), sum(step.needed for step in steps)
    return [
        ("steps with right mechanics", f"{sum(step.faithful for step in steps) / len(steps):.4f}"),
        ("steps whose operands were all worked out before", f"{workable / len(steps):.3f}"),
        ("steps that the asked variable needs", f"{needed / len(steps):.3f}"),
    ]


def _of_decisions(task: Decision, answers: Answers) -> list[tuple[str, str]]:
    """The rows of the card that are about decisions; none where no response has the task's form."""
    formed = [answer.text for _, answer in answers if task.extract(answer.text) is not None]
    if not formed:
        return []
    copied = sum(text.endswith(task.copied(text)) for text in formed)
    letters = Counter(text[task.named(text)[0]] for text in formed)
    shares = [count / len(formed) for _, count in sorted(letters.items())]
    return [
        ("responses whose answer copies the decision", f"{copied / len(answers):.4f}"),
        ("decisions, each letter's share", " ".join(f"{share:.3f}" for share in shares)),
    ]


def card(
    name: str, recipe: Recipe, model: Any, digest: str, measured: Sequence[tuple[str, str]], demonstrated: str
) -> str:
    """The text of the card. digest: SHA-256 of the weights. demonstrated: how demonstrations were drawn, and what
    trained on them.
    """
    variant = "".join(f", {option} {value}" for option, value in recipe.options.items())
    packages = ("torch", "transformers", "trl", "tokenizers", "numpy")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    table = "\n".join(f"| {row} | {value} |" for row, value in measured)
    return f"""---
license: apache-2.0
library_name: transformers
---
# {name}

The warm start of the task {recipe.task}{variant}: what it can do before reinforcement learning.
Made by `python -m harness.pretrain {name}`; this card is written by that command.

## Model

Qwen3 architecture, {sum(weight.numel() for weight in model.parameters()):,} float32 weights: {recipe.layers}
layers, width {recipe.width}, inner width {recipe.inner_width}, {recipe.heads} query heads on {recipe.groups}
key-value heads of {recipe.head_width}, tied embeddings, at most {recipe.context} tokens. One token a
character (`{recipe.alphabet}`), `<pad>` and `<eos>`. Prompts are read as they are; there is no chat
template.

## Recipe

{recipe.steps} steps of {recipe.batch} demonstrations, each seen once, generated by the task
({demonstrated}, AdamW (beta2 {recipe.beta2:g}), learning rate
{recipe.learning_rate:g} ({recipe.schedule}), clip norm {recipe.clip_norm:g}, {_first_weights(recipe)}.

## Measured on the test split

| | |
|---|---|
{table}

## Weights

SHA-256 of `model.safetensors`: `{digest}`

Made with Python {platform.python_version()}, {versions}, one thread on {platform.machine()}
({torch.backends.cpu.get_cpu_capability()}). The same recipe on such a machine gives the same hash.
"""


def weighted(recipe: Recipe) -> str:
    """The characters that weigh more in the loss, as words behind "the loss"; empty where none does."""
    by_weight: dict[float, str] = {}
    for character, weight in recipe.loss_weights.items():
        by_weight[weight] = by_weight.get(weight, "") + character
    return "".join(
        f", in which each of `{characters}` weighs {weight:g}" for weight, characters in by_weight.items()
    )


def _first_weights(recipe: Recipe) -> str:
    drawn = "weights drawn with a standard deviation of\nwidth^-0.5"
    if recipe.start is None:
        return drawn
    return f"from the weights of\n`{recipe.start}`; embeddings of characters that it does not have are drawn"
