"""Protects replay: its gradients are the trainer's own, its figures are those that numpy works out by hand."""

import dataclasses
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from flowtracer import credit
from harness import ExperimentError, cli, replay
from harness.runs import run
from harness.runs.checkpoints import Boundaries, parameters_hash
from leaderboards import read_run


@pytest.fixture
def policy(tiny_experiment):
    return run.policy_of(tiny_experiment())


def weighed(built, policy, batches, name, **options):
    method = credit.get(name, **options)
    return replay.weigh(policy, run.task_of(built.task), built.training, batches, method)


@pytest.mark.parametrize(
    ("label", "micro", "dtype"),
    [("uniform", 0, "float32"), ("flow", 0, "float32"), ("flow", 4, "float32"), ("flow", 0, "bfloat16")],
)
def test_the_gradient_is_the_one_that_the_trainer_steps_along(
    tiny_experiment, tmp_path, monkeypatch, label, micro, dtype
):
    """A run's first gradient, taken from the trainer before it is clipped, on rollouts that it sampled itself."""
    built = tiny_experiment((label,), micro_batch=micro, steps=1, save_every=1, max_gradient_norm=1e9)
    object.__setattr__(built, "policy", dataclasses.replace(built.policy, dtype=dtype))
    seen = []

    class Spy(Boundaries):
        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            seen.append(np.concatenate([p.grad.numpy().ravel() for p in model.parameters()]))

    monkeypatch.setattr(run, "Boundaries", Spy)
    run.train(built, label, 0, tmp_path)
    policy = run.policy_of(built)
    policy.model.float()
    batches = replay.fresh(built, policy, 1, 0)
    recorded = read_run(tmp_path).table("rollouts").to_pylist()
    assert [row["response_ids"] for row in batches[0]] == [row["response_ids"] for row in recorded]
    assert [row["reward"] for row in batches[0]] == [row["reward"] for row in recorded]
    kept = weighed(built, policy, batches, label)
    assert np.abs(seen[0]).max() > 0
    # Batches of other shapes are rounded elsewhere: in bfloat16, to one part in 256.
    rounding = 1e-7 if dtype == "float32" else np.abs(seen[0]).max() / 256
    np.testing.assert_allclose(kept.gradients[0], seen[0], rtol=1e-4, atol=rounding)
    for ours, theirs in zip(kept.weights[0], recorded, strict=True):
        assert ours.tolist() == theirs["weights"]
    assert kept.gap < (1e-5 if dtype == "float32" else 1e-2)


def test_the_policy_does_not_move_and_methods_share_rollouts(tiny_experiment, policy):
    built = tiny_experiment()
    before = parameters_hash(policy.model)
    batches = replay.fresh(built, policy, 2, 0)
    one, again = (weighed(built, policy, batches, "uniform") for _ in range(2))
    assert parameters_hash(policy.model) == before
    assert not policy.model.training and all(p.grad is None for p in policy.model.parameters())
    np.testing.assert_array_equal(one.gradients, again.gradients)
    larger = weighed(built, policy, batches, "constant", weight=2.0)
    np.testing.assert_allclose(larger.gradients, 2 * one.gradients, rtol=1e-3, atol=1e-6)


def test_without_gradients_the_weights_are_the_same(tiny_experiment, policy):
    built = tiny_experiment()
    batches = replay.fresh(built, policy, 1, 0)
    task, method = run.task_of(built.task), credit.get("flow")
    whole = replay.weigh(policy, task, built.training, batches, method)
    quick = replay.weigh(policy, task, built.training, batches, method, gradients=False)
    assert quick.gradients is None
    assert [w.tolist() for w in quick.weights[0]] == [w.tolist() for w in whole.weights[0]]


def test_signal_to_noise_by_hand():
    """g = (3, 1) and (1, 1): mean (2, 1), spread 2, |G|^2 = 5 - 2/2 = 4, ratio 2."""
    gradients = np.array([[3.0, 1.0], [1.0, 1.0]])
    assert replay.signal_to_noise(replay.moments(gradients, gradients)) == pytest.approx(2.0)


