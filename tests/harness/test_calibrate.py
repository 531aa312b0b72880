"""Protects the calibration of testbeds: only uniform and oracles, on seeds that no comparison uses."""

import pytest

from harness import ExperimentError, calibrate
from tests.harness import tiny


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(tiny.toml(tiny.table()))
    return str(path)


def test_arms_and_settings_take_the_place_of_the_experiments(file):
    built = calibrate.changed(file, ["uniform", "oracle_10"], {"learning_rate": 2e-3, "steps": 3})
    assert built.methods == {
        "uniform": {"credit": "uniform"},
        "oracle_10": {"credit": "oracle", "gamma": 10.0},
    }
    assert (built.training.learning_rate, built.training.steps, built.training.save_every) == (2e-3, 3, 3)
    assert calibrate.changed(file, ["uniform"], {}).training.steps == 6


def test_learnt_compares_the_ends():
    assert calibrate.learnt([0.0] * 2 + [0.5] * 16 + [1.0] * 2) == 1
    assert calibrate.learnt([0.25]) == 0


def test_differences_are_paired_by_seed():
    uniform = {100: [0.1], 101: [0.5], 102: [0.9]}
    oracle = {100: [0.2], 101: [0.7], 102: [1.2]}
    lines = calibrate.summary({"uniform": uniform, "oracle_10": oracle})
    # Differences 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt(3).
    assert lines[1].startswith("oracle_10: area 0.7000") and "+0.2000 = 3.5 standard errors" in lines[1]
    assert "minus" not in lines[0]
    (alone,) = calibrate.summary({"oracle_10": oracle})
    assert "minus" not in alone


def test_arms_without_any_difference_are_not_divided_by_zero():
    curves = {100: [0.5], 101: [0.5]}
    lines = calibrate.summary({"uniform": curves, "oracle_10": curves})
    assert "no spread" in lines[1]


def test_a_small_experiment_is_run_and_summed_up(file, capsys):
    arguments = [file, "--arms", "uniform,shuffled_oracle_10", "--seeds", "2", "--set", "steps=2"]
    calibrate.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "seed 100 uniform", "seed 100 shuffled_oracle_10", "seed 101 uniform", "seed 101 shuffled_oracle_10",
        "uniform", "shuffled_oracle_10",
    ]  # fmt: skip
    assert all(0 <= float(line.split("area ")[1].split(",")[0]) <= 1 for line in lines)


def test_a_second_set_of_seeds_is_another_one(file, capsys):
    calibrate.main([file, "--arms", "uniform", "--seeds", "1", "--first", "110", "--set", "steps=2"])
    assert capsys.readouterr().out.startswith("seed 110 uniform")


@pytest.mark.parametrize(
    "change",
    [
        ["--arms", "uniform,flow"],
        ["--set", "learning_rat=1"],
        ["--set", "steps=many"],
        ["--seeds", "0"],
        ["--first", "7"],
    ],
)
def test_a_mistake_is_one_line(file, change, capsys):
    with pytest.raises(SystemExit) as error:
        calibrate.main([file, *change])
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_experiment_is_refused():
    with pytest.raises(ExperimentError):
        calibrate.changed("no-such-experiment", ["uniform"], {})
