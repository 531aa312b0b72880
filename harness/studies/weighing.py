"""Weights and gradients of a credit method on given rollouts, by the trainer itself, without moving the policy.

The weights are those of `flowtracer.weigh` on the same rows; the gradient needs the trainer, whose loss it is of.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PrinterCallback, TrainerCallback

import tasks
from flowtracer import CreditError, CreditGRPOTrainer
from flowtracer.contexts import ContextBuilder
from flowtracer.credit import CreditMethod
from flowtracer.teaching import check_context, gold_text
from harness import seeds
from harness.engines.base import FLOAT32
from harness.engines.keyed import Keyed
from harness.errors import ExperimentError
from harness.experiment import Training
from harness.policy import Policy
from harness.runs.further import Prefix, go_on, prefixes_of
from harness.runs.recorder import Rewards
from harness.runs.settings import grpo_config
from harness.studies.rollouts import Batches

#: Gradients of more parameters than this are kept as a random projection to so many numbers, which keeps inner
#: products up to 1 / sqrt(SKETCH) = 0.0007 of the lengths.
SKETCH = 2**21


@dataclass
class Pass:
    """The trainer's work on rollout batches under one credit method.

    weights: one array a response, batch by batch. abstained: (batch, row) of responses that the method could not
    judge. gradients: (batches, parameters) float32, or a projection of it; None once it is used up. gap: mean absolute
    difference of log-probabilities from those recorded, 0 up to rounding where this policy wrote the rollouts.
    seconds: of each batch's update, from the given rollouts to the gradient; on a CPU those that the process computed.
    """

    weights: list[list[NDArray[np.float32]]] = field(default_factory=list)
    advantages: list[list[float]] = field(default_factory=list)
    abstained: set[tuple[int, int]] = field(default_factory=set)
    gradients: NDArray[np.float32] | None = None
    gap: float = math.nan
    seconds: list[float] = field(default_factory=list)


class _Collector(TrainerCallback):
    """Takes the gradient where the optimizer would, before it is cleared, and the weights that made it."""

    def __init__(self, batches: Batches, signs: torch.Tensor | None) -> None:
        self.batches, self.signs = batches, signs
        self.result = Pass()
        self.gradients: list[NDArray[np.float32]] = []
        self.gaps: list[float] = []
        self.begin = 0.0
        self.trainer: CreditGRPOTrainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begin = _clock()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # or the host's clock would run ahead of the backward
        self.result.seconds.append(_clock() - self.begin)
        batch, step = self.trainer.rollouts, state.global_step
        assert batch is not None
        lengths = [len(ids) for ids in batch.response_ids]
        self.result.weights.append(
            [weights[:length].cpu().numpy() for weights, length in zip(batch.weights, lengths, strict=True)]
        )
        self.result.advantages.append(batch.advantages.tolist())
        self.result.abstained |= {(step, row) for row in batch.abstentions}
        logprobs = batch.trainer_logprobs.cpu().numpy()
        for row, now, length in zip(self.batches[step], logprobs, lengths, strict=True):
            self.gaps += np.abs(now[:length] - row["sampler_logprobs"]).tolist()
        self.gradients.append(flat_gradient(self.trainer.model, self.signs))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = False

    def collected(self) -> Pass:
        self.result.gap = float(np.mean(self.gaps)) if self.gaps else math.nan
        self.result.gradients = np.stack(self.gradients)
        return self.result


class _Continuing(CreditGRPOTrainer):
    """The trainer, which can sample further responses of the given rollouts, as a run of seed 0 would."""

    further: Callable[[list[Prefix], int, int], list[list[float | None]]]

    def continued(self, prefixes: list[tuple[int, int]], count: int) -> list[list[float | None]]:
        batch = self.rollouts
        assert batch is not None
        named = prefixes_of(batch, prefixes)
        with self.accelerator.autocast():
            return self.further(named, count, self.state.global_step)


def _further(policy: Policy, task: tasks.Task, settings: Training) -> Any:
    engine, rewards = Keyed(policy, settings.rollouts), Rewards(task, task.problems("train"), settings)

    def further(prefixes: list[Prefix], count: int, step: int) -> list[list[float | None]]:
        return go_on(prefixes, count, engine, policy.tokenizer, rewards, settings, 0, step)[0]

    return further


def gradients(
    policy: Policy,
    task: tasks.Task,
    settings: Training,
    batches: Batches,
    method: CreditMethod,
    dtype: str = FLOAT32,
) -> Pass:
    """The gradient that `method` gives on each of `batches`, and its weights; the policy does not move.

    settings: the training whose loss is taken; its learning rate, steps, and clipping of the gradient's length play no
    part, and each batch feeds one update. Raises ExperimentError for adapters.
    """
    if settings.lora_rank:
        raise ExperimentError("replay takes the gradient of every parameter; set training.lora_rank to 0")
    settings = replace(settings, steps=len(batches), updates_per_batch=1, max_gradient_norm=0.0)
    collector = _Collector(batches, random_signs(policy.model))
    golds = _golds(task) if "teacher_logprobs" in method.needs else {}

    def given(prompts: list[str], trainer: CreditGRPOTrainer) -> dict[str, Any]:
        rows = batches[trainer.state.global_step]
        return {
            "prompt_ids": [list(row["prompt_ids"]) for row in rows],
            "completion_ids": [list(row["response_ids"]) for row in rows],
            "logprobs": [list(row["sampler_logprobs"]) for row in rows],
            "recorded": [row["reward"] for row in rows],
        }

    with tempfile.TemporaryDirectory() as folder:
        trainer = _Continuing(
            model=policy.model,
            processing_class=policy.tokenizer,
            rollout_func=given,
            reward_funcs=_recorded_reward,
            credit=method,
            task=task,
            args=grpo_config(settings, dtype, 0, Path(folder)),
            train_dataset=Dataset.from_list(_asked(batches, settings.samples_per_prompt, golds)),
            callbacks=[collector],
            # Plain descent at rate 0 has no state and moves nothing.
            optimizers=(torch.optim.SGD(policy.model.parameters(), lr=0.0), None),
        )
        if "values" in method.needs:
            trainer.further = _further(policy, task, settings)
        collector.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        finally:
            policy.model.zero_grad(set_to_none=True)
            policy.model.eval()
    return collector.collected()


def _clock() -> float:
    """The time, on a CPU the process's own: other work on the machine is no cost of a method."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def _asked(batches: Batches, samples: int, golds: Mapping[str, str]) -> list[Mapping[str, str]]:
    """A row of the data set for each group, in the order in which the trainer asks; prompts are given later.

    golds: by the problem's id, where a teacher reads them.
    """
    asked = [row for rows in batches for row in rows[::samples]]
    more = [{"gold": golds[row["problem_id"]]} if golds else {} for row in asked]
    return [
        {"prompt": "", "question": row["question"], "problem_id": row["problem_id"], **gold}
        for row, gold in zip(asked, more, strict=True)
    ]


