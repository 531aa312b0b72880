"""Protects the settings of ROLL's example: the shipped file, and a run with each place of whitening."""

import pytest

from harness import experiment as experiments
from harness.errors import ExperimentError
from harness.runs import run
from harness.runs.settings import grpo_config
from leaderboards import read_run
from tests.harness import tiny


def test_the_shipped_file_has_the_settings():
    roll, base = experiments.load("paper-roll"), experiments.load("paper-4b-1k")
    training = roll.training
    assert (training.dual_clip, training.advantage_clip, training.whiten) == (1.4, 2.0, "before")
    assert training.mask_truncated and training.loss_type == "grpo" and training.warmup_steps == 20
    assert training.rollouts == 512 and training.learning_rate == base.training.learning_rate
    assert roll.training_of("flow_after").whiten == "after"
    assert {extra.task["name"]: extra.problems for extra in roll.evaluation.more}["olympiadbench"] == 170
    experiments.check(roll)


def test_settings_that_are_not_used_stand_in_no_record(tmp_path):
    """Their hash is that of before, so that runs of before can still be joined."""
    plain = experiments.from_table(tiny.table(), "x").resolved()
    assert not {"dual_clip", "whiten", "advantage_clip"} & set(plain["training"])
    assert not {"top_k", "top_p"} & set(plain["evaluation"])
    used = experiments.from_table(tiny.table(whiten="after", dual_clip=1.4), "x")
    assert used.resolved()["training"]["whiten"] == "after"
    assert grpo_config(used.training, "float32", 0, tmp_path).delta == 1.4
    assert (
        grpo_config(experiments.from_table(tiny.table(), "x").training, "float32", 0, tmp_path).delta is None
    )


@pytest.mark.parametrize(
    ("key", "value"), [("dual_clip", 1.0), ("whiten", "behind"), ("advantage_clip", -1.0)]
)
def test_mistakes_are_named(key, value):
    with pytest.raises(ExperimentError, match=f"training.{key} must"):
        experiments.from_table(tiny.table(**{key: value}), "x")


def norms(folder, credit, **training):
    """The length of the gradient in each of two steps, of several micro-batches each; nothing clips it."""
    arms = {"uniform": {}, "x": credit}
    more = {"steps": 2, "micro_batch": 4, "save_every": 2, "max_gradient_norm": 1e9, **training}
    run.train(experiments.from_table(tiny.table(arms, 1, {"every": 2}, **more), "x"), "x", 0, folder)
    steps = read_run(folder).table("steps", ["gradient_norm"])
    return steps["gradient_norm"].to_pylist()


def test_behind_the_weights_whitening_takes_a_factor_out_and_before_them_it_does_not(tmp_path):
    double = {"credit": "constant", "weight": 2.0}
    uniform = norms(tmp_path / "uniform", {"credit": "uniform"}, whiten="before")
    after = norms(tmp_path / "after", double, whiten="after")
    before = norms(tmp_path / "before", double, whiten="before")
    assert uniform[0] > 0
    assert after == pytest.approx(uniform, rel=1e-4)
    assert before[0] == pytest.approx(2 * uniform[0], rel=1e-4)


def test_the_clamp_holds_the_step_down_and_attention_is_read_for_the_whole_batch_first(tmp_path):
    flow = {"credit": "flow"}
    free = norms(tmp_path / "free", flow, whiten="after")
    held = norms(tmp_path / "held", flow, whiten="after", advantage_clip=0.1, dual_clip=1.4)
    assert 0 < held[0] < 0.5 * free[0]
