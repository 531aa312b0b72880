"""Rules for single values: numbers, formulas, equations with their labels, residues, numerals, times, words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction

from tasks.verify import forms, numbers, points, spelling, units
from tasks.verify.comparison import Comparison
from tasks.verify.forms import Form, parse
from tasks.verify.reading import wide
from tasks.verify.spelling import split

_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mbox|hbox|mathrm|mathbf|operatorname|mathit)\s*\{([^{}]*)\}"
)
_NAME = re.compile(r"[A-Za-z]|\\[a-zA-Z]+")
_NO_NAME = re.compile(
    r"\\(?:sqrt|pi|infty|(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|lg|ln|exp|binom|neg?|lnot|not)(?![a-zA-Z])"
)
_SUM_OF_NAMES = re.compile(r"[A-Za-z]{1,3}(?:\s*[+-]\s*[A-Za-z]{1,3}){1,7}")
_CALL = re.compile(r"\s*([A-Za-z])\s*\(\s*([a-z])\s*\)\s*")
_APPROXIMATE = re.compile(r"\\approx(?![a-zA-Z])")
_CHOICE = re.compile(r"\(?\s*([A-Z])\s*\)?\.?")
_OPTION = re.compile(
    r"\s*(?:\\(?:text|textbf|mathbf|mathrm|textrm)\s*\{\s*)?\(?\s*[A-J]\s*\)\s*\}?\s*[:.]?\s*(?=[-+0-9\\$(])"
)
_TRAILING_UNIT = re.compile(
    r"(?<=[^\s])\s*(?:\\(?:text|mbox|mathrm|textrm)\s*\{([^{}]*)\}(?:\s*\^\s*\{?[1-9]\}?)?)\s*$"
)


def numbers_(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Two numbers, exactly, with their units and percent signs."""
    wanted, given = numbers.parse(gold.text), numbers.parse(answer.text)
    if wanted is None or given is None:
        return False
    asked = wanted.percent != given.percent and comparison.percent_asked(wanted.value)
    return numbers.equal(wanted, given, asked)


