"""Protects additions to what is there: arms, seeds and one-off changes, without repeating what is finished."""

import pytest

from harness import experiment as experiments
from harness import plugins
from harness.errors import ExperimentError
from harness.sweeps import sweep
from leaderboards import compare, load
from tests.harness import tiny
from tests.harness.test_cli import run

METHOD = """
from flowtracer.credit import CreditMethod, register
@register
class Mine(CreditMethod):
    name = 'mine'
    def weights(self, context): return context.response.float()
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(tiny.toml(tiny.table(("uniform",), seeds=1)))
    yield path
    plugins.forget()


def written(path, text):
    path.write_text(text)
    return str(path)


def test_an_arm_and_more_seeds_join_a_finished_sweep(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "reproduce", file, "--workers", "1")[0] == 0
    before = (tmp_path / "runs/mine/uniform/seed-0000/finished.json").read_bytes()
    arm = written(tmp_path / "arm.toml", "[methods.early]\ncredit = 'flow'\n")
    status, output, errors = run(
        capsys, "reproduce", file, "--workers", "1", "--add", arm, "--more-seeds", "1"
    )
    assert status == 0, errors
    assert "early" in output and errors.count("finished ") == 3
    assert (tmp_path / "runs/mine/uniform/seed-0000/finished.json").read_bytes() == before
    notes = " ".join(compare(load(tmp_path / "runs")).notes)
    assert "2 seeds are run and 1 were declared" in notes and "--until-decided" in notes


def test_seeds_that_were_changed_in_the_file_are_added_by_the_option(file, tmp_path):
    """The obvious way to more seeds would change how many were declared before the first result."""
    sweep.claim(experiments.load(str(file)), tmp_path / "runs")
    more = experiments.from_table(tiny.table(("uniform", "flow"), seeds=5), "mine")
    with pytest.raises(ExperimentError, match="set seeds to 1 again and add --more-seeds 4$") as refused:
        sweep.claim(more, tmp_path / "runs")
    assert "\n" not in str(refused.value)
    sweep.claim(more, tmp_path / "other")
    with pytest.raises(
        ExperimentError, match="5 seeds were declared before them, and that stays so: set seeds to 5 again$"
    ):
        sweep.claim(experiments.load(str(file)), tmp_path / "other")


def test_another_experiment_in_the_folder_is_told_by_its_keys(file, tmp_path):
    plain = experiments.load(str(file))
    sweep.claim(plain, tmp_path / "runs")
    changed = experiments.from_table(
        tiny.table(("uniform",), seeds=1, steps=8, evaluation={"problems": 5}), "mine"
    )
    with pytest.raises(
        ExperimentError, match=r": evaluation.problems 6 -> 5, training.steps 6 -> 8\): give another"
    ):
        sweep.claim(changed, tmp_path / "runs")


def test_one_off_changes_are_recorded_as_such(file):
    changed = experiments.load(
        str(file), changes=["training.steps=4", "policy.name=other", "methods.flow.layers=late"]
    )
    assert changed.name == "mine-set" and changed.title.endswith(
        "(set: training.steps=4, policy.name=other, methods.flow.layers=late)"
    )
    assert experiments.unchanged_name(changed.name) == "mine"
    assert experiments.changes_in(changed.title) == [
        "training.steps=4, policy.name=other, methods.flow.layers=late"
    ]
    assert experiments.changes_in(experiments.load(str(file)).title) == []
    assert changed.training.steps == 4 and changed.policy.name == "other"
    assert changed.credit_of("flow") == ("flow", {"layers": "late"})
    for change, message in [
        ("training.steps", "write KEY=VALUE"),
        ("training.step=4", "unknown key training.step; did you mean 'steps'?"),
        ("training.steps=x", "training.steps must be int, not 'x'"),
        ("title.x=4", "must be a table"),
    ]:
        with pytest.raises(ExperimentError, match=message):
            experiments.load(str(file), changes=[change])


def test_arms_that_cannot_be_added(file, tmp_path):
    for text, message in [
        ("", "no arm in it"),
        ("[training]\nsteps = 4\n[methods.flow]\n", "training is no part of an arm"),
        ("[methods.uniform]\ncredit = 'flow'\n", "has another arm uniform"),
    ]:
        with pytest.raises(ExperimentError, match=message):
            experiments.load(str(file), add=[written(tmp_path / "arm.toml", text)])
    (tmp_path / "my_credit.py").write_text(METHOD)
    arm = written(tmp_path / "arm.toml", 'imports = ["my_credit.py"]\n[methods.mine]\n[methods.uniform]\n')
    added = experiments.load(str(file), add=[arm])
    assert list(added.methods) == ["uniform", "mine"] and added.hash == experiments.load(str(file)).hash
    assert plugins.loaded()[0].module == "my_credit"


def test_a_base_may_be_a_file_and_the_task_another(file, tmp_path):
    (tmp_path / "my_credit.py").write_text(METHOD)
    file.write_text('imports = ["my_credit.py"]\n' + file.read_text())
    (tmp_path / "below").mkdir()
    other = written(tmp_path / "below" / "x.toml", 'base = "../mine.toml"\n[task]\nname = "sums"\n')
    built = experiments.load(other)
    assert (
        built.task == {"name": "sums"} and built.training.steps == 6
    )  # without decision's option `contexts`
    assert plugins.loaded()[0].module == "my_credit"
    written(tmp_path / "below" / "x.toml", 'base = "y.toml"\n')
    written(tmp_path / "below" / "y.toml", 'base = "x.toml"\n')
    with pytest.raises(ExperimentError, match="leads back to it"):
        experiments.load(other)
    with pytest.raises(ExperimentError, match="unknown base 'decison'; did you mean 'decision'"):
        experiments.load(written(tmp_path / "z.toml", 'base = "decison"\n'))


def test_more_seeds_and_until_decided_exclude_each_other(capsys):
    status, _, errors = run(capsys, "reproduce", "decision", "--until-decided", "--more-seeds", "2")
    assert status == 2 and "does not go with --until-decided" in errors and errors.count("\n") == 1
