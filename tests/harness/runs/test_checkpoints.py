"""Protects what a run goes on from: whole checkpoints of the same policy, and policies saved after their records."""

import itertools
import subprocess
import sys

import pytest
import torch

from harness import ExperimentError, experiment
from harness.engines import keyed
from harness.engines.base import EngineError
from harness.policy import load_policy
from harness.runs import recorder, run
from harness.runs.checkpoints import MARK, damage, last_checkpoint, mark_whole
from leaderboards import read_run


@pytest.mark.parametrize(
    "error",
    [EngineError("engine vllm broke down"), torch.OutOfMemoryError("CUDA out of memory")],
)
def test_a_breakdown_in_the_middle_of_a_run_names_its_last_good_checkpoint(
    tiny_experiment, tmp_path, monkeypatch, error
):
    plain, calls = keyed.sample, iter(range(100))

    def breaks(*arguments):
        if next(calls) == 3:
            raise error
        return plain(*arguments)

    monkeypatch.setattr(keyed, "sample", breaks)
    with pytest.raises(ExperimentError, match="checkpoint-2") as caught:
        run.train(tiny_experiment(("uniform",)), "uniform", 0, tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(keyed, "sample", plain)
    assert run.train(tiny_experiment(("uniform",)), "uniform", 0, tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(tiny_experiment, tmp_path):
    built = tiny_experiment(("uniform",))
    answers = itertools.chain([False] * 2, itertools.repeat(True))
    assert not run.train(built, "uniform", 0, tmp_path, stop=lambda: next(answers))
    other = load_policy("arithmetic")
    latest = last_checkpoint(tmp_path)
    other.model.save_pretrained(latest)
    mark_whole(latest, 3, 1)
    with pytest.raises(ExperimentError, match="checkpoint-3 holds another policy"):
        run.train(built, "uniform", 0, tmp_path)


def test_a_policy_is_saved_after_the_records_that_led_to_it(tiny_experiment, tmp_path, monkeypatch):
    """A saved last policy means "trained": a kill right after it must not have cost a record."""
    original, seen = recorder.save_policy, []

    def watched(policy, folder, *weights):
        seen.append((folder.name, len(list((tmp_path / "steps").glob("*.parquet")))))
        original(policy, folder, *weights)

    monkeypatch.setattr(recorder, "save_policy", watched)
    run.train(tiny_experiment(("uniform",)), "uniform", 0, tmp_path)
    assert seen == [("step-000003", 3), ("step-000006", 6)]
    assert not (tmp_path / "checkpoint" / "checkpoint-6").exists()


def stopped_at(built, step, folder):
    answers = itertools.chain([False] * (step - 1), itertools.repeat(True))
    assert not run.train(built, "flow", 0, folder, stop=lambda: next(answers))
    return last_checkpoint(folder)


def parameters(folder):
    return read_run(folder).table("steps")["parameters_hash"].to_pylist()


@pytest.fixture(scope="module")
def memo():
    return {}


@pytest.fixture
def undisturbed(tiny_experiment, tmp_path_factory, memo):
    """The hash of the parameters after each step of a run that nothing disturbs."""
    if not memo:
        folder = tmp_path_factory.mktemp("undisturbed")
        assert run.train(tiny_experiment(("flow",)), "flow", 0, folder)
        memo["hashes"] = parameters(folder)
    return memo["hashes"]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("model.safetensors", "cut"),
        ("model.safetensors", "changed"),
        ("optimizer.pt", "cut"),
        ("trainer_state.json", "gone"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_aloud(tiny_experiment, tmp_path, undisturbed, caplog, name, how):
    """As after a power cut: the run goes on from the whole one before it, and ends where it would have ended."""
    built = tiny_experiment(("flow",))
    latest = stopped_at(built, 5, tmp_path)
    file = latest / name
    content = file.read_bytes()
    half = len(content) // 2
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:half] + (b"" if how == "cut" else b"\0\1\2\3" + content[half + 4 :]))
    assert run.train(built, "flow", 0, tmp_path)
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("harness")]
    assert (
        f"{latest} is damaged: {name}" in warning and "goes on from" in warning and "checkpoint-4" in warning
    )
    assert parameters(tmp_path) == undisturbed


def test_without_a_sound_checkpoint_the_run_starts_again_aloud(
    tiny_experiment, tmp_path, undisturbed, caplog
):
    built = tiny_experiment(("flow",), save_every=9)
    latest = stopped_at(built, 2, tmp_path)
    (latest / MARK).write_text("")
    assert run.train(built, "flow", 0, tmp_path)
    assert "the run starts again" in caplog.text


def test_a_checkpoint_from_before_sums_were_kept_is_taken(tiny_experiment, tmp_path, undisturbed):
    latest = stopped_at(tiny_experiment(("flow",)), 3, tmp_path)
    assert damage(latest) is None
    (latest / MARK).write_text("3 1\n")
    assert damage(latest) is None
    assert run.train(tiny_experiment(("flow",)), "flow", 0, tmp_path)
    assert parameters(tmp_path) == undisturbed


def test_a_full_disk_in_a_checkpoint_is_one_line_and_the_run_goes_on_later(tmp_path):
    """A real limit on the size of a file, in a process of its own: torch and safetensors raise errors of their own."""
    code = f"""
import resource, signal, sys
from pathlib import Path
from harness import ExperimentError, experiment
from harness.runs import run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
built = experiment.load({str(tmp_path / "tiny.toml")!r})
def report(stage, done, total):
    if done == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    run.train(built, "flow", 0, Path({str(tmp_path / "run")!r}), report)
except ExperimentError as error:
    print(error)
"""
    (tmp_path / "tiny.toml").write_text(
        'title = "tiny"\nseeds = 1\n[declaration]\nmetric = "training_reward_area"\nsmallest_difference = 0.01\n'
        '[policy]\nname = "decision"\n[task]\nname = "decision"\ncontexts = 4\n[training]\nsteps = 6\n'
        "prompts_per_step = 2\nsamples_per_prompt = 8\nmax_response_tokens = 32\nlearning_rate = 1e-3\nsave_every = 2\n"
        "[evaluation]\nevery = 6\nproblems = 6\n[methods.uniform]\n[methods.flow]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    (line,) = done.stdout.splitlines()
    assert "checkpoint-2" in line and "make room and run the same command again" in line, done.stderr
    assert run.train(experiment.load(str(tmp_path / "tiny.toml")), "flow", 0, tmp_path / "run")
    assert len(parameters(tmp_path / "run")) == 6
