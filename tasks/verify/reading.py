"""A reader of the LaTeX that answers are written in: formulas as trees, and their values at points.

It takes only what has one reading, and raises Unreadable for everything else, which symbolic.py's larger parser gets
in a worker. What it takes it computes with bounded work, so it needs no worker: in exact fractions where the formula
is rational, else to 50 digits.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

#: Longer formulas, larger powers, factorials and binomials are left to a worker.
MOST_TOKENS = 400
DEEPEST = 40
MOST_BITS = 20_000
LARGEST_FACTORIAL = 300
LARGEST_ARGUMENT = 10_000

_MP = mpmath.MPContext()
_MP.dps = 50

_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon"
    " phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell"
)
_FUNCTIONS = (
    "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc ln exp sqrt cis",
    "asin acos atan",
)
_INVERSES = {"cot": "tan", "csc": "sin", "sec": "cos"}
_CALLED = frozenset(" ".join(_FUNCTIONS).split())
_IN_SUBSCRIPT = r"[A-Za-z0-9 ,+*'-]*"
_SUBSCRIPT = (
    rf"_\s*(?:\{{\s*{_IN_SUBSCRIPT}\}}|[A-Za-z0-9]"
    rf"|\{{\s*\\(?:text|mathrm|rm|operatorname)\s*\{{{_IN_SUBSCRIPT}\}}\s*\}})"
)
_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    rf"|(?P<name>(?:\\(?:{'|'.join(_GREEK.split())})(?![a-zA-Z])|[A-Za-z])(?:\s*{_SUBSCRIPT})?'*(?:\s*{_SUBSCRIPT})?)"
    r"|(?P<macro>\\[a-zA-Z]+)"
    r"|(?P<sign>\*\*|[-+*/^(){}\[\]|!])"
    r")"
)
_WORD = re.compile(r"(?<![A-Za-z\\_{])(" + "|".join(sorted(_CALLED, key=len, reverse=True)) + r")(?=\s*\()")
_UPRIGHT = re.compile(
    r"\\(?:mathrm|operatorname|text|rm)\s*\{\s*("
    + "|".join(sorted(_CALLED, key=len, reverse=True))
    + r")\s*\}"
)
_NAMED = rf"((?:\\[a-zA-Z]+|[A-Za-z])(?:\s*{_SUBSCRIPT})?)"
_D = r"(?:d|\\mathrm\s*\{\s*d\s*\}|\\partial)"
_DERIVATIVES = (
    (re.compile(rf"\\frac\s*\{{\s*{_D}\s*{_NAMED}\s*\}}\s*\{{\s*{_D}\s*[a-z]\s*\}}"), r"\1' "),
    (
        re.compile(
            rf"\\frac\s*\{{\s*{_D}\s*\^\s*\{{?2\}}?\s*{_NAMED}\s*\}}\s*\{{\s*{_D}\s*[a-z]\s*\^\s*\{{?2\}}?\s*\}}"
        ),
        r"\1'' ",
    ),
    (re.compile(rf"(?<![A-Za-z\\])d\s*{_NAMED}\s*/\s*d\s*[a-z](?![a-zA-Z])"), r"\1' "),
    (re.compile(rf"\\dot\s*\{{\s*{_NAMED}\s*\}}"), r"\1' "),
    (re.compile(rf"\\dot\s*{_NAMED}"), r"\1' "),
    (re.compile(rf"\\ddot\s*\{{\s*{_NAMED}\s*\}}"), r"\1'' "),
    (re.compile(rf"\\ddot\s*{_NAMED}"), r"\1'' "),
    (re.compile(r"\^\s*\{\s*\\prime\s*\}|\^\s*\\prime(?![a-zA-Z])"), "'"),
    (re.compile(r"\^\s*\{\s*\\prime\s*\\prime\s*\}"), "''"),
)


class UnreadableError(ValueError):
    """A text that this reader does not take: it has several readings, or none, or costs too much."""


#: A formula: ("number", Fraction), ("name", text), ("add", a, b), ("call", function, argument), ...
Tree = tuple[Any, ...]


@dataclass(frozen=True)
class Formula:
    """A text that was read: its tree, the names in it, and whether it is rational in them."""

    tree: Tree
    names: frozenset[str]
    rational: bool


@lru_cache(maxsize=4096)
def read(text: str) -> Formula:
    """The formula that `text` is; UnreadableError otherwise. Golds are asked for again and again: they are kept."""
    parser = _Parser(_prepared(text))
    tree = parser.whole()
    return Formula(tree, frozenset(parser.names), parser.rational)


def _prepared(text: str) -> str:
    text = _UPRIGHT.sub(r"\\\1 ", text)
    text = _WORD.sub(r"\\\1 ", text)
    text = re.sub(r"(?<![A-Za-z\\_])pi(?![A-Za-z])", r"\\pi ", text)
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\tbinom", "\\binom")
    text = re.sub(r"\\(?:mathbf|mathit|vec|boldsymbol)\s*\{\s*([A-Za-z])\s*\}", r"\1", text)
    for pattern, new in _DERIVATIVES:
        text = pattern.sub(new, text)
    return text


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) >= MOST_TOKENS:
            raise UnreadableError(text[position : position + 20])
        kind = str(match.lastgroup)
        value = match.group(kind)
        tokens.append((kind, _one_spelling(value) if kind == "name" else value))
        position = match.end()
    return tokens


def _one_spelling(name: str) -> str:
    """A name with its primes at the end and its subscript without macros: x_{\\text{max}}' and x'_{max} are one."""
    primes = name.count("'")
    name = re.sub(r"\\(?:text|mathrm|rm|operatorname)(?![a-zA-Z])|[{}\s']", "", name)
    return name.replace("\\varepsilon", "\\epsilon").replace("\\varphi", "\\phi") + "'" * primes


class _Parser:
    """Recursive descent over one formula."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.at = self.depth = 0
        self.names: set[str] = set()
        self.rational = True

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise UnreadableError(f"{token!r} instead of {expected!r}")
        self.at += 1
        return token

    def whole(self) -> Tree:
        tree = self.sum()
        if self.peek():
            raise UnreadableError(self.peek())
        return tree

    def sum(self) -> Tree:
        self.depth += 1
        if self.depth > DEEPEST:
            raise UnreadableError("nested too deep")
        tree = self.signed()
        while self.peek() in ("+", "-"):
            operator = "add" if self.take() == "+" else "subtract"
            tree = (operator, tree, self.signed())
        self.depth -= 1
        return tree

    def signed(self) -> Tree:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        tree = self.product()
        return ("subtract", ("number", Fraction(0)), tree) if negative else tree

    def product(self) -> Tree:
        tree, divided, bare = self.factor(), False, self.bare
        while True:
            token = self.peek()
            if token in ("*", "\\cdot", "\\times", "\\ast"):
                self.take()
                tree, divided = ("multiply", tree, self.after_sign()), False
            elif token in ("/", "\\div"):
                if bare:
                    raise UnreadableError("sin x / y")
                self.take()
                tree, divided = ("divide", tree, self.after_sign()), True
            elif self.begins_factor():
                if divided:
                    raise UnreadableError("a/bc has two readings")
                if self.kind() == "number":
                    raise UnreadableError("a number behind a factor")
                if token == "\\frac" and self.tokens[self.at - 1][0] == "number":
                    raise UnreadableError("a number before a fraction may be a mixed number")
                tree = ("multiply", tree, self.factor())
            else:
                return tree
            bare = self.bare

    def after_sign(self) -> Tree:
        if self.peek() in ("+", "-"):
            raise UnreadableError("two operators in a row")
        return self.factor()

    def begins_factor(self) -> bool:
        token = self.peek()
        if token == "|":
            return False
        known = ("\\frac", "\\sqrt", "\\pi", "\\binom", "\\log")
        return self.kind() in ("number", "name") or token in ("(", "[", "{", *known) or token[1:] in _CALLED

    #: True if the factor just read is a function with an argument that stands in no brackets.
    bare = False

    def factor(self) -> Tree:
        self.bare = False
        tree = self.base()
        bare = self.bare
        while self.peek() in ("^", "**", "!"):
            if bare:
                raise UnreadableError("a power behind a function")
            if self.take() == "!":
                self.rational = False
                tree = ("call", "factorial", tree)
            else:
                exponent = self.argument()
                self.rational &= _integer(exponent) is not None
                tree = ("power", tree, exponent)
                if self.peek() in ("^", "**"):
                    raise UnreadableError("a power of a power")
        self.bare = bare
        return tree

    def base(self) -> Tree:
        kind, token = self.kind(), self.take()
        if kind == "number":
            return ("number", Fraction(token.rstrip(".")))
        if kind == "name":
            return self.name(token)
        if token in ("(", "[", "{"):
            tree = self.sum()
            self.take({"(": ")", "[": "]", "{": "}"}[token])
            return tree
        if token == "|":
            self.rational = False
            tree = self.sum()
            self.take("|")
            return ("call", "abs", tree)
        if token == "\\frac":
            return ("divide", self.argument(), self.argument())
        if token == "\\binom":
            self.rational = False
            return ("binomial", self.argument(), self.argument())
        if token == "\\pi":
            self.rational = False
            return ("constant", "pi")
        if token == "\\sqrt":
            return self.root()
        if token[1:] in _CALLED:
            return self.call(token[1:])
        if token == "\\log":
            return self.logarithm()
        raise UnreadableError(token)

    def name(self, token: str) -> Tree:
        if token in ("i", "e"):
            self.rational = False
            return ("constant", token)
        if self.peek() == "(" and self.peek(2) == ")" and self.tokens[self.at + 1][0] in ("name", "number"):
            self.take()
            self.rational = False
            argument = self.sum()
            self.take(")")
            return ("unknown", token, argument)
        if self.peek() == "(" and token in ("f", "g", "h", "F", "G"):
            raise UnreadableError("a function's value")
        self.names.add(token)
        return ("name", token)

    def root(self) -> Tree:
        self.rational = False
        index: Tree = ("number", Fraction(2))
        if self.peek() == "[":
            self.take()
            index = self.sum()
            self.take("]")
        return ("power", self.argument(), ("divide", ("number", Fraction(1)), index))

    def argument(self) -> Tree:
        """The argument of a macro or a power: a group in braces, or one digit, one name, one macro."""
        kind, token = self.kind(), self.peek()
        if token in ("{", "("):
            return self.base()
        if kind == "number":
            self.at += 1
            if len(token) == 1:
                return ("number", Fraction(token))
            if self.tokens[self.at - 2][1] not in ("\\frac", "\\binom"):
                if self.at > 1 and self.tokens[self.at - 2][1] == "**":
                    return ("number", Fraction(token.rstrip(".")))
                raise UnreadableError("x^12 has two readings")
            self.tokens.insert(
                self.at, (kind, token[1:])
            )  # \\frac12: TeX takes one digit and leaves the rest
            return ("number", Fraction(token[0]))
        if kind == "name":
            self.at += 1
            if token in ("i", "e"):
                self.rational = False
                return ("constant", token)
            self.names.add(token)
            return ("name", token)
        if token in ("\\pi", "\\frac", "\\sqrt"):
            return self.base()
        if (
            token == "-"
            and self.tokens[self.at + 1 : self.at + 2]
            and self.tokens[self.at + 1][0] == "number"
        ):
            self.at += 2
            return ("number", -Fraction(self.tokens[self.at - 1][1].rstrip(".")))
        raise UnreadableError(token)

    def call(self, function: str) -> Tree:
        self.rational = False
        power = None
        if self.peek() == "^":
            self.take()
            power = self.argument()
            if power == ("number", Fraction(-1)):
                raise UnreadableError("sin^-1")
        tree: Tree = ("call", function, self.called_on())
        return tree if power is None else ("power", tree, power)

    def called_on(self) -> Tree:
        """A function's argument: the bracket that follows, or the product that follows without one."""
        if self.peek() in ("(", "[", "{"):
            tree = self.base()
            if self.peek() in ("^", "!"):
                raise UnreadableError("sin(x)^2")
            return tree
        tree = self.factor()
        if self.bare:
            raise UnreadableError("a function of a function")
        while self.kind() in ("number", "name") or self.peek() in ("\\pi", "\\frac", "\\sqrt"):
            tree = ("multiply", tree, self.factor())
        if self.peek() in ("(", "[", "{"):
            raise UnreadableError("sin x (y)")
        self.bare = True
        return tree

    def logarithm(self) -> Tree:
        """`\\log_b`; without a base it is one of two functions, and left to the larger parser."""
        if self.peek() != "_":
            raise UnreadableError("a logarithm without its base")
        raise UnreadableError("log")


