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
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from harness.engines.base import Finished, Sample, Sampling, check, decoded, end_tokens
from harness.engines.noise import Noise
from harness.policy import Policy

#: Scores, over rows, positions and tokens, whose log-probabilities are computed at once, at most.
AT_ONCE = 2**20


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
    mode and generation options are as before when this returns. `finished` hears of each sample once, with its row,
    as soon as its end token is written. `hidden`: for each row, the positions in its prompt that nothing attends to, in
    any layer; the other tokens stay where they are.

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

    loop = _Loop(keys, ends, pad, sampling, None if finished is None else end)
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
        cast(Any, model).generate(
            padded, attention_mask=mask, generation_config=options, custom_generate=loop.run, **extra
        )
    every = list(range(len(keys)))
    for row, ids, scores in zip(every, loop.ids, loop.logprobs(every), strict=True):
        if row not in samples:
            end(row, ids, scores[: len(ids)])
    return [samples[row] for row in every]


class _Loop:
    """Writes the responses of a batch token by token: warps the logits, adds each row's noise, takes the largest.

    It stands where `generate` has a loop of its own, which looks for ends, pads and picks with a dozen small operations
    a token; on an embedded policy they would take as long as a layer. Everything around the loop is `generate`'s.
    """

    def __init__(
        self,
        keys: Sequence[str],
        ends: Sequence[int],
        pad: int,
        sampling: Sampling,
        end: Callable[[int, list[int], list[float]], None] | None,
    ) -> None:
        self.keys, self.sampling, self.warpers = keys, sampling, _warpers(sampling)
        self.ends, self.pad, self.end = set(ends), pad, end
        self.ids: list[list[int]] = [[] for _ in keys]
        self.running = list(range(len(keys)))
        self.noise: Noise | None = None
        self._unfinished: torch.Tensor | None = None
        # Scores and tokens of the last positions, and the log-probabilities of those before.
        self._recent: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._logprobs: list[torch.Tensor] = []

    def run(self, model: Any, input_ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
        """The prompts (rows, width) and what was written behind them. prepared: what `generate` has for its loop."""
        for name in ("logits_processor", "stopping_criteria", "generation_config"):
            del prepared[name]
        fed = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **prepared)
        outputs = model(**fed, return_dict=True)
        fresh = 1 if prepared["use_cache"] else None
        with model._optimize_model_for_decode():
            while True:
                prepared = model._update_model_kwargs_for_generation(outputs, prepared)
                # A copy, which is small: the logits of a whole prompt may hang on to the last ones.
                logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=input_ids.device)
                del outputs
                tokens = self._pick(input_ids, logits)
                input_ids = torch.cat([input_ids, tokens.unsqueeze(1)], dim=1)
                if not self.running or len(self.ids[self.running[0]]) == self.sampling.max_new_tokens:
                    return input_ids
                fed = model.prepare_inputs_for_generation(input_ids, next_sequence_length=fresh, **prepared)
                outputs = model(**fed, return_dict=True)

    def logprobs(self, rows: Sequence[int]) -> list[list[float]]:
        """The log-probabilities of the tokens that these rows have so far; behind an end they mean nothing."""
        self._settle()
        return torch.cat([part[rows] for part in self._logprobs], dim=1).tolist()

    def _pick(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The next token (rows,) of every row, a pad behind an end."""
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        chosen = scores
        if not self.sampling.greedy:
            if self.noise is None:
                self.noise = Noise(self.keys, self.sampling.max_new_tokens, scores.shape[1], scores.device)
            chosen = scores + self.noise.at(len(self.ids[self.running[0]]), self.running)
        tokens = chosen.argmax(dim=-1)
        self._recent.append((scores, tokens))
        if len(self._recent) * scores.numel() >= AT_ONCE:
            self._settle()
        if self._unfinished is not None:
            tokens = torch.where(self._unfinished, tokens, self.pad)
        self._note(tokens)
        return tokens

    def _settle(self) -> None:
        """Log-probabilities of the recent tokens, all at once."""
        if not self._recent:
            return
        scores, tokens = zip(*self._recent, strict=True)
        self._recent = []
        stacked = scores[0].unsqueeze(1) if len(scores) == 1 else torch.stack(scores, dim=1)
        taken = torch.stack(tokens, dim=1).unsqueeze(2)
        self._logprobs.append(torch.log_softmax(stacked, dim=-1).gather(2, taken).squeeze(2))

    def _note(self, tokens: torch.Tensor) -> None:
        """Adds the tokens to the running rows, and ends those that wrote an end token."""
        last, running = tokens.tolist(), []
        for row in self.running:
            self.ids[row].append(last[row])
            if last[row] not in self.ends:
                running.append(row)
        if len(running) == len(self.running):
            return
        ended, self.running = sorted(set(self.running).difference(running)), running
        if self._unfinished is None:
            self._unfinished = torch.ones(len(self.ids), dtype=torch.bool, device=tokens.device)
        self._unfinished[ended] = False
        if self.end is not None:
            for row, logprobs in zip(ended, self.logprobs(ended), strict=True):
                self.end(row, self.ids[row], logprobs[: len(self.ids[row])])


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
