"""Protects the figures of values: they are what a hand and scipy compute, clustered over problems, and have no value
where there is nothing to rank.
"""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from harness.studies import value_figures
from harness.studies.figures import group_advantages
from harness.studies.value_figures import CUT, SEGMENT, Changes


def changes(values, problem="p", halves=None, direction=1.0, right=False, places=None, length=None):
    """A response that is cut before every second token."""
    values = np.array(values, dtype=np.float64)
    places = list(range(0, 2 * (len(values) - 1), 2)) if places is None else places
    return Changes(
        problem=problem,
        places=places,
        length=2 * len(places) if length is None else length,
        values=values,
        halves=np.stack([values, values]) if halves is None else np.array(halves, dtype=np.float64),
        direction=direction,
        right=right,
    )


def drawn(seed, problems=7, responses=3):
    """Responses of random values, and a random score for each of their tokens."""
    generator = np.random.default_rng(seed)
    made, scores = [], []
    for problem in range(problems):
        for _ in range(responses):
            count = int(generator.integers(3, 12))
            halves = generator.integers(0, 9, size=(2, count + 1)) / 8
            right = bool(generator.integers(2))
            halves[:, -1] = right
            made.append(
                changes(
                    halves.mean(axis=0), str(problem), halves, direction=1.0 if right else -1.0, right=right
                )
            )
            scores.append(generator.integers(0, 5, size=2 * count).astype(np.float64))
    return made, scores


def test_first_fall_by_hand():
    assert changes([0.5, 0.25, 0.0, 0.25, 0.0]).fall == 1
    assert changes([0.5, 0.5, 0.0]).fall == 1
    assert changes([0.0, 0.0, 0.0]).fall is None, "it was lost from the first cut on"
    assert changes([0.5, 0.0, 1.0], right=True).fall is None


def test_scores_of_segments_by_hand():
    one = changes([0.5, 0.5, 0.5, 0.0], places=[1, 2, 5], length=7)
    scores = np.array([9.0, 1.0, 2.0, 4.0, 6.0, 5.0, 8.0])
    assert one.of_segments(scores, CUT).tolist() == [1.0, 2.0, 5.0]
    assert one.of_segments(scores, SEGMENT).tolist() == [1.0, 4.0, 6.5]


@pytest.mark.parametrize("reading", value_figures.READINGS)
def test_figures_are_scipys(reading):
    """An independent computation: scipy's statistics, a loop over problems."""
    responses, scores = drawn(0)
    expected = {"size": {}, "by_halves": {}, "signed": {}, "fall": {}}
    for one, of_tokens in zip(responses, scores, strict=True):
        pairs = of_tokens.reshape(-1, 2)
        of_segments = pairs[:, 0] if reading == CUT else pairs.mean(axis=1)
        change = one.values[1:] - one.values[:-1]
        first, second = one.halves[:, 1:] - one.halves[:, :-1]
        for figure, target in (
            ("size", abs(change)), ("by_halves", first * second), ("signed", one.direction * change)
        ):  # fmt: skip
            if len(set(of_segments)) > 1 and len(set(target)) > 1:
                value = spearmanr(of_segments, target).statistic
                expected[figure].setdefault(one.problem, []).append(value)
        falls = [
            index for index in range(len(change)) if one.values[index] > 0 and one.values[index + 1] == 0
        ]
        if not one.right and falls:
            others = np.delete(of_segments, falls[0])
            wins = mannwhitneyu([of_segments[falls[0]]], others).statistic
            expected["fall"].setdefault(one.problem, []).append(wins / len(others))
    found = value_figures.ranked("any", reading, responses, scores)
    for figure, by_problem in expected.items():
        value, interval = getattr(found, figure)
        assert by_problem and value == pytest.approx(
            np.mean([np.mean(values) for values in by_problem.values()]), abs=1e-12
        )
        assert interval[0] < value < interval[1]
    assert found.abstained == 0.0


def test_agreement_is_scipys_over_all_segments():
    responses, _ = drawn(1)
    halves = np.concatenate([np.diff(one.halves, axis=1) for one in responses], axis=1)
    value, interval = value_figures.agreement(responses)
    assert value == pytest.approx(spearmanr(*halves).statistic, abs=1e-12)
    assert interval[0] < value < interval[1]
    assert value_figures.reliability(0.5) == pytest.approx(2 / 3)


