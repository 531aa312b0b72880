"""A sweep's workers on a Ray cluster: many runs on many machines.

A run takes one CPU and, where the cluster has any, one GPU, or the share of one that was asked for: one comparison
stays on one kind of machine. Ray's actor trains nothing itself. It starts the same process as a sweep here, and passes
on what that reports; so a run has the content hashes that a sweep here gives it. Every machine needs this package, in
the same versions.

Where the output folder is one folder for every machine (NFS for one), runs are written straight into it, and a run
whose worker was lost goes on from its last checkpoint. Where it is not, a run is made in a scratch folder and brought
back whole, part by part through Ray's object store, when it is finished or stopped; a run whose worker was lost leaves
nothing, and starts again. To ask for a shared folder always would be simpler, but machines that are rented
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
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import parallel, plugins, provenance
from harness.engines.base import VLLM
from harness.errors import ExperimentError
from harness.experiment import Experiment
from harness.sweeps.job import DONE, LOST, MISTAKE, Job, run_folder
from harness.sweeps.processes import LocalWorker, Processes

#: Bytes of a file that travel at once.
PART = 2**25
#: Variables of this process that workers on other machines must agree on.
PASSED_ON = ("FLOWTRACER_DATA", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


class Cluster:
    """Workers on a Ray cluster.

    address: "local" starts a cluster on this machine for the length of the sweep, "auto" joins the one that this
    machine is part of, HOST:PORT the one at that address. gpus: of each run, None for one where the cluster has any.
    count: runs at once at most, None for as many as the cluster has room for, now. report_to: the runs' tracker.

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
        report_to: str | None = None,
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
        self.report_to = report_to
        local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 8 * PART}
        try:
            reached = address if address == "local" else _reachable(ray, address)
            # Ray's processes import from the folder that this one is in at that moment, before all others.
            with chdir(parallel.FOLDER):
                ray.init(
                    address=reached,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **(local if address == "local" else {}),
                )
        except Exception as error:  # a bare one where a busy machine takes more than half a minute to start
            raise ExperimentError(
                f"--ray {address}: no cluster there ({_first_line(error)}); start one with `ray start --head`, "
                "join this machine to it, or give --ray local"
            ) from None
        machines = self._machines()
        self.gpus = (
            gpus if gpus is not None else float(any(machine.get("GPU", 0) >= 1 for machine in machines))
        )
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
            int(min(machine.get("CPU", 0), machine.get("GPU", 0) / self.gpus if self.gpus else float("inf")))
            for machine in self._machines()
        )

    def limit(self) -> int:
        # Where every machine has been lost, one run waits for the next to join.
        room = max(1, self._room())
        return room if self.count is None else min(room, self.count)

    def start(self) -> RayWorker:
        if not self.started:
            self._mark()
        options = self.ray.remote(_Actor).options(num_cpus=1, num_gpus=self.gpus, max_restarts=0)
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        actor = options.remote(
            self.experiment,
            self.token,
            variables,
            self.gpus > 0,
            provenance.versions(),
            plugins.loaded(),
            self.report_to,
        )
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
                        worker.fetch()
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

    def give(self, job: Job) -> None:
        self.job, self.reported = job, 0
        # A cluster that is busy with others' work may take hours; whoever listens hears of other runs meanwhile.
        self.pending, self.waits = self.actor.prepare.remote(job), True

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
    """The part on the cluster: a process that trains and evaluates, and the files of its run."""

    def __init__(
        self,
        experiment: Experiment,
        token: tuple[Path, str],
        variables: dict[str, str],
        gpu: bool,
        versions: dict[str, str],
        imported: tuple[plugins.Plugin, ...],
        report_to: str | None,
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
        self.processes = Processes(experiment, 1, imported=imported, report_to=report_to)
        self.worker: LocalWorker | None = None
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
        if self.worker is None:
            self.worker = self.processes.start()
        self.worker.give(job if self.shared else replace(job, folder=self.folder))
        return []

    def reports(self) -> list[tuple[str, Any]]:
        """The reports of the process, after a second at most, so that other calls get their turn."""
        assert self.worker is not None
        reports: list[tuple[str, Any]] = []
        while not reports or reports[-1][0] not in (DONE, LOST):
            new = [report for _, *report in self.processes.listen([self.worker], 0.0 if reports else 1.0)]
            if not new:
                return reports
            reports += [(kind, value) for kind, value in new]
        if reports[-1][0] == DONE:
            self.worker.job = None
        return reports

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
        if self.worker is not None:
            self.worker.close()
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