def quantity(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Two values of which one at least is a formula: their units first, then their values at points."""
    return _quantity(gold.text, answer.text, comparison)


def _quantity(gold: str, answer: str, comparison: Comparison) -> bool:
    if spelling.same(gold, answer):
        return True
    if forms.SIGNS.search(answer) and not forms.SIGNS.search(gold):
        return False
    rest = without_option(answer)
    if rest != answer and without_option(gold) == gold:
        return _value_is(parse(gold), rest, comparison)
    plain_gold, gold_unit = _without_unit(gold)
    plain_answer, answer_unit = _without_unit(answer)
    if gold_unit and answer_unit and not units.same(gold_unit, answer_unit):
        return False
    if not plain_answer or not plain_gold:
        return False
    if (plain_gold, plain_answer) != (gold, answer):
        gold_form, answer_form = parse(plain_gold), parse(plain_answer)
        if gold_form.kind == answer_form.kind == "number":
            return numbers_(gold_form, answer_form, comparison)
        return _quantity(plain_gold, plain_answer, comparison)
    return comparison.same(_plain_number(gold), _plain_number(answer))


def without_option(text: str) -> str:
    """A value without the letter of the option in front of it: `\\textbf{(D)}\\ 4`."""
    match = _OPTION.match(text)
    if match is None:
        return text
    rest = text[match.end() :].strip()
    return rest if spelling.balanced(rest) else text


def _plain_number(text: str) -> str:
    """A number in plain digits, so that `1e11` is no product with Euler's number; other texts as they are."""
    amount = numbers.parse(text)
    if amount is None or amount.percent:
        return text
    value = amount.value
    return (
        str(value.numerator)
        if value.denominator == 1
        else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    )


def _without_unit(text: str) -> tuple[str, str]:
    """A value and the words behind it, if they are a unit: `5\\sqrt{3}\\text{ cm}`."""
    match = _TRAILING_UNIT.search(text)
    if match is not None and match.start() > 0 and re.search(r"[0-9]|\\pi", text[: match.start()]):
        unit = match.group(1).strip()
        if units.is_unit(unit):
            return text[: match.start()].strip().rstrip("\\").strip(), unit
    match = re.fullmatch(r"(.*[^\s\\a-zA-Z])\s+([a-z]{2,}s?)", text, re.DOTALL)
    if match is not None and units.is_unit(match.group(2)) and units.same(match.group(2), match.group(2)):
        return match.group(1), match.group(2)
    return text.removeprefix("\\$").removesuffix("\\%") if "\\$" in text else text, ""


def stated(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """An equation for a gold that is a value: labels in front, then sides that must all be the gold.

    `m+n = 256+37 = 293` is 293, and `43 = 42` nothing. Behind a sign of approximation stands a number that must be
    the exact value rounded; only where there is no exact value does it count as the answer.
    """
    exact, rounded = _sides(answer.text)
    labels = 0
    while labels < len(exact) and is_label(exact[labels]):
        labels += 1
    if labels == len(exact) and labels and not rounded and len(exact) > 1:
        labels -= 1  # the last side counts, though it is a name: `z = i`
    values = exact[labels:] if len(exact) > 1 or labels or rounded else []
    while len(values) > 1 and is_label(values[-1]) and not is_label(gold.text):
        values.pop()  # the name behind its value: `5 = x`
    if not rounded and (len(exact) < 2 or not all(side.strip() for side in exact)):
        return False
    if not values and rounded:
        return labels > 0 and all(_value_is(gold, side, comparison) for side in rounded)
    return (
        bool(values)
        and all(_value_is(gold, side, comparison) for side in values)
        and all(_rounds(values[-1], side) for side in rounded)
    )


def _sides(text: str) -> tuple[list[str], list[str]]:
    """The sides of a chain of equations, and those behind signs of approximation."""
    first, *approximate = split(text, "", "\\approx")
    rounded = [side for part in approximate for side in split(part, "=")]
    return split(first, "="), rounded


def _value_is(gold: Form, side: str, comparison: Comparison) -> bool:
    form = parse(side)
    if form.kind == gold.kind == "number":
        return numbers_(gold, form, comparison)
    return form.kind in ("number", "formula", "numeral") and _quantity(gold.text, form.text, comparison)


def _rounds(exact: str, rounded: str) -> bool:
    """True if a decimal is a value rounded or cut off at its last digit; true where the value cannot be computed."""
    amount = numbers.parse(rounded)
    if amount is None:
        return False
    value = points.constant(_plain_number(_without_unit(exact)[0]))
    if value is None or not points.is_real(value):
        return True
    digits = re.search(r"\.([0-9]+)", rounded)
    size = Fraction(1, 10 ** len(digits.group(1))) if digits else Fraction(1)
    shown = amount.value / (100 if amount.percent else 1)
    difference = abs(wide(points.real(value)) - wide(shown))
    return bool(difference < wide(size / (100 if amount.percent else 1)))


def named(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """A gold that names its value, `x = 5`, and an answer without a name."""
    sides = split(gold.text, "=")
    if len(sides) < 2:
        return False
    if not is_label(sides[0]) and points.constant(sides[0]) is None and numbers.parse(sides[0]) is None:
        return False
    form = parse(sides[-1])
    if form.kind == answer.kind == "number":
        return numbers_(form, answer, comparison)
    return answer.kind in ("number", "formula") and _quantity(sides[-1], answer.text, comparison)


def equations(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Two equations: the same name with the same value, else the same curve."""
    wanted, (given, rounded) = split(gold.text, "="), _sides(answer.text)
    given = [*given, *rounded] if len(given) < 2 else given
    if gold.text.count("=") > 2 or answer.text.count("=") > 4 or not all(wanted) or not all(given):
        return False
    if len(wanted) < 2 or len(given) < 2:
        return False
    if sorted(map(_letters, wanted)) == sorted(map(_letters, given)):
        return True
    if is_label(wanted[0]) and is_label(given[0]):
        rename = _renamed(wanted[0], given[0])
        if rename is not None:
            last = wanted[-1]
            return all(
                comparison.same(last, side, rename) if rename else _value_is(parse(last), side, comparison)
                for side in given[1:]
            )
        if _CALL.fullmatch(wanted[0]) or _CALL.fullmatch(given[0]):
            return False
    if len(wanted) != 2 or len(given) != 2:
        return False
    left, right = (f"({sides[0]})-({sides[1]})" for sides in (wanted, given))
    return comparison.proportional(left, right)


def _letters(text: str) -> str:
    return re.sub(r"\s+", "", _TEXT.sub(r"\1", text))


def _renamed(gold: str, answer: str) -> dict[str, str] | None:
    """How names of the answer's side translate, if the two labels name the same thing; None if they do not.

    `f(t)` is `f(x)` with another variable, and `y` is `f(x)`.
    """
    if spelling.same(_letters(gold), _letters(answer)):
        return {}
    wanted, given = _CALL.fullmatch(gold), _CALL.fullmatch(answer)
    if wanted is not None and given is not None:
        if wanted.group(1) != given.group(1):
            return None
        return {} if wanted.group(2) == given.group(2) else {given.group(2): wanted.group(2)}
    call, name = (wanted, answer) if wanted is not None else (given, gold)
    return {} if call is not None and call.group(2) == "x" and name.strip() == "y" else None


def is_label(text: str) -> bool:
    """True if the text only names something: `x`, `f(3)`, `x_1`, `\\angle ABC`, `m+n`, `\\frac{s}{r}`, `\\Pr[X=1]`."""
    text = text.strip()
    if re.fullmatch(r"\\?(?:Pr|P|mathbb\{[PE]\}|E|N|n)\s*(?:\(.*\)|\[.*\]|\\left.*)", text):
        return True
    text = re.sub(r"^([A-Za-z]|[A-Za-z]\s*\^\s*\{\s*-1\s*\})\s*\(\s*-?[0-9]+\s*\)\s*$", "x", text)
    text = re.sub(r"_\s*(?:\{[^{}]*\}|\w)", "", _TEXT.sub("x", text))
    if len(text) > 60 or _NO_NAME.search(text) or text in ("i", "e"):
        return False
    if _SUM_OF_NAMES.fullmatch(text):
        return True
    text = re.sub(r"^\\frac\s*\{?\s*([A-Za-z]{1,3})\s*\}?\s*\{?\s*([A-Za-z]{1,3})\s*\}?$", r"\1\2", text)
    text = re.sub(r"^([A-Z]{1,3})\s*[:/]\s*([A-Z]{1,3})$", r"\1\2", text)
    if "\\frac" in text:
        return False
    return re.fullmatch(r"[\s(){}|',]*", _NAME.sub("", text)) is not None and _NAME.search(text) is not None


def residues(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Residues of one modulus; the residue as published for an answer or a gold that names no modulus."""
    wanted, given = forms.residue(gold.text), forms.residue(answer.text)
    if wanted is not None and given is not None:
        return wanted[1] == given[1] and (wanted[0] - given[0]) % wanted[1] == 0
    plain = numbers.parse(gold.text if wanted is None else answer.text)
    known = wanted or given
    if plain is None or known is None or plain.percent or not 0 <= known[0] < known[1]:
        return False
    return plain.value == known[0]


def in_base(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Numerals with a base: the same digits in the same base; digits only where the question names the base."""
    wanted, given = forms.numeral(gold.text), forms.numeral(answer.text)
    if wanted is not None and given is not None:
        return wanted == given
    digits, base = wanted or given or ("", 0)
    plain = re.sub(r"\s", "", _TEXT.sub(r"\1", answer.text if wanted else gold.text)).upper()
    named = re.findall(r"base[\s$\\-]*(?:\{|_)?\s*([0-9]+|[a-z]+)", comparison.question.lower())
    if named:
        return plain == digits and (wanted is not None or named[-1] in (str(base), *_BASES.get(base, ())))
    amount = numbers.parse(gold.text) if given is not None else None
    try:
        return amount is not None and int(digits, base) == amount.value
    except ValueError:
        return False


_BASES = {2: ("two",), 3: ("three",), 8: ("eight",), 10: ("ten",), 16: ("sixteen",)}


def clocks(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Times of day and ratios. `3:30` is a time where the question asks for one, or where no ratio is so written."""
    wanted, given = forms.clock(gold.text), forms.clock(answer.text)
    if wanted is not None and (wanted[3] or _is_time(gold.text, comparison.question)):
        amount = numbers.parse(answer.text)
        if given is None and amount is not None and not amount.unit and amount.value.denominator == 1:
            given = (int(amount.value), 0, 0, "")
        return given is not None and wanted[:3] == given[:3] and (wanted[3] == given[3] or not wanted[3])
    terms, others = forms.ratio(gold.text), forms.ratio(answer.text)
    if terms is None or others is None:
        whole, part = (terms, answer.text) if others is None else (others, gold.text)
        if whole is None or len(whole) != 2:
            return False
        return comparison.same(f"\\frac{{{whole[0]}}}{{{whole[1]}}}", _plain_number(part))
    if (
        len(terms) != len(others)
        or "\\ldots" in gold.text + answer.text
        or "\\dots" in gold.text + answer.text
    ):
        return False
    return all(
        comparison.same(f"({terms[0]})({other})", f"({term})({others[0]})")
        for term, other in zip(terms[1:], others[1:], strict=True)
    )


def _is_time(text: str, question: str) -> bool:
    if re.search(r"(?<![a-z])ratio|proportion", question, re.IGNORECASE):
        return False
    if re.search(r"(?<![a-z])(?:time|o'clock|clock|[ap]\.m\.|when)(?![a-z])", question, re.IGNORECASE):
        return True
    parts = [int(part) for part in re.findall(r"[0-9]+", text)]
    return len(parts) > 1 and math.gcd(*parts[:2]) > 1


def same_words(gold: Form, answer: Form) -> bool | None:
    """A gold of words (`\\text{east}`) or an option letter (`\\text{(C)}`): the same letters, whatever their case.

    None where the gold may be a name in a formula, and not a word.
    """
    wanted = forms.words(gold.text)
    marked = gold.text.lstrip().startswith("\\")
    if wanted is None or not (marked or len(wanted) > 3):
        choice = _CHOICE.fullmatch(gold.text.strip()) if "(" in gold.text else None
        if choice is None:
            return None
        wanted = choice.group(1).lower()
    unwrapped = _TEXT.sub(r" \1 ", answer.text)
    if re.search(r"[\\^_=+*/<>|]", unwrapped):
        return False
    return re.sub(r"[^a-z0-9]", "", unwrapped.lower()) == wanted


def with_common_label(parts: Sequence[Form]) -> Sequence[Form]:
    """`(x, y) = (5, 8), (8, 5)`: the label of the first item is that of all."""
    if len(parts) < 2 or parts[0].kind != "equation" or any(part.kind == "equation" for part in parts[1:]):
        return parts
    sides = split(parts[0].text, "=")
    return [parse(sides[1]), *parts[1:]] if len(sides) == 2 and is_label(sides[0]) else parts


def in_order_of_names(wanted: Sequence[Form], given: Sequence[Form]) -> bool:
    """True if the gold names its items by different names, and the answer by none: then their order counts."""
    if any(part.kind == "equation" for part in given) or not all(part.kind == "equation" for part in wanted):
        return False
    names = [re.sub(r"_.*", "", split(part.text, "=")[0].strip()) for part in wanted]
    return len(set(names)) == len(names) > 1
