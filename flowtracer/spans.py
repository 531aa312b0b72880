"""Spans: character spans of a text as masks over the token ids that were really sampled.

Tokens are located by incremental decoding, never by tokenising the text again: the same text has many
tokenisations, and only the sampled one was traced.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

Span = tuple[int, int]


class AnswerTask(Protocol):
    """The part of a task that credit needs: where the answer of a response stands, and the tokens that decided it."""

    def extract(self, text: str) -> Span | None:
        """Character span of the answer, or None."""

    def decisive(self, text: str) -> list[Span] | None:
        """Character spans of the tokens that decide the answer, or None where the task does not know."""


#: The replacement character: what decoding writes for a part of a split character.
_BROKEN = "\ufffd"


def decode(tokenizer: Any, ids: Sequence[int], *, special: bool = False) -> tuple[str, list[Span]]:
    """The text of `ids`, and the character span of each token in it.

    special: whether special tokens stand in the text, by their names; else they have an empty span. Tokens that share
    one character (the bytes of a multi-byte character) all have the span of that character. Spans tile the text:
    sorted, without gaps. Takes time in proportion to the number of tokens, whatever the tokenizer.
    """
    text = tokenizer.decode(ids, skip_special_tokens=not special)
    pieces = _PIECES.setdefault(tokenizer, {}).setdefault(special, _Pieces(special))
    written = pieces.of(tokenizer, ids)
    # Where the pieces concatenate to the text, as they do but for split characters and clean-up, their lengths are the
    # spans. A text with a broken character takes the slower way.
    if _BROKEN not in text and "".join(written) == text:
        spans, position = [], 0
        for piece in written:
            spans.append((position, position + len(piece)))
            position += len(piece)
        return text, spans
    joined = _joined_spans(tokenizer, ids, pieces, text)
    return text, _incremental_spans(tokenizer, ids, text, special) if joined is None else joined


class _Pieces:
    """The text that tokens add: at the start of a text, and behind other tokens.

    The two differ where decoding strips the first blank (Llama 2, Mistral 7B, Phi-3) or writes one between words
    (WordPiece). What a token adds behind others is what it adds behind an anchor, a token of letters or digits.
    """

    def __init__(self, special: bool) -> None:
        self._special = special
        self._first: dict[int, str] = {}
        self._later: dict[int, str] = {}
        self._anchor: tuple[list[int], str] = ([], "")

    def of(self, tokenizer: Any, ids: Sequence[int]) -> list[str]:
        """The text that each of `ids` adds, one after the other."""
        if not self._anchor[0]:
            self._find_anchor(tokenizer, ids)
        pieces: list[str] = []
        started = False
        for token in ids:
            known = self._later if started else self._first
            if token not in known:
                known[token] = self.run(tokenizer, [token], started)
            pieces.append(known[token])
            started = started or bool(pieces[-1])
        return pieces

    def run(self, tokenizer: Any, ids: Sequence[int], started: bool) -> str:
        """The text that `ids` add together, at the start of a text or behind others."""
        anchor, text = self._anchor if started else ([], "")
        return tokenizer.decode([*anchor, *ids], skip_special_tokens=not self._special)[len(text) :]

    def _find_anchor(self, tokenizer: Any, ids: Sequence[int]) -> None:
        for token in ids:
            text = tokenizer.decode([token], skip_special_tokens=not self._special)
            if text.isascii() and text.strip().isalnum():
                # Whatever stands behind it must leave it as it is.
                self._anchor = ([token], text)
                return


# By tokenizer, and with special tokens or without: decoding is by far the largest cost of a span.
_PIECES: WeakKeyDictionary[Any, dict[bool, _Pieces]] = WeakKeyDictionary()

#: Runs of tokens that are decoded together grow by one up to this length, far more than one character is split into,
#: and then twofold: what is broken for longer is not looked at token by token.
_RUN = 32


def _joined_spans(tokenizer: Any, ids: Sequence[int], pieces: _Pieces, text: str) -> list[Span] | None:
    """Spans from single tokens where they stand in the text, and from short runs of them where a character is split.

    Linear, unlike decoding prefixes. None where tokens decode otherwise together than behind an anchor.
    """
    written = pieces.of(tokenizer, ids)
    spans: list[Span] = []
    index, position = 0, 0
    while index < len(ids):
        piece, count = written[index], 1
        while piece.endswith(_BROKEN) or not text.startswith(piece, position):
            if index + count == len(ids):
                break
            count = min(count + 1 if count < _RUN else 2 * count, len(ids) - index)
            piece = pieces.run(tokenizer, ids[index : index + count], position > 0)
        if not text.startswith(piece, position):
            return None
        spans += [(position, position + len(piece))] * count
        index, position = index + count, position + len(piece)
    return spans if position == len(text) else None


#: Tokens whose spans are read off decoded prefixes of their own block.
_BLOCK = 64


def _incremental_spans(tokenizer: Any, ids: Sequence[int], text: str, special: bool = False) -> list[Span]:
    """Spans from decoded prefixes, for tokenizers whose tokens do not concatenate whatever they stand behind.

    A prefix is decoded from the block before its last token on, so that the cost of a token does not grow with the
    text; where a block ends in the text is read off the whole prefix.
    """

    def decoded(first: int, last: int) -> str:
        return tokenizer.decode(ids[first:last], skip_special_tokens=not special)

    spans: list[Span] = []
    start, waiting, offset, behind = 0, 0, 0, 0
    for count in range(1, len(ids) + 1):
        if count % _BLOCK == 1 and count > _BLOCK:
            # What stands before this block, as whole prefix and as the part that is decoded from now on.
            behind = count - 1 - _BLOCK
            offset = len(decoded(0, count - 1)) - len(decoded(behind, count - 1))
        prefix = text if count == len(ids) else decoded(behind, count)
        end = len(text) if count == len(ids) else offset + len(prefix)
        waiting += 1
        # An incomplete character, or text that later tokens still change: wait until the prefix is final.
        if count < len(ids) and (prefix.endswith(_BROKEN) or not text.endswith(prefix.lstrip(), 0, end)):
            continue
        end = min(max(start, end), len(text))
        spans += [(start, end)] * waiting
        start, waiting = end, 0
    return spans


def tokens_in(spans: Sequence[Span], wanted: Iterable[Span]) -> list[int]:
    """Indices of the tokens that overlap one of the `wanted` character spans by at least one character.

    spans: sorted, as `decode` gives them.
    """
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    inside: set[int] = set()
    for first, last in wanted:
        if last > first:
            candidates = range(bisect_right(ends, first), bisect_left(starts, last))
            inside.update(index for index in candidates if starts[index] < ends[index])
    return sorted(inside)
