"""Protects the first second of every command: looking at tasks loads neither torch nor data sets nor sympy."""

import subprocess
import sys

HEAVY = ("datasets", "torch", "sympy", "math_verify", "transformers", "numpy", "verifiers", "trl")


def test_listing_tasks_is_light():
    code = (
        "import sys, tasks\n"
        "names = [tasks.kind(name).source for name in tasks.names()]\n"
        "assert len(names) > 15\n"
        f"print([module for module in {HEAVY!r} if module in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
