"""claims: what was published, and what recorded runs say about it."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.shared import Commands, command, console, write
from harness.errors import ExperimentError


def add(commands: Commands) -> None:
    """Adds this command."""
    added = command(
        commands, "claims", _claims, "Print every published number, and what recorded runs say of it."
    )
    added.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="folders of recorded runs")
    added.add_argument("--export", type=Path, metavar="FILE", help="write it to FILE: .json or .md")


def _claims(options: argparse.Namespace) -> int:
    if options.export is not None and options.export.suffix not in (".json", ".md"):
        raise ExperimentError(f"--export {options.export}: the name must end in .json, .md")
    from harness import claims
    from leaderboards import load, report
    from leaderboards.terminal import render_sheets

    runs = [run for folder in options.folders for run in load(folder)]
    findings = claims.judge(claims.load(), runs)
    others = claims.beside(runs)
    sheets = [*claims.sheets(findings), *([others] if others else [])]
    if options.export is None:
        screen = console()
        screen.print(claims.counts(findings), style="bold", highlight=False)
        screen.print(render_sheets(sheets, screen.width))
        screen.print(f"\n{claims.NOTE}", style="dim italic", highlight=False)
    elif options.export.suffix == ".json":
        write(options.export, claims.to_json(findings))
    else:
        head = f"# Published claims\n\n{claims.counts(findings)}.\n\n{claims.NOTE}\n"
        write(options.export, "\n".join([head, *map(report.sheet_to_markdown, sheets)]))
    return 0
