"""Words and symbols behind a number: which are units, which change the value, and which two are the same unit."""

from __future__ import annotations

import re

#: Stands in front of what a text macro held: letters there are words, and no variables.
TEXT_MARK = "\x02"
#: A word in the place of a unit that changes the value, or makes an expression of it: then it is no unit.
_NOT_UNIT_WORDS = (
    "below zero loss debt",
    "pi tau phi theta alpha beta gamma infinity infty inf nan oo sqrt root sin cos tan cot csc log",
    "exp abs max mod modulo base and or not to than about over under plus minus times divided most least without",
    "multiplied by choose squared cubed factorial point negative remainder hundred hundreds thousand",
    "thousands million millions billion billions trillion trillions dozen dozens pair pairs couple score",
    "half halves third thirds quarter quarters fourth fourths fifth fifths",
    "sixth sixths seventh sevenths eighth eighths",
    "ninth ninths",
    "tenth tenths eleventh elevenths twelfth twelfths twentieth twentieths hundredth hundredths",
    "thousandth thousandths millionth millionths ten twelve twice double triple percentage points abc xyz if when",
    "where with unless except is are was equals equal less more greater approximately",
    "lakh lakhs crore crores mille permille permil cent_per myriad gross bn tn mn i e am pm tens",
)
_NOT_UNITS = frozenset(word for line in _NOT_UNIT_WORDS for word in line.split())
#: Words that continue the number in front of them, where nothing but such words follows: `20 five` is 25. In
#: brackets they repeat it: `18 (eighteen)`.
_NUMBER_WORDS = frozenset(
    word
    for line in (
        "zero nought oh one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen",
        "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety",
    )
    for word in line.split()
)
#: Letters that name variables and no unit, in a text macro too; k is a thousand, as M is a million.
_VARIABLES = frozenset("xyznvwpqrijfok")
#: Names that mean the same, the first of them the unit's. Two known units that differ are two different amounts;
#: unknown ones are words only.
_SAME = (
    "dollar dollars usd buck bucks",
    "cent cents",
    "euro euros eur",
    "yen",
    "rupee rupees",
    "pound pounds lb lbs",
    "ton tons tonne tonnes",
    "inch inches in",
    "foot feet ft",
    "yard yards yd yds",
    "mile miles mi",
    "nm nanometer nanometers nanometre nanometres",
    "um micrometer micrometers micron microns",
    "mm millimeter millimeters millimetre millimetres",
    "cm centimeter centimeters centimetre centimetres",
    "m meter meters metre metres",
    "km kilometer kilometers kilometre kilometres kms",
    "s second seconds sec secs",
    "ms millisecond milliseconds",
    "minute minutes min mins",
    "hour hours hr hrs h",
    "day days",
    "week weeks",
    "month months",
    "year years yr yrs",
    "mg milligram milligrams",
    "g gram grams",
    "kg kilogram kilograms kgs kilo kilos",
    "ounce ounces oz",
    "mL milliliter milliliters millilitre millilitres ml",
    "L liter liters litre litres l",
    "gallon gallons gal",
    "degree degrees",
    "radian radians rad",
    "percent pct",
    "J joule joules",
    "kJ kilojoule kilojoules",
    "MJ megajoule megajoules",
    "W watt watts",
    "kW kilowatt kilowatts",
    "MW megawatt megawatts",
    "V volt volts",
    "N newton newtons",
    "Pa pascal pascals",
    "kPa kilopascal kilopascals",
    "Hz hertz",
    "kHz kilohertz",
    "MHz megahertz",
    "K kelvin kelvins",
    "A ampere amperes amp amps",
    "mol mole moles",
    "erg ergs",
    "ohm ohms",
    "angstrom angstroms",
    "north",
    "south",
    "east",
    "west",
    "left",
    "right",
    "up upward upwards",
    "down downward downwards",
    "clockwise",
    "counterclockwise anticlockwise",
)
_KNOWN = {name: group.split()[0] for group in _SAME for name in group.split()}
#: Symbols whose case counts: a prefix in front of a unit of the international system.
_SYMBOLS = {
    prefix + symbol: prefix + symbol.replace("l", "L").replace("moL", "mol")
    for prefix in ("", "p", "n", "u", "m", "c", "k", "M", "G", "T")
    for symbol in (
        "m",
        "s",
        "g",
        "J",
        "W",
        "V",
        "A",
        "N",
        "Pa",
        "Hz",
        "eV",
        "mol",
        "K",
        "L",
        "l",
        "T",
        "F",
        "C",
        "Wb",
        "pc",
    )
}
_SHORT_WORDS = frozenset(
    ("of", "in", "a", "sq", "mph", "kph", "rpm", *(name for name in _KNOWN if len(name) > 1))
)
#: Single letters that are a unit where a blank stands before them.
_LETTERS = frozenset(["m", "s", "g", "K", "J", "N", "W", "V"])
#: All powers above the third are one: what matters is that they are no square and no cube.
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "quartic": 4}
_SPELLED = {
    "mph": "mile per hour",
    "kph": "km per hour",
    "kmh": "km per hour",
    "kmph": "km per hour",
    "fps": "foot per s",
}
_PER_LETTER = re.compile(r"/\s*([hs])(?![a-z])")
_PER = {"h": "/hour", "s": "/second"}
_WORD = re.compile(r"[A-Za-z]+")
_POWER = r"(?:\s*\^\s*\{?\s*-?[1-9]\s*\}?)?"
_SHAPE = re.compile(rf"[\s(-]*[A-Za-z]+\.?{_POWER}(?:[\s/*·-]+[A-Za-z]+\.?{_POWER}){{0,5}}\s*\)?\s*")

