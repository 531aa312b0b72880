"""replay and intervene: what credit methods make of responses, without training."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.commands.shared import (
    EXPERIMENTS,
    POLICIES,
    Bars,
    Commands,
    add_batch_size,
    add_changes,
    add_export,
    add_methods,
    add_policy,
    add_policy_options,
    add_problems,
    add_response_limit,
    add_task,
    as_json,
    at_least,
    closing,
    command,
    command_again,
    method_names,
    of_kind,
    policy_named,
    response_limit,
    same,
    show_page,
    task_named,
    task_table,
)
from harness.engines.base import Sampling
from harness.errors import ExperimentError


def add(commands: Commands) -> None:
    """Adds these commands."""
    _add_replay(commands)
    _add_intervene(commands)


def _add_replay(commands: Commands) -> None:
    added = command(
        commands,
        "replay",
        _replay,
        "Compare all credit methods on the same rollouts, by gradient and weights, without training.",
    )
    source = added.add_argument(
        "source",
        help="an experiment (name or .toml): rollouts are sampled as a run would; or a folder of recorded runs: their "
        "earliest rollouts, at the experiment's initial policy; or files that TRL (completions_*.parquet) or verl "
        "(*.jsonl) wrote, with --policy and --task",
    )
    of_kind(source, EXPERIMENTS)
    policy = added.add_argument(
        "--policy", help="sample from this policy instead of the initial one (a run's policy/ for one)"
    )
    of_kind(policy, POLICIES)
    add_task(
        added,
        "task that finds the answer in a response, NAME or NAME:OPTION=VALUE, where the files do not name it",
        "--task",
    )
    added.add_argument(
        "--seed",
        type=at_least(0),
        metavar="N",
        help="of an experiment: the training seed whose rollouts to sample (default: 0)",
    )
    added.add_argument(
        "--batches",
        type=at_least(1),
        default=32,
        metavar="N",
        help="batches of rollouts, as large as in training (default: 32)",
    )
    add_changes(added, "training.prompts_per_step=8")
    add_methods(
        added,
        "credit methods beside uniform (default: all but those that sample further responses, spo and vine)",
    )
    added.add_argument(
        "--valued",
        type=at_least(1),
        default=32,
        metavar="N",
        help="responses for which the value of each token is measured, by continuations (default: 32)",
    )
    added.add_argument(
        "--continuations",
        type=at_least(0),
        default=16,
        metavar="K",
        help="continuations of each prefix for these values; 0 leaves values out (default: 16)",
    )
    add_export(added, (".json", ".md"), "also write it to")


def _add_intervene(commands: Commands) -> None:
    added = command(
        commands,
        "intervene",
        _intervene,
        "Hide a fifth of a response's tokens, chosen by a credit method, and see whether its answer changes.",
    )
    add_policy(added)
    add_task(added, "a task, NAME or NAME:OPTION=VALUE, sums:largest=9 for one")
    add_methods(added, "credit methods that choose the tokens to hide (default: flow)", default="flow")
    add_problems(added, "split")
    added.add_argument("--split", default="test", help="test or train (default: test)")
    added.add_argument(
        "--samples", type=at_least(1), default=4, metavar="K", help="responses a problem (default: 4)"
    )
    added.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1)")
    added.add_argument(
        "--masking",
        default="attention",
        help="how tokens are hidden: attention (later tokens cannot attend to them) or deletion (default: attention)",
    )
    add_response_limit(added)
    add_policy_options(added)
    add_batch_size(added, 32)
    add_export(added, (".json", ".md"), "also write it to")


def _replay(options: argparse.Namespace) -> int:
    import torch

    from harness import experiment as experiments
    from harness.policy import to_gpu
    from harness.studies import given as givens
    from harness.studies import replay as replays
    from harness.studies import replay_page, rollouts

    torch.set_num_threads(1)
    wanted = method_names(options)
    place = Path(options.source)
    lacks, continuations, seed = [], options.continuations, 0
    if place.is_dir() or place.suffix in (".parquet", ".jsonl"):
        if options.changes:
            raise ExperimentError(
                "--set goes with an experiment; recorded rollouts are taken as they are, at the initial policy"
            )
        if options.seed is not None:
            raise ExperimentError(
                "--seed goes with an experiment, whose rollouts are sampled; recorded rollouts are taken as they are"
            )
        table = None if options.task is None else task_table(options.task)
        given = givens.read(place, options.batches, options.policy, table, _policy_for)
        experiment, policy, batches, source = given.experiment, given.policy, given.batches, given.source
        lacks, continuations = list(given.lacks), continuations if given.values else 0
        methods = replays.methods_of(experiment, wanted)
    else:
        if options.task is not None:
            raise ExperimentError(
                "--task goes with files and records of scripts; an experiment names its own"
            )
        experiment = experiments.load(options.source, changes=options.changes)
        methods = replays.methods_of(experiment, wanted)
        policy = _policy_for(experiment, options.policy or experiment.policy.name)
        options.seed = seed = int(options.seed or 0)  # the command that is kept names it
        batches, source = None, f"sampled, seed {seed}"
    policy = to_gpu(policy)
    policy.model.float()  # as it is trained, whatever it is read in
    if batches is None:
        batches = rollouts.fresh(experiment, policy, options.batches, seed)
    with Bars("", lines=False) as progress:
        progress.begin(len(methods) + 1, 0)
        result = replays.replay(
            experiment,
            policy,
            batches,
            source,
            methods,
            options.valued,
            continuations,
            options.policy or experiment.policy.name,
            progress.at,
        )
    asked = ("policy", "task", "seed", "batches", "methods", "valued", "continuations")
    again = command_again(options, ("source",), asked)
    result = replace(result, changes=options.changes, command=again)
    page = replay_page.page(result, [*lacks, *_not_replayed(wanted, methods)])
    return _show(options, page, result)


def _not_replayed(wanted: list[str] | None, methods: dict[str, Any]) -> list[str]:
    """A line on the registered methods that a replay of all of them leaves to those who name them."""
    from flowtracer import credit

    names = [] if wanted is not None else [name for name in credit.names() if name not in methods]
    if not names:
        return []
    return [f"not replayed: {', '.join(names)}: they sample further responses; name them with --methods"]


def _policy_for(experiment: Any, name: str) -> Any:
    """The policy called `name`, rendered and read as an experiment's own."""
    from harness.policy import load_policy
    from harness.runs.run import policy_of

    initial = policy_of(experiment)
    if name == experiment.policy.name:
        return initial
    return load_policy(name, initial.chat, experiment.policy.system, experiment.policy.dtype)


