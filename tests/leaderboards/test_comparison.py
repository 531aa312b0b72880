"""Comparing recorded runs: the right pairs, the right numbers, and refusals that name the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recorded_runs import (
    UNIFORM,
    experiment,
    manifest,
    sample_rows,
    shifted,
    step_row,
    sweep,
    write_run,
)

from leaderboards import RecordError, RunWriter, arranged, compare, estimates, experiments, load
from leaderboards.comparison import SORTS


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts are the business of the records' own tests; here hundreds of small files are written."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def test_numbers_of_a_known_sweep(tmp_path: Path) -> None:
    found = sweep(tmp_path, {"uniform": UNIFORM, "flow": shifted(0.10, 0.11, 0.09)})
    flow, uniform = found.arms
    assert (flow.label, uniform.label) == ("flow", "uniform")
    assert uniform.outcome == "baseline" and uniform.decision is None
    assert uniform.scores["training_reward_area"].values == pytest.approx(
        {0: 0.15, 1: 0.25, 2: 0.25}, abs=1e-7
    )
    assert flow.seeds == (0, 1, 2)
    assert list(flow.differences.values()) == pytest.approx([0.10, 0.11, 0.09], abs=1e-6)
    assert flow.difference == pytest.approx(0.10, abs=1e-6)
    values = list(flow.differences.values())
    assert flow.interval_of_difference == estimates.t_interval(values)
    assert flow.p == flow.p_holm == estimates.paired_p(values)
    assert flow.outcome == "better" and flow.seeds_needed is None
    assert (flow.sign_flip_p, flow.sign_flip_minimum) == (0.25, 0.25)
    assert not flow.sign_flip_reaches_alpha
    assert flow.mean == pytest.approx(sum(map(sum, shifted(0.10, 0.11, 0.09).values())) / 6, abs=1e-6)
    assert flow.interval == estimates.t_interval(list(flow.scores[found.metric].values.values()))
    assert found.positive_control.outcome == "not tested" and "no arm knows" in found.positive_control.text
    assert found.arm("flow") is flow
    with pytest.raises(RecordError, match="no arm 'flaw'; did you mean 'flow'"):
        found.arm("flaw")


@pytest.mark.parametrize(
    ("shifts", "verdict"),
    [
        ((-0.10, -0.11, -0.09), "worse"),
        ((0.001, -0.001, 0.0), "no difference larger than 0.02"),
        ((0.1,), "cannot tell: one seed"),
        ((0.0, 0.0), "cannot tell: the same difference on all 2 seeds"),
        ((0.05, -0.02, 0.03), "cannot tell: about"),
    ],
)
def test_verdicts_in_words(tmp_path: Path, shifts: tuple[float, ...], verdict: str) -> None:
    flow = sweep(tmp_path, {"uniform": UNIFORM, "flow": shifted(*shifts)}).arm("flow")
    assert flow.outcome.startswith(verdict)
    if verdict.endswith("about"):
        assert flow.outcome == f"cannot tell: about {flow.seeds_needed} more seeds"


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    found = sweep(tmp_path, {"uniform": {0: [0.1, 0.2]}, "flow": {0: [0.3, 0.4]}})
    flow = found.arm("flow")
    assert flow.interval is None and flow.interval_of_difference is None and flow.p is None
    assert flow.difference == pytest.approx(0.2, abs=1e-6)


def test_the_same_runs_twice_are_no_difference(tmp_path: Path) -> None:
    many = {seed: [0.1 + seed / 100, 0.2] for seed in range(8)}
    found = sweep(tmp_path, {"uniform": many, "constant": many})
    constant = found.arm("constant")
    assert constant.outcome == "no difference larger than 0.02"
    assert (constant.difference, constant.p, constant.interval_of_difference) == (0.0, 1.0, None)
    assert [arm.label for arm in found.arms] == ["uniform", "constant"]  # a tie: the baseline first


def test_arms_are_paired_over_shared_seeds_only(tmp_path: Path) -> None:
    flow = {1: [0.4, 0.5], 2: [0.3, 0.5], 7: [9.0, 9.0]}
    found = sweep(tmp_path, {"uniform": UNIFORM, "flow": flow, "random": {8: [0.1, 0.1]}})
    assert list(found.arm("flow").differences) == [1, 2]
    assert found.arm("flow").difference == pytest.approx(0.175, abs=1e-6)
    lonely = found.arm("random")
    assert lonely.differences == {} and lonely.difference is None
    assert lonely.outcome == "cannot tell: no seed shared with uniform"
    assert found.arms[-1] is lonely


def test_holm_counts_the_declared_arms(tmp_path: Path) -> None:
    """Arms that were declared but not run, or left out, do not make the others look better."""
    arms = {"uniform": UNIFORM, "flow": shifted(0.05, 0.06, 0.04)}
    alone = sweep(tmp_path / "alone", arms).arm("flow")
    declared = experiment([*arms, "random", "constant", "oracle"])
    among = sweep(tmp_path / "among", arms, experiment=declared)
    assert alone.p is not None and among.arm("flow").p == alone.p
    assert alone.p_holm == alone.p
    assert among.arm("flow").p_holm == pytest.approx(4 * alone.p)
    assert "declared but without a finished run: random, constant, oracle" in among.notes


def test_another_baseline(tmp_path: Path) -> None:
    sweep(tmp_path, {"uniform": UNIFORM, "flow": shifted(0.10, 0.11, 0.09)})
    found = compare(load(tmp_path), baseline="flow")
    assert found.arm("uniform").outcome == "worse" and found.arm("flow").outcome == "baseline"


@pytest.mark.parametrize(
    ("oracle", "outcome", "words"),
    [
        ((0.10, 0.11, 0.09), "sensitive", "positive control sensitive: oracle_mask beats uniform by +0.100"),
        ((0.01, -0.11, 0.09), "not sensitive", "NOT sensitive, cannot tell methods apart"),
        ((-0.10, -0.101, -0.099), "not sensitive", "p <0.001 (Holm)"),
    ],
)
def test_sensitivity_of_the_positive_control(
    tmp_path: Path, oracle: tuple[float, ...], outcome: str, words: str
) -> None:
    control = sweep(tmp_path, {"uniform": UNIFORM, "oracle_mask": shifted(*oracle)}).positive_control
    assert (control.outcome, control.arm) == (outcome, "oracle_mask")
    assert words in control.text
    assert control.text.endswith(" (Holm)") == (outcome == "not sensitive")


@pytest.mark.parametrize(
    ("oracles", "outcome", "arm"),
    [
        ({"oracle": (0.04, 0.041, 0.039), "oracle_mask": (0.2, -0.1, 0.08)}, "sensitive", "oracle"),
        ({"oracle": (0.01, -0.03, 0.02), "oracle_mask": (0.2, -0.1, 0.08)}, "not sensitive", "oracle_mask"),
        ({"oracle": (0.01, -0.03, 0.02), "oracle_mask": (0.2,)}, "not sensitive", "oracle"),
        ({"oracle": (0.1,), "oracle_mask": (0.2,)}, "not tested", "oracle_mask"),
    ],
)
def test_any_oracle_that_is_better_will_do(
    tmp_path: Path, oracles: dict[str, tuple[float, ...]], outcome: str, arm: str
) -> None:
    """Holm's correction counts every oracle already: one of higher rank and larger spread must not hide it."""
    arms = {"uniform": UNIFORM, **{label: shifted(*values) for label, values in oracles.items()}}
    control = sweep(tmp_path, arms).positive_control
    assert (control.outcome, control.arm) == (outcome, arm)


