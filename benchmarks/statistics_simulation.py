"""The statistics of the leaderboards against simulated runs whose truth is known.

    python benchmarks/statistics_simulation.py [--count 4000] [--output
    benchmarks/results/statistics_simulation.md]

Each check has a bound: coverage of a nominal 95% interval is at least 94% less three Monte Carlo errors,
and a method compared with itself is called better or worse in at most 73 of 1,000 comparisons at alpha 5%
(5% plus about three Monte Carlo errors). The project's tests run the same checks with smaller counts.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
from scipy.stats import binom

from leaderboards import estimates


@dataclass(frozen=True)
class Check:
    """One row of the table: what was simulated, the rate that came out, and the bound that it must keep."""

    name: str
    rate: float
    count: int
    bound: float
    at_least: bool
    note: str = ""

    @property
    def holds(self) -> bool:
        """True if the rate keeps its bound."""
        return self.rate >= self.bound if self.at_least else self.rate <= self.bound


def coverage(name: str, hits: int, count: int, note: str = "") -> Check:
    """A check of an interval's coverage: nominal 95%, at least 94% less three Monte Carlo errors."""
    return Check(name, hits / count, count, 0.94 - 3 * math.sqrt(0.94 * 0.06 / count), True, note)


def false_verdicts(name: str, hits: int, count: int, note: str = "") -> Check:
    """A check of false verdicts at alpha 5%: at most 73 in 1,000, and as close to 5% for other counts."""
    bound = 0.05 + 0.023 * math.sqrt(1000 / count)
    return Check(name, hits / count, count, bound, False, note)


def covers(interval: estimates.Interval | None, truth: float) -> bool:
    """True if the interval contains the truth; no interval covers nothing."""
    return interval is not None and interval[0] <= truth <= interval[1]


def decoded_differences(
    generator: np.random.Generator, seeds: int, problems: int, samples: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy differences of two methods, seeds x problems, and the true effect on each problem.

    Correctness is Bernoulli with chance base[problem] + luck[method, seed] + effect[problem] for the second
    method: all three bounded so that no chance is clipped and the truth is exact. Mean effect of a new
    problem: 0.05.
    """
    base = generator.uniform(0.25, 0.6, problems)
    effect = generator.uniform(-0.1, 0.2, problems)
    luck = generator.uniform(-0.1, 0.1, (2, seeds, 1))
    chance = base + luck + np.stack([np.zeros(problems), effect])[:, None, :]
    scores = generator.binomial(samples, chance) / samples
    return scores[1] - scores[0], effect


def check_seed_intervals(count: int, generator: np.random.Generator) -> Iterator[Check]:
    """Paired t over seeds (these problems) and the crossed interval (new problems too)."""
    for seeds, problems in ((3, 30), (5, 30), (8, 30), (3, 200), (8, 200)):
        paired = crossed = wrong = 0
        for _ in range(count):
            cells, effect = decoded_differences(generator, seeds, problems)
            interval = estimates.t_interval(cells.mean(axis=1))
            paired += covers(interval, float(effect.mean()))
            wrong += covers(interval, 0.05)
            crossed += covers(estimates.crossed_interval(cells), 0.05)
        where = f"{seeds} seeds x {problems} problems"
        yield coverage(f"paired t, these problems, {where}", paired, count)
        note = f"the paired t alone covers the same truth in {wrong / count:.1%}"
        yield coverage(f"crossed interval, new problems too, {where}", crossed, count, note)


def check_wilson(count: int, generator: np.random.Generator) -> Iterator[Check]:
    """Wilson's interval, on average over the proportion; exact sums over the number of successes."""
    for trials in (5, 30, 100):
        chances = generator.uniform(size=count)
        intervals = np.array([estimates.wilson_interval(k, trials) for k in range(trials + 1)])
        weights = binom.pmf(np.arange(trials + 1), trials, chances[:, None])
        inside = (intervals[:, 0] <= chances[:, None]) & (chances[:, None] <= intervals[:, 1])
        rate = float((weights * inside).sum(axis=1).mean())
        yield coverage(f"Wilson, average over p, n = {trials}", round(rate * count), count)


def check_samples(count: int, generator: np.random.Generator) -> Iterator[Check]:
    """avg@k and pass@k: new decodings of these problems, and new problems."""
    for problems, samples in ((30, 16), (30, 4)):
        hits = dict.fromkeys(("avg decoding", "avg problems", "pass decoding", "pass problems"), 0)
        k = samples // 2
        for _ in range(count):
            chance = generator.uniform(size=problems)
            correct = (generator.random((problems, samples)) < chance[:, None]).astype(float)
            average, solved = estimates.average_at_k(correct), estimates.pass_at_k(correct, k)
            hits["avg decoding"] += covers(average.decoding, float(chance.mean()))
            hits["avg problems"] += covers(average.problems, 0.5)
            hits["pass decoding"] += covers(solved.decoding, float((1 - (1 - chance) ** k).mean()))
            hits["pass problems"] += covers(solved.problems, k / (k + 1))
        for name, hit in hits.items():
            kind, bar = name.split()
            metric = f"avg@{samples}" if kind == "avg" else f"pass@{k} of {samples}"
            yield coverage(f"{metric}, {bar} bar, {problems} problems", hit, count)


NOISES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda generator, shape: generator.normal(0, 0.05, shape),
    "heavy tails (t3)": lambda generator, shape: 0.03 * generator.standard_t(3, shape),
    "thirtieths": lambda generator, shape: (
        (generator.binomial(30, 0.5, shape) - generator.binomial(30, 0.5, shape)) / 30
    ),
}


