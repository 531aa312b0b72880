"""The parts that every page is made of: escaped text, tables, the frame with its style and script."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

from leaderboards import sheets
from leaderboards.sheets import Sheet, plain

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def text(value: object) -> str:
    """A text as HTML. Control characters are no HTML, and a policy may write any: they are shown by their number."""
    shown = "".join(c if c in "\n\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))
    return html.escape(shown)


def table(sheet: Sheet, baseline: str | None = None, heading: str = "h2", name: str = "") -> str:
    """A table under its title. The row of the `baseline` is quiet; `name`: its class, for the style.

    Each cell has the name of its column, which stands beside it where a narrow page lays a row out as a card.
    """

    def cell(tag: str, column: int, content: str, more: str = "") -> str:
        names = " ".join(["word"] * (column in sheet.words) + [more] * bool(more))
        label = f' data-column="{text(sheet.columns[column])}"' if tag == "td" else ""
        return f'<{tag} class="{names}"{label}>{text(content)}</{tag}>'

    head = "".join(cell("th", column, title) for column, title in enumerate(sheet.columns))
    rows = []
    for row in sheet.rows:
        row_class = ' class="baseline"' if row[0] == baseline else ""
        tones = (
            sheets.tone(content, "soft") if sheet.columns[column] in sheets.JUDGED else ""
            for column, content in enumerate(row)
        )
        cells = (
            cell("td", column, content, tone)
            for column, (content, tone) in enumerate(zip(row, tones, strict=True))
        )
        rows.append(f"<tr{row_class}>{''.join(cells)}</tr>")
    note = f'<p class="note">{text(sheet.note)}</p>' if sheet.note else ""
    return (
        f'<{heading}>{text(sheet.title)}</{heading}>\n<div class="scroll"><table class="{name}"><thead><tr>{head}</tr>'
        f"</thead>\n<tbody>{''.join(rows)}</tbody></table></div>\n{note}"
    )


def page(title: str, body: Iterable[str], data: Any = None) -> str:
    """The whole page. data: what its script draws, as plain values; None for a page without a script."""
    parts = [part for part in body if part]
    if data is not None:
        # "<" in a label must not end the script element.
        drawn = json.dumps(plain(data), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        parts.append(f'<script type="application/json" id="data">{drawn}</script>')
        parts.append(f"<script>{_file('board.js')}</script>")
    joined = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{text(title)}</title>\n<style>{_file('board.css')}</style>\n</head>\n<body>\n{joined}\n</body>\n</html>\n"
    )


def _file(name: str) -> str:
    return resources.files("leaderboards.pages").joinpath(name).read_text(encoding="utf-8")
