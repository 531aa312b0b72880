"""The form of an answer: a number, a formula, an equation, a list, a set, an interval, a matrix, words, ..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks.verify import numbers
from tasks.verify.spelling import CLOSE_SET, OPEN_SET, ROW, balanced, split

CONJUNCTION = re.compile(
    r",?\s*(?:\\(?:text|mbox|textrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*,?"
)
_MATRIX = re.compile(r"\\begin\{(matrix|[pbvBV]matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)
#: A sign that stands for both.
SIGNS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
_ORDER = re.compile(r"(\\le\b|\\ge\b|<|>)")
#: The signs of logic between two orders; elsewhere `p \\land q` is a formula.
_AND = re.compile(r"\\(?:land|wedge)(?![a-zA-Z])")
_OR = re.compile(r"\\(?:lor|vee)(?![a-zA-Z])|(?<![a-zA-Z\\])or(?![a-zA-Z])")
_UNEQUAL = re.compile(r"\s*([a-zA-Z])\s*\\ne(?![a-zA-Z])\s*([^=<>]+)")
_VARIABLE = re.compile(r"\s*(?:[a-zA-Z]|\\(?!pi|infty)[a-z]+)(?:_\{?\w+\}?)?(?:\s*\(\s*[a-z]\s*\))?\s*")
_MEMBER = re.compile(r"\s*(?:[a-zA-Z](?:_\{?\w\}?)?|\([a-zA-Z](?:\s*,\s*[a-zA-Z])+\))\s*\\in(?![a-zA-Z])\s*")
_BUILDER = re.compile(
    r"\s*[a-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid(?![a-zA-Z])|\||:|\\colon(?![a-zA-Z]))\s*(.*)", re.DOTALL
)
_TIME = re.compile(
    r"([0-9]{1,2})(?:\s*:\s*([0-9]{2}))?(?:\s*:\s*([0-9]{2}))?\s*"
    r"(?:\\(?:text|mathrm|textrm|mbox)\s*\{)?\s*(?:([aApP])\s*\.?\s*[mM]\s*\.?)?\s*\}?\.?"
)
_RATIO = re.compile(r"[^:=<>,]+(?::[^:=<>,]+)+")
_RESIDUE = re.compile(
    r"(?:(?P<name>.*?)\\equiv(?![a-zA-Z])\s*)?(?P<value>-?[0-9]+)\s*(?:\\[bp]?mod(?![a-zA-Z])|\(\s*(?:\\bmod|\\mod|\\text\s*\{\s*mod\s*\}|mod))"
    r"\s*\{?\s*(?P<modulus>[0-9]+)\s*\}?\s*\)?"
)
NUMERAL = re.compile(
    r"([0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?)\s*_\s*(?:\{\s*(?:\\text\s*\{)?\s*([0-9]{1,2}|[a-z]+)\s*\}?\s*\}|([0-9]))"
)
_DIGITS_IN_BASE = re.compile(
    r"(?:\\(?:text|mathrm)\s*\{\s*([0-9A-Za-z]+)\s*\}|\(\s*([0-9A-Za-z]+)\s*\))(?=\s*_)"
)
_MIXED_DIGITS = re.compile(r"([0-9]*)\\(?:text|mathrm)\s*\{\s*([0-9A-Z]+)\s*\}([0-9]*)(?=\s*_)")
_WORDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf)\s*\{([^{}]*)\}|([A-Za-z][A-Za-z' -]*)"
)
_EVERYTHING = re.compile(
    r"\\mathbb\{R\}|(?:\\(?:text|mbox|textrm)\s*\{)?\s*(?:the\s+)?(?:set\s+of\s+)?all\s+real(?:s|\s+numbers?)?\s*\}?",
    re.I,
)
_NOTHING = re.compile(r"\\emptyset|(?:\\(?:text|mbox|textrm)\s*\{)?\s*(?:the\s+)?empty\s+set\s*\}?", re.I)


@dataclass(frozen=True)
class Form:
    """The form of an answer.

    kind: number, formula, equation, words, numeral (with its base), residue, clock (a time or a ratio), list, set,
    union, interval, region (an order or an inequality that is no interval), matrix, determinant, or tuple.
    brackets: those of an interval or a tuple, such as `(]`; "and" or "or" where orders are joined by these.
    """

    kind: str
    text: str
    parts: tuple[Form, ...] = ()
    brackets: str = ""


def parse(text: str) -> Form:
    """The form of a cleaned text. Brackets nest as written; a text that does not balance is one formula."""
    text = text.strip()
    if not balanced(text):
        return Form("formula", text)
    for read in (_sets, _member, _order, _several, _matrix, _bracketed):
        form = read(text)
        if form is not None:
            return form
    return Form(_kind_of_value(text), text)


def _kind_of_value(text: str) -> str:
    if numbers.parse(text) is not None:
        return "number"
    if _RESIDUE.fullmatch(text) is not None:
        return "residue"
    if numeral(text) is not None:
        return "numeral"
    if clock(text) is not None or ratio(text) is not None:
        return "clock"
    if len(split(text, "=")) > 1 or re.search(r"\\approx(?![a-zA-Z])", text) or text.strip() == "=":
        return "equation"
    return "formula"


def _sets(text: str) -> Form | None:
    if _EVERYTHING.fullmatch(text):
        return Form("region", text)
    return Form("set", text) if _NOTHING.fullmatch(text) else None


def _member(text: str) -> Form | None:
    """`x \\in [2, 3]` and `\\{x \\mid x > 2\\}` as the set they name."""
    match = _MEMBER.match(text)
    if match is not None:
        return parse(text[match.end() :])
    if text[:1] == OPEN_SET and closing(text, 0) == len(text) - 1:
        builder = _BUILDER.fullmatch(text[1:-1])
        if builder is not None and re.search(r"\\(?:le|ge|ne)\b|[<>]", builder.group(1)):
            described = parse(builder.group(1))
            # The name in braces is bound: `\\{t : t > 2\\}` is no other set than with x.
            return replace(described, text=text) if described.kind == "interval" else described
    return None


def _several(text: str) -> Form | None:
    joined = _joined_orders(text)
    if joined is not None:
        return joined
    listed = CONJUNCTION.sub(",", text)
    items = split(listed, ",;")
    if len(items) > 1 and numbers.parse(text) is None:
        return Form("list", text, tuple(part for item in items for part in spread(parse(item))))
    pieces = split(text, "", "\\cup")
    if len(pieces) > 1:
        return Form("union", text, tuple(parse(piece) for piece in pieces))
    return None


def _joined_orders(text: str) -> Form | None:
    """`x < 3 or x > 5`, `x > 2, x < 7`, `x \\ne 2, 3`: one set where one name is ordered, a list where several are."""
    items = split(_OR.sub(",", _AND.sub(",", CONJUNCTION.sub(",", text))), ",;")
    orders: list[Form] = []
    name = ""
    for item in items if len(items) > 1 else ():
        unequal = _UNEQUAL.fullmatch(item) or (_UNEQUAL.fullmatch(f"{name}\\ne {item}") if name else None)
        order = Form("region", unequal.group().strip()) if unequal else interval(item)
        if order is None:
            return None
        name = unequal.group(1) if unequal else ""
        orders.append(order)
    if not orders:
        return None
    joint = "or" if _OR.search(text) else "and"
    return Form("union" if _one_name(orders) else "list", text, tuple(orders), joint)


def _one_name(orders: Sequence[Form]) -> bool:
    return len({ordered_name(order) for order in orders}) == 1


def ordered_name(form: Form) -> str:
    """The name that an order is about, `x` in `2 < x \\le 7`; "" for anything else, and for `x \\in (2, 7]`."""
    unequal = _UNEQUAL.fullmatch(form.text)
    if unequal is not None:
        return unequal.group(1)
    sides = _ORDER.split(form.text)[::2]
    names = [side.strip() for side in sides if _VARIABLE.fullmatch(side)] if len(sides) > 1 else []
    return names[0] if len(names) == 1 else ""


def _order(text: str) -> Form | None:
    ordered = interval(text)
    if ordered is not None:
        return ordered
    if len(split(text, ",;")) > 1 or "\\cup" in text or CONJUNCTION.search(text):
        return None
    unequal = re.search(r"\\ne(?![a-zA-Z])", text) or re.search(r"\\setminus(?![a-zA-Z])", text)
    removed = re.fullmatch(rf"\\mathbb\{{R\}}\s*-\s*{OPEN_SET}.*", text)
    if unequal or removed or (len(_ORDER.split(text)) == 3 and "=" not in text):
        return Form("region", text)
    return None


def _matrix(text: str) -> Form | None:
    match = _MATRIX.fullmatch(text)
    bare = match
    if match is None and text[:1] + text[-1:] in ("()", "[]"):
        match = _MATRIX.fullmatch(text[1:-1].strip())
    if match is None and text[:1] == text[-1:] == "|":
        match, bare = _MATRIX.fullmatch(text[1:-1].strip()), None
    if match is None:
        return None
    rows = [row for row in match.group(2).split(ROW) if row.strip()]
    cells = tuple(Form("tuple", row, tuple(parse(cell) for cell in row.split("&")), "()") for row in rows)
    determinant = match.group(1) in ("vmatrix", "Vmatrix") or (bare is None and text[0] == "|")
    return Form("determinant" if determinant else "matrix", text, cells)


def _bracketed(text: str) -> Form | None:
    whole = text[:1] in ("(", "[", OPEN_SET) and closing(text, 0) == len(text) - 1
    if not whole and not _half_open(text):
        return None
    items = split(text[1:-1], ",;")
    if text[0] == OPEN_SET:
        items = [item for item in items if item]
        return Form("set", text, tuple(part for item in items for part in spread(parse(item))))
    if len(items) > 1:
        brackets = text[0] + text[-1]
        kind = "interval" if brackets in ("(]", "[)") or (len(items) == 2 and "\\infty" in text) else "tuple"
        return Form(kind, text, tuple(parse(item) for item in items), brackets)
    inside = parse(text[1:-1])  # (25) is 25
    return inside if text[0] == "(" and inside.kind in ("number", "matrix") else None


def spread(form: Form) -> tuple[Form, ...]:
    """A value with one plus-minus sign as two values."""
    signs = list(SIGNS.finditer(form.text))
    if form.kind in ("number", "formula", "equation") and len(signs) == 1:
        before, after = form.text[: signs[0].start()], form.text[signs[0].end() :]
        return tuple(parse(before + sign + after) for sign in ("+", "-"))
    return (form,)


def _half_open(text: str) -> bool:
    """True if the text is one half-open interval: its two brackets differ."""
    if len(text) < 4 or text[0] + text[-1] not in ("(]", "[)"):
        return False
    return balanced(text[1:-1]) and len(split(text[1:-1], ",;")) == 2


def closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes; -1 where it does not."""
    depth = 0
    for position in range(start, len(text)):
        if text[position] in "([{" + OPEN_SET:
            depth += 1
        elif text[position] in ")]}" + CLOSE_SET:
            depth -= 1
            if depth == 0:
                return position
    return -1