def test_the_title_does_not_deny_what_the_table_says(tmp_path: Path) -> None:
    arms = {"uniform": UNIFORM, "oracle": shifted(0.1, -0.1, 0.02), "flow": shifted(-0.1, -0.11, -0.105)}
    found = sweep(tmp_path, arms)
    assert found.arm("flow").outcome == "worse"
    assert found.positive_control.text.startswith(
        "positive control NOT sensitive, a gain can go unseen: oracle"
    )


def test_an_oracle_that_keeps_the_format_is_the_positive_control(tmp_path: Path) -> None:
    """A mask that loses the format, and so the reward, does not say that the comparison is too weak."""
    arms = {"uniform": UNIFORM, "oracle": shifted(0.1, 0.11, 0.09), "oracle_mask": shifted(-0.1, -0.1, -0.11)}
    control = sweep(tmp_path, arms).positive_control
    assert (control.outcome, control.arm) == ("sensitive", "oracle")


def test_an_oracle_with_training_of_its_own_is_no_positive_control(tmp_path: Path) -> None:
    """It may be better by its learning rate: then the title would say that credit can be told apart, from no credit."""
    declared = experiment(["uniform", "oracle", "oracle_double"])
    declared["methods"]["oracle_double"] = {"credit": "oracle", "training": {"learning_rate": 6e-4}}
    arms = {
        "uniform": UNIFORM,
        "oracle": shifted(0.01, -0.03, 0.02),
        "oracle_double": shifted(0.1, 0.11, 0.09),
    }
    found = sweep(tmp_path, arms, experiment=declared)
    assert found.arm("oracle_double").outcome == "better"
    control = found.positive_control
    assert (control.outcome, control.arm) == ("not sensitive", "oracle")


