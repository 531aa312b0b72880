"""A sweep's vocabulary: jobs, the workers that do them, what these report, and who shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

#: The reports of workers: training steps and evaluations done so far; the end of a job, and whether it was reached; a
#: user's mistake; a defect of the program, with its traceback; and that the worker is gone, with the reason.
PROGRESS, DONE, MISTAKE, DEFECT, LOST = "progress", "done", "mistake", "defect", "lost"


@dataclass(frozen=True)
class Job:
    """One run, to be trained and evaluated."""

    label: str
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.label} seed {self.seed}"


class Progress(Protocol):
    """Shows how far a sweep is; the command line draws bars."""

    def begin(self, steps: int, done: int) -> None:
        """The whole sweep has `steps` training steps and evaluations, `done` of them from before."""

    def advance(self, job: Job, count: int) -> None:
        """`count` more of them are done."""

    def finished(self, job: Job) -> None:
        """A job is done."""

    def note(self, line: str) -> None:
        """Something that the user should know, and that stops nothing."""


class Worker(Protocol):
    """Does one job after the other."""

    job: Job | None
    reported: int

    def give(self, job: Job) -> None:
        """Starts the job."""

    def close(self) -> None:
        """Ends the worker, whatever it is doing."""


class Workers(Protocol):
    """A sweep's workers, on one machine or on many."""

    #: How often a run may lose its worker before the sweep gives up.
    losses: int

    def limit(self) -> int:
        """How many may be busy at once, now."""

    def start(self) -> Worker:
        """A new worker."""

    def listen(self, busy: Sequence[Any]) -> Iterable[tuple[Any, str, Any]]:
        """Waits until busy workers report something, and gives it: worker, what (PROGRESS and so on), value."""

    def stop(self) -> None:
        """Asks every worker to save and stop."""

    def close(self) -> None:
        """Lets go of what they run on."""


class Stopped(Exception):
    """The user stopped the sweep; every run has saved where it was."""


def run_folder(folder: Path, label: str, seed: int) -> Path:
    """The folder of one run in a sweep's folder."""
    return folder / label / f"seed-{seed:04d}"
