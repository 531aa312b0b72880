"""Statistics on plain numbers: against references, at their edges, and against simulations with known truth."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from leaderboards import estimates

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import statistics_simulation

GENERATOR = np.random.default_rng(7)
VALUES = [GENERATOR.normal(0.03, 0.05, size) for size in (2, 3, 8, 30)]


# ------------------------------------------------------------------------------- against references


@pytest.mark.parametrize("values", VALUES)
def test_t_interval_and_p_are_students(values: np.ndarray) -> None:
    reference = stats.ttest_1samp(values, 0)
    assert estimates.paired_p(values) == pytest.approx(reference.pvalue, rel=1e-9)
    assert estimates.t_interval(values) == pytest.approx(tuple(reference.confidence_interval(0.95)), rel=1e-9)
    assert estimates.t_interval(values, 0.8) == pytest.approx(
        tuple(reference.confidence_interval(0.8)), rel=1e-9
    )


@pytest.mark.parametrize("values", VALUES)
def test_equivalence_is_two_one_sided_tests(values: np.ndarray) -> None:
    for smallest in (0.01, 0.05, 0.2):
        reference = DescrStatsW(values).ttost_mean(-smallest, smallest)[0]
        assert estimates.equivalence_p(values, smallest) == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 9])
def test_sign_flip_enumerates_every_flip(size: int) -> None:
    for values in (GENERATOR.normal(0.5, 1, size), GENERATOR.integers(-2, 3, size) / 30):
        flips = np.array(list(itertools.product([1, -1], repeat=size))) @ values
        expected = (np.abs(flips) >= abs(values.sum()) - 1e-12).mean()
        assert estimates.sign_flip_p(values) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("seeds", "arms", "reaches"), [(5, 1, False), (6, 1, True), (6, 2, False), (7, 2, True)]
)
def test_sign_flip_minimum(seeds: int, arms: int, reaches: bool) -> None:
    assert estimates.sign_flip_p([1.0 + seed / 10 for seed in range(seeds)]) == estimates.sign_flip_minimum(
        seeds
    )
    assert (arms * estimates.sign_flip_minimum(seeds) <= 0.05) == reaches
    assert (7 * estimates.sign_flip_minimum(8) <= 0.05, 7 * estimates.sign_flip_minimum(9) <= 0.05) == (
        False,
        True,
    )


def test_holm_is_holm() -> None:
    for size in (1, 2, 5):
        p_values = GENERATOR.uniform(0, 0.1, size).tolist()
        expected = multipletests(p_values, method="holm")[1]
        assert estimates.holm(p_values) == pytest.approx(list(expected))
        assert estimates.holm([*p_values, None])[:-1] == pytest.approx(
            list(multipletests([*p_values, 1.0], method="holm")[1][:-1])
        )
    assert estimates.holm([0.01], arms=4) == [0.04]
    assert estimates.holm([]) == []


@pytest.mark.parametrize("values", VALUES)
def test_smallest_detectable_is_a_power_of_eighty_percent(values: np.ndarray) -> None:
    for alpha in (0.05, 0.05 / 7):
        found = estimates.smallest_detectable(values, alpha)
        assert found is not None
        freedom, shift = len(values) - 1, found / values.std(ddof=1) * math.sqrt(len(values))
        power = stats.nct.sf(stats.t.ppf(1 - alpha / 2, freedom), freedom, shift)
        assert power == pytest.approx(0.8, abs=1e-6)


def test_seeds_needed_is_the_first_number_that_suffices() -> None:
    values = VALUES[2]
    deviation, mean = values.std(ddof=1), values.mean()
    needed = estimates.seeds_needed(values, 1e-5, alpha=0.001)
    assert needed is not None
    power = [TTestPower().power(mean / deviation, len(values) + more, 0.001) for more in (needed - 1, needed)]
    assert power[0] < 0.8 <= power[1]
    narrow = estimates.seeds_needed(
        [-1.0, 1.0, -1.0, 1.0], 0.5
    )  # no effect in sight: equivalence, and only late
    assert narrow is not None and 30 < narrow < 400
    assert estimates.seeds_needed([-1.0, 1.0], 1e-6) is None
    assert estimates.seeds_needed([1.0], 0.5) is None


def below_by_integral(t: float, freedom: int, shift: float) -> float:
    """P(T <= t) of the noncentral t by its definition: a normal value over an independent chi / sqrt(freedom)."""
    width = 12 / math.sqrt(2 * freedom)
    ends = np.unique([0.0, *np.geomspace(1e-6, 0.1, 25), *np.linspace(max(0.1, 1 - width), 1 + width, 1500)])
    nodes, weights = np.polynomial.legendre.leggauss(30)
    half = np.diff(ends)[:, None] / 2
    s = ends[:-1, None] + half * (nodes + 1)
    log_density = (freedom - 1) * np.log(s) - freedom * s**2 / 2
    log_density += math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    return float((half * weights * special.ndtr(t * s - shift) * np.exp(log_density)).sum())


def test_the_power_is_a_number_also_where_scipy_has_none() -> None:
    """scipy's noncentral t is NaN at some noncentralities above 36: power 1, which was read as power 0."""
    missing = 0
    for freedom in (1, 2, 7, 24, 300, 1000, 9999):
        for alpha in (0.05, 0.05 / 9, 0.05 / 24):
            for t in (stats.t.ppf(1 - alpha / 2, freedom), -stats.t.ppf(1 - alpha, freedom)):
                for shift in (0, 0.5, 3, 5, 20, 37, 37.5, 38, 38.5, 39, 45, 1000, -1, -5, -20, -38.5, -1000):
                    missing += math.isnan(special.nctdtr(freedom, shift, t))
                    value = estimates._below(t, freedom, shift)
                    assert value == pytest.approx(below_by_integral(t, freedom, shift), abs=2e-6), (
                        t,
                        freedom,
                        shift,
                    )
    assert missing > 20, "the grid reaches the places that this is about"


