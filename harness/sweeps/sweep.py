"""Sweeps: every (method, seed) of an experiment, by workers of one thread each, here or on a Ray cluster.

A job is one run: a worker trains it, then evaluates it. At most `workers` are busy at once, and they are reused, so
that imports are paid once. Nothing depends on how many there are, or on which one has which run: every random choice of
a run is keyed.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from harness.engines.base import EngineChoice
from harness.errors import ExperimentError
from harness.experiment import Experiment
from harness.sameness import check_arm, check_code, differing
from harness.sweeps.job import (
    DEFECT,
    LOST,
    MISTAKE,
    PROGRESS,
    Job,
    Progress,
    Stopped,
    Worker,
    Workers,
    run_folder,
)
from harness.sweeps.processes import Processes
from leaderboards.declaration import BASELINE, UNTIL_DECIDED


def reproduce(
    experiment: Experiment,
    folder: Path,
    workers: int,
    progress: Progress,
    only: Sequence[tuple[str, int]] | None = None,
    elsewhere: Workers | None = None,
    engine: EngineChoice | None = None,
    more_seeds: int = 0,
    report_to: str | None = None,
) -> None:
    """Brings every run of the experiment, or `only` those of some methods and seeds, to its end in `folder`.

    By `workers` processes here, which sample by `engine` where one is given, or by those `elsewhere`. Finished runs are
    not repeated. Where the experiment declares to stop when decided, seeds are run one after the other, all arms of
    each, until every arm has an outcome. `more_seeds`: beyond those that it declares. `report_to`: the tracker that
    shows runs made here.

    Raises ExperimentError if the folder holds another experiment, or if a run fails; Stopped on Ctrl-C, after every
    run has saved a checkpoint. The same call goes on from there.
    """
    from leaderboards import read_run

    if workers < 1:
        raise ExperimentError(f"--workers must be at least 1, not {workers}")
    whole = experiment.training.steps + len(experiment.evaluation_steps())
    # Seeds outside, methods inside: a sweep that is stopped early holds whole pairs.
    seeds = [[(label, seed) for label in experiment.methods] for seed in range(experiment.seeds + more_seeds)]
    chosen = seeds if only is None else [only]
    jobs = [[_job(folder, label, seed) for label, seed in pairs] for pairs in chosen]
    finished = [job for job in chain.from_iterable(jobs) if _finished(job)]
    for job in finished:  # they are not opened again, and must not be of another arm under the same label
        check_arm(experiment, job.label, read_run(job.folder).manifest, job.folder)
    _check_code(experiment, folder, list(chain.from_iterable(jobs)), finished, progress)
    claim(experiment, folder)
    done = len(finished)
    progress.begin(whole * sum(map(len, jobs)), whole * done)
    if only is None and experiment.declaration.stopping == UNTIL_DECIDED:
        rounds = _until_decided(experiment, folder, jobs)
    else:
        rounds = iter([list(chain.from_iterable(jobs))])
    pool = elsewhere or Processes(experiment, workers, engine, report_to=report_to)
    _Sweep(rounds, pool, progress).run()


def _job(folder: Path, label: str, seed: int) -> Job:
    # A worker may be in another folder than this process; Ray's are.
    return Job(label, seed, run_folder(folder.absolute(), label, seed))


def _finished(job: Job) -> bool:
    return (job.folder / "finished.json").exists()


def _check_code(
    experiment: Experiment, folder: Path, jobs: Sequence[Job], finished: Sequence[Job], progress: Progress
) -> None:
    """Refuses runs that would join others of their arm made by other code; notes it where all are finished."""
    from leaderboards import read_run

    for label in experiment.methods:
        theirs = [job for job in jobs if job.label == label]
        done = [job for job in finished if job.label == label]
        try:
            check_code(experiment, label, [read_run(job.folder).manifest for job in done], folder)
        except ExperimentError as error:
            if len(done) < len(theirs):
                raise
            progress.note(str(error).partition("; give another")[0])


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
    """Writes experiment.json, or checks the one that is there. Raises ExperimentError for a folder of something else,
    and for one that cannot be written to.
    """
    path = folder / "experiment.json"
    # Looked at before `path`: where jobs begin at once, another may claim the folder in between. Names with a dot in
    # front are those of files under way.
    filled = folder.is_dir() and not all(each.name.startswith(".") for each in folder.iterdir())
    record = {"experiment_hash": experiment.hash, "experiment": experiment.resolved()}
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    if path.exists():
        try:
            there = path.read_text()
            content = json.loads(there)
            recorded, before = content["experiment_hash"], dict(content["experiment"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ExperimentError(
                f"{path} cannot be read: remove it, or give another folder with --out"
            ) from None
        if there == text:
            return  # a finished sweep may lie where nothing can be written
        if recorded != experiment.hash:
            raise ExperimentError(_of_another(folder, recorded, before, experiment))
    elif filled:
        raise ExperimentError(
            f"{folder} is not empty and holds no experiment: give another folder with --out"
        )
    elif folder.is_symlink() and not folder.exists():
        raise ExperimentError(
            f"{folder} is a link to {folder.readlink()}, which is not there: give another folder with --out"
        )
    elif folder.exists() and not folder.is_dir():
        raise ExperimentError(f"{folder} is a file: give a folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".experiment.json.{uuid.uuid4().hex}")  # machines share process ids
        aside.write_text(text)
        aside.rename(path)
    except OSError as error:
        raise ExperimentError(
            f"{folder} cannot be written to ({error.strerror}): give another folder with --out"
        ) from None


def _of_another(folder: Path, recorded: str, before: Mapping[str, Any], experiment: Experiment) -> str:
    """The line for a folder that holds runs of another experiment: its hash and how it was declared."""
    first, lines = before.get("seeds"), differing(before, experiment.resolved())
    if isinstance(first, int) and lines == [f"seeds {first} -> {experiment.seeds}"]:
        more = experiment.seeds - first
        return (
            f"{folder} holds runs of this experiment; {first} seeds were declared before them, and that stays so: set "
            f"seeds to {first} again" + (f" and add --more-seeds {more}" if more > 0 else "")
        )
    return (
        f"{folder} holds another experiment ({recorded[:12]}, this one is {experiment.hash[:12]}: "
        f"{', '.join(lines) or 'a changed file'}): give another folder with --out"
    )


class _Sweep:
    """One sweep in progress."""

    def __init__(self, rounds: Iterator[list[Job]], pool: Workers, progress: Progress) -> None:
        self.rounds, self.pool, self.progress = rounds, pool, progress
        self.waiting = deque[Job]()
        self.workers: list[Worker] = []
        #: By run: how often it lost its worker, and how much of it the bars count as done.
        self.lost: Counter[Path] = Counter()
        self.shown: Counter[Path] = Counter()
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
                    self.waiting.clear()
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
            self.waiting.extend(job for job in jobs if not _finished(job))
            if self.waiting:
                return True
        return False

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.job is not None]

    def _assign(self) -> bool:
        """Gives waiting jobs to idle workers, and starts workers while there may be more. True if it gave any."""
        gave = False
        while self.waiting and len(self._busy()) < self.pool.limit():
            idle = next((worker for worker in self.workers if worker.job is None), None)
            if idle is None:
                idle = self.pool.start()
                self.workers.append(idle)
            idle.give(self.waiting.popleft())
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
                self.shown[job.folder] += value - worker.reported
                worker.reported = value
            elif kind == MISTAKE:
                raise ExperimentError(value)
            elif kind == DEFECT:
                raise RuntimeError(f"{job} failed:\n{value}")
            elif kind == LOST:
                self._again(worker, job, value)
            else:
                worker.job = None
                if value:
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
        self.progress.advance(job, -self.shown.pop(job.folder, 0))
        if self.interrupted:
            return
        self.progress.note(f"the process of {job} {reason}; it is started again")
        self.waiting.appendleft(job)


def _last_checkpoint(folder: Path) -> str:
    """Where a run that was cut off goes on from, in words."""
    from harness.runs.checkpoints import last_checkpoint

    checkpoint = last_checkpoint(folder)
    return f"its last good checkpoint is {checkpoint}" if checkpoint else "it has no checkpoint yet"
