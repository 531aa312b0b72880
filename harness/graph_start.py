"""The warm start of the policy `graph`: a loop of its own, which `harness.pretrain` runs.

TRL's trainer lacks the two things that make it short. Tokens weigh by what the task knows of them: the ones that are
copied or computed 1, the others, among them the letters that open a step and the guesses, which nothing foretells,
`OTHER`. And no needed step is missing from the first `COMPLETE` batches, so that nothing is guessed in them: looking
up is learnt first. It falls into place after 1,300 to 1,500 batches, all at once; sums are exact after 300.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

import tasks
from tasks.graph import ROLES, SKIPPED, Graph

if TYPE_CHECKING:
    from harness.recipes import Recipe

#: The weight of a token without a known source; the batches in which no needed step is missing; those over which the
#: learning rate grows.
OTHER, COMPLETE, WARMUP = 0.2, 1500, 100
#: The learning rate's course: it grows, and stays.
SCHEDULE = "constant_with_warmup"
#: What the fresh weights and the demonstrations are drawn from.
SEED, STREAM = 1, "graphloop0"
#: So many fresh demonstrations are measured after so many batches. They are drawn from the stream of the batches.
MEASURED, EVERY = 128, 100

Pairs = Sequence[tuple[str, str]]


def train(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    say: Callable[[str], None] = print,
) -> None:
    """Trains `model` in place on batches of demonstrations, as many and as large as the recipe says."""
    task, source = Graph(), random.Random(STREAM)
    rate = recipe.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, recipe.beta2), weight_decay=0.0)
    model.train()
    losses: list[float] = []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / WARMUP)
        skipped = 0.0 if step < COMPLETE else SKIPPED
        pairs = [task.demonstration(source, skipped) for _ in range(recipe.batch)]
        ids, weights = weighted(task, tokenizer, pairs)
        loss = _losses(model, tokenizer, ids, weights)[0]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % EVERY == 0:
            fresh = [task.demonstration(source) for _ in range(MEASURED)]
            right = ", ".join(
                f"{role} {share:.3f}" for role, share in measured(model, tokenizer, fresh).items()
            )
            say(
                f"{step + 1} batches: loss {sum(losses[-EVERY:]) / EVERY:.4f}; likeliest token right: {right}"
            )


def weighted(task: Graph, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Token ids (n, T) of prompt, response and end, padded on the right, and the tokens' weights in the loss (n, T)."""
    rows = [[*tokenizer(prompt + response).input_ids, tokenizer.eos_token_id] for prompt, response in pairs]
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    weights = torch.zeros(len(rows), longest)
    for number, (row, (prompt, response)) in enumerate(zip(rows, pairs, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        weights[number, len(prompt) : len(row)] = OTHER
        weights[number, list(task.sources(_problem(prompt), response))] = 1.0
    return ids, weights


def measured(model: Any, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> dict[str, float]:
    """Role -> the share of its tokens in demonstrations that the model finds likeliest. It is left in training mode."""
    task = Graph()
    ids, weights = weighted(task, tokenizer, pairs)
    model.eval()
    with torch.no_grad():
        right = _losses(model, tokenizer, ids, weights)[1].argmax(-1) == ids[:, 1:]
    model.train()
    by_role: dict[str, list[bool]] = {role: [] for role in ROLES}
    for number, (prompt, response) in enumerate(pairs):
        for position, role in task.roles(_problem(prompt), response).items():
            by_role[role].append(bool(right[number, position - 1]))
    return {role: sum(hits) / len(hits) for role, hits in by_role.items() if hits}


def _losses(
    model: Any, tokenizer: PreTrainedTokenizerBase, ids: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted mean of the tokens' losses, and the logits (n, T - 1, vocabulary) that foretell them."""
    visible = (ids != tokenizer.pad_token_id).long()
    logits = model(input_ids=ids, attention_mask=visible).logits[:, :-1]
    losses = functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum(), logits


def _problem(question: str) -> tasks.Problem:
    return tasks.Problem(id="demonstration", question=question, gold=None)
