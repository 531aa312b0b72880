"""Protects the reading of kept JSON: every figure lands at its arm, what lacks has its reason, damage is one line."""

import json

import pytest

from harness.errors import ExperimentError
from harness.experiment import changed_name, changed_title
from harness.studies.measured import REPLAY, STEPS, TRAINING, VALUES, read, read_one
from tests.harness.studies.kept_files import replay_table, steps_table, training_table, values_table, written


def cells(measured, words):
    return next(row.cells for row in measured.rows if row.arm.words == words)


def test_a_training_has_differences_and_outcomes(tmp_path):
    measured = read_one(written(tmp_path, training_table()))
    assert (measured.kind, measured.testbed, measured.policy) == (TRAINING, "bench", "tiny")
    flow = cells(measured, "flow ×3")
    assert flow["difference"].value == 0.02 and flow["difference"].interval == (0.01, 0.03)
    assert flow["outcome"].outcome == "better" and flow["step_seconds"].value == 2.0
    assert cells(measured, "uniform")["difference"].missing == "the baseline"
    assert any("positive control sensitive" in fact for fact in measured.facts)


def test_old_words_are_read(tmp_path):
    table = training_table()
    table["assay"] = {"text": "assay sensitive"}
    del table["positive_control"]
    for arm in table["arms"]:
        arm["verdict"] = arm.pop("outcome") + ": about 8 more seeds"
    measured = read_one(written(tmp_path, table))
    assert cells(measured, "flow ×3")["outcome"].outcome == "better"
    assert "positive control sensitive" in measured.facts


def test_a_replay_has_its_figures_and_reasons(tmp_path):
    measured = read_one(written(tmp_path, replay_table()))
    assert (measured.kind, measured.testbed, measured.policy) == (REPLAY, "bench", "tiny")
    flow = cells(measured, "flow ×3")
    assert (
        flow["decisive"].value == 0.85 and flow["decisive_unsure"].value == 0.8 and flow["turn"].value == 0.1
    )
    assert flow["value_direction"].missing == "its weights are all equal"
    assert cells(measured, "oracle ×1.5")["turn"].missing == "nobody knows", (
        "an arm that was left out is shown"
    )


def test_a_replay_without_values_or_decisive_tokens_says_so(tmp_path):
    table = replay_table()
    table["valued"] = 0
    for row in table["figures"]:
        row["decisive"] = row["decisive_unsure"] = row["value_size"] = row["value_direction"] = None
    flow = cells(read_one(written(tmp_path, table)), "flow ×3")
    assert flow["value_size"].missing == "no token values measured"
    assert flow["decisive"].missing == "the task does not know its deciding tokens"
    assert flow["decisive_unsure"].missing == "the task does not know its deciding tokens"


def test_the_turn_of_an_old_replay_is_that_of_its_cosine(tmp_path):
    table = replay_table()
    for row in table["figures"]:
        del row["turn"], row["seconds"], row["decisive_unsure"]
    flow = cells(read_one(written(tmp_path, table)), "flow ×3")
    assert flow["turn"].value == pytest.approx(0.1) and flow["turn"].interval == pytest.approx((0.05, 0.15))
    assert flow["update_seconds"].missing == flow["decisive_unsure"].missing == "not recorded"


def test_an_arm_of_an_old_replay_is_found_in_the_shipped_experiment(tmp_path):
    table = replay_table()
    table["experiment"] = "comparison"
    for row in table["figures"]:
        del row["credit"]
    table["figures"][1].update(label="flow_emitting_3", options={"answer_rows": "emitting", "gamma": 3.0})
    assert cells(read_one(written(tmp_path, table)), "flow, emitting ×3")["turn"].value == 0.1
    table["figures"][1]["options"]["gamma"] = 2.0
    with pytest.raises(ExperimentError, match="does not say which credit method its arm flow_emitting_3 is"):
        read_one(written(tmp_path, table))


