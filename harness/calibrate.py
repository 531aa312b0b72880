"""Calibration of a testbed by uniform and oracles: `python -m harness.calibrate FILE --set learning_rate=4e-4`.

Runs the arms of an experiment on training seeds that no comparison uses (100 and on) with some of its training
settings changed, and prints each seed's mean training reward, what uniform learnt, and how many standard errors each
arm stands above uniform. Keep to uniform and oracles: a testbed that was tuned while flow was watched says nothing of
flow.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import experiment as experiments
from harness.errors import ExperimentError
from harness.experiment import Experiment
from harness.runs import run
from leaderboards import read_run
from leaderboards.names import hint

FIRST_SEED = 100
#: An experiment is calibrated by these and by nothing else.
ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "uniform": ("uniform", {}),
    "oracle_3": ("oracle", {"gamma": 3.0}),
    "oracle_10": ("oracle", {"gamma": 10.0}),
    "shuffled_oracle_10": ("shuffled_oracle", {"gamma": 10.0}),
}
#: The gain of uniform is read off this share of the steps at either end.
ENDS = 0.1


def changed(source: str, arms: Sequence[str], settings: Mapping[str, Any]) -> Experiment:
    """The experiment `source` with only `arms` (of ARMS) and other training settings."""
    built = experiments.load(source)
    methods = {arm: {"credit": ARMS[arm][0], **ARMS[arm][1]} for arm in arms}
    training = dataclasses.replace(
        built.training, **settings, save_every=settings.get("steps", built.training.steps)
    )
    return dataclasses.replace(built, methods=methods, training=training)


def rewards(experiment: Experiment, arm: str, seed: int) -> list[float]:
    """Mean reward of every training step of one run, which is thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run.train(experiment, arm, seed, folder)
        table = read_run(folder).table("rollouts")
        steps = table["step"].to_pylist()
        earned: dict[int, list[float]] = {}
        for step, reward in zip(steps, table["reward"].to_pylist(), strict=True):
            earned.setdefault(step, []).append(reward)
    return [statistics.fmean(earned[step]) for step in sorted(earned)]


def learnt(curve: Sequence[float]) -> float:
    """Mean reward of the last tenth of the steps, minus that of the first."""
    part = max(1, round(len(curve) * ENDS))
    return statistics.fmean(curve[-part:]) - statistics.fmean(curve[:part])


def summary(curves: Mapping[str, Mapping[int, Sequence[float]]]) -> list[str]:
    """A line for each arm: mean reward over the run, gain over it, difference to uniform in standard errors."""
    lines = []
    for arm, by_seed in curves.items():
        means = {seed: statistics.fmean(curve) for seed, curve in by_seed.items()}
        gain = statistics.fmean(map(learnt, by_seed.values()))
        line = f"{arm}: area {statistics.fmean(means.values()):.4f}, learnt {gain:+.3f}"
        if arm != "uniform" and "uniform" in curves and len(means) > 1:
            paired = [mean - statistics.fmean(curves["uniform"][seed]) for seed, mean in means.items()]
            difference, error = statistics.fmean(paired), statistics.stdev(paired) / len(paired) ** 0.5
            each = " ".join(f"{number:+.3f}" for number in paired)
            ratio = f"{difference / error:.1f} standard errors" if error else "no spread over seeds"
            line += f", minus uniform {difference:+.4f} = {ratio} ({each})"
        lines.append(line)
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; prints a line for each run, then the summary."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.calibrate", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("experiment", metavar="FILE", help="an experiment's name or file")
    parser.add_argument(
        "--arms", default="uniform,oracle_10", help=f"of {', '.join(ARMS)} (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, default=8, help="how many, from --first on (default: %(default)s)"
    )
    parser.add_argument(
        "--first",
        type=int,
        default=FIRST_SEED,
        help="the first seed; a second set of seeds tells luck of the choice from what holds (default: %(default)s)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=NUMBER", help="a training setting"
    )
    options = parser.parse_args(arguments)
    try:
        arms = options.arms.split(",")
        if unknown := [arm for arm in arms if arm not in ARMS]:
            raise ExperimentError(f"no arm {unknown[0]!r} calibrates; {hint(unknown[0], ARMS)}")
        if options.seeds < 1:
            raise ExperimentError(f"--seeds must be at least 1, not {options.seeds}")
        if options.first < FIRST_SEED:
            raise ExperimentError(
                f"--first {options.first}: comparisons use the seeds below {FIRST_SEED}; calibrate on others"
            )
        settings = {}
        for pair in options.set:
            name, _, number = pair.partition("=")
            settings[name] = int(number) if number.isdigit() else float(number)
        experiment = changed(options.experiment, arms, settings)
    except (ExperimentError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    curves: dict[str, dict[int, list[float]]] = {arm: {} for arm in arms}
    for seed in range(options.first, options.first + options.seeds):
        for arm in arms:
            curves[arm][seed] = curve = rewards(experiment, arm, seed)
            print(
                f"seed {seed} {arm}: area {statistics.fmean(curve):.4f}, learnt {learnt(curve):+.3f}",
                flush=True,
            )
    print("\n".join(summary(curves)))


if __name__ == "__main__":
    main()
