"""Photographs a page of `flowtracer trace`, light and dark: docs/figures/trace-light.png and trace-dark.png.

    python docs/scripts/screens.py trace.html

trace.html is made by the command that docs/start/first-model.md shows. It takes chromium and chromedriver, as the
tests of that page do. The pointer rests on the token outside the answer that most flow passes; one_hop stands beside
flow.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from style import THEMES, file_of

ROOT = Path(__file__).parents[2]
SIZE = (1360, 700)
#: Of the tokens behind the prompt and outside the answer, the number of the one with most flow.
BUSIEST = """
    const numbers = data.flow.keys().filter((i) => i >= start && !answer.has(i));
    return [...numbers].reduce((best, i) => data.flow[i] > data.flow[best] ? i : best);
"""


BESIDE = """
    const second = document.getElementById("second");
    second.value = data.methods.findIndex((method) => method.name === "one_hop");
    second.dispatchEvent(new Event("change"));
"""


def photograph(page: Path, path: Path) -> None:
    """page: as `flowtracer trace --html` writes it. path: of the pictures, without theme and ending."""
    sys.path.insert(0, str(ROOT / "tests" / "flowtracer"))
    from browser import Browser

    with tempfile.TemporaryDirectory() as profile:
        window = Browser(Path(profile), SIZE)
        try:
            for theme in THEMES:
                window.prefer(theme.name)
                window.open(page)
                window.resize(*SIZE)
                window.run(BESIDE)
                window.hover(f"#columns [data-i='{window.run(BUSIEST)}']")
                window.screenshot(file_of(path, theme))
        finally:
            window.close()


if __name__ == "__main__":
    photograph(Path(sys.argv[1]), ROOT / "docs" / "figures" / "trace")
