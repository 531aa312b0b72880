"""edges and steps: what maps and credit methods find of a reasoning graph that is known."""

from __future__ import annotations

import argparse
from typing import Any

from harness.commands.shared import (
    Commands,
    add_batch_size,
    add_export,
    add_methods,
    add_policy,
    add_policy_options,
    add_problems,
    add_response_limit,
    add_task,
    at_least,
    command,
    command_again,
    method_names,
    policy_named,
    response_limit,
    show_page,
    study_json,
    task_named,
    with_bar,
)
from harness.errors import ExperimentError


def add(commands: Commands) -> None:
    """Adds these commands."""
    added = command(
        commands,
        "edges",
        _edges,
        "See whether attention finds where each copied or computed token comes from, on a task that knows it: by flow, "
        "attention, attention rollout, gradient, and rules that read no model.",
    )
    _add_shared(added)
    added = command(
        commands,
        "steps",
        _steps,
        "See which credit methods give more to steps that the answer needs, and which to the first wrong step, on a "
        "task that knows both.",
    )
    _add_shared(added)
    add_methods(added, "credit methods beside flow (default: all)")


def _add_shared(added: argparse.ArgumentParser) -> None:
    add_policy(added)
    add_task(added, "a task that knows its steps and their sources: graph")
    add_problems(added, "test split")
    added.add_argument(
        "--samples", type=at_least(1), default=1, metavar="K", help="responses a problem (default: 1)"
    )
    added.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1)")
    add_response_limit(added)
    add_policy_options(added)
    add_batch_size(added, 256)
    add_export(added, (".json", ".md"), "also write it to")


def _edges(options: argparse.Namespace) -> int:
    from harness.studies import edges

    policy, task, responses, facts = _asked(options)
    rankings = with_bar(lambda progress: edges.rankings(policy, task, responses, progress))
    page = edges.page(rankings, facts, _command(options))
    return show_page(page, lambda: study_json(page, rankings), options.export)


def _steps(options: argparse.Namespace) -> int:
    from harness.studies import steps

    methods = steps.methods_of(method_names(options))
    policy, task, responses, facts = _asked(options)
    study = with_bar(
        lambda progress: steps.study(policy, task, responses, methods, options.batch_size, progress)
    )
    page = steps.page(study, facts, _command(options))
    return show_page(page, lambda: study_json(page, study), options.export)


def _asked(options: argparse.Namespace) -> tuple[Any, Any, Any, list[str]]:
    """The policy, the task, the policy's responses to its test problems, and facts about them."""
    if options.temperature == 0 and options.samples > 1:
        raise ExperimentError(f"--samples {options.samples} at temperature 0 are duplicates: take 1")
    import torch

    from harness import provenance
    from harness.studies import edges

    torch.set_num_threads(1)
    task = edges.graph_task(task_named(options.task))
    problems = task.problems("test", options.problems)
    policy = policy_named(options.policy, options)
    longest = max(len(policy.encode(task.prompt(problem))) for problem in problems)
    tokens = response_limit(options.max_response_tokens, policy, longest)
    responses, asked = edges.responses_of(
        policy, task, problems, options.samples, options.temperature, tokens, options.batch_size
    )
    made = provenance.versions()
    versions = ", ".join(f"{name} {made[name]}" for name in ("flowtracer", "python", "torch", "transformers"))
    facts = edges.facts(options.policy, task, responses, asked)
    return policy, task, responses, [*facts, f"made with {versions}, one thread"]


def _command(options: argparse.Namespace) -> str:
    methods = ("methods",) if options.command == "steps" else ()
    asked = ("problems", "samples", "temperature", "max_response_tokens", *methods)
    of_policy = ("dtype", "chat", "system", "batch_size")
    return command_again(options, ("policy", "task"), (*asked, *of_policy))