def test_signal_to_noise_against_a_plain_computation():
    source = np.random.default_rng(0)
    gradients = source.normal(size=(7, 5)) + [1, 0, 0, 2, 0]

    def plain(table):
        mean, count = table.mean(0), len(table)
        spread = ((table - mean) ** 2).sum() / (count - 1)
        return (mean @ mean - spread / count) / spread

    found = replay.moments(gradients, gradients)
    assert replay.signal_to_noise(found) == pytest.approx(plain(gradients))
    left_out = replay.without_each(found)
    expected = [plain(np.delete(gradients, index, 0)) for index in range(7)]
    np.testing.assert_allclose(left_out, expected)
    low, high = replay.jackknife(plain(gradients), left_out)
    error = math.sqrt(6 / 7 * ((left_out - left_out.mean()) ** 2).sum())
    assert (low + high) / 2 == pytest.approx(plain(gradients))
    assert (high - low) / 2 == pytest.approx(2.446912 * error)


def test_the_ratio_is_unbiased_where_there_is_no_signal():
    source = np.random.default_rng(1)
    ratios = [
        replay.signal_to_noise(replay.moments(table, table)) for table in source.normal(size=(400, 8, 20))
    ]
    assert abs(np.mean(ratios)) < 4 * np.std(ratios) / 20


def test_cosines_by_hand():
    """Against the sum of the other batches' uniform gradients, and against uniform's own on the same batch."""
    uniform = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    gradients = np.array([[1.0, 1.0], [0.0, 5.0], [0.0, 0.0]])
    found = replay.moments(gradients, uniform)
    # The others of the first batch: (3, 2); of the second: (4, 0); the third gradient has no direction.
    np.testing.assert_allclose(found.with_large[:2], [5 / math.sqrt(2 * 13), 0.0])
    np.testing.assert_allclose(found.with_uniform[:2], [1 / math.sqrt(2), 1.0])
    assert math.isnan(found.with_large[2]) and math.isnan(found.with_uniform[2])


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [(np.ones((1, 3)), math.nan), (np.zeros((4, 3)), math.nan), (np.ones((4, 3)), math.inf)],
)
def test_degenerate_gradients_give_no_number(gradients, expected):
    """One batch, no signal in any, and batches that are all alike."""
    found = replay.moments(gradients, gradients)
    ratio = replay.signal_to_noise(found)
    assert ratio == expected or (math.isnan(ratio) and math.isnan(expected))
    assert replay.jackknife(ratio, replay.without_each(found)) is None


def test_projection_keeps_inner_products(monkeypatch):
    import torch

    monkeypatch.setattr(replay, "SKETCH", 4096)
    model = torch.nn.Linear(100, 100)
    signs = replay._signs(model)
    vectors, projected = [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator) + 0.3
        vectors.append(replay.flat_gradient(model, None))
        projected.append(replay.flat_gradient(model, signs))
    assert projected[0].shape == (4096,)
    exact, kept = (
        np.stack(rows).astype(float) @ np.stack(rows).T.astype(float) for rows in (vectors, projected)
    )
    lengths = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert np.abs(kept - exact).max() / lengths.max() < 5 / math.sqrt(4096)
    assert replay._signs(torch.nn.Linear(10, 10)) is None


def test_rank_correlations_with_ties_and_constants():
    rows = np.array([[1, 2, 3, 4.0], [4, 3, 2, 1.0], [1, 1, 5, 5.0], [7, 7, 7, 7.0]])
    found = replay.rank_correlations(rows)
    assert found[0, 1] == pytest.approx(-1) and found[2, 2] == pytest.approx(1)
    # ranks 1 2 3 4 and 1.5 1.5 3.5 3.5: covariance 4, squares 5 and 4
    assert found[0, 2] == pytest.approx(4 / math.sqrt(20))
    assert np.isnan(found[3]).all()


