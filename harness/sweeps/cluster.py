"""A sweep's workers on a Ray cluster: many runs on many machines.

A run takes one CPU and, where the cluster has any, one GPU, or the share of one that was asked for: one comparison
stays on one kind of machine. Ray's actor trains nothing itself. It starts the same processes as a sweep here, one that
trains and one that evaluates, and passes on what they report; so a run has the content hashes that a sweep here gives
it. Every machine needs this package, in the same versions.

Where the output folder is one folder for every machine (NFS for one), runs are written straight into it, and a run
whose worker was lost goes on from its last checkpoint. Where it is not, a run is made in a scratch folder and brought
back whole, part by part through Ray's object store, when it is finished or stopped; of a run whose worker was lost
nothing is left, and it starts again. To ask for a shared folder always would be simpler, but machines that are rented
by the hour seldom have one; to bring every checkpoint back would cost more than the steps it saves, since the
checkpoints of a policy of 4B parameters fill the network for minutes. A stopped run does take its checkpoint along.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import provenance
from harness.engines.base import VLLM
from harness.errors import ExperimentError
from harness.experiment import Experiment
from harness.sweeps.job import DONE, LOST, MISTAKE, TRAIN, Job, run_folder
from harness.sweeps.processes import LocalWorker, Processes

#: Bytes of a file that travel at once.
PART = 2**25
#: Variables of this process that workers on other machines must agree on.
PASSED_ON = ("FLOWTRACER_DATA", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


class Cluster:
    """Workers on a Ray cluster.

    address: "local" starts a cluster on this machine for the length of the sweep, "auto" joins the one that this
    machine is part of, HOST:PORT the one at that address. gpus: of each run, None for one where the cluster has any.
    count: runs at once at most, None for as many as the cluster has room for, now.

    Raises ExperimentError where Ray is not installed, there is no cluster, or none of its machines has room for a run.
    """

    losses = 2

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        address: str,
        gpus: float | None = None,
        count: int | None = None,
    ) -> None:
        if experiment.engine == VLLM and gpus is not None and 0 < gpus < 1:
            raise ExperimentError(
                f"--gpus {gpus:g}: vLLM takes its share of a whole GPU for each run; give at least 1"
            )
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise ExperimentError('--ray needs Ray: pip install "flowtracer[ray]"') from None
        self.ray, self.experiment, self.folder, self.count = ray, experiment, folder.absolute(), count
        own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 8 * PART}
        try:
            ray.init(
                address=address if address == "local" else _reachable(ray, address),
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(own if address == "local" else {}),
            )
        except Exception as error:  # a bare one where a busy machine takes more than half a minute to start
            raise ExperimentError(
                f"--ray {address}: no cluster there ({_first_line(error)}); start one with `ray start --head`, "
                "join this machine to it, or give --ray local"
            ) from None
        machines = self._machines()
        self.gpus = gpus if gpus is not None else float(any(one.get("GPU", 0) >= 1 for one in machines))
        if not self._room():
            ray.shutdown()
            needs = "1 CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
            raise ExperimentError(
                f"--ray {address}: no machine of the cluster has {needs} for a run; add one, or change --gpus"
            )
        # A file that a worker sees as well if the folder is shared.
        self.token = (self.folder / f".cluster-{uuid.uuid4().hex}", uuid.uuid4().hex)
        self.started: list[RayWorker] = []
        self.stopping = False

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """How many runs the machines can do at once."""
        return sum(
            int(min(one.get("CPU", 0), one.get("GPU", 0) / self.gpus if self.gpus else float("inf")))
            for one in self._machines()
        )

    def limit(self) -> int:
        # Where every machine has been lost, one run waits for the next to join.
        room = max(1, self._room())
        return room if self.count is None else min(room, self.count)

    def start(self, action: str) -> RayWorker:
        if not self.started:
            self._mark()
        options = self.ray.remote(_Actor).options(num_cpus=1, num_gpus=self.gpus, max_restarts=0)
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        actor = options.remote(self.experiment, self.token, variables, self.gpus > 0, provenance.versions())
        self.started.append(RayWorker(self.ray, actor))
        return self.started[-1]

    def _mark(self) -> None:
        self.token[0].write_text(self.token[1])

    def listen(self, busy: Sequence[RayWorker]) -> Iterator[tuple[RayWorker, str, Any]]:
        self._hand_over([worker for worker in busy if worker.waits])
        waited = {worker.pending: worker for worker in busy}
        # Asked to stop, those that still wait for a machine have nothing to save.
        if idle := [worker for worker in busy if self.stopping and worker.waits]:
            yield from ((worker, DONE, False) for worker in idle)
            return
        ready, _ = self.ray.wait(list(waited), num_returns=1)
        for reference in ready:
            worker = waited[reference]
            try:
                if worker.waits:
                    worker.begin(self.ray.get(reference))
                    continue
                for kind, value in self.ray.get(reference):
                    if kind == DONE:
                        self._bring_back(worker, value)
                    yield worker, kind, value
            except self.ray.exceptions.RayActorError as error:
                yield worker, LOST, f"was lost ({_cause(error)})"
                continue
            if worker.job is not None and worker.pending is reference:
                worker.pending = worker.actor.reports.remote()

    def _hand_over(self, waiting: Sequence[RayWorker]) -> None:
        """Gives jobs that wait for a machine to those who have one and no job: others may never leave theirs."""
        idle = [worker for worker in self.started if worker.placed and worker.job is None]
        for worker, free in zip(waiting, idle, strict=False):
            assert worker.job is not None
            worker.actor, free.actor = free.actor, worker.actor
            free.placed = False
            worker.give(worker.job)

    def _bring_back(self, worker: RayWorker, reached: bool) -> None:
        """The files of a run that is finished or stopped, where the folder is not shared."""
        assert worker.job is not None
        trained = worker.job.action == TRAIN and reached
        if not (trained and not self.stopping):
            worker.fetch()

    def stop(self) -> None:
        self.stopping = True
        for worker in self.started:
            worker.actor.stop.remote()

    def close(self) -> None:
        self.token[0].unlink(missing_ok=True)
        self.ray.shutdown()


class RayWorker:
    """One actor, as a sweep sees it."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor = ray, actor
        self.job: Job | None = None
        self.reported = 0
        #: The call whose answer holds the next reports, or that is answered once there is a machine.
        self.pending: Any = None
        self.waits = self.placed = False

    def takes(self, action: str) -> bool:
        return True

    def give(self, job: Job) -> None:
        self.job, self.reported = job, 0
        if job.action == TRAIN:
            # A cluster that is busy with others' work may take hours; whoever listens hears of other runs meanwhile.
            self.pending, self.waits = self.actor.prepare.remote(job), True
        else:
            self.pending = self.actor.give.remote(job)

    def begin(self, shared: bool) -> None:
        """Starts the job where there is a machine now; what is there of a run that was stopped goes along."""
        assert self.job is not None
        for name, size in () if shared else _files(self.job.folder):
            with open(self.job.folder / name, "rb") as file:
                for _ in range(0, max(size, 1), PART):
                    self.ray.get(self.actor.append.remote(name, file.read(PART)))
        self.pending, self.waits, self.placed = self.actor.give.remote(self.job), False, True

    def fetch(self) -> None:
        """Puts the run's files where the job wants them, all of them or none."""
        assert self.job is not None
        listing = self.ray.get(self.actor.files.remote())
        if listing is None:
            return  # they are there already
        folder = self.job.folder
        aside = folder.with_name(f".{folder.name}.aside")
        shutil.rmtree(aside, ignore_errors=True)
        for name, size in listing:
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                for offset in range(0, size, PART):
                    file.write(self.ray.get(self.actor.read.remote(name, offset)))
                file.flush()
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)

    def close(self) -> None:
        if self.job is None and self.placed:
            # What is idle cleans up behind itself.
            self.ray.wait([self.actor.close.remote()], timeout=10)
        self.placed = False
        self.ray.kill(self.actor)