def teacher_trouble(
    policy: Policy, task: tasks.Task, settings: Training, batches: Batches, method: CreditMethod
) -> str | None:
    """Why the teacher of a method cannot read for these rollouts; None where it can, and for a method without one."""
    if "teacher_logprobs" not in method.needs:
        return None
    rows = list({row["problem_id"]: row for rows in batches for row in rows}.values())
    try:
        golds = _golds(task)
        if lost := sorted({row["problem_id"] for row in rows} - set(golds)):
            return f"the gold of {lost[0]} is not known: it is no training problem of task {task.name}"
        prompts = ContextBuilder(method, task, policy.tokenizer).teacher_prompts(
            [list(row["prompt_ids"]) for row in rows],
            [row["question"] for row in rows],
            [gold_text(task, row["question"], golds[row["problem_id"]]) for row in rows],
        )
        check_context(policy.model, prompts, settings.max_response_tokens)
    except (CreditError, tasks.TaskError) as error:
        return str(error)
    return None


def values_trouble(task: tasks.Task, batches: Batches, method: CreditMethod) -> str | None:
    """Why further responses of these rollouts cannot be judged; None where they can, and for a method without any."""
    if "values" not in method.needs:
        return None
    lost = {row["problem_id"] for rows in batches for row in rows}
    lost -= {problem.id for problem in task.problems("train")}
    return (
        f"{min(lost)} is no training problem of task {task.name}: further responses have no gold"
        if lost
        else None
    )


def _golds(task: tasks.Task) -> dict[str, str]:
    """The gold of every training problem by its id, as `tasks.dataset` writes it."""
    return {problem.id: json.dumps(problem.gold, ensure_ascii=False) for problem in task.problems("train")}


def _recorded_reward(completions: list[str], recorded: list[float | None], **_: Any) -> list[float | None]:
    return recorded


def random_signs(model: torch.nn.Module) -> torch.Tensor | None:
    """One random sign a parameter, the same for every method, where gradients are projected."""
    total = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if total <= SKETCH:
        return None
    generator = torch.Generator().manual_seed(seeds.integer(seeds.key("projection")))
    return torch.randint(0, 2, (total,), dtype=torch.int8, generator=generator).mul_(2).sub_(1)


def flat_gradient(model: torch.nn.Module, signs: torch.Tensor | None) -> NDArray[np.float32]:
    """All gradients of a model as one vector; with `signs`, projected to SKETCH numbers.

    The projection adds up every SKETCH-th entry under random signs: inner products keep their expectation (the count
    sketch of Charikar, Chen, Farach-Colton 2002, with a fixed bucket for each entry).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # One parameter at a time: put together on a GPU, the vector would take as much of its memory as the policy.
    vector = torch.zeros(sum(parameter.numel() for parameter in parameters))
    for part, parameter in zip(
        vector.split([parameter.numel() for parameter in parameters]), parameters, strict=True
    ):
        if parameter.grad is not None:
            part.copy_(parameter.grad.detach().flatten())
    if signs is None:
        return vector.numpy()
    vector *= signs
    whole = len(vector) // SKETCH * SKETCH
    folded = vector[:whole].view(-1, SKETCH).sum(0)
    folded[: len(vector) - whole] += vector[whole:]
    return folded.numpy()
