"""Rows and runs for the tests of the leaderboards: made up, complete, and small."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leaderboards import Comparison, compare, load
from leaderboards.format import TABLES, VERDICTS
from leaderboards.manifest import BITWISE, Manifest
from leaderboards.writer import RunWriter

EXPERIMENT: dict[str, Any] = {
    "name": "decision",
    "title": "Decision, aligned",
    "declaration": {
        "metric": "training_reward_area",
        "smallest_difference": 0.02,
        "alpha": 0.05,
        "estimand": "these problems, new training seeds",
        "stopping": "fixed: 8 seeds",
    },
    "policy": {"name": "embedded"},
    "task": {"name": "decision", "variant": "aligned"},
    "training": {"steps": 3, "prompts_per_step": 2, "samples_per_prompt": 2},
    "evaluation": {"every": 1},
    "methods": {"uniform": {"credit": "uniform"}, "flow": {"credit": "flow"}},
    "seeds": 8,
}


def manifest(method: str = "uniform", seed: int = 0, **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "experiment": EXPERIMENT,
        "experiment_hash": "0123456789abcdef",
        "method": method,
        "seed": seed,
        "versions": {"python": "3.11.0", "torch": "2.13.0"},
        "hardware": {"processor": "test"},
        "git_commit": "abc",
        "tier": BITWISE,
        **changes,
    }
    return Manifest(**values)


def new_writer(folder: Path, **changes: Any) -> RunWriter:
    return RunWriter(folder, manifest(**changes))


def rollout_rows(step: int, count: int = 4, **changes: Any) -> list[dict[str, Any]]:
    row = {
        "step": step,
        "problem_id": "decision/train/1",
        "key": "00ff",
        "prompt_ids": [1, 2, 3],
        "response_ids": [4, 5 + step],
        "text": "a#b",
        "finish_reason": "stop",
        "verdict": "wrong",
        "reward": 0.0,
        "advantage": -0.5,
        "weights": [1.0, 1.5],
        "sampler_logprobs": [-0.25, -0.5],
        "trainer_logprobs": [-0.25, -0.5],
        "abstained": None,
        "verdict_error": None,
        **changes,
    }
    return [{**row, "sample": index, "group": index // 2} for index in range(count)]


def step_row(step: int, **changes: Any) -> list[dict[str, Any]]:
    row: dict[str, Any] = dict.fromkeys(TABLES["steps"].names, 0.25)
    row |= dict.fromkeys(VERDICTS, 0)
    row |= {
        "step": step,
        "correct": 1,
        "wrong": 3,
        "abstained": 0,
        "tokens": 64,
        "turn": None,
        "parameters_hash": f"{step:x}",
    }
    return [{**row, **changes}]


def sample_rows(step: int, verdicts: Sequence[Sequence[str]], task: str = "decision") -> list[dict[str, Any]]:
    """One row a sample from `verdicts[problem][sample]`."""
    return [
        {
            "step": step,
            "task": task,
            "problem_id": f"{task}/test/{problem}",
            "sample": sample,
            "key": f"{problem}-{sample}",
            "text": "a#b",
            "response_tokens": 3,
            "finish_reason": "stop",
            "verdict": verdict,
            "reward": None if verdict == "error" else float(verdict == "correct"),
        }
        for problem, row in enumerate(verdicts)
        for sample, verdict in enumerate(row)
    ]


def write_run(
    root: Path,
    method: str,
    seed: int,
    rewards: Sequence[float],
    evaluations: dict[int, Sequence[Sequence[str]]] | None = None,
    finish: bool = True,
    turns: Sequence[float | None] = (),
    of_rollouts: Mapping[str, Any] | None = None,
    of_steps: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A run with these training rewards (steps 1, 2, ...), the verdicts of these evaluations, by step, and turns.

    of_rollouts, of_steps: values of columns of these tables.
    """
    folder = root / method / f"seed-{seed:04d}"
    writer = RunWriter(folder, manifest(method, seed, **changes))
    for step, reward in enumerate(rewards, start=1):
        writer.write("rollouts", step, rollout_rows(step, **of_rollouts or {}))
        turn = turns[step - 1] if turns else None
        writer.write("steps", step, step_row(step, reward=reward, turn=turn, **of_steps or {}))
    for step, verdicts in (evaluations or {}).items():
        writer.write("samples", step, sample_rows(step, verdicts))
    if finish:
        writer.finish({"seconds_total": 1.0})
    return folder


def experiment(methods: Sequence[str], **declaration: Any) -> dict[str, Any]:
    """The experiment above with these arms, and with this in its declaration."""
    changed = copy.deepcopy(EXPERIMENT)
    changed["methods"] = {label: {"credit": label.removesuffix("_again")} for label in methods}
    changed["declaration"] |= declaration
    return changed


def sweep(
    root: Path, arms: Mapping[str, Mapping[int, Sequence[float]]], declaration: Any = (), **changes: Any
) -> Comparison:
    """Runs whose training rewards are `arms[method][seed]`, compared."""
    changes.setdefault("experiment", experiment(list(arms), **dict(declaration)))
    for method, seeds in arms.items():
        for seed, rewards in seeds.items():
            write_run(root, method, seed, rewards, **changes)
    return compare(load(root))


#: Training rewards of a baseline by seed, and of an arm that differs from it by so much on each.
UNIFORM = {0: [0.10, 0.20], 1: [0.20, 0.30], 2: [0.15, 0.35]}


def shifted(*shifts: float) -> dict[int, list[float]]:
    """Rewards of an arm that differs from UNIFORM by these shifts, seed by seed."""
    return {seed: [value + shift for value in UNIFORM[seed]] for seed, shift in enumerate(shifts)}


#: Verdicts of two evaluations, by problem and sample.
EVALUATIONS = {
    0: [["wrong", "wrong"], ["wrong", "no_answer"]],
    5: [["correct", "wrong"], ["truncated", "wrong"]],
    10: [["correct", "correct"], ["error", "correct"]],
}
