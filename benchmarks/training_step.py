"""Whole training steps on the embedded decision experiment: stock TRL, ours with uniform credit, ours with flow.

stock TRL   trl.GRPOTrainer, which samples with transformers' generate
uniform     a run of this project: keyed rollouts, uniform credit, records written
flow        the same with flow's credit

Same policy, task, batch and options; one process, one thread, short runs in turns.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from datasets import Dataset
from report import Report, Row, Table, figure, spread
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar
from trl import GRPOTrainer

import tasks
from harness import experiment as experiments
from harness import run as runs
from harness.experiment import Experiment
from leaderboards import read_run

STOCK, UNIFORM, FLOW = "stock TRL", "uniform", "flow"
ARMS = (STOCK, UNIFORM, FLOW)
#: Steps of one short run, of which the first WARM_UP and the last, which also saves the policy, are not counted.
STEPS, WARM_UP = 25, 4
PHASES = ("rollout", "reward", "credit", "update")


class _Stock(GRPOTrainer):
    """TRL's trainer, untouched but for reading the clock."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.steps: list[Row] = []
        self.ended = time.perf_counter()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.began = time.perf_counter()
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts: list[Any]) -> Any:
        begin = time.perf_counter()
        output = super()._generate(prompts)
        self.step = {"rollout": time.perf_counter() - begin, "tokens": sum(map(len, output[1]))}
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            now = time.perf_counter()
            step = {**self.step, "reward": self.reward_funcs[0].seconds, "credit": 0.0}
            step["update"] = now - self.began - step["rollout"] - step["reward"]
            self.steps.append({**step, "step": now - self.ended})
            self.ended = now
        super().log(logs, start_time)


class _Rewards:
    """The task's verdicts as a reward function, and the seconds that the last call took."""

    __name__ = "verdict"

    def __init__(self, task: tasks.Task, problems: Sequence[tasks.Problem]) -> None:
        self.task, self.problems, self.seconds = task, {problem.id: problem for problem in problems}, 0.0

    def __call__(self, completions: list[str], problem_id: list[str], **_: Any) -> list[float | None]:
        begin = time.perf_counter()
        pairs = zip(completions, problem_id, strict=True)
        verdicts = self.task.verify_all([(self.problems[problem], text, None) for text, problem in pairs])
        self.seconds = time.perf_counter() - begin
        return [tasks.reward_of(verdict) for verdict in verdicts]


def stock(experiment: Experiment, seed: int, folder: Path) -> list[Row]:
    """The steps of stock TRL, with the settings that `harness.run.train` gives to ours."""
    settings, policy, task = experiment.training, runs.policy_of(experiment), runs.task_of(experiment.task)
    order = runs.data_order(task.problems("train"), settings.steps, settings.prompts_per_step, seed)
    rows = [{"prompt": policy.render(task.prompt(problem)), "problem_id": problem.id} for problem in order]
    trainer = _Stock(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=_Rewards(task, order),
        train_dataset=Dataset.from_list(rows),
        # A checkpoint is no part of a step: none is due before the end.
        args=runs.grpo_config(
            dataclasses.replace(settings, save_every=settings.steps + 1),
            experiment.policy.dtype,
            seed,
            folder,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.steps


def ours(experiment: Experiment, label: str, seed: int, folder: Path) -> list[Row]:
    """The steps of one of our arms: phases from the run's own record, whole steps from end to end."""
    ends: list[float] = []
    runs.train(experiment, label, seed, folder, report=lambda *_: ends.append(time.perf_counter()))
    recorded = read_run(folder).table("steps").to_pylist()
    return [
        {**{phase: row[f"seconds_{phase}"] for phase in PHASES}, "tokens": row["tokens"], "step": whole}
        for row, whole in zip(recorded, np.diff(ends), strict=True)
    ]


def run(settings: measure.Settings) -> Report:
    """Short runs of all arms in turns, `settings.repeats` of each."""
    torch.set_num_threads(1)
    disable_progress_bar()
    steps = WARM_UP + 4 if settings.smoke else STEPS
    experiment = experiments.load("decision")
    experiment = dataclasses.replace(
        experiment,
        methods={label: {"credit": label} for label in (UNIFORM, FLOW)},
        training=dataclasses.replace(experiment.training, steps=steps, save_every=steps),
        evaluation=dataclasses.replace(experiment.evaluation, every=steps),
    )
    counted: dict[str, list[Row]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(settings.repeats):
            turn = repeat % len(ARMS)
            for arm in ARMS[turn:] + ARMS[:turn]:
                measure.progress(f"step: {arm}, run {repeat + 1} of {settings.repeats}")
                place = Path(folder) / f"{arm}-{repeat}"
                if arm == STOCK:
                    found = stock(experiment, repeat, place)
                else:
                    found = ours(experiment, arm, repeat, place)
                counted[arm] += found[WARM_UP:-1]
    rows = [_row(arm, found) for arm, found in counted.items()]
    step = {row["arm"]: row["step"]["median"] for row in rows}
    share = rows[ARMS.index(FLOW)]["credit_share"]
    training = experiment.training
    text = [
        f"Policy decision, {training.rollouts} responses of at most {training.max_response_tokens} tokens a step, one "
        f"update, float32 on one thread. Seconds: median and quartiles of {len(counted[FLOW])} steps an arm, from "
        f"{settings.repeats} runs of {steps} steps each in turns, less the first {WARM_UP} and the last of each run. "
        "A step goes from the end of one to the end of the next; its rest is what lies outside the phases: data "
        "loading, TRL's bookkeeping and, for ours, the hash of the policy and the record.",
        f"Flow's credit takes {share['median']:.1%} of a step (quartiles {share['low']:.1%} to {share['high']:.1%}). "
        f"Against stock TRL a whole step takes {step[UNIFORM] / step[STOCK]:.2f} times as long with uniform and "
        f"{step[FLOW] / step[STOCK]:.2f} times with flow; flow against uniform: {step[FLOW] / step[UNIFORM]:.2f}.",
    ]
    return Report("step", "Seconds of a training step, by phase", text, [Table(COLUMNS, rows)])


def _row(arm: str, steps: list[Row]) -> Row:
    row: Row = {"arm": arm, "steps": len(steps)}
    for name in (*PHASES, "step"):
        row[name] = measure.quartiles([step[name] for step in steps])
    rest = [step["step"] - sum(step[phase] for phase in PHASES) for step in steps]
    rate = [step["tokens"] / step["step"] for step in steps]
    share = [step["credit"] / step["step"] for step in steps]
    for name, values in (("rest", rest), ("tokens_a_second", rate), ("credit_share", share)):
        row[name] = measure.quartiles(values)
    return row


COLUMNS = {
    "trainer": lambda row: row["arm"],
    **{phase: lambda row, phase=phase: figure(row[phase]["median"]) for phase in (*PHASES, "rest")},
    "step (quartiles)": lambda row: spread(row, "step"),
    "credit's share": lambda row: f"{row['credit_share']['median']:.1%}",
    "tokens a second": lambda row: figure(row["tokens_a_second"]["median"]),
}
