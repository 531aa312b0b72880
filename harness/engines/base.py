"""The contract of rollout engines: how it is asked, what it answers, and the names by which it is chosen.

Importing this loads no torch: experiments and the command line's `--help` read the names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from harness.errors import ExperimentError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRANSFORMERS, VLLM = ENGINES = ("transformers", "vllm")
FLOAT32, BFLOAT16, FLOAT16 = DTYPES = ("float32", "bfloat16", "float16")

#: Share of a GPU's memory that vLLM takes beside a training policy (TRL's own default), and where it is alone.
BESIDE_TRAINING, ALONE = 0.3, 0.85


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    max_new_tokens: tokens of the longest response. temperature: 0 takes the likeliest token, without noise. top_k:
    tokens that may be drawn, 0 for all. top_p: probability that the tokens together have at least, 1 for all.

    Raises ExperimentError for values without meaning.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ExperimentError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise ExperimentError(
                f"temperature must be 0 (greedy) or a positive number, not {self.temperature}"
            )
        if self.top_k < 0:
            raise ExperimentError(
                f"top_k must be 0 (all tokens) or a positive number of tokens, not {self.top_k}"
            )
        if not 0 < self.top_p <= 1:
            raise ExperimentError(f"top_p must be above 0 and at most 1 (all tokens), not {self.top_p}")

    @property
    def greedy(self) -> bool:
        """True where the likeliest token is taken."""
        return self.temperature == 0

    @property
    def truncated(self) -> bool:
        """True where top-k or top-p leave tokens out."""
        return self.top_k > 0 or self.top_p < 1


@dataclass(frozen=True)
class EngineChoice:
    """Which engine samples.

    name: one of `ENGINES`. server: the address of the vLLM that samples, None for one in this process. dtype: what vLLM
    computes in, one of `DTYPES`; transformers takes the policy as it is.
    """

    name: str = TRANSFORMERS
    server: str | None = None
    dtype: str = FLOAT32


@dataclass(frozen=True)
class Sample:
    """One response. `ids` ends with the end token where the policy wrote one; `logprobs` has one value an id.

    `logprobs` are those of the distribution that was sampled from: after temperature, top-k and top-p. At
    temperature 0 they are the model's own. `finish_reason` is "stop" or "length"; `text` has no special
    tokens.
    """

    ids: list[int]
    logprobs: list[float]
    finish_reason: str
    text: str


#: Called as soon as a sample is whole, with its row: later than others of its batch, earlier than the rest.
Finished = Callable[[int, Sample], None]


class EngineError(ExperimentError):
    """An engine that cannot be started, or broke down while it sampled: one line with the cause and the way out."""


class Engine(Protocol):
    """A sampler of responses."""

    #: True if it samples by forwards of the policy itself, which then needs its parameters whole all the while; False
    #: if from a copy.
    forwards: bool

    def take(self, model: PreTrainedModel) -> None:
        """From here on, samples are those of `model` with the weights that it has now.

        Where processes share the policy, all of them must call it together.
        """

    def sample(
        self,
        prompt_ids: Sequence[Sequence[int]],
        keys: Sequence[str],
        sampling: Sampling,
        finished: Finished | None = None,
    ) -> list[Sample]:
        """One response for each row of `prompt_ids`, with the noise that the row's key names.

        finished: hears of each sample, with its row. Raises as `check` does.
        """


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The end tokens of the model, or, where it names none, of its tokenizer."""
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    return [ends] if isinstance(ends, int) else list(ends)


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of a response, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def check(
    model: PreTrainedModel, prompt_ids: Sequence[Sequence[int]], keys: Sequence[str], max_new_tokens: int
) -> None:
    """Raises ExperimentError for prompts that do not fit the policy's context.

    ValueError for keys that are missing or repeated, and for a prompt without tokens.
    """
    if len(keys) != len(prompt_ids):
        raise ValueError(f"{len(prompt_ids)} prompts need as many keys, not {len(keys)}")
    if len(set(keys)) != len(keys):
        repeated = next(key for index, key in enumerate(keys) if key in keys[:index])
        raise ValueError(f"key {repeated} occurs twice: its two samples would be one")
    if not all(map(len, prompt_ids)):
        raise ValueError("a prompt without tokens")
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, prompt_ids), default=0)
    if limit is not None and longest + max_new_tokens > limit:
        raise ExperimentError(
            f"a prompt of {longest} tokens and a response of {max_new_tokens} exceed the policy's context of {limit}: "
            f"lower max_response_tokens to at most {max(0, limit - longest)} or shorten the prompts"
        )


def reason(error: BaseException) -> str:
    """The first line of an error of torch's or vLLM's, and the way out where it is a known one."""
    import torch  # by here something of it has failed

    text = str(error).strip() or type(error).__name__
    line = re.sub(r"\s+", " ", text.splitlines()[0])[:300].rstrip(".")
    if re.search(r"EADDRINUSE|address already in use", text, re.IGNORECASE):
        return f"{line}; a port is in use: unset VLLM_PORT and MASTER_PORT, or give them free ones"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or re.search(
        r"out of memory|can't allocate memory|free memory|available memory|KV cache", text, re.IGNORECASE
    ):
        return f"{line}; out of memory: lower max_response_tokens or the rollouts of a step, or give it more"
    if re.search(r"CUDA error|device.{0,20}lost|unspecified launch failure|NCCL|ECC", text, re.IGNORECASE):
        return f"{line}; the GPU is lost: see dmesg and nvidia-smi, then run the same command again"
    return line
