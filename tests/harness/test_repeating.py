"""Protects "To repeat it": the commands, typed into a shell, give back the experiment and the code that were run."""

import subprocess

import pytest

from harness import experiment as experiments
from harness import plugins
from harness.repeating import repeat, toml
from leaderboards import compare, load, read_csv
from leaderboards.foreign import declared
from tests.harness import tiny
from tests.harness.test_cli import run
from tests.leaderboards.recorded_runs import write_run

METHOD = (
    "from flowtracer.credit import CreditMethod, register\nclass Mine(CreditMethod):\n    name = 'mine'\n"
)


@pytest.mark.parametrize("name", experiments.names())
def test_every_shipped_experiment_survives_being_written_out(tmp_path, name):
    shipped = experiments.load(name)
    path = tmp_path / f"{name}.toml"
    path.write_text(toml(shipped.resolved()))
    assert experiments.load(str(path)).resolved() == shipped.resolved()


def test_a_shipped_experiment_is_named(tmp_path):
    experiment = experiments.load("decision", smoke=True)
    for label in ("uniform", "flow"):
        write_run(
            tmp_path, label, 0, [0.1, 0.2], experiment=experiment.resolved(), experiment_hash=experiment.hash
        )
    commands = repeat(compare(load(tmp_path)))
    assert commands == "git checkout abc\nnox -s reproduce -- decision --smoke"
    for label in ("uniform", "flow"):
        write_run(
            tmp_path, label, 3, [0.1, 0.2], experiment=experiment.resolved(), experiment_hash=experiment.hash
        )
    assert experiment.seeds == 2 and repeat(compare(load(tmp_path))) == commands + " --more-seeds 2"


def test_a_table_of_others_values_is_compared_by_the_same_rule_and_baseline(tmp_path):
    """Without the baseline the command would look for uniform; a rounded difference is another rule."""
    file = tmp_path / "their values.csv"
    file.write_text("method,seed,acc\ngrpo,0,0.4\nflow,0,0.5\ngrpo,1,0.5\nflow,1,0.55\n")
    command = repeat(compare(read_csv(file, 0.01234567, baseline="grpo"), baseline="grpo"))
    assert command == (
        f"flowtracer leaderboard '{file}' --smallest-difference 0.01234567 --metric final_accuracy --baseline grpo "
        "--column acc"
    )


def test_of_a_script_only_the_comparison_is_repeated(tmp_path):
    """Its experiment is no file that `reproduce` takes."""
    for label in ("uniform", "flow"):
        write_run(tmp_path, label, 0, [0.1, 0.2], experiment={"name": "mine", "seeds": 1, "data": {}})
    runs = [declared(run, 0.02) for run in load(tmp_path)]
    assert repeat(compare(runs)) == (
        "# a script made these runs: run it again, into FOLDER\n"
        "flowtracer leaderboard FOLDER --smallest-difference 0.02 --metric training_reward_area"
    )


def test_an_experiment_and_a_method_of_ones_own_are_written_out(tmp_path):
    table = tiny.table(
        {"uniform": {}, "mine": {"training": {"micro_batch": 8}}, "we.ird": {"credit": "flow"}}
    )
    table["title"] = 'it\'s "quoted" ü'
    experiment = experiments.from_table(table, "my own")
    code = {"my_credit.py": {"sha256": "0" * 64, "text": METHOD, "imported": True}}
    for label in ("uniform", "mine"):
        write_run(
            tmp_path / "runs",
            label,
            0,
            [0.1, 0.2],
            experiment=experiment.resolved(),
            experiment_hash=experiment.hash,
            code=code if label == "mine" else {},
        )
    *written, last = repeat(compare(load(tmp_path / "runs"))).splitlines()
    assert last == "nox -s reproduce -- 'my own.toml' --import my_credit.py"
    subprocess.run(["bash", "-ec", "\n".join(written[1:])], cwd=tmp_path, check=True)
    again = experiments.load(str(tmp_path / "my own.toml"))
    assert again.resolved() == experiment.resolved() and again.hash == experiment.hash
    assert (tmp_path / "my_credit.py").read_text() == METHOD
    assert not plugins.loaded()


def test_doctor_names_an_arm_made_by_two_codes(capsys, tmp_path):
    experiment = experiments.load("decision")
    for seed, digest in enumerate(("1a2b3c4d", "9f0e1d2c")):
        write_run(
            tmp_path,
            "uniform",
            seed,
            [0.1],
            experiment=experiment.resolved(),
            experiment_hash=experiment.hash,
            code={"my_credit.py": {"sha256": digest, "text": ""}},
        )
    status, output, _ = run(capsys, "doctor", tmp_path)
    assert status == 2 and "my_credit.py 1a2b3c4d -> 9f0e1d2c; two methods under one label" in output
