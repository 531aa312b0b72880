"""An answer in other spellings, and answers that differ from it: what validation puts to a verifier."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.verify import numbers
from tasks.verify.forms import parse
from tasks.verify.spelling import clean


def integers(answer: str, boxed: bool) -> Iterator[str]:
    """Other spellings of an answer that is an integer; none of any other. boxed: whether it stands in a box."""
    if re.fullmatch(r"-?[0-9]+", answer):
        yield f"{answer}.0"
        yield f"{int(answer):,}"
        yield f"${answer}$" if boxed else f"{answer}."


def expressions(answer: str) -> Iterator[str]:
    """Other spellings of an answer that is an expression, a list, a tuple, a set."""
    yield f" {answer} ".replace("\\frac", "\\dfrac").replace("(", "\\left( ").replace(")", " \\right)")
    form = parse(clean(answer))
    odd = re.search(r"\\text|\\mathrm|_|[a-zA-Z]{3}|\\pm|=", form.text)
    if form.kind in ("number", "formula", "equation") and not odd and numbers.parse(answer) is None:
        yield f"0 + {form.text}"
    if form.kind == "list":
        yield ", ".join(part.text for part in reversed(form.parts))


def other_numbers(answer: str) -> Iterator[str]:
    """The answer with its first or its last number one larger."""
    seen = {answer}
    literals = list(re.finditer(r"(?<![0-9.])[0-9]+", answer))
    for match in (literals[:1] + literals[-1:]) if literals else ():
        changed = answer[: match.start()] + str(int(match.group()) + 1) + answer[match.end() :]
        if changed not in seen:
            seen.add(changed)
            yield changed


def others(answer: str) -> Iterator[str]:
    """Answers that differ in value: a number changed, a sign turned, an item added, lost or moved."""
    yield from other_numbers(answer)
    form = parse(clean(answer))
    if (
        form.kind in ("number", "formula", "equation")
        and numbers.parse(answer) is not None
        and re.search(r"[1-9]", answer)
    ):
        yield answer[1:] if answer.startswith("-") else f"-{answer}"
    if form.kind in ("list", "set"):
        texts = [part.text for part in form.parts]
        yield ", ".join(texts[:-1])
        yield ", ".join([*texts, "987654321"])
    elif form.brackets and len(form.parts) > 1:
        texts = [part.text for part in form.parts]
        if texts != texts[::-1]:
            yield form.brackets[0] + ", ".join(reversed(texts)) + form.brackets[1]
        yield form.brackets[0] + ", ".join([*texts, "987654321"]) + form.brackets[1]
        if len(texts) == 2 and form.brackets != "[]":
            yield "[" + ", ".join(texts) + "]"
    elif not re.search(r"(?<![0-9.])[0-9]+", answer):
        yield answer + "987654321"
        yield "\\text{none}"
