"""Watching recorded runs while they are made: a table on a terminal, a line a minute anywhere else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ExperimentError

if TYPE_CHECKING:
    from leaderboards.sheets import Sheet

#: Seconds between two looks at a folder that grows, and between two lines where the output is no terminal.
TICK, MINUTE = 1.0, 60.0


@dataclass(frozen=True)
class Going:
    """A run under way. step: steps that are done. difference: its mean reward minus that of the baseline's run of the
    same seed, over the first `shared` steps, which both have; NaN where there are none.
    """

    method: str
    seed: int
    step: int
    steps: int
    reward: float
    shared: int
    difference: float


@dataclass(frozen=True)
class State:
    """How far recorded sweeps are. steps: training steps that are done, of `whole_steps` that were declared."""

    finished: int
    whole: int
    steps: int
    whole_steps: int
    going: tuple[Going, ...]


class Curves:
    """Rewards by step of runs that grow; each part of a record is read once."""

    def __init__(self) -> None:
        self.rewards: dict[Path, dict[int, float]] = {}

    def of(self, run: Any) -> dict[int, float]:
        """Training step to mean reward, of a finished run or of one under way."""
        known = self.rewards.setdefault(run.folder, {})
        if run.finished and len(known) < run.manifest.experiment["training"]["steps"]:
            table = run.table("steps", ["step", "reward"]).to_pydict()
            known.update(zip(table["step"], table["reward"], strict=True))
        elif not run.finished:
            for step in run.step_numbers("steps"):
                if step not in known:
                    known[step] = run.table("steps", ["reward"], step)["reward"][0].as_py()
        return known


def state(runs: Sequence[Any], baseline: str, curves: Curves) -> State:
    """How far the runs of one or more sweeps are. curves: what was read of them before."""
    experiments = {run.manifest.experiment_hash: run.manifest.experiment for run in runs}
    for run in runs:  # arms that were added, and seeds beyond the declared ones, count too
        known = experiments[run.manifest.experiment_hash]
        if len(run.manifest.experiment["methods"]) > len(known["methods"]):
            experiments[run.manifest.experiment_hash] = run.manifest.experiment
    whole = whole_steps = 0
    for key, experiment in experiments.items():
        ours = [run for run in runs if run.manifest.experiment_hash == key]
        count = max(experiment["seeds"] * len(experiment["methods"]), len(ours))
        whole += count
        whole_steps += count * experiment["training"]["steps"]
    base = {(run.manifest.experiment_hash, run.seed): run for run in runs if run.method == baseline}
    going = []
    steps = 0
    for run in runs:
        if run.finished:
            steps += run.manifest.experiment["training"]["steps"]
            continue
        theirs = base.get((run.manifest.experiment_hash, run.seed))
        going.append(_going(run, None if theirs is run else theirs, curves))
        steps += going[-1].step
    return State(len(runs) - len(going), whole, steps, whole_steps, tuple(going))


def _going(run: Any, base: Any, curves: Curves) -> Going:
    ours = curves.of(run)
    theirs = {} if base is None else curves.of(base)
    shared = sorted(ours.keys() & theirs.keys())
    difference = _mean([ours[step] - theirs[step] for step in shared])
    steps = run.manifest.experiment["training"]["steps"]
    return Going(run.method, run.seed, len(ours), steps, _mean(list(ours.values())), len(shared), difference)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


class Clock:
    """The time that is left, from the steps done since the watching began."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.began: tuple[float, int] | None = None

    def left(self, progress: State) -> float:
        """Seconds; NaN before the first step. A folder that grows no more has no end in sight."""
        if self.began is None:
            self.began = (self.now(), progress.steps)
        passed, done = self.now() - self.began[0], progress.steps - self.began[1]
        return (progress.whole_steps - progress.steps) * passed / done if done > 0 else math.nan