@pytest.mark.parametrize("start", [2, 9, 16])
def test_the_first_number_is_that_of_a_linear_scan(start: int) -> None:
    for stop in (start, start + 1, start + 40, start + 2000):
        for answer in {
            start,
            start + 1,
            start + 7,
            start + 8,
            2 * start,
            2 * start + 1,
            stop - 1,
            stop,
            stop + 1,
        }:
            expected = next((n for n in range(start, stop + 1) if n >= answer), None)
            assert estimates._first(lambda n, answer=answer: n >= answer, start, stop) == expected  # type: ignore[misc]
    assert estimates._first(lambda n: True, 5, 4) is None


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 9, 0.05 / 24])
def test_seeds_are_counted_as_a_linear_scan_counts_them(alpha: float) -> None:
    """Of a large effect 'about 1294 more seeds' was asked where 22 do."""
    for ratio in (0.3, 0.5, 0.8, 1.0, 1.5, 3.0, 20.0, 1e6):
        expected = next(
            seeds
            for seeds in range(2, 400)
            if 1
            - below_by_integral(stats.t.ppf(1 - alpha / 2, seeds - 1), seeds - 1, ratio * math.sqrt(seeds))
            >= 0.8
        )
        assert estimates.seeds_to_detect(ratio, 1.0, alpha) == expected, ratio
    assert estimates.seeds_to_detect(0.8, 1.0, 0.05 / 9) == 25


def test_wilson_is_wilson() -> None:
    for successes, trials in ((0, 5), (3, 7), (30, 30)):
        expected = proportion_confint(successes, trials, method="wilson")
        assert estimates.wilson_interval(successes, trials) == pytest.approx(expected)
    assert estimates.wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="6 successes in 5 trials"):
        estimates.wilson_interval(6, 5)


def test_crossed_interval_by_hand() -> None:
    cells = np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 3.6], [1.2, 2.0, 3.7]])
    seeds = 3 * np.var(cells.mean(axis=1), ddof=1)
    problems = 3 * np.var(cells.mean(axis=0), ddof=1)
    error = math.sqrt((seeds + problems) / 9)
    freedom = (seeds + problems) ** 2 / (seeds**2 / 2 + problems**2 / 2)
    half, mean = stats.t.ppf(0.975, freedom) * error, cells.mean()
    assert estimates.crossed_interval(cells) == pytest.approx((mean - half, mean + half))
    alike = np.array([[0.1] * 50, [0.3] * 50, [0.4] * 50]) + np.resize([0.05, -0.05], 50)
    of_these = estimates.t_interval(alike.mean(axis=1))
    assert of_these is not None  # new problems cannot be surer than these
    assert estimates.crossed_interval(alike) == pytest.approx(of_these)
    assert estimates.crossed_interval(cells[:1]) is None
    assert estimates.crossed_interval(cells[:, :1]) is None
    assert estimates.crossed_interval(np.full((3, 4), 0.1)) is None