def check_same_method(count: int, generator: np.random.Generator) -> Iterator[Check]:
    """A method against itself: verdicts better or worse are false. With several arms, any false one counts."""
    for noise, draw in NOISES.items():
        for seeds, arms in ((3, 1), (8, 1), (8, 4)):
            wrong = 0
            for _ in range(count):
                shared = draw(generator, (seeds,))
                values = draw(generator, (arms, seeds)) - shared
                found = estimates.decide({str(arm): row for arm, row in enumerate(values)}, 0.02)
                wrong += any(decision.outcome in ("better", "worse") for decision in found.values())
            plural = "s" * (arms > 1)
            yield false_verdicts(
                f"A/A, paired t + Holm, {noise}, {seeds} seeds, {arms} arm{plural}", wrong, count
            )


def check_optional_stopping(count: int, generator: np.random.Generator) -> Iterator[Check]:
    """A method against itself, looked at after every seed up to 30: the e-process may be, the t test may not."""
    for noise, draw in NOISES.items():
        for scale in (0.02, 0.07):
            wrong = peeked = 0
            for _ in range(count):
                values = draw(generator, (30,)) - draw(generator, (30,))
                decision = estimates.decide({"arm": values}, 0.02, scale=scale)["arm"]
                wrong += decision.outcome in ("better", "worse")
                if scale == 0.02:
                    peeked += any((estimates.paired_p(values[:n]) or 0) <= 0.05 for n in range(3, 31))
            note = f"the paired t, looked at as often: {peeked / count:.1%}" if scale == 0.02 else ""
            yield false_verdicts(
                f"A/A, e-process at each of 30 seeds, {noise}, scale {scale}", wrong, count, note
            )


def check_equivalence(count: int, generator: np.random.Generator) -> Iterator[Check]:
    """A true difference of exactly d must not be called "no difference larger than d"."""
    for seeds in (3, 8):
        wrong = sum(
            estimates.decide({"arm": generator.normal(0.05, 0.02, seeds)}, 0.05)["arm"].outcome
            == "no difference"
            for _ in range(count)
        )
        yield false_verdicts(f"equivalence claimed at a true difference of d, {seeds} seeds", wrong, count)
    wrong = sum(
        estimates.decide({"arm": generator.normal(0.05, 0.02, 30)}, 0.05, scale=0.05)["arm"].outcome
        == "no difference"
        for _ in range(count)
    )
    yield false_verdicts("the same by e-process, at each of 30 seeds", wrong, count)


def check_sign_flip(count: int, generator: np.random.Generator) -> Iterator[Check]:
    """The exact sign-flip test of a method against itself."""
    for seeds in (6, 8):
        wrong = sum(
            (estimates.sign_flip_p(generator.standard_t(2, seeds)) or 1) <= 0.05 for _ in range(count)
        )
        yield false_verdicts(f"A/A, sign-flip, heavy tails, {seeds} seeds", wrong, count)


def check_seeds_needed(count: int, generator: np.random.Generator) -> Iterator[Check]:
    """With the seeds that it asks for, a true difference as large as observed is decided about 8 times in 10."""
    decided = asked = 0
    for _ in range(count):
        values = generator.normal(0.03, 0.05, 12)
        more = estimates.seeds_needed(values, 0.02)
        if more is None or estimates.decide({"arm": values}, 0.02)["arm"].seeds_needed is None:
            continue
        asked += 1
        again = generator.normal(values.mean(), values.std(ddof=1), len(values) + more)
        decided += estimates.decide({"arm": again}, 0.02)["arm"].outcome != "cannot tell"
    yield Check(
        "verdict reached with the seeds asked for, if the estimate is true",
        decided / asked,
        asked,
        0.75,
        True,
    )


CHECKS = (
    check_seed_intervals,
    check_wilson,
    check_samples,
    check_same_method,
    check_optional_stopping,
    check_equivalence,
    check_sign_flip,
    check_seeds_needed,
)


def median_seeds(effect: float, count: int, generator: np.random.Generator, cap: int = 200) -> float:
    """Median number of seeds at which the e-process (scale 1 sd) decides a true effect of `effect` sd."""
    paths = [estimates.e_process(generator.normal(effect, 1.0, cap), 1.0) >= 20 for _ in range(count)]
    return float(np.median([int(np.argmax(path)) + 1 if path.any() else cap for path in paths]))


def main() -> int:
    """Run every check, print the table, keep it where asked; 1 if a bound is broken."""
    parser = argparse.ArgumentParser(description="Check the statistics against simulations with known truth.")
    parser.add_argument("--count", type=int, default=4000, help="simulated comparisons a row (default 4000)")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    start = time.perf_counter()
    generator = np.random.default_rng(20260701)
    lines = ["| check | rate | bound | holds | |", "|---|---|---|---|---|"]
    broken = 0
    for check in (row for checks in CHECKS for row in checks(arguments.count, generator)):
        sign = ">=" if check.at_least else "<="
        holds = "yes" if check.holds else "**NO**"
        lines.append(
            f"| {check.name} | {check.rate:.2%} | {sign} {check.bound:.2%} | {holds} | {check.note} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
        broken += not check.holds
    medians = ", ".join(
        f"{median_seeds(effect, min(arguments.count, 4000), generator):g} at an effect of {effect:g} sd"
        for effect in (2.0, 1.0, 0.5)
    )
    text = "\n".join(
        [
            "# The statistics against simulations with known truth",
            "",
            f"{arguments.count} simulated comparisons a row, seed 20260701; {broken} broken bounds.",
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
            f"numpy {np.__version__}, scipy {scipy.__version__}; {time.perf_counter() - start:.0f} s.",
            "",
            *lines,
            "",
            f"Median number of seeds at which the e-process decides (scale 1 sd, alpha 5%): {medians}.",
            "",
        ]
    )
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text, encoding="utf-8")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
