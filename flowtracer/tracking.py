"""Credit in trackers: numbers over all processes, and the settings of a run."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback

from flowtracer.batches import Observed

#: Fields of `Observed` that are added up over processes; those in _REAL are no counts.
_REAL = ("weight", "top", "seconds")
_SUMS = ("tokens", "up_weighted", "not_zero", "responses", "answers", "scored", "processes", *_REAL)


def summed(observed: Observed, reduce: Callable[[Tensor], Tensor] | None, device: Any) -> Observed:
    """The sums over all processes. reduce: adds up a tensor over them, None for one process."""
    if reduce is None:
        return observed
    here = torch.tensor([float(getattr(observed, name)) for name in _SUMS], dtype=torch.float64)
    if device.type == "mps":  # which has no float64
        here = here.float()
    total = reduce(here.to(device)).tolist()
    reasons = sum((Counter(part) for part in gather_object([dict(observed.reasons)])), Counter[str]())
    numbers = {name: value if name in _REAL else int(value) for name, value in zip(_SUMS, total, strict=True)}
    return Observed(**numbers, reasons=reasons)


def collected(rows: list[Any]) -> list[Any]:
    """The rows of all processes, one process after the other."""
    return gather_object(rows)


class Described(TrainerCallback):
    """Adds the settings of credit to a run's configuration, in each tracker that runs.

    Trackers copy the arguments of the training, which know nothing of credit, as it begins; this comes after them.
    Weights & Biases, Trackio, MLflow and TensorBoard can be added to.

    settings: by name. others: the trainer's callbacks.
    """

    def __init__(self, settings: dict[str, Any], others: list[TrainerCallback]) -> None:
        self.settings, self.others = settings, others

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Writes the settings where a run of a tracker is open."""
        if not state.is_world_process_zero:
            return
        reported = args.report_to or []
        wandb, mlflow, trackio = (
            sys.modules.get(name) if name in reported else None for name in ("wandb", "mlflow", "trackio")
        )
        if wandb is not None and wandb.run is not None:
            wandb.config.update(self.settings, allow_val_change=True)
        if trackio is not None and trackio.context_vars.current_run.get() is not None:
            # Trackio sends its configuration with a run's first numbers, which are still to come.
            trackio.config.update(json.loads(json.dumps(self.settings, default=str)))
        if mlflow is not None and mlflow.active_run() is not None:
            mlflow.log_params({name: json.dumps(value, default=str) for name, value in self.settings.items()})
        for callback in self.others:
            if (board := getattr(callback, "tb_writer", None)) is not None:
                board.add_text("credit", json.dumps(self.settings, indent=2, default=str))
