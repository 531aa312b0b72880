"""One run: one credit method, one training seed, trained and recorded, then evaluated.

`train` and `evaluate` are separate because they belong in separate processes: lm-eval seeds the global generators.
Both go on where a stopped process left off, and a run that is finished is never touched again.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
import typing
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from safetensors import safe_open
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig

import tasks
from flowtracer import CreditGRPOTrainer, credit
from harness import engines, parallel, provenance, seeds, served
from harness import evaluate as evaluation
from harness.errors import ExperimentError
from harness.experiment import Experiment, Training, check_arm, task_of
from harness.policy import Policy, load_policy, merged_weights
from harness.rollout import Sample, duplicate_share
from harness.verification import Judged, Verification
from leaderboards import Manifest, Run, RunWriter, read_run
from leaderboards.manifest import BITWISE, DISTRIBUTION

#: Above this many parameters, hashing them and measuring their distance from the start at every step would be felt.
SMALL = 10_000_000

#: Read when this module is loaded, in the process that all workers of a sweep are forked from: the code that runs is
#: the code of that moment, whatever is committed meanwhile.
COMMIT = provenance.git_commit()

#: TRL leaves a rollout out of the loss whose probability under trainer and sampler differs by more than this factor.
IMPORTANCE_BOUND = 3.0

#: A step's rollouts are judged within this; what is not is a timeout. Texts that hang their verifier must not hang
#: the training.
VERIFICATION_SECONDS = 60.0

Report = Callable[[str, int, int], None]


def manifest(experiment: Experiment, label: str, seed: int, server: str | None = None) -> Manifest:
    """What a run's manifest holds: the experiment with all its arms, whose run this is, and where it was made."""
    versions = provenance.versions()
    # Of the evaluation's engine: none that samples in a process that trains can be.
    invariant = experiment.engine == engines.VLLM and engines.batch_invariant(engines.ALONE)
    if server is not None:
        found = served.describe(server)
        versions, invariant = {**versions, "vllm": found.version}, found.batch_invariant
    return Manifest(
        experiment=experiment.resolved(),
        experiment_hash=experiment.hash,
        method=label,
        seed=seed,
        versions=versions,
        environment_hash=provenance.environment_hash(),
        hardware=provenance.hardware(),
        git_commit=COMMIT,
        batch_invariant=invariant,
        processes=parallel.processes(),
        # Several processes add up their gradients in an order of their own.
        tier=engines.tier(experiment.engine) if parallel.processes() == 1 else DISTRIBUTION,
    )


def open_run(
    experiment: Experiment, label: str, seed: int, folder: Path, server: str | None = None
) -> RunWriter:
    """The run's writer. Raises RecordError if the folder holds another run, ExperimentError if another arm."""
    writer = RunWriter(folder, manifest(experiment, label, seed, server))
    check_arm(experiment, label, writer.manifest, folder)
    return writer


def policy_of(experiment: Experiment, folder: Path | None = None) -> Policy:
    """The experiment's initial policy, or the one that a run saved in `folder`, rendered the same way."""
    settings = experiment.policy
    initial = load_policy(settings.name, settings.chat, settings.system, settings.dtype)
    if folder is None:
        return initial
    return load_policy(str(folder), initial.chat, settings.system, settings.dtype)


def data_order(problems: Sequence[tasks.Problem], steps: int, prompts: int, seed: int) -> list[tasks.Problem]:
    """The problems of every step, `prompts` each, as one list: shuffled anew each time all have been used.

    A function of the training seed alone, so that all arms are asked the same; no step asks a problem twice.
    """
    if len(problems) < prompts:
        raise ExperimentError(
            f"{prompts} prompts a step need as many training problems; there are {len(problems)}"
        )
    generator = np.random.Generator(np.random.Philox(key=int(seeds.key("data order", seed), 16)))
    whole = len(problems) - len(problems) % prompts
    order: list[tasks.Problem] = []
    while len(order) < steps * prompts:
        order += [problems[index] for index in generator.permutation(len(problems))[:whole]]
    return order[: steps * prompts]


