"""Small tables: one way to lay them out on a console, in Markdown, as CSV and as JSON.

A `Sheet` holds words only. Whoever has numbers puts them into words with the functions of this file first, so that
the console, the Markdown export and the page show the same.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from leaderboards.estimates import Interval  # and not scipy, for a table of names

NOTHING = "-"
#: A column of words may be broken into lines of about this length; numbers never are.
MOST_WORDS = 22
#: Columns that hold an outcome, which has a colour.
JUDGED = ("outcome", "status")
#: The first words of an outcome, and its tone. The page names its colours by tone as well.
TONES = {
    "better": "good",
    "worse": "bad",
    "no difference": "same",
    "cannot tell": "open",
    "reproduced": "good",
    "smaller than claimed": "same",
    "not reproduced": "open",
    "contradicted": "bad",
}
_STYLES = {"good": "bold green", "bad": "bold red", "same": "cyan", "open": "yellow"}


@dataclass(frozen=True)
class Sheet:
    """One small table. The first column names the row; `note` explains what the columns mean."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    #: Columns that hold words and stand left; the others are numbers and stand right.
    words: tuple[int, ...] = field(default=(0,))


# ------------------------------------------------------------------------------------- numbers in words


def level(value: float | None, interval: Interval | None, digits: int = 3, sign: str = "") -> str:
    """`0.469 ±0.013`: a mean and the half-width of its (symmetric) interval."""
    if value is None:
        return NOTHING
    text = f"{rounded(value, digits):{sign}.{digits}f}"
    return text if interval is None else f"{text} ±{(interval[1] - interval[0]) / 2:.{digits}f}"


def rounded(value: float, digits: int) -> float:
    """The value, or plain 0 where it would be printed as a signed zero."""
    return 0.0 if abs(value) < 0.5 * 10**-digits else value  # never "-0.000"


def number(value: float, digits: int) -> str:
    """The number at so many digits; a dash where it was not measured."""
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def p_value(p: float | None) -> str:
    """A p value at three digits."""
    return NOTHING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def share(value: float) -> str:
    """A share as a percentage."""
    return f"{value:.1%}"


def seconds(value: float) -> str:
    """A duration with the unit that fits it."""
    if not math.isfinite(value):
        return NOTHING
    if value < 1:
        return f"{value * 1000:.1f} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def count(value: float) -> str:
    """A large number, shortened."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1000 if unit == 'k' else limit):.1f}{unit}"
    return f"{value:.0f}"


def tone(outcome: str, otherwise: str) -> str:
    """good, bad, same or open, by the first words of an outcome; `otherwise` where it is none of them."""
    return next((tone for start, tone in TONES.items() if outcome.startswith(start)), otherwise)


def style(outcome: str) -> str:
    """The outcome's colour on a console."""
    return _STYLES.get(tone(outcome, ""), "dim")


# ------------------------------------------------------------------------------------- on a console


def fitted(sheet: Sheet, width: int) -> list[Sheet]:
    """The sheet, its columns spread evenly over as many sheets as it takes to fit in `width` columns."""

    def space(column: int) -> int:
        longest = max(len(row[column]) for row in (sheet.columns, *sheet.rows))
        return min(longest, MOST_WORDS) if column in sheet.words[1:] else longest

    spaces = [space(column) for column in range(len(sheet.columns))]
    others = range(1, len(sheet.columns))
    parts: list[tuple[int, ...]] = [tuple(range(len(sheet.columns)))]
    for pieces in range(1, len(sheet.columns)):
        size = math.ceil(len(others) / pieces)
        parts = [(0, *others[start : start + size]) for start in range(0, len(others), size)]
        if all(sum(spaces[column] + 2 for column in part) - 2 <= width for part in parts):
            break
    return [
        Sheet(
            sheet.title + (f" ({place} of {len(parts)})" if len(parts) > 1 else ""),
            tuple(sheet.columns[column] for column in part),
            tuple(tuple(row[column] for column in part) for row in sheet.rows),
            sheet.note if place == len(parts) else "",
            tuple(index for index, column in enumerate(part) if column in sheet.words),
        )
        for place, part in enumerate(parts, start=1)
    ]


def table(
    sheet: Sheet, quiet: str | None = None, drawn: tuple[str, Mapping[str, Text]] | None = None
) -> RenderableType:
    """The sheet for a console, whatever its width. The row named `quiet` is dimmed.

    drawn: one more column, its head and a drawing for each row by the row's name.
    """
    shown = Table(
        box=box.SIMPLE_HEAD,
        header_style="dim",
        pad_edge=False,
        collapse_padding=True,
        padding=(0, 1),
        show_edge=False,
    )
    for index, column in enumerate(sheet.columns):
        words = index in sheet.words
        shown.add_column(column, justify="left" if words else "right", no_wrap=not words or index == 0)
    if drawn:
        shown.add_column(drawn[0], justify="left", no_wrap=True)
    for row in sheet.rows:
        plain_style = "dim" if row[0] == quiet else ""
        cells = [
            Text(cell, style=style(cell) if column in JUDGED else plain_style)
            for column, cell in zip(sheet.columns, row, strict=True)
        ]
        shown.add_row(*cells, *([drawn[1][row[0]]] if drawn else []))
    parts: list[RenderableType] = [Text(), Text(sheet.title, style="bold"), shown]
    return Group(*parts, Text(sheet.note, style="dim italic")) if sheet.note else Group(*parts)


def render(sheets: Iterable[Sheet], width: int = 80) -> RenderableType:
    """The sheets for a console of `width` columns; a wider one goes on below, its first column repeated."""
    return Group(*(table(piece) for sheet in sheets for piece in fitted(sheet, width)))


# ------------------------------------------------------------------------------------- in files


def escaped(text: str) -> str:
    """The text on one line, with nothing in it that Markdown would read as markup."""
    for character in "\\|<>`*":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def to_markdown(sheet: Sheet, heading: str = "###") -> str:
    """One table in Markdown, under its title."""
    lines = [f"{heading} {escaped(sheet.title)}", ""]
    lines.append("| " + " | ".join(map(escaped, sheet.columns)) + " |")
    marks = ("---" if column in sheet.words else "--:" for column in range(len(sheet.columns)))
    lines.append("|" + "|".join(marks) + "|")
    lines += ["| " + " | ".join(map(escaped, row)) + " |" for row in sheet.rows]
    return "\n".join([*lines, *(["", escaped(sheet.note)] if sheet.note else []), ""])


def page_to_markdown(title: str, facts: Sequence[str], sheets: Iterable[Sheet]) -> str:
    """A page in Markdown: the facts as a list, then every sheet as a table."""
    lines = [f"# {escaped(title)}", "", *(f"- {escaped(fact)}" for fact in facts), ""]
    return "\n".join([*lines, *(to_markdown(sheet, "##") for sheet in sheets)])


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Values as CSV: one line for the names of the columns, then one a row; numbers at seven digits."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([f"{cell:.7g}" if isinstance(cell, float) else cell for cell in row])
    return output.getvalue()


def plain(value: Any) -> Any:
    """The value as JSON can hold it: no NaN (what is not finite becomes null), lists for tuples, texts for keys."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
