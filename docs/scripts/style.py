"""The style of every picture: two themes, one file for each, NAME-light.png and NAME-dark.png."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DPI = 130


@dataclass(frozen=True)
class Theme:
    """Colours of a page: text and lines, the page itself, what stands out, two fills and what recedes."""

    name: str
    ink: str
    paper: str
    accent: str
    fill: str
    warm: str
    faint: str


#: The paper of the dark one is that of the site's dark pages.
THEMES = (
    Theme("light", "#333333", "white", "#1769aa", "#e8f1f8", "#f6e7cf", "#bbbbbb"),
    Theme("dark", "#dddddd", "#1e2129", "#5aa9e6", "#22384b", "#4a3b22", "#666666"),
)


def pyplot() -> Any:
    """matplotlib's pyplot, which opens no window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def bare(axes: Any, theme: Theme) -> None:
    """Leaves of the frame only the axis below."""
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.ink)


def file_of(path: Path | str, theme: Theme) -> Path:
    """PATH-THEME.png."""
    return Path(f"{path}-{theme.name}.png")


def canvases(path: Path | str, size: tuple[float, float], tight: bool = True) -> Iterator[tuple[Any, Theme]]:
    """A figure for each theme; it is saved as `file_of` and closed once it is drawn. tight: without a margin."""
    plt = pyplot()
    for theme in THEMES:
        figure = plt.figure(figsize=size, facecolor=theme.paper)
        yield figure, theme
        figure.savefig(
            file_of(path, theme), dpi=DPI, facecolor=theme.paper, bbox_inches="tight" if tight else None
        )
        plt.close(figure)