class Rewards:
    """The reward function that TRL calls: verdicts by the task, kept for the record."""

    __name__ = "verdict"

    def __init__(self, task: tasks.Task, problems: Sequence[tasks.Problem], random: bool) -> None:
        self.task, self.random = task, random
        self.problems = {problem.id: problem for problem in problems}
        self.verification = Verification(task)
        #: Verdicts that were asked for while responses were written, by key.
        self.asked: dict[str, Judged] = {}
        self.verdicts: list[tasks.Verdict] = []
        self.seconds = 0.0

    def ask(self, key: str, problem_id: str, one: Sample) -> None:
        """Asks for the verdict on a response, which may take long, while others of its batch are written."""
        self.asked[key] = self.verification.begin(self.problems[problem_id], one.text, one.finish_reason)

    def __call__(
        self,
        completions: list[str],
        problem_id: list[str],
        finish_reason: list[str],
        key: list[str],
        **_: Any,
    ) -> list[float | None]:
        begin = time.perf_counter()
        items = [
            (self.problems[problem], text, reason)
            for text, problem, reason in zip(completions, problem_id, finish_reason, strict=True)
        ]
        asked = [self.asked.pop(one, None) for one in key]
        if all(one is not None and one.text == text for one, text in zip(asked, completions, strict=True)):
            self.verdicts = self.verification.verdicts(typing.cast(list[Judged], asked), VERIFICATION_SECONDS)
        else:
            self.verdicts = self.task.verify_all(items, seconds=VERIFICATION_SECONDS)
        self.seconds = time.perf_counter() - begin
        if self.random:
            # The control that rewards noise. Verdicts stay what they are: the record must tell the two apart.
            return [float(int(seeds.key("random reward", one), 16) & 1) for one in key]
        return [tasks.reward_of(verdict) for verdict in self.verdicts]


class _Ahead:
    """Writes parts of a run's record in the background, in their order: syncing them to the disk takes a tenth of an
    embedded step.

    What was lost on the way is an error of the next `write` or `settle`. A checkpoint must not outrun its records:
    `settle` before one is saved.
    """

    def __init__(self, writer: RunWriter) -> None:
        self.writer = writer
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self.pending: deque[Future[None]] = deque()

    def write(self, table: str, step: int, rows: list[dict[str, Any]]) -> None:
        # A disk that is slower than the training holds it up, before rows pile up in memory.
        while self.pending and (self.pending[0].done() or len(self.pending) > 4):
            self.pending.popleft().result()
        self.pending.append(self.thread.submit(self.writer.write, table, step, rows))

    def settle(self) -> None:
        """Returns when everything is on the disk."""
        while self.pending:
            self.pending.popleft().result()


