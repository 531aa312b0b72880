"""Shared by several commands: options, consoles, progress, files."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engines.base import DTYPES, FLOAT32
from harness.errors import ExperimentError

if TYPE_CHECKING:
    from harness.studies.answering import Page
    from leaderboards.sheets import Sheet

#: Exit statuses: a mistake in what was asked for; stopped by Ctrl-C, after saving.
MISTAKE, STOPPED = 2, 130

#: Seconds between two lines of progress where there is no terminal.
MINUTE = 60.0

Commands = Any  # what argparse's add_subparsers gives; its type is private
Run = Callable[[argparse.Namespace], int]

#: Kinds of names that an argument takes; a shell completes them (`completion.py`). Arms are the labels of experiments.
EXPERIMENTS, ARMS, METHODS, TASKS, POLICIES = ("experiments", "arms", "methods", "tasks", "policies")


def command(commands: Commands, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    """Adds a command that `run` carries out, giving its exit status."""
    added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    added.set_defaults(run=run)
    added.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE",
        help="a .py file or a module with credit methods or tasks of your own; may be given several times",
    )
    return added


def of_kind(argument: argparse.Action, *kinds: str) -> None:
    """Notes that an argument takes names of these kinds."""
    argument.kinds = kinds  # type: ignore[attr-defined]


def kinds_of(argument: argparse.Action) -> tuple[str, ...]:
    """The kinds of names that an argument takes; none where its values have no names."""
    return getattr(argument, "kinds", ())


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number which is not smaller."""

    def count(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text}: give a whole number, at least {least}") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number}: give at least {least}")
        return number

    return count


def say(line: str, status: int) -> int:
    """Prints one line on standard error and gives the exit status."""
    print(f"flowtracer: {line}", file=sys.stderr)
    return status


def console() -> Any:
    """Where results are printed."""
    from rich.console import Console

    # Where output is no terminal, a width that fits a page beats rich's guess.
    return Console(width=None if sys.stdout.isatty() else 100)


def print_sheets(screen: Any, sheets: Iterable[Sheet]) -> None:
    """Prints tables, each as wide as the screen at most."""
    from leaderboards.sheets import render

    screen.print(render(sheets, screen.width))


def status(text: str) -> Any:
    """A sign of life while something without steps is done."""
    from rich.console import Console

    return Console(stderr=True).status(text)


def add_export(parser: argparse.ArgumentParser, formats: Sequence[str], text: str, *names: str) -> None:
    """Adds --export FILE, for files of these suffixes; given several times, it writes several."""

    def named(file: str) -> Path:
        if Path(file).suffix not in formats:
            raise argparse.ArgumentTypeError(f"{file}: the name must end in {', '.join(formats)}")
        return output(file)

    parser.add_argument(
        "--export",
        *names,
        type=named,
        action="append",
        default=[],
        metavar="FILE",
        help=f"{text} FILE: {', '.join(formats)}; may be given several times",
    )


def add_changes(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds --set KEY=VALUE, as `changes`, for what `experiment.load` applies to an experiment."""
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"change a key of the experiment for this command only, such as {example}; may be given several times",
    )


def command_again(options: argparse.Namespace, places: Sequence[str], names: Iterable[str]) -> str:
    """The command line again, from what was asked: to be kept beside what it wrote.

    places: the names of its positional arguments, which may be lists. names: of its options, in their order; those
    without a value are left out. Files of --import, changes of --set and files of --export are added.
    """
    words = ["flowtracer", options.command]
    for place in map(vars(options).get, places):
        words += [str(value) for value in (place if isinstance(place, list) else [place]) if value]
    for name in names:
        value, given = getattr(options, name), name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{given}" if value else f"--no-{given}")
        elif value is not None:
            words += option(given, value)
    for given, name in (("import", "imports"), ("set", "changes"), ("export", "export")):
        for value in getattr(options, name, ()):
            words += option(given, value)
    return shlex.join(words)


def option(name: str, value: Any) -> list[str]:
    """An option with its value as words that give this value again."""
    text = str(value)
    if isinstance(value, float) and float(f"{value:g}") == value:
        text = f"{value:g}"
    # As a word of its own, a text that begins with a dash would be taken for an option.
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]


def output(file: str) -> Path:
    """A file to be written; where that is hopeless, it is said before the work and not after it."""
    path = Path(file)
    folder, new = path.absolute().parent, not path.exists()
    if not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{file}: there is no folder {folder} that can be written to")
    try:
        path.open("ab").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{file} cannot be written: {error.strerror}") from None
    if new:
        path.unlink()
    return path


def writable_folder(folder: Path) -> Path:
    """The folder, made where it was not there. Raises ExperimentError where nothing can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix="."):  # on some disks it has a name for a moment
            return folder
    except OSError as error:
        raise ExperimentError(
            f"--out {folder} cannot be written to ({error.strerror}); give another folder"
        ) from None


