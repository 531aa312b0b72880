"""Spans: character spans of a text as masks over the token ids that were really sampled.

Tokens are located by incremental decoding, never by tokenising the text again: the same text has many
tokenisations, and only the sampled one was traced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

Span = tuple[int, int]


class AnswerTask(Protocol):
    """What a trainer needs to know of a task: where the answer of a response stands, and what decided it."""

    def extract(self, text: str) -> Span | None:
        """Character span of the answer, or None."""

    def decisive(self, text: str) -> list[Span] | None:
        """Character spans of the tokens that decide the answer, or None where the task does not know."""


class Boxed:
    """The task of a reader who only knows that answers stand in the last balanced `\\boxed{}`."""

    def extract(self, text: str) -> Span | None:
        """Character span of the content of the last balanced `\\boxed{...}`, or None."""
        marker = "\\boxed{"
        at = text.rfind(marker)
        while at >= 0:
            depth = 1
            for position in range(at + len(marker), len(text)):
                depth += {"{": 1, "}": -1}.get(text[position], 0)
                if depth == 0:
                    return at + len(marker), position
            at = text.rfind(marker, 0, at)
        return None

    def decisive(self, text: str) -> list[Span] | None:
        """None: nothing is known."""
        return None


# One decoded piece a token id and tokenizer: decoding is by far the largest cost of a span otherwise.
_PIECES: WeakKeyDictionary[Any, dict[int, str]] = WeakKeyDictionary()


def decode(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[Span]]:
    """The text of `ids` without special tokens, and the character span of each token in it.

    Special tokens have an empty span. Tokens that share one character (the bytes of a multi-byte character) all have
    the span of that character. Spans tile the text: sorted, without gaps.
    """
    text = tokenizer.decode(ids, skip_special_tokens=True)
    known = _PIECES.setdefault(tokenizer, {})
    for token in ids:
        if token not in known:
            known[token] = tokenizer.decode([token], skip_special_tokens=True)
    pieces = [known[token] for token in ids]
    # Where single tokens concatenate to the text, as they do but for split characters, stripped blanks and clean-up,
    # their lengths are the spans. U+FFFD marks a piece of a split character: such a text takes the slower way.
    if "\ufffd" not in text and "".join(pieces) == text:
        spans, position = [], 0
        for piece in pieces:
            spans.append((position, position + len(piece)))
            position += len(piece)
        return text, spans
    joined = _joined_spans(tokenizer, ids, pieces, text)
    return text, _incremental_spans(tokenizer, ids, text) if joined is None else joined


#: Tokens that are decoded together before giving up on joining them: far more than one character is split into.
_RUN = 32


def _joined_spans(tokenizer: Any, ids: Sequence[int], pieces: Sequence[str], text: str) -> list[Span] | None:
    """Spans from single tokens where they stand in the text, and from short runs of them where a character is split.

    Linear, unlike decoding prefixes. None where tokens decode otherwise together than alone (stripped blanks).
    """
    spans: list[Span] = []
    index, position = 0, 0
    while index < len(ids):
        piece, count = pieces[index], 1
        while piece.endswith("\ufffd") or not text.startswith(piece, position):
            if index + count == len(ids):
                break
            if count == _RUN:
                return None
            count += 1
            piece = tokenizer.decode(ids[index : index + count], skip_special_tokens=True)
        if not text.startswith(piece, position):
            return None
        spans += [(position, position + len(piece))] * count
        index, position = index + count, position + len(piece)
    return spans if position == len(text) else None


def _incremental_spans(tokenizer: Any, ids: Sequence[int], text: str) -> list[Span]:
    """Spans from the decoded prefixes; quadratic, for tokenizers whose tokens do not concatenate (sentencepiece)."""
    spans: list[Span] = []
    start, waiting = 0, 0
    for count in range(1, len(ids) + 1):
        prefix = text if count == len(ids) else tokenizer.decode(ids[:count], skip_special_tokens=True)
        waiting += 1
        # An incomplete character, or text that later tokens still change: wait until the prefix is final.
        if count < len(ids) and (prefix.endswith("\ufffd") or not text.startswith(prefix)):
            continue
        end = max(start, len(prefix))
        spans += [(start, end)] * waiting
        start, waiting = end, 0
    return spans


def tokens_in(spans: Sequence[Span], wanted: Iterable[Span]) -> list[int]:
    """Indices of the tokens that overlap one of the `wanted` character spans by at least one character."""
    ranges = [(start, end) for start, end in wanted if end > start]
    return [
        index
        for index, (start, end) in enumerate(spans)
        if any(start < last and first < end for first, last in ranges)
    ]
