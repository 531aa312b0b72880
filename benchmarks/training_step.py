"""Whole training steps of the embedded decision experiment on both engines: stock TRL, ours with uniform and flow.

stock TRL   trl.GRPOTrainer, which samples with transformers' generate, or with vLLM as TRL runs it
uniform     a run of this project: keyed rollouts, uniform credit, records written
flow        the same with flow's credit

Same policy, task, batch and options; one thread, short runs in turns, a process for each engine. The rows of vLLM need
it installed: python benchmarks/run.py step in the environment of `nox -s tests_vllm`.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np
import step_parts
import torch
from datasets import Dataset
from report import Report, Row, Table, figure, spread
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar
from trl import GRPOTrainer

import tasks
from harness import experiment as experiments
from harness import provenance
from harness.engines.base import TRANSFORMERS, VLLM, reason
from harness.experiment import Experiment, task_of
from harness.runs import run as runs
from harness.runs.settings import data_order, grpo_config
from leaderboards import read_run

STOCK, UNIFORM, FLOW = "stock TRL", "uniform", "flow"
ARMS = (STOCK, UNIFORM, FLOW)
ENGINES = (TRANSFORMERS, VLLM)
#: Steps of one short run, of which the first WARM_UP and the last, which also saves the policy, are not counted.
STEPS, WARM_UP = 25, 4
PHASES = ("rollout", "reward", "credit", "update")


class _Stock(GRPOTrainer):
    """TRL's trainer, untouched but for reading the clock."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.steps: list[Row] = []
        self.ended, self.worked = time.perf_counter(), time.process_time()

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
            now, worked = time.perf_counter(), time.process_time()
            step = {**self.step, "reward": self.reward_funcs[0].seconds, "credit": 0.0}
            step["update"] = now - self.began - step["rollout"] - step["reward"]
            self.steps.append({**step, "step": now - self.ended, "processor": worked - self.worked})
            self.ended, self.worked = now, worked
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
    """The steps of stock TRL, with the settings that `harness.runs.run.train` gives to ours."""
    settings, policy, task = experiment.training, runs.policy_of(experiment), task_of(experiment.task)
    order = data_order(task.problems("train"), settings.steps, settings.prompts_per_step, seed)
    rows = [{"prompt": policy.render(task.prompt(problem)), "problem_id": problem.id} for problem in order]
    # A checkpoint is no part of a step: none is due before the end.
    arguments = grpo_config(
        dataclasses.replace(settings, save_every=settings.steps + 1), experiment.policy.dtype, seed, folder
    )
    if experiment.engine == VLLM:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        arguments.use_vllm, arguments.vllm_mode = True, "colocate"
        arguments.vllm_max_model_length = policy.model.config.max_position_embeddings
    trainer = _Stock(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=_Rewards(task, order),
        train_dataset=Dataset.from_list(rows),
        args=arguments,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.steps


def ours(experiment: Experiment, label: str, seed: int, folder: Path) -> list[Row]:
    """The steps of one of our arms: phases from the run's own record, whole steps from end to end."""
    ends: list[tuple[float, float]] = []

    def report(*_: object) -> None:
        ends.append((time.perf_counter(), time.process_time()))

    runs.train(experiment, label, seed, folder, report=report)
    recorded = read_run(folder).table("steps").to_pylist()
    return [
        {
            **{phase: row[f"seconds_{phase}"] for phase in PHASES},
            "tokens": row["tokens"],
            "step": whole,
            "processor": worked,
        }
        for row, (whole, worked) in zip(recorded, np.diff(ends, axis=0).tolist(), strict=True)
    ]


def short(name: str, steps: int) -> Experiment:
    """The experiment of that name with the two arms of ours, `steps` steps and no evaluation on the way."""
    experiment = experiments.load(name)
    return dataclasses.replace(
        experiment,
        methods={label: {"credit": label} for label in (UNIFORM, FLOW)},
        training=dataclasses.replace(experiment.training, steps=steps, save_every=steps),
        evaluation=dataclasses.replace(experiment.evaluation, every=steps),
    )


def measured(
    experiment: Experiment,
    arms: Sequence[str],
    repeats: int,
    record: Callable[[dict[str, Row]], None] | None = None,
) -> dict[str, Row]:
    """Steps and peak memory of some arms, in turns, in this process. record: called with what is there, after each."""
    torch.set_num_threads(1)
    disable_progress_bar()
    found: dict[str, Row] = {arm: {"steps": [], "megabytes": []} for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            turn = repeat % len(arms)
            for arm in [*arms[turn:], *arms[:turn]]:
                measure.progress(f"step: {arm} on {experiment.engine}, run {repeat + 1} of {repeats}")
                place = Path(folder) / f"{arm}-{repeat}"
                measure.restart_peak()
                if arm == STOCK:
                    steps = stock(experiment, repeat, place)
                else:
                    steps = ours(experiment, arm, repeat, place)
                found[arm]["steps"] += steps[WARM_UP:-1]
                found[arm]["megabytes"].append(measure.peak())
                if record is not None:
                    record({arm: row for arm, row in found.items() if row["megabytes"]})
    return found


def parts(experiment: Experiment) -> list[Row]:
    """What a step of ours does beyond stock TRL's, in this process."""
    torch.set_num_threads(1)
    disable_progress_bar()
    measure.progress(f"step: parts of {UNIFORM} on {experiment.engine}")
    with tempfile.TemporaryDirectory() as folder:
        return step_parts.measured(experiment, UNIFORM, 0, Path(folder) / UNIFORM, WARM_UP)


def run(settings: measure.Settings) -> Report:
    """Short runs of all arms on each engine, `settings.repeats` of each."""
    steps = WARM_UP + 4 if settings.smoke else STEPS
    experiment = short("decision", steps)
    rows = []
    for engine in ENGINES:
        on_it = dataclasses.replace(experiment, engine=engine)
        # TRL's own vLLM and ours do not fit into one process.
        together = [ARMS] if engine == TRANSFORMERS else [ARMS[:1], ARMS[1:]]
        for arms in together:
            if engine == VLLM and provenance.vllm_version() is None:
                rows += [{"engine": engine, "arm": arm, "note": "vLLM not installed"} for arm in arms]
                continue
            try:
                found = measure.fresh(measured, on_it, arms, settings.repeats)
            except Exception as error:
                if arms != ARMS[:1]:  # ours has to work
                    raise
                note = f"does not run here: {reason(error)}"
                rows += [{"engine": engine, "arm": STOCK, "note": note}]
            else:
                rows += [row(engine, arm, found[arm]) for arm in arms]
    training = experiment.training
    text = [
        f"Policy decision, {training.rollouts} responses of at most {training.max_response_tokens} tokens a step, one "
        f"update, float32 on one thread. Seconds: median and quartiles of {(steps - WARM_UP - 1) * settings.repeats} "
        f"steps an arm, from {settings.repeats} runs of {steps} steps each in turns, less the first {WARM_UP} and the "
        "last of each run. A step goes from the end of one to the end of the next; its rest is what lies outside the "
        "phases: data loading, TRL's bookkeeping and, for ours, the hash of the policy and the record. Processor: "
        "seconds that the process itself worked, which other work on the machine lengthens less. Memory: the most that "
        "the whole process held during a run.",
        *(line for engine in ENGINES if (line := _compared(engine, rows))),
        "The second table: what a step of uniform does on transformers that stock TRL's does not, in milliseconds of "
        "the processor by the thread that does it; the background works beside the next backward. Against it stands "
        "what only stock TRL does: encoding prompts anew, softmax and multinomial for each token.",
    ]
    more = Table(step_parts.COLUMNS, measure.fresh(parts, experiment))
    return Report("step", "Seconds of a training step, by phase", text, [Table(COLUMNS, rows), more])


def _compared(engine: str, rows: list[Row]) -> str:
    """The cost of a step against others on one engine; "" where nothing was measured."""
    step = {
        row["arm"]: {name: row[name]["median"] for name in ("step", "processor", "credit_share", "reward")}
        for row in rows
        if row["engine"] == engine and "step" in row
    }
    if FLOW not in step:
        return ""

    def ratio(one: str, other: str) -> str:
        return " and ".join(f"{step[one][kind] / step[other][kind]:.3f}" for kind in ("step", "processor"))

    line = (
        f"On {engine}, flow's credit takes {step[FLOW]['credit_share']:.1%} of a step, the verdicts "
        f"{step[FLOW]['reward'] / step[FLOW]['step']:.1%}. Ratios of seconds and of processor seconds: flow against "
        f"uniform {ratio(FLOW, UNIFORM)}"
    )
    if STOCK in step:
        line += f", uniform against stock TRL {ratio(UNIFORM, STOCK)}, flow against it {ratio(FLOW, STOCK)}"
    return f"{line}."


def row(engine: str, arm: str, found: Row) -> Row:
    """The row of one arm: medians and quartiles of its steps, and the most memory of its runs."""
    steps = found["steps"]
    result: Row = {"engine": engine, "arm": arm, "steps": len(steps), "megabytes": max(found["megabytes"])}
    for name in (*PHASES, "step", "processor"):
        result[name] = measure.quartiles([step[name] for step in steps])
    rest = [step["step"] - sum(step[phase] for phase in PHASES) for step in steps]
    rate = [step["tokens"] / step["step"] for step in steps]
    share = [step["credit"] / step["step"] for step in steps]
    for name, values in (("rest", rest), ("tokens_a_second", rate), ("credit_share", share)):
        result[name] = measure.quartiles(values)
    return result


def _median(row: Row, name: str) -> str:
    return figure(row[name]["median"] if name in row else None)


COLUMNS = {
    "engine": lambda row: row["engine"],
    "trainer": lambda row: row["arm"],
    **{phase: lambda row, phase=phase: _median(row, phase) for phase in (*PHASES, "rest")},
    "step (quartiles)": lambda row: row.get("note") or spread(row, "step"),
    "processor (quartiles)": lambda row: spread(row, "processor"),
    "credit's share": lambda row: f"{row['credit_share']['median']:.1%}" if "credit_share" in row else "–",
    "tokens a second": lambda row: _median(row, "tokens_a_second"),
    "peak MB": lambda row: figure(row.get("megabytes")),
}
