"""noise: the spread over seeds of one arm, and which difference a comparison could find, before it is paid for."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.experiments import (
    add_experiment,
    add_workers,
    again,
    check_together,
    folder_of,
    loaded,
    stopped,
    workers_of,
)
from harness.commands.shared import (
    ARMS,
    STOPPED,
    Bars,
    Commands,
    add_export,
    at_least,
    closing,
    command,
    console,
    of_kind,
    print_sheets,
    say,
    write,
)
from harness.errors import ExperimentError
from leaderboards.declaration import BASELINE
from leaderboards.names import hint

if TYPE_CHECKING:
    from harness.experiment import Experiment

FORMATS = (".svg", ".json", ".md")


def add(commands: Commands) -> None:
    """Adds this command."""
    added = command(
        commands,
        "noise",
        _noise,
        "Say how much one arm differs from seed to seed, and which difference so many seeds could find.",
    )
    add_experiment(added, "a few steps, to see that it works; its spread is not that of the experiment")
    arm = added.add_argument(
        "--arm", default=BASELINE, help=f"the method whose finished runs are read (default: {BASELINE})"
    )
    of_kind(arm, ARMS)
    added.add_argument(
        "--seeds",
        type=at_least(2),
        metavar="N",
        help="first train N seeds of it (default: only read what is there); `reproduce` goes on from them",
    )
    add_workers(added, "runs of --seeds at the same time")
    add_export(added, FORMATS, "also draw or write it to")


def _noise(options: argparse.Namespace) -> int:
    from leaderboards import noise

    experiment = loaded(options)
    if options.arm not in experiment.methods:
        raise ExperimentError(
            f"experiment {experiment.name} has no arm {options.arm!r}; {hint(options.arm, experiment.methods)}"
        )
    if options.seeds is not None:
        folder = folder_of(options, experiment)
        if not _trained(options, experiment, folder):
            return say(stopped(folder), STOPPED)
    else:
        _check_nothing_asked_of_training(options)
        folder = options.out or Path("runs") / experiment.name
    runs = _finished(experiment, options.arm, folder)
    # Arms that are compared, each with the baseline.
    arms = len(experiment.methods) - (BASELINE in experiment.methods)
    spread = noise.noise_of(runs, options.arm, experiment.declaration, arms, experiment.seeds)
    screen = console()
    screen.print(f"{experiment.name}: {experiment.title}", style="bold", markup=False, highlight=False)
    print_sheets(screen, noise.sheets(spread))
    for path in options.export:
        write(path, _page(path, spread, f"{experiment.name}: noise of {options.arm} over seeds"))
    closing(folder, again(options, folder))
    return 0


def _check_nothing_asked_of_training(options: argparse.Namespace) -> None:
    """Raises ExperimentError for options of a training where finished runs are only read."""
    for name in ("workers", "report_to", "server"):
        if getattr(options, name) is not None:
            raise ExperimentError(
                f"--{name.replace('_', '-')} goes with --seeds N, which trains; finished runs are only read"
            )


def _page(path: Path, spread: Any, title: str) -> str:
    from leaderboards import noise
    from leaderboards.sheets import page_to_markdown, plain

    if path.suffix == ".svg":
        return noise.to_svg(spread, title)
    if path.suffix == ".md":
        return page_to_markdown(title, [], noise.sheets(spread))
    return json.dumps(plain(asdict(spread)), indent=1) + "\n"


def _trained(options: argparse.Namespace, experiment: Experiment, folder: Path) -> bool:
    """Brings the first seeds of the arm to their end. False if stopped."""
    from harness import fits
    from harness import plan as plans
    from harness.engines import choice
    from harness.sweeps import sweep
    from harness.sweeps.job import Stopped

    costs = plans.plan(experiment, arms=[options.arm])
    workers = workers_of(options, costs)
    fits.refuse(costs, min(workers, options.seeds), options.server is not None)
    engine = experiment.engine_choice(options.server)
    choice.check(engine)
    check_together(options, engine, workers, costs.device.kind)
    only = [(options.arm, seed) for seed in range(options.seeds)]
    with Bars(f"{options.seeds} seeds of {options.arm} of {experiment.name}") as progress:
        try:
            sweep.reproduce(
                experiment, folder, workers, progress, only, engine=engine, report_to=options.report_to
            )
        except Stopped:
            progress.stop()
            return False
    return True


def _finished(experiment: Experiment, arm: str, folder: Path) -> list[Any]:
    """The finished runs of the experiment in the folder. Raises ExperimentError for fewer than two of the arm."""
    from harness.sameness import check_arm, differing
    from leaderboards import load

    runs = load(folder) if any(folder.rglob("manifest.json")) else []
    ours = [run for run in runs if run.manifest.experiment_hash == experiment.hash and run.finished]
    count = sum(run.method == arm for run in ours)
    if count < 2:
        others = [run for run in runs if run.manifest.experiment_hash != experiment.hash]
        why = ""
        if others:
            changes = differing(others[0].manifest.experiment, experiment.resolved())
            why = f"; those of {others[0].manifest.name} are of another experiment ({', '.join(changes[:4])})"
        raise ExperimentError(
            f"{folder} holds {count} finished runs of {arm} of {experiment.name}, and a spread takes two{why}: give "
            f"another folder with --out, or --seeds {experiment.seeds}, which makes them"
        )
    for run in ours:
        if run.method == arm:
            check_arm(experiment, arm, run.manifest, run.folder)
    return ours