def test_the_interval_is_over_problems():
    """Duplicates of a problem's responses are no new problems: they must not make the interval shorter."""
    responses, scores = drawn(2)
    once = value_figures.ranked("any", CUT, responses, scores)
    thrice = value_figures.ranked("any", CUT, responses * 3, scores * 3)
    assert thrice.size[0] == pytest.approx(once.size[0]) and thrice.size[1] == pytest.approx(once.size[1])
    agreed, again = value_figures.agreement(responses), value_figures.agreement(responses * 3)
    assert again[1] == pytest.approx(agreed[1])


@pytest.mark.parametrize("problems", [2, 4, 20])
def test_the_interval_covers(problems):
    """Of 400 data sets with a known mean of 0 about 95%: the percentile bootstrap covers 50% of two problems."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        low, high = value_figures.clustered(
            (str(problem), value) for problem, value in enumerate(generator.normal(size=problems))
        )[1]
        covered += low < 0 < high
    assert 366 <= covered <= 394


def test_the_interval_of_the_agreement_is_the_jackknife_over_problems():
    """With one problem or two there is none; that of more is symmetric, as it is printed."""
    responses, _ = drawn(1)
    names = list(dict.fromkeys(response.problem for response in responses))
    for count in (1, 2):
        few = [response for response in responses if response.problem in names[:count]]
        assert value_figures.agreement(few)[1] is None
    value, (low, high) = value_figures.agreement(responses)
    assert high - value == pytest.approx(value - low) and 0 < high - value < 1


def test_by_halves_does_not_follow_noise_and_size_does():
    """Nothing changes the value. Noise is large before the middle and small after it, as it is where the value falls
    from a half to near 0, and a ranking by place follows its size.
    """
    generator = np.random.default_rng(4)
    spread = np.array([0.2] * 6 + [0.02] * 6)
    responses = []
    for problem in range(150):
        halves = 0.5 + generator.normal(size=(2, 12)) * spread
        responses.append(changes(halves.mean(axis=0), str(problem), halves))
    early = [-np.arange(22, dtype=np.float64)] * len(responses)
    found = value_figures.ranked("early", CUT, responses, early)
    assert found.size[1][0] > 0.3
    assert abs(found.by_halves[0]) < 0.1


def test_where_there_is_nothing_to_rank():
    flat, short = changes([0.5, 0.5, 0.5, 0.5]), changes([0.5, 0.0, 0.0])
    scores = [np.arange(6.0), np.arange(4.0)]
    found = value_figures.ranked("last", CUT, [flat, short], scores)
    assert found.size is found.by_halves is found.signed is None
    assert found.fall == (0.0, None), "one problem has no interval"
    assert value_figures.ranked("same", CUT, [short], [np.ones(4)]).fall == (0.5, None)
    silent = value_figures.ranked("silent", CUT, [flat, short], [None, None])
    assert silent.fall is None and silent.abstained == 1.0
    assert value_figures.agreement([flat]) is None and value_figures.agreement([]) is None
    assert value_figures.agreement([changes([0.5, 0.1, 0.7, 0.0])]) == (pytest.approx(1.0), None)
    assert math.isnan(value_figures.correlation(np.arange(2.0), np.arange(2.0)))
    empty = value_figures.ranked("none", CUT, [], [])
    assert empty.size is None and math.isnan(empty.abstained)


def test_rules_by_hand():
    scores = value_figures.rule_scores(["3", " and", "."], [-0.5, -2.0, -0.1], "0" * 32)
    assert scores["first"].tolist() == [0, -1, -2] and scores["last"].tolist() == [0, 1, 2]
    assert scores["unlikely"].tolist() == [0.5, 2.0, 0.1] and scores["long"].tolist() == [1, 3, 1]
    assert scores["digit"].tolist() == [1, 0, 0]
    again = value_figures.rule_scores(["3", " and", "."], [0, 0, 0], "0" * 32)["drawn"]
    other = value_figures.rule_scores(["3", " and", "."], [0, 0, 0], "1" * 32)["drawn"]
    assert scores["drawn"].tolist() == again.tolist() != other.tolist()


def test_advantages_of_groups():
    rewards = np.array([1.0, 0.0, math.nan, 1.0, 1.0, 0.0])
    groups = np.array([0, 0, 0, 1, 1, 2])
    found = group_advantages(rewards, groups)
    assert found[:2] == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], abs=1e-3)
    assert found[2:].tolist() == [0.0, 0.0, 0.0, 0.0]
