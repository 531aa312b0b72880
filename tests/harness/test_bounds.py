"""Bounds of settings: a value with which no run could begin is one line before the first run, and not a traceback in a
worker, or after hours of training.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import experiment
from harness.errors import ExperimentError

OR_ALL = ", or evaluation.fewer = true, which takes them all"
SETS = 'evaluation.more=[{task={name="sums"}, problems=3%s}]'


def refused(*changes: str) -> str:
    """The error of the shipped experiment with these settings."""
    with pytest.raises(ExperimentError) as refusal:
        experiment.check(experiment.load("decision", changes=changes))
    assert "\n" not in str(refusal.value)
    return str(refusal.value).removeprefix("experiment decision-set: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.learning_rate=inf", "training.learning_rate is inf: give a finite number"),
        ("training.temperature=inf", "training.temperature is inf: give a finite number"),
        ("training.max_gradient_norm=nan", "training.max_gradient_norm is nan: give a finite number"),
        ("training.top_k=-1", "training.top_k must not be negative; 0 is all tokens"),
        ("training.top_p=0.0", "training.top_p must be above 0 and at most 1"),
        ("training.clip_range=-0.2", "training.clip_range must not be negative"),
        ("training.clip_range_high=-0.2", "training.clip_range_high must not be negative"),
        ("training.kl_coefficient=-1", "training.kl_coefficient must not be negative; 0 is none"),
        (
            "training.max_gradient_norm=-1",
            "training.max_gradient_norm must not be negative; 0 is no clipping",
        ),
        ("training.adam_beta2=1.0", "training.adam_beta2 must be at least 0 and below 1"),
        ("training.weight_decay=-1", "training.weight_decay must not be negative; 0 is none"),
        ("training.warmup_steps=-5", "training.warmup_steps must not be negative; 0 is none"),
        (
            "training.warmup_steps=5",
            "training.warmup_steps do nothing in schedule constant; take constant_with_warmup, or 0 steps",
        ),
        ("training.schedule=cosin", "training.schedule: no 'cosin'; did you mean 'cosine'?"),
        ("training.loss_type=dappo", "training.loss_type: no 'dappo'; did you mean 'dapo'?"),
        ("training.scale_rewards=x", "training.scale_rewards: no 'x'; known: group, batch, none"),
        (
            "methods.flow.training.top_k=-1",
            "methods.flow.training.top_k must not be negative; 0 is all tokens",
        ),
        ("evaluation.batch_size=0", "evaluation.batch_size must be at least 1"),
        ("evaluation.temperature=inf", "evaluation.temperature is inf: give a finite number"),
        (
            "policy.dtype=float8",
            "policy.dtype: no 'float8'; did you mean 'float32', 'float16' or 'bfloat16'?",
        ),
        ("policy.name=", "policy.name is empty"),
        (SETS % ", samples=0", "evaluation.more[0].samples must be at least 1"),
        (SETS % ", max_response_tokens=0", "evaluation.more[0].max_response_tokens must be at least 1"),
        (SETS.replace("3", "0") % "", "evaluation.more[0].problems must be at least 1"),
        (SETS.replace("name", "variant") % "", "evaluation.more[0].task.name is missing, or is no text"),
        ("task.name=5", "task.name must be the name of a task"),
    ],
)
def test_a_value_with_which_no_run_could_begin(change: str, message: str) -> None:
    assert refused(change) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("training.dual_clip=3.0", "training.loss_type=cispo"),
            "dual_clip does nothing with loss_type cispo",
        ),
        (
            ("engine=vllm", "training.loss_type=vespo"),
            "loss_type: vespo corrects for vllm in a way of its own",
        ),
    ],
)
def test_settings_that_do_not_go_together(changes: tuple[str, str], message: str) -> None:
    assert message in refused(*changes)
    for change in changes:
        experiment.check(experiment.load("decision", changes=[change]))


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".."])
def test_a_name_that_no_folder_can_have(name: str) -> None:
    table = {"base": "decision", "name": name, "title": "t"}
    with pytest.raises(ExperimentError, match="the name names a folder: leave out / and"):
        experiment.check(experiment.from_table(table, "x"))


def test_greedy_samples_beyond_the_first_are_duplicates() -> None:
    """They were refused by the evaluation, which follows the training."""
    message = "samples: 2 at evaluation.temperature 0 are duplicates: take 1"
    assert refused("evaluation.temperature=0", "evaluation.samples=2") == f"evaluation.{message}"
    of_set = SETS % ", samples=2"
    one = ("evaluation.temperature=0", "evaluation.samples=1")
    assert refused(*one, of_set) == f"evaluation.more[0].{message}"
    experiment.check(experiment.load("decision", changes=one))


def test_two_test_sets_of_one_task_would_be_one_in_the_records() -> None:
    """The declared metric is of the training task: problems of another variant would be counted in it."""
    chain = 'evaluation.more=[{task={name="decision", variant="chain"}, problems=3}]'
    assert refused(chain).startswith(
        "evaluation.more[0] and the training task's own are both test sets of decision: their samples could not"
    )
    twice = 'evaluation.more=[{task={name="sums"}, problems=3}, {task={name="sums"}, problems=4}]'
    assert refused(twice).startswith("evaluation.more[1] and evaluation.more[0] are both test sets of sums")
    experiment.check(experiment.load("decision", changes=[SETS % ""]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "evaluation.problems=321",
            f"evaluation.problems is 321, and decision has 320 test problems: give at most 320{OR_ALL}",
        ),
        (
            SETS.replace("3", "21") % "",
            f"evaluation.more[0].problems is 21, and sums has 20 test problems: give at most 20{OR_ALL}",
        ),
        (
            "training.prompts_per_step=961",
            "training.prompts_per_step is 961, and there are 960 training problems: give at most 960",
        ),
    ],
)
def test_more_problems_than_there_are(change: str, message: str) -> None:
    """They were cut down to what there is, and nobody was told."""
    assert refused(change) == message
    one_less = change.replace("321", "320").replace("21", "20").replace("961", "960")
    experiment.check(experiment.load("decision", changes=[one_less]))


def test_published_problems_are_counted_when_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWTRACER_DATA", str(tmp_path))
    rows = [{"question": f"What is {n} + {n}?", "answer": f"#### {2 * n}"} for n in range(3)]
    (tmp_path / "gsm8k_test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = experiment.load("decision", changes=[SETS.replace("sums", "gsm8k").replace("3", "4") % ""])
    experiment.check(asked)
    message = r"evaluation\.more\[0\]\.problems is 4, and gsm8k has 3 test problems: give at most 3, or "
    with pytest.raises(ExperimentError, match=message):
        asked.test_problems("evaluation.more[0]")


def test_fewer_problems_are_taken_where_the_file_says_so() -> None:
    """It changes no run, so it is in no hash: runs of before go on, and kept ones are still those of the file."""
    asked = ["evaluation.problems=321", "evaluation.fewer=true"]
    built = experiment.load("decision", changes=asked)
    experiment.check(built)
    assert len(built.test_problems("evaluation")) == 320
    assert built.resolved()["evaluation"] == {
        **experiment.load("decision").resolved()["evaluation"],
        "problems": 321,
    }


@pytest.mark.parametrize("key", ["smoke", "until_decided"])
def test_a_table_of_changes_that_is_none(key: str) -> None:
    with pytest.raises(ExperimentError, match=f"experiment x: {key} must be a table, not True"):
        experiment.from_table({"base": "decision", key: True}, "x", smoke=True)
