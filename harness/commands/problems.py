"""tasks and validate: looking at problems and their verifiers."""

from __future__ import annotations

import argparse
import json
import shlex

from harness.commands.shared import (
    MISTAKE,
    Commands,
    add_task,
    at_least,
    closing,
    command,
    console,
    imports,
    print_sheets,
    status,
)


def add(commands: Commands) -> None:
    """Adds these commands."""
    added = command(commands, "tasks", _tasks, "List the tasks, or show sample problems of one.")
    add_task(added, "a task", "name", nargs="?")
    added.add_argument(
        "--lm-eval-path", action="store_true", help="print the folder for lm-eval's --include_path"
    )

    added = command(
        commands,
        "validate",
        _validate,
        "Check a task's verifier: every right answer must be correct, changed ones wrong.",
    )
    add_task(added, "a task (default: all whose data can be found)", "name", nargs="?")
    added.add_argument("--limit", type=at_least(1), metavar="N", help="only the first N problems of a split")


def _tasks(options: argparse.Namespace) -> int:
    from rich.text import Text

    import tasks

    if options.lm_eval_path:
        from tasks.lm_eval import FOLDER

        print(FOLDER)
        return 0
    screen = console()
    if options.name is None:
        from leaderboards.sheets import Sheet

        # Nothing is counted here: that would read data sets and generate problems.
        kinds = [(name, tasks.kind(name)) for name in tasks.names()]
        rows = tuple((name, kind.source, kind.licence, kind.answer_format) for name, kind in kinds)
        sheet = Sheet("Tasks", ("task", "source", "licence", "answer"), rows, words=(0, 1, 2, 3))
        print_sheets(screen, [sheet])
        return 0
    task = tasks.get(options.name)
    counts = ", ".join(f"{len(task.problems(split))} {split}" for split in task.splits)
    left_out = "".join(f"left out: {problem}: {reason}\n" for problem, reason in task.unreadable)
    screen.print(f"{task.name}: {counts}\n{left_out}", markup=False, highlight=False)
    for problem in task.problems(task.splits[-1], 3):
        # No markup: the gold [a, b] would be taken for a style, and vanish.
        screen.print(
            Text.assemble((problem.id, "bold"), f"  gold: {json.dumps(problem.gold)}"), highlight=False
        )
        screen.print(task.prompt(problem) + "\n", markup=False, highlight=False)
    again = [options.name, *imports(options)]
    closing(
        None,
        shlex.join(["flowtracer", "validate", *again]),
        shlex.join(["flowtracer", "evaluate", "POLICY", *again]),
    )
    return 0


def _validate(options: argparse.Namespace) -> int:
    import tasks
    from leaderboards.sheets import Sheet
    from tasks.validate import validate

    results, missing = [], []
    for name in [options.name] if options.name else tasks.names():
        try:
            with status(f"validating {name}"):
                results += validate(tasks.get(name), limit=options.limit)
        except tasks.TaskError as error:
            if options.name:
                raise
            missing.append(str(error))
    rows, exceptions = [], []
    for result in results:
        shares = (f"{result.rate:.2%}", f"{result.respelled_rate:.2%}")
        counts = (str(result.mutated), str(len(result.mutated_passed)))
        rows.append((result.task, result.split, str(result.items), *shares, *counts))
        exceptions += [f"{problem}: {answer!r} is {verdict}" for problem, answer, verdict in result.refused]
        exceptions += [
            f"{problem}: changed to {answer!r}, passes" for problem, answer, _ in result.mutated_passed
        ]
        exceptions += [f"{problem}: left out: {reason}" for problem, reason in result.unreadable]
        exceptions += [f"{result.task}: in two splits: {question[:60]}" for question in result.shared]
    columns = ("task", "split", "golds", "verify", "respelled", "changed", "pass")
    note = "verify, respelled: shares that are judged correct. pass: changed golds that are, which none should be."
    screen = console()
    print_sheets(
        screen, [Sheet("Golds through their own verifier", columns, tuple(rows), note, words=(0, 1))]
    )
    for line in (*exceptions, *missing):
        screen.print(line, markup=False, highlight=False)
    return MISTAKE if not all(result.passed for result in results) else 0
