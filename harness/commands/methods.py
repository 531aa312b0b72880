"""methods: the credit methods and their options."""

from __future__ import annotations

import argparse
import inspect
import re
from dataclasses import fields
from typing import Any

from harness.commands.shared import Commands, command, console, print_sheets


def add(commands: Commands) -> None:
    """Adds this command."""
    added = command(commands, "methods", _methods, "List the credit methods, or show the options of one.")
    added.add_argument("name", nargs="?", help="a credit method")


def _methods(options: argparse.Namespace) -> int:
    from flowtracer import credit
    from leaderboards.sheets import NOTHING, Sheet

    screen = console()
    if options.name is None:
        methods = [credit.get(name) for name in credit.names()]
        rows = tuple(
            (method.name, ", ".join(sorted(method.needs)) or NOTHING, _first(method)) for method in methods
        )
        note = "needs: what is captured of the model for it. flowtracer methods NAME shows options and source of one."
        sheet = Sheet("Credit methods", ("method", "needs", "credit"), rows, note, words=(0, 1, 2))
        print_sheets(screen, [sheet])
        return 0
    method = credit.get(options.name)
    screen.print(method.name, style="bold", markup=False, highlight=False)
    for paragraph in _paragraphs(method):
        screen.print(f"{paragraph}\n", markup=False, highlight=False)
    defaults = tuple(
        (name, _value(getattr(method, name))) for name in (option.name for option in fields(method))
    )
    note = f"In an experiment file: [methods.{method.name}], one line an option."
    if defaults:
        print_sheets(screen, [Sheet("Options", ("option", "default"), defaults, note, words=(0, 1))])
    return 0


def _first(method: Any) -> str:
    """The first sentence of what the method says of itself."""
    return re.split(r"\.(?= [A-Z])", _paragraphs(method)[0])[0].rstrip(".") + "."


def _paragraphs(method: Any) -> list[str]:
    return [" ".join(part.split()) for part in (inspect.getdoc(type(method)) or "").split("\n\n")]


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
