"""compare-policies: two evaluations on the same items, and what differs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.shared import Commands, add_export, closing, command, console, print_sheets, same, write
from harness.errors import ExperimentError

if TYPE_CHECKING:
    from leaderboards.paired_items import Compared
    from leaderboards.sheets import Sheet

#: Flipped items that are printed; an export holds all.
SHOWN = 10


def add(commands: Commands) -> None:
    """Adds this command."""
    added = command(
        commands,
        "compare-policies",
        _compare_policies,
        "Compare two evaluations of the same items: how much better B is, how sure that is, which items flipped.",
    )
    place = "a file of `flowtracer evaluate --out`, or an output folder of lm-eval with --log_samples"
    added.add_argument("one", type=Path, metavar="A", help=place)
    added.add_argument("other", type=Path, metavar="B", help=place)
    added.add_argument(
        "--metric",
        metavar="NAME",
        help="which of lm-eval's metrics, where it recorded several (default: exact_match, if it is one of them)",
    )
    added.add_argument(
        "--filter", metavar="NAME", help="which of lm-eval's filters, where it recorded several"
    )
    added.add_argument(
        "--cluster",
        metavar="KEY",
        help="a key of the rows, or of their doc: items with the same value of it are one group, not independent",
    )
    added.add_argument(
        "--alpha", type=float, default=0.05, help="error rate: 0.05 gives an interval of 95%% (default: 0.05)"
    )
    added.add_argument(
        "--smallest-difference",
        type=float,
        metavar="D",
        help="say how many items it would take to find this difference (default: the measured one)",
    )
    added.add_argument(
        "--shared",
        action="store_true",
        help="if the two were asked different items, compare those that both have",
    )
    add_export(added, (".csv",), "write every item that flipped to")


def _compare_policies(options: argparse.Namespace) -> int:
    from leaderboards.evaluations import read_evaluation
    from leaderboards.paired_items import compare_items
    from leaderboards.sheets import to_csv

    if not 0 < options.alpha < 1:
        raise ExperimentError(f"--alpha {options.alpha:g}: must lie between 0 and 1")
    if options.smallest_difference is not None and not options.smallest_difference > 0:
        raise ExperimentError(f"--smallest-difference {options.smallest_difference:g}: must be positive")
    first, second = (
        read_evaluation(place, options.metric, options.filter, options.cluster)
        for place in (options.one, options.other)
    )
    for choice, value in (("metric", options.metric), ("filter", options.filter)):
        if value is not None and not any(items.of_lm_eval for items in [*first.values(), *second.values()]):
            raise ExperimentError(
                f"--{choice} {value}: neither A nor B is of lm-eval, and only its files have a {choice} to choose; "
                "leave it out"
            )
    names = [name for name in first if name in second]
    if not names:
        raise ExperimentError(
            f"A and B have no task in common: {', '.join(first)} in {options.one}, "
            f"{', '.join(second)} in {options.other}"
        )
    compared = [
        compare_items(first[name], second[name], options.alpha, options.smallest_difference, options.shared)
        for name in names
    ]
    screen = console()
    print_sheets(screen, [sheet for each in compared for sheet in sheets(each, options.alpha)])
    if apart := sorted({*first} ^ {*second}):
        screen.print(f"only in one of the two: {', '.join(apart)}", highlight=False, markup=False)
    rows = [(each.task, *flip) for each in compared for flip in (*each.gained, *each.lost)]
    for file in options.export:
        write(file, to_csv(("task", "item", "a", "b"), rows))
    if rows and not options.export:
        closing(None, same(options, "--export", "flips.csv"))
    return 0


def _without_interval(compared: Compared) -> str:
    """Why there is no interval, in words."""
    if compared.items < 2:
        return "one item"
    return "one cluster" if compared.clusters == 1 else "no spread between items"


def sheets(compared: Compared, alpha: float) -> list[Sheet]:
    """One task's comparison as tables: the difference, pass@k, and the items that flipped."""
    from leaderboards.sheets import NOTHING, Sheet, p_value

    interval = compared.interval
    counted = f"{compared.items}" + (f" in {compared.clusters} clusters" if compared.clusters else "")
    facts = [
        ("items", counted),
        ("A", f"{compared.means[0]:.4f}"),
        ("B", f"{compared.means[1]:.4f}"),
        ("B - A", f"{compared.difference:+.4f}"),
        (
            f"{1 - alpha:.0%} interval over items",
            f"{interval[0]:+.4f} to {interval[1]:+.4f}"
            if interval
            else f"{NOTHING} ({_without_interval(compared)})",
        ),
        ("p", p_value(compared.p)),
    ]
    if compared.mcnemar is not None:
        facts.append(("exact McNemar p", p_value(compared.mcnemar)))
    if compared.detectable is not None:
        facts.append(("smallest difference that these items find", f"{compared.detectable:.4f}"))
    if compared.needed is not None:
        facts.append((f"items needed to find {compared.wanted:.4f}", f"{compared.needed:,}"))
    for side, bar in zip("AB", compared.decoding or (), strict=False):
        if bar is not None:
            facts.append((f"{side} decoded again, same items", f"{bar[0]:.4f} to {bar[1]:.4f}"))
    if any(compared.unjudged):
        facts.append(
            ("samples not judged, left out", f"{compared.unjudged[0]} of A, {compared.unjudged[1]} of B")
        )
    note = "Found: with a power of 80%. The interval is for new items of this kind, these two policies as they are."
    parts = [Sheet(f"{compared.task}: B against A", ("what", "value"), tuple(facts), note, words=(0, 1))]
    if compared.passes:
        rows = tuple(
            (f"pass@{k}" if k > 1 else "avg", f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}")
            for k, (a, b) in compared.passes.items()
        )
        parts.append(Sheet("Several samples an item", ("score", "A", "B", "B - A"), rows))
    flips = [(*flip, "gained") for flip in compared.gained[:SHOWN]]
    flips += [(*flip, "lost") for flip in compared.lost[:SHOWN]]
    if flips:
        title = f"Items that flipped: {len(compared.gained)} gained, {len(compared.lost)} lost"
        rows = tuple((name, f"{a:.2f}", f"{b:.2f}", what) for name, a, b, what in flips)
        more = f"At most {SHOWN} of each; --export FILE.csv holds all."
        parts.append(Sheet(title, ("item", "A", "B", "B has"), rows, more, words=(0, 3)))
    return parts