def test_top_sets_break_ties_at_random():
    np.testing.assert_allclose(replay.in_top(np.array([1.5, 1.5, 1, 1, 1]), 2), [1, 1, 0, 0, 0])
    np.testing.assert_allclose(replay.in_top(np.array([3.0, 1, 1, 1]), 2), [1, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(replay.in_top(np.ones(5), 2), [0.4] * 5)
    np.testing.assert_allclose(replay.in_top(np.ones(2), 0), [0, 0])


def test_area_under_curve_counts_ties_half():
    positive = np.array([True, False, False, True])
    assert replay.area_under_curve(np.array([2.0, 1, 3, 3]), positive) == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert math.isnan(replay.area_under_curve(np.ones(4), np.zeros(4, dtype=bool)))


def test_categories():
    found = {piece: replay.category(piece) for piece in (" 12", "=", " +", ".", "\n", " ", "", "a1", "####")}
    assert found == {
        " 12": "digits", "=": "operators", " +": "operators", ".": "delimiters", "\n": "delimiters",
        " ": None, "": None, "a1": None, "####": "delimiters",
    }  # fmt: skip


def test_token_values_end_in_the_reward_and_find_the_decision(tiny_experiment, policy):
    """On `decision` the first letter settles the verdict: the filler after it changes no value."""
    built = tiny_experiment()
    task = run.task_of(built.task)
    rows = [row for row in replay.fresh(built, policy, 2, 0)[0] if row["finish_reason"] == "stop"]
    right = [row for row in rows if row["verdict"] == "correct"][:1]
    wrong = [row for row in rows if row["verdict"] == "wrong"][:1]
    assert right and wrong
    values = replay.token_values(policy, task, built.training, right + wrong, 12)
    for row, found in zip(right + wrong, values, strict=True):
        assert found.shape == (len(row["response_ids"]) + 1, 12)
        assert set(found[-1]) == {row["reward"]}
        changes = replay.value_changes(found)
        assert changes.sum() == pytest.approx(row["reward"] - found[0].mean())
    gained = replay.value_changes(values[0])
    assert gained.argmax() == 0 and gained[0] > 0.6
    assert np.abs(gained[1:-1]).max() < 0.3
    again = replay.token_values(policy, task, built.training, right + wrong, 12, batch_size=50)
    for one, other in zip(values, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_whole_finds_what_is_known_of_decision(tiny_experiment, policy):
    built = tiny_experiment(("uniform", "oracle_mask"))
    batches = replay.fresh(built, policy, 6, 0)
    methods = replay.methods_of(built, ["oracle_mask", "flow", "anti_oracle", "constant"])
    assert list(methods)[0] == "uniform"
    found = replay.replay(built, policy, batches, "here", methods, valued=6, continuations=8)
    figures = {one.label: one for one in found.figures}
    assert figures["oracle_mask"].decisive[0] == 1 and figures["anti_oracle"].decisive[0] == 0
    assert figures["uniform"].decisive[0] == 0.5 and figures["uniform"].to_uniform[0] == pytest.approx(1)
    assert figures["constant"].to_uniform[0] == pytest.approx(1)
    assert figures["constant"].ratio == pytest.approx(figures["uniform"].ratio, abs=1e-3)
    assert figures["constant"].ratio_difference == pytest.approx(0, abs=1e-3)
    assert figures["oracle_mask"].value_direction[0] > 0.2 > figures["anti_oracle"].value_direction[0]
    assert figures["uniform"].value_size is None, "weights that are all equal rank nothing"
    assert "uniform" not in found.correlations
    assert found.correlations["oracle_mask"]["anti_oracle"] == pytest.approx(-1)
    assert found.overlaps["flow"]["flow"] == pytest.approx(1)
    for sheet in replay.sheets(found):
        assert all(len(row) == len(sheet.columns) for row in sheet.rows)
    assert any("6 batches, 96 responses" in line for line in replay.facts(found))


def test_groups_without_signal_give_dashes_and_are_counted(tiny_experiment, policy):
    """Every response has the same reward: no gradient, no direction, no crash."""
    built = tiny_experiment()
    batches = replay.fresh(built, policy, 3, 0)
    dead = [[{**row, "reward": 0.0, "verdict": "wrong"} for row in rows] for rows in batches]
    found = replay.replay(built, policy, dead, "here", replay.methods_of(built, ["flow"]), continuations=0)
    assert found.dead == 3 and found.valued == 0
    for one in found.figures:
        assert one.ratio is one.to_large is one.to_uniform is None
        assert one.mean_weight >= 1
    assert any("3 of 3 batches" in line for line in replay.facts(found))
    assert replay.sheets(found)


def test_one_batch_and_no_answer_in_any_response(tiny_experiment, policy):
    """Flow abstains on all of them, and says so; a single batch has no spread."""
    built = tiny_experiment(max_response_tokens=4)
    batches = replay.fresh(built, policy, 1, 0)
    assert {row["verdict"] for row in batches[0]} == {"truncated"}
    batches = [[{**row, "reward": float(index % 2)} for index, row in enumerate(batches[0])]]
    found = replay.replay(built, policy, batches, "here", replay.methods_of(built, ["flow"]), continuations=0)
    flow = next(one for one in found.figures if one.label == "flow")
    assert flow.abstained == 1 and flow.decisive is None
    assert flow.ratio is None and flow.to_large is None
    assert flow.to_uniform[0] == pytest.approx(1)
    assert replay.sheets(found)


def test_a_task_that_does_not_know_its_decisive_tokens_leaves_the_oracles_out(policy, tiny_experiment):
    built = tiny_experiment()
    built = replace(built, policy=replace(built.policy, name="arithmetic"), task={"name": "arithmetic"})
    policy = run.policy_of(built)
    batches = replay.fresh(built, policy, 2, 0)
    methods = replay.methods_of(built, ["oracle", "position"])
    found = replay.replay(built, policy, batches, "here", methods, continuations=0)
    assert set(found.left_out) == {"oracle"} and [one.label for one in found.figures] == [
        "uniform",
        "position",
    ]
    assert all(one.decisive is None for one in found.figures)


def test_arms_with_options_join_the_registry(tiny_experiment):
    built = tiny_experiment()
    built = replace(
        built, methods={"uniform": {"credit": "uniform"}, "strong": {"credit": "flow", "gamma": 3.0}}
    )
    methods = replay.methods_of(built, None)
    assert set(methods) == {*credit.names(), "strong"} and methods["strong"][0].gamma == 3.0
    with pytest.raises(ExperimentError, match="unknown credit method 'folw'"):
        replay.methods_of(built, ["folw"])


def test_recorded_rollouts_of_the_earliest_steps(tiny_experiment, tmp_path):
    built = tiny_experiment(("flow", "uniform"), steps=2, save_every=1)
    for label, seed in (("flow", 0), ("uniform", 0), ("uniform", 1)):
        run.train(built, label, seed, tmp_path / label / f"seed-{seed:04d}")
    experiment_found, batches = replay.stored(tmp_path, 3)
    assert experiment_found.hash == built.hash
    own = {seed: read_run(tmp_path / "uniform" / f"seed-{seed:04d}") for seed in (0, 1)}
    flow = read_run(tmp_path / "flow" / "seed-0000")
    expected = [
        flow.table("rollouts", step=0), own[1].table("rollouts", step=0), flow.table("rollouts", step=1)
    ]  # fmt: skip
    assert [[row["key"] for row in rows] for rows in batches] == [
        table["key"].to_pylist() for table in expected
    ]
    found = replay.replay(
        experiment_found,
        run.policy_of(built),
        batches[:1],
        "",
        replay.methods_of(built, ["flow"]),
        continuations=0,
    )
    assert found.gap < 1e-5


def test_the_command_prints_and_exports(tmp_path, capsys):
    export = tmp_path / "replay.json"
    wanted = ["replay", "decision", "--batches", "2", "--prompts", "2", "--methods", "flow,oracle_mask"]
    assert cli.main([*wanted, "--valued", "2", "--continuations", "2", "--export", str(export)]) == 0
    printed = capsys.readouterr().out
    assert "oracle_mask" in printed and "signal/noise" in printed
    assert max(map(len, printed.splitlines())) <= 100
    figures = {one["label"]: one for one in json.loads(export.read_text())["figures"]}
    assert set(figures) == {"uniform", "flow", "oracle_mask"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["decsion"], "unknown experiment"),
        (["decision", "--batches", "0"], "--batches 0"),
        (["decision", "--methods", "folw"], "folw"),
        (["decision", "--export", "x.html"], ".json, .md"),
        (["decision", "--policy", "/nowhere"], "/nowhere"),
        (["HERE"], "no run in it"),
        (["HERE", "--policy", "decision"], "goes with an experiment"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, tmp_path, capsys):
    arguments = [str(tmp_path) if one == "HERE" else one for one in arguments]
    assert cli.main(["replay", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
