"""One spelling for answers: no delimiters, fonts and spacing, one name for each operator, plain digits."""

from __future__ import annotations

import re

OPEN_SET, CLOSE_SET, ROW = "\ue000", "\ue001", "\ue002"
OPENERS = {"(": ")", "[": "]", "{": "}", OPEN_SET: CLOSE_SET}
#: A run of blanks means what one means, and would cost the patterns below the cube of its length.
_BLANKS = re.compile(r"\s{2,}")
#: Longer texts than this are cut before they are cleaned.
LONGEST = 1500

_FONTS = r"mathbf|boldsymbol|bm|mathsf|underline|textbf|textit|textnormal|textup|displaystyle|mathbin|emph|fbox|boxed"
_WHOLE = re.compile(rf"(?:\\(?:{_FONTS})\s*)?\{{(.*)\}}", re.DOTALL)
_COLOUR = re.compile(r"\\(?:text)?color\s*(?:\[[^\]]*\])?\s*\{\s*[A-Za-z0-9!,.]*\s*\}")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
#: Hyphens and dashes that stand for a minus; the long dash of a sentence is none of them.
MINUS = re.compile("[−–‐‑‒﹣－]")
_RAISED_UNIT = re.compile(r"(?<=[0-9])\s*(mm|cm|km|m|ft|in)([²³])")
_FRACTIONS = {
    character: f"\\frac{{{top}}}{{{bottom}}}"
    for character, top, bottom in (
        ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5), ("⅗", 3, 5),
        ("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅐", 1, 7), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8), ("⅞", 7, 8),
        ("⅑", 1, 9), ("⅒", 1, 10),
    )
}  # fmt: skip
_REPLACED = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\(?:[dtcsx]|nice)frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\(?:textnormal|textup|textsf|textrm|mbox|hbox)(?![a-zA-Z])", r"\\text"),
        (r"\\phantom\s*(?:\{[^{}]*\}|.)", ""),
        (
            r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|limits|mathopen|mathclose|bf|rm|it|mathrm\s*\{~\})(?![a-zA-Z])",
            "",
        ),
        (
            r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![a-zA-Z])",
            "",
        ),
        (r"(?<=[0-9]),\\!\s*(?=[0-9]{3}(?![0-9]))", ""),
        (r"\\!\s*", ""),
        (r"(?<=[0-9])(?:\\,|[\u2009\u202f])(?=[0-9]{3}(?![0-9]))", ""),
        (r"(?:\\(?:text|mathrm|mathbin|mathord)\s*)?\{\s*([-+])\s*\}", r"\1"),
        (r"(?<![a-zA-Z}_^\\])\{\s*\}", " "),
        (r"(?<=[0-9])\{,\}\s*(?=[0-9]{3}(?![0-9]))", ""),
        (r"\{,\}", ","),
        (
            r"(?<=[0-9])(?:\s*\^(?:\s*\{)?)?\s*\\(?:text|mathrm)\s*\{\s*(?:st|nd|rd|th)\s*\}(?:\s*\}(?=\s*$))?",
            "",
        ),
        (r"\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|[\u00a0\u2009\u202f]", " "),
        (r"\\(?:\{|lbrace(?![a-zA-Z]))", OPEN_SET),
        (r"\\(?:\}|rbrace(?![a-zA-Z]))", CLOSE_SET),
        (r"\\(?:lparen|langle)(?![a-zA-Z])", "("),
        (r"\\(?:rparen|rangle)(?![a-zA-Z])", ")"),
        (r"\\lbrack(?![a-zA-Z])", "["),
        (r"\\rbrack(?![a-zA-Z])", "]"),
        (r"\\(?:geq?(?:slant|q)?)(?![a-zA-Z])|≥|>=", r"\\ge "),
        (r"\\(?:leq?(?:slant|q)?)(?![a-zA-Z])|≤|<=", r"\\le "),
        (r"\\not\s*=|\\neq?(?![a-zA-Z])|≠|!=", r"\\ne "),
        (r"\\lt(?![a-zA-Z])|&lt;", "<"),
        (r"\\gt(?![a-zA-Z])|&gt;", ">"),
        (r"∈", r"\\in "),
        (r"∪", r"\\cup "),
        (r"∅|\\varnothing(?![a-zA-Z])", r"\\emptyset "),
        (
            r"ℝ|\\(?:mathbb|mathbf|bf)\s*\{?\s*R\s*\}?(?![a-zA-Z])|\\R(?![a-zA-Z])|\\Reals?(?![a-zA-Z])",
            r"\\mathbb{R}",
        ),
        (r"∖|\\backslash(?![a-zA-Z])", r"\\setminus "),
        (
            r"∞|\\infin(?![a-zA-Z])|\\text\s*\{\s*infinity\s*\}|(?<![A-Za-z\\])(?:infinity|oo)(?![A-Za-z])",
            r"\\infty ",
        ),
        (r"^\+\s*(?:/\s*)?-|(?<=\S)\s*\+\s*/\s*-", r"\\pm "),
        (r"^-\s*(?:/\s*)?\+", r"\\mp "),
        (r"[⁄∕]", "/"),
        (r"π", r"\\pi "),
        (r"θ", r"\\theta "),
        (r"[·⋅]|\\cdotp(?![a-zA-Z])", r"\\cdot "),
        (r"×", r"\\times "),
        (r"±", r"\\pm "),
        (r"≡", r"\\equiv "),
        (r"\\equiv(?![a-zA-Z])(?!.*mod)", "="),
        (r"≈|\\(?:simeq|thickapprox|approxeq)(?![a-zA-Z])", r"\\approx "),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"√\s*([0-9]+|[a-z])", r"\\sqrt{\1}"),
        (r"\\[lr]vert(?![a-zA-Z])", "|"),
        (r"np\.(?=[a-z])", r"\\"),
        (r"\\(?:mathrm|text|operatorname|mathit)\s*\{\s*([ied])\s*\}", r"\1"),
        (r"\\dot\s*\{\s*([0-9])\s*\}\s*\\dot\s*\{\s*([0-9])\s*\}", r"\\overline{\1\2}"),
        (r"(?<=\.)([0-9]*)\\dot\s*\{\s*([0-9])\s*\}", r"\1\\overline{\2}"),
        (r"(?<![0-9.])([0-9]+\.[0-9]*)\(([0-9]+)\)\s*$", r"\1\\overline{\2}"),
    )
)
_DEGREE = r"(?:\^\s*\{?\s*\\circ\s*\}?|°|\\degrees?(?![a-zA-Z]))"
_DEGREES = re.compile(_DEGREE)
#: An angle that is one number or one name: `\sin 30^\circ` is the sine of all of it.
_ANGLE = re.compile(rf"((?<![0-9.])[0-9]+(?:\.[0-9]*)?|\\[a-zA-Z]+|(?<![a-zA-Z])[a-zA-Z])\s*{_DEGREE}")
_TEMPERATURE = re.compile(rf"{_DEGREE}\s*(?:\\(?:text|mathrm)\s*\{{\s*([CF])\s*\}}|([CF])(?![a-zA-Z]))|℃|℉")
_SCALES = {"℃": "C", "℉": "F"}
_TRIGONOMETRY = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc|cis)(?![a-z])")
#: Words around a value that say no more than the value does.
_LEAD = re.compile(
    r"^\s*\\text\s*\{\s*(?:the\s+)?(?:final\s+)?(?:(?:answer|result)\s*(?:is|:)|option|choice)\s*:?\s*",
    re.IGNORECASE,
)
_PLAIN_LEAD = re.compile(
    r"^\s*(?:the\s+)?(?:final\s+)?(?:answer|result)\s*(?:is\s*:?|:)\s*(?=\S)", re.IGNORECASE
)
#: A clause that holds everywhere, and so says nothing: it may stand behind each of several answers.
_EVERYWHERE = re.compile(
    r",?\s*\\(?:text|mbox|textrm)\s*\{\s*,?\s*for\s+(?:all|every|any|each)\s+"
    r"(?:(?:real|positive|nonnegative|natural|integers?|numbers?|reals|values|of)(?:\s+|(?=\})))*[a-z]?\s*\}\s*"
    r"(?:[a-z](?![a-zA-Z]))?(?:\s*\\in\s*\\mathbb\s*\{?\s*[A-Z]\s*\}?)?(?!\s*(?:[<>=^_a-z(]|\\(?:ge|le|ne|in)(?![a-z])))"
)
_QUALIFIER = re.compile(
    r",?\s*(?:\\(?:text|mbox|textrm|quad)\s*\{\s*,?\s*\(?\s*)(?:for\s+(?:all|any|every|each|some|real|arbitrary|constant)"
    r"|where\s+[^{}]*\bconstant)\b.*$",
    re.DOTALL | re.IGNORECASE,
)
#: Behind a qualifier: another case, or another value. Then the text holds several answers, and is left as it is.
_CASES = re.compile(
    r"(?<![a-zA-Z])(?:or|if|when|otherwise|else|for\b.*\bfor)(?![a-zA-Z])"
    r"|(?:[,;&]|\band\b)[\s\\{}]*(?=[^\s\\{}a-zA-Z])",
    re.DOTALL | re.IGNORECASE,
)
_DOMAIN = re.compile(
    r"(?<=\S)\s*,\s*(?:\\forall\s*)?[a-z]\s*\\in\s*\\mathbb\{R\}\s*$|\s*\\forall\s*[a-z]\s*\\in.*$"
)
_ABOUT = re.compile(
    r"\s*\(?\s*\\(?:text|mbox|textrm)\s*\{\s*,?\s*\(?\s*(?:or\s+)?(?:approximately|approx\.?|about|roughly)\s*\}?\s*"
    r"(-?[0-9][0-9.,]*)[^0-9]*$"
)
_SAID = re.compile(
    r"\\(?:text|mbox|textrm)\s*\{([^{}]*(?:=|[0-9]:[0-9]{2}|[0-9]\s*(?:,|and|or)\s*-?[0-9])[^{}]*)\}"
)
_LETTERS = re.compile(
    r"\\(?:text|mbox|textrm|mathrm)\s*\{\s*(\(?[A-Z]\)?(?:\s*(?:,|and|or|&)\s*(?:and\s+)?\(?[A-Z]\)?)+)\s*\}"
)
_END = re.compile(r"\s*(?:<\|[a-z_]+\|>|</s>|<end_of_turn>|<eos>)\s*$")

