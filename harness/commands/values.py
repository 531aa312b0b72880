"""values: whether credit goes where the chance of a right answer changes, without training."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from harness.commands.shared import (
    EXPERIMENTS,
    POLICIES,
    Commands,
    add_batch_size,
    add_changes,
    add_export,
    add_methods,
    add_policy_options,
    add_problems,
    add_response_limit,
    add_task,
    at_least,
    closing,
    command,
    command_again,
    method_names,
    of_kind,
    output,
    policy_named,
    response_limit,
    same,
    show_page,
    study_json,
    task_named,
    with_bar,
)
from harness.engines.base import ENGINES, FLOAT32, TRANSFORMERS, EngineChoice, Sampling
from harness.errors import ExperimentError

#: Options that say how a policy is read and asked, which an experiment says itself.
_OF_EXPERIMENTS = ("samples", "temperature", "max_response_tokens", "engine", "chat", "system")
#: Responses to each problem, where nothing is said.
SAMPLES = 8


def add(commands: Commands) -> None:
    """Adds this command."""
    added = command(
        commands,
        "values",
        _values,
        "Measure where a response's chance of being right changes, by continuations from its unsure tokens, and see "
        "which credit methods follow it, without training.",
    )
    source = added.add_argument(
        "source", help="an experiment (name or .toml), or with TASK a policy: name, folder or hub id"
    )
    of_kind(source, EXPERIMENTS, POLICIES)
    add_task(added, "a task that the policy half solves, NAME or NAME:OPTION=VALUE", "task", nargs="?")
    add_changes(added, "training.temperature=0.7")
    add_problems(added, "split", 48)
    added.add_argument("--split", default="train", help="test or train (default: train)")
    added.add_argument(
        "--samples", type=at_least(2), metavar="K", help=f"responses a problem (default: {SAMPLES})"
    )
    added.add_argument("--temperature", type=float, help="default: 1")
    add_response_limit(added)
    add_methods(added, "credit methods beside flow (default: all)")
    added.add_argument(
        "--cuts",
        type=at_least(1),
        default=48,
        metavar="N",
        help="measure at most N unsure tokens of a response (default: 48)",
    )
    added.add_argument(
        "--continuations",
        type=at_least(1),
        default=32,
        metavar="K",
        help="continuations from before each of these tokens, at most; in rounds of 16 (default: 32)",
    )
    added.add_argument(
        "--agreement",
        type=float,
        default=0.8,
        metavar="R",
        help="stop sampling once two halves of the continuations agree this well about the changes, by rank "
        "correlation (default: 0.8)",
    )
    added.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="training seed of the rollouts (default: 0)"
    )
    added.add_argument("--engine", choices=ENGINES, help=f"what samples (default: {TRANSFORMERS})")
    add_policy_options(added)
    add_batch_size(added, 64)
    added.add_argument(
        "--out",
        type=output,
        metavar="FILE",
        help="keep all that is measured in FILE, a JSON line each (default: runs/values-SOURCE-TASK.jsonl); the same "
        "command again goes on from there",
    )
    add_export(added, (".json", ".md"), "also write it to")


def _values(options: argparse.Namespace) -> int:
    from harness.engines import choice
    from harness.engines.base import ALONE
    from harness.studies import value_page, values

    methods = values.methods_of(method_names(options))
    policy, asked, engine_choice, task_name = _asked(options)
    choice.check(engine_choice)
    path = options.out or _default(options.source, task_name)
    identity = _identity(policy, asked, engine_choice, task_name, options.split)
    journal = values.journal_in(path, identity)
    prompts = max(len(policy.encode(asked.task.prompt(problem))) for problem in asked.problems)
    limit = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    context = min(limit or prompts + 2 * asked.longest, prompts + 2 * asked.longest)
    try:
        engine = choice.start(engine_choice, policy, context, options.batch_size, ALONE, alike=True)
        rows = with_bar(lambda at: values.rollouts(policy, engine, asked, journal, at))
        chosen = values.with_signal(rows)
        changes, continuations = with_bar(
            lambda at: values.measure(policy, engine, context, asked, chosen, journal, at)
        )
        weights = with_bar(lambda at: values.weigh(policy, asked, chosen, methods, journal, progress=at))
    finally:
        journal.close()
    study = values.study(policy, asked, rows, chosen, changes, continuations, weights, journal)
    page = value_page.page(options.source, task_name, asked, study, _command(options))
    status = show_page(page, lambda: study_json(page, study), options.export)
    closing(path, *(() if options.export else (same(options, "--export", "values.md"),)))
    return status


def _asked(options: argparse.Namespace) -> tuple[Any, Any, EngineChoice, str]:
    """The policy, what is asked of it, the engine, and the task in words."""
    from harness.studies.values import Asked

    if options.task is None:
        policy, task, samples, sampling, engine, name = _of_experiment(options)
    else:
        policy, task, samples, sampling, engine, name = _of_policy(options)
    asked = Asked(
        task=task,
        problems=task.problems(options.split, options.problems),
        samples=samples,
        sampling=sampling,
        cuts=options.cuts,
        continuations=options.continuations,
        agreement=options.agreement,
        seed=options.seed,
    )
    return policy, asked, engine, name


def _of_policy(options: argparse.Namespace) -> tuple[Any, Any, int, Sampling, EngineChoice, str]:
    if options.changes:
        raise ExperimentError("--set goes with an experiment; a policy and a task have options of their own")
    task, policy = task_named(options.task), policy_named(options.source, options)
    problems = task.problems(options.split, options.problems)
    longest = max(len(policy.encode(task.prompt(problem))) for problem in problems)
    sampling = Sampling(
        response_limit(options.max_response_tokens, policy, longest),
        1.0 if options.temperature is None else options.temperature,
    )
    samples = SAMPLES if options.samples is None else options.samples
    engine = EngineChoice(options.engine or TRANSFORMERS, None, options.dtype)
    return policy, task, samples, sampling, engine, options.task


def _of_experiment(options: argparse.Namespace) -> tuple[Any, Any, int, Sampling, EngineChoice, str]:
    from harness import experiment as experiments
    from harness.experiment import task_of
    from harness.runs.run import policy_of

    given = [name for name in _OF_EXPERIMENTS if getattr(options, name) is not None]
    given += ["dtype"] if options.dtype != FLOAT32 else []
    if given:
        raise ExperimentError(
            f"--{given[0].replace('_', '-')} goes with a policy and a task, flowtracer values POLICY TASK; "
            "an experiment says it itself, and --set changes it"
        )
    experiment = experiments.load(options.source, changes=options.changes)
    training, task = experiment.training, task_of(experiment.task)
    engine = experiment.engine_choice()
    return policy_of(experiment), task, training.samples_per_prompt, training.sampling, engine, task.name


def _identity(policy: Any, asked: Any, engine: EngineChoice, task: str, split: str) -> dict[str, Any]:
    """The properties that all rows of one journal share. More problems or continuations go on in it."""
    from dataclasses import asdict

    from harness.runs.checkpoints import parameters_hash

    return {
        "study": "values",
        "policy": parameters_hash(policy.model),
        "chat": policy.chat,
        "system": policy.system,
        "task": task,
        "task_options": dict(getattr(asked.task, "chosen", {})),
        "split": split,
        "samples": asked.samples,
        "sampling": asdict(asked.sampling),
        "cuts": asked.cuts,
        "seed": asked.seed,
        "engine": asdict(engine),
    }


def _default(source: str, task: str) -> Path:
    """Where records go if nothing is said."""
    name = re.sub(r"[^\w.=-]+", "-", f"{Path(source).stem}-{task}")
    return Path("runs") / f"values-{name}.jsonl"


def _command(options: argparse.Namespace) -> str:
    names = ("problems", "split", "samples", "temperature", "max_response_tokens", "methods", "cuts")
    more = ("continuations", "agreement", "seed", "engine", "chat", "system", "dtype", "batch_size", "out")
    return command_again(options, ("source", "task"), (*names, *more))
