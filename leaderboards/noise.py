"""Noise: how much one arm differs from seed to seed, and which difference a comparison could find, before it is run.

The runs of one arm give the standard deviation s of the metric over training seeds. A comparison looks at differences
on the same seed. Where the two arms share a part r of their variance (the same problems, the same sampling noise), the
difference spreads by s sqrt(2 (1 - r)). One arm alone does not say how large r is, so two values are shown: 0, where
pairing brings nothing, and 1/2.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leaderboards import estimates
from leaderboards.declaration import METRICS, Declaration
from leaderboards.estimates import POWER, Interval
from leaderboards.format import RecordError
from leaderboards.records import Run
from leaderboards.scores import score_run
from leaderboards.sheets import NOTHING, Sheet

#: Numbers of seeds that are shown, beside the declared one.
SEEDS = (3, 4, 6, 8, 12, 16, 24, 32, 64)
#: The part of its variance that an arm is taken to share with the baseline.
HALF, NOTHING_SHARED = 0.5, 0.0
_WIDTH, _HEIGHT = 760, 420


@dataclass(frozen=True)
class Reach:
    """The smallest true differences that so many seeds find with a power of 80%, in the metric's unit.

    half: the arms share half of their variance. independent: they share none. at_worst: they share none, and the
    spread is the upper end of its interval; None where that is not known.
    """

    seeds: int
    half: float
    independent: float
    at_worst: float | None


@dataclass(frozen=True)
class Noise:
    """The spread of one arm over training seeds, and the differences that comparisons by it can find.

    values: the metric of each seed. spread: its standard deviation, with the 95% interval. alpha: the level of one of
    `arms` comparisons (Holm's first step). needed_*: seeds that find the declared `smallest_difference`; None beyond
    10,000. pairs: standard deviation of the differences from this arm, for other arms with three seeds in common.
    """

    arm: str
    metric: str
    values: Mapping[int, float]
    mean: float
    spread: float
    interval: Interval | None
    alpha: float
    arms: int
    smallest_difference: float
    reaches: tuple[Reach, ...]
    needed_half: int | None
    needed_independent: int | None
    needed_at_worst: int | None
    pairs: Mapping[str, float]


def noise_of(runs: Sequence[Run], arm: str, declaration: Declaration, arms: int, seeds: int) -> Noise:
    """The noise of the finished runs of one arm, by the declared metric.

    runs: of one experiment; those of other arms only say how much pairing brings. arms: how many will be compared with
    the baseline. seeds: the declared number. Raises RecordError for fewer than two finished runs of the arm, and where
    they do not give the metric.
    """
    by_arm: dict[str, dict[int, float]] = {}
    for run in runs:
        if run.finished:
            metrics = score_run(run).metrics
            if declaration.metric not in metrics:
                raise RecordError(f"{run.folder} does not give the declared metric, {declaration.metric}")
            by_arm.setdefault(run.method, {})[run.seed] = metrics[declaration.metric]
    values = dict(sorted(by_arm.get(arm, {}).items()))
    if len(values) < 2:
        raise RecordError(
            f"a spread over seeds takes two finished runs of {arm}; there is {len(values) or 'none'}"
        )
    pairs = {}
    for label, theirs in by_arm.items():
        shared = sorted(values.keys() & theirs.keys())
        if label != arm and len(shared) > 2:
            pairs[label] = estimates.spread([theirs[seed] - values[seed] for seed in shared])
    return _noise(values, arm, declaration, max(1, arms), seeds, pairs)


def _noise(
    values: Mapping[int, float],
    arm: str,
    declaration: Declaration,
    arms: int,
    seeds: int,
    pairs: Mapping[str, float],
) -> Noise:
    numbers = list(values.values())
    deviation, interval = estimates.spread(numbers), estimates.spread_interval(numbers)
    alpha, wanted = declaration.alpha / arms, declaration.smallest_difference
    half, independent = of_difference(deviation, HALF), of_difference(deviation, NOTHING_SHARED)
    worst = None if interval is None else of_difference(interval[1], NOTHING_SHARED)
    reaches = []
    for count in sorted({*SEEDS, seeds} - {1, 2}):
        detectable = [estimates.detectable(each, count, alpha) for each in (half, independent)]
        if detectable[0] is not None and detectable[1] is not None:
            at_worst = None if worst is None else estimates.detectable(worst, count, alpha)
            reaches.append(Reach(count, detectable[0], detectable[1], at_worst))
    return Noise(
        arm=arm,
        metric=declaration.metric,
        values=values,
        mean=math.fsum(numbers) / len(numbers),
        spread=deviation,
        interval=interval,
        alpha=alpha,
        arms=arms,
        smallest_difference=wanted,
        reaches=tuple(reaches),
        needed_half=estimates.seeds_to_detect(wanted, half, alpha),
        needed_independent=estimates.seeds_to_detect(wanted, independent, alpha),
        needed_at_worst=None if worst is None else estimates.seeds_to_detect(wanted, worst, alpha),
        pairs=pairs,
    )


def of_difference(deviation: float, shared: float) -> float:
    """The standard deviation of the difference of two arms on one seed.

    deviation: that of each arm. shared: the part of their variance that they have in common, 0 to 1.
    """
    return deviation * math.sqrt(2 * (1 - shared))


# ------------------------------------------------------------------------------------- in words


def facts(noise: Noise) -> list[tuple[str, str]]:
    """The measured spread, in words: pairs of a name and a value."""
    count = len(noise.values)
    spread = f"{noise.spread:.4f}"
    if noise.interval is not None:
        spread += f", 95% interval {noise.interval[0]:.4f} to {noise.interval[1]:.4f}"
    needed = (
        ("half shared", noise.needed_half),
        ("independent", noise.needed_independent),
        ("at worst", noise.needed_at_worst),
    )
    return [
        ("metric", METRICS[noise.metric]),
        (f"mean over {count} seeds", f"{noise.mean:.4f}"),
        ("standard deviation over seeds", spread),
        ("lowest and highest seed", f"{min(noise.values.values()):.4f}, {max(noise.values.values()):.4f}"),
        *(
            (f"seeds to find {noise.smallest_difference:g}, {name}", NOTHING if count is None else str(count))
            for name, count in needed
        ),
    ]


def sheets(noise: Noise) -> list[Sheet]:
    """The noise as tables: what was measured, what seeds can find, and how much pairing brought where it is known."""
    tables = [Sheet(f"Noise of {noise.arm}", ("what", "value"), tuple(facts(noise)), words=(0, 1))]
    if not noise.spread > 0:
        return tables
    rows = tuple(
        (
            str(reach.seeds),
            f"{reach.half:.4f}",
            f"{reach.independent:.4f}",
            NOTHING if reach.at_worst is None else f"{reach.at_worst:.4f}",
        )
        for reach in noise.reaches
    )
    tables.append(
        Sheet(
            f"Smallest true difference that is found {POWER:.0%} of the time",
            ("seeds", "half shared", "independent", "at worst"),
            rows,
            f"Paired t at {noise.alpha:.4g}, the level of one of {noise.arms} arms. half shared: the two arms have "
            "half of their variance in common, seed by seed. independent: none of it. at worst: none, and the spread "
            "is at the upper end of its interval.",
        )
    )
    if noise.pairs:
        measured = tuple(
            (label, f"{spread:.4f}", f"{1 - spread**2 / (2 * noise.spread**2):.2f}")
            for label, spread in noise.pairs.items()
        )
        note = "shared: the part of the variance that pairing removed, if both arms spread alike."
        tables.append(
            Sheet(f"Differences from {noise.arm}, measured", ("arm", "spread", "shared"), measured, note)
        )
    return tables


# ------------------------------------------------------------------------------------- as a plot


def to_svg(noise: Noise, title: str) -> str:
    """The plot, a whole SVG file: the metric of each seed, and the smallest difference that so many seeds find."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="13" fill="#222">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="20" y="26" font-size="16" font-weight="bold">{html.escape(title)}</text>',
        *_dots(noise),
        *_reach_lines(noise),
    ]
    return "\n".join([*parts, "</svg>\n"])