def write(path: Path, text: str) -> None:
    """Writes a text file and says so. Raises ExperimentError where that is not possible."""
    try:
        # The name of a file in it may be no UTF-8.
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ExperimentError(f"{path} cannot be written: {error.strerror}") from None
    print(f"wrote {path}")


def task_named(text: str) -> Any:
    """The task that `NAME` or `NAME:OPTION=VALUE,...` names."""
    import tasks

    return tasks.get(**task_table(text))


def task_table(text: str) -> dict[str, Any]:
    """The task that `NAME` or `NAME:OPTION=VALUE,...` names, as an experiment's table: its name and options."""
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        option, equals, value = part.partition("=")
        if not equals:
            raise ExperimentError(
                f"task {text!r}: write options as NAME:OPTION=VALUE, decision:variant=chain for one"
            )
        options[option] = int(value) if value.isdecimal() else value
    return {"name": name, **options}


def add_policy(parser: argparse.ArgumentParser, text: str = "") -> None:
    """Adds the argument `policy`."""
    words = text or "policy name, folder (a run's policy/ for one) or hub id"
    of_kind(parser.add_argument("policy", help=words), POLICIES)


def add_task(parser: argparse.ArgumentParser, text: str, *names: str, **more: Any) -> None:
    """Adds the argument `task`, or the option of these names."""
    of_kind(parser.add_argument(*(names or ("task",)), help=text, **more), TASKS)


def add_methods(parser: argparse.ArgumentParser, text: str, default: str | None = None) -> None:
    """Adds --methods, which `method_names` reads."""
    added = parser.add_argument("--methods", metavar="A,B", default=default, help=text)
    of_kind(added, METHODS)


def method_names(options: argparse.Namespace) -> list[str] | None:
    """The credit methods of --methods; None where it was not given. Raises ExperimentError for a list of none."""
    if options.methods is None:
        return None
    names = [name.strip() for name in options.methods.split(",")]
    if not any(names):
        raise ExperimentError(
            f"--methods {options.methods!r} names none: give one or more, flow,entropy for two; `flowtracer methods` "
            "lists them"
        )
    return [name for name in names if name]


def add_problems(parser: argparse.ArgumentParser, split: str, default: int | None = None) -> None:
    """Adds --problems. split: of which, in words."""
    parser.add_argument(
        "--problems",
        type=at_least(1),
        default=default,
        metavar="N",
        help=f"only the first N problems of the {split}" + (f" (default: {default})" if default else ""),
    )


def add_batch_size(parser: argparse.ArgumentParser, default: int) -> None:
    """Adds --batch-size."""
    parser.add_argument(
        "--batch-size",
        type=at_least(1),
        default=default,
        metavar="N",
        help=f"responses sampled at once (default: {default})",
    )


def add_response_limit(parser: argparse.ArgumentParser) -> None:
    """Adds --max-response-tokens."""
    parser.add_argument(
        "--max-response-tokens",
        type=at_least(1),
        metavar="N",
        help="longest response (default: 256, or what the policy's context leaves)",
    )


