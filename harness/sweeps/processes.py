"""A sweep's workers on this machine: processes of one thread each, forked from one that has imported everything.

They import what is installed, and what PYTHONPATH names: never from the folder that the sweep was started in, where a
user's `random.py` or another copy of these packages may lie.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from harness import plugins
from harness.engines.base import VLLM, EngineChoice
from harness.errors import ExperimentError, no_room
from harness.experiment import Experiment
from harness.sweeps.job import DEFECT, DONE, LOST, MISTAKE, PROGRESS, Job

TRAIN, EVALUATE = "train", "evaluate"

#: The signals on which a sweep saves and stops.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
FREE = "make room and run the same command again, it goes on"

#: The samples of policies that were evaluated already, by the hash of their parameters.
Evaluations = dict[str, list[dict[str, Any]]]


class LocalWorker:
    """A process that trains and evaluates one run after the other.

    Two where vLLM samples in the process: the kernels that it evaluates with have no backward, so that a process which
    has evaluated trains no more.
    """

    def __init__(self, start: Callable[[], _Process], apart: bool) -> None:
        self.start, self.apart = start, apart
        self.processes: dict[str, _Process] = {}
        self.job: Job | None = None
        #: The progress that the sweep has heard of, and the progress that the process has reported.
        self.reported = self.done = 0
        self.stage = TRAIN

    def give(self, job: Job) -> None:
        self.job, self.reported, self.done = job, 0, 0
        self._begin(TRAIN)

    def _begin(self, stage: str) -> None:
        self.stage = stage
        if self.name not in self.processes:
            self.processes[self.name] = self.start()
        self.processes[self.name].connection.send((stage, self.job))

    @property
    def name(self) -> str:
        return self.stage if self.apart else "both"

    @property
    def connection(self) -> Connection:
        """Where the process that is busy reports."""
        return self.processes[self.name].connection

    def report(self) -> tuple[str, Any]:
        """The next report of the process; waits for it."""
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return LOST, self.processes[self.name].end()
        if kind == PROGRESS:
            self.done = value
        if kind == DONE and value and self.stage == TRAIN:
            self._begin(EVALUATE)
            return PROGRESS, self.done
        return kind, value

    def close(self) -> None:
        for name, process in self.processes.items():
            process.close(idle=self.job is None or name != self.name)


class _Process:
    """A process that waits for stages of jobs, and the connection to it."""

    def __init__(
        self,
        context: Any,
        experiment: Experiment,
        stop: Any,
        engine: EngineChoice,
        imported: tuple[plugins.Plugin, ...],
        report_to: str | None,
    ) -> None:
        self.connection, theirs = context.Pipe()
        arguments = (theirs, experiment, stop, engine, imported, report_to)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def end(self) -> str:
        """Waits for the end of a process that is ending, and says how it did."""
        self.process.join()
        return f"ended with status {self.process.exitcode} (-9 often means out of memory)"

    def close(self, idle: bool) -> None:
        if idle:
            # It leaves by itself, and cleans up behind the libraries that it has loaded.
            with suppress(OSError):
                self.connection.send(None)
            self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()  # it heeds no other signal
        self.process.join()
        self.connection.close()


class Processes:
    """Workers on this machine: a process of one thread for each."""

    losses = 0  # a process here ends for a reason that would end the next one too

    def __init__(
        self,
        experiment: Experiment,
        count: int,
        engine: EngineChoice | None = None,
        imported: tuple[plugins.Plugin, ...] | None = None,
        report_to: str | None = None,
    ) -> None:
        """imported: the plug-ins of the runs, where they are not those of this process. report_to: their tracker."""
        self.experiment, self.count, self.report_to = experiment, count, report_to
        self.imported = plugins.loaded() if imported is None else imported
        self.engine = engine or experiment.engine_choice()
        self.context = multiprocessing.get_context("forkserver")
        # Imported once; workers are forked from there. Nothing in it starts a thread or touches a GPU.
        self.context.set_forkserver_preload(["harness.runs.run"])
        try:
            with environment(), _without_interrupts():
                forkserver.ensure_running()
        except OSError as error:
            raise ExperimentError(
                f"workers do not start: {error}. Their sockets lie in {tempfile.gettempdir()}: set TMPDIR to a folder "
                "with a short path (a socket's may have about 100 characters) that can be written to"
            ) from None
        self.asked_to_stop = self.context.Event()

    def limit(self) -> int:
        return self.count

    def start(self) -> LocalWorker:
        def process() -> _Process:
            with environment():
                about = (self.asked_to_stop, self.engine, self.imported, self.report_to)
                return _Process(self.context, self.experiment, *about)

        return LocalWorker(process, apart=self.engine.name == VLLM and self.engine.server is None)

    def listen(
        self, busy: Sequence[LocalWorker], timeout: float | None = None
    ) -> Iterator[tuple[LocalWorker, str, Any]]:
        by_connection: dict[Any, LocalWorker] = {worker.connection: worker for worker in busy}
        for connection in wait(list(by_connection), timeout):
            worker = by_connection[connection]
            yield worker, *worker.report()

    def stop(self) -> None:
        self.asked_to_stop.set()

    def close(self) -> None:
        pass


def _serve(
    connection: Connection,
    experiment: Experiment,
    stop: Any,
    engine: EngineChoice,
    imported: tuple[plugins.Plugin, ...],
    report_to: str | None,
) -> None:
    """The life of a worker process, until its parent is gone."""
    # Once more: a server of forks that somebody else had started before does not ignore them.
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)
    import torch

    from flowtracer import CreditError
    from leaderboards import RecordError
    from tasks import TaskError

    torch.set_num_threads(1)
    quiet()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def asked_to_stop() -> bool:
        return stop.is_set() or not parent.is_alive()

    def report(stage: str, done: int, _: int) -> None:
        # A parent that is gone hears nothing; the run asks for that next, saves and stops.
        with suppress(OSError):
            connection.send((PROGRESS, done if stage == "step" else experiment.training.steps + done))

    known: Evaluations = {}
    while True:
        try:
            message: tuple[str, Job] | None = connection.recv()
        except (EOFError, OSError):
            return
        if message is None:
            return
        try:
            plugins.take(imported)
            done = _do(*message, experiment, report, asked_to_stop, engine, known, report_to)
            connection.send((DONE, done))
        except (ExperimentError, CreditError, RecordError, TaskError) as error:
            if isinstance(error.__cause__, torch.AcceleratorError):
                # Nothing works on that GPU in this process any more.
                connection.send((LOST, f"lost its GPU: {error}"))
                return
            connection.send((MISTAKE, str(error)))
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:
            if reason := no_room(error):
                connection.send((MISTAKE, f"{message[1].folder}: {reason}; {FREE}"))
                continue
            connection.send((DEFECT, traceback.format_exc()))


def _do(
    stage: str,
    job: Job,
    experiment: Experiment,
    report: Callable[[str, int, int], None],
    stop: Callable[[], bool],
    engine: EngineChoice,
    known: Evaluations,
    report_to: str | None,
) -> bool:
    """Trains or evaluates one run, from where it stands. False if stopped."""
    from harness.engines import choice
    from harness.runs import run

    arguments = (experiment, job.label, job.seed, job.folder, report, stop, engine)
    with _alone(job.folder, stop) as alone:
        if stage == TRAIN:
            done = alone and run.train(*arguments, report_to=report_to)
        else:
            done = alone and run.evaluate(*arguments, known=known, report_to=report_to)
    choice.release()  # before the next stage wants the GPU, here or in another process
    return done


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
    """Lets what is started here ignore Ctrl-C and SIGTERM, from its first instruction on.

    Both may reach the whole group of processes, and a worker that is only just starting would die of them. The sweep
    itself says when to stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread; a worker of a cluster has no terminal that could send it
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def environment() -> Iterator[None]:
    """The variables of worker processes: one thread, no telemetry, no progress bars, no import from the folder that
    they are started in.
    """
    wanted = {
        "PYTHONSAFEPATH": "1",
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
