"""leaderboard and doctor: reading what runs recorded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.commands.shared import MISTAKE, Commands, command, console, write
from harness.errors import ExperimentError


def add(commands: Commands) -> None:
    """Adds these commands."""
    added = command(
        commands, "leaderboard", _leaderboard, "Print what recorded runs say, or write it to a file."
    )
    added.add_argument("folder", type=Path, help="folder of the runs of one experiment")
    added.add_argument("--baseline", default="uniform", help="the method to compare with (default: uniform)")
    added.add_argument(
        "--export", type=Path, metavar="FILE", help="write it to FILE: .json, .csv, .md or .html"
    )

    added = command(commands, "doctor", _doctor, "Check recorded runs and say what is wrong with them.")
    added.add_argument("folder", type=Path, help="folder of a run, or of several")


def _leaderboard(options: argparse.Namespace) -> int:
    if options.export is None:
        show(options.folder, options.baseline)
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
    write(options.export, text)
    return 0


def show(folder: Path, baseline: str) -> None:
    """Prints the leaderboard of recorded runs."""
    from leaderboards import compare, load
    from leaderboards.terminal import render

    screen = console()
    runs = load(folder)
    if not any(run.method == baseline for run in runs):
        raise ExperimentError(
            f"{folder} has no runs of {baseline!r} to compare with: name another with --baseline"
        )
    screen.print(render(compare(runs, baseline=baseline), runs, width=screen.width))


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