#: `\sin^{-1}` names the inverse function, never the reciprocal.
_INVERSE = re.compile(r"\\(sin|cos|tan)\s*\^\s*(?:\{\s*-\s*1\s*\}|-1)")


def clean(text: str) -> str:
    """The text in one spelling: no delimiters, no spacing macros, no degree signs, one name for each operator."""
    text = _BLANKS.sub(" ", text.encode("utf-8", "replace").decode("utf-8").strip())
    text = unwrapped(_END.sub("", text).strip())
    text = _rows(text)
    text = re.sub(r"\\[()\[\]]|(?<!\\)\$", " ", text)
    text = _RAISED_UNIT.sub(lambda match: f"\\text{{ {match[1]}^{2 if match[2] == '²' else 3}}}", text)
    text = _RAISED.sub(lambda match: f"^{{{match.group().translate(_SUPERSCRIPTS)}}}", text)
    text = MINUS.sub("-", lowered(text))
    text = _INVERSE.sub(r"\\arc\1", text)
    for character, fraction in _FRACTIONS.items():
        text = text.replace(character, fraction)
    for pattern, new in _REPLACED:
        text = pattern.sub(new, text)
    text = _phrases(_angles(_BLANKS.sub(" ", text)))
    text = text[:-1].strip() if text.endswith((".", ",", ";")) and not text.endswith("\\,") else text
    return unwrapped(text)


