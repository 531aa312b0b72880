"""Runs the tests of tap, trainer and views on the versions that this process finds, and notes the outcome.

`python benchmarks/versions.py NAME` is what the nox session `tests_versions` calls, with other versions of
transformers, TRL and peft ahead of the environment's own. It ends with pytest's exit status. The page is
results/versions.md.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "transformers", "trl", "peft")
#: The files whose subject is a seam into torch, transformers or TRL.
TESTS = (
    "test_attention.py",
    "test_batches.py",
    "test_readings.py",
    "test_refusals.py",
    "test_seam.py",
    "test_tools.py",
    "test_tracing.py",
    "test_trainer.py",
    "test_turn.py",
    "test_view.py",
)


def main(name: str) -> int:
    """Tests this environment under `name`, writes its row, and gives pytest's exit status."""
    files = [ROOT / "tests" / "flowtracer" / file for file in TESTS]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *map(str, files)]
        status = subprocess.run(command, cwd=ROOT).returncode
        counts = counted(report)
    write(name, {**versions(), **counts, "date": date.today().isoformat()})
    return status


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the tests hook into."""
    installed = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **installed}


def counted(report: Path) -> dict[str, Any]:
    """Passed, skipped and the names of failed tests, from a JUnit report."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = [f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}" for case in failed]
    return {"passed": len(cases) - len(failed) - skipped, "failed": names, "skipped": skipped}


def write(name: str, row: dict[str, Any], folder: Path = RESULTS) -> None:
    """Puts `row` under `name` into the matrix, a JSON file and its page."""
    file = folder / "versions.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    rows[name] = row
    file.write_text(json.dumps(rows, indent=1) + "\n")
    columns = ("python", *PACKAGES)
    lines = [
        "# Versions that work",
        "",
        "The tests of tap, trainer and views (`tests/flowtracer`), by `nox -s tests_versions`. TRL 1.15 is left out:",
        "its loss calls a Triton kernel, which fails on a CPU where triton is installed.",
        "",
        "| set | " + " | ".join(columns) + " | passed | failed | skipped | date |",
        "|---" * (len(columns) + 5) + "|",
    ]
    for label, values in rows.items():
        failed = ", ".join(values["failed"]) or "0"
        cells = [values[column] for column in columns]
        cells += [str(values["passed"]), failed, str(values["skipped"]), values["date"]]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    (folder / "versions.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
