"""Protects `flowtracer noise`: whose runs it reads, what it trains first, and what it says to mistakes."""

import json
import sys
from pathlib import Path

import pytest

from harness import cli
from harness import experiment as experiments
from tests.harness import tiny

sys.path.insert(0, str(Path(__file__).parents[1] / "leaderboards"))
from recorded_runs import write_run


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(tiny.toml(tiny.table(("uniform", "flow", "random"), seeds=3)))
    return path


def made(folder, file, arm="uniform", seeds=(0, 1, 2), **changes):
    experiment = experiments.load(str(file), changes=[f"{key}={value}" for key, value in changes.items()])
    about = {"experiment": experiment.resolved(), "experiment_hash": experiment.hash}
    for seed in seeds:
        write_run(folder, arm, seed, [0.3 + 0.02 * seed], {0: [["wrong"]]}, **about)


def run(capsys, *arguments):
    status = cli.main(list(map(str, ("noise", *arguments))))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_finished_runs_are_read_and_the_plot_is_written(capsys, tmp_path, file):
    folder = tmp_path / "runs"
    made(folder, file)
    plot, numbers = tmp_path / "noise.svg", tmp_path / "noise.json"
    status, output, _ = run(capsys, file, "--out", folder, "--export", plot, "--export", numbers)
    assert status == 0 and max(map(len, output.splitlines())) <= 100
    assert "standard deviation over seeds" in output and "0.0200, 95% interval" in output
    assert f"wrote {plot}" in output and plot.read_text().startswith("<svg")
    written = json.loads(numbers.read_text())
    assert written["alpha"] == 0.025 and written["spread"] == pytest.approx(0.02)
    assert 3 in [reach["seeds"] for reach in written["reaches"]]


def test_seeds_are_trained_first_and_only_of_that_arm(capsys, tmp_path, file, monkeypatch):
    from harness.sweeps import sweep

    folder, asked = tmp_path / "runs", []

    def reproduce(experiment, where, workers, progress, only, **_):
        asked.append((workers, only))
        made(where, file, "flow", [seed for _, seed in only])

    monkeypatch.setattr(sweep, "reproduce", reproduce)
    status, output, _ = run(capsys, file, "--out", folder, "--arm", "flow", "--seeds", 4, "--workers", 1)
    assert status == 0 and "Noise of flow" in output
    assert asked == [(1, [("flow", 0), ("flow", 1), ("flow", 2), ("flow", 3)])]


def test_as_many_runs_at_once_as_asked_and_one_where_they_would_share(capsys, tmp_path, file, monkeypatch):
    """Nothing that was asked for is changed without a word; a GPU is shared only by those who ask for it."""
    from harness import plan, shapes
    from harness.engines import choice
    from harness.sweeps import sweep

    folder, asked = tmp_path / "runs", []
    made(folder, file)
    monkeypatch.setattr(sweep, "reproduce", lambda *given, **_: asked.append(given[2]))
    command = (file, "--out", folder, "--seeds", 3)
    assert run(capsys, *command)[0] == 0
    gpu = shapes.Device("a GPU", "gpu", 80e9, *shapes.RATES["A100"])
    monkeypatch.setattr(plan, "here", lambda: gpu)
    for options in ((), ("--workers", 3)):
        assert run(capsys, *command, *options)[0] == 0
    assert asked == [2, 1, 3]
    monkeypatch.setattr(choice, "check", lambda engine: None)
    (tmp_path / "fast.toml").write_text(file.read_text().replace("seeds =", 'engine = "vllm"\nseeds =', 1))
    status, _, error = run(capsys, tmp_path / "fast.toml", *command[1:], "--workers", 3)
    assert status == 2 and error.endswith("for each run; give --workers 1\n")
    status, _, error = run(
        capsys, tmp_path / "fast.toml", *command[1:], "--server", "http://a:1", "--workers", 3
    )
    assert status == 2 and "give --workers 1" in error
    assert len(asked) == 3


def test_mistakes_are_one_line(capsys, tmp_path, file):
    folder = tmp_path / "runs"
    status, _, error = run(capsys, file, "--out", folder)
    assert status == 2 and error.count("\n") == 1
    assert "holds 0 finished runs of uniform of small" in error and "--seeds 3" in error
    assert not folder.exists(), "looking makes nothing"
    made(folder, file, **{"training.steps": 9})
    status, _, error = run(capsys, file, "--out", folder)
    assert status == 2 and "training.steps 9 -> 6" in error
    status, _, error = run(capsys, file, "--out", folder, "--arm", "unifrom")
    assert status == 2 and "did you mean 'uniform'?" in error
    status, _, error = run(capsys, file, "--out", folder, "--seeds", 1)
    assert status == 2 and "--seeds 1: give at least 2" in error
    status, _, error = run(capsys, file, "--export", tmp_path / "noise.png")
    assert status == 2 and ".svg, .json, .md" in error
    for option in (("--workers", 2), ("--server", "http://a:1")):
        status, _, error = run(capsys, file, "--out", folder, *option)
        assert status == 2 and f"{option[0]} goes with --seeds N" in error
