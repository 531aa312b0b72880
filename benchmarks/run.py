"""The benchmarks of speed, all or those named: python benchmarks/run.py [NAME ...]."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import shlex
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from rich.console import Console

#: Name of a benchmark -> its module, whose `run(settings)` gives a report.
BENCHMARKS = {
    "credit": "credit",
    "step": "training_step",
    "verify": "verification",
    "leaderboard": "leaderboard",
    "kernels": "triton_kernels",
    "memory": "memory",
    "floor": "floor",
}
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Runs the benchmarks asked for, one after the other; prints each one's tables and keeps them."""
    parser = argparse.ArgumentParser(
        description="Measure credit, training steps, verdicts and leaderboards; work out what a GPU will show."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help=f"folder of the results (default {RESULTS})"
    )
    parser.add_argument("--repeats", type=int, default=5, help="measured repeats of everything (default 5)")
    parser.add_argument(
        "--max-tokens", type=int, default=2048, help="longest sequence of credit (default 2048)"
    )
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, once: does everything work?")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="credit in one thread by the processor's seconds, where other work runs beside",
    )
    options = parser.parse_args()
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    if options.repeats < 1 or options.max_tokens < 256:
        parser.error("--repeats must be at least 1 and --max-tokens at least 256")
    from measure import Settings  # with torch, which takes seconds that a mistyped name need not wait for

    settings = Settings(
        1 if options.smoke else options.repeats, options.max_tokens, options.smoke, options.processor_time
    )
    warnings.filterwarnings("ignore")
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for name in options.names or BENCHMARKS:
        if name == "kernels" and importlib.util.find_spec("triton") is None:
            if options.names:
                parser.error("kernels needs triton: pip install 'flowtracer[kernels]'")
            print("kernels: not run, triton is not installed", file=sys.stderr)
            continue
        report = importlib.import_module(BENCHMARKS[name]).run(settings)
        report.show(console)
        report.write(options.out, shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