def _dots(noise: Noise) -> list[str]:
    """One dot a seed, on a line of the metric's values."""
    low, high = min(noise.values.values()), max(noise.values.values())
    room = (high - low) or max(abs(low), 1.0)

    def x(value: float) -> float:
        return 60 + (value - low) / room * (_WIDTH - 120)

    parts = [
        f'<text x="20" y="52">{html.escape(METRICS[noise.metric])}, {html.escape(noise.arm)}, a dot a seed</text>',
        f'<line x1="60" x2="{_WIDTH - 60}" y1="76" y2="76" stroke="#999"/>',
    ]
    for seed, value in noise.values.items():
        parts.append(
            f'<circle cx="{x(value):.1f}" cy="76" r="5" fill="#1f6feb" fill-opacity="0.6">'
            f"<title>seed {seed}: {value:.4f}</title></circle>"
        )
    for value in sorted({low, high}):
        parts.append(f'<text x="{x(value):.1f}" y="98" text-anchor="middle">{value:.4f}</text>')
    return parts


def _reach_lines(noise: Noise) -> list[str]:
    """The smallest difference that is found, against the number of seeds; one line for each assumption."""
    if not noise.reaches:
        return ['<text x="20" y="140">All seeds have one value: there is no spread to plan with.</text>']
    left, right, top, bottom = 70, _WIDTH - 130, 150, _HEIGHT - 50
    seeds = [reach.seeds for reach in noise.reaches]
    highest = max(max(reach.independent for reach in noise.reaches), noise.smallest_difference) * 1.08
    span = math.log(seeds[-1] / seeds[0]) or 1.0

    def x(count: int) -> float:
        return left + math.log(count / seeds[0]) / span * (right - left)

    def y(value: float) -> float:
        return bottom - min(value / highest, 1.0) * (bottom - top)

    parts = [
        f'<text x="20" y="136">smallest true difference found {POWER:.0%} of the time</text>',
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#999"/>',
        f'<text x="{(left + right) / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">training seeds of each arm</text>',
    ]
    for count in seeds:
        parts.append(f'<text x="{x(count):.1f}" y="{bottom + 18}" text-anchor="middle">{count}</text>')
    for share in (0.25, 0.5, 0.75, 1.0):
        value = share * highest
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3f}</text>')
    wanted = noise.smallest_difference
    parts.append(
        f'<line x1="{left}" x2="{right}" y1="{y(wanted):.1f}" y2="{y(wanted):.1f}" stroke="#b35900" '
        f'stroke-dasharray="6 4"/>'
        f'<text x="{right + 8}" y="{y(wanted) + 4:.1f}" fill="#b35900">declared {wanted:g}</text>'
    )
    for label, colour in (("half", "#1a7f37"), ("independent", "#1f6feb"), ("at_worst", "#8250df")):
        curve = [(reach.seeds, getattr(reach, label)) for reach in noise.reaches]
        points = [(x(count), y(value), count, value) for count, value in curve if value is not None]
        inside = [point for point in points if point[3] <= highest]
        if not inside:
            continue
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up, _, _ in inside)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3.5" fill="{colour}"><title>{count} seeds: {value:.4f}</title>'
            "</circle>"
            for across, up, count, value in inside
        ]
    return [*parts, *_key(right)]


def _key(right: float) -> list[str]:
    """The names of the lines."""
    names = (("half shared", "#1a7f37"), ("independent", "#1f6feb"), ("at worst", "#8250df"))
    return [
        f'<text x="{right - 100}" y="{170 + 20 * place}" fill="{colour}">{name}</text>'
        for place, (name, colour) in enumerate(names)
    ]
