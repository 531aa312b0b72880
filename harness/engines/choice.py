"""Which engine samples: the check before a run, and the start.

==============  =====================================================================================================
transformers    `harness.engines.keyed`: noise of its own for every key, bitwise repeatable on a CPU
vllm            vLLM, a seed for every key, its weights replaced by the policy's before each sampling: in each process
                that trains (`harness.engines.vllm`), or, where an address is given, in one server beside them
                (`harness.engines.server`)
==============  =====================================================================================================

The two draw different samples for one key, and all arms of an experiment use one engine. vLLM draws what a key's seed
gives, on a CPU the lower 32 bits of it: torch's generator there keeps no more. Both return the log-probabilities of
the distribution that was sampled from, after temperature, top-k and top-p. Of the whole one, TRL's importance-sampling
correction compares them with the trainer's; of one that top-k or top-p cut, there is no correction.
"""

from __future__ import annotations

import gc

import torch

from harness import provenance
from harness.engines import server as servers
from harness.engines import vllm
from harness.engines.base import ALONE, TRANSFORMERS, VLLM, Engine, EngineChoice, EngineError
from harness.engines.keyed import Keyed
from harness.policy import Policy, to_gpu
from leaderboards.manifest import DISTRIBUTION


def check(choice: EngineChoice) -> None:
    """Raises EngineError where that engine is not installed, or in a version that was never tested.

    Of a server: where nothing that was tested answers at its address.
    """
    if choice.server is not None:
        if choice.name != VLLM:
            raise EngineError(
                f"--server {choice.server}: only engine {VLLM} has one; this one is {choice.name}"
            )
        servers.describe(choice.server)
    elif choice.name == VLLM:
        vllm.check_version(provenance.vllm_version())


def start(
    choice: EngineChoice, policy: Policy, context: int, rows: int, share: float, alike: bool = False
) -> Engine:
    """That engine, holding `policy`.

    context: tokens of the longest prompt and its response together. rows: responses that are sampled at once, at most.
    share: of a GPU's memory that the engine may take, `BESIDE_TRAINING` or `ALONE`; alone, it takes the policy to the
    GPU. alike: most prompts begin as others do: vLLM in this process computes a beginning once, and what a key draws
    may then depend, by rounding, on what was asked before.

    Raises EngineError as `check` does, and where the engine does not start.
    """
    check(choice)
    if choice.server is not None:
        return servers.Served(policy, choice.dtype, context, rows, choice.server)
    if choice.name == VLLM:
        return vllm.Vllm(policy, choice.dtype, context, rows, share, alike)
    if share == ALONE:
        to_gpu(policy)  # one that trains is where the trainer has put it
    return Keyed(policy, rows)


def tier(name: str) -> str:
    """The tier of determinism that a run started here on this engine can claim."""
    return provenance.tier() if name == TRANSFORMERS else DISTRIBUTION


def release() -> None:
    """Frees the memory and the server of a finished job for the job that wants them next. An engine on a CPU stays."""
    servers.release()
    if torch.cuda.is_available():
        vllm.close()
    gc.collect()  # a trainer refers to itself
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
