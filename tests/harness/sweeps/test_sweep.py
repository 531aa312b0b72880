"""Protects sweeps, with real processes: how many workers run, kills and Ctrl-C change nothing in any result."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import ExperimentError, cli
from harness import experiment as experiments
from harness.runs import run
from harness.sweeps import sweep
from leaderboards import RunWriter, compare, load, records
from tests.harness import tiny

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import kills


class Recorder:
    """A Progress that adds up what it is told."""

    def begin(self, steps, done):
        self.steps, self.done, self.jobs = steps, done, []

    def advance(self, job, count):
        self.done += count

    def finished(self, job):
        self.jobs.append(str(job))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The folder of a sweep on one worker, arms in the other order."""
    folder = tmp_path_factory.mktemp("reference") / "runs"
    progress = Recorder()
    sweep.reproduce(_experiment(("flow", "uniform")), folder, 1, progress)
    assert progress.done == progress.steps == 4 * (6 + 3)
    assert sorted(progress.jobs) == ["flow seed 0", "flow seed 1", "uniform seed 0", "uniform seed 1"]
    return folder


def _table(methods, **training):
    """The tiny experiment, with what it declares about stopping when decided."""
    declared = {"seeds": 30, "declaration": {"smallest_difference": 0.5, "alpha": 0.3, "scale": 0.05}}
    return {**tiny.table(methods, **training), "until_decided": declared}


def _experiment(methods, **options):
    return experiments.from_table(_table(methods), "tiny", **options)


def steps_done(folder):
    """Training steps on disk, over all runs; the parts of a finished run have become one file."""
    finished = [path.parent for path in folder.glob("*/seed-*/finished.json")]
    parts = [path for path in folder.glob("*/seed-*/steps/*.parquet") if path.parents[1] not in finished]
    return 6 * len(finished) + len(parts)


def wait_for_steps(process, folder, count):
    """Until `count` of the sweep's 36 training steps are on disk."""
    for _ in range(12_000):
        if steps_done(folder) >= count or process.poll() is not None:
            return
        time.sleep(0.05)
    raise AssertionError("too few steps within ten minutes")


def test_killed_stopped_and_finished_on_two_workers_is_the_same_sweep(reference, tmp_path):
    """And with an arm more, whose runs lie between those of the others."""
    file, folder = tmp_path / "tiny.toml", tmp_path / "runs"
    file.write_text(tiny.toml(_table(("uniform", "random", "flow"))))

    for source in map(random.Random, range(2)):
        assert kills.kill_at_random(kills.start(file, folder), folder, source, changes=4)
    assert len(kills.hashes(folder)) < len(kills.hashes(reference))

    stopped = kills.start(file, folder)
    wait_for_steps(stopped, folder, steps_done(folder) + 3)
    os.killpg(stopped.pid, signal.SIGINT)
    _, errors = stopped.communicate(timeout=600)
    assert stopped.returncode == 130, errors
    assert (
        errors.splitlines()[-1]
        == f"flowtracer: stopped; {folder} is whole: run the same command again, it goes on"
    )

    finished = kills.start(file, folder)
    output, errors = finished.communicate(timeout=900)
    assert finished.returncode == 0, errors
    assert "Traceback" not in errors and "leaked" not in errors
    assert "T0: bitwise repeatable" in output and "uniform" in output
    found = kills.hashes(folder)
    assert len(found) == 3 * 2 * 3
    assert {key: value for key, value in found.items() if key[0] != "random"} == kills.hashes(reference)


def test_finished_runs_are_not_repeated(reference):
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*.parquet")}
    progress = Recorder()
    sweep.reproduce(_experiment(("flow", "uniform")), reference, 2, progress)
    assert progress.done == progress.steps and not progress.jobs
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("*.parquet")} == before


def test_a_dead_worker_is_named(tmp_path, monkeypatch):
    """The parent says which run lost its process, and how to go on."""

    class Dies(Recorder):
        def advance(self, job, count):
            import multiprocessing

            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(
        ExperimentError, match="the process of uniform seed 0 ended with status -9.*it goes on"
    ):
        sweep.reproduce(_experiment(("uniform",)), tmp_path / "runs", 1, Dies())


def test_folders_of_something_else_are_refused(reference, tmp_path):
    other = _experiment(("uniform",))
    object.__setattr__(other.training, "learning_rate", 1.0)
    with pytest.raises(ExperimentError, match="holds another experiment.*--out"):
        sweep.reproduce(other, reference, 1, Recorder())
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.txt").write_text("mine")
    with pytest.raises(ExperimentError, match="not empty and holds no experiment"):
        sweep.reproduce(other, strange, 1, Recorder())
    (strange / "experiment.json").write_text('{"experi')
    with pytest.raises(ExperimentError, match="cannot be read"):
        sweep.reproduce(other, strange, 1, Recorder())
    assert json.loads((reference / "experiment.json").read_text())["experiment"]["seeds"] == 2
    with pytest.raises(ExperimentError, match="--workers must be at least 1"):
        sweep.reproduce(other, tmp_path / "new", 0, Recorder())


def test_an_arm_with_other_options_is_refused_before_anything_runs(recorded, tmp_path):
    """The finished runs of a sweep are not opened again: half an arm would be of one kind and half of another."""
    recorded(("uniform", "flow"), tmp_path / "runs", lambda label, seed: 0.3)
    other = _experiment({"uniform": {}, "flow": {"ratio": 0.2}}, until_decided=True)
    before = (tmp_path / "runs" / "experiment.json").read_text()
    with pytest.raises(ExperimentError, match=r"seed-0000 holds the arm flow with other options") as caught:
        sweep.reproduce(other, tmp_path / "runs", 2, Recorder())
    assert "another label" in str(caught.value)
    assert (tmp_path / "runs" / "experiment.json").read_text() == before


