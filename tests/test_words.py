"""Protects the words of the code: docstrings say what a thing is or does, and values are named by what they hold."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("flowtracer", "tasks", "leaderboards", "harness", "docs/scripts")
#: "What X does" and "Whether X" are no sentences: "X, which ..." and "True if X" are.
OPENING = re.compile(r"(What|Whether)\b")
#: Words that any value could have for a name.
NAMELESS = {"found", "one", "own", "told", "kept"}


def docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def comments(source: str) -> Iterator[str]:
    """The first lines of comments that document what follows them."""
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.string.startswith("#:") and not before.startswith("#:"):
            yield token.string.removeprefix("#:").strip()
        if token.type != tokenize.NL:
            before = token.string


def values(tree: ast.Module) -> Iterator[str]:
    """Names that are given to values: of variables and of arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        if isinstance(node, ast.arg):
            yield node.arg


def faults(source: str) -> list[str]:
    tree = ast.parse(source)
    texts = [*docstrings(tree), *comments(source)]
    return [
        *(text.split("\n")[0] for text in texts if OPENING.match(text)),
        *(f"a value named {name}" for name in values(tree) if name in NAMELESS),
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_words_of_a_folder(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    said = {str(file.relative_to(ROOT)): faults(file.read_text(encoding="utf-8")) for file in files}
    assert {file: lines for file, lines in said.items() if lines} == {}


def whole(code: str) -> bool:
    """True if it is Python: a page may show a call with `...` in the place of arguments."""
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def test_the_words_of_code_on_pages() -> None:
    """A reader copies it."""
    pages = [ROOT / "README.md", ROOT / "tasks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in pages}
    blocks = [
        (page, code)
        for page, text in texts.items()
        for code in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
        if whole(code)
    ]
    assert len(blocks) > 15
    assert [(page, fault) for page, code in blocks for fault in faults(code)] == []


def test_a_fault_is_seen() -> None:
    source = '''
"""Whether it is there."""

#: What it holds.
one = 1
#: All that is here.
#: What stands in the second line of a comment opens nothing.
other = 2
kept, told = 1, 2


def method(found, *, own):
    """What it gives."""


def whatever():
    """Whatever is given; what it says."""
    for one in ():
        pass
'''
    assert sorted(faults(source)) == [
        "What it gives.",
        "What it holds.",
        "Whether it is there.",
        "a value named found",
        "a value named kept",
        "a value named one",
        "a value named one",
        "a value named own",
        "a value named told",
    ]