_MACRO = r"\\(?:text|mathrm|mbox|textrm|rm|operatorname)"
_ATOM = r"[A-Za-z](?:[A-Za-z0-9^ -])*"
_PLAIN = (
    (re.compile(r"(?<=[a-zA-Z}])\s*\^\s*\{\s*(-?\s*[1-9])\s*\}"), r"^\1"),
    (
        re.compile(rf"({_MACRO})\s*\{{\s*\\frac\s*\{{\s*({_ATOM})\}}\s*\{{\s*({_ATOM})\}}\s*\}}"),
        r"\\text{\2/\3}",
    ),
    (
        re.compile(
            rf"\\frac\s*\{{\s*{_MACRO}\s*\{{\s*({_ATOM})\}}\s*\}}\s*\{{\s*{_MACRO}\s*\{{\s*({_ATOM})\}}\s*\}}"
        ),
        r"\\text{ \1/\2}",
    ),
    (
        re.compile(rf"(?:{_MACRO}\s*\{{\s*([MLR])\s*\}}|(?<![A-Za-z])([MLR]))\s*_\s*\{{?\s*\\odot\s*\}}?"),
        lambda match: f"\\text{{ {match[1] or match[2]}sun}}",
    ),
    (re.compile(r"(?<=[0-9\s])\\Omega(?![a-zA-Z])"), r"\\text{ ohm}"),
    (re.compile(r"\\AA(?![a-zA-Z])|Å|\\(?:text|mathrm)\s*\{\s*(?:\\AA|Å)\s*\}"), r"\\text{ angstrom}"),
    (
        re.compile(r"(?:\\mu|μ|µ)\s*(?:\\(?:mathrm|text)\s*\{\s*([a-zA-Z]+)\s*\}|([msgJWVAF])(?![a-z]))"),
        r"\\text{ u\1\2}",
    ),
    (re.compile(r"(?<=[0-9])\s*(?:\^\s*\{\s*(?:\\prime\s*\\prime|'')\s*\}|'')\s*$"), r"\\text{ arcsec}"),
    (re.compile(r"(?<=[0-9])\s*(?:\^\s*\{\s*\\prime\s*\}|\^\s*\\prime|')\s*$"), r"\\text{ arcmin}"),
    (re.compile(rf"(?<=\}})(\^-?[1-9])?\s*\\cdot\s*(?={_MACRO})"), r"\1 "),
    (re.compile(r"US(?=\s*\$)"), ""),
)
_INSIDE = re.compile(rf"({_MACRO}\s*\{{)([^{{}}]*)(\}})")