def line(progress: State, left: float) -> str:
    """The state in a line: counts, runs under way against the baseline, and the time that is left."""
    from leaderboards.sheets import seconds

    parts = [
        f"{progress.finished} of {progress.whole} runs finished, {progress.steps} of {progress.whole_steps} steps",
        *(
            f"{run.method} seed {run.seed} at step {run.step}"
            + (f" ({run.difference:+.3f} over {run.shared} steps)" if run.shared else "")
            for run in progress.going
        ),
    ]
    if math.isfinite(left) and progress.steps < progress.whole_steps:
        parts.append(f"about {seconds(left)} left")
    return "; ".join(parts)


def sheet(progress: State, baseline: str) -> Sheet:
    """The runs under way, each against the baseline's run of its seed at the same step."""
    from leaderboards.sheets import NOTHING, Sheet

    rows = tuple(
        (
            run.method,
            str(run.seed),
            f"{run.step} of {run.steps}",
            _number(run.reward),
            _number(run.difference, "+"),
            str(run.shared) if run.shared else NOTHING,
        )
        for run in progress.going
    )
    note = (
        f"reward: mean over the steps that are done. difference: from {baseline} on the same seed, over the steps that "
        "both have. A run under way decides nothing."
    )
    columns = ("method", "seed", "step", "reward", "difference", "over steps")
    return Sheet("Under way", columns, rows, note)


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if math.isfinite(value) else "-"


def is_csv(place: Path) -> bool:
    """True for a file of values, as opposed to a folder of recorded runs."""
    return place.suffix.lower() == ".csv" and not place.is_dir()


def watch(screen: Any, folders: Sequence[Path], baseline: str, board: Callable[[], Any]) -> None:
    """Shows recorded runs while they are made, until Ctrl-C; into a file or a pipe, until all are finished.

    board: draws what finished runs say.
    """
    if any(map(is_csv, folders)):
        raise ExperimentError("--watch is for folders of runs that are being recorded, not for CSV files")
    if screen.is_terminal:
        _drawn(screen, folders, baseline, board)
    else:
        _listed(screen, folders, baseline, board)


def _runs(folders: Sequence[Path]) -> list[Any]:
    from leaderboards import load

    return [run for folder in folders for run in load(folder)]


def _drawn(screen: Any, folders: Sequence[Path], baseline: str, board: Callable[[], Any]) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from leaderboards import RecordError
    from leaderboards.sheets import render

    curves, clock = Curves(), Clock()
    seen: Any = None
    shown: Any = Text("no finished run yet")
    under_way: Any = Text("")
    try:
        with Live(console=screen, auto_refresh=False, transient=True) as live:
            while True:
                try:
                    runs = _runs(folders)
                    progress = state(runs, baseline, curves)
                    words = line(progress, clock.left(progress))
                    under_way = (
                        render([sheet(progress, baseline)], screen.width) if progress.going else Text("")
                    )
                    now = ([(run.folder, run.finished) for run in runs], screen.width)
                    if now != seen:
                        shown = board()
                        seen = now
                except (RecordError, ExperimentError) as error:
                    words = str(error)  # a sweep that has only begun, or a file that is just being replaced
                head = Text(f"{words}; Ctrl-C ends this", style="dim")
                live.update(Group(head, under_way, shown), refresh=True)
                time.sleep(TICK)
    except KeyboardInterrupt:
        screen.print(shown)


def _listed(screen: Any, folders: Sequence[Path], baseline: str, board: Callable[[], Any]) -> None:
    from leaderboards import RecordError

    curves, clock = Curves(), Clock()
    while True:
        done = False
        try:
            progress = state(_runs(folders), baseline, curves)
            words, done = line(progress, clock.left(progress)), progress.finished == progress.whole
        except (RecordError, ExperimentError) as error:
            words = str(error)
        print(f"{time.strftime('%H:%M:%S')}  {words}", flush=True)
        if done:
            screen.print(board())
            return
        time.sleep(MINUTE)
