"""Two policies on the same items: the difference with its interval over items, and which items flipped.

Sources: Miller 2024 (2411.00640) for paired differences and clusters, McNemar 1947 for one sample an item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from leaderboards import estimates
from leaderboards.estimates import Interval, average_at_k, pass_at_k
from leaderboards.format import RecordError

#: More items, or clusters of them, than this are not counted: nobody has them.
MOST_ITEMS = 10**12


@dataclass(frozen=True)
class Items:
    """One evaluation of one task: the values of each item's judged samples, and the cluster that an item is in."""

    task: str
    values: Mapping[str, Sequence[float]]
    #: Item -> cluster; empty where items stand for themselves.
    clusters: Mapping[str, str]
    #: Item -> what it asked, as far as the file says: two evaluations must agree.
    questions: Mapping[str, str]
    #: Samples that could not be judged; they are in no value.
    unjudged: int = 0
    #: Read from a file of lm-eval: only there are metrics and filters to choose from.
    of_lm_eval: bool = False


@dataclass(frozen=True)
class Compared:
    """B minus A on one task, over the items that both have."""

    task: str
    items: int
    clusters: int | None
    means: tuple[float, float]
    difference: float
    #: None where the items show no spread, or there are fewer than two.
    interval: Interval | None
    p: float | None
    #: Exact McNemar p, for one right-or-wrong sample an item; else None. It takes items as independent: none for
    #: clusters.
    mcnemar: float | None
    #: The smallest difference that so many items find with a power of 80%, and items needed to find `wanted`, by the
    #: same t as `p`. With clusters: items in as many clusters more. None beyond a million million.
    detectable: float | None
    wanted: float | None
    needed: int | None
    #: k -> pass@k of A and of B, where every item has as many right-or-wrong samples in both.
    passes: Mapping[int, tuple[float, float]]
    #: Half-width over new decodings of the same items, of A and of B; None where it cannot be known.
    decoding: tuple[Interval | None, Interval | None] | None
    #: Items whose mean went up from A to B and those whose mean went down, with both means; the largest first.
    gained: tuple[tuple[str, float, float], ...]
    lost: tuple[tuple[str, float, float], ...]
    unjudged: tuple[int, int]


def compare_items(
    first: Items, second: Items, alpha: float = 0.05, wanted: float | None = None, shared: bool = False
) -> Compared:
    """B (`second`) minus A (`first`), item by item.

    alpha: of the interval, 1 - alpha, and of what could be found. wanted: a difference whose items are counted, by
    default the one that came out. shared: compare the items that both have, where one has more.

    Raises RecordError for different items, and for an item that asked two different things.
    """
    names = _shared(first, second, shared)
    table = [(first.values[name], second.values[name]) for name in names]
    means = [(math.fsum(a) / len(a), math.fsum(b) / len(b)) for a, b in table]
    differences = np.array([b - a for a, b in means])
    difference = float(differences.mean())
    clusters = [first.clusters.get(name, name) for name in names]
    error, groups = clustered_error(differences, clusters)
    interval = p = detectable = needed = None
    if error is not None:
        half = error * float(stdtrit(groups - 1, 1 - alpha / 2))
        interval = (difference - half, difference + half)
        p = float(2 * stdtr(groups - 1, -abs(difference) / error))
        # The spread of one cluster's share of the mean: by the same t as interval and p.
        deviation = error * math.sqrt(groups)
        detectable = estimates.detectable(deviation, groups, alpha)
        wanted = wanted or abs(difference) or None
        enough = estimates.seeds_to_detect(wanted, deviation, alpha, MOST_ITEMS) if wanted else None
        needed = None if enough is None else math.ceil(enough * len(names) / groups)
    flips = [(name, a, b) for name, (a, b) in zip(names, means, strict=True) if a != b]
    flips.sort(key=lambda flip: -abs(flip[2] - flip[1]))
    passes, decoding = _samples(table)
    return Compared(
        task=first.task,
        items=len(names),
        clusters=groups if first.clusters else None,
        means=(math.fsum(a for a, _ in means) / len(names), math.fsum(b for _, b in means) / len(names)),
        difference=difference,
        interval=interval,
        p=p,
        mcnemar=mcnemar(table) if _binary(table) and _width(table) == 1 and not first.clusters else None,
        detectable=detectable,
        wanted=wanted,
        needed=needed,
        passes=passes,
        decoding=decoding,
        gained=tuple(flip for flip in flips if flip[2] > flip[1]),
        lost=tuple(flip for flip in flips if flip[2] < flip[1]),
        unjudged=(first.unjudged, second.unjudged),
    )


def _shared(first: Items, second: Items, shared: bool) -> list[str]:
    names = [name for name in first.values if name in second.values]
    apart = [
        sorted(name for name in these.values if name not in those.values)
        for these, those in ((first, second), (second, first))
    ]
    if any(apart) and (not shared or not names):
        only = ", ".join(f"{len(these)} only in {side}" for side, these in zip("AB", apart, strict=True))
        raise RecordError(
            f"task {first.task}: A and B are evaluations of different items: {only} ({(apart[0] or apart[1])[0]} for "
            "one)" + (f"; --shared compares the {len(names)} that both have" if names else "")
        )
    for name in names:
        if first.questions.get(name) != second.questions.get(name):
            raise RecordError(f"task {first.task}: item {name} is another question in A than in B")
    return names


def clustered_error(differences: np.ndarray, clusters: Sequence[str]) -> tuple[float | None, int]:
    """The standard error of the mean of (n,) differences whose clusters are independent, and how many there are.

    Corrected by G / (G - 1) for G clusters; for clusters of one item it is the usual error of a mean. None where the
    clusters show no spread.
    """
    sums: dict[str, float] = {}
    for cluster, value in zip(clusters, differences - differences.mean(), strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + float(value)
    groups = len(sums)
    if groups < 2:
        return None, groups
    variance = math.fsum(value**2 for value in sums.values()) * groups / (groups - 1)
    error = math.sqrt(variance) / len(differences)
    return (error if error > 1e-12 else None), groups


Table = Sequence[tuple[Sequence[float], Sequence[float]]]


def _binary(table: Table) -> bool:
    return all(value in (0, 1) for pair in table for values in pair for value in values)


def _width(table: Table) -> int | None:
    """How many samples every item has on both sides; None where that differs."""
    widths = {len(values) for pair in table for values in pair}
    return widths.pop() if len(widths) == 1 else None


def mcnemar(table: Table) -> float:
    """The exact McNemar p of items with one right-or-wrong sample on each side; 1 where none flipped."""
    gained = sum(b[0] > a[0] for a, b in table)
    lost = sum(b[0] < a[0] for a, b in table)
    if not gained + lost:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue)


def _samples(
    table: Table,
) -> tuple[dict[int, tuple[float, float]], tuple[Interval | None, Interval | None] | None]:
    """pass@k for k = 1, 2, 4 ... of both sides, and the interval of each mean over new decodings."""
    width = _width(table)
    if width is None or width < 2 or not _binary(table):
        return {}, None
    sides = [[pair[side] for pair in table] for side in (0, 1)]
    counts = sorted({width, *(2**power for power in range(width.bit_length()))})
    passes = {}
    for k in counts:
        a, b = (pass_at_k(side, k).value for side in sides)
        passes[k] = (a, b)
    a_bar, b_bar = (average_at_k(side).decoding for side in sides)
    return passes, (a_bar, b_bar)