def test_e_process_by_hand() -> None:
    values, scale = np.array([0.03, -0.01, 0.08]), 0.02
    x = values / scale
    sides = [np.cumprod(np.exp(sign * x) / np.cosh(x)) for sign in (1, -1)]
    assert estimates.e_process(values, scale) == pytest.approx((sides[0] + sides[1]) / 2)
    assert estimates.anytime_p(values, scale) == pytest.approx(min(1, 1 / ((sides[0] + sides[1]) / 2).max()))
    assert estimates.anytime_p([], scale) is None and estimates.anytime_equivalence_p([], 0.1, scale) is None


def test_e_process_never_decides_at_five_seeds() -> None:
    assert estimates.e_process([1e6] * 5, 1.0)[-1] < 20 <= estimates.e_process([1e6] * 6, 1.0)[-1]


def test_area_of_known_curves() -> None:
    assert estimates.area_under_curve([0, 10, 30], [1, 1, 1]) == 1
    assert estimates.area_under_curve([0, 10, 30], [0, 1, 1]) == pytest.approx((5 + 20) / 30)
    for steps in ([0], [0, 0], [2, 1]):
        with pytest.raises(ValueError, match="ascending"):
            estimates.area_under_curve(steps, [1.0] * len(steps))


def test_average_and_pass_at_k() -> None:
    correct = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    average = estimates.average_at_k(correct)
    assert average.value == pytest.approx(7 / 12)
    half = 1.959964 * math.sqrt((0.25 + 0.1875) / 3) / 3
    assert average.decoding == pytest.approx((7 / 12 - half, 7 / 12 + half))
    for k in (1, 2, 4):
        ways = [list(itertools.combinations(row, k)) for row in correct]
        expected = np.mean([np.mean([max(way) for way in row]) for row in ways])
        assert estimates.pass_at_k(correct, k).value == pytest.approx(expected)
    with pytest.raises(ValueError, match="pass@5 needs at least 5 samples"):
        estimates.pass_at_k(correct, 5)
    with pytest.raises(ValueError, match="no samples"):
        estimates.average_at_k(np.zeros((0, 4)))


def test_scores_at_the_edge_keep_an_error_bar() -> None:
    single = estimates.average_at_k([[1], [1], [0]])
    assert single.decoding is None and single.problems == estimates.wilson_interval(2, 3)
    perfect = estimates.average_at_k(np.ones((10, 4)))
    assert perfect.decoding == estimates.wilson_interval(40, 40)
    assert perfect.problems == estimates.wilson_interval(10, 10)
    one = estimates.average_at_k([[1, 0]])
    assert one.problems is None and one.decoding is not None
    never = estimates.pass_at_k(np.zeros((5, 4)), 2)
    assert never.decoding is not None and never.decoding[1] > 0


def test_interquartile_mean_and_its_bootstrap() -> None:
    assert estimates.interquartile_mean([0, 1, 2, 100]) == 1.5
    scores = GENERATOR.normal(size=(10, 4)) * 0.01 + [0.1, 0.5, 0.6, 0.9]
    value, interval = estimates.bootstrap_over_tasks(scores, resamples=200)
    assert interval is not None and interval[0] < value < interval[1] and interval[1] - interval[0] < 0.03
    assert estimates.bootstrap_over_tasks(scores, resamples=200)[1] == interval
    assert estimates.bootstrap_over_tasks(scores[:1])[1] is None
    # The same on every seed: an interval of no width would claim to know the spread.
    assert estimates.bootstrap_over_tasks(np.tile(scores[:1], (5, 1)))[1] is None


