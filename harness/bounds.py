"""Bounds of an experiment's settings: values with which no run could begin, or none would be what was asked for.

They are looked at before the first run, and not where an experiment is read: records of scripts go by TRL's own rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.engines.base import DTYPES, VLLM
from harness.errors import ExperimentError
from leaderboards.names import hint

if TYPE_CHECKING:
    from harness.experiment import Evaluation, Experiment, Training

#: Values of `training.loss_type` that clip the ratio on both sides: only with these TRL reads `dual_clip`.
CLIPPED = ("grpo", "dr_grpo", "dapo", "bnpo")
#: All that TRL's GRPO takes without further options of its own.
LOSSES = (*CLIPPED, "cispo", "sapo", "vespo")
#: Of `training.scale_rewards`.
SCALES = ("group", "batch", "none")
#: Of `training.schedule`: the learning-rate schedules of transformers that need no further options.
SCHEDULES = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
)

Checks = Sequence[tuple[bool, str]]


def check(experiment: Experiment) -> None:
    """Raises ExperimentError that names the first key whose value no run could begin with."""
    name = experiment.name
    # Options of credit methods are their own: a method of a user's may take an infinity.
    _check_finite({key: value for key, value in asdict(experiment).items() if key != "methods"}, "", name)
    _check_all(
        [
            (_names_a_folder(name), "the name names a folder: leave out / and \\, and do not leave it empty"),
            (bool(experiment.policy.name.strip()), "policy.name is empty"),
            (
                experiment.policy.dtype in DTYPES,
                f"policy.dtype: no {experiment.policy.dtype!r}; {hint(experiment.policy.dtype, DTYPES)}",
            ),
        ],
        name,
        "",
    )
    _check_training(experiment.training, name, "training.")
    for label in experiment.methods:
        training, place = experiment.training_of(label), f"methods.{label}.training."
        _check_finite(asdict(training), place, name)
        _check_training(training, name, place)
        _check_loss(training, experiment.engine, name, place)
    _check_evaluation(experiment.evaluation, name)


def check_test_sets(experiment: Experiment, tested: bool) -> None:
    """Raises ExperimentError for two test sets of one task: records tell samples apart by the task's name only.

    tested: the training task's own test problems are one of the sets.
    """
    places = {experiment.task["name"]: "the training task's own"} if tested else {}
    for index, extra in enumerate(experiment.evaluation.more):
        place = f"evaluation.more[{index}]"
        other = places.setdefault(extra.task["name"], place)
        if other != place:
            raise ExperimentError(
                f"experiment {experiment.name}: {place} and {other} are both test sets of {extra.task['name']}: their "
                "samples could not be told apart; evaluate one of them in an experiment of its own"
            )


def check_prompts(prompts: int, there: int) -> None:
    """Raises ExperimentError for a step of more prompts than there are training problems: none comes twice."""
    if there < prompts:
        raise ExperimentError(
            f"training.prompts_per_step is {prompts}, and there are {there} training problems: give at most {there}"
        )


def _check_all(checks: Checks, name: str, place: str) -> None:
    for holds, message in checks:
        if not holds:
            raise ExperimentError(f"experiment {name}: {place}{message}")


def _names_a_folder(name: str) -> bool:
    """True if runs can lie in a folder of that name, and pages beside others in files that begin with it."""
    return bool(name.strip(" .")) and not re.search(r"[/\\\x00-\x1f]", name)


def _check_finite(table: Mapping[str, Any], place: str, name: str) -> None:
    """Raises ExperimentError for a number that is none: TOML writes inf and nan, and JSON cannot."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            _check_finite(value, f"{place}{key}.", name)
        elif isinstance(value, float) and not math.isfinite(value):
            raise ExperimentError(f"experiment {name}: {place}{key} is {value}: give a finite number")


def _check_training(training: Training, name: str, place: str) -> None:
    high = training.clip_range_high
    _check_all(
        [
            (training.top_k >= 0, "top_k must not be negative; 0 is all tokens"),
            (0 < training.top_p <= 1, "top_p must be above 0 and at most 1"),
            (training.clip_range >= 0, "clip_range must not be negative"),
            (high is None or high >= 0, "clip_range_high must not be negative"),
            (training.kl_coefficient >= 0, "kl_coefficient must not be negative; 0 is none"),
            (training.max_gradient_norm >= 0, "max_gradient_norm must not be negative; 0 is no clipping"),
            (0 <= training.adam_beta2 < 1, "adam_beta2 must be at least 0 and below 1"),
            (training.weight_decay >= 0, "weight_decay must not be negative; 0 is none"),
            (training.warmup_steps >= 0, "warmup_steps must not be negative; 0 is none"),
            (
                training.schedule != "constant" or training.warmup_steps <= 0,
                "warmup_steps do nothing in schedule constant; take constant_with_warmup, or 0 steps",
            ),
            *(
                (value in known, f"{key}: no {value!r}; {hint(value, known)}")
                for key, value, known in (
                    ("loss_type", training.loss_type, LOSSES),
                    ("scale_rewards", training.scale_rewards, SCALES),
                    ("schedule", training.schedule, SCHEDULES),
                )
            ),
        ],
        name,
        place,
    )


def _check_loss(training: Training, engine: str, name: str, place: str) -> None:
    """Raises ExperimentError for a loss that leaves out another setting, or that TRL refuses beside the engine."""
    loss = training.loss_type
    corrected = (
        engine == VLLM and not training.sampling.truncated
    )  # by a mask of sequences, see `runs.settings`
    _check_all(
        [
            (
                not training.dual_clip or loss in CLIPPED,
                f"dual_clip does nothing with loss_type {loss}: leave it out, or take one of {', '.join(CLIPPED)}",
            ),
            (
                loss != "vespo" or not corrected,
                f"loss_type: vespo corrects for {VLLM} in a way of its own, which is not ours: take another loss or "
                "engine",
            ),
        ],
        name,
        place,
    )


def _check_evaluation(evaluation: Evaluation, name: str) -> None:
    greedy = evaluation.temperature == 0
    sets = [("evaluation.", evaluation.samples)]
    for index, extra in enumerate(evaluation.more):
        place = f"evaluation.more[{index}]."
        sets.append((place, extra.samples))
        _check_all(
            [
                (isinstance(extra.task.get("name"), str), "task.name is missing, or is no text"),
                (extra.problems >= 1, "problems must be at least 1"),
                (extra.samples >= 1, "samples must be at least 1"),
                (
                    extra.max_response_tokens is None or extra.max_response_tokens >= 1,
                    "max_response_tokens must be at least 1",
                ),
            ],
            name,
            place,
        )
    _check_all([(evaluation.batch_size >= 1, "batch_size must be at least 1")], name, "evaluation.")
    for place, samples in sets:
        words = f"samples: {samples} at evaluation.temperature 0 are duplicates: take 1"
        _check_all([(not greedy or samples == 1, words)], name, place)
