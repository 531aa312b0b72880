"""The comparison of two LaTeX expressions as quantities. Runs in a worker only: some inputs never end (see
pool.py).

math-verify's parser reads the LaTeX. Constants are then compared exactly where they are rational and to 50
digits elsewhere; expressions with variables at fixed points, and only what that leaves open is put to
math-verify's own comparison. So 1.41421 is not the square root of 2, which math-verify, rounding to six
digits, would let pass.
"""

from __future__ import annotations

import random
import re
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy.core.function import AppliedUndef

SAME, DIFFERENT, UNREADABLE_GOLD, UNREADABLE_ANSWER = (
    "same",
    "different",
    "unreadable gold",
    "unreadable answer",
)

_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DIGITS = 50
# The parser takes E for Euler's number even where a subscript makes it a name.
_ENERGY = re.compile(r"(?<![A-Za-z])E_(?:\{\s*([A-Za-z0-9]+)\s*\}|([A-Za-z0-9]))")
#: Parts that the parser drops without a word: dots, the subscript of a number. An answer with them is no value.
_DROPPED = re.compile(r"\\[lc]?dots|\.\.\.|…|(?<![A-Za-z_{^0-9.])[0-9.]+\s*_")
#: Infinity is a value of its own, and the end of a sum or a limit; the rules of sympy for powers of it are no school's.
_LIMITS = re.compile(r"\\(?:sum|prod|int|lim|bigcup|bigcap)(?![a-zA-Z])")
_STEPS = (sympy.floor, sympy.ceiling, sympy.Mod)


#: First letters of names that count something.
_WHOLE = "abcdijklmnpqABCDIJKLMNPQ"


def compare(kind: str, gold: str, answer: str, rename: dict[str, str]) -> str:
    """One of the four words above. `kind` is "value", or "equation" for the differences of both sides of two
    equations.

    `rename` maps variable names of the answer to those of the gold (the bound variable of `f(t) = ...`). Where sympy
    fails on an answer, and not on the gold, the answer is to blame: no policy can make itself unscorable.
    """
    try:
        return _compared(kind, gold, answer, rename)
    except (RecursionError, MemoryError):
        raise
    except Exception:  # sympy raises whatever its functions run into
        _compared(kind, gold, gold, {})
        return UNREADABLE_ANSWER


def _compared(kind: str, gold: str, answer: str, rename: dict[str, str]) -> str:
    wanted = _read(gold)
    if wanted is None:
        return UNREADABLE_GOLD
    given = None if _DROPPED.search(answer) else _read(answer)
    if given is None:
        return UNREADABLE_ANSWER
    if "\\infty" in answer and "\\infty" not in gold and _LIMITS.search(answer) is None:
        return DIFFERENT
    if rename:
        given = given.xreplace({sympy.Symbol(old): sympy.Symbol(new) for old, new in rename.items()})
    if isinstance(wanted, sympy.Expr) != isinstance(given, sympy.Expr):
        return DIFFERENT  # a quantity and a statement: math-verify takes 1 for true
    if not isinstance(wanted, sympy.Expr):
        return SAME if verify(wanted, given, timeout_seconds=None) else DIFFERENT
    return _proportional(wanted, given) if kind == "equation" else _equal(wanted, given)


def _read(text: str) -> Any:
    text = _ENERGY.sub(r"X_{E\1\2}", text)
    try:
        expression = latex2sympy(text, normalization_config=_NORMALIZATION, conversion_config=_CONVERSION)
    except RecursionError:
        return None
    except Exception:  # the parser raises whatever its grammar runs into
        return None
    if not isinstance(expression, sympy.Basic):
        return None
    exact = {number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)}
    names = {symbol: sympy.Symbol(symbol.name) for symbol in expression.atoms(sympy.Symbol)}
    counted = {
        symbol.name for part in expression.atoms(sympy.Sum, sympy.Product) for symbol in part.bound_symbols
    }
    constants = {
        sympy.Symbol(name): value for name, value in (("i", sympy.I), ("e", sympy.E)) if name not in counted
    }
    return expression.xreplace(exact).xreplace(names).xreplace(constants)


