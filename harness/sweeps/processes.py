"""A sweep's workers on this machine: processes of one thread each, forked from one that has imported everything."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from harness.engines.base import EngineChoice
from harness.errors import ExperimentError
from harness.experiment import Experiment
from harness.sweeps.job import DEFECT, DONE, LOST, MISTAKE, PROGRESS, TRAIN, Job


class LocalWorker:
    """A process that does one kind of job, one after the other."""

    def __init__(
        self, context: Any, action: str, experiment: Experiment, stop: Any, engine: EngineChoice | None = None
    ) -> None:
        self.action = action
        self.connection, theirs = context.Pipe()
        arguments = (theirs, action, experiment, stop, engine)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.reported = 0

    def takes(self, action: str) -> bool:
        return action == self.action

    def give(self, job: Job) -> None:
        self.job, self.reported = job, 0
        self.connection.send(job)

    def report(self) -> tuple[str, Any]:
        """What the process says next; waits for it."""
        try:
            kind, value = self.connection.recv()
            return kind, value
        except (EOFError, ConnectionResetError):
            self.process.join()
            return LOST, f"ended with status {self.process.exitcode} (-9 often means out of memory)"

    def close(self) -> None:
        if self.job is None:
            # An idle worker leaves by itself, and cleans up behind the libraries that it has loaded.
            with suppress(OSError):
                self.connection.send(None)
            self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.terminate()
        self.process.join()
        self.connection.close()


class Processes:
    """Workers on this machine: a process of one thread for each."""

    losses = 0  # a process here ends for a reason that would end the next one too

    def __init__(self, experiment: Experiment, count: int, engine: EngineChoice | None = None) -> None:
        self.experiment, self.count, self.engine = experiment, count, engine
        self.context = multiprocessing.get_context("forkserver")
        # Imported once; workers are forked from there. Nothing in it starts a thread or touches a GPU.
        self.context.set_forkserver_preload(["harness.runs.run"])
        with environment(), _without_interrupts():
            forkserver.ensure_running()
        self.asked_to_stop = self.context.Event()

    def limit(self) -> int:
        return self.count

    def start(self, action: str) -> LocalWorker:
        with environment():
            return LocalWorker(self.context, action, self.experiment, self.asked_to_stop, self.engine)

    def listen(
        self, busy: Sequence[LocalWorker], timeout: float | None = None
    ) -> Iterator[tuple[LocalWorker, str, Any]]:
        by_connection = {worker.connection: worker for worker in busy}
        for connection in wait(list(by_connection), timeout):
            worker = by_connection[connection]
            yield worker, *worker.report()

    def stop(self) -> None:
        self.asked_to_stop.set()

    def close(self) -> None:
        pass


def _serve(
    connection: Connection, action: str, experiment: Experiment, stop: Any, engine: EngineChoice | None
) -> None:
    """What a worker process does until its parent is gone."""
    # Once more: a server of forks that somebody else had started before does not ignore it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    from flowtracer import CreditError
    from harness.engines import choice
    from harness.runs import run
    from leaderboards import RecordError
    from tasks import TaskError

    quiet()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def asked_to_stop() -> bool:
        return stop.is_set() or not parent.is_alive()

    def report(_: str, done: int, __: int) -> None:
        # A parent that is gone hears nothing; the run asks for that next, saves and stops.
        with suppress(OSError):
            connection.send((PROGRESS, done))

    known: dict[str, list[dict[str, Any]]] = {}
    while True:
        try:
            job: Job | None = connection.recv()
        except (EOFError, OSError):
            return
        if job is None:
            return
        arguments = (experiment, job.label, job.seed, job.folder, report, asked_to_stop, engine)
        try:
            with _alone(job.folder, asked_to_stop) as alone:
                if not alone:
                    done = False
                elif action == TRAIN:
                    done = run.train(*arguments)
                else:
                    done = run.evaluate(*arguments, known=known)
            choice.release()  # before the other kind of worker wants the GPU
            connection.send((DONE, done))
        except (ExperimentError, CreditError, RecordError, TaskError) as error:
            if isinstance(error.__cause__, torch.AcceleratorError):
                # Nothing works on that GPU in this process any more.
                connection.send((LOST, f"lost its GPU: {error}"))
                return
            connection.send((MISTAKE, str(error)))
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception:
            connection.send((DEFECT, traceback.format_exc()))


@contextmanager
def _alone(folder: Path, stop: Callable[[], bool]) -> Iterator[bool]:
    """Holds the run's lock: one that outlives its sweep by a step must not meet its successor. False if stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop():
                    yield False
                    return
                time.sleep(0.1)
        yield True


def quiet() -> None:
    """Leaves errors, and silences the chatter of libraries that would tear the progress bars."""
    import warnings

    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started here ignores Ctrl-C, from its first instruction on: it reaches the whole group of processes, and
    a worker that is only just starting would die of it. The sweep itself says when to stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread; a worker of a cluster has no terminal that could send it
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def environment() -> Iterator[None]:
    """What worker processes must find when they import torch: one thread, no telemetry, no progress bars."""
    wanted = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
