"""Protects credit methods that an experiment file puts together: from its keys to the outcome, in words everywhere."""

import json

import pytest

from flowtracer import CreditError, credit
from flowtracer.credit.composition import Composed
from harness import experiment as experiments
from harness import provenance
from harness.sameness import method_of
from leaderboards import compare, frame, load
from tests.harness import tiny
from tests.harness.test_cli import run

ARMS = {
    "uniform": {},
    "both": {"credit": ["flow", "gtpo"], "sign": "positive", "flow": {"layers": "late", "gamma": 2.0}},
    "masked": {"credit": "entropy", "as_mask": True},
}
WORDS = {"both": "flow * gtpo (positive)", "masked": "entropy as a mask"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(tiny.toml(tiny.table(ARMS, seeds=1, steps=2, evaluation={"every": 2})))
    return path


def test_keys_of_an_arm_become_the_method(file):
    experiment = experiments.load(str(file))
    both, masked = method_of(experiment, "both"), method_of(experiment, "masked")
    assert [part.name for part in both.parts] == ["flow", "gtpo"] and both.sign == "positive"
    assert both.parts[0].gamma == 2.0 and both.layers == "late"
    assert masked.as_mask is True and masked.name == WORDS["masked"]
    # An arm is no part of the hash: a composition joins runs that are there.
    assert (
        experiment.hash
        == experiments.from_table(tiny.table(("uniform",), 1, {"every": 2}, steps=2), "mine").hash
    )


def test_a_sweep_of_compositions_finishes_and_says_what_they_are(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arm = tmp_path / "arm.toml"
    arm.write_text('[methods.added]\ncredit = ["entropy", "low_probability"]\nas_mask = true\n')
    status, output, errors = run(capsys, "reproduce", file, "--workers", "1", "--add", arm)
    assert status == 0, errors
    words = {**WORDS, "added": "entropy * low_probability as a mask"}
    runs = load(tmp_path / "runs")
    assert {each.method: each.manifest.credit["name"] for each in runs} == {"uniform": "uniform", **words}
    recorded = next(each for each in runs if each.method == "both").manifest.credit["options"]
    assert recorded["sign"] == "positive" and recorded["parts"][0]["options"]["gamma"] == 2.0
    comparison = compare(runs)
    assert {each.label: each.credit for each in comparison.arms} == {"uniform": "uniform", **words}
    for label, text in words.items():
        assert f"{label} puts credit methods together: {text}" in comparison.notes
        assert text in " ".join(output.split())
    table = frame(tmp_path / "runs", "runs")
    assert dict(zip(table["method"], table["credit"], strict=True)) == {"uniform": "uniform", **words}
    _check_weights(runs)


def _check_weights(runs):
    """Recorded weights: a mask holds 0 and 1, and a method of one sign leaves the other at 1."""
    rows = {each.method: each.table("rollouts", ["weights", "advantage"]).to_pylist() for each in runs}
    assert {weight for row in rows["masked"] for weight in row["weights"]} == {0.0, 1.0}
    positive = [row["weights"] for row in rows["both"] if row["advantage"] > 0]
    others = [row["weights"] for row in rows["both"] if row["advantage"] <= 0]
    assert all(weight == 1 for weights in others for weight in weights) and others
    assert any(weight > 1.5 for weights in positive for weight in weights)


def test_an_arm_is_put_together_on_the_command_line_of_train(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--set", 'methods.x.credit=["gtpo", "entropy"]', "--set", "methods.x.as_mask=true"]
    status, output, errors = run(capsys, "train", file, "--method", "x", *arguments)
    assert status == 0, errors
    manifest = json.loads((tmp_path / output.strip() / "manifest.json").read_text())
    assert manifest["credit"]["name"] == "gtpo * entropy as a mask"


def test_plan_and_experiments_name_them(file, capsys):
    status, output, _ = run(capsys, "reproduce", file, "--plan")
    shown = " ".join(output.replace("│", " ").split())
    assert status == 0 and all(f"{label} ({text})" in shown for label, text in WORDS.items())
    status, output, _ = run(capsys, "experiments", file)
    assert status == 0 and "flow * gtpo" in output and 'flow.layers = "late"' in " ".join(output.split())


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"credit": 5}, "methods.x.credit must be the name of a method or an array of names, not 5"),
        ({"credit": []}, "methods.x.credit must be the name of a method or an array of names, not []"),
        ({"credit": ["flow", 5]}, "an array of names, not ['flow', 5]"),
        ({"credit": ["flow", "gtop"]}, "unknown credit method 'gtop'"),
        ({"credit": ["flow", "gtpo"], "gamma": 2.0}, "credit flow * gtpo has no option 'gamma'"),
        ({"credit": ["flow", "gtpo"], "flow": {"gama": 2.0}}, "credit flow has no option 'gama'"),
        ({"credit": "ktae", "as_mask": True}, "as_mask is not defined for weights that may be negative"),
        ({"credit": "gtpo", "sign": "up"}, "sign must be one of both, positive, negative, not 'up'"),
        ({"credit": "gtpo", "as_mask": "yes"}, "as_mask must be true or false, not 'yes'"),
    ],
)
def test_mistakes_are_one_line_before_the_first_run(tmp_path, capsys, arm, message):
    path = tmp_path / "mine.toml"
    path.write_text(tiny.toml(tiny.table({"uniform": {}, "x": arm})))
    status, output, errors = run(capsys, "train", path, "--method", "x")
    assert status == 2 and errors.count("\n") == 1 and message in errors and not output


@pytest.mark.parametrize("name", credit.names())
def test_every_method_becomes_a_mask_or_is_refused(name):
    method = credit.get(name)
    if method.signed or method.additive:
        with pytest.raises(CreditError, match="as_mask is not defined"):
            credit.get(name, as_mask=True)
    else:
        assert isinstance(credit.get(name, as_mask=True), Composed)
    assert provenance.credit_of(credit.get(name, sign="positive"))["name"].startswith(name)
