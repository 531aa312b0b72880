"""profile: every credit method on every testbed, from files that other commands wrote."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.shared import Commands, add_export, command, command_again, show_page

LAYOUTS = ("testbed", "figure")


def add(commands: Commands) -> None:
    """Adds this command."""
    added = command(
        commands,
        "profile",
        _profile,
        "Put what is known of every credit method on every testbed into one place: training, replay, steps, values.",
    )
    added.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="JSON that `leaderboard`, `replay`, `steps` or `values` wrote with --export FILE.json; one of each for a "
        "testbed",
    )
    added.add_argument(
        "--by",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="a table a testbed with a column a figure (default), or a table a figure with a column a testbed",
    )
    add_export(added, (".json", ".md"), "also write it to")


def _profile(options: argparse.Namespace) -> int:
    from harness.studies import measured, profile

    testbeds = profile.joined(measured.read(options.files))
    by_testbed = options.by == LAYOUTS[0]
    tables = profile.by_testbed(testbeds) if by_testbed else profile.by_figure(testbeds)
    page = profile.page(testbeds, tables, command_again(options, ("files",), () if by_testbed else ("by",)))
    return show_page(page, lambda: profile.to_json(page, testbeds), options.export)
