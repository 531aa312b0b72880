"""The settings of a run: TRL's arguments, its adapters, and the problems of every step."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trl import GRPOConfig

import tasks
from harness import parallel, seeds
from harness.bounds import check_prompts
from harness.engines.base import BFLOAT16
from harness.errors import ExperimentError
from harness.experiment import ADAMW, Training

#: TRL leaves a rollout out of the loss whose probability under trainer and sampler differs by more than this factor.
IMPORTANCE_BOUND = 3.0


def data_order(problems: Sequence[tasks.Problem], steps: int, prompts: int, seed: int) -> list[tasks.Problem]:
    """The problems of every step, `prompts` each, as one list: shuffled anew each time all have been used.

    A function of the training seed and nothing else, so that all arms are asked the same; no step asks a problem twice.
    """
    check_prompts(prompts, len(problems))
    generator = np.random.Generator(np.random.Philox(key=int(seeds.key("data order", seed), 16)))
    whole = len(problems) - len(problems) % prompts
    order: list[tasks.Problem] = []
    while len(order) < steps * prompts:
        order += [problems[index] for index in generator.permutation(len(problems))[:whole]]
    return order[: steps * prompts]


def grpo_config(settings: Training, dtype: str, seed: int, folder: Path) -> GRPOConfig:
    """TRL's arguments for one run, every choice of the experiment's spelt out; checkpoints go to `folder`.

    Each of several processes takes an equal part of a step's rollouts. Raises ExperimentError where there is none.
    """
    rollouts, micro = parallel.dealt(settings, parallel.processes())
    config = GRPOConfig(
        output_dir=str(folder),
        seed=seeds.integer(seeds.key("initialisation", seed)),
        max_steps=settings.steps * settings.updates_per_batch,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rollouts // micro,
        steps_per_generation=rollouts // micro,
        num_iterations=settings.updates_per_batch,
        num_generations=settings.samples_per_prompt,
        max_completion_length=settings.max_response_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta2=settings.adam_beta2,
        max_grad_norm=settings.max_gradient_norm,
        **_optimizer(settings),
        loss_type=settings.loss_type,
        scale_rewards=settings.scale_rewards,
        epsilon=settings.clip_range,
        epsilon_high=settings.clip_range_high,
        # TRL caps the ratio on both signs; where the advantage is positive, the clip range has capped it already.
        delta=settings.dual_clip or None,
        mask_truncated_completions=settings.mask_truncated,
        beta=settings.kl_coefficient,
        # Where the engine is vLLM; the mode and its bound are TRL's own. It compares with the trainer's whole
        # distribution: what top-k and top-p leave out would be taken for a gap, and a long response count for nothing.
        vllm_importance_sampling_correction=not settings.sampling.truncated,
        vllm_importance_sampling_mode="sequence_mask",
        vllm_importance_sampling_clip_max=IMPORTANCE_BOUND,
        shuffle_dataset=False,  # `data_order` has shuffled it, by its own key
        remove_unused_columns=False,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=dtype == BFLOAT16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_every * settings.updates_per_batch,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
    )
    # One process that sees several GPUs would train on all of them, and take as many times the declared rollouts.
    config._n_gpu = min(config.n_gpu, 1)
    return config


def _optimizer(settings: Training) -> dict[str, Any]:
    """The trainer's argument for an optimizer that is not its own AdamW."""
    if settings.optimizer == ADAMW:
        return {}
    if find_spec("bitsandbytes") is None:
        raise ExperimentError(
            f"training.optimizer = {settings.optimizer!r} needs bitsandbytes: pip install 'flowtracer[adam-8bit]', "
            f"or set it to {ADAMW!r}"
        )
    return {"optim": "adamw_bnb_8bit"}


def adapters_of(settings: Training) -> Any | None:
    """peft's LoRA configuration (Hu et al. 2021, arXiv 2106.09685) for `lora_rank`; None where every parameter trains.

    On every linear layer but the head, scaled by 2, without dropout: our choice. Raises ExperimentError without peft.
    """
    if not settings.lora_rank:
        return None
    try:
        from peft import LoraConfig
    except ImportError:
        raise ExperimentError(
            f"training.lora_rank = {settings.lora_rank} needs peft: pip install 'flowtracer[lora]', or set it to 0"
        ) from None
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
