"""A user outside the checkout: commands and scripts in a folder of the user's own, and pages of the documentation."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from harness import cli

ROOT = Path(__file__).parents[2]
HOWTO = ROOT / "docs" / "howto"
#: Where the four packages are imported from: the environment's, or a checkout's.
SOURCES = Path(cli.__file__).parents[1]


def block(page: str, language: str, number: int = 0) -> str:
    """A block of code of a how-to page, as a reader pastes it."""
    return re.findall(rf"^```{language}\n(.*?)^```", (HOWTO / page).read_text(), re.M | re.S)[number]


def run(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in the folder, with nothing of the tests' own on its path."""
    places = [str(SOURCES), str(_metadata(folder))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=3600)


def flowtracer(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """A command, which must succeed."""
    done = run(folder, "-m", "harness.cli", *words)
    assert done.returncode == 0, f"flowtracer {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done


def _metadata(folder: Path) -> Path:
    """A folder that announces our entry points as an installation does, where the checkout is not installed."""
    place = folder / ".installed"
    if not importlib.metadata.packages_distributions().get("flowtracer") and not place.exists():
        groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
        lines = [f"[{group}]\n{name} = {value}" for group, t in groups.items() for name, value in t.items()]
        (place / "flowtracer-0.dist-info").mkdir(parents=True)
        (place / "flowtracer-0.dist-info" / "METADATA").write_text("Name: flowtracer\nVersion: 0\n")
        (place / "flowtracer-0.dist-info" / "entry_points.txt").write_text("\n".join(lines))
    return place
