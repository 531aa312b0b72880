"""Records of a training: what a recorder is handed, and how an installed one is found.

This package writes no record and knows no format. A recorder comes from an installed package, by an entry point of the
group `flowtracer.recorder`; the harness offers one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from transformers import TrainerCallback

from flowtracer.credit.elsewhere import offers
from flowtracer.errors import CreditError

GROUP = "flowtracer.recorder"


@runtime_checkable
class Recorder(Protocol):
    """A writer of a training's record. Every process has one and calls it; which of them writes is its own business.

    `trainer` is the `CreditGRPOTrainer`, whose `rollouts` are the generation batch in training.
    """

    def open(self, trainer: Any) -> None:
        """Called once, when the trainer is built. May refuse with an error."""

    def begin(self, trainer: Any) -> None:
        """Called before the first generation batch; of a training that is resumed, before the next one."""

    def record(self, trainer: Any, logs: Mapping[str, float]) -> None:
        """Called when a generation batch has fed its last update. logs: that update's numbers, `entropy` too, by TRL's
        names.
        """

    def settle(self) -> None:
        """Called before a checkpoint is saved: returns when all that was handed over is safe."""

    def finish(self, trainer: Any) -> None:
        """Called once, when the training has gone to its end."""


def recorder(record: str | os.PathLike[str] | Recorder | None) -> Recorder | None:
    """The recorder that the trainer's argument `record` stands for: a folder, for which an installed one is asked.

    Raises CreditError where none is installed.
    """
    if record is None or not isinstance(record, str | os.PathLike):
        return record
    makers: list[Callable[[str], Recorder]] = list(offers(GROUP))
    if not makers:
        raise CreditError(
            f"record={os.fspath(record)!r}: no package is installed that writes records: "
            "pip install 'flowtracer[harness]'"
        )
    return makers[0](os.fspath(record))


class Recording(TrainerCallback):
    """Tells a recorder when a training begins and ends, and has TRL log every update, whose numbers are recorded.

    trainer: a CreditGRPOTrainer, which hands over the generation batches itself.
    """

    def __init__(self, recorder: Recorder, trainer: Any) -> None:
        self.recorder, self.trainer = recorder, trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Opens the record."""
        self.recorder.begin(self.trainer)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Has the update logged: TRL's `logging_steps` would leave gaps in the record."""
        control.should_log = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Closes the record of a training that went to its end; one that was stopped stays open, to be resumed."""
        self.recorder.settle()
        if state.global_step >= state.max_steps:
            self.recorder.finish(self.trainer)
