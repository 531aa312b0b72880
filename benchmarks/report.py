"""Tables of a benchmark: printed by rich, kept as Markdown and JSON with machine, versions and date."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from harness import provenance

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of plain values, and how each column shows them. `columns`: header -> text of a row's cell."""

    columns: dict[str, Callable[[Row], str]]
    rows: list[Row]

    def cells(self) -> list[list[str]]:
        """The text of each cell, row by row."""
        return [[show(row) for show in self.columns.values()] for row in self.rows]


def made_here() -> Row:
    """Today, this machine, its versions, and the commit."""
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
    }


@dataclass(frozen=True)
class Report:
    """The outcome of a benchmark. text: how it was measured, and what follows from the rows, a paragraph each.

    plot: draws the picture into the file it is given, where there is one to draw.
    """

    name: str
    title: str
    text: list[str]
    tables: list[Table]
    plot: Callable[[Path], None] | None = None
    made_on: Row = field(default_factory=made_here)

    def show(self, console: Console) -> None:
        """Prints the tables and the text."""
        for index, table in enumerate(self.tables):
            drawn = RichTable(title=self.title if index == 0 else None)
            for position, header in enumerate(table.columns):
                drawn.add_column(header, justify="left" if position < 2 else "right")
            for cells in table.cells():
                drawn.add_row(*cells)
            console.print(drawn)
        for paragraph in self.text:
            console.print(paragraph, markup=False)

    def write(self, folder: Path, command: str) -> None:
        """Writes NAME.md, NAME.json and, with a plot, NAME-light.png and NAME-dark.png into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.plot is not None:
            self.plot(folder / self.name)
        (folder / f"{self.name}.md").write_text(self._markdown(command), encoding="utf-8")
        record = {"benchmark": self.name, "command": command, **self.made_on, "text": self.text}
        record["tables"] = [table.rows for table in self.tables]
        (folder / f"{self.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def _markdown(self, command: str) -> str:
        hardware = self.made_on["hardware"]
        versions = ", ".join(f"{name} {version}" for name, version in self.made_on["versions"].items())
        lines = [
            f"# {self.title}",
            "",
            f"`{command}`, {self.made_on['date']}, commit {self.made_on['git_commit'] or 'unknown'}.",
            f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gigabytes']} GB, "
            f"GPU: {hardware['gpu'] or 'none; its columns are unmeasured'}.",
            f"{versions}.",
        ]
        for table in self.tables:
            lines += ["", f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
            lines += [f"| {' | '.join(cells)} |" for cells in table.cells()]
        if self.plot is not None:
            lines += ["", f"![{self.title}]({self.name}-light.png)"]
        for paragraph in self.text:
            lines += ["", paragraph]
        return "\n".join([*lines, ""])


def figure(value: float | None, digits: int = 3) -> str:
    """A number in `digits` significant digits without an exponent; a dash for None."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - int(f"{value:e}".partition("e")[2]))
    return f"{value:,.{min(decimals, 6)}f}"


def spread(row: Row, name: str) -> str:
    """Median and quartiles, under `name` in a row, as one cell; a dash where nothing was measured."""
    found = row.get(name)
    if found is None:
        return "–"
    return f"{figure(found['median'])} ({figure(found['low'])} to {figure(found['high'])})"