def test_tasks_of_one_run_are_drawn_together() -> None:
    """A seed lucky on one task is lucky on all: drawn apart, its luck would cancel and the interval be short."""
    luck = GENERATOR.normal(size=(12, 1)) * 0.05
    scores = np.tile(luck, 4) + 0.5
    alone = estimates.bootstrap_over_tasks(scores[:, :1], np.mean)
    together = estimates.bootstrap_over_tasks(scores, np.mean, together=True)
    apart = estimates.bootstrap_over_tasks(scores, np.mean)
    width = [high - low for low, high in (found[1] for found in (alone, together, apart) if found[1])]
    assert together[0] == pytest.approx(alone[0]) and width[1] == pytest.approx(width[0])
    assert width[2] == pytest.approx(width[0] / 2, rel=0.15), "four runs of their own would say more"


# ------------------------------------------------------------------------------- edges


def test_values_that_are_not_finite_are_refused() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not finite"):
            estimates.t_interval([1.0, bad])


def test_one_seed_and_none_claim_nothing() -> None:
    for values in ([], [0.3]):
        decision = estimates.decide({"arm": values}, 0.02)["arm"]
        assert decision.outcome == "cannot tell"
        assert (decision.p, decision.p_holm, decision.equivalence_p, decision.seeds_needed) == (None,) * 4
        assert estimates.smallest_detectable(values) is None
        assert estimates.t_interval(values) is None
    assert estimates.sign_flip_p([]) is None
    assert estimates.sign_flip_p([0.3]) == 1.0


def test_equal_differences_are_judged_by_their_signs() -> None:
    """No spread is no evidence of precision: three seeds that agree by chance must not give p = 0."""
    assert estimates.decide({"arm": [1 / 30] * 3}, 0.02)["arm"].outcome == "cannot tell"
    assert estimates.paired_p([1 / 30] * 3) == 0.25
    assert estimates.decide({"arm": [1 / 30] * 8}, 0.02)["arm"].outcome == "better"
    assert estimates.paired_p([0.0] * 8) == 1
    assert estimates.decide({"arm": [0.0] * 8}, 0.02)["arm"].outcome == "no difference"
    assert estimates.decide({"arm": [0.0] * 2}, 0.02)["arm"].outcome == "cannot tell"
    assert estimates.spread([0.1 + 0.2, 0.3]) == 0  # rounding is not spread


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([0.10, 0.11, 0.09], "better"),
        ([-0.10, -0.11, -0.09], "worse"),
        ([0.001, -0.001, 0.000], "no difference"),
        ([0.1, -0.1, 0.05], "cannot tell"),
        ([0.0101, 0.0100, 0.0099], "better"),  # smaller than d, and yet surely not 0
    ],
)
def test_verdicts(values: list[float], outcome: str) -> None:
    decision = estimates.decide({"arm": values}, 0.02)["arm"]
    assert decision.outcome == outcome
    assert (decision.seeds_needed is not None) == (outcome == "cannot tell")


def test_more_declared_arms_make_a_verdict_harder() -> None:
    values = [0.10, 0.11, 0.09, 0.07]
    p = estimates.paired_p(values)
    assert p is not None
    assert estimates.decide({"arm": values}, 0.02)["arm"].outcome == "better"
    many = estimates.decide({"arm": values}, 0.02, arms=math.ceil(0.05 / p) + 1)["arm"]
    assert many.outcome == "cannot tell" and many.p == p


@pytest.mark.parametrize("sign", [1, -1])
def test_a_decided_arm_keeps_its_side(sign: int) -> None:
    """p is that of the largest e-value; the mean of a later look must not turn what it was evidence for."""
    values = [sign * 0.045] * 15
    side = "better" if sign > 0 else "worse"
    early = estimates.decide({"arm": values}, 0.01, 0.05, 9, 0.045)["arm"]
    late = estimates.decide({"arm": [*values, -sign * 0.8]}, 0.01, 0.05, 9, 0.045)["arm"]
    assert early.outcome == late.outcome == side and early.p_holm == late.p_holm
    against = estimates.decide({"arm": [*values, *[-sign * 0.045] * 60]}, 0.01, 0.05, 9, 0.045)["arm"]
    assert against.outcome != side and against.p_holm < late.p_holm, "only more evidence turns it"


