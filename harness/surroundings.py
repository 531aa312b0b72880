"""The surroundings that the command line is started in: modules in the way of ours, output streams, signals.

Only the standard library is imported here: it runs before anything that a user's module could hide.
"""

from __future__ import annotations

import codecs
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path

PACKAGES = ("flowtracer", "tasks", "leaderboards")

#: Modules of the extra `harness`: what commands need beside the method and its trainer.
EXTRA = frozenset(
    (
        "gguf",
        "httpx",
        "math_verify",
        "packaging",
        "pyarrow",
        "safetensors",
        "scipy",
        "sympy",
        "tokenizers",
    )
)

#: Characters of our tables for an output that lacks them; others become a question mark.
PLAIN = {
    "±": "+-",
    "·": ".",
    "−": "-",
    "×": "x",
    "…": "...",
    "–": "-",
    "─": "-",
    "│": "|",
    "┼": "+",
    "●": "o",
    "▲": "^",
    "▼": "v",
    "’": "'",
}


def leave_current_folder() -> None:
    """Takes the folder that `python -m` has put first on the path off it, unless these packages lie in it.

    So the launchers of several processes start the command line; a user's `random.py` there would be imported by any
    library that asks for the standard one.
    """
    root = Path(__file__).resolve().parents[1]
    if sys.path and Path(sys.path[0]).resolve() == Path.cwd().resolve() != root:
        del sys.path[0]


def hidden_packages() -> list[str]:
    """A line for each of our packages that another module of that name comes before."""
    root = Path(__file__).resolve().parents[1]
    lines = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        places = (
            [spec.origin]
            if spec and spec.origin
            else list(spec.submodule_search_locations or [])
            if spec
            else []
        )
        theirs = [place for place in places if place and root not in Path(place).resolve().parents]
        if theirs:
            lines.append(
                f"{theirs[0]} hides the package {name!r} of FlowTracer ({root / name}): rename it, or start from "
                "another folder without PYTHONPATH"
            )
    return lines


def check_packages() -> None:
    """Ends the process with one line where a module of the user's hides one of our packages."""
    if lines := hidden_packages():
        print(f"flowtracer: {lines[0]}", file=sys.stderr)
        sys.exit(2)


def without_extra(error: ModuleNotFoundError) -> str | None:
    """The way out where a module of the extra `harness` is missing; None for any other module."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRA:
        return None
    return f"{name} is not installed: pip install 'flowtracer[harness]'"


def prepare_streams() -> None:
    """Puts a stream that leads nowhere in the place of closed ones, and characters that one can write for others."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # It takes the lowest free number, that of the closed one: no other file may, a library could write to it.
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    codecs.register_error("flowtracer", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="flowtracer")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in text), error.end


def stop_on_sigterm() -> None:
    """Lets SIGTERM do what Ctrl-C does: commands save what they have and stop."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
