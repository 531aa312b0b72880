"""Sets of real numbers, whichever way they are written: intervals, unions, orders, what is left out, finite sets."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from tasks.verify import points
from tasks.verify.forms import Form, parse
from tasks.verify.reading import wide
from tasks.verify.spelling import split

#: An end of an interval: its value, and 0 where the point itself is the end, 1 just above it, -1 just below it.
End = tuple[Any, int]
#: Pieces in order, none of which touches the next: (first end, last end).
Region = list[tuple[End, End]]
_INFINITE = float("inf")
_EVERYTHING: Region = [((-_INFINITE, 1), (_INFINITE, -1))]


def same(gold: Form, answer: Form) -> bool:
    """True if both are sets of numbers that can be read here, and the same one."""
    return bool(compared(gold, answer))


def compared(gold: Form, answer: Form) -> bool | None:
    """True if the two are the same set of numbers; None where one of them is none, or cannot be read here."""
    wanted, given = _region(gold), _region(answer)
    if wanted is None or given is None:
        return None
    return len(wanted) == len(given) and all(
        _same_end(end, other)
        for piece, match in zip(wanted, given, strict=True)
        for end, other in zip(piece, match, strict=True)
    )


def _same_end(end: End, other: End) -> bool:
    if end[1] != other[1]:
        return False
    if isinstance(end[0], Fraction) and isinstance(other[0], Fraction):
        return end[0] == other[0]
    if _INFINITE in (abs(end[0]), abs(other[0])):
        return bool(end[0] == other[0])
    return bool(abs(wide(end[0]) - wide(other[0])) < 1e-30)


def _region(form: Form) -> Region | None:
    if form.kind == "union":
        pieces = [_region(part) for part in form.parts]
        known = [region for region in pieces if region is not None]
        return _combined(known, form.brackets) if len(known) == len(pieces) else None
    if form.kind == "set":
        values = [_number(part.text) for part in form.parts]
        return None if None in values else _joined([((value, 0), (value, 0)) for value in values])
    if form.kind in ("interval", "tuple") and len(form.parts) == 2:
        low, high = _number(form.parts[0].text), _number(form.parts[1].text)
        if low is None or high is None or not _before((low, 0), (high, 0)):
            return None
        left, right = (0 if form.brackets[0] == "[" else 1), (0 if form.brackets[1] == "]" else -1)
        return [((low, left), (high, right))]
    return _described(form.text) if form.kind == "region" else None


def _combined(regions: list[Region], joint: str) -> Region:
    """The union of regions, or what is in all of them where "and" or a comma joins them.

    `x < 2 and x > 3` is no number at all: so written it means the union.
    """
    if joint == "and":
        outside = [piece for region in regions for piece in _without(_EVERYTHING, region)]
        common = _without(_EVERYTHING, outside)
        if common:
            return common
    return _joined([piece for region in regions for piece in region])


def same_side(gold: str, answer: str) -> bool | None:
    """True if two orders of formulas, `x + y < 2`, leave the same side of one curve; None where it is not known."""
    sides = []
    for text in (gold, answer):
        order = re.fullmatch(r"(.*?)(\\le|\\ge|<|>)(?![a-zA-Z])(.*)", text)
        if order is None or re.search(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>=]", order.group(3)):
            return None
        left, sign, right = order.groups()
        smaller, larger = (left, right) if sign in ("<", "\\le") else (right, left)
        sides.append((f"({larger})-({smaller})", sign in ("<", ">")))
    if sides[0][1] != sides[1][1]:
        return False
    return points.proportional(sides[0][0], sides[1][0], positive=True)


def _described(text: str) -> Region | None:
    """`\\mathbb{R}`, `\\mathbb{R} \\setminus [-1, 1]`, `x \\ne 0`, `|x| > 1`, `-x \\ge -1`."""
    left_out = re.fullmatch(r"\\mathbb\{R\}\s*(?:\\setminus(?![a-zA-Z])|-)\s*(.+)", text.strip())
    if left_out is not None:
        removed = _region(parse(left_out.group(1)))
        return None if removed is None else _without(_EVERYTHING, removed)
    if re.search(r"\\mathbb\{R\}|all", text, re.IGNORECASE) and "\\setminus" not in text:
        return list(_EVERYTHING)
    unequal = split(text, "", "\\ne")
    if len(unequal) == 2 and re.fullmatch(r"[a-z]", unequal[0]):
        value = _number(unequal[1])
        return None if value is None else _without(_EVERYTHING, [((value, 0), (value, 0))])
    order = re.fullmatch(r"(.*?)(\\le|\\ge|<|>)(?![a-zA-Z])(.*)", text)
    return None if order is None else _ordered(*(part.strip() for part in order.groups()))


def _ordered(left: str, order: str, right: str) -> Region | None:
    """The numbers for which `|x - a|`, or a straight line in x, is on one side of a number."""
    bound = _number(right)
    strict = order in ("<", ">")
    size = re.fullmatch(r"\|\s*([a-z])\s*(?:([+-])\s*(.+?))?\s*\|", left)
    if size is not None and isinstance(bound, Fraction) and bound >= 0:
        centre = _number(size.group(3) or "0")
        if not isinstance(centre, Fraction):
            return None
        centre = -centre if size.group(2) == "+" else centre
        inside: Region = [((centre - bound, int(strict)), (centre + bound, -int(strict)))]
        if order in ("<", "\\le"):
            return inside if bound or not strict else []
        return _without(
            _EVERYTHING, [((centre - bound, int(not strict)), (centre + bound, -int(not strict)))]
        )
    return _line(left, order, right)


def _line(left: str, order: str, right: str) -> Region | None:
    """`a x + b < c x + d` solved, where both sides are straight lines in one and the same name."""
    try:
        names = points.names(f"({left})-({right})")
    except ValueError:
        return None
    if len(names) != 1:
        return None
    difference = f"({left})-({right})"
    nought, unit, two = (points.at(difference, names[0], number) for number in (0, 1, 2))
    if nought is None or unit is None or two is None or two - unit != unit - nought:
        return None
    slope = unit - nought
    if slope == 0:
        return None
    bound, below = -nought / slope, (order in ("<", "\\le")) == (slope > 0)
    strict = int(order in ("<", ">"))
    return [((-_INFINITE, 1), (bound, -strict))] if below else [((bound, strict), (_INFINITE, -1))]


def _number(text: str) -> Any:
    text = text.replace(" ", "")
    infinite = re.fullmatch(r"([+-]?)\\infty", text)
    if infinite is not None:
        return -_INFINITE if infinite.group(1) == "-" else _INFINITE
    value = points.constant(text)
    return None if value is None or not points.is_real(value) else value


def _before(end: End, other: End) -> bool:
    """True if one end comes before another."""
    if end[0] == other[0]:
        return end[1] < other[1]
    if _INFINITE in (abs(end[0]), abs(other[0])):
        return bool(_size(end[0]) < _size(other[0]))
    return bool(wide(points.real(end[0])) < wide(points.real(other[0])))


def _size(value: Any) -> float:
    """A number as a float, where only its sign against infinity counts."""
    return value if isinstance(value, float) else 0.0


def _joined(pieces: Region) -> Region:
    """The pieces in order, those that touch made one."""
    joined: Region = []
    remaining = list(pieces)
    while remaining:
        first = remaining[0]
        for piece in remaining[1:]:
            if _before(piece[0], first[0]):
                first = piece
        remaining.remove(first)
        if joined and not _apart(joined[-1][1], first[0]):
            if _before(joined[-1][1], first[1]):
                joined[-1] = (joined[-1][0], first[1])
        else:
            joined.append(first)
    return joined


def _apart(last: End, first: End) -> bool:
    """True if a number lies between the end of one piece and the beginning of the next."""
    if last[0] == first[0]:
        return last[1] < 0 < first[1]
    return _before(last, first)


def _without(region: Region, removed: Region) -> Region:
    """The region without the pieces of another."""
    pieces = region
    for low, high in _joined(removed):
        left: Region = []
        for first, last in pieces:
            below, above = (low[0], low[1] - 1), (high[0], high[1] + 1)
            if _before(first, low):
                left.append((first, last if _before(last, below) else below))
            if _before(high, last):
                left.append((first if _before(above, first) else above, last))
        pieces = left
    return pieces