def test_sequential_verdicts_say_how_many_more() -> None:
    few = estimates.decide({"arm": [0.05] * 4}, 0.02, scale=0.05)["arm"]
    assert few.outcome == "cannot tell" and few.seeds_needed is not None
    more = estimates.decide({"arm": [0.05] * (4 + few.seeds_needed)}, 0.02, scale=0.05)["arm"]
    assert more.outcome == "better"
    before = estimates.decide({"arm": [0.05] * (3 + few.seeds_needed)}, 0.02, scale=0.05)["arm"]
    assert before.outcome == "cannot tell" and before.seeds_needed == 1
    assert estimates.decide({"arm": [0.0] * 60}, 0.05, scale=0.05)["arm"].outcome == "no difference"


def test_evidence_that_grows_slowly_still_grows() -> None:
    """The mean of both sides is half the product of one: an e-value below 1 can be on its way up."""
    pair = [0.06, -0.02]
    assert estimates.e_process(pair * 3, 0.05)[-1] < 1
    needed = estimates.seeds_for_evidence(pair * 3, 0.001, 0.05, 0.05)
    after_pairs = estimates.e_process(pair * 100, 0.05)[1::2]
    assert needed is not None and abs(6 + needed - 2 * (int((after_pairs >= 20).argmax()) + 1)) <= 2
    assert estimates.seeds_for_evidence([0.2, -0.2], 0.001, 0.05, 0.05) is None


# ------------------------------------------------------------------------------- known truth, reduced counts

SIMULATED = {
    statistics_simulation.check_seed_intervals: 300,
    statistics_simulation.check_wilson: 2000,
    statistics_simulation.check_samples: 200,
    statistics_simulation.check_same_method: 200,
    statistics_simulation.check_optional_stopping: 100,
    statistics_simulation.check_equivalence: 300,
    statistics_simulation.check_sign_flip: 400,
    statistics_simulation.check_seeds_needed: 200,
}


@pytest.mark.parametrize("checks", statistics_simulation.CHECKS, ids=lambda checks: checks.__name__)
def test_simulations_with_known_truth(checks: Any) -> None:
    for check in checks(SIMULATED[checks], np.random.default_rng(1)):
        assert check.holds, f"{check.name}: {check.rate:.3f}, bound {check.bound:.3f}"


def test_a_thousand_comparisons_of_a_method_with_itself() -> None:
    generator = np.random.default_rng(2)
    outcomes = [
        estimates.decide({"arm": generator.normal(0, 0.05, 8)}, 0.02)["arm"].outcome for _ in range(1000)
    ]
    assert sum(outcome in ("better", "worse") for outcome in outcomes) <= 73


def test_a_nested_view_of_problems_would_fail() -> None:
    """The simulation can tell a wrong interval: samples taken for independent cover far too rarely."""
    generator, hits = np.random.default_rng(3), 0
    for _ in range(200):
        cells, _ = statistics_simulation.decoded_differences(generator, 3, 30)
        hits += statistics_simulation.covers(estimates.t_interval(cells.ravel()), 0.05)
    assert not statistics_simulation.coverage("naive", hits, 200).holds


def test_the_e_process_decides_when_it_should() -> None:
    generator = np.random.default_rng(4)
    assert 8 <= statistics_simulation.median_seeds(1.0, 300, generator) <= 13


# ------------------------------------------------------------------------------- samples of problems


def test_problems_count_alike_however_many_samples_were_judged() -> None:
    samples = [("b", 1.0), ("a", 0.0), ("b", 0.0), ("a", None), ("c", math.nan), ("b", 1.0)]
    assert estimates.problem_means(samples) == {"b": pytest.approx(2 / 3), "a": 0.0}
    assert list(estimates.problem_means(samples)) == ["b", "a"], "in the order of their first sample"
    assert estimates.over_problems(samples) == pytest.approx(1 / 3)
    table = np.random.default_rng(5).integers(2, size=(9, 4)).astype(float)
    pairs = [(row, value) for row in range(9) for value in table[row]]
    assert estimates.over_problems(pairs) == pytest.approx(table.mean(), rel=1e-12)


def test_where_nothing_was_judged_there_is_no_mean() -> None:
    assert math.isnan(estimates.over_problems([]))
    assert math.isnan(estimates.over_problems([("a", None), ("b", math.nan)]))
    assert estimates.problem_means([("a", None)]) == {}
