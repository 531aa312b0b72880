"""Trackers: the curves of runs in Trackio, Weights & Biases or TensorBoard, beside their records.

A tracker only shows. Whatever it holds is in the record too, and no result is read from it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import ExperimentError
from harness.journal import whole_lines

if TYPE_CHECKING:
    from harness.experiment import Experiment

TRACKIO, WANDB, TENSORBOARD = TRACKERS = ("trackio", "wandb", "tensorboard")
#: The project in Weights & Biases, where WANDB_PROJECT names no other.
PROJECT = "flowtracer"
#: The file in a run's folder that holds its id in Weights & Biases.
WANDB_ID = "wandb.id"
#: The file in a run's folder that holds the points that Weights & Biases was given, a JSON line each.
WANDB_POINTS = "wandb.jsonl"
#: Values of WANDB_MODE with which runs are kept here, for `wandb sync`. With `disabled` nothing is kept at all.
_OFFLINE = ("offline", "dryrun")
#: A process that says by its status who is logged in: 0 somebody, 1 nobody, 3 it does not import.
_ASK_WANDB = """
import sys
try:
    import wandb
except Exception as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(3)
wandb.login(verify=False)
"""


@dataclass(frozen=True)
class Tracked:
    """The run that a tracker shows. config: every resolved option, as plain values."""

    experiment: str
    name: str
    folder: Path
    config: Mapping[str, Any]


class Tracker(Protocol):
    """One run in a tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds points at an optimizer step."""

    def close(self) -> None:
        """Sends what is left, and ends the run there."""


def check(name: str | None, cluster: bool = False) -> None:
    """Raises ExperimentError where the tracker is not installed, broken, or its user not logged in; None needs nothing.

    cluster: whether runs are made on other machines.
    """
    if name is None:
        return
    if find_spec(name) is None:
        raise ExperimentError(
            f"--report-to {name}: {name} is not installed: pip install 'flowtracer[{name}]', or {name} by itself"
        )
    if name == WANDB and not _wandb_login():
        raise ExperimentError(
            "--report-to wandb: nobody is logged in to Weights & Biases: run `wandb login`, set WANDB_API_KEY, or set "
            "WANDB_MODE=offline to keep runs here"
        )
    remote = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
    if name == TRACKIO and cluster and not remote:
        raise ExperimentError(
            "--report-to trackio with --ray: each machine would keep its runs to itself; set TRACKIO_SERVER_URL or "
            "TRACKIO_SPACE_ID, or take another tracker"
        )
    if name == TRACKIO and os.environ.get("TRACKIO_SPACE_ID"):
        from huggingface_hub import get_token

        if get_token() is None:
            raise ExperimentError(
                "--report-to trackio: TRACKIO_SPACE_ID is set and nobody is logged in to the hub: run `hf auth login`, "
                "or unset it to keep runs here"
            )


def _wandb_login() -> bool:
    """True where Weights & Biases would not ask who one is. Raises ExperimentError where it does not import.

    Its settings, hosts and files are its own. So it is asked, in a process without a terminal: there it raises instead
    of asking back.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in (*_OFFLINE, "disabled"):
        return True
    command = [sys.executable, "-P", "-c", _ASK_WANDB]
    asked = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if asked.returncode in (0, 1):  # 1: it raised
        return asked.returncode == 0
    said = (asked.stderr.strip().splitlines() or [f"its process ended with {asked.returncode}"])[-1]
    raise ExperimentError(
        f"--report-to wandb: wandb is installed and does not import: {said}; install it anew, or leave --report-to out"
    )


def where(name: str, folder: Path, experiment: str) -> str | None:
    """How a sweep's runs are looked at in the tracker: a command, or a place; None where it holds nothing of them."""
    if name == TENSORBOARD:
        return f"tensorboard --logdir {shlex.quote(str(folder))}"
    if name == TRACKIO:
        return f"trackio show --project {shlex.quote(experiment)}"
    mode = os.environ.get("WANDB_MODE")
    if mode == "disabled":
        return None
    if mode in _OFFLINE:
        return f"wandb sync {shlex.quote(str(folder))}/*/*/wandb/offline-run-*"
    return f"project {os.environ.get('WANDB_PROJECT') or PROJECT} of Weights & Biases, group {experiment}"


