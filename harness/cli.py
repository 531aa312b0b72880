"""The command line: `flowtracer COMMAND`. A user's mistake is one line on standard error and exit status 2."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import ExperimentError

#: Exit statuses: a mistake in what was asked for; stopped by Ctrl-C, after saving.
MISTAKE, STOPPED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit status."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except KeyboardInterrupt:
        return _say("stopped", STOPPED)
    except BrokenPipeError:
        # The reader of a pipe, `head` for one, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if _is_mistake(error):
            return _say(str(error), MISTAKE)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f" while writing {error.filename}" if error.filename else ""
            return _say(f"the disk is full{place}: free some space and run the same command again", MISTAKE)
        raise


def _is_mistake(error: Exception) -> bool:
    """Whether the error is one of the packages' own for a user's mistake, whichever of them were imported."""
    own = {"ExperimentError", "TaskError", "RecordError", "CreditError"}
    return any(kind.__name__ in own for kind in type(error).__mro__)


def _say(line: str, status: int) -> int:
    print(f"flowtracer: {line}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowtracer", description="Check token-level credit methods for GRPO, on the same seeds."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    added = command(
        "reproduce", _reproduce, "Train and evaluate every method and seed, and print what came out."
    )
    added.add_argument(
        "experiment",
        nargs="?",
        default="decision",
        help="name or .toml file of an experiment (default: decision)",
    )
    added.add_argument("--smoke", action="store_true", help="two seeds and a few steps, to see that it works")
    added.add_argument("--out", type=Path, help="folder of the runs (default: runs/EXPERIMENT)")
    added.add_argument("--workers", type=int, default=2, help="processes of one thread each (default: 2)")

    added = command("leaderboard", _leaderboard, "Print what recorded runs say, or write it to a file.")
    added.add_argument("folder", type=Path, help="folder of the runs of one experiment")
    added.add_argument("--baseline", default="uniform", help="the method to compare with (default: uniform)")
    added.add_argument(
        "--export", type=Path, metavar="FILE", help="write it to FILE: .json, .csv, .md or .html"
    )

    added = command("train", _train, "Train and evaluate one method of an experiment on one seed.")
    added.add_argument("experiment", help="name or .toml file of an experiment")
    added.add_argument("--method", required=True, help="one of the experiment's methods")
    added.add_argument("--seed", type=int, default=0, help="training seed (default: 0)")
    added.add_argument("--smoke", action="store_true", help="a few steps, to see that it works")
    added.add_argument("--out", type=Path, help="folder of the runs (default: runs/EXPERIMENT)")

    added = command("evaluate", _evaluate, "Ask a policy a task's test problems and print the verdicts.")
    added.add_argument("policy", help="policy name, folder (a run's policy/ for one) or hub id")
    added.add_argument("task", help="a task, NAME or NAME:OPTION=VALUE, decision:variant=chain for one")
    added.add_argument(
        "--problems", type=int, metavar="N", help="only the first N problems of the test split"
    )
    added.add_argument("--samples", type=int, metavar="K", help="samples a problem (default: the task's own)")
    added.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1)")
    _add_response_limit(added)
    added.add_argument("--batch-size", type=int, default=32, metavar="N")

    added = command(
        "trace", _trace, "Trace the flow through one response, and show its tokens by throughput."
    )
    added.add_argument("--policy", default="smollm2-135m-instruct", help="policy name, folder or hub id")
    added.add_argument(
        "--task", default="gsm8k", help="task that asks and finds the answer, NAME or NAME:OPTION=VALUE"
    )
    added.add_argument(
        "--problem", type=int, default=0, metavar="N", help="number of the test problem to answer"
    )
    added.add_argument("--question", help="ask this instead of a test problem")
    added.add_argument("--response", help="trace this response instead of sampling one (greedily)")
    added.add_argument(
        "--layers", default="middle", help="early, middle, late, all or 15-25 (default: middle)"
    )
    _add_response_limit(added)
    added.add_argument("--html", type=Path, metavar="FILE", help="also write a page for the browser")

    added = command("tasks", _tasks, "List the tasks, or show sample problems of one.")
    added.add_argument("name", nargs="?", help="a task")
    added.add_argument(
        "--lm-eval-path", action="store_true", help="print the folder for lm-eval's --include_path"
    )

    added = command(
        "validate", _validate, "Run every gold answer, and changed ones, through its own verifier."
    )
    added.add_argument("name", nargs="?", help="a task (default: all whose data can be found)")
    added.add_argument("--limit", type=int, metavar="N", help="only the first N problems of a split")

    added = command("doctor", _doctor, "Check recorded runs and say what is wrong with them.")
    added.add_argument("folder", type=Path, help="folder of a run, or of several")
    return parser


def _add_response_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-response-tokens",
        type=int,
        metavar="N",
        help="default: 256, or what the policy's context leaves",
    )


def _response_limit(asked: int | None, policy: Any, longest_prompt: int) -> int:
    if asked is not None:
        return asked
    context = getattr(policy.model.config, "max_position_embeddings", None) or longest_prompt + 256
    return max(1, min(256, context - longest_prompt))


def _reproduce(options: argparse.Namespace) -> int:
    from harness import experiment as experiments
    from harness import sweep

    experiment = experiments.load(options.experiment, smoke=options.smoke)
    experiments.check(experiment)
    folder = options.out or Path("runs") / experiment.name
    with _Bars(experiment.title) as progress:
        try:
            sweep.reproduce(experiment, folder, options.workers, progress)
        except sweep.Stopped:
            progress.stop()
            return _say(f"stopped; {folder} is whole: run the same command again, it goes on", STOPPED)
    _show(folder, "uniform")
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    if options.export is None:
        _show(options.folder, options.baseline)
        return 0
    from leaderboards import compare, load, report
    from leaderboards.page import to_html

    writers: dict[str, Any] = {
        ".json": report.to_json,
        ".csv": report.to_csv,
        ".md": report.to_markdown,
        ".html": to_html,
    }
    if options.export.suffix not in writers:
        raise ExperimentError(f"--export {options.export}: the name must end in {', '.join(writers)}")
    runs = load(options.folder)
    text = writers[options.export.suffix](compare(runs, baseline=options.baseline), runs)
    _write(options.export, text)
    return 0


def _show(folder: Path, baseline: str) -> None:
    from leaderboards import compare, load
    from leaderboards.terminal import render

    console = _console()
    runs = load(folder)
    if not any(run.method == baseline for run in runs):
        raise ExperimentError(
            f"{folder} has no runs of {baseline!r} to compare with: name another with --baseline"
        )
    console.print(render(compare(runs, baseline=baseline), runs, width=console.width))


def _console() -> Any:
    from rich.console import Console

    # Where output is no terminal, a width that fits a page beats rich's guess.
    return Console(width=None if sys.stdout.isatty() else 100)


def _trace(options: argparse.Namespace) -> int:
    import tasks
    from flowtracer import trace
    from harness import seeds
    from harness.policy import load_policy
    from harness.rollout import sample

    task = _task(options.task)
    if options.question is None:
        problems = task.problems("test", options.problem + 1)
        if not 0 <= options.problem < len(problems):
            raise ExperimentError(
                f"--problem {options.problem}: the test split has problems 0 to {len(problems) - 1}"
            )
        problem = problems[options.problem]
    else:
        problem = tasks.Problem(id=f"{task.name}/given", question=options.question, gold=None)
    policy = load_policy(options.policy)
    prompt_ids = policy.encode(task.prompt(problem))
    if options.response is None:
        key = seeds.key("evaluation", task.name, problem.id, 0)
        with _status("sampling a response"):
            one = sample(
                policy.model,
                policy.tokenizer,
                [prompt_ids],
                [key],
                _response_limit(options.max_response_tokens, policy, len(prompt_ids)),
                temperature=0.0,
            )[0]
        response_ids, text, reason = one.ids, one.text, one.finish_reason
    else:
        response_ids = policy.tokenizer(options.response, add_special_tokens=False).input_ids
        text, reason = options.response, "stop"
    layers = options.layers
    with _status("tracing it"):
        traced = trace(policy.model, policy.tokenizer, prompt_ids, response_ids, layers=layers, task=task)
    console = _console()
    console.print(f"{options.policy} on {problem.id}", markup=False, highlight=False)
    console.print(problem.question, markup=False, highlight=False)
    if problem.gold is not None:
        verdict = task.verify(problem, text, reason)
        console.print(f"\nverdict: {verdict} ({len(response_ids)} tokens, {reason})\n", highlight=False)
    console.print(traced.to_terminal(console.width))
    if options.html is not None:
        _write(options.html, traced.to_html())
        console.print(f"\nwrote {options.html}", highlight=False)
    return 0


def _train(options: argparse.Namespace) -> int:
    from harness import experiment as experiments
    from harness import sweep

    experiment = experiments.load(options.experiment, smoke=options.smoke)
    experiments.check(experiment)
    if options.method not in experiment.methods:
        known = ", ".join(experiment.methods)
        raise ExperimentError(
            f"experiment {experiment.name} has no method {options.method!r}; it has: {known}"
        )
    if not 0 <= options.seed < experiment.seeds:
        raise ExperimentError(
            f"--seed {options.seed}: the experiment declares seeds 0 to {experiment.seeds - 1}"
        )
    folder = options.out or Path("runs") / experiment.name
    with _Bars(experiment.title) as progress:
        try:
            sweep.reproduce(experiment, folder, 1, progress, only=(options.method, options.seed))
        except sweep.Stopped:
            progress.stop()
            return _say(f"stopped; {folder} is whole: run the same command again, it goes on", STOPPED)
    print(sweep.run_folder(folder, options.method, options.seed))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from collections import Counter

    import tasks
    from harness.evaluate import accuracy, evaluate
    from harness.policy import load_policy

    task = _task(options.task)
    problems = task.problems("test", options.problems)
    policy = load_policy(options.policy)
    longest = max(len(policy.encode(task.prompt(problem))) for problem in problems)
    samples = options.samples or (1 if options.temperature == 0 else task.samples)
    with _Bars("", lines=False) as progress:
        progress.begin(len(problems) * samples, 0)
        rows = evaluate(
            policy,
            task,
            problems,
            samples=samples,
            temperature=options.temperature,
            max_new_tokens=_response_limit(options.max_response_tokens, policy, longest),
            batch_size=options.batch_size,
            progress=progress.at,
        )
    counts = Counter(row["verdict"] for row in rows)
    console = _console()
    console.print(
        f"{options.policy} on {task.name}: {len(problems)} problems, {samples} samples each", highlight=False
    )
    console.print(f"accuracy {accuracy(rows):.4f}", highlight=False)
    for verdict in tasks.Verdict:
        console.print(f"  {verdict:<10} {counts.get(verdict, 0)}", highlight=False)
    return 0


def _validate(options: argparse.Namespace) -> int:
    from rich.table import Table

    import tasks
    from tasks.validate import validate

    console, failed, missing = _console(), False, []
    table = Table(
        "task", "split", "golds", "verify", "respelled", "changed", "pass", box=None, header_style="bold"
    )
    exceptions: list[str] = []
    for name in [options.name] if options.name else tasks.names():
        try:
            with _status(f"validating {name}"):
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
    console.print(table)
    for line in (*exceptions, *missing):
        console.print(line, markup=False, highlight=False)
    return MISTAKE if failed else 0


def _task(text: str) -> Any:
    """The task that `NAME` or `NAME:OPTION=VALUE,...` names."""
    import tasks

    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        option, equals, value = part.partition("=")
        if not equals:
            raise ExperimentError(
                f"task {text!r}: write options as NAME:OPTION=VALUE, decision:variant=chain for one"
            )
        options[option] = int(value) if value.isdecimal() else value
    return tasks.get(name, **options)


def _status(text: str) -> Any:
    from rich.console import Console

    return Console(stderr=True).status(text)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExperimentError(f"{path} cannot be written: {error.strerror}") from None


def _tasks(options: argparse.Namespace) -> int:
    import tasks

    if options.lm_eval_path:
        from tasks.lm_eval import FOLDER

        print(FOLDER)
        return 0
    console = _console()
    if options.name is None:
        from rich.table import Table

        table = Table("task", "problems", "source", "licence", "answer", box=None, header_style="bold")
        with _status("counting"):
            for name in tasks.names():
                kind = tasks.kind(name)
                table.add_row(name, _counts(name), kind.source, kind.licence, kind.answer_format)
        console.print(table)
        return 0
    task = tasks.get(options.name)
    for problem in task.problems(task.splits[-1], 3):
        console.print(f"[bold]{problem.id}[/bold]  gold: {json.dumps(problem.gold)}", highlight=False)
        console.print(task.prompt(problem) + "\n", markup=False, highlight=False)
    return 0


def _counts(name: str) -> str:
    """How many problems each split has; nothing is downloaded to find out."""
    import tasks

    if getattr(tasks.kind(name), "hub", None) is not None and "FLOWTRACER_DATA" not in os.environ:
        return "on the hub"
    try:
        task = tasks.get(name)
        return ", ".join(f"{len(task.problems(split))} {split}" for split in task.splits)
    except tasks.TaskError:
        return "not here"


def _doctor(options: argparse.Namespace) -> int:
    from leaderboards import load

    runs = load(options.folder)
    faults = 0
    for run in runs:
        found = run.faults()
        faults += len(found)
        state = "finished" if run.finished else "not finished"
        print(f"{run.method} seed {run.seed}: {state}, {'sound' if not found else 'damaged'}")
        for line in found:
            print(f"  {line}")
    return MISTAKE if faults else 0


class _Bars:
    """Progress of a sweep: bars with the time left on a terminal, a line a finished run elsewhere."""

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

        self.console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.title, self.lines = title, lines
        self.running: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.bars.stop()

    def begin(self, steps: int, done: int) -> None:
        if self.lines and not self.console.is_terminal:
            self.console.print(self.title, highlight=False)
        self.whole = self.bars.add_task("all runs" if self.lines else "samples", total=steps, completed=done)

    def at(self, done: int, total: int) -> None:
        """`done` of `total` are done, where there are no jobs to tell apart."""
        self.bars.update(self.whole, completed=done, total=total)

    def advance(self, job: Any, count: int) -> None:
        self.bars.advance(self.whole, count)
        name = f"  {job.action} {job}"
        if name not in self.running:
            self.running[name] = self.bars.add_task(name, total=None)
        self.bars.advance(self.running[name], count)

    def finished(self, job: Any) -> None:
        for name in [name for name in self.running if name.endswith(f" {job}")]:
            self.bars.remove_task(self.running.pop(name))
        self.console.print(f"finished {job}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
