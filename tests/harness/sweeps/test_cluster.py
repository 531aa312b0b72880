"""Protects sweeps on a Ray cluster, a real one: lost workers and stops change nothing in any result."""

import os
import re
import signal
import socket
import time
from contextlib import contextmanager

import pytest
import ray
from ray.cluster_utils import Cluster as Machines

from harness import ExperimentError, plugins
from harness import experiment as experiments
from harness.sweeps import sweep
from harness.sweeps.cluster import Cluster
from harness.sweeps.job import Stopped, run_folder
from leaderboards import load
from tests.harness.tiny import table

TABLES = ("rollouts", "steps", "samples")


class Recorder:
    """A Progress that adds up what it is told, and disturbs the sweep once, at a given step of a method."""

    def __init__(self, label=None, step=0, disturb=None):
        self.label, self.step, self.disturb = label, step, disturb
        self.told, self.notes, self.again = {}, [], []

    def begin(self, steps, done):
        self.steps, self.done = steps, done

    def advance(self, job, count):
        self.done += count
        self.told[job.label] = self.told.get(job.label, 0) + count
        if self.notes and not self.again and job.label == self.label:
            self.again.append(count)
        if self.disturb and job.label == self.label and self.told[job.label] >= self.step:
            disturb, self.disturb = self.disturb, None
            disturb(job)

    def finished(self, job):
        pass

    def note(self, line):
        self.notes.append(line)


@pytest.fixture(scope="module")
def machines():
    """A cluster that was there before, of a machine with two CPUs."""
    for attempt in range(5):
        try:
            built = Machines(
                initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 2**27}
            )
            break
        except Exception:  # Ray gives it half a minute to start, which is too little where others compute
            if attempt == 4:
                raise
    yield built
    ray.shutdown()
    built.shutdown()


def kill_worker_of(cluster):
    """Kills the process of the cluster that has the job."""

    def kill(job):
        worker = next(worker for worker in cluster.started if worker.job == job)
        os.kill(ray.get(worker.actor.__ray_call__.remote(lambda actor: os.getpid())), signal.SIGKILL)

    return kill


@pytest.fixture
def tiny(tiny_experiment):
    return tiny_experiment(("uniform", "flow"), seeds=1)


@pytest.fixture
def reference(tiny, tmp_path):
    """The sweep on processes of this machine."""
    sweep.reproduce(tiny, tmp_path / "reference", 1, Recorder())
    return tmp_path / "reference"


def hashes(folder):
    return {(run.method, table): run.content_hash(table) for run in load(folder) for table in TABLES}


def interrupt(job):
    raise KeyboardInterrupt


class Apart(Cluster):
    """Whose machines do not see the output folder."""

    def _mark(self):
        pass


def test_stopped_killed_and_brought_back_is_the_sweep_of_local_processes(tiny, machines, reference, tmp_path):
    """No shared folder: a stopped run travels with its checkpoint, and of a killed worker's run nothing is left."""
    folder = tmp_path / "runs"
    stopped = Recorder("flow", 3, interrupt)
    with pytest.raises(Stopped):
        sweep.reproduce(
            tiny, folder, 1, stopped, only=[("flow", 0)], elsewhere=Apart(tiny, folder, machines.address)
        )
    place = run_folder(folder, "flow", 0)
    assert list((place / "checkpoint").glob("checkpoint-*/whole")) and not (place / "finished.json").exists()

    cluster = Apart(tiny, folder, machines.address)

    killed = Recorder("uniform", 2, kill_worker_of(cluster))
    sweep.reproduce(tiny, folder, 1, killed, elsewhere=cluster)
    assert len(killed.notes) == 1 and re.match(
        "the process of uniform seed 0 was lost .*started again", killed.notes[0]
    )
    assert hashes(folder) == hashes(reference)
    assert killed.done == killed.steps
    assert not list(folder.rglob(".cluster*")) and not list(folder.rglob("*.aside"))


def test_a_run_of_a_lost_worker_goes_on_from_its_checkpoint(tiny, machines, tmp_path):
    """A shared folder: nothing of what a checkpoint holds is done again."""
    folder = tmp_path / "runs"
    cluster = Cluster(tiny, folder, machines.address)
    progress = Recorder("uniform", 4, kill_worker_of(cluster))
    sweep.reproduce(tiny, folder, 1, progress, only=[("uniform", 0)], elsewhere=cluster)
    assert len(progress.notes) == 1
    assert progress.again[0] >= 2, "the checkpoint after two steps was there"
    (run,) = load(folder)
    assert run.finished and not run.faults() and run.table("steps").num_rows == 6


@contextmanager
def connected(machines):
    ray.init(address=machines.address, log_to_driver=False)
    yield
    ray.shutdown()


