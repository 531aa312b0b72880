"""Kills a sweep at random moments, and looks whether its results are those of a sweep that nothing disturbed.

    python benchmarks/kills.py [--kills 20] [--out benchmarks/results]

A kill is SIGKILL to every process of the sweep at once, at a random moment of its work: in the middle of a rollout, an
update, a checkpoint, an evaluation, or of the record of any of them. After each the same command is given
again. The project's tests do the same with two kills.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from report import Report, Table
from rich.console import Console

from leaderboards import load

TABLES = ("rollouts", "steps", "samples")
#: A kill comes after at most this many changes to the sweep's files, and at most so many seconds later.
CHANGES, SECONDS = 16, 0.3
#: A sweep that shows no file in this time has not started.
PATIENCE = 600.0

EXPERIMENT = """
title = "a sweep to be killed"
seeds = 2
[declaration]
metric = "training_reward_area"
smallest_difference = 0.01
[policy]
name = "decision"
[task]
name = "decision"
contexts = 4
[training]
steps = 12
prompts_per_step = 2
samples_per_prompt = 8
max_response_tokens = 20
learning_rate = 1e-3
save_every = 2
[evaluation]
every = 3
problems = 16
"""


def start(file: Path, folder: Path, *more: str) -> subprocess.Popen[str]:
    """The sweep of an experiment's file as a process group of its own."""
    command = [sys.executable, "-m", "harness.cli", "reproduce", str(file), "--out", str(folder), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def hashes(folder: Path) -> dict[tuple[str, int, str], str]:
    """Content hash of every table of every finished run."""
    return {
        (run.method, run.seed, table): run.content_hash(table)
        for run in load(folder)
        for table in TABLES
        if run.finished
    }


def _files(folder: Path) -> Counter[str]:
    """How many there are of what a sweep writes, by kind."""
    found: Counter[str] = Counter()
    for place, folders, names in os.walk(folder):
        kind = Path(place).name
        found[kind] += sum(name.startswith("step-") for name in names)
        found["checkpoints"] += "whole" in names
        found["policies saved"] += sum(name.startswith("step-") for name in folders)
        found["finished runs"] += "finished.json" in names
    return found


def kill_at_random(
    process: subprocess.Popen[str], folder: Path, source: random.Random, changes: int = CHANGES
) -> str | None:
    """Kills a sweep at a random moment of its work; what stood there then, None if it ended before."""
    # In changes and not in seconds, of which most are spent on imports, and more where the machine is busy.
    left, seen, begin = source.randint(1, changes), _files(folder), time.monotonic()
    while left and process.poll() is None:
        now = _files(folder)
        left -= now != seen
        seen = now
        if time.monotonic() - begin > PATIENCE:
            raise TimeoutError(f"{folder}: too few files within {PATIENCE:g} seconds")
        time.sleep(0.01)
    time.sleep(source.uniform(0, SECONDS))
    if process.poll() is not None:
        return None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    found = _files(folder)
    kinds = ("steps", "checkpoints", "policies saved", "samples", "finished runs")
    return ", ".join(f"{found[kind]} {kind}" for kind in kinds)


def finish(process: subprocess.Popen[str]) -> None:
    """Waits for the sweep's end; RuntimeError with what it said if that is not a good one."""
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the sweep ended with status {process.returncode}:\n{errors}")


def main() -> int:
    """Kills and resumes, prints what stood there at each kill, and keeps it; 1 if any result differs."""
    parser = argparse.ArgumentParser(
        description="Kill a sweep at random moments; its results must not change."
    )
    parser.add_argument("--kills", type=int, default=20, help="how many kills (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results", help="folder of the report"
    )
    options = parser.parse_args()
    source, rows, equal, begin = random.Random(options.seed), [], [], time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        file, folder = Path(place) / "killed.toml", Path(place) / "runs"
        arms = [f"[methods.{label}]\n" for label in ("uniform", "flow", "random")]
        file.write_text(EXPERIMENT + "".join(reversed(arms)))
        finish(start(file, Path(place) / "reference", "--workers", "1"))
        reference = hashes(Path(place) / "reference")
        file.write_text(EXPERIMENT + "".join(arms))
        while True:
            process = start(file, folder)
            try:
                stood = kill_at_random(process, folder, source) if len(rows) < options.kills else None
            except KeyboardInterrupt:  # enough: the sweep is brought to its end
                stood, options.kills = None, len(rows)
            if stood is not None:
                rows.append({"kill": len(rows) + 1, "sweep": len(equal) + 1, "stood": stood})
                print(f"kill {len(rows)}: {stood}", file=sys.stderr, flush=True)
                continue
            finish(process)
            equal.append(hashes(folder) == reference)
            if len(rows) == options.kills:
                break
            shutil.rmtree(folder)  # it came to its end under too few kills: another one
    columns = {
        "kill": lambda row: str(row["kill"]),
        "sweep": lambda row: str(row["sweep"]),
        "what was on disk": lambda row: row["stood"],
    }
    text = [
        f"{len(rows)} kills over {len(equal)} sweeps of 3 methods x 2 seeds x 12 steps on two workers, each resumed to "
        f"its end: {sum(equal)} of {len(equal)} have the content hashes, {len(reference)} each, of a sweep "
        f"that nothing disturbed, on one worker with the methods in the other order. {time.monotonic() - begin:.0f} s.",
        f"A kill is SIGKILL to all processes at once, {SECONDS:g} s or less after one of the first {CHANGES} changes "
        f"to files, at random (seed {options.seed}). A resumed run drops what is later than its last checkpoint.",
    ]
    report = Report("kills", "Kills at random moments", text, [Table(columns, rows)])
    report.show(Console(width=120))
    report.write(options.out, " ".join(["python", "benchmarks/kills.py", *sys.argv[1:]]))
    return int(not all(equal))


if __name__ == "__main__":
    sys.exit(main())