@pytest.mark.parametrize("metric", ["training_reward_area", "evaluation_area", "final_accuracy"])
def test_the_declared_metric_decides(tmp_path: Path, metric: str) -> None:
    declared = experiment(["uniform", "flow"], metric=metric)
    better = {0: [["wrong"]], 5: [["wrong"]], 10: [["correct"]]}
    worse = {0: [["wrong"]], 5: [["wrong"]], 10: [["wrong"]]}
    write_run(tmp_path, "uniform", 0, [0.5], worse, experiment=declared)
    write_run(tmp_path, "flow", 0, [0.4], better, experiment=declared)
    expected = {"training_reward_area": -0.1, "evaluation_area": 0.25, "final_accuracy": 1.0}
    assert compare(load(tmp_path)).arm("flow").difference == pytest.approx(expected[metric], abs=1e-6)


def test_crossed_interval_of_final_accuracy(tmp_path: Path) -> None:
    wrong, right = ["wrong", "wrong"], ["correct", "wrong"]
    for seed, better in ((0, [right, right, wrong]), (1, [right, wrong, right])):
        write_run(tmp_path, "uniform", seed, [0.1], {10: [wrong, right, wrong]})
        write_run(tmp_path, "flow", seed, [0.1], {10: better})
    flow = compare(load(tmp_path)).arm("flow")
    cells = [[0.5, 0.0, 0.0], [0.5, -0.5, 0.5]]
    assert flow.crossed_interval == pytest.approx(estimates.crossed_interval(cells))
    assert flow.accuracy_difference == pytest.approx(1 / 6)


def test_optional_stopping_is_judged_by_the_e_process(tmp_path: Path) -> None:
    rule = {"stopping": "until decided", "scale": 0.05}
    few = sweep(tmp_path / "few", {"uniform": UNIFORM, "flow": shifted(0.1, 0.11, 0.09)}, rule)
    assert few.declaration.sequential and few.arm("flow").outcome.startswith("cannot tell: about")
    assert few.arm("flow").smallest_detectable is None, "that of a test which does not decide"
    still = sweep(tmp_path / "still", {"uniform": UNIFORM, "flow": shifted(0.1, -0.1, 0.0)}, rule)
    assert still.arm("flow").outcome == "cannot tell: evidence does not grow"
    uniform = {seed: [0.1 + seed / 100] for seed in range(9)}
    flow = {seed: [0.2 + seed / 100 + seed % 2 / 1000] for seed in range(9)}
    many = sweep(tmp_path / "many", {"uniform": uniform, "flow": flow}, rule).arm("flow")
    values = list(many.differences.values())
    assert many.outcome == "better" and many.p == estimates.anytime_p(values, 0.05)
    assert many.e_value == pytest.approx(estimates.e_process(values, 0.05)[-1])


@pytest.mark.parametrize(
    ("seeds", "most", "text"),
    [
        (
            3,
            30,
            "NOT sensitive yet, cannot tell methods apart: oracle minus uniform is +0.100 over 3 of at most 30 seeds",
        ),
        (
            3,
            3,
            "NOT sensitive, cannot tell methods apart: oracle minus uniform is +0.100 over 3 seeds, p 0.2",
        ),
        (9, 30, "sensitive: oracle beats uniform: +0.100 over 9 seeds, p 0.00"),
    ],
)
def test_the_control_of_a_sweep_that_goes_on(tmp_path: Path, seeds: int, most: int, text: str) -> None:
    """It has not failed before the last seed, and an interval for a fixed number of seeds would claim too much."""
    declared = experiment(["uniform", "oracle"], stopping="until decided", scale=0.05)
    declared["seeds"] = most
    uniform = {seed: [0.1 + seed / 100] for seed in range(seeds)}
    oracle = {seed: [0.2 + seed / 100] for seed in range(seeds)}
    control = sweep(tmp_path, {"uniform": uniform, "oracle": oracle}, experiment=declared).positive_control
    assert control.text.startswith(f"positive control {text}") and control.text.endswith(" (Holm)")
    assert "[" not in control.text


