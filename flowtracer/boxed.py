"""The last balanced `\\boxed{}` of a text: where an answer stands, as far as flowtracer knows of answers.

The rule is that of `tasks/verify/extraction.py`, which judges: what is judged is what is traced. Neither package may
import the other, so that its functions stand in both, word for word; `tests/flowtracer/test_boxed.py` holds them
together.
"""

from __future__ import annotations

import re

# `\\` is a line break unless `boxed` follows it: models also write the macro with its backslash doubled.
_BRACES = re.compile(r"\\boxed\s{0,8}\{|\\\\(?!boxed)|\\[{}]|[{}]")


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


def trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The span without the blanks at its ends; None if nothing is left."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


class Boxed:
    """A task of which is known only that answers stand in the last balanced `\\boxed{}`."""

    def extract(self, text: str) -> tuple[int, int] | None:
        """Character span of the content of the last balanced `\\boxed{...}`, or None."""
        return last_box(text)

    def decisive(self, text: str) -> list[tuple[int, int]] | None:
        """None: nothing is known."""
        return None
