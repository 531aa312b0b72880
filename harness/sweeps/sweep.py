"""Sweeps: every (method, seed) of an experiment, on worker processes of one thread each, here or on a Ray cluster.

Training and evaluation run in processes of their own (lm-eval seeds the global generators), at most `workers` of them
busy at once. Processes are reused, so imports are paid once. Nothing depends on how many there are, or on who runs
what: every random choice of a run is keyed.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from harness.errors import ExperimentError
from harness.experiment import BASELINE, UNTIL_DECIDED, Experiment, check_arm

TRAIN, EVALUATE = "train", "evaluate"

#: What workers report: steps done so far; a job's end, and whether it was reached; a user's mistake; a defect of the
#: program, with its traceback; and that the worker is gone, with the reason.
PROGRESS, DONE, MISTAKE, DEFECT, LOST = "progress", "done", "mistake", "defect", "lost"


@dataclass(frozen=True)
class Job:
    """One run to train or to evaluate."""

    action: str
    label: str
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.label} seed {self.seed}"


class Progress(Protocol):
    """Who is told how far a sweep is; the command line shows bars."""

    def begin(self, steps: int, done: int) -> None:
        """The whole sweep has `steps` training steps and evaluations, `done` of them from before."""

    def advance(self, job: Job, count: int) -> None:
        """`count` more of them are done."""

    def finished(self, job: Job) -> None:
        """A job is done."""

    def note(self, line: str) -> None:
        """Something that the user should know, and that stops nothing."""


class Worker(Protocol):
    """What does one job after the other."""

    job: Job | None
    reported: int

    def takes(self, action: str) -> bool:
        """Whether it does jobs of that kind."""

    def give(self, job: Job) -> None:
        """Starts the job."""

    def close(self) -> None:
        """Ends the worker, whatever it is doing."""


class Workers(Protocol):
    """Where a sweep's workers run."""

    #: How often a run may lose its worker before the sweep gives up.
    losses: int

    def limit(self) -> int:
        """How many may be busy at once, now."""

    def start(self, action: str) -> Worker:
        """A new worker, for jobs of one kind or of both."""

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


def reproduce(
    experiment: Experiment,
    folder: Path,
    workers: int,
    progress: Progress,
    only: tuple[str, int] | None = None,
    elsewhere: Workers | None = None,
    server: str | None = None,
) -> None:
    """Brings every run of the experiment, or `only` that of one method and seed, to its end in `folder`.

    By `workers` processes here, sampling from the `server` at that address where one is given, or by those
    `elsewhere`. Finished runs are not repeated. Where the experiment declares to stop when decided, seeds are run one
    after the other, all arms of each, until every arm has a verdict.

    Raises ExperimentError if the folder holds another experiment, or if a run fails; Stopped on Ctrl-C, after every
    run has saved a checkpoint. The same call goes on from there.
    """
    from leaderboards import read_run

    if workers < 1:
        raise ExperimentError(f"--workers must be at least 1, not {workers}")
    whole = experiment.training.steps + len(experiment.evaluation_steps())
    # Seeds outside, methods inside: a sweep that is stopped early holds whole pairs.
    seeds = [[(label, seed) for label in experiment.methods] for seed in range(experiment.seeds)]
    chosen = [[only]] if only else seeds
    jobs = [[_job(folder, label, seed) for label, seed in pairs] for pairs in chosen]
    finished = [job for job in chain.from_iterable(jobs) if _finished(job)]
    for job in finished:  # they are not opened again, and must not be of another arm under the same label
        check_arm(experiment, job.label, read_run(job.folder).manifest, job.folder)
    claim(experiment, folder)
    done = len(finished)
    progress.begin(whole * sum(map(len, jobs)), whole * done)
    if only is None and experiment.declaration.stopping == UNTIL_DECIDED:
        rounds = _until_decided(experiment, folder, jobs)
    else:
        rounds = iter([list(chain.from_iterable(jobs))])
    _Sweep(rounds, elsewhere or Processes(experiment, workers, server), progress).run()


def _job(folder: Path, label: str, seed: int) -> Job:
    return Job(TRAIN, label, seed, run_folder(folder, label, seed))


def _finished(job: Job) -> bool:
    return (job.folder / "finished.json").exists()


def _until_decided(experiment: Experiment, folder: Path, jobs: Sequence[list[Job]]) -> Iterator[list[Job]]:
    """The jobs of one seed after the other, up to the seed after which every arm is decided."""
    from leaderboards import compare, load

    for seed, of_seed in enumerate(jobs):
        yield of_seed
        # A folder may hold later seeds, of arms that were there before another was added: the rule looks at none.
        runs = [run for run in load(folder) if run.seed <= seed and run.method in experiment.methods]
        if not compare(runs, baseline=BASELINE).undecided:
            return


