"""Statistics on plain numbers: intervals, tests and verdicts. No run in sight; `comparison.py` applies them.

Two words are never mixed here. A *training seed* is one whole run; a *sample* is one decoded answer of a
fixed policy. Sources: Miller 2024 (2411.00640), Bowyer et al. 2025 (2503.01747), Agarwal et al. 2021
(2108.13264), Ramdas et al. 2023 (2210.01948), Chen et al. 2021 (2107.03374).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, nctdtr, ndtri, stdtr, stdtrit

Interval = tuple[float, float]
Floats = NDArray[np.float64]

#: The power at which the smallest detectable difference and the seeds still needed are computed.
POWER = 0.8
#: More seeds than this are not counted: nobody will run them.
MOST_SEEDS = 10_000
#: The exact sign-flip test enumerates 2^n flips, in two halves; beyond this n it is not computed.
MOST_FLIPS = 40


def _numbers(values: ArrayLike, dimensions: int = 1) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions:
        raise ValueError(f"expected {dimensions} dimensions, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("a value is not finite")
    return array


def spread(values: ArrayLike) -> float:
    """Standard deviation (n - 1); 0 where the values differ by rounding only, nan for fewer than two."""
    array = _numbers(values)
    if len(array) < 2:
        return math.nan
    deviation = float(array.std(ddof=1))
    return deviation if deviation > 1e-12 * max(1.0, float(np.abs(array).max())) else 0.0


# ------------------------------------------------------------------------------- samples of problems

P = TypeVar("P", bound=Hashable)


def problem_means(samples: Iterable[tuple[P, float | None]]) -> dict[P, float]:
    """The mean of each problem's samples, problems in the order of their first one.

    samples: (problem, value) pairs. A value of None or NaN could not be judged and is left out; a problem of which no
    sample could be judged is left out as well.
    """
    values: dict[P, list[float]] = {}
    for problem, value in samples:
        if value is not None and not math.isnan(value):
            values.setdefault(problem, []).append(value)
    return {problem: math.fsum(judged) / len(judged) for problem, judged in values.items()}


def over_problems(samples: Iterable[tuple[P, float | None]]) -> float:
    """The mean over problems of the mean over each one's samples; NaN where no sample could be judged.

    Problems count alike, however many of their samples could be judged. `samples` as in `problem_means`.
    """
    means = problem_means(samples)
    return math.fsum(means.values()) / len(means) if means else math.nan


# ------------------------------------------------------------------------------- training seeds


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Student's interval of the mean, over training seeds. (n,) -> (low, high).

    None where the values show no spread: one seed, or the same value on every seed. Paired differences as
    `values` give the interval of the estimand "these problems, new training seeds".
    """
    array, deviation = _numbers(values), spread(values)
    if not deviation > 0:
        return None
    half = deviation / math.sqrt(len(array)) * float(stdtrit(len(array) - 1, 0.5 + confidence / 2))
    return float(array.mean()) - half, float(array.mean()) + half


def paired_p(differences: ArrayLike) -> float | None:
    """Two-sided p of "no difference" by Student's t on per-seed differences; None for fewer than two seeds.

    Where all differences are equal there is no spread to judge by: 1 if they are 0, else the exact
    sign-flip p.
    """
    array, deviation = _numbers(differences), spread(differences)
    if len(array) < 2:
        return None
    if deviation == 0:
        return sign_flip_p(array)
    t = float(array.mean()) / (deviation / math.sqrt(len(array)))
    return float(2 * stdtr(len(array) - 1, -abs(t)))


def equivalence_p(differences: ArrayLike, smallest_difference: float) -> float | None:
    """p of "the difference is at least `smallest_difference`, one way or the other": two one-sided t tests.

    None for fewer than two seeds. Where all differences are equal and inside, 2^-n, as a sign test would say.
    """
    array, deviation = _numbers(differences), spread(differences)
    if len(array) < 2:
        return None
    room = smallest_difference - abs(float(array.mean()))
    if deviation == 0:
        return 0.5 ** len(array) if room > 0 else 1.0
    return float(stdtr(len(array) - 1, -room / (deviation / math.sqrt(len(array)))))


