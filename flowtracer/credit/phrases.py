"""Credit by what a token says: more for the phrases with which a response plans."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowtracer.credit.card import Card
from flowtracer.credit.method import CreditContext, CreditMethod, register
from flowtracer.errors import CreditError

#: Our choice, of the kinds that the paper names: deduction, branching and backtracking.
PHRASES = (
    "let's try", "let's consider", "let's think", "let's check", "let me check", "let me try", "let me verify",
    "we need to", "we can use", "first, we", "the key is", "alternatively", "another way", "on the other hand",
    "but wait", "wait, let", "hold on", "going back", "double-check", "notice that", "recall that", "suppose that",
)  # fmt: skip


@register
@dataclass(frozen=True)
class Planning(CreditMethod):
    """A + alpha |A| on the tokens of planning phrases: good plans gain more, bad ones lose less (HICRA, 2509.03646).

    As a factor, w = 1 + alpha sign(A) there, and 1 elsewhere; alpha 0.2, which keeps the sign of the advantage, as
    anything up to 1 does. The rule is identical to that of a public port, teilomillet/retrain at 19db12f,
    retrain/advantages/credit.py:41-57; the authors' repository holds no code. The paper finds its phrases ("strategic
    grams") in a corpus of solutions; the default list is our choice.

    phrases: looked for in the text of the response, whatever their case, at word boundaries. A token that overlaps one
        character of a phrase belongs to it.

    Ten response tokens, A = 1, `Let`, `'s`, ` try`, ` 2`, `+`, `3`, `.`, ` Alternatively`, `,`, ` 5`:
    1.2 1.2 1.2 1 1 1 1 1.2 1 1; with A = -1: 0.8 0.8 0.8 1 1 1 1 0.8 1 1.
    """

    name: ClassVar[str] = "hicra"
    card: ClassVar[Card | None] = Card(
        rule="w = 1 + alpha sign(A) on the tokens of planning phrases, 1 elsewhere",
        source="HICRA, arXiv 2509.03646",
        url="https://arxiv.org/abs/2509.03646",
        fidelity="identical to retrain/advantages/credit.py:41-57 of teilomillet/retrain at 19db12f, a port; the "
        "list of phrases is ours",
        defaults={
            "alpha": "published: 0.2",
            "phrases": "ours; the paper mines strategic grams from a corpus of solutions",
        },
        claims=("well above strong baselines on mathematics (arXiv 2509.03646, abstract)",),
        estimand="the gain of better plans, for which phrases such as `alternatively` stand",
        evidence="training results on several policies",
        falsification="it does not beat the same factor on as many random phrases of the same responses",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"advantage", "pieces"})
    alpha: float = 0.2
    phrases: tuple[str, ...] = PHRASES

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("alpha", 0.0, 1.0)
        words: Any = self.phrases  # as TOML gives them
        if isinstance(words, str) or not all(isinstance(word, str) and word.strip() for word in words):
            raise CreditError(f"credit hicra: phrases must be a list of texts, not {words!r}")
        object.__setattr__(self, "phrases", tuple(words))  # a TOML list
        if not self.phrases:
            raise CreditError("credit hicra: phrases must hold at least one text")

    def weights(self, context: CreditContext) -> Tensor:
        assert context.pieces is not None and context.advantage is not None
        alternatives = "|".join(re.escape(phrase) for phrase in self.phrases)
        pattern = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE)
        planning = torch.tensor([_overlapping(row, pattern) for row in context.pieces], dtype=torch.bool)
        planning = planning.to(context.response.device).view_as(context.response)
        sign = context.advantage.float().sign().unsqueeze(1)
        return torch.where(planning, 1.0 + self.alpha * sign, 1.0)


def _overlapping(pieces: list[str], pattern: re.Pattern[str]) -> list[bool]:
    """True if a match of the pattern in the joined text shares a character with each piece."""
    text = "".join(pieces).replace("\u2019", "'")
    matched = [False] * len(text)
    for match in pattern.finditer(text):
        matched[match.start() : match.end()] = [True] * (match.end() - match.start())
    result, start = [], 0
    for piece in pieces:
        result.append(any(matched[start : start + len(piece)]))
        start += len(piece)
    return result
