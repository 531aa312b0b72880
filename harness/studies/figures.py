"""Figures of gradients and weights: plain functions of arrays, no policy in sight. `replay` says what they mean."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from leaderboards.estimates import Interval, t_interval

Floats = NDArray[np.float64]
#: A mean and its 95% interval; None where there is nothing to average.
Level = tuple[float, Interval | None] | None

OPERATORS = frozenset("+-*/=×÷−^<>%")
CATEGORIES = ("delimiters", "digits", "operators")


# ------------------------------------------------------------------------------------- figures of gradients


@dataclass(frozen=True)
class Moments:
    """Inner products of n gradients that every figure is made of.

    squares: (n,) |g_i|^2. with_sum: (n,) g_i . sum of g. with_large: (n,) cos(g_i, sum of u less u_i); with_uniform:
    (n,) cos(g_i, u_i); NaN where either vector is 0.
    """

    squares: Floats
    with_sum: Floats
    with_large: Floats
    with_uniform: Floats

    @property
    def turns(self) -> Floats:
        """1 - cos(g_i, u_i), (n,): 0 for the same direction, 1 for a right angle, 2 for the opposite."""
        return np.clip(1.0 - self.with_uniform, 0.0, 2.0)  # rounding may put a cosine a hair above 1


def moments(gradients: NDArray[Any], uniform: NDArray[Any]) -> Moments:
    """The `Moments` of `gradients` (n, D) beside those of uniform credit on the same batches (n, D), in float64."""
    total = gradients.sum(0, dtype=np.float64)
    large = uniform.sum(0, dtype=np.float64)
    squares, with_sum, with_large, with_uniform = [], [], [], []
    for gradient, other in zip(gradients, uniform, strict=True):
        of_method, plain = gradient.astype(np.float64), other.astype(np.float64)
        squares.append(of_method @ of_method)
        with_sum.append(of_method @ total)
        with_large.append(_cosine(of_method, large - plain))
        with_uniform.append(_cosine(of_method, plain))
    return Moments(*map(np.array, (squares, with_sum, with_large, with_uniform)))


def _cosine(one: Floats, other: Floats) -> float:
    lengths = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / lengths if lengths > 0 else math.nan


def _ratio(count: int, squares: float, total: float) -> float:
    """The ratio from n, the sum of |g_i|^2 and |sum of g|^2."""
    spread = (squares - total / count) / (count - 1)
    if spread <= 1e-12 * squares:  # all batches gave the same gradient, up to rounding
        return math.inf if squares > 0 else math.nan
    return (total / count**2 - spread / count) / spread


def signal_to_noise(found: Moments) -> float:
    """|G|^2 / tr S, see above; NaN for fewer than two batches and where every gradient is 0, infinite without noise."""
    count = len(found.squares)
    if count < 2:
        return math.nan
    return _ratio(count, math.fsum(found.squares), math.fsum(found.with_sum))


def without_each(found: Moments) -> Floats:
    """`signal_to_noise` without each batch in turn, (n,); NaN throughout for fewer than three batches."""
    count, squares = len(found.squares), math.fsum(found.squares)
    if count < 3:
        return np.full(count, math.nan)
    total = math.fsum(found.with_sum)
    return np.array(
        [
            _ratio(count - 1, squares - own, total - 2 * with_sum + own)
            for own, with_sum in zip(found.squares, found.with_sum, strict=True)
        ]
    )


def jackknife(value: float, left_out: Floats) -> Interval | None:
    """The jackknife's 95% interval of `value` from its values without each of n batches; None where not finite."""
    count = len(left_out)
    if count < 3 or not (math.isfinite(value) and np.isfinite(left_out).all()):
        return None
    around = t_interval(value + (count - 1) * (left_out.mean() - left_out))
    if around is None:
        return value, value
    half = (around[1] - around[0]) / 2
    return value - half, value + half


# ------------------------------------------------------------------------------------- figures of weights


def rank_correlations(rows: Floats) -> Floats:
    """Spearman's correlation of every two of m score lists over n tokens: (m, n) -> (m, m), NaN for constant ones."""
    ranks = rankdata(rows, axis=1)
    centred = ranks - ranks.mean(1, keepdims=True)
    length = np.sqrt((centred**2).sum(1))
    length[length < 1e-9] = math.nan
    return (centred @ centred.T) / np.outer(length, length)


def in_top(scores: Floats, count: int) -> Floats:
    """The chance that each of n tokens is among the `count` highest when ties are broken at random, (n,)."""
    if count == 0:
        return np.zeros(len(scores))
    edge = np.sort(scores)[-count]
    above = scores > edge
    tied = scores == edge
    return above + tied * ((count - above.sum()) / tied.sum())


def roc_auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """The chance that a `positive` token scores higher than another, ties half; NaN where there is only one kind."""
    members, others = int(positive.sum()), int((~positive).sum())
    if not members or not others:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - members * (members + 1) / 2) / (members * others))


def group_advantages(rewards: Floats, groups: NDArray[np.int_]) -> Floats:
    """GRPO's advantages, (B,): a reward minus its group's mean, by its standard deviation (n - 1) and 1e-4.

    rewards: (B,), NaN where a response could not be judged: its advantage is 0, and it counts nowhere.
    """
    advantages = np.zeros(len(rewards))
    for group in np.unique(groups):
        members = (groups == group) & np.isfinite(rewards)
        if members.any():
            spread = rewards[members].std(ddof=1) if members.sum() > 1 else 0.0
            advantages[members] = (rewards[members] - rewards[members].mean()) / (spread + 1e-4)
    return advantages


def category(piece: str) -> str | None:
    """ "operators", "digits" or "delimiters" (punctuation and line breaks) where a token's text is nothing else."""
    visible = "".join(piece.split())
    if not visible:
        return "delimiters" if "\n" in piece else None
    if all(character in OPERATORS for character in visible):
        return "operators"
    if visible.isdecimal():
        return "digits"
    if all(unicodedata.category(character)[0] in "PS" for character in visible):
        return "delimiters"
    return None


def mean_level(values: Iterable[float]) -> Level:
    """The mean of the finite values and Student's 95% interval of it; None where there is none."""
    finite = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    return (float(finite.mean()), t_interval(finite)) if len(finite) else None
