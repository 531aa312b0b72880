"""Weights and gradients of credit methods on given rollouts, by the trainer itself, without moving the policy."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PrinterCallback, TrainerCallback

import tasks
from flowtracer import CreditGRPOTrainer
from flowtracer.credit import CreditMethod
from harness import seeds
from harness.engines.base import FLOAT32
from harness.errors import ExperimentError
from harness.experiment import Training
from harness.policy import Policy
from harness.runs.settings import grpo_config
from harness.studies.rollouts import Batches

#: Gradients of more parameters than this are kept as a random projection to so many numbers, which keeps inner
#: products up to 1 / sqrt(SKETCH) = 0.0007 of the lengths.
SKETCH = 2**21


@dataclass
class Pass:
    """What the trainer made of rollout batches under one credit method.

    weights: one array a response, batch by batch. abstained: (batch, row) of responses without a weight of their own.
    gradients: (batches, parameters) float32, or a projection of it; None where not asked for. gap: mean absolute
    difference of log-probabilities from those recorded, 0 up to rounding where this policy wrote the rollouts.
    """

    weights: list[list[NDArray[np.float32]]] = field(default_factory=list)
    advantages: list[list[float]] = field(default_factory=list)
    abstained: set[tuple[int, int]] = field(default_factory=set)
    gradients: NDArray[np.float32] | None = None
    gap: float = math.nan


class _Trainer(CreditGRPOTrainer):
    """The trainer over given rollouts: generates nothing, moves nothing."""

    def __init__(self, batches: Batches, gradients: bool, **keywords: Any) -> None:
        self.batches, self.gradients = batches, gradients
        super().__init__(rollout_func=_given, reward_funcs=_recorded_reward, **keywords)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        rows = self.batches[self.state.global_step]
        return super()._generate_and_score_completions(
            [{**given, "question": row["question"]} for given, row in zip(inputs, rows, strict=True)]
        )

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        if self.gradients:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        self._step += 1
        return loss


def _given(prompts: list[str], trainer: _Trainer) -> dict[str, Any]:
    rows = trainer.batches[trainer.state.global_step]
    return {
        "prompt_ids": [list(row["prompt_ids"]) for row in rows],
        "completion_ids": [list(row["response_ids"]) for row in rows],
        "logprobs": [list(row["sampler_logprobs"]) for row in rows],
        "recorded": [row["reward"] for row in rows],
    }


def _recorded_reward(completions: list[str], recorded: list[float | None], **_: Any) -> list[float | None]:
    return recorded


class _Keeper(TrainerCallback):
    """Takes the gradient where the optimizer would, before it is cleared, and the weights that made it."""

    def __init__(self, kept: Pass, signs: torch.Tensor | None) -> None:
        self.kept, self.signs = kept, signs
        self.gradients: list[NDArray[np.float32]] = []
        self.gaps: list[float] = []
        self.trainer: _Trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        batch = self.trainer.rollouts
        assert batch is not None
        rows = self.trainer.batches[state.global_step]
        lengths = [len(ids) for ids in batch.response_ids]
        self.kept.weights.append(
            [weights[:length].cpu().numpy() for weights, length in zip(batch.weights, lengths, strict=True)]
        )
        self.kept.advantages.append(batch.advantages.tolist())
        self.kept.abstained |= {(state.global_step, row) for row in batch.abstentions}
        for row, now, length in zip(rows, batch.trainer_logprobs.cpu().numpy(), lengths, strict=True):
            self.gaps += np.abs(now[:length] - row["sampler_logprobs"]).tolist()
        if self.trainer.gradients:
            self.gradients.append(flat_gradient(self.trainer.model, self.signs))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = False


def weigh(
    policy: Policy,
    task: tasks.Task,
    settings: Training,
    batches: Batches,
    method: CreditMethod,
    gradients: bool = True,
    dtype: str = FLOAT32,
) -> Pass:
    """Runs the trainer over `batches` under `method` without moving the policy.

    settings: the training whose loss is taken; its learning rate, steps, and clipping of the gradient's length play no
    part, and each batch feeds one update. gradients: without, only the forward passes run, for the weights.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if settings.lora_rank:
        raise ExperimentError("replay takes the gradient of every parameter; set training.lora_rank to 0")
    settings = replace(settings, steps=len(batches), updates_per_batch=1, max_gradient_norm=0.0)
    kept = Pass()
    keeper = _Keeper(kept, random_signs(policy.model))
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Trainer(
            batches,
            gradients,
            model=policy.model,
            processing_class=policy.tokenizer,
            credit=method,
            task=task,
            args=grpo_config(settings, dtype, 0, Path(folder)),
            # As many prompts as TRL will ask for; which rollouts it gets, the trainer knows.
            train_dataset=Dataset.from_dict({"prompt": [""] * len(batches) * settings.prompts_per_step}),
            callbacks=[keeper],
            # Plain descent at rate 0 has no state and moves nothing.
            optimizers=(torch.optim.SGD(policy.model.parameters(), lr=0.0), None),
        )
        keeper.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        finally:
            policy.model.zero_grad(set_to_none=True)
            policy.model.eval()
    kept.gap = float(np.mean(keeper.gaps)) if keeper.gaps else math.nan
    if gradients:
        kept.gradients = np.stack(keeper.gradients)
    return kept


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
