"""Numbers as people and models write them, compared exactly.

Integers, decimals, fractions, mixed numbers, powers of ten, percentages, thousands separators, currency
signs, units and signs, in plain text or LaTeX. Nothing is rounded, no float is involved, and what is not
certainly one number is not a number here (`parse` returns None) and is left to other comparisons.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from tasks.verify import units
from tasks.verify.spelling import MINUS
from tasks.verify.units import TEXT_MARK

#: A number longer than this is none: it bounds every step below, and no benchmark comes near it.
LONGEST = 400
_LARGEST_EXPONENT = 400


@dataclass(frozen=True)
class Amount:
    """One number: its exact value, whether a percent sign follows (50% has value 50), and its unit, "" if
    none.
    """

    value: Fraction
    percent: bool = False
    unit: str = ""


_UNSIGNED = (
    r"(?:"
    r"(?P<whole>[0-9]+)\s*\\frac\s*\{\s*(?P<mixed_top>[0-9]+)\s*\}\s*\{\s*(?P<mixed_bottom>[0-9]+)\s*\}"
    r"|(?P<plain_whole>[0-9]+)\s+(?P<plain_top>[0-9]+)\s*/\s*(?P<plain_bottom>[0-9]+)"
    r"|\\frac\s*\{\s*(?P<inner_sign>[+-]?)\s*(?P<top>[0-9]+(?:\.[0-9]+)?)\s*\}\s*"
    r"\{\s*(?P<lower_sign>[+-]?)\s*(?P<bottom>[0-9]+(?:\.[0-9]+)?)\s*\}"
    r"|\\frac\s*(?:(?P<short_top>[0-9])|\{\s*(?P<long_top>[0-9]+)\s*\})\s*"
    r"(?:(?P<short_bottom>[0-9])(?![0-9])|\{\s*(?P<long_bottom>[0-9]+)\s*\})"
    r"|(?P<slash_top>[0-9]+(?:\.[0-9]*)?)\s*/\s*(?P<slash_bottom>[0-9]+(?:\.[0-9]+)?)(?!\s*/)"
    r"|(?P<start>[0-9]*\.[0-9]*)\\(?:overline|bar)\s*\{\s*(?P<repeated>[0-9]+)\s*\}"
    r"|(?P<decimal>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
    r"(?:(?:\s*(?:\\times|\\cdot|[*x×])\s*10\s*\^\s*(?:\{\s*(?P<power>[+-]?[0-9]{1,4})\s*\}|(?P<short_power>[0-9]))"
    r"|[eE](?P<e>[+-]?[0-9]{1,4})))?"
    r")"
)
_NUMBER_WORDS = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBER_WORD = re.compile(rf"\s*{TEXT_MARK}?\s*({'|'.join(_NUMBER_WORDS)})(?![a-z])", re.IGNORECASE)
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<currency>[$€£¥₹]?)\s*(?P<after>[+-]?)\s*"
    rf"{_UNSIGNED}(?P<percent>\s*%)?(?:\s*(?P<behind>[$€£¥₹])(?=\s*$))?(?P<unit>.*)",
    re.DOTALL,
)
_WRAPPED = re.compile(
    r"`([^`]*)`|\\\((.*)\\\)|\\\[(.*)\\\]|\$\$(.*)\$\$|\$([^$]*[^$\s])\$|\*\*(.*)\*\*", re.DOTALL
)
_TEXT_MACRO = re.compile(r"\\(?:text|mbox|textnormal|textrm|textbf|textit|mathrm|hbox|rm)\s*\{([^{}]*)\}")
#: Fonts of names, too: letters in them may be a vector or a function, and are a unit only where they are a known one.
_FONT_MACRO = re.compile(r"\\(?:mathbf|operatorname|bf)\s*\{([^{}]*)\}")
# LaTeX typesets 10,000 as `10,\\! 000` and as `10\\,000`.
_GROUP_SPACE = re.compile(r"\\!\s*|(?<=[0-9])(?:\\,|[\u2009\u202f])(?=[0-9]{3}(?![0-9]))")
_SPACES = re.compile(
    r"\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\\(?:left|right|displaystyle)(?![a-zA-Z])|[\u00a0\u2009\u202f]"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°|\\degrees?(?![a-zA-Z])")


def plain(text: str) -> str:
    """The text without what LaTeX and markdown wrap around a number: delimiters, spacing and font macros."""
    text = text.replace(TEXT_MARK, "").strip()
    for _ in range(4):
        match = _WRAPPED.fullmatch(text)
        if match is None:
            break
        text = next(group for group in match.groups() if group is not None).strip()
    text = MINUS.sub("-", text.replace("\\$", "$").replace("\\%", "%").replace("{,}", ","))
    text = _DEGREES.sub(f" {TEXT_MARK}degrees ", text)
    text = units.plain(re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text))
    text = re.sub(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])", r"\\frac{\1}{\2}", text)
    text = _FONT_MACRO.sub(r" \1 ", _TEXT_MACRO.sub(lambda match: f" {TEXT_MARK}{match.group(1)} ", text))
    text = _GROUP_SPACE.sub("", text)
    text = _SPACES.sub(" ", text)
    return text.strip()


def parse(text: str) -> Amount | None:
    """The one number that `text` is, or None. The whole text must be that number, its sign, currency and
    unit.

    A word behind the number is a unit unless it changes the value (`3 million`, `2 pi`); a bare letter
    (`3x`) is a variable and no unit, except inside `\\text{}`.
    """
    if len(text) > LONGEST or not any("0" <= character <= "9" for character in text):
        return None
    text = plain(text)
    if text.endswith("."):
        text = text[:-1].rstrip()
    match = _NUMBER.fullmatch(text.replace(f" {TEXT_MARK}", TEXT_MARK).lstrip(TEXT_MARK).strip())
    if match is None:
        return None
    part = match.groupdict()
    if part["sign"] and part["after"]:
        return None
    value = _value(part)
    rest = part["unit"]
    word = _NUMBER_WORD.match(rest)
    if word is not None and value is not None:
        value, rest = value * _NUMBER_WORDS[word.group(1).lower()], rest[word.end() :]
    unit = None if value is None else units.unit(rest)
    if value is None or unit is None:
        return None
    if "-" in (part["sign"], part["after"]):
        value = -value
    percent = bool(part["percent"])
    if unit == "percent":
        if percent:
            return None
        percent, unit = True, ""
    currency = _CURRENCIES.get(part["currency"] or part["behind"] or "", "")
    if currency:
        if percent or units.known(unit) not in ("", currency):
            return None
        unit = unit or currency
    return Amount(value, percent, unit)


def _value(part: dict[str, str | None]) -> Fraction | None:
    """The exact value of the unsigned part of a match; None where it divides by zero or grows beyond all
    measure.
    """

    def number(name: str) -> Fraction:
        return Fraction((part[name] or "0").replace(",", "").rstrip("."))

    try:
        for whole, top, bottom in (
            ("whole", "mixed_top", "mixed_bottom"),
            ("plain_whole", "plain_top", "plain_bottom"),
        ):
            if part[whole] is not None:
                fraction = number(top) / number(bottom)
                return number(whole) + fraction if fraction < 1 else None
        if part["top"] is not None:
            negative = (part["inner_sign"] == "-") != (part["lower_sign"] == "-")
            return (-1 if negative else 1) * number("top") / number("bottom")
        if part["slash_top"] is not None:
            return number("slash_top") / number("slash_bottom")
        short_top, short_bottom = (
            part["short_top"] or part["long_top"],
            part["short_bottom"] or part["long_bottom"],
        )
        if short_top is not None and short_bottom is not None:
            return Fraction(int(short_top), int(short_bottom))
    except ZeroDivisionError:
        return None
    if part["repeated"] is not None:
        start, repeated = part["start"] or "", part["repeated"]
        scale = 10 ** len(start.split(".")[1])
        return Fraction(start.rstrip(".") or "0") + Fraction(int(repeated), scale * (10 ** len(repeated) - 1))
    decimal = part["decimal"] or ""
    if decimal == ".":
        return None
    exponent = int(part["power"] or part["short_power"] or part["e"] or 0)
    if abs(exponent) > _LARGEST_EXPONENT:
        return None
    return Fraction(decimal.replace(",", "").rstrip(".")) * Fraction(10) ** exponent


def equal(gold: Amount, answer: Amount, percent_asked: bool = False) -> bool:
    """True if two amounts are the same number, exactly.

    50% is one half, and not 50; only where the question asks for a percentage (`percent_asked`) is a bare 50
    the same answer as 50%. Two units that are both known and differ (cents, dollars) make two different
    amounts.
    """
    if not units.same(gold.unit, answer.unit):
        return False
    if gold.percent == answer.percent:
        return gold.value == answer.value
    if percent_asked and gold.value == answer.value:
        return True
    if percent_asked and not gold.percent:
        return False
    return gold.value / (100 if gold.percent else 1) == answer.value / (100 if answer.percent else 1)


_PERCENT_ASKED = re.compile(
    r"(?<![0-9])(?<![0-9] )(?<![0-9]-)percent(?:age)?(?![a-z])|(?:what|as an?|in|how many)\s+\$?\\?%",
    re.IGNORECASE,
)
_CHANCE_ASKED = re.compile(
    r"how\s+likely|(?<![a-z])(?:chances?|probability|likelihood|odds)(?![a-z])|what\s+(?:\w+\s+){0,3}rate(?![a-z])",
    re.IGNORECASE,
)
_SHOWN = re.compile(r"what\s+(?:did|does|will|is)\s+it", re.IGNORECASE)


def asks_percent(question: str, gold: Fraction | int = 0) -> bool:
    """True if the question asks for a percentage, rather than only stating one (`20 percent off`).

    It also does where it asks for a chance or a rate and the gold is above 1, which no chance is, and where it states a
    percentage and asks for no count (`The battery shows 28% now. What did it show?`).
    """
    if _PERCENT_ASKED.search(question) is not None:
        return True
    if gold <= 1:
        return False
    asked = re.split(r"(?<=[.!?])\s+", question.strip())[-1]
    return _CHANCE_ASKED.search(asked) is not None or ("%" in question and _SHOWN.match(asked) is not None)
