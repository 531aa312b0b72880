"""Rollouts that credit methods are compared on: sampled as a run would, or recorded by one; and their token values.

Monte Carlo token values follow VinePPO (Kazemnejad et al. 2024, arXiv 2410.01679, section 4): the value of a prefix
is the mean verdict of K continuations by the policy, each with a key of its own; the value of a whole response is its
reward; what a token changes is the value after it minus the value before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import tasks
from harness import experiment as experiments
from harness import seeds
from harness.engines.base import BFLOAT16, Sample, decoded
from harness.engines.keyed import sample
from harness.errors import ExperimentError
from harness.experiment import Experiment, Training, task_of
from harness.policy import Policy
from harness.runs.recorder import Rewards
from harness.runs.settings import data_order
from leaderboards import load

Row = Mapping[str, Any]
Batches = Sequence[Sequence[Row]]
Floats = NDArray[np.float64]

#: Called with the number of parts that are done, and of all.
Progress = Callable[[int, int], None]


def fresh(experiment: Experiment, policy: Policy, batches: int, seed: int) -> list[list[dict[str, Any]]]:
    """The rollouts of steps 0 to `batches` - 1 of training seed `seed`, as if no step moved the policy.

    One list a batch; rows as in the record's table of rollouts, and the question. Step 0 is, token for token, what
    every arm of that seed begins with where rollouts come from the transformers engine.
    """
    settings = experiment.training
    task = task_of(experiment.task)
    order = data_order(task.problems("train"), batches, settings.prompts_per_step, seed)
    rewards = Rewards(task, order, settings)
    result = []
    for step in range(batches):
        asked = order[step * settings.prompts_per_step : (step + 1) * settings.prompts_per_step]
        rows: list[dict[str, Any]] = [
            {
                "problem_id": problem.id,
                "question": problem.question,
                "sample": number,
                "group": group,
                "key": seeds.key("rollout", seed, step, problem.id, number),
                "prompt_ids": policy.encode(task.prompt(problem)),
            }
            for group, problem in enumerate(asked)
            for number in range(settings.samples_per_prompt)
        ]
        with as_in_training(experiment, policy):
            samples = _sample(
                policy, settings, [row["prompt_ids"] for row in rows], [row["key"] for row in rows]
            )
        for row, response in zip(rows, samples, strict=True):
            row |= {
                "response_ids": response.ids,
                "text": response.text,
                "finish_reason": response.finish_reason,
            }
            row["sampler_logprobs"] = response.logprobs
        columns = {
            name: [row[name] for row in rows] for name in ("text", "problem_id", "finish_reason", "key")
        }
        earned = rewards(columns.pop("text"), **columns)
        for row, reward, verdict in zip(rows, earned, rewards.verdicts, strict=True):
            row |= {"reward": reward, "verdict": str(verdict)}
        result.append(rows)
    return result


def stored(
    folder: Path, batches: int, experiment: Experiment | None = None
) -> tuple[Experiment, list[list[dict[str, Any]]]]:
    """The experiment of the recorded runs in `folder`, and its earliest rollouts, at most `batches` batches.

    experiment: stands for the recorded one, where that is a script's and says less.

    Step 0 of every seed, then step 1, and so on: the fewer updates lie before them, the closer they are to the
    initial policy, which gradients are taken at. All arms share a seed's step 0; later steps are those of the seed's
    first arm by name. Raises ExperimentError for runs of several experiments and for runs without rollouts.
    """
    runs = load(folder)
    if len({run.manifest.experiment_hash for run in runs}) > 1:
        raise ExperimentError(f"{folder} holds runs of several experiments: give the folder of one")
    table = runs[0].manifest.experiment
    experiment = experiment or experiments.from_table(
        {key: value for key, value in table.items() if key != "name"}, table["name"]
    )
    questions = questions_of(experiment)
    first = {run.seed: run for run in reversed(runs)}
    earliest: list[list[dict[str, Any]]] = []
    for step in range(experiment.training.steps):
        for seed in sorted(first):
            if len(earliest) == batches:
                return experiment, earliest
            if rows := first[seed].table("rollouts", step=step).to_pylist():
                earliest.append([_asked(row, questions, seed) for row in rows])
    if not earliest:
        raise ExperimentError(f"{folder}: its runs hold no rollouts yet; train at least one step")
    return experiment, earliest


def questions_of(experiment: Experiment) -> dict[str, str]:
    """The question of each training problem by its id; none where the task has no training problems."""
    task = task_of(experiment.task)
    if "train" not in task.splits:
        return {}
    return {problem.id: problem.question for problem in task.problems("train")}


def _asked(row: Row, questions: Mapping[str, str], seed: int) -> dict[str, Any]:
    """A recorded rollout with its question, and with a key where a script recorded none."""
    key = row["key"] or f"{seed}/{row['step']}/{row['group']}/{row['sample']}"
    return {**row, "question": questions.get(row["problem_id"], ""), "key": key}


def as_in_training(experiment: Experiment, policy: Policy) -> AbstractContextManager[Any]:
    """The precision that TRL computes in: float32 weights, which bfloat16 is cast from."""
    if experiment.policy.dtype != BFLOAT16:
        return nullcontext()
    return torch.autocast(policy.model.device.type, torch.bfloat16)


def _sample(
    policy: Policy, settings: Training, prompts: Sequence[Sequence[int]], keys: Sequence[str], spent: int = 0
) -> list[Sample]:
    return sample(
        policy.model,
        policy.tokenizer,
        prompts,
        keys,
        replace(settings.sampling, max_new_tokens=settings.max_response_tokens - spent),
    )


def token_values(
    policy: Policy,
    task: tasks.Task,
    settings: Training,
    rows: Sequence[Row],
    continuations: int,
    batch_size: int = 256,
    progress: Progress = lambda done, total: None,
) -> list[Floats]:
    """The verdicts of continuations of every prefix of responses: one (n + 1, K) array for a response of n tokens.

    Entry [t, k]: the reward of continuation k of the first t tokens, NaN where it could not be judged; the whole
    response has its own reward throughout. Sampled as in training, with at most the tokens that the response had left.
    """
    problems = {problem.id: problem for problem in task.problems("train")}
    values = [np.full((len(row["response_ids"]) + 1, continuations), math.nan) for row in rows]
    for of_row, row in zip(values, rows, strict=True):
        of_row[-1] = math.nan if row["reward"] is None else row["reward"]
    longest = max((len(row["response_ids"]) for row in rows), default=0)
    asked = sum(len(row["response_ids"]) for row in rows) * continuations
    done = 0
    for spent in range(longest):  # prefixes of one length together: they have the same tokens left
        wanted = [
            (index, number)
            for index, row in enumerate(rows)
            if len(row["response_ids"]) > spent
            for number in range(continuations)
        ]
        for start in range(0, len(wanted), batch_size):
            part = wanted[start : start + batch_size]
            rewards = continued(
                lambda prompts, keys, tokens: _sample(
                    policy, settings, prompts, keys, spent=settings.max_response_tokens - tokens
                ),
                policy.tokenizer,
                task,
                problems,
                [(rows[index], spent, number) for index, number in part],
                settings.max_response_tokens,
            )
            for (index, number), reward in zip(part, rewards, strict=True):
                values[index][spent, number] = reward
            done += len(part)
            progress(done, asked)
    return values


#: Draws a response to each prompt with the noise that its key names, of at most so many tokens.
Draw = Callable[[Sequence[Sequence[int]], Sequence[str], int], list[Sample]]


def continued(
    draw: Draw,
    tokenizer: Any,
    task: tasks.Task,
    problems: Mapping[str, tasks.Problem],
    places: Sequence[tuple[Row, int, int]],
    longest: int,
) -> list[float]:
    """The rewards of continuations of responses, NaN where one could not be judged.

    problems: by their ids. places: a response, how many of its tokens the continuation begins with, and the number of
    the continuation, which names its noise. longest: tokens of a whole response. All are drawn at once: what goes on
    for longer than its response had tokens left is cut off there, as if it had been drawn with that limit.
    """
    if not places:
        return []
    prompts = [[*row["prompt_ids"], *row["response_ids"][:spent]] for row, spent, _ in places]
    keys = [seeds.key("continuation", row["key"], spent, number) for row, spent, number in places]
    samples = draw(prompts, keys, longest - min(spent for _, spent, _ in places))
    items = []
    for (row, spent, _), response in zip(places, samples, strict=True):
        ids = response.ids[: longest - spent]
        text = decoded(tokenizer, [*row["response_ids"][:spent], *ids])
        reason = response.finish_reason if len(ids) == len(response.ids) else "length"
        items.append((problems[row["problem_id"]], text, reason))
    rewards = [tasks.reward_of(verdict) for verdict in task.verify_all(items)]
    return [math.nan if reward is None else reward for reward in rewards]


def value_changes(values: Floats) -> Floats:
    """The change of the prefix's value by each of n tokens: (n + 1, K) verdicts -> (n,)."""
    return np.diff(np.nanmean(values, axis=1))