def test_run_set_hash_names_the_runs_and_their_content(tmp_path: Path) -> None:
    for place in ("a", "b", "c"):
        write_run(tmp_path / place, "uniform", 0, [0.1 if place != "c" else 0.2])
    hashes = [compare(load(tmp_path / place)).run_set_hash for place in ("a", "b", "c")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_oracle_that_has_not_run_is_named(tmp_path: Path) -> None:
    declared = experiment(["uniform", "oracle_mask"])
    found = sweep(tmp_path, {"uniform": UNIFORM}, experiment=declared)
    assert found.positive_control.text == "positive control not tested: no run of oracle_mask is finished"


def test_an_oracle_with_training_of_its_own_is_not_waited_for(tmp_path: Path) -> None:
    """Finished, it would be no positive control either."""
    declared = experiment(["uniform", "oracle_double"])
    declared["methods"]["oracle_double"] = {"credit": "oracle", "training": {"learning_rate": 6e-4}}
    control = sweep(tmp_path, {"uniform": UNIFORM}, experiment=declared).positive_control
    assert "no arm knows" in control.text


# ------------------------------------------------------------------------------- refusals


def test_one_label_with_two_sets_of_options_is_refused(tmp_path: Path) -> None:
    """The experiment's hash leaves the arms out, so that arms can be added: it does not tell these two apart."""
    write_run(tmp_path, "uniform", 0, [0.1])
    folders = []
    for seed, ratio in enumerate((0.4, 0.2)):
        own = experiment(["uniform", "flow"])
        own["methods"]["flow"]["ratio"] = ratio
        folders.append(write_run(tmp_path, "flow", seed, [0.1], experiment=own))
    with pytest.raises(RecordError, match="two arms under one label") as caught:
        compare(load(tmp_path))
    assert all(str(folder) in str(caught.value) for folder in folders) and "0.2" in str(caught.value)


def test_another_experiment_under_the_same_hash_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "uniform", 0, [0.1])
    folder = write_run(tmp_path, "uniform", 1, [0.1], experiment=experiment(["uniform"], alpha=0.5))
    with pytest.raises(RecordError, match=r"under the same hash.*\(declaration\)") as caught:
        compare(load(tmp_path))
    assert str(folder) in str(caught.value)
    write_run(tmp_path / "added", "uniform", 0, [0.1])
    write_run(tmp_path / "added", "late", 0, [0.1], experiment=experiment(["uniform", "flow", "late"]))
    assert len(compare(load(tmp_path / "added")).arms) == 2  # another arm makes no other experiment


def test_experiments_are_never_mixed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "uniform", 0, [0.1])
    write_run(tmp_path / "b", "flow", 0, [0.1], experiment_hash="ffff")
    runs = load(tmp_path)
    with pytest.raises(RecordError, match="runs of 2 experiments cannot be compared") as caught:
        compare(runs)
    assert str(tmp_path / "a") in str(caught.value) and str(tmp_path / "b") in str(caught.value)
    assert [len(group) for group in experiments(runs).values()] == [1, 1]


def test_two_runs_of_one_seed_are_refused(tmp_path: Path) -> None:
    for place in ("a", "b"):
        write_run(tmp_path / place, "uniform", 3, [0.1])
    with pytest.raises(RecordError, match="two runs of uniform with seed 3") as caught:
        compare(load(tmp_path))
    assert str(tmp_path / "a") in str(caught.value) and str(tmp_path / "b") in str(caught.value)


def test_a_missing_baseline_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "flow", 0, [0.1])
    with pytest.raises(RecordError, match="no run of the baseline 'uniform'; known: flow"):
        compare(load(tmp_path))
    write_run(tmp_path, "uniform", 0, [0.1], finish=False)
    with pytest.raises(RecordError, match="no run of the baseline 'uniform' is finished"):
        compare(load(tmp_path))
    with pytest.raises(RecordError, match="no runs"):
        compare([])