def tracked(experiment: Experiment, label: str, seed: int, folder: Path) -> Tracked:
    """A run of the experiment, with its arm resolved."""
    from harness.experiment import task_of
    from harness.provenance import credit_of
    from harness.sameness import method_of

    method = credit_of(method_of(experiment, label))
    shared = experiment.resolved()
    copied = ("policy", "task", "evaluation", "declaration", "engine")
    config = {
        "experiment": experiment.name,
        "experiment_hash": experiment.hash,
        "arm": label,
        "seed": seed,
        "credit": method["name"],
        "credit_options": method["options"],
        "credit_task": task_of(experiment.task).name,
        "training": asdict(experiment.training_of(label)),
        **{key: shared[key] for key in copied},
    }
    plain = json.loads(json.dumps(config, default=str))
    return Tracked(experiment.name, f"{label} seed {seed}", folder, plain)


def opened(name: str, run: Tracked, resumed: bool, after: int | None = None) -> Tracker:
    """The run in the tracker called `name`.

    resumed: it was there before. after: the last step whose points stay; later ones are written anew. Raises
    ExperimentError where the tracker does not take the run: a wrong key, no network.
    """
    kinds: dict[str, Callable[[Tracked, bool, int | None], Tracker]] = {
        TRACKIO: _Trackio,
        WANDB: _Wandb,
        TENSORBOARD: _TensorBoard,
    }
    try:
        return kinds[name](run, resumed, after)
    except Exception as error:  # each library has errors of its own
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        offline = ", or set WANDB_MODE=offline to keep runs here" if name == WANDB else ""
        raise ExperimentError(
            f"--report-to {name}: it does not take {run.name}: {words}; records need no tracker: leave --report-to "
            f"out{offline}"
        ) from error


class _Trackio:
    """Trackio knows runs by their name within a project: each experiment has its own."""

    def __init__(self, run: Tracked, resumed: bool, after: int | None) -> None:
        import trackio

        with _silently():
            self.run = trackio.init(
                project=run.experiment,
                name=run.name,
                group=run.experiment,
                config=dict(run.config),
                resume="allow" if resumed else "never",
                embed=False,
                auto_log_cpu=False,  # the record holds the hardware
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        import trackio

        with _silently():
            trackio.finish()  # not the run's own: Trackio would finish it once more as the process ends


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """Without the lines that Trackio prints on standard output, where results go."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


class _Wandb:
    """Steps are a column of their own: evaluations come after the training whose steps they belong to.

    Offline, each opening makes files of its own, and `wandb sync` lets the last of a run replace those before it, and
    what the site has of the run. So the last files hold all points so far, which a file beside them keeps: of a run
    that began online too.
    """

    def __init__(self, run: Tracked, resumed: bool, after: int | None) -> None:
        import wandb

        place = run.folder / WANDB_ID
        if not resumed or not place.exists():
            place.write_text(uuid.uuid4().hex)
        self.points = run.folder / WANDB_POINTS
        points = _points(self.points, after) if resumed else []
        before = list((run.folder / "wandb").glob("offline-run-*"))
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            group=run.experiment,
            name=run.name,
            id=place.read_text(),
            resume="allow",
            config=dict(run.config),
            dir=str(run.folder),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step", step_sync=True)
        whole = self.points.with_suffix(".new")
        whole.write_text("".join(map(_line, points)))
        whole.replace(self.points)  # a stop before this leaves the points as they were
        # Online, files that were kept offline may not be synced yet; synced later, they would replace what comes now.
        if self.run.offline or (before and not self.run.disabled):
            for row in points:
                self.run.log(row)
            for folder in before:
                shutil.rmtree(folder)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        row = {**values, "step": step}
        with self.points.open("a") as file:
            file.write(_line(row))
        self.run.log(row)

    def close(self) -> None:
        self.run.finish()


def _points(path: Path, after: int | None) -> list[dict[str, float]]:
    """The points in the file, up to the step `after`. A last line that was cut off is dropped."""
    lines = whole_lines(path.read_bytes()) if path.exists() else []
    points = []
    for number, line in enumerate(lines, start=1):
        try:
            row = dict(json.loads(line))
            if after is None or row["step"] <= after:
                points.append(row)
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: line {number} is no point; remove that line") from None
    return points


def _line(row: Mapping[str, float]) -> str:
    return json.dumps(row) + "\n"


class _TensorBoard:
    """Its files lie in the run's folder, so that --logdir of the sweep shows every run."""

    def __init__(self, run: Tracked, resumed: bool, after: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if after is None or not resumed else after + 1
        self.writer = SummaryWriter(str(run.folder / TENSORBOARD), purge_step=purge)
        if not resumed:
            self.writer.add_text("config", f"```json\n{json.dumps(run.config, indent=2)}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()