def claim(experiment: Experiment, folder: Path) -> None:
    """Writes experiment.json, or checks the one that is there."""
    path = folder / "experiment.json"
    record = {"experiment_hash": experiment.hash, "experiment": experiment.resolved()}
    if path.exists():
        try:
            found = json.loads(path.read_text())["experiment_hash"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ExperimentError(
                f"{path} cannot be read: remove it, or give another folder with --out"
            ) from None
        if found != experiment.hash:
            raise ExperimentError(
                f"{folder} holds another experiment ({found[:12]}, this one is {experiment.hash[:12]}): "
                "give another folder with --out"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise ExperimentError(
            f"{folder} is not empty and holds no experiment: give another folder with --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".experiment.json.{os.getpid()}")
    aside.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    aside.rename(path)


class LocalWorker:
    """A process that does one kind of job, one after the other."""

    def __init__(
        self, context: Any, action: str, experiment: Experiment, stop: Any, server: str | None = None
    ) -> None:
        self.action = action
        self.connection, theirs = context.Pipe()
        arguments = (theirs, action, experiment, stop, server)
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

    def __init__(self, experiment: Experiment, count: int, server: str | None = None) -> None:
        self.experiment, self.count, self.server = experiment, count, server
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
            return LocalWorker(self.context, action, self.experiment, self.asked_to_stop, self.server)

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


class _Sweep:
    """One sweep in progress."""

    def __init__(self, rounds: Iterator[list[Job]], pool: Workers, progress: Progress) -> None:
        self.rounds, self.pool, self.progress = rounds, pool, progress
        self.waiting = {TRAIN: deque[Job](), EVALUATE: deque[Job]()}
        self.workers: list[Worker] = []
        self.lost: Counter[Path] = Counter()
        self.told: Counter[Path] = Counter()
        self.interrupted = False

    def run(self) -> None:
        try:
            while self._assign() or self._busy() or self._next_round():
                try:
                    self._listen()
                except KeyboardInterrupt:
                    if self.interrupted:
                        raise
                    self.interrupted = True
                    self.pool.stop()
                    for queue in self.waiting.values():
                        queue.clear()
        except KeyboardInterrupt:
            raise Stopped from None
        finally:
            for worker in self.workers:
                worker.close()
            self.pool.close()
        if self.interrupted:
            raise Stopped

    def _next_round(self) -> bool:
        """Fills the queue with the next jobs that are not finished. False when there are none."""
        if self.interrupted:
            return False
        for jobs in self.rounds:
            self.waiting[TRAIN].extend(job for job in jobs if not _finished(job))
            if self.waiting[TRAIN]:
                return True
        return False

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.job is not None]

    def _assign(self) -> bool:
        """Gives waiting jobs to idle workers, evaluations first: they finish runs. True if it gave any."""
        gave = False
        for action in (EVALUATE, TRAIN):
            while self.waiting[action] and len(self._busy()) < self.pool.limit():
                idle = [worker for worker in self.workers if worker.takes(action) and worker.job is None]
                if not idle:
                    idle = [self.pool.start(action)]
                    self.workers += idle
                idle[0].give(self.waiting[action].popleft())
                gave = True
        return gave

    def _listen(self) -> None:
        """Handles what busy workers report."""
        busy = self._busy()
        if not busy:
            return  # a round has only just begun
        for worker, kind, value in self.pool.listen(busy):
            job = worker.job
            assert job is not None
            if kind == PROGRESS:
                self.progress.advance(job, value - worker.reported)
                self.told[job.folder] += value - worker.reported
                worker.reported = value
            elif kind == MISTAKE:
                raise ExperimentError(value)
            elif kind == DEFECT:
                raise RuntimeError(f"{job} failed:\n{value}")
            elif kind == LOST:
                self._again(worker, job, value)
            else:
                worker.job = None
                if value and job.action == TRAIN and not self.interrupted:
                    evaluation = Job(EVALUATE, job.label, job.seed, job.folder)
                    # On the same worker if it does both: the run's files are there.
                    if worker.takes(EVALUATE):
                        worker.give(evaluation)
                    else:
                        self.waiting[EVALUATE].append(evaluation)
                elif value:
                    self.progress.finished(job)

    def _again(self, worker: Worker, job: Job, reason: str) -> None:
        """Puts the job of a worker that is gone in front of the others, or gives up."""
        worker.close()
        self.workers.remove(worker)
        self.lost[job.folder] += 1
        if self.lost[job.folder] > self.pool.losses:
            raise ExperimentError(
                f"the process of {job} {reason}; {_last_checkpoint(job.folder)}: "
                "run the same command again, it goes on"
            )
        self.progress.advance(job, -self.told.pop(job.folder, 0))
        if self.interrupted:
            return
        self.progress.note(f"the process of {job} {reason}; it is started again")
        self.waiting[TRAIN].appendleft(Job(TRAIN, job.label, job.seed, job.folder))


def _last_checkpoint(folder: Path) -> str:
    """Where a run that was cut off goes on from, in words."""
    from harness.runs.checkpoints import last_checkpoint

    found = last_checkpoint(folder)
    return f"its last good checkpoint is {found}" if found else "it has no checkpoint yet"


def _serve(
    connection: Connection, action: str, experiment: Experiment, stop: Any, server: str | None
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
        arguments = (experiment, job.label, job.seed, job.folder, report, asked_to_stop, server)
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