def plain(text: str) -> str:
    """A text whose units are written with macros, with the same units in letters."""
    if "\\" not in text and "'" not in text and "US" not in text and text.isascii():
        return text
    for pattern, new in _PLAIN:
        text = pattern.sub(new, text)
    text = _INSIDE.sub(lambda match: match[1] + re.sub(r"\\cdot|\\[,;: ]|~", " ", match[2]) + match[3], text)
    for sign, name in (("€", "euro"), ("£", "pound"), ("¥", "yen")):
        text = re.sub(rf"(?<=[0-9])\s*(?:{_MACRO}\s*\{{\s*)?{sign}\s*\}}?\s*$", rf"\\text{{ {name}}}", text)
    return text


def unit(text: str) -> str | None:
    """The unit that `text` is, "" for none; None where `text` is something else than a unit."""
    in_text_macro = TEXT_MARK in text
    spaced = text[:1].isspace() or text[:1] in ("(", "-")
    text = text.replace(TEXT_MARK, " ").strip().strip(".,;").strip()
    if not text:
        return ""
    spelled = _words(text)
    if _SHAPE.fullmatch(text) is None or any(word.lower() in _NOT_UNITS for word in spelled):
        return None
    if (
        text == "M"
        or _VARIABLES.intersection(spelled)
        or (_NUMBER_WORDS.issuperset(spelled) and text[0] != "(")
    ):
        return None
    if re.fullmatch(r"per\s*cents?", text):
        return "percent"
    if in_text_macro or all(len(word) > 1 and _name(word) for word in spelled):
        return _joined(text, spelled)
    # Elsewhere letters may be variables: what stands apart and can be pronounced is a word.
    if spaced and all(
        word in _SHORT_WORDS or word in _LETTERS or (len(word) > 2 and set(word.lower()) & set("aeiou"))
        for word in spelled
    ):
        return _joined(text, spelled)
    return None


def _joined(text: str, spelled: list[str]) -> str:
    return "percent" if spelled in (["percent"], ["pct"]) else " ".join(spelled)


def _words(text: str) -> list[str]:
    """The words of a unit, powers and `/h` spelled out. Case is kept where it tells units apart."""
    text = _PER_LETTER.sub(lambda match: _PER[match.group(1)], text)
    text = re.sub(r"([A-Za-z]+)\s*\^\s*\{?\s*-\s*([1-3])\s*\}?", r" per \1^\2 ", text).replace("^1 ", " ")
    text = re.sub(r"\^\s*\{?\s*2\s*\}?", " square ", text)
    text = re.sub(r"\^\s*\{?\s*3\s*\}?", " cubic ", text)
    text = re.sub(r"\^\s*\{?\s*[4-9]\s*\}?", " quartic ", text).replace("/", " per ")
    words = [word if word in _SYMBOLS else word.lower() for word in _WORD.findall(text)]
    return [part for word in words for part in _SPELLED.get(word, word).split()]


def _name(word: str) -> str:
    """The one name of a unit that is spelled in several ways; "" if it is none of the known ones."""
    return _KNOWN.get(word) or _SYMBOLS.get(word) or _KNOWN.get(word.lower(), "")


def known(text: str) -> str:
    """The one name of a unit of one word; "" if it is none of the known ones."""
    words = [word for word in _words(text) if word not in _POWERS]
    return _name(words[0]) if len(words) == 1 else ""


def is_unit(text: str) -> bool:
    """True if words that follow a number are a unit, and not part of an expression."""
    return unit(f" {TEXT_MARK}{text}") not in (None, "")


def same(gold: str, answer: str) -> bool:
    """True if two units may be the same: false only if both are known, or both state a power, and these differ."""
    sides = [[word for word in _words(text) if word not in _POWERS] for text in (gold, answer)]
    names = [[_name(word) or {"a": "per", "an": "per"}.get(word, word) for word in side] for side in sides]
    known_all = all(_name(word) or word in ("per", "a", "an") for side in sides for word in side)
    if known_all and all(sides) and names[0] != names[1]:
        return False
    powers = [{_POWERS[word] for word in _words(text) if word in _POWERS} for text in (gold, answer)]
    if known_all and all("per" in side for side in sides):
        return powers[0] == powers[1]  # m/s is a speed, m/s^2 an acceleration
    return not all(powers) or powers[0] == powers[1]
