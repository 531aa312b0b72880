"""Figures of gradients and weights: plain functions of arrays, no policy in sight. `replay` says what they mean."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
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
#: The policy is unsure of a token that it gave less than this probability, as SPO takes it (`values`).
UNSURE = 0.9
CATEGORIES = ("delimiters", "digits", "operators")
#: Columns of gradients that are multiplied at a time.
BLOCK = 1 << 18


# ------------------------------------------------------------------------------------- figures of gradients


@dataclass(frozen=True)
class Moments:
    """Inner products of n gradients that every figure is made of.

    squares: (n,) |g_i|^2. with_sum: (n,) g_i . sum of g. with_each: (n, n) g_i . u_k. with_uniform: (n,) cos(g_i, u_i),
    NaN where either vector is 0.
    """

    squares: Floats
    with_sum: Floats
    with_each: Floats
    with_uniform: Floats

    @property
    def turns(self) -> Floats:
        """1 - cos(g_i, u_i), (n,): 0 for the same direction, 1 for a right angle, 2 for the opposite."""
        return np.clip(1.0 - self.with_uniform, 0.0, 2.0)  # rounding may put a cosine a hair above 1


def moments(gradients: NDArray[Any], uniform: NDArray[Any]) -> Moments:
    """The `Moments` of `gradients` (n, D) beside those of uniform credit on the same batches (n, D), in float64."""
    total = gradients.sum(0, dtype=np.float64)
    squares, with_sum, with_uniform = [], [], []
    for gradient, other in zip(gradients, uniform, strict=True):
        of_method, plain = gradient.astype(np.float64), other.astype(np.float64)
        squares.append(of_method @ of_method)
        with_sum.append(of_method @ total)
        with_uniform.append(_cosine(of_method, plain))
    return Moments(
        np.array(squares), np.array(with_sum), _products(gradients, uniform), np.array(with_uniform)
    )


def _products(rows: NDArray[Any], others: NDArray[Any]) -> Floats:
    """The inner product of every row (n, D) with every other's (n, D), in float64: (n, n)."""
    products = np.zeros((len(rows), len(others)))
    for start in range(0, rows.shape[1], BLOCK):  # whole copies in float64 would be the largest thing here
        part = slice(start, start + BLOCK)
        products += rows[:, part].astype(np.float64) @ others[:, part].astype(np.float64).T
    return products


def _cosine(left: Floats, right: Floats) -> float:
    lengths = math.sqrt(float(left @ left) * float(right @ right))
    return float(left @ right) / lengths if lengths > 0 else math.nan


def _ratio(count: int, squares: float, total: float) -> float:
    """The ratio from n, the sum of |g_i|^2 and |sum of g|^2."""
    spread = (squares - total / count) / (count - 1)
    if spread <= 1e-12 * squares:  # all batches gave the same gradient, up to rounding
        return math.inf if squares > 0 else math.nan
    return (total / count**2 - spread / count) / spread


def signal_to_noise(moments: Moments) -> float:
    """|G|^2 / tr S, see above; NaN for fewer than two batches and where every gradient is 0, infinite without noise."""
    count = len(moments.squares)
    if count < 2:
        return math.nan
    return _ratio(count, math.fsum(moments.squares), math.fsum(moments.with_sum))


def without_each(moments: Moments) -> Floats:
    """`signal_to_noise` without each batch in turn, (n,); NaN throughout for fewer than three batches."""
    count, squares = len(moments.squares), math.fsum(moments.squares)
    if count < 3:
        return np.full(count, math.nan)
    total = math.fsum(moments.with_sum)
    return np.array(
        [
            _ratio(count - 1, squares - square, total - 2 * with_sum + square)
            for square, with_sum in zip(moments.squares, moments.with_sum, strict=True)
        ]
    )


def to_large(moments: Moments, uniform: Moments) -> Level:
    """The mean over i of cos(g_i, sum of u without u_i), and its jackknife interval; None for fewer than two batches.

    uniform: the moments of uniform credit on the same batches. Every batch is in the sums of all others, so that the
    cosines depend on each other: leaving a batch out takes it from the rows and from the sums.
    """
    squares, crossed, plain = moments.squares, moments.with_each, uniform.with_each
    value = _mean_to_large(squares, crossed, plain)
    if math.isnan(value):
        return None
    places = np.arange(len(squares))
    others = [places[places != place] for place in places]
    left_out = [
        _mean_to_large(squares[rest], crossed[np.ix_(rest, rest)], plain[np.ix_(rest, rest)])
        for rest in others
    ]
    return value, jackknife(value, np.array(left_out))


def _mean_to_large(squares: Floats, crossed: Floats, plain: Floats) -> float:
    """The mean of cosines from |g_i|^2 (n,), g_i . u_k (n, n) and u_i . u_k (n, n); NaN where none has a direction."""
    along = crossed.sum(1) - crossed.diagonal()
    lengths = plain.sum() - 2 * plain.sum(1) + plain.diagonal()
    # What is left of a sum that cancels is rounding, and no direction.
    pointed = (squares > 0) & (lengths > 1e-12 * plain.trace())
    cosines = along[pointed] / np.sqrt(squares[pointed] * lengths[pointed])
    return float(cosines.mean()) if len(cosines) else math.nan


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


def unsure(logprobs: Sequence[float]) -> NDArray[np.bool_]:
    """The sampled tokens that the policy gave less than `UNSURE`, (n,), from their log-probabilities."""
    return np.exp(np.asarray(logprobs, dtype=np.float64)) < UNSURE


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
