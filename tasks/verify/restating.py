"""Answers that only repeat a formula of the question.

`\\sqrt{242}` is the value that "Simplify $\\sqrt{242}$." asks for, and no answer to it: a policy that is rewarded for
copying learns to copy. About one problem of MATH in twenty can be copied so.
"""

from __future__ import annotations

import re
from functools import lru_cache

from tasks.verify import numbers, points, quantities, spelling
from tasks.verify.forms import ordered_name, parse
from tasks.verify.reading import UnreadableError, read

_FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<!\\)\$([^$]+)\$", re.DOTALL)
#: Kinds of answers that may leave work to do. Numbers count as their values, however they are written.
_OPEN = ("formula", "equation", "region", "determinant")
_OPERATION = re.compile(r"[-+*/^!|<>=]|\\[a-zA-Z]{2,}")


def repeats(gold: str, answer: str, question: str) -> bool:
    """True if an answer is a formula of its question as it stands there, and the gold is written otherwise.

    All three are texts; gold and answer are cleaned. An equation or an order counts where it is not solved: `x = 5` and
    `x < 5` say a value, though the question may say them too.
    """
    formulas = _formulas(question) if "$" in question or "\\" in question else frozenset()
    form = parse(answer)
    if not formulas or form.kind not in _OPEN or ordered_name(form):
        return False
    sides, wanted = spelling.split(answer, "="), spelling.split(gold, "=")
    labelled = len(sides) > 1 and quantities.is_label(sides[0])
    if len(sides) > 1 and not labelled and points.constant(sides[0]) is None and _bare(answer) in formulas:
        return len(sides) != len(wanted) or not all(map(_as_written, wanted, sides))
    expected = [gold, *wanted]
    return all(
        _bare(side) in formulas
        and _OPERATION.search(side)
        and numbers.parse(side) is None
        and not any(_as_written(text, side) for text in expected)
        for side in (sides[1:] if labelled else sides)
    )


def _as_written(gold: str, answer: str) -> bool:
    """True if two texts are one formula term by term, in TeX that may differ: `\\frac x2` and `\\frac{x}{2}`."""
    if _bare(gold) == _bare(answer):
        return True
    try:
        return read(gold).tree == read(answer).tree
    except (UnreadableError, RecursionError):
        return False


@lru_cache(maxsize=256)
def _formulas(question: str) -> frozenset[str]:
    """The formulas that a question sets between dollar signs or brackets, and the sides of its equations."""
    written = ["".join(match.groups(default="")) for match in _FORMULA.finditer(question)]
    cleaned = [spelling.clean(text) for text in written if len(text) <= spelling.LONGEST]
    return frozenset(_bare(side) for text in cleaned for side in (text, *spelling.split(text, "=")))


def _bare(text: str) -> str:
    """The text without blanks, and without brackets around the whole of it."""
    text = spelling.squeezed(text)
    while text[:1] == "(" and text[-1:] == ")" and spelling.balanced(text[1:-1]):
        text = text[1:-1]
    return text