def lowered(text: str) -> str:
    """The text with its subscript digits in LaTeX: `x₁` is `x_{1}`."""
    return _LOWERED.sub(lambda match: f"_{{{match.group().translate(_SUBSCRIPTS)}}}", text)


def _angles(text: str) -> str:
    """The text without degree signs: in radians where a function takes the angle, else the bare number."""
    if _TRIGONOMETRY.search(text):
        text = _ANGLE.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)
        return _DEGREES.sub(r"\\cdot\\frac{\\pi}{180}", text).strip()
    text = _TEMPERATURE.sub(lambda match: f"\\text{{ {match[1] or match[2] or _SCALES[match[0]]}}}", text)
    return _DEGREES.sub("", text).strip()


def _rows(text: str) -> str:
    if "\\begin" in text:
        return re.sub(r"\\\\(?:\s*\[[^\]]*\])?", ROW, text)
    # Models double the backslash of a macro, as in a JSON string; a line break means nothing.
    return re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text).replace("\\\\", " ")


def _phrases(text: str) -> str:
    """The text without words that change nothing, and with the sign for words such as "approximately"."""
    text = _PLAIN_LEAD.sub("", _LEAD.sub(r"\\text{", text))
    text = re.sub(r"^\\text\s*\{\s*\}\s*", "", text)
    text = _ABOUT.sub(r" \\approx \1", text)
    text = _EVERYWHERE.sub(" ", text)
    text = _QUALIFIER.sub(lambda match: match.group() if _CASES.search(match.group()) else "", text)
    text = _DOMAIN.sub("", text) if "=" in text else text
    text = _SAID.sub(r" \1 ", text)
    text = _LETTERS.sub(lambda match: re.sub(r"\s*(?:and|or|&)\s*(?:and\s+)?", ", ", match.group(1)), text)
    text = re.sub(r"\\text\s*\{\s*\\?%\s*\}", r"\\%", text)
    return text.strip()


