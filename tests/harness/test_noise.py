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
    assert status == 2 and "a spread takes at least 2 seeds" in error
    status, _, error = run(capsys, file, "--export", tmp_path / "noise.png")
    assert status == 2 and ".svg, .json, .md" in error