def sign_flip_p(differences: ArrayLike) -> float | None:
    """Exact two-sided p of the sign-flip test on the mean difference; None beyond 40 seeds and for none.

    Valid where each difference is symmetric about 0 if the methods are alike; nothing else is assumed. No p
    below `sign_flip_minimum(n)` is reachable.
    """
    array = _numbers(differences)
    if not 0 < len(array) <= MOST_FLIPS:
        return None

    def sums(part: Floats) -> Floats:
        total = np.zeros(1)
        for value in np.abs(part):
            total = np.concatenate([total + value, total - value])
        return np.sort(total)

    half = len(array) // 2
    left, right = sums(array[:half]), sums(array[half:])
    # As extreme as observed, up to rounding: a tie counts.
    reach = abs(float(array.sum())) - 1e-9 * max(float(np.abs(array).sum()), 1e-300)
    if reach <= 0:
        return 1.0
    count = (len(right) - np.searchsorted(right, reach - left, side="left")).sum()
    return min(1.0, 2 * int(count) / 2 ** len(array))


def sign_flip_minimum(seeds: int) -> float:
    """The smallest two-sided p that the sign-flip test can reach with `seeds` seeds: 2 / 2^n."""
    return min(1.0, 2.0 / 2.0**seeds)


def holm(p_values: Sequence[float | None], arms: int | None = None) -> list[float | None]:
    """Holm-adjusted p values. None entries (not tested) and declared `arms` not given count as p = 1."""
    arms = max(arms or 0, len(p_values))
    full = np.array([1.0 if p is None else p for p in p_values])
    order = np.argsort(full, kind="stable")
    steps = np.minimum(1.0, full[order] * (arms - np.arange(len(full))))
    adjusted = np.empty_like(full)
    adjusted[order] = np.maximum.accumulate(steps)
    return [None if p is None else float(q) for p, q in zip(p_values, adjusted, strict=True)]


def _below(t: float, freedom: int, shift: float) -> float:
    """The probability that a noncentral t of noncentrality `shift` is at most `t`.

    scipy answers NaN here and there in the far tails (from a noncentrality of about 36, and for `t` and `shift` of
    unlike signs from 5), where the probability is 0 or 1 to six digits and more: on which side, `shift` and `t` say.
    """
    value = float(nctdtr(freedom, shift, t))
    if math.isnan(value):
        return 0.0 if shift > t else 1.0
    return value


def _power_to_detect(difference: float, deviation: float, seeds: int, alpha: float) -> float:
    t = float(stdtrit(seeds - 1, 1 - alpha / 2))
    return 1.0 - _below(t, seeds - 1, abs(difference) / deviation * math.sqrt(seeds))


def _power_of_equivalence(difference: float, d: float, deviation: float, seeds: int, alpha: float) -> float:
    t = float(stdtrit(seeds - 1, 1 - alpha))
    scale = math.sqrt(seeds) / deviation
    low = _below(t, seeds - 1, (difference + d) * scale)
    high = _below(-t, seeds - 1, (difference - d) * scale)
    return max(0.0, high - low)


def _first(holds: Callable[[int], bool], start: int, stop: int) -> int | None:
    """The first n in [start, stop] for which `holds`, which is false up to it and true from it on; None without one.

    Steps that double reach it from below, so that `holds` is asked close to the answer and not thousands of seeds on.
    """
    if start > stop:
        return None
    low, high = start - 1, start
    while not holds(high):
        if high == stop:
            return None
        low, high = high, min(2 * high, stop)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def smallest_detectable(differences: ArrayLike, alpha: float = 0.05) -> float | None:
    """The true difference that these many seeds with this spread would detect with power 0.8.

    `alpha` is the level of one arm (divide by the number of arms for Holm's first step). None without spread.
    """
    return detectable(spread(differences), len(_numbers(differences)), alpha)


