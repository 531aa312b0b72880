"""Everything that only a GPU can say, by priority, in a given time: python benchmarks/gpu.py --minutes 12 --out DIR.

Each step runs in a process of its own with a time box, and writes DIR/STEP.json after everything that it measures. A
cut loses nothing: what a step had measured stays, and the same command with the same DIR goes on with the steps that
did not end. A step that fails is recorded with its traceback, and the next one runs. The last step takes what is left.
At the end, and with --minutes 0, DIR/gpu.md and DIR/floor.md are written from what is there.

--rehearse runs every step with tiny shapes where there is no GPU: kernels in triton's interpreter, and what asks for a
device on the tests' stand-in for one.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_plan import CUT, DONE, FAILED, RUNNING, STEPS, WAITING, Step

ROOT = Path(__file__).resolve().parent.parent
#: Seconds that are kept for the pages.
PAGES = 20
#: Lines of a failed step's output that are recorded: its traceback.
TRACEBACK = 40
#: Seconds of a rehearsed step, at most: on a busy machine.
REHEARSED = 240


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the steps, or one of them; 0 where all that ran ended well."""
    options = _options(arguments)
    os.environ.update(_environment(options.out))
    if options.step is not None:
        import gpu_steps

        gpu_steps.run(options.step, options.out, options.rehearse, options.seconds)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    if options.wheels is not None:
        unpack(options.wheels, options.out / "site")
    deadline = time.monotonic() + 60 * options.minutes
    states = _states(options.out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for step in STEPS:
            state = states.get(step.name, {})
            ended = state.get("status") == DONE and state["rehearsed"] == options.rehearse
            if step.name in options.steps and not ended and (options.minutes or options.rehearse):
                _run(step, options, deadline, states)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is missing", file=sys.stderr)
    pages = subprocess.run([*_command(), "--step", "pages", "--out", str(options.out)], cwd=ROOT)
    say(states)
    broken = any(states[name]["status"] == FAILED for name in options.steps if name in states)
    return 1 if broken or pages.returncode else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(
        description="Measure what only a GPU can say, by priority, in a given time."
    )
    parser.add_argument(
        "--minutes", type=float, default=12.0, help="for all of it (default 12); 0 writes the pages only"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the results; one of an earlier call goes on"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny shapes, without a GPU: does every step work?"
    )
    parser.add_argument(
        "--steps", default=",".join(names), metavar="A,B", help=f"only these of {', '.join(names)}"
    )
    parser.add_argument(
        "--wheels", type=Path, metavar="FOLDER",
        help="wheels to unpack, where there is no network; one in parts, NAME.whl.00, NAME.whl.01, is joined",
    )  # fmt: skip
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=REHEARSED, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.steps = options.steps.split(",")
    unknown = [name for name in options.steps if name not in names]
    if unknown:
        parser.error(f"--steps {unknown[0]}: known are {', '.join(names)}")
    if not 0 <= options.minutes < float("inf"):
        parser.error(f"--minutes {options.minutes}: give 0 or more")
    if options.wheels is not None and not options.wheels.is_dir():
        parser.error(f"--wheels {options.wheels}: no such folder")
    options.out = options.out.resolve()
    return options


def _environment(out: Path) -> dict[str, str]:
    """The surroundings of every step's process: the checkout and the unpacked wheels first, no network, one thread."""
    paths = [str(ROOT), str(out / "site"), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def _command() -> list[str]:
    return [sys.executable, str(Path(__file__).resolve())]


def unpack(wheels: Path, site: Path) -> None:
    """Unpacks every wheel of a folder into `site`; parts of one are joined first."""
    parts: dict[str, list[Path]] = {}
    for path in sorted(wheels.iterdir()):
        name, mark, _ = path.name.partition(".whl")
        if mark:
            parts.setdefault(name, []).append(path)
    for name, pieces in parts.items():
        whole = site.with_name(f"{name}.whl")
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
        with zipfile.ZipFile(whole) as wheel:
            wheel.extractall(site)
        whole.unlink()


def _states(out: Path) -> dict[str, dict[str, Any]]:
    """The steps of earlier calls into `out`, by name. One that was running then was cut."""
    try:
        states: dict[str, dict[str, Any]] = json.loads((out / "steps.json").read_text())
    except FileNotFoundError:
        return {}
    for state in states.values():
        if state["status"] == RUNNING:
            state["status"] = CUT
    return states


def _run(step: Step, options: argparse.Namespace, deadline: float, states: dict[str, dict[str, Any]]) -> None:
    """Runs one step within its box, and records how it went."""

    def note(**state: Any) -> None:
        states[step.name] = {**state, "command": called}
        temporary = options.out / "steps.json.new"
        temporary.write_text(json.dumps(states, indent=1) + "\n")
        temporary.replace(options.out / "steps.json")

    called = shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    left = deadline - time.monotonic() - PAGES
    # The last step takes what is left.
    limit = left if step is STEPS[-1] else min(step.seconds, left)
    if options.rehearse:
        limit = REHEARSED
    elif limit < step.least:
        note(
            status=WAITING,
            rehearsed=False,
            why=f"{max(0, left):.0f} s were left, and it takes {step.least} or more",
        )
        return
    command = [*_command(), "--step", step.name, "--out", str(options.out), "--seconds", f"{limit:.0f}"]
    command += ["--rehearse"] if options.rehearse else []
    print(f"{step.name}: {step.settles}; at most {limit:.0f} s", flush=True)
    note(status=RUNNING, rehearsed=options.rehearse)
    begin = time.monotonic()
    log = options.out / f"{step.name}.log"
    with log.open("w") as output:
        code = _within(command, limit, output)
    state = {
        "seconds": round(time.monotonic() - begin, 1),
        "limit": round(limit),
        "rehearsed": options.rehearse,
    }
    if code == 0:
        note(status=DONE, **state)
    elif code is None:
        note(status=CUT, why=f"its time box of {limit:.0f} s ended", **state)
    else:
        tail = log.read_text(errors="replace").splitlines()[-TRACEBACK:]
        note(status=FAILED, why=tail[-1] if tail else f"exit status {code}", traceback=tail, **state)
    print(f"{step.name}: {states[step.name]['status']}, {state['seconds']:.0f} s", flush=True)


def _within(command: list[str], limit: float, output: Any) -> int | None:
    """The command's exit status; None where it was killed, with all it began, after `limit` seconds."""
    environment = dict(os.environ)
    if "--rehearse" in command and command[command.index("--step") + 1] == "kernels":
        environment["TRITON_INTERPRET"] = "1"
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def say(states: dict[str, dict[str, Any]]) -> None:
    """Prints what was measured and what was not."""
    for step in STEPS:
        state = states.get(step.name, {"status": WAITING})
        why = f": {state['why']}" if "why" in state else ""
        print(f"  {step.name:10} {state['status']}{why}")
    missing = [step.name for step in STEPS if states.get(step.name, {}).get("status") != DONE]
    print(f"not measured, or not to the end: {', '.join(missing)}" if missing else "all steps were measured")


if __name__ == "__main__":
    sys.exit(main())
