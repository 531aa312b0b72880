"""Small tables on a console and in Markdown: the same sheets in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leaderboards.terminal import Sheet


def show(screen: Console, sheets: Sequence[Sheet]) -> None:
    """Prints the sheets; one that is wider than the screen goes on below, its first column repeated."""
    for sheet in sheets:
        screen.print(Text(f"\n{sheet.title}", style="bold"))
        for part in _fitting(sheet, screen.width):
            table = Table(
                box=box.SIMPLE_HEAD,
                header_style="dim",
                pad_edge=False,
                collapse_padding=True,
                show_edge=False,
            )
            for column in part:
                words = column in sheet.words
                table.add_column(sheet.columns[column], justify="left" if words else "right", no_wrap=True)
            for row in sheet.rows:
                table.add_row(*(Text(row[column]) for column in part))
            screen.print(table)
        if sheet.note:
            screen.print(Text(sheet.note, style="dim italic"))


def _fitting(sheet: Sheet, width: int) -> list[list[int]]:
    """The sheet's columns in pieces of at most `width` characters, each with the first column."""
    spaces = [
        max(len(row[column]) for row in (sheet.columns, *sheet.rows)) + 2
        for column in range(len(sheet.columns))
    ]
    pieces: list[list[int]] = [[0]]
    for column in range(1, len(sheet.columns)):
        if len(pieces[-1]) > 1 and sum(spaces[known] for known in pieces[-1]) + spaces[column] > width:
            pieces.append([0])
        pieces[-1].append(column)
    return pieces


def to_markdown(title: str, facts: Sequence[str], sheets: Sequence[Sheet]) -> str:
    """A page with the facts as a list and every sheet as a table."""
    lines = [f"# {_escaped(title)}", "", *(f"- {_escaped(fact)}" for fact in facts), ""]
    for sheet in sheets:
        lines += [f"## {_escaped(sheet.title)}", "", "| " + " | ".join(map(_escaped, sheet.columns)) + " |"]
        marks = ["---" if column in sheet.words else "--:" for column in range(len(sheet.columns))]
        lines += ["|" + "|".join(marks) + "|"]
        lines += ["| " + " | ".join(map(_escaped, row)) + " |" for row in sheet.rows]
        lines += ["", *([_escaped(sheet.note), ""] if sheet.note else [])]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    for character in "\\|<>`*":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def plain(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