class _Actor:
    """What runs on the cluster: two processes, one that trains and one that evaluates, and their run's files."""

    def __init__(
        self,
        experiment: Experiment,
        token: tuple[Path, str],
        variables: dict[str, str],
        gpu: bool,
        versions: dict[str, str],
    ) -> None:
        os.environ.update(variables)
        if not gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        try:
            self.shared = token[0].read_text() == token[1]
        except OSError:
            self.shared = False
        here = provenance.versions()
        self.differences = [
            f"{name} {here.get(name)} for {wanted}"
            for name, wanted in versions.items()
            if here.get(name) != wanted
        ]
        self.scratch = Path(tempfile.mkdtemp(prefix="flowtracer-"))
        self.processes = Processes(experiment, 1)
        self.workers: dict[str, LocalWorker] = {}
        self.busy: LocalWorker | None = None
        self.folder = self.scratch

    def prepare(self, job: Job) -> bool:
        """Readies the run's folder. True if it is the job's own, False if it has to be filled from there."""
        if not self.shared:
            self.folder = run_folder(self.scratch, job.label, job.seed)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        return self.shared

    def give(self, job: Job) -> list[tuple[str, Any]]:
        if self.differences:
            differing = ", ".join(self.differences)
            line = f"{socket.gethostname()} has {differing}: install the same versions on every machine"
            return [(MISTAKE, line)]
        if job.action not in self.workers:
            self.workers[job.action] = self.processes.start(job.action)
        self.busy = self.workers[job.action]
        self.busy.give(Job(job.action, job.label, job.seed, job.folder if self.shared else self.folder))
        return []

    def reports(self) -> list[tuple[str, Any]]:
        """What the busy process has said, after a second at most, so that other calls get their turn."""
        assert self.busy is not None
        found: list[tuple[str, Any]] = []
        while not found or found[-1][0] != DONE:
            said = [report for _, *report in self.processes.listen([self.busy], 0.0 if found else 1.0)]
            if not said:
                break
            found += [(kind, value) for kind, value in said]
            if found[-1][0] == LOST:
                return found
        if found and found[-1][0] == DONE:
            self.busy.job = None
        return found

    def stop(self) -> None:
        self.processes.stop()

    def files(self) -> list[tuple[str, int]] | None:
        return None if self.shared else list(_files(self.folder))

    def read(self, name: str, offset: int) -> bytes:
        with open(self.folder / name, "rb") as file:
            file.seek(offset)
            return file.read(PART)

    def append(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(data)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Name and size of every file of a run, those that were being written left out."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield str(name), path.stat().st_size


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _cause(error: Exception) -> str:
    """Why Ray says that an actor is gone, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if "Worker exit detail:" in line:
            return line.rpartition("Worker exit detail:")[2].strip().split(". ")[0]
    return lines[-1] if lines else type(error).__name__


def _reachable(ray: Any, address: str) -> str:
    """HOST:PORT of a cluster where something answers: Ray itself would try for minutes. OSError, or ValueError."""
    if address == "auto":
        address = ray._private.services.canonicalize_bootstrap_address_or_die("auto")
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=5).close()
    return address
