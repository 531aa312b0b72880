"""claims: what was published, and what recorded runs say about it."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.shared import Commands, add_export, closing, command, console, write


def add(commands: Commands) -> None:
    """Adds this command."""
    added = command(
        commands,
        "claims",
        _claims,
        "Print every number that the FlowTracer paper published, and what recorded runs say of it.",
    )
    added.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="folders of recorded runs")
    add_export(added, (".json", ".md"), "instead of printing, write it to")


def _claims(options: argparse.Namespace) -> int:
    from harness.studies import claims
    from leaderboards import load
    from leaderboards.sheets import render, to_markdown

    runs = [run for folder in options.folders for run in load(folder)]
    findings = claims.judge(claims.load(), runs)
    others = claims.beside(runs)
    sheets = [*claims.sheets(findings), *([others] if others else [])]
    for file in options.export:
        head = f"# Published claims\n\n{claims.counts(findings)}.\n\n{claims.NOTE}\n"
        page = "\n".join([head, *map(to_markdown, sheets)])
        write(file, page if file.suffix == ".md" else claims.to_json(findings))
    if not options.export:
        screen = console()
        screen.print(claims.counts(findings), style="bold", highlight=False)
        screen.print(render(sheets, screen.width))
        screen.print(f"\n{claims.NOTE}", style="dim italic", highlight=False)
        if not options.folders:
            closing(None, "flowtracer claims FOLDER")
    return 0
