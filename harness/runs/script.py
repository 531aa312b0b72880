"""The record of a plain TRL script: `CreditGRPOTrainer(..., record="runs/mine/flow/seed-0000")`.

Same files and columns as those of a run of the harness. What a script does not say is left open: nothing was declared,
there are no evaluation samples, keys of the sampling noise are empty, and log-probabilities of a sampler that keeps
none are NaN. A script's rewards have no verdicts: `correct` stands for a reward of 1 or more.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import tasks
from flowtracer.tracking import collected
from harness import provenance
from harness.errors import ExperimentError
from harness.experiment import Training, hash_of
from harness.runs.ahead import Ahead
from harness.runs.checkpoints import parameters
from harness.runs.recorder import SMALL
from harness.runs.rows import Drawn, rollout_rows, step_row
from leaderboards import Manifest, RunWriter
from leaderboards.manifest import DISTRIBUTION

#: Arguments of TRL's that say where and how often something is shown or saved: no part of an experiment.
_ASIDE = (
    "accelerator_config", "auto_find", "data_seed", "dataloader", "ddp", "disable_tqdm", "do_", "eval_", "greater",
    "hub_", "include_", "label_names", "load_best", "local_rank", "log_", "logging", "metric_for", "num_completions",
    "output_dir", "overwrite", "past_index", "project", "push_to", "remove_unused", "report_to", "restore_callback",
    "resume", "run_name", "save", "seed", "skip_memory", "torch_empty", "trackio", "use_cpu",
)  # fmt: skip


#: Why a response that others write to is not recorded.
_MIXED = (
    "a record does not tell them from the policy's, and `replay` and `trace` would weigh them: train without "
    "`record`"
)


class ScriptRecorder:
    """Writes the record of a script's training into a folder, `runs/EXPERIMENT/ARM/seed-0000`; see `Recorder`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.experiment, self.label, self.seed = _identity(self.folder)
        self.step = 0
        self.small = False
        self.ahead: Ahead | None = None

    def open(self, trainer: Any) -> None:
        """Writes the manifest. ExperimentError for another seed than the script's, for a run that is finished, and for
        responses that tools write to.
        """
        if getattr(trainer, "tools", None):
            raise ExperimentError(
                f"record={str(self.folder)!r}: the responses hold the words of tools; {_MIXED}"
            )
        if trainer.args.seed != self.seed:
            raise ExperimentError(
                f"record={str(self.folder)!r} is seed {self.seed}, and the script trains seed {trainer.args.seed}: "
                f"give GRPOConfig(seed={self.seed}), or record it in {_seed_folder(trainer.args.seed)}"
            )
        self.small = sum(parameter.numel() for parameter in trainer.model.parameters()) <= SMALL
        start = parameters(trainer.model) if self.small else None
        if not trainer.accelerator.is_main_process:
            return
        writer = RunWriter(self.folder, manifest(trainer, self.experiment, self.label))
        if writer.finished:
            raise ExperimentError(
                f"record={str(self.folder)!r} holds a finished run: give another folder, or remove it"
            )
        self.ahead = Ahead(writer, start)

    def begin(self, trainer: Any) -> None:
        """Removes what was recorded of steps that the training is about to make again."""
        self.step = trainer.state.global_step // trainer.updates_per_batch
        if self.ahead is not None:
            for table in ("rollouts", "steps"):
                self.ahead.writer.drop_after(table, self.step - 1)

    def record(self, trainer: Any, logs: Mapping[str, float]) -> None:
        """Writes the rollouts of the generation batch in training and the row of its step."""
        batch = trainer.rollouts
        if any(mask is not None and not all(mask) for mask in batch.masks):
            raise ExperimentError(
                f"record={str(self.folder)!r}: the rollout function masks the words of an environment; {_MIXED}"
            )
        now = time.perf_counter()
        rows = collected(rollout_rows(batch, self.step, _drawn(trainer)))
        policy = parameters(trainer.model) if self.small else None
        if self.ahead is not None:
            began, generated, rewarded = (batch.clock[name] for name in ("began", "generated", "rewarded"))
            measured = step_row(
                trainer, logs, self.step, generated - began, rewarded - generated, now - began
            )
            self.ahead.write(rows, measured, policy)
        self.step += 1

    def settle(self) -> None:
        """Returns when everything that was handed over is on the disk."""
        if self.ahead is not None:
            self.ahead.settle()

    def finish(self, trainer: Any) -> None:
        """Closes the record."""
        if self.ahead is not None:
            self.ahead.settle()
            self.ahead.writer.finish({"tier": DISTRIBUTION})


