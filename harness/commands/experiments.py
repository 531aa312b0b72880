"""reproduce and train: running experiments."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.records import show
from harness.commands.shared import STOPPED, Bars, Commands, command, say
from harness.errors import ExperimentError


def add(commands: Commands) -> None:
    """Adds these commands."""
    added = command(
        commands,
        "reproduce",
        _reproduce,
        "Train and evaluate every method and seed, and print what came out.",
    )
    added.add_argument(
        "experiment",
        nargs="?",
        default="decision",
        help="name or .toml file of an experiment (default: decision)",
    )
    added.add_argument("--smoke", action="store_true", help="two seeds and a few steps, to see that it works")
    added.add_argument(
        "--until-decided",
        action="store_true",
        help="seed after seed until every method has a verdict, as the experiment declares under [until_decided]",
    )
    added.add_argument("--out", type=Path, help="folder of the runs (default: runs/EXPERIMENT)")
    added.add_argument(
        "--workers",
        type=int,
        help="processes of one thread each (default: 2; with --ray, as many as the cluster has room for)",
    )
    added.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a Ray cluster: HOST:PORT, auto (the one of this machine) or local (started for this)",
    )
    added.add_argument(
        "--gpus", type=float, metavar="N", help="with --ray, of each run (default: 1 where there are any)"
    )

    added = command(commands, "train", _train, "Train and evaluate one method of an experiment on one seed.")
    added.add_argument("experiment", help="name or .toml file of an experiment")
    added.add_argument("--method", required=True, help="one of the experiment's methods")
    added.add_argument("--seed", type=int, default=0, help="training seed (default: 0)")
    added.add_argument("--smoke", action="store_true", help="a few steps, to see that it works")
    added.add_argument("--out", type=Path, help="folder of the runs (default: runs/EXPERIMENT)")


def _reproduce(options: argparse.Namespace) -> int:
    from harness import experiment as experiments
    from harness import sweep

    experiment = experiments.load(
        options.experiment, smoke=options.smoke, until_decided=options.until_decided
    )
    experiments.check(experiment)
    folder = options.out or Path("runs") / experiment.name
    with Bars(experiment.title) as progress:
        try:
            elsewhere = None
            if options.ray is not None:
                from harness.cluster import Cluster

                elsewhere = Cluster(experiment, folder, options.ray, options.gpus, options.workers)
            elif options.gpus is not None:
                raise ExperimentError("--gpus goes with --ray; a sweep here uses the GPU that it finds")
            workers = 2 if options.workers is None else options.workers
            sweep.reproduce(experiment, folder, workers, progress, elsewhere=elsewhere)
        except sweep.Stopped:
            progress.stop()
            return say(f"stopped; {folder} is whole: run the same command again, it goes on", STOPPED)
    show(folder, experiments.BASELINE)
    return 0


def _train(options: argparse.Namespace) -> int:
    from harness import experiment as experiments
    from harness import sweep

    experiment = experiments.load(options.experiment, smoke=options.smoke)
    experiments.check(experiment)
    if options.method not in experiment.methods:
        known = ", ".join(experiment.methods)
        raise ExperimentError(
            f"experiment {experiment.name} has no method {options.method!r}; it has: {known}"
        )
    if not 0 <= options.seed < experiment.seeds:
        raise ExperimentError(
            f"--seed {options.seed}: the experiment declares seeds 0 to {experiment.seeds - 1}"
        )
    folder = options.out or Path("runs") / experiment.name
    with Bars(experiment.title) as progress:
        try:
            sweep.reproduce(experiment, folder, 1, progress, only=(options.method, options.seed))
        except sweep.Stopped:
            progress.stop()
            return say(f"stopped; {folder} is whole: run the same command again, it goes on", STOPPED)
    print(sweep.run_folder(folder, options.method, options.seed))
    return 0
