"""Tables are laid out in one way: the console, Markdown, CSV and JSON say the same, and nothing is cut off or lost."""

from __future__ import annotations

import io
import json
import math

from rich.console import Console

from leaderboards import sheets
from leaderboards.sheets import Sheet

SHEET = Sheet(
    "Numbers",
    ("method", "first", "second", "outcome"),
    (("uniform", "0.1", "a|b", "baseline"), ("flow", "-0.2", "<b>", "cannot tell: about 12 more seeds")),
    "A *note*.",
    words=(0, 3),
)


def printed(sheet: Sheet, width: int) -> list[str]:
    screen = Console(width=width, file=io.StringIO(), force_terminal=False)
    screen.print(sheets.render([sheet], width))
    return screen.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_numbers_in_words() -> None:
    assert sheets.level(-0.0001, None, 3, "+") == "+0.000"
    assert sheets.level(0.5, (0.4, 0.6)) == "0.500 ±0.100"
    assert [sheets.p_value(p) for p in (None, 0.0001, 0.0123)] == ["-", "<0.001", "0.012"]
    assert [sheets.seconds(value) for value in (0.0253, 3, 600, 7200)] == [
        "25.3 ms",
        "3.0 s",
        "10.0 min",
        "2.0 h",
    ]
    assert [sheets.count(value) for value in (512, 30720, 2.5e6)] == ["512", "30.7k", "2.5M"]


def test_a_wide_sheet_goes_on_below_with_its_first_column_and_loses_no_cell() -> None:
    wide = Sheet(
        "Wide", tuple(f"column{n}" for n in range(9)), (tuple(f"cell{n}" for n in range(9)),), "note"
    )
    pieces = sheets.fitted(wide, 40)
    assert len(pieces) > 1 and all(piece.columns[0] == "column0" for piece in pieces)
    assert [cell for piece in pieces for cell in piece.rows[0][1:]] == list(wide.rows[0][1:])
    assert [piece.note for piece in pieces] == [*[""] * (len(pieces) - 1), "note"]
    lines = printed(wide, 40)
    assert max(map(len, lines)) <= 40 and sum(line.count("cell") for line in lines) == 8 + len(pieces)


def test_words_are_broken_and_numbers_never() -> None:
    lines = printed(SHEET, 44)
    assert len(lines) > len(printed(SHEET, 80)) and max(map(len, lines)) <= 44
    assert any(line.split()[:2] == ["flow", "-0.2"] for line in lines)


def test_degenerate_sheets_are_drawn() -> None:
    assert sheets.fitted(Sheet("One column", ("name",), (("a" * 90,),)), 40)[0].columns == ("name",)
    assert any("only" in line for line in printed(Sheet("No rows", ("only", "heads"), ()), 40))


def test_markdown_escapes_and_aligns() -> None:
    assert sheets.escaped("a|b\n<c>") == "a\\|b \\<c\\>"
    lines = sheets.to_markdown(SHEET, "##").splitlines()
    assert lines[0] == "## Numbers" and lines[3] == "|---|--:|--:|---|"
    assert lines[4] == "| uniform | 0.1 | a\\|b | baseline |" and lines[-1] == "A \\*note\\*."
    page = sheets.page_to_markdown("Title", ["a fact"], [SHEET])
    assert page.startswith("# Title\n\n- a fact\n\n## Numbers\n")


def test_outcomes_have_the_tone_of_their_first_words() -> None:
    assert (
        sheets.tone("cannot tell: one seed", "soft") == "open" and sheets.tone("baseline", "soft") == "soft"
    )
    assert sheets.tone("not reproduced", "soft") == "open" != sheets.tone("reproduced", "soft")
    assert sheets.style("worse") == "bold red" and sheets.style("baseline") == "dim"


def test_csv_and_json_hold_values() -> None:
    assert sheets.to_csv(["a", "b"], [[1 / 3, "x,y"], ["", 2]]) == 'a,b\n0.3333333,"x,y"\n,2\n'
    value = {"a": (math.nan, math.inf, 1.5), 3: {"b": None}}
    assert json.loads(json.dumps(sheets.plain(value), allow_nan=False)) == {
        "a": [None, None, 1.5],
        "3": {"b": None},
    }