class _RecordedTrainer(CreditGRPOTrainer):
    """CreditGRPOTrainer with keyed rollouts that writes a part of the record after each rollout batch."""

    def __init__(
        self,
        *,
        policy: Policy,
        experiment: Experiment,
        settings: Training,
        seed: int,
        writer: RunWriter,
        report: Report,
        context: int,
        server: str | None,
        **keywords: Any,
    ) -> None:
        self.run_policy, self.run_seed, self.experiment, self.settings = policy, seed, experiment, settings
        self.writer, self.report, self.ahead = writer, report, _Ahead(writer)
        self.verdicts: Rewards = keywords["reward_funcs"]
        super().__init__(
            model=policy.model, processing_class=policy.tokenizer, rollout_func=_rollouts, **keywords
        )
        if settings.lora_rank and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ExperimentError(
                "training.lora_rank: adapters on a policy that is split over processes cannot be saved with it; "
                f"take {parallel.FOLDER / 'ddp.yaml'}"
            )
        self.small = sum(one.numel() for one in self.model.parameters()) <= SMALL
        # The initial policy anew, not the model's state now: a resumed run must measure from the same start.
        self.start = (
            [parameter.detach().clone() for parameter in self.model.parameters()] if self.small else None
        )
        self.engine = engines.start(
            experiment.engine,
            policy,
            experiment.policy.dtype,
            context,
            settings.rollouts // parallel.processes(),
            engines.BESIDE_TRAINING,
            server,
        )
        if experiment.engine == engines.VLLM:
            # TRL's importance-sampling correction, without its own engine. What it would load before a generation,
            # `_rollouts` does.
            self.use_vllm = True
            self.vllm_generation: Any = SimpleNamespace(sync_weights=lambda: None)
            self._last_loaded_step = -1
        self.rollout_seconds = 0.0
        self.batch_began = 0.0
        self.batch_step = 0

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.batch_began = time.perf_counter()
        self.batch_step = self.state.global_step // self.settings.updates_per_batch
        return super()._generate_and_score_completions(inputs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Called once an optimizer step.
        if "loss" in logs:
            entropy = self._metrics["train"].get("entropy", [math.nan])
            self._stop_on_garbage(logs)
            if self.state.global_step % self.settings.updates_per_batch == 0:
                self._record({**logs, "entropy": sum(entropy) / len(entropy)})
                done = self.batch_step + 1
                if done in self.experiment.evaluation_steps():
                    # After the step's record: where the last policy stands, every record does.
                    self._save_policy(policy_folder(self.writer.folder, done))
                self.report("step", done, self.settings.steps)
        super().log(logs, start_time)

    def _save_checkpoint(self, *args: Any, **keywords: Any) -> None:
        self.ahead.settle()
        super()._save_checkpoint(*args, **keywords)

    def _stop_on_garbage(self, logs: Mapping[str, float]) -> None:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise ExperimentError(
                    f"{self.writer.folder}: {name} is {logs[name]} at step {self.state.global_step}; training stopped. "
                    f"{_good_until(self.writer.folder)}; lower the learning rate"
                )

    def _save_policy(self, folder: Path) -> None:
        self.ahead.settle()
        weights = None
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            weights = self.accelerator.get_state_dict(
                self.model_wrapped
            )  # put together, for which all must ask
        if parallel.first():
            save_policy(self.run_policy, folder, weights)
        parallel.meet()

    def _rows(self) -> list[dict[str, Any]]:
        """The rollouts of this process as rows of the record."""
        batch = self.rollouts
        assert batch is not None
        rows = []
        group = batch.group.tolist()
        advantages = batch.advantages.tolist()
        weights, trainer_logprobs = batch.weights.tolist(), batch.trainer_logprobs.tolist()
        for row, source in enumerate(batch.rows):
            length = len(batch.response_ids[row])
            rows.append(
                {
                    "step": self.batch_step,
                    "problem_id": source["problem_id"],
                    "sample": source["sample"],
                    "group": group[row],
                    "key": source["key"],
                    "prompt_ids": batch.prompt_ids[row],
                    "response_ids": batch.response_ids[row],
                    "text": batch.texts[row],
                    "finish_reason": source["finish_reason"],
                    "verdict": str(self.verdicts.verdicts[row]),
                    "reward": batch.rewards[row],
                    "advantage": advantages[row],
                    "weights": weights[row][:length],
                    "sampler_logprobs": source["sampler_logprobs"],
                    "trainer_logprobs": trainer_logprobs[row][:length],
                    "abstained": batch.abstentions.get(row),
                }
            )
        return rows

    def _record(self, logs: Mapping[str, float]) -> None:
        seconds = time.perf_counter() - self.batch_began
        rows = parallel.gathered(self._rows())
        distance, identity = self._distance(), parameters_hash(self.model) if self.small else ""
        if not parallel.first():
            return
        step, verdicts = self.batch_step, Counter(row["verdict"] for row in rows)
        self.ahead.write("rollouts", step, rows)
        gaps = [
            abs(ours - theirs)
            for row in rows
            for ours, theirs in zip(row["sampler_logprobs"], row["trainer_logprobs"], strict=True)
        ]
        responses, group = [row["response_ids"] for row in rows], [row["group"] for row in rows]
        rewards = [row["reward"] for row in rows if row["reward"] is not None]
        groups: dict[int, set[float]] = {}
        for row in rows:
            if row["reward"] is not None:
                groups.setdefault(row["group"], set()).add(row["reward"])
        total = sum(map(len, responses))
        credit_seconds = self.credit_seconds
        measured = {
            "step": step,
            "reward": sum(rewards) / len(rewards) if rewards else math.nan,
            "loss": logs["loss"],
            "gradient_norm": logs.get("grad_norm", math.nan),
            "learning_rate": logs["learning_rate"],
            "entropy": logs["entropy"],
            "response_length": total / len(rows),
            **{str(verdict): verdicts.get(verdict, 0) for verdict in tasks.Verdict},
            "abstained": sum(row["abstained"] is not None for row in rows),
            "duplicate_share": duplicate_share(responses, group),
            "signal_share": sum(len(seen) > 1 for seen in groups.values()) / max(len(set(group)), 1),
            "mean_weight": sum(sum(row["weights"]) for row in rows) / max(total, 1),
            "distance_from_start": distance,
            "sampler_gap": sum(gaps) / max(len(gaps), 1),
            "tokens": total,
            "parameters_hash": identity,
            "seconds_rollout": self.rollout_seconds,
            "seconds_reward": self.verdicts.seconds,
            "seconds_credit": credit_seconds,
            "seconds_update": seconds - self.rollout_seconds - self.verdicts.seconds - credit_seconds,
            "seconds_step": seconds,
        }
        self.ahead.write("steps", step, [measured])

    @torch.no_grad()
    def _distance(self) -> float:
        if self.start is None:
            return math.nan
        pairs = zip(self.model.parameters(), self.start, strict=True)
        # A policy that is split was still on the CPU when it began.
        moved = (parallel.whole(now).cpu() - then.cpu() for now, then in pairs)
        return math.sqrt(sum(float(one.double().square().sum()) for one in moved))


def _rollouts(prompts: list[str], trainer: _RecordedTrainer) -> dict[str, Any]:
    """TRL's rollout function: keyed samples. TRL repeats each prompt for its group; the copies are numbered here.

    Over all processes, which have one part of the step's rows after the other: where a group is split between two,
    the second goes on counting.
    """
    begin = time.perf_counter()
    rows, settings = trainer._pending_rows, trainer.settings
    before = trainer.accelerator.process_index * len(rows)
    numbers = [(before + row) % settings.samples_per_prompt for row in range(len(rows))]
    keys = [
        seeds.key("rollout", trainer.run_seed, trainer.batch_step, row["problem_id"], number)
        for row, number in zip(rows, numbers, strict=True)
    ]
    prompt_ids = [row["prompt_ids"] for row in rows]

    def finished(row: int, one: Sample) -> None:
        trainer.verdicts.ask(keys[row], rows[row]["problem_id"], one)

    with trainer.accelerator.autocast(), parallel.generating(trainer, trainer.engine.forwards) as model:
        trainer.engine.take(model)
        samples = trainer.engine.sample(
            prompt_ids,
            keys,
            settings.max_response_tokens,
            settings.temperature,
            settings.top_k,
            settings.top_p,
            finished if trainer.verdicts.task.slow else None,
        )
    trainer.rollout_seconds = time.perf_counter() - begin
    return {
        "prompt_ids": prompt_ids,
        "completion_ids": [one.ids for one in samples],
        "logprobs": [one.logprobs for one in samples],
        "finish_reason": [one.finish_reason for one in samples],
        "sampler_logprobs": [one.logprobs for one in samples],
        "key": keys,
        "sample": numbers,
    }


class _Boundaries(TrainerCallback):
    """Stops when asked, where a new rollout batch begins, and marks whole checkpoints."""

    def __init__(self, updates: int, stop: Callable[[], bool]) -> None:
        self.updates = updates
        self.stop = stop
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False  # the policy itself is saved, and nothing goes on from here
        elif state.global_step % self.updates == 0 and parallel.anywhere(self.stop(), args.device):
            self.stopped = control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        # Written last: a checkpoint without it was cut off in the middle and is not resumed from.
        parallel.meet()
        if parallel.first():
            (checkpoint / "whole").write_text(f"{state.global_step} {parallel.processes()}\n")


def grpo_config(settings: Training, dtype: str, seed: int, folder: Path) -> GRPOConfig:
    """TRL's arguments for one run, every choice of the experiment's spelt out; checkpoints go to `folder`.

    Each of several processes takes an equal part of a step's rollouts. Raises ExperimentError where there is none.
    """
    own, rest = divmod(settings.rollouts, parallel.processes())
    micro = min(settings.micro_batch or own, own)
    if rest or own % micro:
        raise ExperimentError(
            f"{settings.rollouts} rollouts a step in micro-batches of {settings.micro_batch or 'all'} cannot be dealt "
            f"out to {parallel.processes()} processes; give another number with --num_processes"
        )
    config = GRPOConfig(
        output_dir=str(folder),
        seed=seeds.integer(seeds.key("initialisation", seed)),
        max_steps=settings.steps * settings.updates_per_batch,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=own // micro,
        steps_per_generation=own // micro,
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
        loss_type=settings.loss_type,
        scale_rewards=settings.scale_rewards,
        epsilon=settings.clip_range,
        epsilon_high=settings.clip_range_high,
        mask_truncated_completions=settings.mask_truncated,
        beta=settings.kl_coefficient,
        # Where the engine is vLLM; the mode and its bound are TRL's own. It compares with the trainer's whole
        # distribution: what top-k and top-p leave out would be taken for a gap, and a long response count for nothing.
        vllm_importance_sampling_correction=_corrected(settings),
        vllm_importance_sampling_mode="sequence_mask",
        vllm_importance_sampling_clip_max=IMPORTANCE_BOUND,
        shuffle_dataset=False,  # `data_order` has shuffled it, by its own key
        remove_unused_columns=False,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=dtype == "bfloat16",
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


def _corrected(settings: Training) -> bool:
    return settings.top_k == 0 and settings.top_p == 1


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


def train(
    experiment: Experiment,
    label: str,
    seed: int,
    folder: Path,
    report: Report = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
    server: str | None = None,
) -> bool:
    """Trains one run from where it stands. True when its last step is done; False when `stop` asked it to stop.

    server: the address of the vLLM that samples, None where the engine is in this process. `stop` is asked where a new
    rollout batch begins; the run then saves a checkpoint, from which calling this again continues bit for bit.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    settings = experiment.training_of(label)
    adapters = adapters_of(settings)
    if experiment.policy.dtype == "float16":
        raise ExperimentError(
            f"experiment {experiment.name}: policies train in float32 or bfloat16; float16 needs a loss scale"
        )
    parallel.join()
    # The other processes of a run on several write nothing.
    writer = (
        open_run(experiment, label, seed, folder, server)
        if parallel.first()
        else cast(Any, SimpleNamespace(folder=folder))
    )
    parallel.meet()
    trained = (folder / "finished.json", policy_folder(folder, settings.steps), folder / "policy")
    if any(path.exists() for path in trained):
        report("step", settings.steps, settings.steps)
        return True
    torch.set_num_threads(1)
    policy = policy_of(experiment)
    if adapters is None:
        # What is trained is kept in float32: steps of 1e-6 are lost in the eight bits of a bfloat16 weight. TRL casts
        # to bfloat16 for forward and backward.
        policy.model.float()
    task = task_of(experiment.task)
    order = data_order(task.problems("train"), settings.steps, settings.prompts_per_step, seed)
    encoded = {problem.id: policy.encode(task.prompt(problem)) for problem in order}
    method, options = experiment.credit_of(label)
    boundaries = _Boundaries(settings.updates_per_batch, stop)
    trainer = _RecordedTrainer(
        policy=policy,
        experiment=experiment,
        settings=settings,
        seed=seed,
        writer=writer,
        report=report,
        context=max(map(len, encoded.values())) + settings.max_response_tokens,
        server=server,
        credit=credit.get(method, **options),
        task=task,
        reward_funcs=Rewards(task, order, settings.reward == "random"),
        callbacks=[boundaries],
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": policy.render(task.prompt(problem)),
                    "prompt_ids": encoded[problem.id],
                    "question": problem.question,
                    "problem_id": problem.id,
                }
                for problem in order
            ]
        ),
        args=grpo_config(settings, experiment.policy.dtype, seed, folder / "checkpoint"),
        peft_config=adapters,
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log line; the record holds them
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        _check_same_policy(checkpoint, trainer.model)
    done = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2]) // settings.updates_per_batch
    if parallel.first():
        for table in ("rollouts", "steps"):
            writer.drop_after(table, done - 1)
    report("step", done, settings.steps)
    with _naming_checkpoint(folder):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return not boundaries.stopped


def evaluate(
    experiment: Experiment,
    label: str,
    seed: int,
    folder: Path,
    report: Report = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
    server: str | None = None,
    known: dict[str, list[dict[str, Any]]] | None = None,
) -> bool:
    """Evaluates what `train` saved, through lm-eval, and finishes the run. False when `stop` asked it to stop.

    `server` as in `train`. `known`: results of this experiment by hash of the policy's parameters. Every arm and seed
    starts from one policy and is asked with the same noise, so the initial policy is evaluated once and its samples are
    shared.
    """
    writer = open_run(experiment, label, seed, folder, server)
    if writer.finished:
        return True
    torch.set_num_threads(1)
    known = {} if known is None else known
    present = set(writer.steps("samples"))
    steps = experiment.evaluation_steps()
    for done, step in enumerate(steps):
        if stop():
            return False
        if step not in present:
            policy = policy_of(experiment, policy_folder(folder, step) if step else None)
            identity = parameters_hash(policy.model)
            if identity not in known:
                known[identity] = _samples(experiment, policy, server)
            writer.write("samples", step, [{**row, "step": step} for row in known[identity]])
        report("evaluation", done + 1, len(steps))
    last = folder / "policy"
    if not last.is_dir():
        policy_folder(folder, experiment.training.steps).rename(last)
    writer.finish(_summary(experiment, label, writer))
    shutil.rmtree(folder / "policies", ignore_errors=True)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return True


def _samples(experiment: Experiment, policy: Policy, server: str | None) -> list[dict[str, Any]]:
    settings = experiment.evaluation
    sets: list[tuple[Mapping[str, Any], int, int, int | None]] = []
    if "test" in task_of(experiment.task).splits:
        sets.append((experiment.task, settings.problems, settings.samples, None))
    sets += [
        (extra.task, extra.problems, extra.samples, extra.max_response_tokens) for extra in settings.more
    ]
    rows: list[dict[str, Any]] = []
    for table, problems, samples, tokens in sets:
        task = task_of(table)
        rows += evaluation.evaluate(
            policy,
            task,
            task.problems("test", problems),
            samples=samples,
            temperature=settings.temperature,
            max_new_tokens=tokens or experiment.training.max_response_tokens,
            batch_size=settings.batch_size,
            engine=experiment.engine,
            server=server,
        )
    return rows


def _summary(experiment: Experiment, label: str, writer: RunWriter) -> dict[str, Any]:
    """A finished run's tier: a timed-out verdict costs it the bitwise one, since time depends on the machine.

    And, where another engine sampled, the share of rollouts that importance sampling left out of the loss: over
    thousands of tokens, small gaps in bfloat16 add up beyond its bound.
    """
    run = read_run(writer.folder)
    timeouts = sum(run.table("steps", ["timeout"])["timeout"].to_pylist())
    timeouts += run.table("samples", ["verdict"])["verdict"].to_pylist().count("timeout")
    places = 1 + len(writer.manifest.resumed)
    tier = writer.manifest.tier
    lost = tier == BITWISE and (timeouts or places > 1)
    summary: dict[str, Any] = {"tier": DISTRIBUTION if lost else tier}
    if experiment.engine == engines.VLLM and _corrected(experiment.training_of(label)):
        summary["left_out"] = _left_out(run)
    return summary


def _left_out(run: Run) -> float:
    """The share of rollouts beyond TRL's bound, a step in memory at a time."""
    beyond = total = 0
    for step in run.step_numbers("rollouts"):
        rows = run.table("rollouts", ["trainer_logprobs", "sampler_logprobs"], step).to_pylist()
        ratios = [math.fsum(row["trainer_logprobs"]) - math.fsum(row["sampler_logprobs"]) for row in rows]
        beyond += sum(ratio > math.log(IMPORTANCE_BOUND) for ratio in ratios)
        total += len(rows)
    return beyond / max(total, 1)


@contextmanager
def _naming_checkpoint(folder: Path) -> Iterator[None]:
    """One line for a machine or an engine that fails in the middle of a run, with what the run goes on from."""
    try:
        yield
    except engines.EngineError as error:
        raise ExperimentError(f"{folder}: {error}. {_good_until(folder)}") from error
    except (torch.AcceleratorError, torch.OutOfMemoryError, MemoryError) as error:
        raise ExperimentError(
            f"{folder}: training broke down: {engines.reason(error)}. {_good_until(folder)}"
        ) from error
    except RuntimeError as error:
        if not parallel.lost(error):
            raise
        raise ExperimentError(
            f"{folder}: a process of this run was lost: {engines.reason(error)}. {_good_until(folder)}"
        ) from error


def _good_until(folder: Path) -> str:
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return "There is no checkpoint yet: the run starts again"
    return f"The last good checkpoint is {checkpoint}"


def policy_folder(folder: Path, step: int) -> Path:
    """Where a run keeps the policy after `step` steps until it has been evaluated."""
    return folder / "policies" / f"step-{step:06d}"


def save_policy(policy: Policy, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Saves a policy, or its `weights` from elsewhere, so that its folder exists only when it is whole."""
    aside = folder.with_name(f".{folder.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    policy.model.save_pretrained(aside, state_dict=weights or merged_weights(policy.model))
    policy.tokenizer.save_pretrained(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _check_same_policy(checkpoint: Path, model: torch.nn.Module) -> None:
    """Raises ExperimentError for a checkpoint whose weights have other names or shapes than the policy's.

    As when the folder that an experiment names as its policy has been filled anew since the run began.
    """
    _, *counted = (checkpoint / "whole").read_text().split()
    trained_on = int(counted[0]) if counted else 1
    if trained_on != parallel.processes():
        raise ExperimentError(
            f"{checkpoint} was made by {trained_on} processes, these are {parallel.processes()}; go on with as many, "
            "or give another output folder"
        )
    here = {name.replace(".default", ""): tuple(value.shape) for name, value in model.state_dict().items()}
    for file in sorted(checkpoint.glob("*model*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  no dictionary: it cannot be iterated over
                there = tuple(stored.get_slice(name).get_shape())
                if here.get(name) != there:
                    raise ExperimentError(
                        f"{checkpoint} holds another policy: {name} is {there} there and {here.get(name, 'nowhere')} "
                        "here; bring back the policy that the run began with, or give another output folder"
                    )


def last_checkpoint(folder: Path) -> Path | None:
    """The latest whole checkpoint of a run, None if it has none."""
    found = [path.parent for path in (folder / "checkpoint").glob("checkpoint-*/whole")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


@torch.no_grad()
def parameters_hash(model: torch.nn.Module) -> str:
    """sha256 over the names and exact values of a model's parameters."""
    total = hashlib.sha256()
    for name, parameter in model.named_parameters():
        total.update(name.encode())
        total.update(parallel.whole(parameter).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