def _equal(wanted: sympy.Expr, given: sympy.Expr) -> str:
    if (
        not wanted.free_symbols | given.free_symbols
        and not wanted.has(AppliedUndef)
        and not given.has(AppliedUndef)
    ):
        return SAME if _same_constant(wanted, given) else DIFFERENT
    compared = 0
    for point in _points(wanted, given):
        left, right = _at(wanted, point), _at(given, point)
        if left is None or right is None:
            continue
        if abs(left - right) > sympy.Float("1e-20") * max(1, abs(left)):
            return DIFFERENT
        compared += 1
    if compared >= 4:
        return SAME
    return SAME if verify(wanted, given, timeout_seconds=None) else DIFFERENT


def _same_constant(wanted: sympy.Expr, given: sympy.Expr) -> bool:
    left, right = wanted.doit(), given.doit()
    if left.is_Rational and right.is_Rational:
        return left == right
    if left in (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan) or right in (
        sympy.oo,
        -sympy.oo,
        sympy.zoo,
        sympy.nan,
    ):
        return left == right and left is not sympy.nan
    first, second = sympy.N(left, _DIGITS), sympy.N(right, _DIGITS)
    if (
        not (first.is_number and second.is_number)
        or first.has(sympy.nan, sympy.zoo)
        or second.has(sympy.nan, sympy.zoo)
    ):
        return bool(verify(wanted, given, timeout_seconds=None))
    return bool(abs(first - second) <= sympy.Float(10, _DIGITS) ** (10 - _DIGITS) * max(1, abs(first)))


def _proportional(wanted: sympy.Expr, given: sympy.Expr) -> str:
    """True if two sides brought to 0 describe one curve: their ratio is one constant, and not 0."""
    ratios = []
    for point in _points(wanted, given):
        left, right = _at(wanted, point), _at(given, point)
        if left is None or right is None:
            continue
        if abs(left) < sympy.Float("1e-20") or abs(right) < sympy.Float("1e-20"):
            return DIFFERENT
        ratios.append(right / left)
    if len(ratios) < 4:
        return SAME if verify(wanted, given, timeout_seconds=None) else DIFFERENT
    return (
        SAME
        if all(abs(ratio - ratios[0]) < sympy.Float("1e-18") * abs(ratio) for ratio in ratios)
        else DIFFERENT
    )


def _points(wanted: sympy.Expr, given: sympy.Expr) -> list[dict[sympy.Symbol, sympy.Rational]]:
    """Values for all variables, the same in every process: of both signs, and whole where steps, factorials or sums
    occur.
    """
    symbols = sorted(wanted.free_symbols | given.free_symbols, key=str)
    # Steps on both sides are about whole numbers where the names are; a step on one side only must also hold between.
    steps = wanted.has(*_STEPS) and given.has(*_STEPS)
    counted = any(side.has(sympy.Sum, sympy.Product) for side in (wanted, given))
    whole = (
        steps
        or counted
        or any(side.has(*_STEPS, sympy.factorial, sympy.binomial) for side in (wanted, given))
    )
    points = []
    for index in range(8):
        source = random.Random(f"point/{index}")
        point = {}
        for symbol in symbols:
            size = sympy.Rational(source.randint(20, 400), source.choice((97, 101, 103)))
            if counted or (steps and symbol.name[0] in _WHOLE) or (whole and not steps and index % 4 != 3):
                size = sympy.Integer(source.randint(2, 12))
            point[symbol] = -size if index % 2 and source.random() < 0.7 and not whole else size
        points.append(point)
    return points


def _at(expression: sympy.Expr, point: dict[sympy.Symbol, sympy.Rational]) -> Any:
    """The number that an expression has at a point; None where it has none."""
    try:
        # A function nobody defined, f(n) or x(t), stands for some function: the same one on both sides.
        concrete = expression.replace(lambda part: isinstance(part, AppliedUndef), _stand_in)
        value = sympy.N(concrete.xreplace(point).doit(), 30)
    except (RecursionError, MemoryError):
        raise
    except Exception:
        return None
    return value if value.is_number and value.is_finite and not value.free_symbols else None


def _stand_in(part: Any) -> sympy.Expr:
    source = random.Random(f"function/{part.func.__name__}")
    total = sum(
        (sympy.Rational(source.randint(3, 90), 37) * argument for argument in part.args), sympy.Integer(0)
    )
    return sympy.exp(sympy.sin(total + sympy.Rational(source.randint(3, 90), 41)))
