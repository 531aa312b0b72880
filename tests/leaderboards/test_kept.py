"""Protects what a card says of our results: it is read from the kept files and from nowhere else."""

import json

from leaderboards.kept import FOLDER, results_of


def write(folder, name, table):
    (folder / f"{name}.json").write_text(json.dumps(table))
    (folder / f"{name}.md").write_text("a page")


def arm(label, credit, **more):
    return {"label": label, "credit": credit, "seeds": [0, 1], "outcome": "better", **more}


def test_an_arm_is_told_by_its_credit_and_not_by_its_label(tmp_path):
    arms = [
        arm("late", "flow", difference=0.02, interval_of_difference=[0.01, 0.03]),
        arm("flow", "uniform", difference=None),
        arm("both", "flow * gtpo as a mask (positive)", difference=0.5),
    ]
    write(tmp_path, "x", {"arms": arms, "positive_control": {"outcome": "sensitive"}})
    (late, both), (gtpo,) = results_of("flow", tmp_path), results_of("gtpo", tmp_path)
    assert late.page == "x.md" and late.arm == "late"
    assert late.says == "+0.020 ±0.010: better; 2 seeds, positive control sensitive"
    assert both == gtpo and both.arm == "both" and both.says.startswith("+0.500: better")
    assert results_of("uniform", tmp_path)[0].says == "better; 2 seeds"
    assert results_of("low", tmp_path) == []


def test_replays_interventions_and_files_of_before(tmp_path):
    figures = [{"label": "flow", "ratio": 0.25, "to_uniform": [0.98, None], "decisive": [0.75, None]}]
    write(tmp_path, "replay", {"figures": figures})
    write(tmp_path, "intervene", {"arms": [{"name": "flow, highest", "changed": [0.6, None]}]})
    old = {key: value for key, value in arm("flow", "flow").items() if key != "outcome"}
    write(
        tmp_path,
        "old",
        {"arms": [{**old, "verdict": "worse", "difference": -0.1}], "assay": {"verdict": "sensitive"}},
    )
    (tmp_path / "no-page.json").write_text(json.dumps({"arms": [arm("flow", "flow")]}))
    write(tmp_path, "other", [1, 2])
    says = {each.page: each.says for each in results_of("flow", tmp_path)}
    assert says == {
        "replay.md": "signal to noise 0.250, turn 0.020, AUC of the decisive token among all 0.75",
        "intervene.md": "hiding its tokens changed the answer in 60%",
        "old.md": "-0.100: worse; 2 seeds, positive control sensitive",
    }


def test_a_replay_is_held_against_uniform_and_random(tmp_path):
    """A ratio by itself says nothing, and a turn is read against that of random; arms of other labels are of it too."""
    row = {
        "ratio": 0.25,
        "ratio_difference": -0.05,
        "ratio_difference_interval": [-0.07, -0.03],
        "decisive": None,
    }
    figures = [
        {**row, "label": "random", "credit": "random", "to_uniform": [0.9, None]},
        {**row, "label": "late", "credit": "flow", "to_uniform": [0.98, None]},
        {**row, "label": "both", "credit": ["flow", "gtpo"], "to_uniform": None},
    ]
    write(tmp_path, "replay", {"figures": figures})
    says = {each.arm: each.says for each in results_of("flow", tmp_path)}
    assert says == {
        "late": "signal to noise 0.250 (-0.050 ±0.020 from uniform's), turn 0.020 (random's 0.100)",
        "both": "signal to noise 0.250 (-0.050 ±0.020 from uniform's)",
    }
    (own,) = results_of("random", tmp_path)
    assert own.says.endswith("turn 0.100")


def test_the_shipped_results_hold_arms_of_flow():
    pages = {each.page for each in results_of("flow")}
    assert {"comparison.md", "replay-decision.md"} <= pages and all(
        (FOLDER / page).is_file() for page in pages
    )
