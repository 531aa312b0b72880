"""Numbers as people and models write them, compared exactly.

Integers, decimals, fractions, mixed numbers, powers of ten, percentages, thousands separators, currency
signs, units and signs, in plain text or LaTeX. Nothing is rounded, no float is involved, and what is not
certainly one number is not a number here (`parse` returns None) and is left to other comparisons.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

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
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<currency>[$€£¥₹]?)\s*(?P<after>[+-]?)\s*"
    rf"{_UNSIGNED}(?P<percent>\s*%)?(?P<unit>.*)",
    re.DOTALL,
)
_WRAPPED = re.compile(r"\\\((.*)\\\)|\\\[(.*)\\\]|\$\$(.*)\$\$|\$([^$]*[^$\s])\$|\*\*(.*)\*\*", re.DOTALL)
_TEXT_MACRO = re.compile(
    r"\\(?:text|mbox|textrm|textbf|textit|mathrm|mathbf|operatorname|hbox|rm|bf)\s*\{([^{}]*)\}"
)
# LaTeX typesets 10,000 as `10,\\! 000` and as `10\\,000`.
_GROUP_SPACE = re.compile(r"\\!\s*|(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))")
_SPACES = re.compile(
    r"\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\\(?:left|right|displaystyle)(?![a-zA-Z])|[\u00a0\u2009\u202f]"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°|\\degrees?(?![a-zA-Z])")
#: A word in the place of a unit that changes the value, or makes an expression of it: then it is no unit.
_NOT_UNIT_WORDS = (
    "below zero loss debt",
    "pi tau phi theta alpha beta gamma infinity infty inf nan oo sqrt root sin cos tan cot csc log",
    "exp abs max mod modulo base and or not to than about over under plus minus times divided",
    "multiplied by choose squared cubed factorial point negative remainder hundred hundreds thousand",
    "thousands million millions billion billions trillion trillions dozen dozens pair pairs couple score",
    "half halves third thirds quarter quarters fourth fourths fifth fifths tenth tenths hundredth",
    "hundredths thousandth thousandths ten twelve twice double triple percentage points abc xyz if when",
    "where with unless except is are was equals equal less more greater approximately",
)
_NOT_UNITS = frozenset(word for line in _NOT_UNIT_WORDS for word in line.split())
#: Unit names that mean the same. Two known units that differ are two different amounts; unknown ones are
#: words only.
_SAME_UNITS = (
    "dollar dollars usd buck bucks",
    "cent cents",
    "euro euros eur",
    "yen",
    "rupee rupees",
    "pound pounds lb lbs",
    "inch inches in",
    "foot feet ft",
    "yard yards yd yds",
    "mile miles mi",
    "millimeter millimeters millimetre millimetres mm",
    "centimeter centimeters centimetre centimetres cm",
    "meter meters metre metres m",
    "kilometer kilometers kilometre kilometres km",
    "second seconds sec secs s",
    "minute minutes min mins",
    "hour hours hr hrs h",
    "day days",
    "week weeks",
    "month months",
    "year years yr yrs",
    "milligram milligrams mg",
    "gram grams g",
    "kilogram kilograms kg",
    "ounce ounces oz",
    "milliliter milliliters ml",
    "liter liters litre litres l",
    "gallon gallons gal",
    "degree degrees",
    "radian radians rad",
    "percent",
)
_KNOWN_UNITS = {name: group.split()[0] for group in _SAME_UNITS for name in group.split()}
_SHORT_WORDS = frozenset(
    ("of", "in", "a", "sq", "mph", "kph", "rpm", *(name for name in _KNOWN_UNITS if len(name) > 1))
)
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_PER_LETTER = re.compile(r"/\s*([hs])(?![a-z])")
_PER = {"h": "/hour", "s": "/second"}
_UNIT_WORDS = re.compile(r"[A-Za-z]+")
_UNIT_SHAPE = re.compile(
    r"[\s(-]*[A-Za-z]+\.?(?:\s*\^\s*\{?\s*-?[1-9]\s*\}?)?"
    r"(?:[\s/*·-]+[A-Za-z]+\.?(?:\s*\^\s*\{?\s*-?[1-9]\s*\}?)?){0,5}\s*\)?\s*"
)
_TEXT_MARK = "\x02"


def plain(text: str) -> str:
    """The text without what LaTeX and markdown wrap around a number: delimiters, spacing and font macros."""
    text = text.replace(_TEXT_MARK, "").strip()
    for _ in range(4):
        match = _WRAPPED.fullmatch(text)
        if match is None:
            break
        text = next(group for group in match.groups() if group is not None).strip()
    text = (
        text.replace("\\$", "$").replace("\\%", "%").replace("{,}", ",").replace("−", "-").replace("–", "-")
    )
    text = _DEGREES.sub(f" {_TEXT_MARK}degrees ", text)
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = _TEXT_MACRO.sub(lambda match: f" {_TEXT_MARK}{match.group(1)} ", text)
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
    match = _NUMBER.fullmatch(text.replace(f" {_TEXT_MARK}", _TEXT_MARK).lstrip(_TEXT_MARK).strip())
    if match is None:
        return None
    part = match.groupdict()
    if part["sign"] and part["after"]:
        return None
    value = _value(part)
    unit = None if value is None else _unit(part["unit"])
    if value is None or unit is None:
        return None
    if "-" in (part["sign"], part["after"]):
        value = -value
    percent = bool(part["percent"])
    if unit == "percent":
        if percent:
            return None
        percent, unit = True, ""
    currency = _CURRENCIES.get(part["currency"] or "", "")
    if currency:
        if percent or _known(unit) not in ("", currency):
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


def _unit(text: str) -> str | None:
    """The unit that `text` is, "" for none; None where `text` is something else than a unit."""
    in_text_macro = _TEXT_MARK in text
    spaced = text[:1].isspace() or text[:1] in ("(", "-")
    text = text.replace(_TEXT_MARK, " ").strip().strip(".,;").strip()
    if not text:
        return ""
    words = _words(text)
    if _UNIT_SHAPE.fullmatch(text) is None or any(word in _NOT_UNITS for word in words):
        return None
    if in_text_macro or all(len(word) > 1 and word in _KNOWN_UNITS for word in words):
        return " ".join(words)
    # Elsewhere letters may be variables: what stands apart and can be pronounced is a word.
    if spaced and all(word in _SHORT_WORDS or (len(word) > 2 and set(word) & set("aeiou")) for word in words):
        return " ".join(words)
    return None


def _words(unit: str) -> list[str]:
    """The words of a unit, powers and `/h` spelled out."""
    text = _PER_LETTER.sub(lambda match: _PER[match.group(1)], unit.lower())
    text = re.sub(r"\^\s*\{?\s*2\s*\}?", " square ", text)
    return _UNIT_WORDS.findall(re.sub(r"\^\s*\{?\s*3\s*\}?", " cubic ", text))


def _known(unit: str) -> str:
    """The one name of a unit that is spelled in several ways; "" if it is none of the known ones."""
    words = [word for word in _words(unit) if word not in _POWERS]
    return _KNOWN_UNITS.get(words[0], "") if len(words) == 1 else ""


def is_unit(text: str) -> bool:
    """Whether words that follow a number are a unit, and not part of an expression."""
    return _unit(f" {_TEXT_MARK}{text}") not in (None, "")


def same_unit(one: str, other: str) -> bool:
    """Whether two units may be the same: false only if both are known, or both state a power, and these differ."""
    ours, theirs = _known(one), _known(other)
    if ours and theirs and ours != theirs:
        return False
    powers = [{_POWERS[word] for word in _words(unit) if word in _POWERS} for unit in (one, other)]
    return not all(powers) or powers[0] == powers[1]


def equal(gold: Amount, answer: Amount, percent_asked: bool = False) -> bool:
    """Whether two amounts are the same number, exactly.

    50% is one half, and not 50; only where the question asks for a percentage (`percent_asked`) is a bare 50
    the same answer as 50%. Two units that are both known and differ (cents, dollars) make two different
    amounts.
    """
    if not same_unit(gold.unit, answer.unit):
        return False
    if gold.percent == answer.percent:
        return gold.value == answer.value
    if percent_asked and gold.value == answer.value:
        return True
    if percent_asked and not gold.percent:
        return False
    return gold.value / (100 if gold.percent else 1) == answer.value / (100 if answer.percent else 1)


_PERCENT_ASKED = re.compile(
    r"(?<![0-9])(?<![0-9] )(?<![0-9]-)percent(?:age)?(?![a-z])|(?:what|as an?|in)\s+\$?\\?%", re.IGNORECASE
)


def asks_percent(question: str) -> bool:
    """Whether the question asks for a percentage, rather than only stating one (`20 percent off`)."""
    return _PERCENT_ASKED.search(question) is not None
