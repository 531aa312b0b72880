"""Where an answer stands: the last balanced `\\boxed{}`, or the last well-formed `#### 42` line.

Both walk the text once, so a response of megabytes costs milliseconds, whatever it nests or leaves open.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# `\\` is a line break unless `boxed` follows it: models also write the macro with its backslash doubled.
_BRACES = re.compile(r"\\boxed\s{0,8}\{|\\\\(?!boxed)|\\[{}]|[{}]")
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*((?:(?!<\||</s>|<end_of_turn>|<eos>)[^\n\r#])*)")
# What may stand between the boxes of one closing sentence: `\\boxed{2} and \\boxed{3}`.
_BETWEEN = re.compile(
    r"(?:[\s$,;.]|\\(?:[\[\](),;! ]|q?quad(?![a-zA-Z])))*(?:and|or|\\(?:text|textrm|mbox)\s*\{\s*,?\s*(?:and|or)\s*\})?"
    r"(?:[\s$]|\\(?:[\[\](),;! ]|q?quad(?![a-zA-Z])))*"
)
_BARE_BOX = re.compile(r"\\boxed\s*(\\[a-zA-Z]+|[^\s{}$.,\\])")


#: A sign is one only where it cannot be a minus: "9-1" ends in 1.
_NUMBER = re.compile(r"(?:(?<![0-9)])-)?[0-9]+(?:[.,][0-9]+)*")


def boxes(text: str) -> list[tuple[int, int]]:
    """Spans of the contents of all balanced `\\boxed{...}`, in the order in which they open.

    Escaped braces (`\\{`) do not count. A box that never closes is no box.
    """
    open_braces: list[int | None] = []
    spans = []
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "{":
            open_braces.append(None)
        elif token.endswith("{") and len(token) > 2:
            open_braces.append(match.end())
        elif token == "}" and open_braces:
            start = open_braces.pop()
            if start is not None:
                spans.append((start, match.start()))
    return sorted(spans)


def last_box(text: str) -> tuple[int, int] | None:
    """Span of the content of the balanced `\\boxed{...}` that opens last, blanks around it left out; None
    without one.

    An empty box holds no answer: None, even if an earlier box holds one, for the last box is what the text
    ends on.
    """
    spans = boxes(text)
    return trim(text, *spans[-1]) if spans else None


def closing_boxes(text: str) -> list[tuple[int, int]]:
    """Spans of the boxes that end the text together: the last one, and those before it with nothing but commas, "and",
    "or" and dollar signs between them.
    """
    spans = boxes(text)
    if not spans:
        return []
    together = [spans[-1]]
    for start, end in reversed(spans[:-1]):
        opening = text.rfind("\\boxed", end, together[0][0])
        if opening < 0 or opening - end > 60 or _BETWEEN.fullmatch(text, end + 1, opening) is None:
            break
        together.insert(0, (start, end))
    return together


def bare_box(text: str) -> str | None:
    """The content of a box without braces, as TeX reads it: `\\boxed 9` holds 9. Some solutions are so written."""
    matches = _BARE_BOX.findall(text)
    return matches[-1] if matches else None


def last_hashes(text: str, accept: Callable[[str], bool]) -> tuple[int, int] | None:
    """Span of what follows the last `####` on its line, where `accept` takes it; None without one.

    Four hashes also open a markdown heading: lines that `accept` refuses are passed over.
    """
    for match in reversed(list(_HASHES.finditer(text))):
        span = trim(text, *match.span(1))
        if span is not None and accept(text[span[0] : span[1]]):
            return span
    return None


def last_number(text: str) -> tuple[int, int] | None:
    """The last number of a text, digits with dots and commas between them, in its last 10,000 characters; or None."""
    offset = max(0, len(text) - 10_000)
    spans = [match.span() for match in _NUMBER.finditer(text, offset)]
    return spans[-1] if spans else None


def trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The span without the blanks at its ends; None if nothing is left."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


_STATED = re.compile(
    r"(?i:answer|result|solution)(?:\s+(?:is|are)|\s*[:=])\s*:?\s*([^\n]{1,200}?)\s*(?:\.(?=\s|$)|\n|$)"
)
_ANY_NUMBER = re.compile(r"-?\$?[0-9][0-9,]*(?:\.[0-9]+)?%?")


def lenient(text: str) -> tuple[int, int] | None:
    """Span of what the text seems to answer without a marker: after the last "answer is", else its last
    number.

    It is reported beside the strict verdict, to show what a missing marker costs, and never rewarded.
    """
    for pattern in (_STATED, _ANY_NUMBER):
        matches = list(pattern.finditer(text[-20_000:]))
        if matches:
            group = 1 if pattern.groups else 0
            offset = max(0, len(text) - 20_000)
            return trim(text, matches[-1].start(group) + offset, matches[-1].end(group) + offset)
    return None
