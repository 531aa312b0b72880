"""The comparison of two formulas by their values at fixed points. Nothing here runs long."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

from tasks.verify.reading import Formula, Tree, UnreadableError, exact, read, value, wide

#: Points that are tried, and those at which both formulas must have values.
POINTS, ENOUGH = 7, 4
_NEAR = 1e-30


def same(gold: str, answer: str, rename: dict[str, str]) -> bool | None:
    """True if two texts are one quantity; None where one of them cannot be read here, or has too few values.

    rename: names of the answer's variables, and what the gold calls them.
    """
    formulas = _both(gold, answer)
    if formulas is None:
        return None
    wanted, given = formulas
    names = sorted(wanted.names | {rename.get(name, name) for name in given.names})
    compared = 0
    for point in _points(names):
        given_point = {name: point[rename.get(name, name)] for name in given.names}
        values = _values(wanted, given, point, given_point)
        if values is None:
            return None
        if values == ():
            continue
        if not _close(*values):
            return False
        compared += 1
        if not names:
            return True
    return True if compared >= ENOUGH else None


def proportional(gold: str, answer: str, positive: bool = False) -> bool | None:
    """True if two sides brought to nought describe one equation: their ratio is one constant, and not nought.

    positive: the constant must be above nought too, as it must where both sides are of an inequality.
    An equation that is linear in a derivative is solved for it first: `m v' + b v = f` is `v' + (b/m) v = f/m`.
    """
    formulas = _both(gold, answer)
    if formulas is None:
        return None
    wanted, given = formulas
    names = sorted(wanted.names | given.names)
    derivatives = sorted((name for name in names if name.endswith("'")), key=lambda name: -name.count("'"))
    if derivatives and not (derivatives[0] in wanted.names and derivatives[0] in given.names):
        return False
    ratios: list[Any] = []
    for point in _points(names):
        if derivatives:
            sides = [_solved(formula, derivatives[0], point) for formula in (wanted, given)]
            if None in sides:
                return None
            values: Any = tuple(sides)
        else:
            values = _values(wanted, given, point, point)
        if values is None:
            return None
        if values == ():
            continue
        if derivatives:
            if not _close(*values):
                return False
            ratios.append(1)
            continue
        if abs(values[0]) < 1e-25 or abs(values[1]) < 1e-25:
            return False
        ratios.append(values[1] / values[0])
    if len(ratios) < ENOUGH:
        return None
    if positive and not (is_real(ratios[0]) and real(ratios[0]) > 0):
        return False
    return all(_close(ratio, ratios[0]) for ratio in ratios)


def _solved(formula: Formula, name: str, point: dict[str, Fraction]) -> Any:
    """The value of `name` where the formula is nought; None where the formula is not linear in it."""
    try:
        nought, unit, two = (value(formula.tree, {**point, name: Fraction(number)}) for number in (0, 1, 2))
    except (ArithmeticError, ValueError, OverflowError):
        return None
    slope = unit - nought
    if abs(slope) < 1e-25 or not _close(two - unit, slope):
        return None
    return -nought / slope


def constant(text: str) -> Any:
    """The value of a formula without names, a Fraction or a number of 50 digits; None for anything else."""
    try:
        formula = read(text)
        if formula.names:
            return None
        return exact(formula.tree, {}) if formula.rational else value(formula.tree, {})
    except (ArithmeticError, ValueError, OverflowError):
        return None


def _both(gold: str, answer: str) -> tuple[Formula, Formula] | None:
    try:
        return read(gold), read(answer)
    except (UnreadableError, RecursionError):
        return None


def _values(
    wanted: Formula, given: Formula, point: dict[str, Fraction], given_point: dict[str, Fraction]
) -> tuple[Any, ...] | None:
    """Both values at a point; () where one has none there, None where one costs too much."""
    rational = wanted.rational and given.rational
    try:
        sides: tuple[tuple[Tree, dict[str, Fraction]], ...] = (
            (wanted.tree, point),
            (given.tree, given_point),
        )
        return tuple((exact if rational else value)(*side) for side in sides)
    except UnreadableError:
        return None
    except (ArithmeticError, ValueError, OverflowError):
        return ()


def _close(left: Any, right: Any) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    left, right = wide(left), wide(right)
    return bool(abs(left - right) <= _NEAR * max(1, abs(left)))


def _points(names: list[str]) -> list[dict[str, Fraction]]:
    """Values for all names, the same in every process.

    Plain letters take both signs. Greek letters and names with a subscript are quantities of science, and positive:
    there the logarithm of 1/x is minus that of x, and the root of a square its base.
    """
    points = []
    for index in range(POINTS if names else 1):
        source = random.Random(f"point/{index}")
        point = {}
        for name in names:
            size = Fraction(source.randint(20, 400), source.choice((97, 101, 103)))
            negative = index % 2 and source.random() < 0.7 and len(name.rstrip("'")) == 1
            point[name] = -size if negative else size
        points.append(point)
    return points


def names(text: str) -> list[str]:
    """The names in a formula; UnreadableError where it cannot be read here."""
    return sorted(read(text).names)


def at(text: str, name: str, number: int) -> Fraction | None:
    """The value of a rational formula where its one name has a value; None where it has none, or is not rational."""
    formula = read(text)
    try:
        return exact(formula.tree, {name: Fraction(number)}) if formula.rational else None
    except (ArithmeticError, ValueError):
        return None


def is_real(number: Any) -> bool:
    """True if a constant is a real number."""
    return isinstance(number, Fraction) or abs(wide(number).imag) < _NEAR


def real(number: Any) -> Any:
    """A constant as a number that can be compared by size."""
    return number if isinstance(number, (Fraction, float)) else number.real