class Recording:
    """In place of a sweep's processes: a run is one step whose reward is given by `reward(label, seed)`."""

    def __init__(self, experiment, reward):
        self.experiment, self.reward, self.order = experiment, reward, []

    def __call__(self, *arguments):
        self.rounds = next(argument for argument in arguments if isinstance(argument, Iterator))
        return self

    def run(self):
        for jobs in self.rounds:
            for job in jobs:
                if (job.folder / "finished.json").exists():
                    continue
                self.order.append(str(job))
                writer = RunWriter(job.folder, run.manifest(self.experiment, job.label, job.seed))
                row = dict.fromkeys(records.TABLES["steps"].names, 0) | {"step": 0, "parameters_hash": ""}
                writer.write("steps", 0, [row | {"reward": self.reward(job.label, job.seed)}])
                writer.finish({})


@pytest.fixture
def recorded(monkeypatch):
    """Sweeps the arms with the given rewards into a folder; gives the runs that were made, in their order."""

    def build(methods, folder, reward):
        experiment = _experiment(methods, until_decided=True)
        fake = Recording(experiment, reward)
        monkeypatch.setattr(sweep, "_Sweep", fake)
        sweep.reproduce(experiment, folder, 2, Recorder())
        return fake.order

    monkeypatch.setattr("os.fsync", lambda handle: None)
    return build


def test_seeds_are_run_until_every_arm_is_decided(recorded, tmp_path):
    """Two arms: Holm asks 0.15 of the first and 0.3 of the second, that is three seeds of within d and two."""
    made = recorded(
        ("uniform", "flow", "random"), tmp_path / "runs", lambda label, seed: 0.1 * (label == "flow")
    )
    assert made == [f"{label} seed {seed}" for seed in range(3) for label in ("uniform", "flow", "random")]
    found = compare(load(tmp_path / "runs"))
    assert found.declaration.sequential and not found.undecided
    assert {arm.outcome for arm in found.arms} == {"baseline", "no difference larger than 0.5"}
    assert not recorded(
        ("uniform", "flow", "random"), tmp_path / "runs", None
    )  # decided: nothing more is run


def test_a_sweep_until_decided_goes_on_where_it_stopped(recorded, tmp_path):
    """At a lost run, and for an added arm from its first seed, whatever seeds there are already."""
    folder = tmp_path / "runs"
    recorded(("uniform", "flow"), folder, lambda label, seed: 0.1 * seed)
    assert len(load(folder)) == 2 * 2
    for path in (folder / "flow" / "seed-0001").iterdir():
        path.unlink()
    assert recorded(("uniform", "flow"), folder, lambda label, seed: 0.1 * seed) == ["flow seed 1"]
    added = recorded(("uniform", "flow", "random"), folder, lambda label, seed: 0.1 * seed)
    assert added == ["random seed 0", "random seed 1", "uniform seed 2", "flow seed 2", "random seed 2"]


def test_a_sweep_that_is_never_decided_ends_at_its_cap(recorded, tmp_path):
    """The arm is much better on one seed and much worse on the next."""
    rewards = {"uniform": lambda seed: 0.5, "flow": lambda seed: 0.5 + 0.9 * (-1) ** seed}
    made = recorded(tuple(rewards), tmp_path, lambda label, seed: rewards[label](seed))
    assert len(made) == 2 * 30
    assert compare(load(tmp_path)).undecided == ("flow",)


def test_until_decided_on_the_command_line(capsys, tmp_path):
    """Real processes, which go from one seed to the next; equal arms are alike after two seeds."""
    file = tmp_path / "tiny.toml"
    file.write_text(tiny.toml(_table(("uniform", "constant"), evaluation={"every": 1}, steps=1)))
    arguments = ["reproduce", str(file), "--until-decided", "--out", str(tmp_path / "runs")]
    assert cli.main(arguments) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "every arm is decided after 2 of at most 30 seeds" in output
    assert json.loads((tmp_path / "runs" / "experiment.json").read_text())["experiment"]["seeds"] == 30


def test_what_until_decided_needs(tmp_path):
    table = _table(("flow",))
    with pytest.raises(ExperimentError, match="needs the arm uniform"):
        experiments.from_table(table, "tiny", until_decided=True)
    table["methods"]["uniform"], table["until_decided"]["seeds"] = {}, 29
    with pytest.raises(ExperimentError, match="must be at least 30"):
        experiments.from_table(table, "tiny", until_decided=True)
    table["until_decided"]["seeds"] = 40
    with pytest.raises(ExperimentError, match="tiny-until-decided: seeds, .* must be at least 30, not 5"):
        experiments.from_table(table, "tiny", until_decided=True, changes=["seeds=5"])
    assert experiments.from_table(table, "tiny", until_decided=True, changes=["seeds=30"]).seeds == 30
    del table["until_decided"]
    with pytest.raises(ExperimentError, match=r"no \[until_decided\] table"):
        experiments.from_table(table, "tiny", until_decided=True)


def test_runs_go_where_the_sweep_was_started_and_not_where_a_worker_is(monkeypatch, tmp_path):
    """Ray's workers are in a folder of the package: a relative one, the default, led there."""
    monkeypatch.chdir(tmp_path)
    assert sweep._job(Path("runs"), "flow", 3).folder == tmp_path / "runs" / "flow" / "seed-0003"