def response_limit(asked: int | None, policy: Any, longest_prompt: int, responses: int = 1) -> int:
    """Tokens that a response may have: as asked, else 256 or what the policy's context leaves to so many in a row."""
    if asked is not None:
        return asked
    context = getattr(policy.model.config, "max_position_embeddings", None) or longest_prompt + 256
    return max(1, min(256, (context - longest_prompt) // responses))


def add_server(parser: argparse.ArgumentParser) -> None:
    """Adds --server."""
    parser.add_argument(
        "--server",
        metavar="URL",
        help="with engine vllm: sample from this server, started by `flowtracer serve`, instead of in the process",
    )


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Adds --dtype."""
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=FLOAT32,
        help=f"type of number that it computes in (default: {FLOAT32})",
    )


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    """Adds --dtype, --chat and --system: how a policy is read."""
    add_dtype(parser)
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        help="put prompts into the chat template (default: where the policy has one)",
    )
    parser.add_argument("--system", metavar="TEXT", help="system message (default: that of the template)")


def policy_named(name: str, options: argparse.Namespace) -> Any:
    """The policy called `name`, read as those options say."""
    from harness.policy import load_policy

    return load_policy(name, options.chat, options.system, options.dtype)


def closing(records: Path | None, *following: str) -> None:
    """The last lines of a command, on standard error: where its records are, and what to type next."""
    if records is not None:
        print(f"records: {records}", file=sys.stderr)
    for line in following:
        print(f"next: {line}", file=sys.stderr)


def same(options: argparse.Namespace, *more: str) -> str:
    """The command that was typed, with more words."""
    return shlex.join(["flowtracer", *options.typed, *more])


def imports(options: argparse.Namespace) -> list[str]:
    """The words that import again what the command imported."""
    return [word for name in options.imports for word in ("--import", name)]


class Bars:
    """Progress of a sweep: bars with the time left on a terminal; elsewhere a line a finished run, and a line a minute
    with counts and the time left.
    """

    def __init__(self, title: str, lines: bool = True) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.screen = Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.screen,
            disable=not self.screen.is_terminal,
            transient=True,
        )
        self.title, self.lines = title, lines
        self.running: dict[str, Any] = {}
        #: The line of each minute: steps done, of all, and before this began; runs; times.
        self.done = self.total = self.before = self.runs = 0
        self.began = self.said = time.monotonic()

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.bars.stop()

    def begin(self, steps: int, done: int) -> None:
        if self.lines and not self.screen.is_terminal:
            self.screen.print(self.title, highlight=False, markup=False)
        self.total, self.done, self.before = steps, done, done
        self.began = self.said = time.monotonic()
        self.whole = self.bars.add_task("all runs" if self.lines else "samples", total=steps, completed=done)

    def at(self, done: int, total: int) -> None:
        """`done` of `total` are done, where there are no jobs to tell apart."""
        self.bars.update(self.whole, completed=done, total=total)
        self.done, self.total = done, total
        self._each_minute("samples")

    def advance(self, job: Any, count: int) -> None:
        self.bars.advance(self.whole, count)
        name = str(job)
        if name not in self.running:
            self.running[name] = self.bars.add_task(f"  {name}", total=None)
        self.bars.advance(self.running[name], count)
        self.done += count
        self._each_minute("steps and evaluations")

    def _each_minute(self, what: str) -> None:
        """A line where there are no bars, once a minute."""
        now = time.monotonic()
        if self.screen.is_terminal or now - self.said < MINUTE:
            return
        from leaderboards.sheets import seconds

        self.said = now
        words = f"{self.done} of {self.total} {what}"
        if self.runs:
            words += f", {self.runs} runs finished"
        if self.done > self.before:
            left = (self.total - self.done) * (now - self.began) / (self.done - self.before)
            words += f", about {seconds(left)} left"
        self.screen.print(words, highlight=False)

    def finished(self, job: Any) -> None:
        if str(job) in self.running:
            self.bars.remove_task(self.running.pop(str(job)))
        self.runs += 1
        self.screen.print(f"finished {job}", highlight=False)

    def note(self, line: str) -> None:
        self.screen.print(line, highlight=False, markup=False)


def with_bar(work: Callable[[Callable[[int, int], None]], Any]) -> Any:
    """The result of `work`, its progress shown; it calls back with the parts that are done, and all."""
    with Bars("", lines=False) as bars:
        begun = False

        def at(done: int, total: int) -> None:
            nonlocal begun
            if not begun:
                bars.begin(total, 0)
                begun = True
            bars.at(done, total)

        return work(at)


def show_page(page: Page, to_json: Callable[[], str], export: Iterable[Path]) -> int:
    """Prints a result page and writes it to files: as Markdown, or as the JSON that `to_json` gives."""
    screen = console()
    screen.print(page.title, style="bold", markup=False, highlight=False)
    for line in (page.question, *page.facts):
        screen.print(line, markup=False, highlight=False)
    print_sheets(screen, page.tables)
    for path in export:
        write(path, page.to_markdown() if path.suffix == ".md" else to_json())
    return 0


def study_json(page: Page, study: Any) -> str:
    """A study as JSON: the page's title, facts and command, and the study's numbers as `results`."""
    rows = [asdict(row) for row in study] if isinstance(study, list) else asdict(study)
    return as_json({"title": page.title, "facts": list(page.facts), "command": page.command, "results": rows})


def as_json(table: Any) -> str:
    """A table as JSON text."""
    from leaderboards.sheets import plain

    return json.dumps(plain(table), indent=1) + "\n"
