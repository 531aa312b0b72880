"""Notes and tier: what weakens a comparison is said beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import (
    UNIFORM,
    experiment,
    shifted,
    sweep,
    write_run,
)

from leaderboards import compare, load


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts are the business of the records' own tests; here hundreds of small files are written."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def test_unfinished_runs_are_named_and_not_counted(tmp_path: Path) -> None:
    write_run(tmp_path, "uniform", 0, [0.1, 0.2])
    write_run(tmp_path, "uniform", 1, [0.9], finish=False)
    found = compare(load(tmp_path))
    assert found.arm("uniform").seeds == (0,)
    assert "1 unfinished, not counted: uniform seed 1" in found.notes


def test_tier_is_the_weakest_and_falls_with_mixed_places_and_timeouts(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "uniform", 0, [0.1])
    assert compare(load(tmp_path / "a")).tier == "T0"
    write_run(tmp_path / "c", "uniform", 0, [0.1])
    write_run(tmp_path / "c", "uniform", 1, [0.1], tier="T2")
    assert compare(load(tmp_path / "c")).tier == "T2"
    write_run(tmp_path / "a", "uniform", 2, [0.1], versions={"torch": "9"})
    found = compare(load(tmp_path / "a"))
    assert found.tier == "T2" and "runs come from 2 different sets of versions" in found.notes
    write_run(tmp_path / "b", "uniform", 0, [0.1], {1: [["timeout"]]})
    found = compare(load(tmp_path / "b"))
    assert found.tier == "T2" and "answers timed out in 1 run: uniform seed 0" in found.notes
    write_run(tmp_path / "d", "uniform", 0, [0.1], {1: [["error"], ["correct"]]})
    assert compare(load(tmp_path / "d")).notes[-1] == (
        "answers could not be judged in 1 run: uniform seed 0; they count in no mean, so that arms may be measured by "
        "different answers"
    )


@pytest.mark.parametrize("verdict", ["error", "timeout"])
def test_answers_of_every_evaluation_are_looked_at(tmp_path: Path, verdict: str) -> None:
    """The area under the curve is of all of them: arms may be measured by different answers in its middle, too."""
    write_run(tmp_path, "uniform", 0, [0.1], {0: [["wrong"], [verdict]], 1: [["wrong"], ["correct"]]})
    words = {"error": "could not be judged", "timeout": "timed out"}[verdict]
    assert any(
        note.startswith(f"answers {words} in 1 run: uniform seed 0") for note in compare(load(tmp_path)).notes
    )


def test_rollouts_that_importance_sampling_left_out_are_named(tmp_path: Path) -> None:
    """They were paid for and changed nothing: a run without a third of its rollouts is another experiment."""
    for seed, share in ((0, 0.25), (1, 0.5)):
        for method in ("uniform", "flow"):
            write_run(tmp_path, method, seed, [0.1])
            file = next(tmp_path.rglob(f"{method}/**/*{seed}/finished.json"))
            closing = json.loads(file.read_text())
            closing["summary"]["left_out"] = share if method == "flow" else 0.0
            file.write_text(json.dumps(closing))
    (said,) = (note for note in compare(load(tmp_path)).notes if "importance" in note)
    assert said.startswith(
        "importance sampling left 37.5% of the rollouts of flow out of the loss, 50.0% at most"
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            {"of_steps": {"abstained": 4}},
            "flow: no response was judged in seed 0, 1: every weight was a constant",
        ),
        (
            {"of_steps": {"mean_weight": 0.0}, "of_rollouts": {"weights": [0.0, 0.0]}},
            "flow: every weight was 0 in seed 0, 1: nothing was trained",
        ),
        ({"of_steps": {"abstained": 3}}, None),
        # A method with negative weights, whose mean is 0.
        ({"of_steps": {"mean_weight": 0.0}, "of_rollouts": {"weights": [1.0, -1.0]}}, None),
    ],
)
def test_credit_that_did_nothing_is_named(tmp_path: Path, rows: dict[str, Any], said: str | None) -> None:
    """Such an arm trained as GRPO times a constant, or not at all: its outcome says nothing of the method."""
    for seed in (0, 1):
        write_run(tmp_path, "uniform", seed, [0.1, 0.2])
        write_run(tmp_path, "flow", seed, [0.1, 0.2], **rows)
    noted = [note for note in compare(load(tmp_path)).notes if note.startswith("flow:")]
    assert noted == ([said] if said else [])


@pytest.mark.parametrize("stopping", ["fixed number of seeds", "until decided"])
def test_a_look_before_the_last_declared_seed_says_so(tmp_path: Path, stopping: str) -> None:
    """Eight seeds were declared: what three of them say is no verdict of that test. The e-process may be looked at."""
    arms = {"uniform": UNIFORM, "flow": shifted(0.10, 0.11)}
    found = sweep(tmp_path, arms, {"stopping": stopping, "scale": 0.05})
    said = [note for note in found.notes if note.startswith("2 to 3 of the 8 declared seeds are run: ")]
    assert len(said) == (stopping != "until decided")
    whole = {"uniform": {0: [0.1]}, "flow": {0: [0.2]}}
    once = {**experiment(list(whole)), "seeds": 1}
    assert not any("declared" in note for note in sweep(tmp_path / "whole", whole, experiment=once).notes)


@pytest.mark.parametrize("stopping", ["fixed number of seeds", "until decided"])
def test_seeds_that_were_left_out_are_named(tmp_path: Path, stopping: str) -> None:
    """Who removes a seed and runs another has as many as were declared, and has chosen among them."""
    arms = {"uniform": {seed: [0.5] for seed in (0, 1, 3)}, "flow": {seed: [0.5 + seed] for seed in range(4)}}
    rule = {"stopping": stopping, "scale": 0.1}
    (said,) = (note for note in sweep(tmp_path / "a", arms, rule).notes if "left out after a look" in note)
    assert said.startswith("no run, though later seeds have one: uniform seed 2: ")
    write_run(tmp_path / "a", "uniform", 2, [0.5], finish=False, experiment=experiment(list(arms), **rule))
    assert not any("left out" in note for note in compare(load(tmp_path / "a")).notes)


def test_a_decision_that_later_seeds_speak_against_says_so(tmp_path: Path) -> None:
    """The largest e-value decides and stays the largest: an outcome `better` may stand beside an interval around 0."""
    early, late = [0.2] * 8, [-0.4] * 6
    for name, gains, noted in (("early", early, False), ("both", early + late, True)):
        arms = {
            "uniform": {seed: [0.5] for seed in range(len(gains))},
            "flow": {seed: [0.5 + gain] for seed, gain in enumerate(gains)},
        }
        made = sweep(tmp_path / name, arms, {"stopping": "until decided", "scale": 0.1})
        assert made.arm("flow").outcome == "better"
        said = [note for note in made.notes if "speak against it" in note]
        assert len(said) == noted
    assert (
        said[0].startswith("flow: decided by an e-value of ") and "after 8 seeds; after 14 seeds" in said[0]
    )


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((1, 2, 3), "gains +0.250 [-0.371, +0.871]"),
        ((1, 1, 1), "gains +0.000 on every seed over its start"),
        ((0, 0), "gains -0.250 on every seed over its start"),
        ((2, 3, 3), None),
        ((2, 2, 2), None),
        ((1,), None),
    ],
)
def test_a_baseline_that_learns_nothing_is_named(
    tmp_path: Path, ends: tuple[int, ...], words: str | None
) -> None:
    """Arms that differ in nothing, where there was nothing to learn, are no finding about credit."""
    for seed, right in enumerate(ends):
        evaluations = {0: [["correct"] + ["wrong"] * 3], 2: [["correct"] * right + ["wrong"] * (4 - right)]}
        own = experiment(["uniform"], metric="final_accuracy")
        write_run(tmp_path, "uniform", seed, [0.1, 0.1], evaluations, experiment=own)
    notes = [note for note in compare(load(tmp_path)).notes if "over its start" in note]
    assert len(notes) == (words is not None) and all(words in note for note in notes)