def detectable(deviation: float, seeds: int, alpha: float = 0.05) -> float | None:
    """The true mean difference that the paired t finds with power 0.8, where differences over seeds spread so much.

    deviation: the standard deviation of one seed's difference. `alpha` as in `smallest_detectable`. None for fewer
    than two seeds, and for a deviation that is 0 or not known.
    """
    if not deviation > 0 or seeds < 2:
        return None
    low, high = 0.0, deviation
    while _power_to_detect(high, deviation, seeds, alpha) < POWER:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if _power_to_detect(middle, deviation, seeds, alpha) < POWER:
            low = middle
        else:
            high = middle
    return high


def seeds_to_detect(
    difference: float, deviation: float, alpha: float = 0.05, most: int = MOST_SEEDS
) -> int | None:
    """The first number of seeds at which the paired t finds this true difference with power 0.8.

    Arguments as for `detectable`. None beyond `most` seeds, and for a deviation that is 0 or not known.
    """
    if not deviation > 0:
        return None
    return _first(lambda n: _power_to_detect(difference, deviation, n, alpha) >= POWER, 2, most)


def spread_interval(values: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Interval of the standard deviation of a normal value, from the chi-square of its sample. (n,) -> (low, high).

    None for fewer than two values, and without spread. Wide: with 8 values from 0.66 to 2.04 times the sample's.
    """
    array, deviation = _numbers(values), spread(values)
    if not deviation > 0:
        return None
    freedom = len(array) - 1
    # chdtri takes the probability of what lies above, so that the small one gives the large quantile.
    tails = chdtri(freedom, (1 - confidence) / 2), chdtri(freedom, (1 + confidence) / 2)
    low, high = (deviation * math.sqrt(freedom / float(tail)) for tail in tails)
    return low, high


def seeds_needed(differences: ArrayLike, smallest_difference: float, alpha: float = 0.05) -> int | None:
    """How many more seeds until a verdict can be expected, if mean and spread stay what they are.

    The smallest number at which a difference of this size is detected, or shown to be below
    `smallest_difference`, with power 0.8; and at the latest when the whole interval is narrower than
    `smallest_difference`, for then every outcome is a verdict. `alpha` is the level of one arm. None where
    the spread is unknown (one seed, equal differences), and beyond 10,000 seeds.
    """
    array, deviation = _numbers(differences), spread(differences)
    if not deviation > 0:
        return None
    n, mean, d = len(array), float(array.mean()), smallest_difference

    def half_width(seeds: int) -> float:
        return deviation / math.sqrt(seeds) * float(stdtrit(seeds - 1, 1 - alpha / 2))

    enough = [
        _first(lambda seeds: 2 * half_width(seeds) <= d, n + 1, n + MOST_SEEDS),
        _first(lambda seeds: _power_to_detect(mean, deviation, seeds, alpha) >= POWER, n + 1, n + MOST_SEEDS),
        _first(
            lambda seeds: _power_of_equivalence(mean, d, deviation, seeds, alpha) >= POWER,
            n + 1,
            n + MOST_SEEDS,
        ),
    ]
    reachable = [seeds for seeds in enough if seeds is not None]
    return min(reachable) - n if reachable else None


# ------------------------------------------------------------------------------- sequential testing


def _log_e(values: Floats, scale: float) -> Floats:
    """log of prod exp(l x) / cosh(l x), l = 1 / scale, after each value; one-sided, for x > 0."""
    x = values / scale
    return np.cumsum(x - (np.logaddexp(x, -x) - math.log(2.0)))


def e_process(differences: ArrayLike, scale: float) -> Floats:
    """The symmetric e-process after each seed, in the declared order of the seeds: (n,) -> (n,).

    The mean of prod exp(l x)/cosh(l x) and the same for -x, l = 1/scale. If each difference is symmetric
    about 0 given those before, its expectation stays at most 1, so that it exceeds 1/alpha at any time with
    probability at most alpha (Ville): looking after every seed is allowed. It grows at most by a factor 2 a
    seed. `scale`, the expected size of a difference, must be declared before the first run.
    """
    array = _numbers(differences)
    return np.exp(np.logaddexp(_log_e(array, scale), _log_e(-array, scale)) - math.log(2.0))


def anytime_p(differences: ArrayLike, scale: float) -> float | None:
    """p of "no difference", valid after any number of seeds: 1 over the largest e-value so far."""
    process = e_process(differences, scale)
    return min(1.0, 1.0 / float(process.max())) if len(process) else None


def anytime_sign(differences: ArrayLike, scale: float) -> float:
    """The side that `anytime_p` is evidence for: 1 above 0, -1 below.

    That of the two products which is the larger at the seed of the largest e-value. The mean of all differences would
    not do: one late outlier turns its sign, and leaves the largest e-value where it was.
    """
    array = _numbers(differences)
    above, below = _log_e(array, scale), _log_e(-array, scale)
    largest = int(e_process(array, scale).argmax())
    return 1.0 if above[largest] >= below[largest] else -1.0


def anytime_equivalence_p(differences: ArrayLike, smallest_difference: float, scale: float) -> float | None:
    """p of "at least `smallest_difference` one way or the other", valid after any number of seeds."""
    array = _numbers(differences)
    if not len(array):
        return None
    sides = [_log_e(smallest_difference - sign * array, scale).max() for sign in (1.0, -1.0)]
    return float(min(1.0, math.exp(-min(sides))))


def seeds_for_evidence(
    differences: ArrayLike, smallest_difference: float, scale: float, level: float
) -> int | None:
    """How many more seeds until an e-process reaches 1 / `level` at its present rate.

    The product of one side grows by the same factor with each seed, on average; the mean of both sides, which must
    reach 1 / `level` for better or worse, is half of it. None where neither grows, or too slowly for 10,000 seeds.
    """
    array = _numbers(differences)
    if not len(array):
        return None
    d = smallest_difference
    effect = max(float(_log_e(sign * array, scale)[-1]) for sign in (1.0, -1.0))
    within = min(float(_log_e(d - sign * array, scale)[-1]) for sign in (1.0, -1.0))
    target = -math.log(level)
    needed = [
        math.ceil(len(array) * (goal / log_e - 1) - 1e-9)
        for log_e, goal in ((effect, target + math.log(2.0)), (within, target))
        if log_e > 0
    ]
    return max(1, min(needed)) if needed and min(needed) <= MOST_SEEDS else None


# ------------------------------------------------------------------------------- verdicts

Outcome = Literal["better", "worse", "no difference", "cannot tell"]


@dataclass(frozen=True)
class Decision:
    """The decision on one arm, from its differences; the `_holm` values are adjusted over all arms."""

    outcome: Outcome
    p: float | None
    p_holm: float | None
    equivalence_p: float | None
    equivalence_p_holm: float | None
    seeds_needed: int | None


def decide(
    differences: Mapping[str, ArrayLike],
    smallest_difference: float,
    alpha: float = 0.05,
    arms: int | None = None,
    scale: float | None = None,
) -> dict[str, Decision]:
    """The verdict on every arm, from its per-seed differences to the baseline.

    The paired t decides, Holm-adjusted over all declared `arms`; then equivalence, by two one-sided tests,
    also Holm-adjusted. With a `scale` the tests are those of the e-process instead, valid under optional
    stopping, and the side is that of the largest e-value. A difference may be significant and still smaller
    than `smallest_difference`: it is `better` or `worse`, and `equivalence_p_holm` says the rest.
    """
    arrays = {label: _numbers(values) for label, values in differences.items()}
    if scale is None:
        p = [paired_p(array) for array in arrays.values()]
        same = [equivalence_p(array, smallest_difference) for array in arrays.values()]
    else:
        p = [anytime_p(array, scale) for array in arrays.values()]
        same = [anytime_equivalence_p(array, smallest_difference, scale) for array in arrays.values()]
    count = max(arms or 0, len(arrays))
    decisions = {}
    for (label, array), p_value, p_adjusted, p_same, p_same_adjusted in zip(
        arrays.items(), p, holm(p, count), same, holm(same, count), strict=True
    ):
        needed = None
        outcome: Outcome = "cannot tell"
        if p_adjusted is not None and p_adjusted <= alpha:
            side = float(array.mean()) if scale is None else anytime_sign(array, scale)
            outcome = "better" if side > 0 else "worse"
        elif p_same_adjusted is not None and p_same_adjusted <= alpha:
            outcome = "no difference"
        else:
            needed = (
                seeds_needed(array, smallest_difference, alpha / count)
                if scale is None
                else seeds_for_evidence(array, smallest_difference, scale, alpha / count)
            )
        decisions[label] = Decision(outcome, p_value, p_adjusted, p_same, p_same_adjusted, needed)
    return decisions


# ------------------------------------------------------------------------------- seeds x problems


def crossed_interval(cells: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Interval of the mean of a seeds x problems table, for new seeds and problems. (S, P) -> (low, high).

    SE^2 = (MS_seed + MS_problem) / (S P), Satterthwaite's degrees of freedom; never shorter than Student's
    over seeds, which asks for less (with 3 seeds and 200 problems the former alone covers 92%, not 95%).
    None with fewer than two seeds or problems, or without any spread. Resampling seeds and then problems
    within them is wrong here: every seed meets the same problems.
    """
    table = _numbers(cells, 2)
    seeds, problems = table.shape
    if seeds < 2 or problems < 2:
        return None
    of_seeds = problems * float(table.mean(axis=1).var(ddof=1))
    of_problems = seeds * float(table.mean(axis=0).var(ddof=1))
    total = of_seeds + of_problems
    if total <= 1e-24 * max(1.0, float(np.abs(table).max()) ** 2):
        return None
    freedom = total**2 / (of_seeds**2 / (seeds - 1) + of_problems**2 / (problems - 1))
    half = math.sqrt(total / (seeds * problems)) * float(stdtrit(freedom, 0.5 + confidence / 2))
    of_these = math.sqrt(of_seeds / (seeds * problems)) * float(stdtrit(seeds - 1, 0.5 + confidence / 2))
    half = max(half, of_these)
    mean = float(table.mean())
    return mean - half, mean + half


# ------------------------------------------------------------------------------- samples of one policy


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's interval of a single proportion; (0, 1) without trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if not trials:
        return 0.0, 1.0
    from scipy.stats import binomtest  # a third of a second, which most commands need not wait for

    bounds = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(bounds.low), float(bounds.high)


@dataclass(frozen=True)
class Estimate:
    """A score of one fixed policy with its two error bars: they answer different questions."""

    value: float
    #: These problems, decoded again. None where there is one sample a problem: it cannot be known.
    decoding: Interval | None
    #: New problems of the same kind, decoding noise included. None for one problem.
    problems: Interval | None


def _clip(low: float, high: float) -> Interval:
    return max(0.0, low), min(1.0, high)


def _estimate(scores: Floats, variances: Floats | None, samples: int, confidence: float) -> Estimate:
    value, count = float(scores.mean()), len(scores)
    decoding = None
    if variances is not None:
        error = math.sqrt(float(variances.sum())) / count
        half = error * float(ndtri(0.5 + confidence / 2))
        decoding = _clip(value - half, value + half)
        if not error:  # always right, or never: that is no proof that it stays so
            trials = count * samples
            decoding = wilson_interval(round(value * trials), trials, confidence)
    if count < 2:
        problems = None
    elif np.isin(scores, (0.0, 1.0)).all():
        problems = wilson_interval(round(value * count), count, confidence)
    else:
        # Student's interval with one more problem at 0 and one at 1, in the manner of Agresti and Coull:
        # scores heaped at one end make the plain one too short (77% instead of 95% for pass@8 on 10
        # problems).
        around = t_interval([*scores, 0.0, 1.0], confidence)
        assert around is not None
        problems = _clip(*around)
    return Estimate(value, decoding, problems)


def average_at_k(correct: ArrayLike, confidence: float = 0.95) -> Estimate:
    """avg@k, the mean over problems of the share of correct samples. (problems, k) of 0 and 1 -> Estimate.

    The decoding bar uses the within-problem variance p(1-p)/(k-1) (Miller 2024, section 3.2); the bar over
    problems is Student's on problem means, widened at the ends (Wilson's at k = 1).
    """
    table = _numbers(correct, 2)
    if not table.size:
        raise ValueError(f"no samples: shape {table.shape}")
    means, samples = table.mean(axis=1), table.shape[1]
    variances = means * (1 - means) / (samples - 1) if samples > 1 else None
    return _estimate(means, variances, samples, confidence)


def _pass_chance(samples: int, k: int) -> Floats:
    """The unbiased estimate of pass@k for 0, 1, ..., n correct of n samples: 1 - C(n-c, k) / C(n, k)."""
    return np.array([1.0 - math.comb(samples - c, k) / math.comb(samples, k) for c in range(samples + 1)])


def pass_at_k(correct: ArrayLike, k: int, confidence: float = 0.95) -> Estimate:
    """pass@k by the unbiased estimator of Chen et al. 2021. (problems, n) of 0 and 1, k <= n -> Estimate.

    The decoding bar is the exact variance of the estimator under c ~ Binomial(n, (c + 1/2) / (n + 1)): the
    shift keeps a problem that was never solved from claiming no noise.
    """
    table = _numbers(correct, 2)
    if not table.size:
        raise ValueError(f"no samples: shape {table.shape}")
    samples = table.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples a problem, there are {samples}")
    counts = table.sum(axis=1).astype(int)
    chances = _pass_chance(samples, k)
    variances = None
    if samples > 1:
        from scipy.stats import binom

        weights = binom.pmf(np.arange(samples + 1), samples, ((counts + 0.5) / (samples + 1))[:, None])
        variances = weights @ chances**2 - (weights @ chances) ** 2
    return _estimate(chances[counts], variances, samples, confidence)


# ------------------------------------------------------------------------------- curves and aggregates


def area_under_curve(steps: ArrayLike, values: ArrayLike) -> float:
    """Trapezoid area of `values` over `steps` divided by the range of the steps: the curve's mean height."""
    x, y = _numbers(steps), _numbers(values)
    if len(x) != len(y) or len(x) < 2 or not (np.diff(x) > 0).all():
        raise ValueError("an area needs at least two ascending steps, and one value a step")
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half of all values (rliable's IQM): a quarter is cut off at each end."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.asarray(values, dtype=np.float64).ravel(), 0.25))


def bootstrap_over_tasks(
    scores: ArrayLike,
    statistic: Callable[[Floats], float] = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    together: bool = False,
) -> tuple[float, Interval | None]:
    """A statistic of a seeds x tasks table and its percentile-bootstrap interval over seeds; the tasks are fixed.

    Seeds are drawn anew within each task (stratified, as in rliable): each cell is a run of its own. together: whole
    rows are drawn, for seeds whose one run is evaluated on all tasks; its scores go up and down together, and drawn
    apart they would give too short an interval. None for one seed, and where no task's scores differ between seeds:
    nothing is known of their spread. With fewer than about ten seeds the interval is known to be too short: the paired
    t decides, this one only describes.
    """
    table = _numbers(scores, 2)
    seeds, tasks = table.shape
    value = statistic(table)
    if seeds < 2 or not any(spread(column) > 0 for column in table.T):
        return value, None
    generator = np.random.default_rng(seed)
    rows = generator.integers(seeds, size=(resamples, seeds, 1 if together else tasks))
    draws = [statistic(table[row, np.arange(tasks)]) for row in rows]
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return value, (float(low), float(high))