def interval(text: str) -> Form | None:
    """`-2 < x \\le 7` or `x \\ge 2` as the interval it describes; None for anything else."""
    parts = _ORDER.split(text)
    if len(parts) not in (3, 5) or split(text, ",;")[1:] or "\\cup" in text:
        return None
    names = [index for index in range(0, len(parts), 2) if _VARIABLE.fullmatch(parts[index])]
    if len(names) != 1:
        return None
    low, high, left, right = "-\\infty", "\\infty", "(", ")"
    if len(parts) == 5:
        if names != [2] or (parts[1] in ("<", "\\le")) != (parts[3] in ("<", "\\le")):
            return None
        first, second = (parts[0], parts[1]), (parts[4], parts[3])
        if parts[1] in (">", "\\ge"):
            first, second = second, first
        low, high = first[0], second[0]
        left, right = "[" if first[1].startswith("\\") else "(", "]" if second[1].startswith("\\") else ")"
    else:
        bound, closed = parts[2 - names[0]], parts[1].startswith("\\")
        above = (parts[1] in (">", "\\ge")) == (names[0] == 0)
        if above:
            low, left = bound, "[" if closed else "("
        else:
            high, right = bound, "]" if closed else ")"
    if not low.strip() or not high.strip():
        return None
    return Form("interval", text, (parse(low), parse(high)), left + right)


