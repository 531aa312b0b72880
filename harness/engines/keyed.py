"""Rollouts whose noise is named: a sample is a function of weights, prompt and key, and of nothing else.

Adding independent Gumbel noise to log-probabilities and taking the largest draws from their distribution (the
Gumbel-max trick: Gumbel 1954; Maddison, Tarlow, Minka 2014, "A* Sampling"). Here the noise of a row comes
from a counter-based generator under the row's key (`noise.py`), so no global generator is read or moved; which other
rows stand in the batch, in which order, and in which process, changes nothing; and two policies that are
asked with one key are coupled: equal logits draw equal tokens, so arms of an experiment differ only where
their policies do.

The limit of that promise is floating point: a row's logits may differ in their last bits with the shape of its
batch and the padding on its left, and a draw that the last bit decides then falls differently. Measured on a CPU
in float32: on the shipped character policies log-probabilities differ by up to 1e-6 and no sampled id does (1,536
samples, batches of 1, 7, 32 and 768); on SmolLM2-135M by up to 3e-5, and 8 of 8 samples of up to 96 tokens
agree. In half precision, and over many long responses, expect exceptions. Calls with the same rows repeat exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from harness.engines.base import Finished, Sample, Sampling, check, decoded, end_tokens
from harness.engines.noise import Noise
from harness.policy import Policy


class Keyed:
    """The policy's own `generate`, `rows` responses at a time."""

    forwards = True

    def __init__(self, policy: Policy, rows: int) -> None:
        self.tokenizer, self.rows = policy.tokenizer, rows
        self.take(policy.model)

    def take(self, model: PreTrainedModel) -> None:
        self.model = model

    def sample(
        self,
        prompt_ids: Sequence[Sequence[int]],
        keys: Sequence[str],
        sampling: Sampling,
        finished: Finished | None = None,
    ) -> list[Sample]:
        samples: list[Sample] = []
        for first in range(0, len(prompt_ids), self.rows):
            part = slice(first, first + self.rows)

            def whole(row: int, sample: Sample, first: int = first) -> None:
                assert finished is not None
                finished(first + row, sample)

            samples += sample(
                self.model,
                self.tokenizer,
                prompt_ids[part],
                keys[part],
                sampling,
                None if finished is None else whole,
            )
        return samples


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    keys: Sequence[str],
    sampling: Sampling,
    finished: Finished | None = None,
    hidden: Sequence[Collection[int]] | None = None,
) -> list[Sample]:
    """One response for each row of `prompt_ids`, as one batch, with the noise that the row's key names.

    `keys` are those of `harness.seeds.key`, one a row, all different: equal ones would draw duplicates. The model's
    mode and generation options are as before when this returns. `finished` hears of each sample once, with its row:
    where there is noise, as soon as its end token is written. `hidden`: for each row, the positions in its prompt that
    nothing attends to, in any layer; the other tokens stay where they are.

    Raises ExperimentError for prompts that do not fit the policy's context; ValueError for keys that are missing,
    malformed or repeated, and for a prompt without tokens.
    """
    check(model, prompt_ids, keys, sampling.max_new_tokens)
    if not prompt_ids:
        return []
    pad = tokenizer.pad_token_id
    ends = end_tokens(model, tokenizer)
    width = max(map(len, prompt_ids))
    padded = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompt_ids], device=model.device)
    mask = torch.tensor(
        [[0] * (width - len(row)) + [1] * len(row) for row in prompt_ids], device=model.device
    )
    samples: dict[int, Sample] = {}

    def end(row: int, ids: list[int], logprobs: list[float]) -> None:
        reason = "stop" if ids[-1] in ends else "length"
        samples[row] = Sample(ids, logprobs, reason, decoded(tokenizer, ids))
        if finished is not None:
            finished(row, samples[row])

    picker = _Picker(keys, width, ends, sampling, None if finished is None else end)
    extra: dict[str, torch.Tensor] = {}
    if hidden is not None:
        # Without these, generate would count visible tokens only, and what follows a hidden one would move.
        extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        for row, (ids, positions) in enumerate(zip(prompt_ids, hidden, strict=True)):
            mask[row, [width - len(ids) + position for position in positions]] = 0
    # A bare configuration for the length of the call: a published model's own would add its sampling options.
    options = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=pad
    )
    with _generating(model, options):
        sequences = cast(Any, model).generate(
            padded, attention_mask=mask, logits_processor=LogitsProcessorList([picker]), **extra
        )
    rows = sequences[:, width:].tolist()
    logprobs = torch.stack(picker.logprobs, dim=1).tolist()
    for row, (ids, scores) in enumerate(zip(rows, logprobs, strict=True)):
        if row not in samples:
            length = _length(ids, ends)
            end(row, ids[:length], scores[:length])
    return [samples[row] for row in range(len(keys))]


class _Picker(LogitsProcessor):
    """Warps the logits, adds each row's noise, and notes the log-probability of the token that will win."""

    def __init__(
        self,
        keys: Sequence[str],
        width: int,
        ends: Sequence[int],
        sampling: Sampling,
        end: Callable[[int, list[int], list[float]], None] | None,
    ) -> None:
        self.keys, self.width, self.sampling, self.warpers = keys, width, sampling, _warpers(sampling)
        self.ends, self.end = set(ends), end
        self.noise: Noise | None = None
        self.running = list(range(len(keys)))
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        chosen = scores
        if not self.sampling.greedy:
            chosen = scores + self._draw(input_ids, scores)
        winner = chosen.argmax(dim=-1, keepdim=True)
        self.logprobs.append(torch.log_softmax(scores, dim=-1).gather(1, winner).squeeze(1))
        return chosen

    def _draw(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.noise is None:
            self.noise = Noise(self.keys, self.sampling.max_new_tokens, scores.shape[1], scores.device)
        if input_ids.shape[1] > self.width:
            last, before = input_ids[:, -1].tolist(), self.running
            self.running = [row for row in before if last[row] not in self.ends]
            if self.end is not None:
                for row in sorted(set(before).difference(self.running)):
                    logprobs = torch.stack([step[row] for step in self.logprobs])
                    self.end(row, input_ids[row, self.width :].tolist(), logprobs.tolist())
        return self.noise.at(input_ids.shape[1] - self.width, self.running)


@contextmanager
def _generating(model: PreTrainedModel, options: GenerationConfig) -> Iterator[None]:
    """The model in evaluation mode (no dropout, no gradient checkpointing) under bare generation options."""
    training = [module for module in model.modules() if module.training]
    configured = model.generation_config
    model.eval()
    model.generation_config = options
    try:
        yield
    finally:
        model.generation_config = configured
        for module in training:
            module.training = True


def _warpers(sampling: Sampling) -> list[LogitsProcessor]:
    warpers: list[LogitsProcessor] = []
    if sampling.temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


def _length(ids: Sequence[int], ends: Sequence[int]) -> int:
    """Tokens up to and with the first end token."""
    return next((index + 1 for index, token in enumerate(ids) if token in ends), len(ids))
