"""The points that a run goes on from: its checkpoints, and the policies that it saves."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import TrainerCallback

from harness import parallel
from harness.engines.base import EngineError, reason
from harness.errors import ExperimentError, no_room
from harness.policy import Policy, merged_weights

#: The file that says of a checkpoint that it is whole.
MARK = "whole"

_log = logging.getLogger(__name__)


class Boundaries(TrainerCallback):
    """Stops when asked, where a new rollout batch begins, and marks whole checkpoints."""

    def __init__(self, updates: int, stop: Callable[[], bool]) -> None:
        self.updates = updates
        self.stop = stop
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False  # the policy itself is saved, and nothing goes on from here
        elif state.global_step % self.updates == 0 and parallel.anywhere(self.stop(), args.device):
            self.stopped = control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        parallel.meet()
        if parallel.first():
            mark_whole(checkpoint, state.global_step, parallel.processes())


@contextmanager
def naming_checkpoint(folder: Path) -> Iterator[None]:
    """One line for a machine or an engine that fails in the middle of a run, with what the run goes on from."""
    try:
        yield
    except EngineError as error:
        raise ExperimentError(f"{folder}: {error}. {good_until(folder)}") from error
    except (torch.AcceleratorError, torch.OutOfMemoryError, MemoryError) as error:
        raise ExperimentError(
            f"{folder}: training broke down: {reason(error)}. {good_until(folder)}"
        ) from error
    except Exception as error:
        if full := no_room(error):
            raise ExperimentError(
                f"{folder}: {full}. {good_until(folder)}; make room and run the same command again, it goes on"
            ) from error
        if not (isinstance(error, RuntimeError) and parallel.lost(error)):
            raise
        raise ExperimentError(
            f"{folder}: a process of this run was lost: {reason(error)}. {good_until(folder)}"
        ) from error


def good_until(folder: Path) -> str:
    """The checkpoint that a run goes on from, in words."""
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return "There is no checkpoint yet: the run starts again"
    return f"The last good checkpoint is {checkpoint}"


def policy_folder(folder: Path, step: int) -> Path:
    """Where a run keeps the policy after `step` steps until it has been evaluated."""
    return folder / "policies" / f"step-{step:06d}"


def save_policy(policy: Policy, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Saves a policy, or its `weights` from elsewhere, so that its folder exists only when it is whole."""
    aside = folder.with_name(f".{folder.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    policy.model.save_pretrained(aside, state_dict=weights or merged_weights(policy.model))
    policy.tokenizer.save_pretrained(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def check_same_policy(checkpoint: Path, model: torch.nn.Module) -> None:
    """Raises ExperimentError for a checkpoint whose weights have other names or shapes than the policy's.

    As when the folder that an experiment names as its policy has been filled anew since the run began.
    """
    _, *counted = (checkpoint / MARK).read_text().split()
    trained_on = int(counted[0]) if counted else 1
    if trained_on != parallel.processes():
        raise ExperimentError(
            f"{checkpoint} was made by {trained_on} processes, these are {parallel.processes()}; go on with as many, "
            "or give another output folder"
        )
    here = {name.replace(".default", ""): tuple(value.shape) for name, value in model.state_dict().items()}
    for file in sorted(checkpoint.glob("*model*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  no dictionary: it cannot be iterated over
                there = tuple(stored.get_slice(name).get_shape())
                if here.get(name) != there:
                    raise ExperimentError(
                        f"{checkpoint} holds another policy: {name} is {there} there and {here.get(name, 'nowhere')} "
                        "here; bring back the policy that the run began with, or give another output folder"
                    )


def last_checkpoint(folder: Path) -> Path | None:
    """The latest whole checkpoint of a run, None if it has none."""
    return next(iter(_checkpoints(folder)), None)


def sound_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint whose files are what was written, None if there is none.

    Those that are damaged, by a power cut for one, are passed over with a warning, and are no longer taken for whole.
    """
    damaged = None
    for checkpoint in _checkpoints(folder):
        if (trouble := damage(checkpoint)) is None:
            if damaged is not None:
                _log.warning("%s; the run goes on from %s, which is sound", damaged, checkpoint)
            return checkpoint
        damaged = f"{checkpoint} is damaged: {trouble}"
        parallel.meet()
        if parallel.first():
            (checkpoint / MARK).unlink()
    if damaged is not None:
        _log.warning("%s; there is no checkpoint before it: the run starts again", damaged)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, the latest first."""
    marked = [path.parent for path in (folder / "checkpoint").glob(f"checkpoint-*/{MARK}")]
    return sorted(marked, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def mark_whole(checkpoint: Path, step: int, processes: int) -> None:
    """Says of a checkpoint that everything is in it: its step, its processes, and the sum and size of every file.

    Written last: a checkpoint without it was cut off in the middle and is not resumed from.
    """
    lines = [f"{step} {processes}"]
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARK):
        lines.append(f"{_sum(file):08x} {file.stat().st_size} {file.relative_to(checkpoint)}")
    (checkpoint / MARK).write_text("\n".join(lines) + "\n")


def damage(checkpoint: Path) -> str | None:
    """The fault of a whole checkpoint; None for a sound one. One that lists no files passes."""
    first, *lines = (checkpoint / MARK).read_text().splitlines() or [""]
    if not first:
        return f"{MARK} is empty"
    for line in lines:
        total, size, name = line.split(" ", 2)
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is gone"
        if file.stat().st_size != int(size):
            return f"{name} has {file.stat().st_size} bytes and not {size}"
        if _sum(file) != int(total, 16):
            return f"{name} is not what was written"
    return None


def _sum(file: Path) -> int:
    """CRC-32: gigabytes a second, and enough for what happens by accident."""
    total = 0
    with file.open("rb") as stream:
        while part := stream.read(2**24):
            total = zlib.crc32(part, total)
    return total


#: The parameters of a model at one moment by name, each whole and on the CPU.
Parameters = dict[str, torch.Tensor]


def parameters(model: torch.nn.Module) -> Parameters:
    """A copy of a model's parameters; where processes share the model, all of them must ask."""
    return {
        name: parallel.whole(value).to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.named_parameters()
    }


def hash_of(values: Parameters) -> str:
    """sha256 over names and exact values."""
    total = hashlib.sha256()
    for name, value in values.items():
        total.update(name.encode())
        total.update(value.view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def parameters_hash(model: torch.nn.Module) -> str:
    """sha256 over the names and exact values of a model's parameters."""
    return hash_of(parameters(model))


def distance_between(now: Parameters, then: Parameters) -> float:
    """The Euclidean distance between two states of one model, whose wrappers may have changed its names since."""
    changes = (value - before for value, before in zip(now.values(), then.values(), strict=True))
    return math.sqrt(sum(float(change.double().square().sum()) for change in changes))
