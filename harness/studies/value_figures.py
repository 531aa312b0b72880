"""Figures of values: what segments of responses change, and how well rankings of tokens follow it. Plain numbers, no
policy in sight; `values` says where they come from.

A response is cut before some of its tokens. A segment goes from a cut to the token before the next one, the last to the
end of the response. What it changes is the value at its end minus the value at its start, the value at the response's
end being its reward. A ranking's score of a segment is that of the token at its cut, the one that the policy was unsure
of; or, as the second reading, the mean over the segment's tokens.

size        Spearman's correlation with |change| over a response's segments. Chance makes |change| larger where the
            value is near a half, whatever the segment does.
by halves   the same with the product of the changes by two halves of the continuations. Its expectation is the square
            of the true change, which chance does not move.
signed      the same with the change in the direction of the response's advantage: what a weight should follow.
first fall  the area under the ROC curve of the first segment after which the value is 0, and was not before, among all
            segments of a response that is not right.

A figure is the mean over problems of the mean over a problem's responses, with Student's 95% interval over problems, as
in the other studies; that of the agreement of halves is the jackknife over problems. Fewer than `LEAST` segments rank
nothing, and equal scores or equal changes neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import seeds
from harness.studies.figures import Level, jackknife, mean_level, rank_correlations, roc_auc
from leaderboards.estimates import problem_means

Floats = NDArray[np.float64]

#: Segments of the shortest response that is ranked: of two, any ranking is at +1 or -1.
LEAST = 3
#: The row of the most that a ranking can reach: it is no method.
CEILING = "(the other half)"
#: A segment's score: of the token at its cut, or the mean over its tokens.
CUT, SEGMENT = READINGS = ("at the cut", "over the segment")


@dataclass(frozen=True)
class Changes:
    """The changes by the m segments of one response.

    places: the m cuts, ascending, counted from the response's first token. length: its tokens. values: (m + 1,) at the
    cuts and at the end. halves: (2, m + 1), the same by each half of the continuations. direction: the sign of the
    response's advantage. right: its reward is 1.
    """

    problem: str
    places: Sequence[int]
    length: int
    values: Floats
    halves: Floats
    direction: float
    right: bool

    @property
    def change(self) -> Floats:
        """(m,)"""
        return np.diff(self.values)

    @property
    def of_halves(self) -> Floats:
        """The changes by each half of the continuations, (2, m)."""
        return np.diff(self.halves, axis=1)

    @property
    def fall(self) -> int | None:
        """The first segment after which the value is 0, and was not before; None for a right response and without."""
        falls = np.flatnonzero((self.values[:-1] > 0) & (self.values[1:] == 0))
        return None if self.right or not len(falls) else int(falls[0])

    def of_segments(self, scores: Floats, reading: str) -> Floats:
        """The scores of the segments, (m,), from those of the response's tokens, (length,)."""
        if reading == CUT:
            return scores[list(self.places)]
        ends = [*self.places[1:], self.length]
        return np.array([scores[start:end].mean() for start, end in zip(self.places, ends, strict=True)])


@dataclass(frozen=True)
class Ranked:
    """How well one ranking of tokens follows the changes. abstained: the share of responses without a judgement."""

    name: str
    reading: str
    size: Level
    by_halves: Level
    signed: Level
    fall: Level
    abstained: float


def ranked(name: str, reading: str, responses: Sequence[Changes], scores: Sequence[Floats | None]) -> Ranked:
    """The figures of one ranking. scores: of each response's tokens, None where the ranking abstains."""
    figures: dict[str, list[tuple[str, float]]] = {"size": [], "by_halves": [], "signed": [], "fall": []}
    for changes, of_tokens in zip(responses, scores, strict=True):
        if of_tokens is None:
            continue
        of_segments = changes.of_segments(of_tokens, reading)
        targets = {
            "size": np.abs(changes.change),
            "by_halves": changes.of_halves.prod(axis=0),
            "signed": changes.direction * changes.change,
        }
        for figure, target in targets.items():
            figures[figure].append((changes.problem, correlation(of_segments, target)))
        if changes.fall is not None:
            positive = np.arange(len(of_segments)) == changes.fall
            figures["fall"].append((changes.problem, roc_auc(of_segments, positive)))
    silent = sum(of_tokens is None for of_tokens in scores)
    levels: dict[str, Any] = {figure: clustered(pairs) for figure, pairs in figures.items()}
    return Ranked(
        name=name,
        reading=reading,
        abstained=silent / len(responses) if responses else math.nan,
        **levels,
    )


def ceiling(responses: Sequence[Changes]) -> Ranked:
    """One half of the continuations as a ranking, held against the changes by the other half."""
    size, signed = [], []
    for changes in responses:
        first, second = changes.of_halves
        size.append((changes.problem, correlation(np.abs(first), np.abs(second))))
        signed.append((changes.problem, correlation(changes.direction * first, changes.direction * second)))
    return Ranked(CEILING, CUT, clustered(size), None, clustered(signed), None, 0.0)


def correlation(scores: Floats, target: Floats) -> float:
    """Spearman's correlation over a response's segments; NaN for fewer than `LEAST`, and where either is constant."""
    if len(scores) < LEAST:
        return math.nan
    return float(rank_correlations(np.stack([scores, target]))[0, 1])


def agreement(responses: Sequence[Changes]) -> Level:
    """Spearman's correlation over all segments of all responses between the changes by the two halves.

    Its interval is the jackknife over problems; None for fewer than three.
    """
    problems: dict[str, list[Floats]] = {}
    for changes in responses:
        problems.setdefault(changes.problem, []).append(changes.of_halves)
    clusters = [np.concatenate(parts, axis=1) for parts in problems.values()]

    def figure(chosen: Iterable[int]) -> float:
        halves = np.concatenate([clusters[index] for index in chosen], axis=1)
        return float(rank_correlations(halves)[0, 1]) if halves.shape[1] >= LEAST else math.nan

    places = range(len(clusters))
    value = figure(places) if clusters else math.nan
    if math.isnan(value):
        return None
    left_out = (
        [figure([place for place in places if place != gone]) for gone in places] if len(places) > 1 else []
    )
    return value, jackknife(value, np.array(left_out))


def reliability(halves: float) -> float:
    """Spearman and Brown's: how well all continuations would agree with as many others, from how well halves do."""
    return 2 * halves / (1 + halves)


def clustered(pairs: Iterable[tuple[str, float]]) -> Level:
    """The mean over problems of the mean over a problem's values, and its interval; None without a finite value."""
    return mean_level(problem_means(pairs).values())


def rule_scores(pieces: Sequence[str], logprobs: Sequence[float], key: str) -> Mapping[str, Floats]:
    """The scores of a response's tokens by rules that read no attention: name -> (n,).

    pieces: the tokens' texts. logprobs: of the sampled tokens. key: the rollout's, which names the random ranking.
    """
    count = len(pieces)
    return {
        "first": -np.arange(count, dtype=np.float64),
        "last": np.arange(count, dtype=np.float64),
        "unlikely": -np.array(logprobs, dtype=np.float64),
        "long": np.array([len(piece.strip()) for piece in pieces], dtype=np.float64),
        "digit": np.array([any(map(str.isdecimal, piece)) for piece in pieces], dtype=np.float64),
        "drawn": np.array(
            [seeds.integer(seeds.key("ranking", key, place)) for place in range(count)], dtype=np.float64
        ),
    }