def unwrapped(text: str) -> str:
    """The text without fonts, colours and braces around the whole of it."""
    text = _COLOUR.sub("", text)
    text = re.sub(r"\\(?:bf|rm|it|displaystyle)(?![a-zA-Z])\s*", "", text)
    for _ in range(6):
        before = text
        text = text.strip().removesuffix("\\").strip() if text.endswith(("\\ ", "\\")) else text.strip()
        text = text.removeprefix("\\ ").strip()
        match = re.fullmatch(r"\*\*(.*)\*\*|`(.*)`", text, re.DOTALL)
        if match is not None:
            text = (match.group(1) or match.group(2) or "").strip()
        match = _WHOLE.fullmatch(text)
        if match is not None and balanced(match.group(1)):
            text = match.group(1).strip()
        if text == before:
            break
    return text


def balanced(text: str) -> bool:
    """True if all brackets close; a round one may close a square one, as in half-open intervals."""
    stack = []
    for position, character in enumerate(text):
        if character in "([{" + OPEN_SET:
            stack.append(character)
        elif character in ")]}" + CLOSE_SET:
            if not stack:
                return False
            opener = stack.pop()
            if OPENERS[opener] != character and not (opener in "([" and character in ")]"):
                return False
        if position > 8 * LONGEST:
            return False
    return not stack


def depth(text: str) -> int:
    """How deep a text nests; many powers or fractions in a row count as depth too."""
    level = deepest = 0
    for character in text:
        level += (character in "([{" + OPEN_SET) - (character in ")]}" + CLOSE_SET)
        deepest = max(deepest, level)
    return max(deepest, text.count("^") - 8, text.count("\\frac") - 8)


def split(text: str, separators: str, macro: str = "") -> list[str]:
    """The parts of a text between separators that stand in no bracket."""
    parts, level, start, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        if character in "([{" + OPEN_SET:
            level += 1
        elif character in ")]}" + CLOSE_SET:
            level -= 1
        elif level == 0 and (character in separators or (macro and text.startswith(macro, position))):
            parts.append(text[start:position])
            position += len(macro) if macro and text.startswith(macro, position) else 1
            start = position
            continue
        position += 1
    parts.append(text[start:])
    stripped = [part.strip() for part in parts]
    return [part for part in stripped if part] if len(stripped) > 1 else stripped


def same(gold: str, answer: str) -> bool:
    """True if two cleaned texts differ in nothing but blanks and braces around one character."""
    return squeezed(gold) == squeezed(answer)


def squeezed(text: str) -> str:
    """A text without what never changes its meaning: blanks, and braces around one character."""
    text = re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", "\\1\0", text)
    text = re.sub(r"(?<=[0-9.,])\s+(?=[0-9.])", "\0", text)
    text = re.sub(r"(?<=[0-9][eE])\s+", "\0", text)
    text = re.sub(r"\s+", "", text)
    return re.sub(r"\{([0-9a-zA-Z])\}", r"\1", text) if "\\text" not in text else text


#: Commas that group digits in threes.
GROUPED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")


def ungrouped(text: str) -> str:
    """The text with plain digits where commas may group them: another reading of `1,000`, and of a list of two.

    In brackets they separate, as in the point (1,200), unless commas with blanks do: `(1,000, 2,000)`.
    """
    if re.search(f"[(\\[{OPEN_SET}]", text) and not re.search(r",\s", text):
        return text
    return GROUPED.sub(lambda match: match.group().replace(",", ""), text)