def _integer(tree: Tree) -> int | None:
    if tree[0] == "number" and tree[1].denominator == 1:
        return int(tree[1])
    if tree[0] == "subtract" and tree[1] == ("number", Fraction(0)):
        inner = _integer(tree[2])
        return None if inner is None else -inner
    return None


def exact(tree: Tree, point: dict[str, Fraction]) -> Fraction:
    """The value of a rational formula at a point; ZeroDivisionError where it has none."""
    kind = tree[0]
    if kind == "number":
        return tree[1]
    if kind == "name":
        return point[tree[1]]
    if kind not in ("add", "subtract", "multiply", "divide", "power"):
        raise UnreadableError("not rational")
    left = exact(tree[1], point)
    if kind == "power":
        exponent = _integer(tree[2])
        if exponent is None or abs(exponent) * max(_bits(left), 1) > MOST_BITS:
            raise UnreadableError("a power too large")
        return left**exponent
    right = exact(tree[2], point)
    if _bits(left) + _bits(right) > 4 * MOST_BITS:
        raise UnreadableError("numbers too long")
    if kind == "add":
        return left + right
    if kind == "subtract":
        return left - right
    return left * right if kind == "multiply" else left / right


def wide(number: Any) -> Any:
    """A fraction or a number of 50 digits as a number of 50 digits."""
    return (
        _MP.mpf(number.numerator) / number.denominator
        if isinstance(number, Fraction)
        else _MP.mpmathify(number)
    )


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def value(tree: Tree, point: dict[str, Fraction]) -> Any:
    """The value of a formula at a point, to 50 digits, complex where it must be; ArithmeticError where it has none."""
    kind = tree[0]
    if kind == "number":
        return _MP.mpf(tree[1].numerator) / tree[1].denominator
    if kind == "name":
        return _MP.mpf(point[tree[1]].numerator) / point[tree[1]].denominator
    if kind == "constant":
        return {"pi": +_MP.pi, "e": +_MP.e, "i": _MP.mpc(0, 1)}[tree[1]]
    if kind == "call":
        return _called(tree[1], value(tree[2], point))
    if kind == "unknown":  # a function nobody defined stands for some function, the same on both sides
        seed = sum(ord(character) * 31**place for place, character in enumerate(tree[1])) % 997
        return _MP.exp(_called("sin", value(tree[2], point) * (seed + 3) / 37 + _MP.mpf(seed) / 41))
    left = value(tree[1], point)
    root = _school_root(left, tree[2]) if kind == "power" else None
    if root is not None:
        return root
    right = value(tree[2], point)
    if kind == "add":
        return left + right
    if kind == "subtract":
        return left - right
    if kind == "multiply":
        return left * right
    if kind == "divide":
        if right == 0:
            raise ZeroDivisionError
        return left / right
    if kind == "binomial":
        return _binomial(left, right)
    if abs(right) > 10_000 or (left == 0 and _MP.re(right) <= 0):
        raise UnreadableError("a power too large")
    return left**right


