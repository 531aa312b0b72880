"""One run: one credit method, one training seed, trained and recorded, then evaluated.

Both `train` and `evaluate` go on where a stopped process left off, and a run that is finished is never touched again.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from datasets import Dataset
from transformers import PrinterCallback

from harness import parallel, provenance
from harness.engines import choice, vllm
from harness.engines import server as servers
from harness.engines.base import ALONE, FLOAT16, VLLM, EngineChoice, Sampling
from harness.errors import ExperimentError
from harness.experiment import Experiment, task_of
from harness.policy import Policy, load_policy
from harness.runs import evaluate as evaluation
from harness.runs.checkpoints import (
    Boundaries,
    check_same_policy,
    naming_checkpoint,
    parameters_hash,
    policy_folder,
    sound_checkpoint,
)
from harness.runs.recorder import RecordedTrainer, Report, Rewards
from harness.runs.settings import IMPORTANCE_BOUND, adapters_of, data_order, grpo_config
from harness.runs.tracking import followed, show_evaluations
from harness.sameness import check_arm, check_code, code_of, method_of
from harness.trackers import tracked
from leaderboards import Manifest, Run, RunWriter, read_run
from leaderboards.manifest import BITWISE, DISTRIBUTION
from tasks import Problem, Task

#: Read when this module is loaded, in the process that all workers of a sweep are forked from: the code that runs is
#: the code of that moment, whatever is committed meanwhile.
COMMIT = provenance.git_commit()


def manifest(experiment: Experiment, label: str, seed: int, engine: EngineChoice | None = None) -> Manifest:
    """A run's manifest: the experiment with all its arms, whose run this is, and where it is made.

    engine: the experiment's own where it is None, as in the functions below.
    """
    engine = engine or experiment.engine_choice()
    versions = provenance.versions()
    # Of the evaluation's engine: none that samples in a process that trains can be.
    invariant = engine.name == VLLM and vllm.batch_invariant(ALONE)
    if engine.server is not None:
        server = servers.describe(engine.server)
        versions, invariant = {**versions, VLLM: server.version}, server.batch_invariant
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
        **code_of(experiment, label),
        # Several processes add up their gradients in an order of their own.
        tier=choice.tier(engine.name) if parallel.processes() == 1 else DISTRIBUTION,
    )


def open_run(
    experiment: Experiment, label: str, seed: int, folder: Path, engine: EngineChoice | None = None
) -> RunWriter:
    """The run's writer. Raises RecordError if the folder holds another run, ExperimentError if another arm."""
    writer = RunWriter(folder, manifest(experiment, label, seed, engine))
    check_arm(experiment, label, writer.manifest, folder)
    check_code(experiment, label, [writer.manifest], folder)
    return writer


def policy_of(experiment: Experiment, folder: Path | None = None) -> Policy:
    """The experiment's initial policy, or the one that a run saved in `folder`, rendered the same way."""
    settings = experiment.policy
    initial = load_policy(settings.name, settings.chat, settings.system, settings.dtype)
    if folder is None:
        return initial
    return load_policy(str(folder), initial.chat, settings.system, settings.dtype)


