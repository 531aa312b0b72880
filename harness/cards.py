"""Cards of credit methods, put together for a reader: what the class says, what was published, what our results say."""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.studies import claims
from leaderboards.kept import Kept, results_of

if TYPE_CHECKING:
    from flowtracer.credit import CreditMethod

UNKNOWN = "not said: it has no card"
#: Of a method whose credit has no mean to hold.
_READ = "what is read to judge a response; mean_one is not defined"


@dataclass(frozen=True)
class Shown:
    """A method's card as words.

    text: the paragraphs that the class says of itself. facts: what and its value, in the order of reading. options:
    name, default, where the default comes from. claims: what its authors say. results: lines of our kept results.
    """

    name: str
    text: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str, str], ...]
    claims: tuple[str, ...]
    results: tuple[Kept, ...]


def shown(method: CreditMethod) -> Shown:
    """The card of a method; of one without a card, such as a plug-in, what its class says."""
    from flowtracer.credit.card import card_of, defaults_of

    card = card_of(method)
    options = tuple((name, value_in_words(value), source) for name, value, source in defaults_of(method))
    return Shown(
        name=method.name,
        text=paragraphs(method),
        facts=tuple(_facts(method)),
        options=options,
        claims=card.claims if card else (),
        results=tuple(results_of(method.name)),
    )


def _facts(method: CreditMethod) -> list[tuple[str, str]]:
    from flowtracer.credit.card import COSTS, card_of, cost
    from flowtracer.credit.method import NEEDS

    card, price = card_of(method), cost(method)
    facts = [("rule", card.rule if card else UNKNOWN), ("source", card.source if card else UNKNOWN)]
    if card and card.url:
        facts.append(("link", card.url))
    has_mean = not (method.additive or method.signed)
    facts += [
        ("fidelity", card.fidelity if card else UNKNOWN),
        ("needs", "; ".join(f"{need}, {NEEDS[need]}" for need in sorted(method.needs)) or "nothing"),
        ("scope", f"{method.scope}: {'mean_one conserves the total over it' if has_mean else _READ}"),
        ("acts as", _kind(method)),
        ("cost", f"{price}: {COSTS.get(price, 'a need whose cost nobody says')}"),
    ]
    if card:
        facts += [
            ("estimand", card.estimand),
            ("evidence", card.evidence),
            ("proved wrong if", card.falsification),
        ]
    return facts + _checked(method.name)


def _kind(method: CreditMethod) -> str:
    if method.additive:
        return "an addend to the advantage"
    return (
        "a factor on the advantage, which may be negative" if method.signed else "a factor on the advantage"
    )


def _checked(name: str) -> list[tuple[str, str]]:
    """How many published numbers of claims.toml that name it have an experiment, and which experiments those are."""
    places = Counter(
        claim.experiment for claim in claims.load() if name in claim.arms and claim.experiment is not None
    )
    if not places or name == "uniform":
        return []
    where = ", ".join(f"{experiment} ({count})" for experiment, count in sorted(places.items()))
    names = "number that names" if places.total() == 1 else "numbers that name"
    return [
        (
            "checked",
            f"`flowtracer claims` can test {places.total()} published {names} it, by experiment: {where}",
        )
    ]


def paragraphs(method: Any) -> tuple[str, ...]:
    """The docstring of a method's class, one line a paragraph."""
    text = inspect.getdoc(type(method)) or ""
    return tuple(" ".join(part.split()) for part in text.split("\n\n"))


def first_sentence(method: Any) -> str:
    """The first sentence of what the method says of itself."""
    return re.split(r"\.(?= [A-Z])", paragraphs(method)[0])[0].rstrip(".") + "."


def value_in_words(value: object) -> str:
    """A default as an experiment file writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "not set"
    if isinstance(value, str) and not value.isprintable():
        return json.dumps(value)
    if isinstance(value, tuple) and len(value) > 3:
        return f"{len(value)} of them, {value[0]!r} first"
    return str(value)
