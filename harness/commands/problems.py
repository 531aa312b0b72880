"""tasks and validate: looking at problems and their verifiers."""

from __future__ import annotations

import argparse
import json

from harness.commands.shared import MISTAKE, Commands, command, console, status


def add(commands: Commands) -> None:
    """Adds these commands."""
    added = command(commands, "tasks", _tasks, "List the tasks, or show sample problems of one.")
    added.add_argument("name", nargs="?", help="a task")
    added.add_argument(
        "--lm-eval-path", action="store_true", help="print the folder for lm-eval's --include_path"
    )

    added = command(
        commands, "validate", _validate, "Run every gold answer, and changed ones, through its own verifier."
    )
    added.add_argument("name", nargs="?", help="a task (default: all whose data can be found)")
    added.add_argument("--limit", type=int, metavar="N", help="only the first N problems of a split")


def _tasks(options: argparse.Namespace) -> int:
    import tasks

    if options.lm_eval_path:
        from tasks.lm_eval import FOLDER

        print(FOLDER)
        return 0
    screen = console()
    if options.name is None:
        from rich.table import Table

        # Nothing is counted here: that would read data sets and generate problems.
        table = Table("task", "source", "licence", "answer", box=None, header_style="bold")
        for name in tasks.names():
            kind = tasks.kind(name)
            table.add_row(name, kind.source, kind.licence, kind.answer_format)
        screen.print(table)
        return 0
    task = tasks.get(options.name)
    counts = ", ".join(f"{len(task.problems(split))} {split}" for split in task.splits)
    screen.print(f"{task.name}: {counts}\n", markup=False, highlight=False)
    for problem in task.problems(task.splits[-1], 3):
        screen.print(f"[bold]{problem.id}[/bold]  gold: {json.dumps(problem.gold)}", highlight=False)
        screen.print(task.prompt(problem) + "\n", markup=False, highlight=False)
    return 0


def _validate(options: argparse.Namespace) -> int:
    from rich.table import Table

    import tasks
    from tasks.validate import validate

    screen, failed, missing = console(), False, []
    table = Table(
        "task", "split", "golds", "verify", "respelled", "changed", "pass", box=None, header_style="bold"
    )
    exceptions: list[str] = []
    for name in [options.name] if options.name else tasks.names():
        try:
            with status(f"validating {name}"):
                found = validate(tasks.get(name), limit=options.limit)
        except tasks.TaskError as error:
            if options.name:
                raise
            missing.append(str(error))
            continue
        for one in found:
            failed |= not one.passed
            table.add_row(
                one.task, one.split, str(one.items), f"{one.rate:.2%}", f"{one.respelled_rate:.2%}",
                str(one.mutated), str(len(one.mutated_passed)),
            )  # fmt: skip
            exceptions += [f"{problem}: {answer!r} is {verdict}" for problem, answer, verdict in one.refused]
            exceptions += [
                f"{problem}: changed to {answer!r}, passes" for problem, answer, _ in one.mutated_passed
            ]
            exceptions += [f"{one.task}: in two splits: {question[:60]}" for question in one.shared]
    screen.print(table)
    for line in (*exceptions, *missing):
        screen.print(line, markup=False, highlight=False)
    return MISTAKE if failed else 0