@pytest.mark.parametrize(
    ("rewards", "evaluations", "words"),
    [
        ([0.1], {1: [["wrong"]], 2: [["wrong"]]}, "training steps"),
        ([0.1, 0.1], {1: [["wrong"]]}, "evaluation steps"),
        ([0.1, 0.1], {1: [["wrong"]], 2: [["wrong"], ["wrong"]]}, "problems"),
    ],
)
def test_runs_that_were_asked_differently_are_refused(
    tmp_path: Path, rewards: list[float], evaluations: dict[int, Any], words: str
) -> None:
    write_run(tmp_path, "uniform", 0, [0.1, 0.1], {1: [["wrong"]], 2: [["wrong"]]})
    folder = write_run(tmp_path, "flow", 0, rewards, evaluations)
    with pytest.raises(RecordError, match=words) as caught:
        compare(sorted(load(tmp_path), key=lambda run: run.method != "uniform"))
    assert str(folder) in str(caught.value)


def test_other_evaluation_keys_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "uniform", 0, [0.1], {1: [["wrong"]]})
    writer = RunWriter(tmp_path / "flow", manifest("flow"))
    writer.write("steps", 1, step_row(1, reward=0.1))
    writer.write("samples", 1, [{**sample_rows(1, [["wrong"]])[0], "key": "another"}])
    writer.finish({})
    with pytest.raises(RecordError, match="evaluation keys are not those of"):
        compare(load(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "loss"}, "declaration.metric must be one of"),
        ({"smallest_difference": 0}, "smallest_difference must be positive, not 0"),
        ({"alpha": 5}, "alpha must lie between 0 and 1, not 5"),
        ({"metric": "evaluation_area"}, "has no evaluation_area"),
        ({"stopping": "until decided"}, "scale must be a positive number"),
    ],
)
def test_declarations_that_cannot_be_used(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(RecordError, match=words):
        sweep(tmp_path, {"uniform": UNIFORM}, change)


# ------------------------------------------------------------------------------- some arms, in another order


def test_arms_in_another_order_and_some_of_them(tmp_path: Path) -> None:
    """Ranks, p values and the positive control stay those of the whole comparison."""
    arms = {"uniform": UNIFORM, "flow": shifted(0.10, 0.11, 0.09), "random": shifted(-0.01, 0.02, 0.0)}
    found = sweep(tmp_path, arms)
    assert [(arm.label, arm.rank) for arm in found.arms] == [("flow", 1), ("random", 2), ("uniform", 3)]
    by_name = arranged(found, "method", ["flow", "random"])
    assert [(arm.label, arm.rank) for arm in by_name.arms] == [("flow", 1), ("random", 2), ("uniform", 3)]
    some = arranged(found, "reward", ["random"])
    assert [(arm.label, arm.rank) for arm in some.arms] == [("random", 2), ("uniform", 3)]
    assert some.arm("random").p_holm == found.arm("random").p_holm
    assert "2 of 3 methods shown; p is adjusted over all of them" in some.notes
    assert arranged(found) == found
    for name in SORTS:
        assert {arm.label for arm in arranged(found, name).arms} == set(arms)
    with pytest.raises(RecordError, match="sorted by 'verdict'; known: difference, method"):
        arranged(found, "verdict")
    with pytest.raises(RecordError, match="no arm 'flaw'"):
        arranged(found, only=["flaw"])


def test_sorting_puts_the_best_first(tmp_path: Path) -> None:
    for seed in range(2):
        for label, length in (("uniform", 9.0), ("long", 20.0), ("short", 3.0)):
            writer = RunWriter(tmp_path / label / str(seed), manifest(label, seed))
            writer.write("steps", 1, step_row(1, response_length=length, seconds_step=length, reward=length))
            writer.finish({})
    found = compare(load(tmp_path))
    orders = {
        name: [arm.label for arm in arranged(found, name).arms] for name in ("length", "seconds", "reward")
    }
    assert orders["length"] == orders["seconds"] == ["short", "uniform", "long"]
    assert orders["reward"] == ["long", "uniform", "short"]
