"""A name that is not known, and those that were probably meant: as in the two packages beside this one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: How alike two names are, of 0 to 1, for one to be meant by the other; and how much less alike a second may be.
_ALIKE, _NEAR = 0.6, 0.1


def hint(name: str, known: Iterable[str]) -> str:
    """`did you mean 'flow'?` where known names are close, at most three; else all: `known: flow, uniform`."""
    names = list(known)
    alike = {each: difflib.SequenceMatcher(None, each.lower(), name.lower()).ratio() for each in names}
    best = max(alike.values(), default=0.0)
    if best < _ALIKE:
        return f"known: {', '.join(names)}"
    close = sorted((each for each in alike if alike[each] >= best - _NEAR), key=lambda each: -alike[each])[:3]
    *first, last = map(repr, close)
    return f"did you mean {' or '.join([', '.join(first), last] if first else [last])}?"
