"""The numbers that a page's script draws: differences with intervals, and curves over training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from leaderboards import estimates, sheets, terminal
from leaderboards.comparison import ORACLES, Comparison

#: A curve is drawn through about this many points: each is a mean over neighbouring steps.
POINTS = 40
#: Digits of a number that is drawn and shown on hover.
DIGITS = 5
_COLOURS = 8

Curves = dict[str, list[dict[int, float]]]


def arms(comparison: Comparison) -> list[dict[str, Any]]:
    """The arms by rank: label, colour by name, so that it stays the same when ranks change, and a dash for each round.

    control: it knows the decisive tokens, and its gain squashes all others on one scale: it is not drawn at first.
    """
    others = sorted(arm.label for arm in comparison.arms if arm.label != comparison.baseline)
    return [
        {
            "label": arm.label,
            "colour": 0 if arm.label == comparison.baseline else 1 + others.index(arm.label) % (_COLOURS - 1),
            "dash": 0 if arm.label == comparison.baseline else others.index(arm.label) // (_COLOURS - 1),
            "control": arm.credit in ORACLES and len(comparison.arms) > 2,
            "baseline": arm.label == comparison.baseline,
        }
        for arm in comparison.arms
    ]


def drawn(comparison: Comparison) -> list[dict[str, Any]]:
    """Every drawing of a page, in its order; none that would be empty."""
    first = _differences(comparison)
    return [*([first] if first["arms"] else []), *_curves(comparison)]


def _differences(comparison: Comparison) -> dict[str, Any]:
    """Paired difference, interval and single seeds of every arm; `near`: where differences do not matter."""
    digits = terminal.decimals(comparison)
    return {
        "kind": "differences",
        "title": f"Paired differences from {comparison.baseline}",
        "near": comparison.smallest_difference,
        "arms": {
            arm.label: {
                "mean": arm.difference,
                "interval": arm.interval_of_difference,
                "seeds": [[seed, _short(value)] for seed, value in arm.differences.items()],
                "level": sheets.level(arm.difference, arm.interval_of_difference, digits, "+"),
                "outcome": arm.outcome,
                "tone": sheets.tone(arm.outcome, "soft"),
            }
            for arm in comparison.arms
            if arm.difference is not None
        },
    }


def _curves(comparison: Comparison) -> list[dict[str, Any]]:
    """Reward and accuracy over training, each where it was recorded at more than one step."""
    drawn = []
    for title, values in (
        ("Training reward", _of_arms(comparison, "rewards")),
        (f"Training reward minus {comparison.baseline}'s, same seed", _minus_baseline(comparison, "rewards")),
        ("Evaluation accuracy", _of_arms(comparison, "accuracies")),
    ):
        lines = {
            label: _curve(seeds, comparison.alpha) for label, seeds in values.items() if len(seeds[0]) > 1
        }
        if lines:
            drawn.append({"kind": "curves", "title": title, "arms": lines})
    return drawn


def _curve(values: Sequence[dict[int, float]], alpha: float) -> dict[str, list[float]]:
    """Mean over seeds with Student's interval at each point; many steps are averaged in blocks first."""
    steps = sorted(values[0])
    table = np.array([[entry[step] for step in steps] for entry in values])
    size = math.ceil(len(steps) / POINTS)
    blocks = [np.arange(start, min(start + size, len(steps))) for start in range(0, len(steps), size)]
    table = np.stack([table[:, block].mean(axis=1) for block in blocks], axis=1)
    means = table.mean(axis=0)
    intervals = [
        estimates.t_interval(column, 1 - alpha) or (mean, mean)
        for column, mean in zip(table.T, means, strict=True)
    ]
    return {
        "steps": [_short(float(np.mean([steps[index] for index in block]))) for block in blocks],
        "means": [_short(mean) for mean in means.tolist()],
        "lows": [_short(low) for low, _ in intervals],
        "highs": [_short(high) for _, high in intervals],
    }


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _of_arms(comparison: Comparison, name: str) -> Curves:
    """Step to value on each seed of each arm; `name` is the RunScores attribute that holds them."""
    return {
        arm.label: [getattr(comparison.scores[arm.label, seed], name) for seed in arm.seeds]
        for arm in comparison.arms
    }


def _minus_baseline(comparison: Comparison, name: str) -> Curves:
    """The same, minus the baseline's curve on the same seed: what the seeds share is gone."""
    curves: Curves = {}
    for arm in comparison.arms:
        if arm.differences:
            pairs = [
                (
                    getattr(comparison.scores[arm.label, seed], name),
                    comparison.scores[comparison.baseline, seed],
                )
                for seed in arm.differences
            ]
            curves[arm.label] = [
                {step: value - getattr(base_score, name)[step] for step, value in arm_curve.items()}
                for arm_curve, base_score in pairs
            ]
    return curves
