"""experiments, reproduce and train: what can be run, and running it."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import trackers
from harness.commands.records import show
from harness.commands.shared import (
    ARMS,
    EXPERIMENTS,
    STOPPED,
    Bars,
    Commands,
    add_changes,
    add_server,
    at_least,
    closing,
    command,
    console,
    imports,
    of_kind,
    option,
    print_sheets,
    say,
    writable_folder,
)
from harness.engines.base import VLLM, EngineChoice
from harness.errors import ExperimentError
from leaderboards.declaration import BASELINE
from leaderboards.names import hint

if TYPE_CHECKING:
    from harness.experiment import Experiment
    from harness.plan import Plan


def add(commands: Commands) -> None:
    """Adds these commands."""
    _add_reproduce(commands)
    _add_train(commands)
    added = command(
        commands, "experiments", _experiments, "List the experiments, or show what one of them compares."
    )
    name = added.add_argument("name", nargs="?", help="name or .toml file of an experiment")
    of_kind(name, EXPERIMENTS)


def _add_reproduce(commands: Commands) -> None:
    added = command(
        commands,
        "reproduce",
        _reproduce,
        "Train and evaluate every method and seed, and print what came out.",
    )
    add_experiment(added, "two seeds and a few steps, to see that it works", nargs="?", default="decision")
    added.add_argument(
        "--until-decided",
        action="store_true",
        help="add seeds until every method has an outcome; the experiment declares the rule under [until_decided]",
    )
    added.add_argument(
        "--more-seeds",
        type=at_least(0),
        default=0,
        metavar="N",
        help="N seeds more than the experiment declares",
    )
    added.add_argument(
        "--plan", action="store_true", help="what it costs and whether it fits here; nothing is started"
    )
    add_workers(
        added,
        "runs at the same time, of one thread each",
        "; with --ray, as many as the cluster has room for",
    )
    added.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a Ray cluster: HOST:PORT, auto (the one of this machine) or local (started for this)",
    )
    added.add_argument(
        "--gpus",
        type=float,
        metavar="N",
        help="with --ray, GPUs of each run (default: 1 where there are any)",
    )


def _add_train(commands: Commands) -> None:
    added = command(commands, "train", _train, "Train and evaluate one method of an experiment on one seed.")
    add_experiment(added, "a few steps, to see that it works")
    of_kind(added.add_argument("--method", required=True, help="one of the experiment's methods"), ARMS)
    added.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="training seed (default: 0)")


def add_experiment(added: argparse.ArgumentParser, smoke: str, **optional: Any) -> None:
    """The options that both ways of running an experiment take."""
    default = f" (default: {optional['default']})" if optional else ""
    experiment = added.add_argument(
        "experiment", help=f"name or .toml file of an experiment{default}", **optional
    )
    of_kind(experiment, EXPERIMENTS)
    added.add_argument("--smoke", action="store_true", help=smoke)
    added.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="FILE",
        help="a .toml file with more methods to compare, [methods.LABEL]; may be given several times",
    )
    add_changes(added, "training.steps=40")
    added.add_argument("--out", type=Path, help="folder of the runs (default: runs/EXPERIMENT)")
    added.add_argument(
        "--report-to",
        choices=trackers.TRACKERS,
        help="show runs under way in this tracker too; records do not depend on it",
    )
    add_server(added)


def add_workers(added: argparse.ArgumentParser, text: str, otherwise: str = "") -> None:
    """Adds --workers, which `workers_of` reads. otherwise: what more is to be said of its default."""
    added.add_argument(
        "--workers",
        type=at_least(1),
        metavar="N",
        help=f"{text} (default: 2, 1 on a GPU or with --server{otherwise})",
    )


def workers_of(options: argparse.Namespace, costs: Plan) -> int:
    """How many runs are made at the same time: as asked; else 2, or 1 where they would share a GPU or a server."""
    if options.workers is not None:
        return int(options.workers)
    return 1 if costs.device.kind == "gpu" or options.server is not None else 2


# ------------------------------------------------------------------------------------- experiments


def _experiments(options: argparse.Namespace) -> int:
    from harness import experiment as experiments
    from harness import listing

    if options.name is None:
        print_sheets(console(), [listing.listed(experiments.load(name) for name in experiments.names())])
        return 0
    experiment = experiments.load(options.name)
    screen = console()
    screen.print(f"{experiment.name}: {experiment.title}", style="bold", markup=False, highlight=False)
    print_sheets(screen, listing.sheets(experiment))
    closing(None, shlex.join(["flowtracer", "reproduce", options.name, *imports(options), "--plan"]))
    return 0


# ------------------------------------------------------------------------------------- reproduce


def _reproduce(options: argparse.Namespace) -> int:
    from harness import fits
    from harness import plan as plans
    from harness.engines import choice
    from harness.sweeps import sweep
    from harness.sweeps.job import Stopped

    experiment = loaded(options, options.until_decided)
    if BASELINE not in experiment.methods:
        raise ExperimentError(
            f"experiment {experiment.name} has no arm {BASELINE}, which the others are compared with: add "
            f"[methods.{BASELINE}] to it, or train single arms with `flowtracer train`"
        )
    if options.more_seeds and options.until_decided:
        raise ExperimentError(
            f"--more-seeds {options.more_seeds} does not go with --until-decided, which adds seeds by its rule; leave "
            "out one of the two"
        )
    costs = plans.plan(replace(experiment, seeds=experiment.seeds + options.more_seeds))
    engine, workers = experiment.engine_choice(options.server), workers_of(options, costs)
    check_together(options, engine, workers, costs.device.kind)
    if options.plan:
        _show_plan(costs, experiment.hash, options.out or Path("runs") / experiment.name)
    if options.ray is None:  # a cluster's machines are not this one
        fits.refuse(costs, max(1, min(workers, costs.runs)), options.server is not None)
    if options.plan:
        more = ["--until-decided"] * options.until_decided
        more += ["--more-seeds", str(options.more_seeds)] * bool(options.more_seeds)
        closing(None, again(options, options.out, more))
        return 0
    choice.check(engine)
    folder = folder_of(options, experiment)
    with Bars(experiment.title) as progress:
        try:
            elsewhere = None
            if options.ray is not None:
                from harness.sweeps.cluster import Cluster

                elsewhere = Cluster(
                    experiment, folder, options.ray, options.gpus, options.workers, options.report_to
                )
            sweep.reproduce(
                experiment,
                folder,
                workers,
                progress,
                elsewhere=elsewhere,
                engine=engine,
                more_seeds=options.more_seeds,
                report_to=options.report_to,
            )
        except Stopped:
            progress.stop()
            return say(stopped(folder), STOPPED)
    show(folder, BASELINE)
    page = ["flowtracer", "leaderboard", str(folder), "--export", f"{experiment.name}.html"]
    closing(folder, *_in_tracker(options, folder, experiment), shlex.join(page))
    return 0


def check_together(options: argparse.Namespace, engine: EngineChoice, workers: int, device: str) -> None:
    """Raises ExperimentError for options of a sweep that do not go together. It may know no Ray."""
    ray, gpus = (getattr(options, name, None) for name in ("ray", "gpus"))
    if engine.name == VLLM and ray is None and workers > 1 and device == "gpu":
        elsewhere = ", or --ray local, which gives each run a GPU of its own" if "ray" in options else ""
        raise ExperimentError(
            f"--workers {workers}: vLLM takes its share of a whole GPU for each run; give --workers 1{elsewhere}"
        )
    if options.server is not None and (workers > 1 or ray is not None):
        raise ExperimentError(
            "--server samples for one run at a time: give --workers 1, and no --ray, with it"
        )
    if "WORLD_SIZE" in os.environ:
        raise ExperimentError("accelerate launch is for one run on several GPUs: give it the command train")
    if gpus is not None and not gpus >= 0:  # nan too
        raise ExperimentError(
            f"--gpus {gpus:g}: give 0 or more, or leave it out for one GPU a run where there are any"
        )
    if gpus is not None and ray is None:
        raise ExperimentError("--gpus goes with --ray; a sweep here uses the GPU that it finds")


def loaded(options: argparse.Namespace, until_decided: bool = False) -> Experiment:
    """The experiment that is asked for; its tasks and credit methods are there, and so are tested versions."""
    from harness import experiment as experiments
    from harness import provenance

    provenance.check_versions()
    trackers.check(options.report_to, getattr(options, "ray", None) not in (None, "local"))
    experiment = experiments.load(
        options.experiment, options.smoke, until_decided, options.add, options.changes
    )
    experiments.check(experiment)
    return experiment


def again(options: argparse.Namespace, folder: Path | None, more: Sequence[str] = ()) -> str:
    """The line of `reproduce` on what was asked for: with its plug-ins and changes, and run the same way."""
    words = ["flowtracer", "reproduce", options.experiment, *["--smoke"] * options.smoke]
    for name, values in (("--import", options.imports), ("--add", options.add), ("--set", options.changes)):
        words += [word for value in values for word in (name, value)]
    for name in ("server", "workers", "ray", "gpus", "report_to"):
        value = getattr(options, name, None)  # `train` has not all of them
        words += option(name.replace("_", "-"), value) if value is not None else []
    words += ["--out", str(folder)] if folder is not None else []
    return shlex.join([*words, *more])


def folder_of(options: argparse.Namespace, experiment: Experiment) -> Path:
    """Where the runs go. Raises ExperimentError where nothing can be written there."""
    return writable_folder(options.out or Path("runs") / experiment.name)


def stopped(folder: Path) -> str:
    """The line on what Ctrl-C left behind."""
    return f"stopped; {folder} is whole: run the same command again, it goes on"


def _show_plan(costs: Plan, declared: str, folder: Path) -> None:
    """Prints what the whole experiment costs, and how much of it is there. declared: the hash of its runs."""
    from harness import plan as plans

    screen, experiment = console(), costs.experiment
    screen.print(f"{experiment.name}: {experiment.title}", style="bold", markup=False, highlight=False)
    print_sheets(screen, plans.sheets(costs))
    if there := _finished(experiment, declared, folder):
        line = f"{there} of these {costs.runs} runs are finished in {folder}, and are not made again."
        screen.print(line, markup=False, highlight=False)


def _finished(experiment: Experiment, declared: str, folder: Path) -> int:
    """How many runs of the experiment, those under the hash `declared`, are finished in the folder."""
    from leaderboards import read_run

    # By what is there: a mistyped number of seeds may be millions.
    finished = [
        file for label in experiment.methods for file in (folder / label).glob("seed-*/finished.json")
    ]
    manifests = [read_run(file.parent).manifest for file in finished]
    return sum(each.experiment_hash == declared and each.seed < experiment.seeds for each in manifests)


# ------------------------------------------------------------------------------------- train


def _train(options: argparse.Namespace) -> int:
    from harness import fits
    from harness import plan as plans
    from harness.engines import choice
    from harness.sweeps import sweep
    from harness.sweeps.job import Stopped, run_folder

    experiment = loaded(options)
    if options.method not in experiment.methods:
        raise ExperimentError(
            f"experiment {experiment.name} has no method {options.method!r}; "
            f"{hint(options.method, experiment.methods)}"
        )
    if options.seed >= experiment.seeds:
        raise ExperimentError(
            f"--seed {options.seed}: the experiment declares seeds 0 to {experiment.seeds - 1}"
        )
    if "WORLD_SIZE" in os.environ:
        _check_one_process(experiment, options.method)
    costs = plans.plan(experiment, arms=[options.method])
    fits.refuse(costs, served=options.server is not None)
    engine = experiment.engine_choice(options.server)
    choice.check(engine)
    folder = folder_of(options, experiment)
    if "WORLD_SIZE" in os.environ:
        first = os.environ["RANK"] == "0"
        if not _train_together(experiment, options.method, options.seed, folder, engine, options.report_to):
            return say(stopped(folder), STOPPED) if first else STOPPED
        if not first:
            return 0
    with Bars(experiment.title) as progress:
        try:
            only = [(options.method, options.seed)]
            sweep.reproduce(experiment, folder, 1, progress, only, engine=engine, report_to=options.report_to)
        except Stopped:
            progress.stop()
            return say(stopped(folder), STOPPED)
    place = run_folder(folder, options.method, options.seed)
    print(place)
    rest = again(options, folder)
    closing(place, *_in_tracker(options, folder, experiment), rest)
    return 0


def _check_one_process(experiment: Experiment, method: str) -> None:
    """Raises ExperimentError, before anything is written, for what only a run in one process can do."""
    from harness import parallel

    if parallel.processes() > 1 and experiment.training_of(method).turn_every:
        raise ExperimentError(
            f"training.turn_every: the turn of an update is measured in one process, and these are "
            f"{parallel.processes()}; give --set training.turn_every=0"
        )


def _in_tracker(options: argparse.Namespace, folder: Path, experiment: Experiment) -> list[str]:
    """Where the runs are looked at, if they were shown in a tracker."""
    line = trackers.where(options.report_to, folder, experiment.name) if options.report_to else None
    return [line] if line else []


def _train_together(
    experiment: Experiment,
    method: str,
    seed: int,
    folder: Path,
    engine: EngineChoice,
    report_to: str | None,
) -> bool:
    """Training in this process, one of those that `accelerate launch` started; evaluation is for one process."""
    from harness.sweeps.job import Job, run_folder
    from harness.sweeps.processes import environment, quiet
    from harness.sweeps.sweep import claim

    with environment():
        import torch

        from harness import parallel
        from harness.engines import choice, vllm
        from harness.runs import run

        torch.set_num_threads(1)
        quiet()
        if parallel.first():
            claim(experiment, folder)
        place = run_folder(folder, method, seed)
        with (
            Bars(f"{experiment.title}, on {parallel.processes()} processes") as progress,
            parallel.Signals() as stop,
        ):
            job, steps = Job(method, seed, place), 0

            def report(_: str, done: int, total: int) -> None:
                nonlocal steps
                progress.advance(job, done - steps)
                steps = done

            if parallel.first():
                progress.begin(experiment.training.steps, 0)
            done = run.train(
                experiment,
                method,
                seed,
                place,
                report if parallel.first() else lambda *_: None,
                lambda: stop.asked,
                engine,
                report_to,
            )
        choice.release()
        vllm.close()
        parallel.leave()
    return done