def train(
    experiment: Experiment,
    label: str,
    seed: int,
    folder: Path,
    report: Report = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
    engine: EngineChoice | None = None,
    report_to: str | None = None,
) -> bool:
    """Trains one run from where it stands. True when its last step is done; False when `stop` asked it to stop.

    `stop` is asked where a new rollout batch begins; the run then saves a checkpoint, from which calling this again
    continues bit for bit. `report_to`: one of `harness.trackers.TRACKERS`, which shows it too.
    """
    settings = experiment.training_of(label)
    adapters = adapters_of(settings)
    if experiment.policy.dtype == FLOAT16:
        raise ExperimentError(
            f"experiment {experiment.name}: policies train in float32 or bfloat16; float16 needs a loss scale"
        )
    parallel.join()
    # The other processes of a run on several write nothing.
    writer = (
        open_run(experiment, label, seed, folder, engine)
        if parallel.first()
        else cast(Any, SimpleNamespace(folder=folder))
    )
    parallel.meet()
    trained = (folder / "finished.json", policy_folder(folder, settings.steps), folder / "policy")
    if any(path.exists() for path in trained):
        report("step", settings.steps, settings.steps)
        return True
    for place in experiment.test_sets:
        experiment.test_problems(place)  # what it cannot be evaluated on is said before the training
    policy = policy_of(experiment)
    if adapters is None:
        # What is trained is kept in float32: steps of 1e-6 are lost in the eight bits of a bfloat16 weight. TRL casts
        # to bfloat16 for forward and backward.
        policy.model.float()
    task = task_of(experiment.task)
    order = data_order(task.problems("train"), settings.steps, settings.prompts_per_step, seed)
    method = method_of(experiment, label)
    rows = _training_rows(policy, task, order, taught="teacher_logprobs" in method.needs)
    boundaries = Boundaries(settings.updates_per_batch, stop)
    trainer = RecordedTrainer(
        policy=policy,
        experiment=experiment,
        settings=settings,
        seed=seed,
        writer=writer,
        report=report,
        prompts={problem.id: policy.encode(task.prompt(problem)) for problem in order},
        engine=engine or experiment.engine_choice(),
        credit=method,
        whiten=settings.whiten or None,
        advantage_clip=settings.advantage_clip,
        turn_every=settings.turn_every * settings.updates_per_batch,
        task=task,
        reward_funcs=Rewards(task, order, settings),
        callbacks=[boundaries],
        train_dataset=Dataset.from_list(rows),
        args=grpo_config(settings, experiment.policy.dtype, seed, folder / "checkpoint"),
        peft_config=adapters,
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log line; the record holds them
    checkpoint = sound_checkpoint(folder)
    if checkpoint is not None:
        check_same_policy(checkpoint, trainer.model)
    saved = None if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
    done = (saved or 0) // settings.updates_per_batch
    if parallel.first():
        for table in ("rollouts", "steps"):
            writer.drop_after(table, done - 1)
    report("step", done, settings.steps)
    shown = tracked(experiment, label, seed, folder)
    with naming_checkpoint(folder), followed(trainer, report_to, shown, saved):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return not boundaries.stopped


def _training_rows(
    policy: Policy, task: Task, order: Sequence[Problem], taught: bool
) -> list[dict[str, Any]]:
    """The training data: a row for each time that a problem is asked. taught: whether a teacher reads the gold."""
    golds = {
        problem.id: {"gold": json.dumps(problem.gold, ensure_ascii=False)} for problem in order if taught
    }
    return [
        {
            "prompt": policy.render(task.prompt(problem)),
            "question": problem.question,
            "problem_id": problem.id,
            **(golds.get(problem.id, {})),
        }
        for problem in order
    ]


def evaluate(
    experiment: Experiment,
    label: str,
    seed: int,
    folder: Path,
    report: Report = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
    engine: EngineChoice | None = None,
    known: dict[str, list[dict[str, Any]]] | None = None,
    report_to: str | None = None,
) -> bool:
    """Evaluates what `train` saved, and finishes the run. False when `stop` asked it to stop.

    `known`: results of this experiment by hash of the policy's parameters. Every arm and seed
    starts from one policy and is asked with the same noise, so the initial policy is evaluated once and its samples are
    shared. `report_to`: as for `train`.
    """
    writer = open_run(experiment, label, seed, folder, engine)
    if writer.finished:
        return True
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
                known[identity] = _samples(experiment, policy, engine or experiment.engine_choice())
            writer.write("samples", step, [{**row, "step": step} for row in known[identity]])
        report("evaluation", done + 1, len(steps))
    last = folder / "policy"
    if not last.is_dir():
        policy_folder(folder, experiment.training.steps).rename(last)
    updates = experiment.training_of(label).updates_per_batch
    show_evaluations(report_to, tracked(experiment, label, seed, folder), updates)
    writer.finish(_summary(experiment, label, writer))
    shutil.rmtree(folder / "policies", ignore_errors=True)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return True


def _samples(experiment: Experiment, policy: Policy, engine: EngineChoice) -> list[dict[str, Any]]:
    settings = experiment.evaluation
    rows: list[dict[str, Any]] = []
    for place, tested in experiment.test_sets.items():
        rows += evaluation.evaluate(
            policy,
            task_of(tested.task),
            experiment.test_problems(place),
            Sampling(
                tested.max_response_tokens or experiment.training.max_response_tokens,
                settings.temperature,
                settings.top_k,
                settings.top_p,
            ),
            samples=tested.samples,
            batch_size=settings.batch_size,
            engine=engine,
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
    if experiment.engine == VLLM and not experiment.training_of(label).sampling.truncated:
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
