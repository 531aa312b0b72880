"""One run on several processes, one a GPU, as `accelerate launch` starts them: what they share, gather and agree on.

Every process trains on its part of a step's rollouts, in the order of the data: the first process has the first rows.
Samples are keyed by problem and number, so a rollout does not depend on which process makes it, nor on how many there
are. Only the first process writes the record, and evaluates after training, in a process of its own.

`harness/accelerate/` holds a configuration for each way to share a policy: `ddp.yaml` copies it to every GPU,
`fsdp2.yaml` and `zero3.yaml` split parameters, gradients and optimizer, `zero2.yaml` all but the parameters. The
ZeRO ones need DeepSpeed. All are tested on CPUs over gloo, where DeepSpeed compiles an operator once, for a minute.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from harness.errors import ExperimentError

if TYPE_CHECKING:
    from harness.experiment import Training

FOLDER = Path(__file__).parent / "accelerate"
#: How the variables begin through which launchers tell a process that it is one of several.
LAUNCHED = (
    "WORLD_SIZE",
    "RANK",
    "LOCAL_",
    "GROUP_",
    "ROLE_",
    "MASTER_",
    "TORCHELASTIC_",
    "ACCELERATE_",
    "FSDP_",
)


class Split(IntEnum):
    """The parts of a training that processes split and do not copy: as ZeRO's stages, each with the parts of those
    before it (Rajbhandari et al. 2020, arXiv 1910.02054).
    """

    NOTHING = 0
    OPTIMIZER = 1
    GRADIENTS = 2
    PARAMETERS = 3


#: How FSDP1 splits, by the names and numbers of its sharding strategy. The hybrid ones split within each machine.
_FSDP1 = {
    "SHARD_GRAD_OP": Split.GRADIENTS,
    "2": Split.GRADIENTS,
    "NO_SHARD": Split.NOTHING,
    "3": Split.NOTHING,
}


def processes() -> int:
    """How many processes train this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def split() -> Split:
    """The parts that the processes of this run split, by the variables that `accelerate launch` sets
    (accelerate.utils.launch) and reads with these defaults (accelerate.utils.dataclasses, DeepSpeedPlugin and
    FullyShardedDataParallelPlugin).
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        return Split(int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")))
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return Split.NOTHING
    if os.environ.get("FSDP_VERSION", "1") == "1":
        return _FSDP1.get(os.environ.get("FSDP_SHARDING_STRATEGY", "").upper(), Split.PARAMETERS)
    # Not split again behind the forward, every layer's parameters stand whole until its backward.
    again = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true"
    return Split.PARAMETERS if again else Split.GRADIENTS


def dealt(training: Training, processes: int) -> tuple[int, int]:
    """Rollouts of each process in a step, and those of them in one micro-batch.

    Raises ExperimentError where they cannot be dealt out to so many processes.
    """
    rollouts, rest = divmod(training.rollouts, processes)
    micro = min(training.micro_batch or rollouts, rollouts)
    if rest or rollouts % micro:
        raise ExperimentError(
            f"{training.rollouts} rollouts a step in micro-batches of {training.micro_batch or 'all'} cannot be dealt "
            f"out to {processes} processes; give another number with --num_processes"
        )
    return rollouts, micro


def first() -> bool:
    """True in the process that writes, and in the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def join() -> None:
    """Meets the other processes.

    Raises ExperimentError where the port for that is taken, one does not come, or DeepSpeed is asked for and missing.
    """
    from accelerate import PartialState

    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if deepspeed and find_spec("deepspeed") is None:
        raise ExperimentError(
            "this run is launched with DeepSpeed, which is not installed: pip install 'flowtracer[deepspeed]', or take "
            f"{FOLDER / 'fsdp2.yaml'}"
        )
    if processes() == 1:
        return
    try:
        # Told that it has only CPUs, accelerate would not begin DeepSpeed's own communication.
        PartialState(cpu=not (torch.cuda.is_available() or deepspeed))
    except (distributed.DistError, RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ExperimentError(
            f"the {processes()} processes of this run cannot meet at {place} ({_first_line(error)}); if the port is "
            "taken, give another to accelerate launch with --main_process_port"
        ) from None
    meet()


def meet() -> None:
    """Waits until every process is here."""
    if distributed.is_initialized():
        distributed.barrier()


def leave() -> None:
    """Ends what `join` began: from here on this process, and those that it starts, are on their own."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
    if torch.cuda.is_available():
        gc.collect()  # what trained is evaluated next, by a process that wants the memory
        torch.cuda.empty_cache()
    for name in [name for name in os.environ if name.startswith(LAUNCHED)]:
        del os.environ[name]


def gathered(rows: list[Any]) -> list[Any]:
    """The rows of every process, in the order of processes, on the first; this process's own on the others."""
    if processes() == 1:
        return rows
    parts: list[Any] | None = [None] * processes() if first() else None
    distributed.gather_object(rows, parts)
    return rows if parts is None else [row for part in parts for row in part]


def agreed(value: str) -> str:
    """The first process's value, on every one; none goes on before that one has come here."""
    if processes() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def anywhere(here: bool, device: torch.device) -> bool:
    """True where it holds on any process."""
    if processes() == 1:
        return here
    anywhere = torch.tensor(int(here), device=device)
    distributed.all_reduce(anywhere, op=distributed.ReduceOp.MAX)
    return bool(anywhere)


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """The parameter's values, put together where it is split over processes; every process must ask."""
    if hasattr(parameter, "ds_id"):  # DeepSpeed's ZeRO-3
        from deepspeed import zero

        with zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    values = parameter.detach()
    return values.full_tensor() if hasattr(values, "full_tensor") else values


@contextmanager
def generating(trainer: Any, forwards: bool) -> Iterator[Any]:
    """The trainer's policy for an engine: one that makes `forwards` of it finds whole parameters on every process.

    A split policy gathers its parameters anew for every token, and a process whose responses end early would leave the
    others waiting. So they are gathered once, as memory must allow. An engine that only takes them asks for each by
    `whole`, but of ZeRO-3, which knows no other way.
    """
    if trainer.is_deepspeed_enabled:
        # Here: a plan, which asks how a run is split, needs no TRL.
        from trl.models import unwrap_model_for_generation

        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
            yield model
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    with unsharded(model) if forwards else nullcontext():
        yield model


@contextmanager
def unsharded(model: torch.nn.Module) -> Iterator[None]:
    """Keeps the parameters of an FSDP2 policy whole between forwards; nothing for another."""
    from torch.distributed.fsdp import FSDPModule

    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


class Signals:
    """Ctrl-C, and what `accelerate launch` sends when it is stopped, kept until the step is done."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Signals:
        self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self.asked = True


def lost(error: Exception) -> bool:
    """True where the error says that another process is gone."""
    return isinstance(error, distributed.DistError) or any(
        word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer")
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