def clock(text: str) -> tuple[int, int, int, str] | None:
    """Hour, minute, second and "a", "p" or "" of a time of day; None for anything else, and for 7:70."""
    match = _TIME.fullmatch(text.strip())
    if match is None or (match.group(2) is None and not match.group(4)):
        return None
    hour, minute, second = (int(match.group(index) or 0) for index in (1, 2, 3))
    return (
        (hour, minute, second, (match.group(4) or "").lower())
        if minute < 60 and second < 60 and hour < 25
        else None
    )


def ratio(text: str) -> list[str] | None:
    """The terms of `1:2:3`; None for anything else."""
    if (
        _RATIO.fullmatch(text) is None
        or "\\text" in text
        or re.search(r"[a-zA-Z]{2}", re.sub(r"\\[a-z]+", "", text))
    ):
        return None
    terms = [term.strip() for term in text.split(":")]
    return terms if all(re.search(r"[0-9]|\\[a-z]+", term) for term in terms) else None


def residue(text: str) -> tuple[int, int] | None:
    """Value and modulus of `n \\equiv 1 \\pmod 3` or `1 \\pmod 3`; None for anything else."""
    match = _RESIDUE.fullmatch(text.strip())
    if match is None or int(match["modulus"][:12]) == 0 or len(match["value"]) > 30:
        return None
    return int(match["value"]), int(match["modulus"][:12])


def numeral(text: str) -> tuple[str, int] | None:
    """Digits and base of `1101_2`, `\\text{A5}_{11}`, `(1101)_2`; None for anything else: `x_1` is a name."""
    text = _DIGITS_IN_BASE.sub(lambda match: match.group(1) or match.group(2), text.strip())
    text = _MIXED_DIGITS.sub(r"\1\2\3", text)
    match = NUMERAL.fullmatch(text.strip())
    if match is None:
        return None
    named = match.group(2) or match.group(3)
    base = {"two": 2, "eight": 8, "ten": 10, "sixteen": 16}.get(named) or (
        int(named) if named.isdigit() else 0
    )
    digits = match.group(1).upper()
    if (
        not 2 <= base <= 36
        or (len(digits) == 1 and digits.isalpha())
        or not (digits.replace(".", "").isdigit() or digits != digits.lower())
    ):
        return None
    if match.group(1).islower() or not any(character.isdigit() for character in digits):
        return None
    return digits, base


def words(text: str) -> str | None:
    """The letters of a text that is words (`\\text{east}`), without regard to case; None for anything else."""
    match = _WORDS.fullmatch(text.strip())
    if match is None:
        return None
    return re.sub(r"[^a-z0-9]", "", (match.group(1) or match.group(2)).lower())
