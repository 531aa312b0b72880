"""reproduce and train: running experiments."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from harness.commands.records import show
from harness.commands.shared import STOPPED, Bars, Commands, add_server, command, console, say
from harness.engines.base import VLLM, EngineChoice
from harness.errors import ExperimentError
from leaderboards.declaration import BASELINE


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
    added.add_argument(
        "--plan", action="store_true", help="what it costs and whether it fits here; nothing is started"
    )
    added.add_argument("--out", type=Path, help="folder of the runs (default: runs/EXPERIMENT)")
    added.add_argument(
        "--workers",
        type=int,
        help="processes of one thread each (default: 2, 1 on a GPU; with --ray, as many as the cluster has room for)",
    )
    add_server(added)
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
    add_server(added)


def _reproduce(options: argparse.Namespace) -> int:
    from harness import experiment as experiments
    from harness import plan as plans
    from harness import provenance
    from harness.engines import choice
    from harness.sweeps import sweep
    from harness.sweeps.job import Stopped

    provenance.check_versions()
    experiment = experiments.load(
        options.experiment, smoke=options.smoke, until_decided=options.until_decided
    )
    experiments.check(experiment)
    found = plans.plan(experiment)
    if options.plan:
        show_plan(found)
    workers = options.workers
    if workers is None:
        workers = 1 if found.device.kind == "gpu" or options.server else 2
    if options.ray is None:  # a cluster's machines are not this one
        plans.refuse(found, max(1, min(workers, found.runs)), options.server is not None)
    if options.plan:
        return 0
    engine = experiment.engine_choice(options.server)
    choice.check(engine)
    if engine.name == VLLM and options.ray is None and workers > 1 and found.device.kind == "gpu":
        raise ExperimentError(
            f"--workers {workers}: vLLM takes its share of a whole GPU for each run; give --workers 1, or --ray local, "
            "which gives each run a GPU of its own"
        )
    if options.server is not None and (workers > 1 or options.ray is not None):
        raise ExperimentError(
            "--server samples for one run at a time: give --workers 1, and no --ray, with it"
        )
    folder = options.out or Path("runs") / experiment.name
    if "WORLD_SIZE" in os.environ:
        raise ExperimentError("accelerate launch is for one run on several GPUs: give it the command train")
    with Bars(experiment.title) as progress:
        try:
            elsewhere = None
            if options.ray is not None:
                from harness.sweeps.cluster import Cluster

                elsewhere = Cluster(experiment, folder, options.ray, options.gpus, options.workers)
            elif options.gpus is not None:
                raise ExperimentError("--gpus goes with --ray; a sweep here uses the GPU that it finds")
            sweep.reproduce(experiment, folder, workers, progress, None, elsewhere, engine)
        except Stopped:
            progress.stop()
            return say(f"stopped; {folder} is whole: run the same command again, it goes on", STOPPED)
    show(folder, BASELINE)
    return 0


def show_plan(found: Any) -> None:
    """Prints a `harness.plan.Plan`."""
    from rich.table import Table

    from harness import plan as plans

    def size(count: float) -> str:
        return f"{count / plans.GB:,.1f} GB"

    def amount(count: float) -> str:
        unit = next(
            (unit for unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if count >= unit[0]), (1, "")
        )
        return f"{count / unit[0]:.3g}{unit[1]}"

    def hours(seconds: float) -> str:
        return f"{seconds / 3600:,.2f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"

    screen, experiment = console(), found.experiment
    training = experiment.training
    screen.print(f"[bold]{experiment.name}[/bold]  {experiment.title}", highlight=False)
    costs = Table(box=None, show_header=False)
    lines = [
        (
            "policy",
            f"{experiment.policy.name}, {amount(found.shape.parameters)} parameters, {experiment.policy.dtype}",
        ),
        (
            "runs",
            f"{found.runs}: {len(experiment.methods)} arms x {experiment.seeds} seeds, {training.steps} steps each",
        ),
        (
            "rollouts",
            f"{amount(found.rollouts)}, of at most {amount(found.tokens)} tokens; prompts of {found.prompt}",
        ),
        ("evaluation", f"{amount(found.samples)} samples, of at most {amount(found.sampled_tokens)} tokens"),
        ("arithmetic", f"{found.flops:.2g} FLOPs at most"),
        (
            "GPU hours",
            f"{hours(found.gpu_seconds)} at most on {found.gpu.name}, {hours(found.gpu_seconds / found.runs)} a run",
        ),
    ]
    if found.device.kind == "cpu":
        here = f"{hours(found.seconds)} of one thread at most, {found.step_seconds:,.2g} s a step"
        lines.append(("CPU hours", here))
    lines += [
        ("disk, records", f"{size(found.records)} at most"),
        ("disk, policies", f"{size(found.policies)}: the last one of every run"),
        ("disk, checkpoints", f"{size(found.checkpoints)} for each run that is under way"),
    ]
    for name, text in lines:
        costs.add_row(name, text)
    screen.print(costs)
    table = Table(
        box=None, header_style="bold", title=f"Memory of one process, arm {found.arm}", title_justify="left"
    )
    table.add_column("part")
    for name in found.memory:
        table.add_column(name, justify="right")
    for part in found.memory["as declared"]:
        table.add_row(part, *(f"{parts[part] / plans.GB:,.1f}" for parts in found.memory.values()))
    table.add_row(
        "at most, GB",
        *(f"{plans.total(parts) / plans.GB:,.1f}" for parts in found.memory.values()),
        style="bold",
    )
    screen.print(table)
    screen.print(
        f"Estimates. Responses at their longest. GPUs: {plans.UTILISATION:.0%} of the peak in training; decoding "
        f"bound by {plans.BANDWIDTH:.0%} of the bandwidth or by {plans.LAUNCH * 1e3:g} ms a layer. At most: the cache "
        "of sampling or gradients, activations, head and map, beside the rest. "
        f"LoRA of rank {training.lora_rank or plans.RANK}. Here: {found.device.name}, {size(found.device.memory)}.",
        highlight=False,
        style="dim",
    )


def _train(options: argparse.Namespace) -> int:
    from harness import experiment as experiments
    from harness import plan as plans
    from harness import provenance
    from harness.engines import choice
    from harness.sweeps import sweep
    from harness.sweeps.job import Stopped, run_folder

    provenance.check_versions()
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
    plans.refuse(plans.plan(experiment), served=options.server is not None)
    engine = experiment.engine_choice(options.server)
    choice.check(engine)
    folder = options.out or Path("runs") / experiment.name
    stopped = f"stopped; {folder} is whole: run the same command again, it goes on"
    if "WORLD_SIZE" in os.environ:
        first = os.environ["RANK"] == "0"
        if not _train_together(experiment, options.method, options.seed, folder, engine):
            return say(stopped, STOPPED) if first else STOPPED
        if not first:
            return 0
    with Bars(experiment.title) as progress:
        try:
            only = (options.method, options.seed)
            sweep.reproduce(experiment, folder, 1, progress, only, engine=engine)
        except Stopped:
            progress.stop()
            return say(stopped, STOPPED)
    print(run_folder(folder, options.method, options.seed))
    return 0


def _train_together(experiment: Any, method: str, seed: int, folder: Path, engine: EngineChoice) -> bool:
    """Training in this process, one of those that `accelerate launch` started; evaluation is for one alone."""
    from harness.sweeps.job import TRAIN, Job, run_folder
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
            job, steps = Job(TRAIN, method, seed, place), 0

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
            )
        choice.release()
        vllm.close()
        parallel.leave()
    return done
