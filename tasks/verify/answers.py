"""Whether an answer says what a gold says: numbers, expressions, equations, tuples, intervals, sets, several
answers, words.

The gold decides what is compared. A gold that lists several answers needs exactly those, in any order; one
that is a tuple or an interval needs the same brackets and order; one that is a single value is not met by a
list that contains it. Integers, decimals, fractions and the like are compared by numbers.py, exactly; pieces
that are left over go, one pair at a time, to symbolic.py in a worker that can be killed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.verdict import Verdict
from tasks.verify import numbers
from tasks.verify.pool import TIMEOUT, Pool, shared

#: An answer longer than this, or nested deeper, is wrong unless it repeats the gold; golds are far below
#: both.
LONGEST = 1500
DEEPEST = 24
_MOST_ITEMS = 64

_OPEN_SET, _CLOSE_SET, _ROW = "\ue000", "\ue001", "\ue002"
_OPENERS = {"(": ")", "[": "]", "{": "}", _OPEN_SET: _CLOSE_SET}
_REPLACED = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (
            r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|limits|mathopen|mathclose|mathrm\s*\{~\})(?![a-zA-Z])",
            "",
        ),
        (r"\\!\s*", ""),
        (r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))", ""),
        (r"\{,\}", ","),
        (r"\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|[\u00a0\u2009\u202f]", " "),
        (r"\\(?:\{|lbrace(?![a-zA-Z]))", _OPEN_SET),
        (r"\\(?:\}|rbrace(?![a-zA-Z]))", _CLOSE_SET),
        (r"\\(?:lparen)(?![a-zA-Z])", "("),
        (r"\\(?:rparen)(?![a-zA-Z])", ")"),
        (r"\\lbrack(?![a-zA-Z])", "["),
        (r"\\rbrack(?![a-zA-Z])", "]"),
        (r"\\(?:geq?(?:slant|q)?)(?![a-zA-Z])|≥|>=", r"\\ge "),
        (r"\\(?:leq?(?:slant|q)?)(?![a-zA-Z])|≤|<=", r"\\le "),
        (r"\\lt(?![a-zA-Z])|&lt;", "<"),
        (r"\\gt(?![a-zA-Z])|&gt;", ">"),
        (r"∈", r"\\in "),
        (r"∪", r"\\cup "),
        (r"∞|\\infin(?![a-zA-Z])", r"\\infty "),
        (r"[−–]", "-"),
        (r"π", r"\\pi "),
        (r"θ", r"\\theta "),
        (r"[·⋅]|\\cdotp(?![a-zA-Z])", r"\\cdot "),
        (r"×", r"\\times "),
        (r"±", r"\\pm "),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"√\s*([0-9]+|[a-z])", r"\\sqrt{\1}"),
        (r"\\[lr]vert(?![a-zA-Z])", "|"),
        (r"np\.(?=[a-z])", r"\\"),
        (r"\\(?:mathrm|text|operatorname|mathit)\s*\{\s*([ied])\s*\}", r"\1"),
    )
)
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mbox|hbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°|\\degrees?(?![a-zA-Z])")
_TRIGONOMETRY = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_CONJUNCTION = re.compile(
    r",?\s*(?:\\(?:text|mbox|textrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*,?"
)
_TRAILING_UNIT = re.compile(
    r"(?<=[^\s])\s*(?:\\(?:text|mbox|mathrm|textrm|operatorname)\s*\{([^{}]*)\}(?:\s*\^\s*\{?[1-9]\}?)?)\s*$"
)
_WORDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf)\s*\{([^{}]*)\}|([A-Za-z][A-Za-z' -]*)"
)
_CHOICE = re.compile(r"\(?\s*([A-Z])\s*\)?\.?")
_BASED = re.compile(
    r"([0-9A-Za-z]+)\s*_\s*(?:\{\s*(?:\\text\s*\{)?\s*([0-9]{1,2}|[a-z]+)\s*\}?\s*\}|([0-9]))"
)
_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)
_ORDER = re.compile(r"(\\le\b|\\ge\b|<|>)")
_NAME = re.compile(r"[A-Za-z]|\\[a-zA-Z]+")
_SUM_OF_NAMES = re.compile(r"[A-Za-z](?:\s*[+-]\s*[A-Za-z]){1,3}")
_CALL = re.compile(r"\s*([A-Za-z])\s*\(\s*([a-z])\s*\)\s*")


@dataclass(frozen=True)
class Form:
    """What an answer is made of. `kind`: value, list, set, union, matrix, or the brackets of a tuple, such
    as `(]`.
    """

    kind: str
    text: str
    parts: tuple[Form, ...] = ()


@dataclass
class _Comparison:
    """One comparison of an answer with a gold: what it may still spend, and what could not be judged."""

    question: str
    pool: Pool
    left: float
    timed_out: bool = False
    unreadable: bool = False
    _percent: bool | None = field(default=None)

    def percent_asked(self) -> bool:
        if self._percent is None:
            self._percent = numbers.asks_percent(self.question)
        return self._percent

    def symbolic(self, kind: str, gold: str, answer: str, rename: dict[str, str] | None = None) -> bool:
        outcome, seconds = self.pool.compare(kind, gold, answer, rename or {}, self.left)
        self.left -= seconds
        self.timed_out |= outcome == TIMEOUT
        self.unreadable |= outcome == "unreadable gold" or outcome.startswith("failed")
        return outcome == "same"


def judge(gold: str, answer: str, question: str = "", pool: Pool | None = None) -> Verdict:
    """The verdict on `answer`, the text of an answer span, against `gold`, the reference's text.

    `question` decides two readings: of a bare number where a percentage is asked for, and of digits in a
    base. Timeout where the comparison did not end in time or memory, error where the gold itself cannot be
    read.
    """
    cleaned_gold, cleaned = clean(gold), clean(answer[: 4 * LONGEST])
    if _same_text(cleaned_gold, cleaned) and len(answer) <= 4 * LONGEST:
        return Verdict.CORRECT
    if len(answer) > LONGEST or not cleaned or _depth(cleaned) > DEEPEST:
        return Verdict.WRONG
    pool = pool or shared()
    comparison = _Comparison(question, pool, pool.deadline)
    if _equal(parse(cleaned_gold), parse(cleaned), comparison):
        return Verdict.CORRECT
    if comparison.timed_out:
        return Verdict.TIMEOUT
    return Verdict.ERROR if comparison.unreadable else Verdict.WRONG


def clean(text: str) -> str:
    """The text in one spelling: no delimiters, no spacing macros, no degree signs, one name for each
    operator.
    """
    text = text.strip()
    for _ in range(4):
        stripped = re.sub(r"^(?:\\boxed|\\fbox)\s*\{(.*)\}$", r"\1", text, flags=re.DOTALL).strip()
        stripped = re.sub(r"^\*\*(.*)\*\*$", r"\1", stripped, flags=re.DOTALL).strip()
        if stripped == text or not _balanced(stripped):
            break
        text = stripped
    text = re.sub(r"\\[()\[\]]|(?<!\\)\$", " ", text)
    if "\\begin" in text:
        text = text.replace("\\\\", _ROW)
    else:  # models double the backslash of a macro, as in a JSON string; a line break means nothing
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text).replace("\\\\", " ")
    for pattern, new in _REPLACED:
        text = pattern.sub(new, text)
    degree = r"\\cdot\\frac{\\pi}{180}" if _TRIGONOMETRY.search(text) else ""
    text = _DEGREES.sub(degree, text).strip()
    return text[:-1].strip() if text.endswith((".", ",", ";")) and not text.endswith("\\,") else text


def parse(text: str) -> Form:
    """The form of a cleaned text. Brackets nest as written; a text that does not balance is one value."""
    text = text.strip()
    if not _balanced(text):
        return Form("value", text)
    inequality = _interval(text)
    if inequality is not None:
        return inequality
    membership = re.match(r"\s*[a-zA-Z](?:_\{?\w\}?)?\s*\\in(?![a-zA-Z])\s*", text)
    if membership is not None:
        text = text[membership.end() :]
    listed = _CONJUNCTION.sub(",", text)
    items = _split(listed, ",;")
    intervals = [_interval(item) for item in items]
    if len(items) > 1 and all(intervals):  # `x < 3 or x > 5`
        return Form("union", text, tuple(part for part in intervals if part is not None))
    if len(items) > 1 and numbers.parse(text) is None:
        return Form("list", text, tuple(part for item in items for part in _spread(parse(item))))
    pieces = _split(text, "", "\\cup")
    if len(pieces) > 1:
        return Form("union", text, tuple(parse(piece) for piece in pieces))
    matrix = _MATRIX.fullmatch(text)
    if matrix is not None:
        rows = [row for row in re.split(_ROW + r"(?:\[[^\]]*\])?", matrix.group(2)) if row.strip()]
        return Form(
            "matrix",
            text,
            tuple(Form("(row)", row, tuple(parse(cell) for cell in row.split("&"))) for row in rows),
        )
    if text[:1] in ("(", "[", _OPEN_SET) and _closing(text, 0) == len(text) - 1 or _half_open(text):
        inside = text[1:-1]
        items = _split(inside, ",;")
        if text[0] == _OPEN_SET:
            return Form("set", text, tuple(part for item in items for part in _spread(parse(item))))
        if len(items) > 1:
            return Form(text[0] + text[-1], text, tuple(parse(item) for item in items))
    return Form("value", text)


def _spread(form: Form) -> tuple[Form, ...]:
    """A value with one plus-minus sign as two values."""
    if form.kind == "value" and form.text.count("\\pm") == 1:
        return tuple(Form("value", re.sub(r"\\pm(?![a-zA-Z])", sign, form.text)) for sign in ("+", "-"))
    return (form,)


def _half_open(text: str) -> bool:
    """Whether the text is one half-open interval: its two brackets differ."""
    if len(text) < 4 or text[0] + text[-1] not in ("(]", "[)"):
        return False
    return _balanced(text[1:-1]) and len(_split(text[1:-1], ",;")) == 2


def _balanced(text: str) -> bool:
    """Whether all brackets close; a round one may close a square one, as in half-open intervals."""
    stack = []
    for position, character in enumerate(text):
        if character in "([{" + _OPEN_SET:
            stack.append(character)
        elif character in ")]}" + _CLOSE_SET:
            if not stack:
                return False
            opener = stack.pop()
            if _OPENERS[opener] != character and not (opener in "([" and character in ")]"):
                return False
        if position > 8 * LONGEST:
            return False
    return not stack


def _closing(text: str, start: int) -> int:
    depth = 0
    for position in range(start, len(text)):
        if text[position] in "([{" + _OPEN_SET:
            depth += 1
        elif text[position] in ")]}" + _CLOSE_SET:
            depth -= 1
            if depth == 0:
                return position
    return -1


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{" + _OPEN_SET) - (character in ")]}" + _CLOSE_SET)
        deepest = max(deepest, depth)
    return max(deepest, text.count("^") - 8, text.count("\\frac") - 8)


def _split(text: str, separators: str, macro: str = "") -> list[str]:
    """The parts of a text between separators that stand in no bracket."""
    parts, depth, start, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        if character in "([{" + _OPEN_SET:
            depth += 1
        elif character in ")]}" + _CLOSE_SET:
            depth -= 1
        elif depth == 0 and (character in separators or (macro and text.startswith(macro, position))):
            parts.append(text[start:position])
            position += len(macro) if macro and text.startswith(macro, position) else 1
            start = position
            continue
        position += 1
    parts.append(text[start:])
    kept = [part.strip() for part in parts]
    return [part for part in kept if part] if len(kept) > 1 else kept


def _interval(text: str) -> Form | None:
    """`-2 < x \\le 7` or `x \\ge 2` as the interval it describes; None for anything else."""
    parts = _ORDER.split(text)
    if len(parts) not in (3, 5) or _split(text, ",;")[1:]:
        return None
    names = [
        index
        for index in range(0, len(parts), 2)
        if re.fullmatch(r"\s*(?:[a-zA-Z]|\\[a-z]+)(?:_\{?\w+\}?)?\s*", parts[index])
    ]
    if len(names) != 1 or parts[names[0]].strip() in ("\\infty", "\\pi"):
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
    return Form(left + right, text, (Form("value", low.strip()), Form("value", high.strip())))


def _equal(gold: Form, answer: Form, comparison: _Comparison) -> bool:
    if gold.kind in ("list", "set", "union") or len(_spread(gold)) > 1:
        wanted = gold.parts or _spread(gold)
        given = answer.parts if answer.kind in ("list", "set", "union") else _spread(answer)
        if (
            gold.kind == "union"
            and answer.kind not in ("union",)
            or gold.kind != "union"
            and answer.kind == "union"
        ):
            return False
        if gold.kind == "list" and answer.kind == "value" and "," in answer.text:
            given = tuple(
                parse(item) for item in _split(answer.text, ",")
            )  # 1,234 is two answers where two are due
        if gold.kind == "list" and answer.kind == "list" and len(given) != len(wanted):
            # `1,000, 2,000`: commas between digits group them, those before a blank separate.
            regrouped = parse(re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", answer.text))
            given = regrouped.parts or (regrouped,)
        return _same_items(wanted, given, comparison)
    if answer.kind == "set" and len(answer.parts) == 1 and gold.kind == "value":
        return _equal(gold, answer.parts[0], comparison)
    if gold.kind == "value" and answer.kind == "value":
        return _equal_values(gold.text, answer.text, comparison)
    if gold.kind != answer.kind or len(gold.parts) != len(answer.parts):
        if answer.kind == "value" and "=" in answer.text:
            parts = _split(answer.text, "=")
            return len(parts) == 2 and _is_name(parts[0]) and _equal(gold, parse(parts[1]), comparison)
        if gold.kind != "value" or answer.kind == "value" or "=" not in gold.text:
            return False
        parts = _split(gold.text, "=")
        return len(parts) == 2 and _is_name(parts[0]) and _equal(parse(parts[1]), answer, comparison)
    return all(_equal(one, other, comparison) for one, other in zip(gold.parts, answer.parts, strict=True))


def _same_items(wanted: Sequence[Form], given: Sequence[Form], comparison: _Comparison) -> bool:
    """Whether two lists hold the same items in any order: each wanted item takes one given item away."""
    if len(wanted) != len(given) or len(wanted) > _MOST_ITEMS:
        return False
    remaining = list(given)
    for item in wanted:
        # Exact repeats first: they cost nothing, and leave less for the workers.
        remaining.sort(key=lambda other: not _same_text(item.text, other.text))
        for index, other in enumerate(remaining):
            if _equal(item, other, comparison):
                del remaining[index]
                break
        else:
            return False
    return True


def _equal_values(gold: str, answer: str, comparison: _Comparison) -> bool:
    if _same_text(gold, answer):
        return True
    if "\\pm" in answer and "\\pm" not in gold:
        return False
    for read in (_numbers, _in_base, _words, _equations):
        known = read(gold, answer, comparison)
        if known is not None:
            return known
    plain_gold, gold_unit = _without_unit(gold)
    plain_answer, answer_unit = _without_unit(answer)
    if gold_unit and answer_unit and not numbers.same_unit(gold_unit, answer_unit):
        return False
    if not plain_answer or not plain_gold:
        return False
    if (plain_gold, plain_answer) != (gold, answer):
        return _equal_values(plain_gold, plain_answer, comparison)
    return comparison.symbolic("value", gold, answer)


def _numbers(gold: str, answer: str, comparison: _Comparison) -> bool | None:
    wanted = numbers.parse(gold)
    given = numbers.parse(answer) if wanted is not None else None
    if wanted is None or given is None:
        return None
    return numbers.equal(wanted, given, comparison.percent_asked())


def _in_base(gold: str, answer: str, comparison: _Comparison) -> bool | None:
    """Numerals with a base: the same digits in the same base, or digits alone where the question names a base."""
    wanted, given = _BASED.fullmatch(gold.strip()), _BASED.fullmatch(answer.strip())
    found = [match for match in (wanted, given) if match is not None]
    if not found or not found[0].group(1)[0].isdigit():  # x_1 is a variable
        return None
    if wanted is not None and given is not None:
        return wanted.group(1).upper() == given.group(1).upper() and _base(wanted) == _base(given)
    digits = [match.group(1) if match else text.strip() for match, text in ((wanted, gold), (given, answer))]
    if "base" in comparison.question.lower():
        return digits[0].upper() == digits[1].upper()
    base = _base(given) if given is not None else None
    plain = numbers.parse(gold)
    if base is None or plain is None:
        return False
    try:
        return int(digits[1], base) == plain.value
    except ValueError:
        return False


def _base(match: re.Match[str]) -> int | None:
    text = match.group(2) or match.group(3)
    base = {"two": 2, "eight": 8, "ten": 10, "sixteen": 16}.get(text) or (int(text) if text.isdigit() else 0)
    return base if 2 <= base <= 36 else None


def _words(gold: str, answer: str, comparison: _Comparison) -> bool | None:
    """A gold of words (`\\text{east}`) or an option letter (`\\text{(C)}`): the same letters, whatever their
    case.
    """

    def letters(text: str) -> str | None:
        match = _WORDS.fullmatch(text.strip())
        return None if match is None else re.sub(r"[^a-z0-9]", "", (match.group(1) or match.group(2)).lower())

    wanted = letters(gold)
    marked = gold.lstrip().startswith("\\")
    if wanted is None or not (marked or len(wanted) > 3):
        choice = _CHOICE.fullmatch(gold.strip()) if "(" in gold else None
        if choice is None:
            return None
        wanted = choice.group(1).lower()
    unwrapped = _TEXT.sub(r" \1 ", answer)
    if re.search(r"[\\^_=+*/<>|]", unwrapped):
        return False
    return re.sub(r"[^a-z0-9]", "", unwrapped.lower()) == wanted


def _equations(gold: str, answer: str, comparison: _Comparison) -> bool | None:
    """Equations: `x = 5` is 5 for a gold without a name, and the same name for one with it; others as
    curves.
    """
    answer = re.sub(r"\\approx(?![a-zA-Z])|≈", "=", answer)
    wanted, given = _split(gold, "="), _split(answer, "=")
    if not wanted or not given:  # nothing but equals signs
        return False
    if len(wanted) == 1 and len(given) == 1:
        return None
    if gold.count("=") > 2 or answer.count("=") > 4 or not all(wanted) or not all(given):
        return False
    if len(wanted) == 1:
        named = _is_name(given[0]) or _SUM_OF_NAMES.fullmatch(given[0]) is not None
        values = [side for side in given[1:] if not _is_name(side)] if named else []
        return bool(values) and all(_equal_values(gold, side, comparison) for side in values)
    if len(given) == 1:
        return _is_name(wanted[0]) and _equal_values(wanted[-1], answer, comparison)
    if _is_name(wanted[0]) and _is_name(given[0]):
        one, other = _CALL.fullmatch(wanted[0]), _CALL.fullmatch(given[0])
        if one is not None and other is not None and one.group(1) == other.group(1):
            rename = {} if one.group(2) == other.group(2) else {other.group(2): one.group(2)}
            return all(comparison.symbolic("value", wanted[-1], side, rename) for side in given[1:])
        if _same_text(wanted[0], given[0]):
            return all(_equal_values(wanted[-1], side, comparison) for side in given[1:])
        if one is not None or other is not None:
            return False
    if len(wanted) != 2 or len(given) != 2:
        return False
    left, right = (f"({sides[0]})-({sides[1]})" for sides in (wanted, given))
    return comparison.symbolic("equation", left, right)


def _is_name(text: str) -> bool:
    """Whether the text only names something: `x`, `f(x)`, `x_1`, `\\angle ABC`, `m_{\\max}`, `(x, y)`."""
    text = re.sub(r"_(?:\{[^{}]*\}|\w)", "", _TEXT.sub("x", text))
    text = re.sub(r"^\s*([A-Za-z])\s*\(\s*-?[0-9]+\s*\)\s*$", r"\1", text)
    if len(text) > 60 or re.search(r"\\(?:sqrt|frac|pi|infty|sin|cos|tan|log|ln|exp)(?![a-zA-Z])", text):
        return False
    return re.fullmatch(r"[\s(){}|',]*", _NAME.sub("", text)) is not None and _NAME.search(text) is not None


def _without_unit(text: str) -> tuple[str, str]:
    """A value and the words behind it, if they are a unit: `5\\sqrt{3}\\text{ cm}`."""
    match = _TRAILING_UNIT.search(text)
    if (
        match is not None
        and match.start() > 0
        and any(character.isdigit() for character in text[: match.start()])
    ):
        unit = match.group(1).strip()
        if numbers.is_unit(unit):
            return text[: match.start()].strip().rstrip("\\").strip(), unit
    match = re.fullmatch(r"(.*[^\s\\a-zA-Z])\s+([a-z]{2,}s?)", text, re.DOTALL)
    if (
        match is not None
        and numbers.is_unit(match.group(2))
        and numbers.same_unit(match.group(2), match.group(2))
    ):
        return match.group(1), match.group(2)
    return text.removeprefix("\\$").removesuffix("\\%") if "\\$" in text else text, ""


def _same_text(one: str, other: str) -> bool:
    return _squeeze(one) == _squeeze(other)


def _squeeze(text: str) -> str:
    """A text without what never changes its meaning: blanks, and braces around one character."""
    text = re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", "\\1\0", text)
    text = re.sub(r"(?<=[0-9.,])\s+(?=[0-9.])", "\0", text)
    text = re.sub(r"\s+", "", text)
    return re.sub(r"\{([0-9a-zA-Z])\}", r"\1", text) if "\\text" not in text else text