def occupy(machines, names="ab"):
    """Others take CPUs of the first machine, which has two, until `leave`."""
    with connected(machines):
        for name in names:
            one = ray.remote(num_cpus=1)(Nothing).options(name=name, namespace="others", lifetime="detached")
            ray.get(one.remote().__ray_ready__.remote())


def leave():
    for name in "ab":
        ray.kill(ray.get_actor(name, namespace="others"))


class Nothing:
    pass


def test_a_machine_that_is_lost_is_one_worker_that_is(tiny, machines, reference, tmp_path):
    folder = tmp_path / "runs"
    occupy(machines)
    machine = machines.add_node(num_cpus=1)

    def lose(_):
        leave()
        machines.remove_node(machine, allow_graceful=False)

    progress = Recorder("uniform", 3, lose)
    elsewhere = Cluster(tiny, folder, machines.address)
    sweep.reproduce(tiny, folder, 1, progress, only=[("uniform", 0)], elsewhere=elsewhere)
    assert len(progress.notes) == 1
    (run,) = load(folder)
    assert run.finished and all(
        run.content_hash(table) == hashes(reference)["uniform", table] for table in TABLES
    )


def test_a_run_that_waits_for_others_stops_no_run_and_no_stop(tiny, machines, reference, tmp_path):
    """One CPU is left: the second run gets it when the first is done, though others stay where they are."""
    occupy(machines, "a")
    signal.signal(signal.SIGALRM, lambda *_: interrupt(None))
    signal.alarm(300)
    sweep.reproduce(
        tiny, tmp_path / "runs", 2, Recorder(), elsewhere=Cluster(tiny, tmp_path / "runs", machines.address)
    )
    assert hashes(tmp_path / "runs") == hashes(reference)
    occupy(machines, "b")
    cluster = Cluster(tiny, tmp_path / "stopped", machines.address)
    signal.alarm(5)
    begin = time.monotonic()
    with pytest.raises(Stopped):
        sweep.reproduce(tiny, tmp_path / "stopped", 1, Recorder(), elsewhere=cluster)
    assert time.monotonic() - begin < 120  # the others would stay for ever
    with connected(machines):
        leave()


def test_no_worker_imports_from_the_folder_that_the_sweep_was_started_in(
    tiny, machines, tmp_path, monkeypatch
):
    """Ray would put it first on the path of every worker: a user's random.py, or another copy of the packages."""
    monkeypatch.chdir(tmp_path)
    cluster = Cluster(tiny, tmp_path / "runs", machines.address)
    try:
        path = ray.get(ray.remote(lambda: __import__("sys").path).remote())
    finally:
        cluster.close()
    assert str(tmp_path) not in path and "" not in path
    assert os.getcwd() == str(tmp_path)


def test_mistakes_are_one_line(tiny, machines, tmp_path, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        for given in (address, "auto"):
            with pytest.raises(ExperimentError, match=f"--ray {given}: no cluster there.*ray start --head"):
                Cluster(tiny, tmp_path, given)
    with pytest.raises(ExperimentError, match="no machine of the cluster has 1 CPU and 1 GPU"):
        Cluster(tiny, tmp_path, machines.address, gpus=1)
    with pytest.raises(ExperimentError, match="no cluster there"):
        Cluster(tiny, tmp_path, "nonsense")


def test_a_plug_in_reaches_workers_as_the_text_that_was_read(machines, tmp_path):
    """By `--import`, on a real cluster: workers see no file of the user's, which is gone before they begin."""
    file = tmp_path / "halving_for_ray.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n\n"
        "import torch\n"
        "from flowtracer.credit import CreditMethod, register\n\n\n"
        "@register\n@dataclass(frozen=True)\n"
        "class HalvingForRay(CreditMethod):\n"
        '    name: ClassVar[str] = "halving_for_ray"\n\n'
        "    def weights(self, context):\n"
        "        return torch.where(context.response, 0.5, 1.0)\n"
    )
    plugins.load([str(file)])
    try:
        file.unlink()
        built = experiments.from_table(
            table({"uniform": {}, "halving_for_ray": {}}, seeds=1, steps=2, save_every=2), "tiny"
        )
        folder, only = tmp_path / "runs", [("halving_for_ray", 0)]
        sweep.reproduce(
            built, folder, 1, Recorder(), only=only, elsewhere=Cluster(built, folder, machines.address)
        )
    finally:
        plugins.forget()
    (run,) = load(folder)
    assert run.finished and not run.faults()
    assert {
        weight for row in run.table("rollouts", ["weights"])["weights"].to_pylist() for weight in row
    } == {0.5}
    assert "halving_for_ray.py" in run.manifest.code