def _identity(folder: Path) -> tuple[str, str, int]:
    """The names of experiment and arm, and the seed, that a run's folder says."""
    whole = folder.absolute()
    numbered = re.fullmatch(r"seed-(\d+)", whole.name)
    label, name = whole.parent.name, whole.parent.parent.name
    if numbered is None or not name or not re.fullmatch(r"[\w.-]+", label):
        raise ExperimentError(
            f"record={str(folder)!r}: name the folder by experiment, arm and seed, as in runs/mine/flow/seed-0000: "
            "arms of one experiment are compared"
        )
    return name, label, int(numbered[1])


def _seed_folder(seed: int) -> str:
    return f"seed-{seed:04d}"


# ------------------------------------------------------------------------------------- the manifest


def manifest(trainer: Any, name: str, label: str) -> Manifest:
    """The manifest of a script's run. Everything but arm and seed is the experiment, which runs must share."""
    method = trainer.credit
    recorded = provenance.credit_of(method)
    if trainer.builder.words is not None:
        recorded["teacher"] = trainer.builder.words.text
    shared = {
        "name": name,
        "title": "a TRL script",
        "seeds": 1,
        "policy": {
            "name": _policy_name(trainer.model),
            "dtype": "bfloat16" if trainer.args.bf16 else "float32",
        },
        "task": _task_table(trainer.answer_task),
        # Measuring the turn changes no training: runs with and without it are of one experiment.
        "training": {
            key: value for key, value in asdict(training_of(trainer)).items() if key != "turn_every"
        },
        "data": _data(trainer.train_dataset),
        "rewards": [_name_of(function) for function in trainer.reward_funcs],
        "trl": _arguments(trainer.args),
    }
    experiment = json.loads(
        json.dumps({**shared, "methods": {label: {"credit": method.name, **recorded["options"]}}})
    )
    return Manifest(
        experiment=experiment,
        experiment_hash=hash_of(experiment),
        method=label,
        seed=trainer.args.seed,
        versions=provenance.versions(),
        environment_hash=provenance.environment_hash(),
        hardware=provenance.hardware(),
        git_commit="",
        processes=trainer.accelerator.num_processes,
        credit=recorded,
        code=provenance.code_of([method], []),
        tier=DISTRIBUTION,
    )


def training_of(trainer: Any) -> Training:
    """TRL's arguments as an experiment's table `training` would say them."""
    args = trainer.args
    prompts = args.generation_batch_size // args.num_generations
    updates = trainer.updates_per_batch
    adapters = getattr(trainer.model, "peft_config", {})
    return Training(
        steps=max(math.ceil(args.max_steps / updates), 0) if args.max_steps > 0 else 0,
        prompts_per_step=prompts,
        samples_per_prompt=args.num_generations,
        max_response_tokens=args.max_completion_length,
        learning_rate=args.learning_rate,
        temperature=args.temperature,
        top_k=args.top_k or 0,
        top_p=args.top_p,
        loss_type=args.loss_type,
        scale_rewards=str(args.scale_rewards),
        clip_range=args.epsilon,
        clip_range_high=args.epsilon_high,
        mask_truncated=args.mask_truncated_completions,
        kl_coefficient=args.beta,
        max_gradient_norm=args.max_grad_norm,
        adam_beta2=args.adam_beta2,
        weight_decay=args.weight_decay,
        schedule=str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        warmup_steps=int(args.warmup_steps),
        micro_batch=args.per_device_train_batch_size * trainer.accelerator.num_processes,
        updates_per_batch=updates,
        gradient_checkpointing=bool(args.gradient_checkpointing),
        lora_rank=max((getattr(each, "r", 0) for each in adapters.values()), default=0),
    )


