"""methods: the credit methods in one table, and the card of one."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from harness.commands.shared import METHODS, Commands, command, console, of_kind, print_sheets

if TYPE_CHECKING:
    from flowtracer.credit import CreditMethod
    from harness.cards import Shown
    from leaderboards.sheets import Sheet


def add(commands: Commands) -> None:
    """Adds this command."""
    added = command(
        commands,
        "methods",
        _methods,
        "List the credit methods, or show the card of one: rule, source, needs, options, claims, our results.",
    )
    of_kind(added.add_argument("name", nargs="?", help="a credit method"), METHODS)


def _methods(options: argparse.Namespace) -> int:
    from flowtracer import credit
    from harness import cards

    screen = console()
    if options.name is None:
        print_sheets(screen, [listed([credit.get(name) for name in credit.names()])])
        return 0
    card = cards.shown(credit.get(options.name))
    screen.print(card.name, style="bold", markup=False, highlight=False)
    for paragraph in card.text:
        screen.print(f"{paragraph}\n", markup=False, highlight=False)
    for what, value in card.facts:
        _print_fact(screen, what, value)
    for claim in card.claims or ("none",):
        _print_fact(screen, "published", claim)
    print_sheets(screen, _sheets(card))
    return 0


def listed(methods: list[CreditMethod]) -> Sheet:
    """The methods in one table: what each costs, where it comes from, its rule."""
    from flowtracer.credit.card import card_of, cost
    from harness.cards import first_sentence
    from leaderboards.sheets import Sheet

    rows = []
    for method in methods:
        card = card_of(method)
        rows.append(
            (method.name, cost(method), _origin(method), card.rule if card else first_sentence(method))
        )
    note = (
        "w: factor on the advantage A; delta: addend. cost: none, or the logits or the attention of a forward that "
        "runs anyway, or one more forward, backward, a forward for each token, or more rollouts. "
        "flowtracer methods NAME shows the card of one; docs/methods.md has all."
    )
    return Sheet(
        "Credit methods", ("method", "cost", "source", "rule"), tuple(rows), note, words=(0, 1, 2, 3)
    )


def _origin(method: CreditMethod) -> str:
    """The number of the paper, or whose rule it is."""
    from flowtracer.credit.card import OURS, card_of

    card = card_of(method)
    if card is None:
        return type(method).__module__
    number = re.search(r"arXiv (\d{4}\.\d{5})", card.source)
    if number and not card.fidelity.startswith(OURS):
        return f"arXiv {number[1]}"
    return "this project" if card.fidelity.startswith(OURS) else card.source.partition(",")[0]


def _print_fact(screen: Any, what: str, value: str) -> None:
    from rich.text import Text

    line = Text(f"{what}: ", style="bold")
    screen.print(line.append(value, style="not bold"), highlight=False)


def _sheets(card: Shown) -> list[Sheet]:
    from leaderboards.sheets import Sheet

    sheets = []
    if card.options:
        note = f"In an experiment file: [methods.{card.name}], one line an option."
        columns = ("option", "default", "where the default comes from")
        sheets.append(Sheet("Options", columns, card.options, note, words=(0, 1, 2)))
    results = tuple((each.page, each.arm, each.says) for each in card.results)
    note = "Pages are under leaderboards/results. A difference is that from uniform on the same seeds, ± 95%."
    if results:
        sheets.append(Sheet("Our results", ("page", "arm", "what it says"), results, note, words=(0, 1, 2)))
    else:
        sheets.append(Sheet("Our results", ("page",), (("none kept",),), ""))
    return sheets