def _intervene(options: argparse.Namespace) -> int:
    import torch

    from flowtracer import credit
    from harness.policy import to_gpu
    from harness.studies import intervene as interventions

    torch.set_num_threads(1)
    names = method_names(options)
    task = task_named(options.task)
    problems = task.problems(options.split, options.problems)
    methods = {name: credit.get(name) for name in names or ()}
    policy = to_gpu(policy_named(options.policy, options))
    longest = max(len(policy.encode(task.prompt(problem))) for problem in problems)
    # The prefix that stays of a response is followed by as many tokens again.
    tokens = response_limit(options.max_response_tokens, policy, longest, responses=2)
    with Bars("", lines=False) as progress:
        progress.begin(3 + 3 * len(methods), 0)
        result = interventions.intervene(
            policy,
            task,
            problems,
            methods,
            Sampling(tokens, options.temperature),
            options.samples,
            options.masking,
            options.batch_size,
            options.policy,
            progress.at,
        )
    asked = ("methods", "problems", "split", "samples", "temperature", "masking", "max_response_tokens")
    of_policy = ("dtype", "chat", "system", "batch_size")
    result = replace(result, command=command_again(options, ("policy", "task"), (*asked, *of_policy)))
    return _show(options, interventions.page(result), result)


def _show(options: argparse.Namespace, page: Any, result: Any) -> int:
    """Prints the page and writes it; where it was not written, a last line says how."""
    status = show_page(page, lambda: as_json(asdict(result)), options.export)
    if not options.export:
        closing(None, same(options, "--export", f"{options.command}.md"))
    return status
