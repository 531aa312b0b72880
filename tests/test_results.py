"""Protects the tables and numbers that README and docs/results show: each is that of a kept file."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", ROOT / "docs" / "scripts" / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RESULTS = script()
#: What a page of results answers, in this order.
SECTIONS = ["The question", "The dumbest rules", "The table", "What it cannot say", "The command"]
#: A difference with its interval, as the tables print it.
DIFFERENCE = re.compile(r"[+-]\d\.\d{3} ± \d\.\d{3}")


@pytest.mark.parametrize("page", RESULTS.PAGES, ids=lambda page: page.name)
def test_every_table_is_what_the_kept_file_says(page: Path) -> None:
    text = page.read_text()
    assert RESULTS.filled(text) == text, "run `python docs/scripts/results.py`"


@pytest.mark.parametrize("page", RESULTS.PAGES, ids=lambda page: page.name)
def test_every_difference_in_the_text_stands_in_a_table_of_its_page(page: Path) -> None:
    text = page.read_text()
    tables = "\n".join(match[0] for match in RESULTS.MARKED.finditer(text))
    words = RESULTS.MARKED.sub("", text)
    known = set(DIFFERENCE.findall(tables))
    assert set(DIFFERENCE.findall(words)) <= known


@pytest.mark.parametrize("page", RESULTS.RESULTS, ids=lambda page: page.name)
def test_a_page_answers_in_order(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS


def test_a_wrong_number_is_seen() -> None:
    """The check itself: a table whose number was changed by hand is not what the file says."""
    page = next(page for page in RESULTS.PAGES if RESULTS.MARKED.search(page.read_text()))
    text = page.read_text()
    number = DIFFERENCE.search(RESULTS.MARKED.search(text)[0])
    assert number is not None
    assert RESULTS.filled(text.replace(number[0], "+9.999 ± 0.001")) == text