def _policy_name(model: Any) -> str:
    """The folder or hub id that a model was loaded from; its class and size where it came from none."""
    loaded = getattr(model.config, "_name_or_path", "")
    return (
        loaded or f"{type(model).__name__} of {sum(each.numel() for each in model.parameters())} parameters"
    )


def _task_table(task: Any) -> dict[str, Any]:
    """A registered task by name and options, as an experiment names it; another one by its class."""
    name = getattr(task, "name", None)
    if not isinstance(task, tasks.Task) or name is None:
        return {"name": type(task).__name__.lstrip("_").lower()}
    return {"name": name, **task.chosen}


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", None) or type(function).__name__)


def _arguments(args: Any) -> dict[str, Any]:
    """TRL's arguments that are not its defaults, as JSON holds them."""
    defaults = {option.name: option.default for option in fields(args)}
    changed = {name: getattr(args, name) for name in defaults if not name.startswith(_ASIDE)}
    return {
        name: value if isinstance(value, str | int | float) else str(value)
        for name, value in sorted(changed.items())
        if value is not None and value != defaults[name]
    }


def _data(data: Any) -> dict[str, Any]:
    """The training data as an experiment knows it: rows, columns and a hash of every value."""
    if not hasattr(data, "__len__"):
        return {"rows": None, "columns": sorted(data.column_names or []), "sha256": None}
    total = hashlib.sha256()
    for row in data:
        total.update(json.dumps(row, sort_keys=True, default=str).encode())
    return {"rows": len(data), "columns": sorted(data.column_names), "sha256": total.hexdigest()}


# ------------------------------------------------------------------------------------- the tables


def _drawn(trainer: Any) -> list[Drawn]:
    """How the rollouts of this process were drawn and judged, as far as a script knows."""
    batch = trainer.rollouts
    sampled = None if batch.sampler_logprobs is None else batch.sampler_logprobs.tolist()
    first = trainer.accelerator.process_index * len(batch.rows)
    ends = _end_tokens(trainer)
    drawn = []
    for row, source in enumerate(batch.rows):
        ids, text = batch.response_ids[row], batch.texts[row]
        finish_reason = "stop" if ids and ids[-1] in ends else "length"
        answered = trainer.answer_task.extract(text) is not None
        drawn.append(
            Drawn(
                problem_id=_problem_id(source, batch.prompt_ids[row]),
                sample=(first + row) % trainer.num_generations,
                key="",
                finish_reason=finish_reason,
                verdict=verdict(batch.rewards[row], answered, finish_reason),
                sampler_logprobs=sampled[row][: len(ids)] if sampled else [math.nan] * len(ids),
            )
        )
    return drawn


def _end_tokens(trainer: Any) -> set[int]:
    """The tokens with which a response can end."""
    ends = [trainer.text_tokenizer.eos_token_id, trainer.model.generation_config.eos_token_id]
    flat = [each for end in ends for each in (end if isinstance(end, Sequence) else [end])]
    return {end for end in flat if end is not None}


def _problem_id(row: Mapping[str, Any], prompt_ids: Sequence[int]) -> str:
    """The data set's own `problem_id` or `id`, else a hash of the prompt's tokens."""
    given = row.get("problem_id", row.get("id"))
    if given is not None:
        return str(given)
    return hashlib.sha256(",".join(map(str, prompt_ids)).encode()).hexdigest()[:16]


def verdict(reward: float | None, answered: bool, finish_reason: str) -> str:
    """The record's word for a script's reward: `correct` from 1 on; below, why there can be none, or `wrong`."""
    if reward is None:
        return "error"
    if reward >= 1:
        return "correct"
    if answered:
        return "wrong"
    return "truncated" if finish_reason == "length" else "no_answer"
