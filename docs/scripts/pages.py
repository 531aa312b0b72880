"""Makes docs/pages: a traced response, and the leaderboard of recorded runs, each one file that needs no network.

    python docs/scripts/pages.py [RUNS]

The response is the one whose command docs/start/first-model.md shows. RUNS: the folder that `flowtracer reproduce
decision --until-decided` wrote; without it the leaderboard stays as it is.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import cli

DOCS = Path(__file__).parents[1]
PAGES = DOCS / "pages"


def trace_arguments(file: Path) -> list[str]:
    """The arguments of the command that writes `trace.html` in the documentation, with another file to write."""
    text = (DOCS / "start" / "first-model.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^flowtracer (trace .*--html trace\.html.*)$", text, re.MULTILINE)
    return [str(file) if word == "trace.html" else word for word in shlex.split(line)]


def run(arguments: Sequence[str]) -> None:
    """One command of the program; it has said what is wrong where it ends the script."""
    if status := cli.main(arguments):
        sys.exit(status)


if __name__ == "__main__":
    run(trace_arguments(PAGES / "trace.html"))
    for runs in sys.argv[1:2]:
        run(["leaderboard", runs, "--html", str(PAGES / "leaderboard.html")])
