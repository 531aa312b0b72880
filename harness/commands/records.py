"""leaderboard, compare and doctor: reading what runs recorded."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.commands import watch
from harness.commands.shared import (
    MISTAKE,
    Commands,
    add_export,
    closing,
    command,
    console,
    same,
    status,
    write,
)
from harness.errors import ExperimentError
from harness.repeating import repeat
from leaderboards.declaration import BASELINE, METRICS

#: Exit status of `compare` where the two are not the same; as of diff.
DIFFERENT = 1
FORMATS = (".json", ".csv", ".md", ".html")

Boards = list[tuple[Any, list[Any]]]  # a Comparison and the runs that it was made from


def add(commands: Commands) -> None:
    """Adds these commands."""
    added = command(
        commands, "leaderboard", _leaderboard, "Print what recorded runs say, or write it to a file."
    )
    added.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="folders of recorded runs, or CSV files of runs made elsewhere: method, seed, one column of values, and "
        "where they apply step, task, problem",
    )
    added.add_argument(
        "--baseline", default=BASELINE, help=f"the method to compare with (default: {BASELINE})"
    )
    added.add_argument(
        "--sort",
        default="difference",
        metavar="COLUMN",
        help="difference (default), method, p, accuracy, reward, length, truncated, seconds or tokens",
    )
    added.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="METHOD",
        help="show only this method beside the baseline; may be given several times",
    )
    _add_foreign(added)
    added.add_argument(
        "--pool",
        action="store_true",
        help="where several experiments are given, also show the means over all of them",
    )
    added.add_argument(
        "--watch",
        action="store_true",
        help="draw it anew while runs are recorded, until Ctrl-C; into a file, a line a minute until all are finished",
    )
    add_export(added, FORMATS, "instead of printing, write it to", "--html")

    added = command(
        commands,
        "compare",
        _compare,
        "Say whether two folders of recorded runs are the same, bit for bit.",
    )
    added.add_argument("one", type=Path, metavar="A", help="folder of recorded runs")
    added.add_argument("other", type=Path, metavar="B", help="folder of the same runs, made again")

    added = command(commands, "doctor", _doctor, "Check recorded runs and say what is wrong with them.")
    added.add_argument("folder", type=Path, help="folder of a run, or of several")


def _add_foreign(added: argparse.ArgumentParser) -> None:
    group = added.add_argument_group(
        "CSV files, and records of scripts", "They declare nothing, so the rule is given here."
    )
    group.add_argument(
        "--smallest-difference",
        type=float,
        metavar="D",
        help="the smallest difference that matters, in the unit of the values",
    )
    group.add_argument(
        "--metric",
        choices=METRICS,
        help="final_accuracy is the last step's value (default of CSV files), evaluation_area the mean height of the "
        "curve over steps, training_reward_area the mean over steps (default of scripts)",
    )
    group.add_argument("--column", metavar="NAME", help="the column of values, where there are more than one")


def _leaderboard(options: argparse.Namespace) -> int:
    rule = {name: getattr(options, name) for name in ("smallest_difference", "metric", "column")}
    given = {name: value for name, value in rule.items() if value is not None}
    arguments = (options.folders, options.baseline, options.sort, options.filter, given)
    if options.export and options.watch:
        raise ExperimentError("--watch draws on the screen, --export writes a file: give one of them")
    if options.export:
        _export(options.export, _boards(*arguments), options.pool)
    elif options.watch:
        screen = console()
        watch.watch(
            screen,
            options.folders,
            options.baseline,
            lambda: _drawn(_boards(*arguments), screen.width, options.pool),
        )
    else:
        screen = console()
        screen.print(_drawn(_boards(*arguments), screen.width, options.pool))
        closing(None, same(options, "--export", "board.html"))
    return 0


def show(folder: Path, baseline: str) -> None:
    """Prints the leaderboard of recorded runs."""
    screen = console()
    screen.print(_drawn(_boards([folder], baseline), screen.width))


def _runs(place: Path, baseline: str, rule: Mapping[str, Any]) -> tuple[list[Any], set[str]]:
    """The runs of a folder or a CSV file, and the parts of `rule` that those are compared by which declare nothing."""
    from leaderboards import load, read_csv
    from leaderboards.foreign import declared

    of_values = watch.is_csv(place)
    runs = [] if of_values else load(place)
    undeclared = [run for run in runs if "declaration" not in run.manifest.experiment]
    if (of_values or undeclared) and "smallest_difference" not in rule:
        raise ExperimentError(
            f"{place} does not declare which difference matters: say it with --smallest-difference, in the unit of its "
            "values"
        )
    if of_values:
        return list(read_csv(place, baseline=baseline, **rule)), set(rule)
    theirs = {name: value for name, value in rule.items() if name != "column"}
    return [declared(run, **theirs) if run in undeclared else run for run in runs], set(
        theirs if undeclared else ()
    )


def _check_used(rule: Mapping[str, Any], used: set[str], folders: Sequence[Path]) -> None:
    """Raises ExperimentError for a part of the rule that nothing was compared by."""
    if idle := [name for name in rule if name not in used]:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        why = "are compared by their declaration" if idle != ["column"] else "have no columns of values"
        raise ExperimentError(f"{named}: {', '.join(map(str, folders))} holds recorded runs, which {why}")


def _boards(
    folders: Sequence[Path],
    baseline: str,
    sort: str = "difference",
    only: Sequence[str] = (),
    rule: Mapping[str, Any] = MappingProxyType({}),
) -> Boards:
    """A comparison for each experiment, in the order of the folders. `rule`: for runs that declare nothing."""
    from leaderboards import RecordError, arranged, compare, experiments

    boards: Boards = []
    seen: dict[str, Path] = {}
    used: set[str] = set()
    for folder in folders:
        runs, by = _runs(folder, baseline, rule)
        used |= by
        groups = experiments(runs)
        for key, group in groups.items():
            name = group[0].manifest.name
            if key in seen:
                raise RecordError(
                    f"{seen[key]} and {folder} hold runs of the same experiment, {name}: "
                    "see with `flowtracer compare` whether they are the same, and give one"
                )
            seen[key] = folder
            if not any(run.method == baseline for run in group):
                among = (
                    f", one of {len(groups)} experiments there ({group[0].folder})" if len(groups) > 1 else ""
                )
                raise ExperimentError(
                    f"{folder} has no runs of {baseline!r} to compare with in {name} {key[:12]}{among}: "
                    "name another with --baseline"
                )
            boards.append((arranged(compare(group, baseline=baseline), sort, only), group))
    _check_used(rule, used, folders)
    return boards


def _drawn(boards: Boards, width: int, pooled: bool = False) -> Any:
    from rich.console import Group

    from leaderboards import sheets
    from leaderboards.terminal import overall, render

    together = overall([comparison for comparison, _ in boards], pooled)
    parts = [render(comparison, runs, width=width) for comparison, runs in boards]
    return Group(*parts, *([sheets.render([together], width)] if together else []))


def _export(files: list[Path], boards: Boards, pooled: bool = False) -> None:
    from leaderboards import report

    writers: dict[str, Any] = {
        ".json": report.to_json,
        ".csv": report.to_csv,
        ".md": report.to_markdown,
        ".html": _page,
    }
    if len(boards) > 1:
        names = ", ".join(comparison.experiment.get("name", "?") for comparison, _ in boards)
        other = next((file for file in files if file.suffix != ".html"), None)
        if other is not None:
            raise ExperimentError(f"--export {other}: a file holds one experiment, and these are {names}")
        for file in files:
            _write_index(file, boards, pooled)
        return
    for file in files:
        write(file, writers[file.suffix](*boards[0]))


def _page(comparison: Any, runs: list[Any]) -> str:
    from harness.asked import asked
    from harness.studies import claims
    from leaderboards.pages.board import to_html

    published = () if comparison.foreign else claims.about(comparison, runs)
    return to_html(comparison, runs, repeat(comparison), published, asked(comparison.experiment))


def _write_index(file: Path, boards: Boards, pooled: bool) -> None:
    """An index in `file`, and a page for each experiment beside it: board-decision.html beside board.html."""
    from leaderboards.pages.index import to_index
    from leaderboards.terminal import overall

    entries: list[tuple[Any, str]] = []
    for comparison, runs in boards:
        # A script's name may be that of a model on the hub, with a slash.
        title = re.sub(r"[/\\\x00-\x1f]+", "-", str(comparison.experiment.get("name", "experiment")))
        name = f"{file.stem}-{title}"
        if any(address == f"{name}.html" for _, address in entries):
            name += f"-{comparison.experiment_hash[:8]}"
        write(file.with_name(f"{name}.html"), _page(comparison, runs))
        entries.append((comparison, f"{name}.html"))
    together = overall([comparison for comparison, _ in boards], pooled=True) if pooled else None
    write(file, to_index(entries, together))


def _compare(options: argparse.Namespace) -> int:
    from leaderboards import load, sheets
    from leaderboards.repetition import pair_up, places

    first, second = load(options.one), load(options.other)
    with status("reading every value of both"):
        pairs = pair_up(first, second)
    rows = tuple((pair.method, str(pair.seed), pair.text) for pair in pairs)
    identical = sum(pair.identical for pair in pairs)
    screen = console()
    columns = ("method", "seed", "in both")
    screen.print(sheets.render([sheets.Sheet("A against B", columns, rows, words=(0, 2))], screen.width))
    for line in places(first, second):
        screen.print(line, style="dim", highlight=False, markup=False)
    screen.print(f"{identical} of {len(pairs)} runs are identical, bit for bit", highlight=False)
    if identical < len(pairs):
        closing(
            None,
            *(shlex.join(["flowtracer", "doctor", str(folder)]) for folder in (options.one, options.other)),
        )
    return 0 if identical == len(pairs) else DIFFERENT


def _doctor(options: argparse.Namespace) -> int:
    from harness.experiment import hash_of
    from leaderboards import load
    from leaderboards.code import changes

    runs = load(options.folder)
    faults = 0
    seen: dict[Any, Any] = {}
    arms: dict[Any, Any] = {}
    for run in runs:
        wrong = run.faults()
        key = run.manifest.experiment_hash
        if hash_of(run.manifest.experiment) != key:
            wrong.append(
                f"{run.folder / 'manifest.json'}: its experiment is not the one that its hash stands for"
            )
        twin = seen.setdefault((key, run.method, run.seed), run)
        if twin is not run:
            wrong.append(f"{run.folder}: the same method and seed as {twin.folder}; remove one of them")
        first = arms.setdefault((key, run.method), run)
        if lines := changes(first.manifest, run.manifest):
            wrong.append(
                f"{run.folder}: made by other code than {first.folder}: {', '.join(lines)}; two methods under one "
                "label: remove one of them"
            )
        faults += len(wrong)
        state = "finished" if run.finished else "not finished"
        print(f"{run.method} seed {run.seed}: {state}, {'sound' if not wrong else 'damaged'}")
        for line in wrong:
            print(f"  {line}")
    if faults:
        closing(options.folder)
        print("remove what is damaged and repeat the command that made these runs", file=sys.stderr)
        return MISTAKE
    closing(options.folder, shlex.join(["flowtracer", "leaderboard", str(options.folder)]))
    return 0
