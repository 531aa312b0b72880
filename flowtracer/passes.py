"""Passes of our own over a policy: what a credit method needs and no forward of a trainer shows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from flowtracer.layout import Padded


def response_logits(model: Any, batch: Padded, temperature: float) -> Tensor:
    """The logits (B, length, vocabulary) float32 that the response tokens were drawn from, over the temperature."""
    options = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = batch.length + 1
    logits = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **options
    ).logits
    # The logits of a position are those of the token that follows.
    return logits[:, -batch.length - 1 : -1].float() / temperature


def logprobs_and_entropies(model: Any, batch: Padded, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (B, length) of the response tokens, in nats."""
    logs = response_logits(model, batch, temperature).log_softmax(-1)
    return _of_tokens(logs, batch), _entropies(logs)


def _of_tokens(logs: Tensor, batch: Padded) -> Tensor:
    return logs.gather(-1, batch.input_ids[:, -batch.length :].unsqueeze(-1)).squeeze(-1)


def _entropies(logs: Tensor) -> Tensor:
    return -(logs.exp() * logs).sum(-1)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """A context in which the model has no dropout: it would draw from the global generator, and blur what is read."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def distributions(model: Any, batch: Padded, temperature: float, step: int) -> dict[str, Tensor]:
    """Of the distribution behind each response token: `logprobs`, `entropies` and `squares`, (B, T) float32 each.

    squares: the sum of the squared probabilities of all tokens at that place. step: rows at once. One forward without
    gradient: TRL computes log-probabilities without the logits, and shows no such sum.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(batch.input_ids), step):
            rows = batch[slice(start, start + step)]
            logs = response_logits(model, rows, temperature).log_softmax(-1)
            parts.append((_of_tokens(logs, rows), _entropies(logs), (2.0 * logs).exp().sum(-1)))
    names = ("logprobs", "entropies", "squares")
    return {
        name: batch.in_columns(torch.cat(values))
        for name, values in zip(names, zip(*parts, strict=True), strict=True)
    }


def answer_gradient(
    model: Any,
    logprobs_of: Callable[[Any, Padded], Tensor],
    batch: Padded,
    answer: Tensor,
    step: int,
) -> Tensor:
    """|gradient . embedding| of the answers' log-probabilities, (B, T) float32; 0 for a response without answer.

    logprobs_of: log-probabilities (b, length) of the response tokens of a batch, by a model. step: rows at once.
    """
    embedded: list[Tensor] = []

    def keep(module: Any, inputs: Any, vectors: Tensor) -> Tensor:
        embedded.append(vectors.requires_grad_())
        return vectors

    handle = model.get_input_embeddings().register_forward_hook(keep)
    parts = []
    try:
        with evaluating(model):
            for start in range(0, len(batch.input_ids), step):
                rows = slice(start, start + step)
                with torch.enable_grad():
                    answers = (logprobs_of(model, batch[rows]) * answer[rows, -batch.length :]).sum()
                    (gradient,) = torch.autograd.grad(answers, embedded[-1])
                parts.append((gradient.float() * embedded.pop().detach().float()).sum(-1).abs())
    finally:
        handle.remove()
    return torch.cat(parts)


def answer_divergence(model: Any, batch: Padded, answer: Tensor, replacement: int, step: int) -> Tensor:
    """How far the answer's distribution moves when a token is replaced, (B, T) float32; 0 from the answer on.

    KL(p || q) in nats, p as the responses stand and q with the token `replacement` in the place of one response token
    before the answer; both are the softmax of the mean of the logits that the `answer` (B, T) is drawn from. One
    forward for each such token, `step` at once, up to the answer's last token.
    """
    divergence = torch.zeros(answer.shape, dtype=torch.float32, device=answer.device)
    before = batch.attention_mask.bool() & (answer.cumsum(1) == 0)
    before[:, : -batch.length] = False
    with torch.no_grad(), evaluating(model):
        for row in answer.any(1).nonzero().flatten().tolist():
            drawn = answer[row].nonzero().flatten() - 1
            columns = slice(int(batch.attention_mask[row].argmax()), int(drawn[-1]) + 1)
            ids, drawn = batch.input_ids[row, columns], drawn - columns.start
            places = before[row].nonzero().flatten()
            # The first is the text as it stands.
            texts = ids.repeat(len(places) + 1, 1)
            texts[torch.arange(1, len(texts), device=ids.device), places - columns.start] = replacement
            logs = torch.cat([_answer_logs(model, part, drawn) for part in texts.split(step)])
            divergence[row, places] = (logs[0].exp() * (logs[0] - logs[1:])).sum(-1).float()
    return divergence


def _answer_logs(model: Any, ids: Tensor, drawn: Tensor) -> Tensor:
    """Log-probabilities (b, vocabulary) float64 of the mean of the logits at the positions `drawn` of b texts."""
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return output.logits[:, drawn].double().mean(1).log_softmax(-1)