def _school_root(base: Any, exponent: Tree) -> Any:
    """An odd root of a negative number, or a power of one, which is real at school; None for all other powers."""
    if _MP.im(base) != 0 or _MP.re(base) >= 0:
        return None
    try:
        share = exact(exponent, {})
    except (KeyError, ArithmeticError, UnreadableError):
        return None
    if share.denominator % 2 == 0 or share.denominator == 1 or abs(share) > 10_000:
        return None
    size = (-_MP.re(base)) ** wide(share)
    return -size if share.numerator % 2 else size


def _binomial(top: Any, bottom: Any) -> Any:
    real = _MP.im(top) == 0 and _MP.im(bottom) == 0
    if not real or not 0 <= bottom <= top <= 5000 or top != int(top) or bottom != int(bottom):
        raise UnreadableError("a binomial of other numbers")
    return _MP.mpf(math.comb(int(top), int(bottom)))


def _called(function: str, argument: Any) -> Any:
    if function == "factorial":
        if _MP.im(argument) or not 0 <= argument <= LARGEST_FACTORIAL or argument != int(argument):
            raise UnreadableError("a factorial of another number")
        return _MP.mpf(math.factorial(int(argument)))
    if function == "abs":
        return abs(argument)
    if function == "ln":
        if argument == 0:
            raise ZeroDivisionError
        return _MP.ln(argument)
    if abs(argument) > LARGEST_ARGUMENT:
        raise UnreadableError("an argument too large: its periods take many digits, its exponential more")
    if function == "cis":
        return _MP.exp(_MP.mpc(0, 1) * argument)
    if function in _INVERSES:  # not mpmath's own: those change the precision for all threads for a moment
        return 1 / _called(_INVERSES[function], argument)
    names = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}
    return getattr(_MP, names.get(function, function))(argument)