def test_what_set_changed_is_a_fact_and_no_testbed_of_its_own(tmp_path):
    """A replay and a training of NAME-set stand beside the other files of NAME; an experiment so named stays itself."""
    replay = {**replay_table(), "experiment": "bench-set", "changes": ["task.contexts=4"]}
    training = training_table()
    training["experiment"] |= {
        "name": changed_name("bench"),
        "title": changed_title("Bench", ["task.contexts=4"]),
    }
    for table in (replay, training):
        measured = read_one(written(tmp_path, table))
        assert measured.testbed == "bench"
        assert "changed settings: task.contexts=4" in measured.facts
    named = read_one(written(tmp_path, {**replay_table(), "experiment": "bench-set"}))
    assert named.testbed == "bench-set" and not any("changed" in fact for fact in named.facts)


def test_steps_have_matched_figures_of_methods_and_no_rules_for_steps(tmp_path):
    measured = read_one(written(tmp_path, steps_table()))
    assert (measured.kind, measured.testbed, measured.policy) == (STEPS, "graph", "tiny")
    assert {row.arm.words for row in measured.rows} == {"flow ×1.5", "flow, late ×1.5"}
    assert cells(measured, "flow, late ×1.5")["needed_matched"].value == 0.6


def test_values_are_those_at_the_cuts(tmp_path):
    """The study reads a segment's score twice; the profile takes the first reading.

    Its rules stand as rules, or a method that is no better than one would lie beyond them. The other half of the
    continuations is no method at all.
    """
    measured = read_one(written(tmp_path, values_table()))
    assert (measured.kind, measured.testbed, measured.policy) == (VALUES, "sums", "tiny")
    assert {row.arm.marked for row in measured.rows} == {"flow ×1.5", "oracle ×1.5 *", "early †"}
    flow = cells(measured, "flow ×1.5")
    assert flow["cut_signed"].value == 0.3 and flow["first_fall"].missing == "ranks nothing"
    assert cells(measured, "oracle ×1.5")["cut_size"].missing == "nobody knows"
    assert "agree at rank correlation 0.80" in measured.facts[0]


def test_values_of_an_experiment_join_its_testbed(tmp_path):
    table = {**values_table(), "command": "flowtracer values smollm2 --problems 8"}
    measured = read_one(written(tmp_path, table))
    assert (measured.testbed, measured.policy) == ("smollm2", "smollm2-135m-instruct")


def test_a_second_arm_of_the_same_credit_is_told_apart(tmp_path):
    """An A/A comparison has two: neither may hide the other."""
    table = training_table()
    again = {**table["arms"][1], "label": "again"}
    table["arms"].append(again)
    table["experiment"]["methods"]["again"] = table["experiment"]["methods"]["flow_3"]
    rows = read_one(written(tmp_path, table)).rows
    assert [row.arm.words for row in rows] == ["uniform", "flow ×3", "flow ×3 [again]"]


def test_mistakes_are_one_line(tmp_path):
    def refused(content, match):
        path = tmp_path / "wrong.json"
        path.write_text(content)
        with pytest.raises(ExperimentError, match=match) as error:
            read_one(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)

    refused("{", "no sound JSON")
    refused("[]", "is no JSON of `flowtracer leaderboard`")
    refused('{"a": 1}', "is no JSON of")
    refused(json.dumps({**replay_table(), "figures": []}), "holds no arm|damaged")
    refused(json.dumps({**training_table(), "arms": []}), "holds no arm")
    damaged = replay_table()
    del damaged["figures"][0]["ratio_difference"]
    refused(json.dumps(damaged), "damaged .*ratio_difference.* `flowtracer replay`")
    with pytest.raises(ExperimentError, match="cannot be read"):
        read_one(tmp_path / "missing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExperimentError, match="no text"):
        read_one(tmp_path / "binary.json")


def test_two_files_of_one_testbed_and_kind_are_refused(tmp_path):
    one, other = written(tmp_path, replay_table(), "a.json"), written(tmp_path, replay_table(), "b.json")
    with pytest.raises(ExperimentError, match=r"a\.json and .*b\.json are both a replay of bench"):
        read([one, other])
    trained = {**replay_table(), "policy": "tiny after training"}
    assert len(read([one, written(tmp_path, trained, "c.json"), written(tmp_path, training_table())])) == 3
