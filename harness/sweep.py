"""Sweeps: every (method, seed) of an experiment, on worker processes of one thread each.

Training and evaluation run in processes of their own (lm-eval seeds the global generators), at most `workers` of them
busy at once. Processes are reused, so imports are paid once. Nothing depends on how many there are, or on who runs
what: every random choice of a run is keyed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from harness.errors import ExperimentError
from harness.experiment import BASELINE, UNTIL_DECIDED, Experiment

TRAIN, EVALUATE = "train", "evaluate"


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
) -> None:
    """Brings every run of the experiment, or `only` that of one method and seed, to its end in `folder`.

    Finished runs are not repeated. Where the experiment declares to stop when decided, seeds are run one after the
    other, all arms of each, until every arm has a verdict.

    Raises ExperimentError if the folder holds another experiment, or if a run fails; Stopped on Ctrl-C, after every
    run has saved a checkpoint. The same call goes on from there.
    """
    if workers < 1:
        raise ExperimentError(f"--workers must be at least 1, not {workers}")
    _claim(experiment, folder)
    whole = experiment.training.steps + len(experiment.evaluation_steps())
    # Seeds outside, methods inside: a sweep that is stopped early holds whole pairs.
    seeds = [[(label, seed) for label in experiment.methods] for seed in range(experiment.seeds)]
    chosen = [[only]] if only else seeds
    jobs = [[_job(folder, label, seed) for label, seed in pairs] for pairs in chosen]
    done = sum(_finished(job) for job in chain.from_iterable(jobs))
    progress.begin(whole * sum(map(len, jobs)), whole * done)
    if only is None and experiment.declaration.stopping == UNTIL_DECIDED:
        rounds = _until_decided(experiment, folder, jobs)
    else:
        rounds = iter([list(chain.from_iterable(jobs))])
    _Sweep(experiment, rounds, workers, progress).run()


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


def _claim(experiment: Experiment, folder: Path) -> None:
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


class _Worker:
    """A process that does one kind of job, one after the other."""

    def __init__(self, context: Any, action: str, experiment: Experiment, stop: Any) -> None:
        self.action = action
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, action, experiment, stop), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.reported = 0

    def give(self, job: Job) -> None:
        self.job, self.reported = job, 0
        self.connection.send(job)

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


class _Sweep:
    """One sweep in progress."""

    def __init__(
        self, experiment: Experiment, rounds: Iterator[list[Job]], workers: int, progress: Progress
    ) -> None:
        self.experiment, self.progress, self.limit = experiment, progress, workers
        self.rounds = rounds
        self.waiting = {TRAIN: deque[Job](), EVALUATE: deque[Job]()}
        self.context = multiprocessing.get_context("forkserver")
        # Imported once; workers are forked from there. Nothing in it starts a thread or touches a GPU.
        self.context.set_forkserver_preload(["harness.run"])
        self.stop = self.context.Event()
        self.workers: list[_Worker] = []

    def run(self) -> None:
        interrupted = False
        with _environment():
            try:
                while self._assign() or self._busy() or self._next_round():
                    try:
                        self._listen()
                    except KeyboardInterrupt:
                        if interrupted:
                            raise Stopped from None
                        interrupted = True
                        self.stop.set()
                        for queue in self.waiting.values():
                            queue.clear()
            except KeyboardInterrupt:
                raise Stopped from None
            finally:
                for worker in self.workers:
                    worker.close()
        if interrupted:
            raise Stopped

    def _next_round(self) -> bool:
        """Puts the unfinished jobs of the next round in line, once the round before is done. False after the last."""
        if self.stop.is_set():
            return False
        jobs = next(self.rounds, None)
        self.waiting[TRAIN].extend(job for job in jobs or () if not _finished(job))
        return jobs is not None

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.job is not None]

    def _assign(self) -> bool:
        """Gives waiting jobs to idle workers, evaluations first: they finish runs. True if it gave any."""
        gave = False
        for action in (EVALUATE, TRAIN):
            while self.waiting[action] and len(self._busy()) < self.limit:
                idle = [worker for worker in self.workers if worker.action == action and worker.job is None]
                if not idle:
                    idle = [_Worker(self.context, action, self.experiment, self.stop)]
                    self.workers += idle
                idle[0].give(self.waiting[action].popleft())
                gave = True
        return gave

    def _listen(self) -> None:
        """Handles what busy workers report."""
        busy = {worker.connection: worker for worker in self._busy()}
        for connection in wait(list(busy)):
            worker = busy[connection]
            job = worker.job
            assert job is not None
            try:
                kind, value = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                worker.process.join()
                raise ExperimentError(
                    f"the process of {job} ended with status {worker.process.exitcode} "
                    "(-9 often means out of memory: try --workers 1); run the same command again, it goes on"
                ) from None
            if kind == "progress":
                self.progress.advance(job, value - worker.reported)
                worker.reported = value
            elif kind == "mistake":
                raise ExperimentError(value)
            elif kind == "defect":
                raise RuntimeError(f"{job} failed:\n{value}")
            else:
                worker.job = None
                if value and job.action == TRAIN and not self.stop.is_set():
                    self.waiting[EVALUATE].append(Job(EVALUATE, job.label, job.seed, job.folder))
                elif value:
                    self.progress.finished(job)


def _serve(connection: Connection, action: str, experiment: Experiment, stop: Any) -> None:
    """What a worker process does until its parent is gone."""
    import signal

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent says when to stop
    from flowtracer import CreditError
    from harness import run
    from leaderboards import RecordError
    from tasks import TaskError

    _quiet()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def asked_to_stop() -> bool:
        return stop.is_set() or not parent.is_alive()

    def report(_: str, done: int, __: int) -> None:
        # A parent that is gone hears nothing; the run asks for that next, saves and stops.
        with suppress(OSError):
            connection.send(("progress", done))

    known: dict[str, list[dict[str, Any]]] = {}
    while True:
        try:
            job: Job | None = connection.recv()
        except (EOFError, OSError):
            return
        if job is None:
            return
        arguments = (experiment, job.label, job.seed, job.folder, report, asked_to_stop)
        try:
            if action == TRAIN:
                done = run.train(*arguments)
            else:
                done = run.evaluate(*arguments, known=known)
            connection.send(("done", done))
        except (ExperimentError, CreditError, RecordError, TaskError) as error:
            connection.send(("mistake", str(error)))
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception:
            connection.send(("defect", traceback.format_exc()))


def _quiet() -> None:
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
def _environment() -> Iterator[None]:
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
