"""The pictures of README and docs/results, light and dark, drawn by `python docs/scripts/results.py --draw`.

intervals       one testbed: a line an arm, its figure with the interval, best first
lengths         one question at several lengths: a panel an arm
against         a panel a figure, a point an arm: the figure against another one
multiples       the profile: a picture a figure, a panel a testbed, a line an arm, one order of arms in all. What rules
                without insight reach is shaded: a method inside the shade does no more than they do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from style import Theme, bare, canvases

from harness.studies.arms import RULES, Arm
from harness.studies.measured import Cell
from harness.studies.profile import FIGURES, Testbed, with_figure

#: Figures that have a picture, and where a figure says nothing.
PICTURED = {"difference": 0.0, "decisive_unsure": 0.5, "ratio_difference": 0.0, "value_direction": 0.0}
COLOURS = {"control": "#8a8a8a", "rule": "#d9822b", "flow": "#1f77b4", "method": "#2ca02c"}
KINDS = {
    "control": "positive control",
    "rule": "rule without insight",
    "flow": "flow",
    "method": "other methods",
}
#: The most panels in a row of a picture.
ACROSS = 5


@dataclass(frozen=True)
class Line:
    """A line of `intervals`: the arm's label, more words behind it, its figure and the interval, None for none."""

    label: str
    more: str
    value: float
    interval: Sequence[float] | None


def intervals(lines: Sequence[Line], words: str, path: str, band: float = 0.0) -> None:
    """Draws PATH-light.png and PATH-dark.png, the lines from the top. words: of the axis. band: is shaded around 0."""
    height = 0.3 * len(lines) + 1
    for figure, theme in canvases(path, (9, height)):
        axes, ink = figure.subplots(), theme.ink
        bare(axes, theme)
        if band:
            axes.axvspan(-band, band, color=ink, alpha=0.1, linewidth=0)
        axes.axvline(0, color=ink, linewidth=0.8)
        for place, line in enumerate(reversed(lines)):
            colour = COLOURS[kind_of(line.label)]
            axes.plot(line.interval or (line.value,) * 2, [place, place], color=colour, linewidth=2)
            axes.plot(line.value, place, "o", color=colour)
        names = [f"{line.label}{line.more}" for line in reversed(lines)]
        axes.set_yticks(range(len(names)), names, fontfamily="monospace", color=ink)
        axes.tick_params(colors=ink)
        axes.set_xlabel(words, color=ink)
        axes.margins(y=0.02)
        _legend(figure, ink, KINDS, top=0.88 + 0.4 / height)  # above the axes, which end at 0.88


def lengths(curves: Mapping[str, Sequence[Any]], tokens: Sequence[int], words: str, path: str) -> None:
    """Draws PATH-light.png and PATH-dark.png: a panel an arm, its (figure, interval) at each number of tokens."""
    for figure, theme in canvases(path, (11, 2.8)):
        every, ink = figure.subplots(1, len(curves), sharey=True), theme.ink
        for axes, (label, points) in zip(every, curves.items(), strict=True):
            bare(axes, theme)
            axes.axhline(0, color=ink, linewidth=0.8)
            colour = COLOURS[kind_of(label)]
            axes.plot(range(len(tokens)), [value for value, _ in points], "o-", color=colour, linewidth=1)
            for at, (_, interval) in enumerate(points):
                axes.plot([at, at], interval, color=colour, linewidth=2)
            axes.set_xticks(range(len(tokens)), [str(count) for count in tokens], color=ink)
            axes.tick_params(colors=ink)
            axes.margins(x=0.2)
            axes.set_title(label, fontsize=8, fontfamily="monospace", color=ink)
        every[0].set_ylabel(words, color=ink, fontsize=8)
        every[len(every) // 2].set_xlabel("tokens of a response", color=ink, fontsize=9)


@dataclass(frozen=True)
class Point:
    """A point of `against`: the arm's label, where it stands, and its figure with the interval, None for none."""

    label: str
    across: float
    value: float
    interval: Sequence[float] | None


def against(panels: Mapping[str, Sequence[Point]], words: str, path: str) -> None:
    """Draws PATH-light.png and PATH-dark.png, a panel beside the other. panels: by their titles. words: of the axis.

    Arms of a kind, such as oracles, are joined by a line in the order in which they stand.
    """
    for figure, theme in canvases(path, (10, 4), tight=False):
        grid = figure.subplots(1, len(panels), squeeze=False, sharex=True)
        for axes, (title, points) in zip(grid[0], panels.items(), strict=True):
            _joined(axes, points, theme)
            axes.set_title(title, color=theme.ink, fontsize=10)
            axes.set_xlabel(words, color=theme.ink, fontsize=8)
        figure.tight_layout()


def _joined(axes: Any, points: Sequence[Point], theme: Theme) -> None:
    """The points of a panel with their labels, those of a kind joined by a line."""
    bare(axes, theme)
    axes.axhline(0, color=theme.ink, linewidth=0.8)
    for kind in dict.fromkeys(kind_of(point.label) for point in points):
        chosen = sorted(
            (point for point in points if kind_of(point.label) == kind), key=lambda each: each.across
        )
        colour = COLOURS[kind]
        places, values = [each.across for each in chosen], [each.value for each in chosen]
        axes.plot(places, values, "o-", color=colour, linewidth=1, markersize=4)
        for each in chosen:
            if each.interval is not None:
                axes.plot([each.across] * 2, each.interval, color=colour, linewidth=2, alpha=0.6)
            axes.annotate(
                each.label,
                (each.across, each.value),
                textcoords="offset points",
                xytext=(5, -9 if kind == "flow" else 4),
                fontsize=7,
                fontfamily="monospace",
                color=theme.ink,
            )
    axes.tick_params(colors=theme.ink, labelsize=8)
    axes.margins(x=0.15)


def kind_of(label: str) -> str:
    """A key of `COLOURS`: what the arm is, by the method's name that its label begins with."""
    if label.startswith(("oracle", "anti_oracle")):
        return "control"
    if label.startswith(tuple(RULES)):
        return "rule"
    return "flow" if label.startswith("flow") else "method"


# ------------------------------------------------------------------------------------- the profile


def multiples(testbeds: Sequence[Testbed], folder: Path) -> None:
    """Draws every picture into `folder`, light and dark: profile-KEY-THEME.png."""
    for key in PICTURED:
        if beds := with_figure(testbeds, key):
            _picture(beds, key, folder / f"profile-{key}")


def lines(testbeds: Sequence[Testbed], key: str) -> list[str]:
    """The lines of a picture from the top: arms by their words without the factor, in the order of the tables."""
    arms = {
        row.arm
        for bed in testbeds
        for row in bed.rows
        if row.cells[key].measured and row.arm.role != "baseline"
    }
    return list(dict.fromkeys(_line(arm) for arm in sorted(arms, key=lambda arm: arm.place)))


def _line(arm: Arm) -> str:
    return arm.words.replace(f" ×{arm.factor:g}", "") if arm.factor is not None else arm.words


def _picture(beds: Sequence[Testbed], key: str, path: Path) -> None:
    names = lines(beds, key)
    down = -(-len(beds) // ACROSS)
    across = -(-len(beds) // down)
    size = (9.4, down * (0.155 * len(names) + 0.55) + 0.9)
    shown = next(each for each in FIGURES if each.key == key)
    words = f"{shown.head}: {shown.means}; 95% intervals"
    for figure, theme in canvases(path, size, tight=False):
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        panels = list(grid.flat)
        for axes, bed in zip(panels, beds, strict=False):
            _panel(axes, bed, key, names, theme)
        for axes in panels[len(beds) :]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_yticks(range(len(names)), names, fontfamily="monospace", fontsize=8, color=theme.ink)
            row[0].set_ylim(len(names) - 0.4, -0.6)
        figure.tight_layout(rect=(0, 0.28 / size[1], 1, 1 - 0.3 / size[1]), h_pad=1.2, w_pad=0.6)
        figure.text(0.5, 0.08 / size[1], words, color=theme.ink, fontsize=9, ha="center")
        more = {
            "rule": f"{KINDS['rule']}: shaded",
            "method": f"{KINDS['method']}; a larger dot, a larger factor",
        }
        _legend(figure, theme.ink, KINDS | more)


def _panel(axes: Any, bed: Testbed, key: str, names: Sequence[str], theme: Theme) -> None:
    bare(axes, theme)
    ink = theme.ink
    axes.tick_params(colors=ink, labelsize=8, length=2)
    axes.tick_params(axis="y", length=0)
    axes.set_title(bed.name, color=ink, fontsize=9, fontweight="bold")
    rows = [row for row in bed.rows if row.cells[key].measured and row.arm.role != "baseline"]
    ruled = [row.cells[key] for row in rows if row.arm.role == "rule"]
    if ruled:
        low, high = (limit(bounds(cell) for cell in ruled) for limit in (_least, _most))
        axes.axvspan(low, high, color=COLOURS["rule"], alpha=0.15, linewidth=0)
    axes.axvline(PICTURED[key], color=ink, linewidth=0.7)
    for row in rows:
        kind = "flow" if row.arm.credit == "flow" else row.arm.role
        height, size = names.index(_line(row.arm)), 2.5 + (row.arm.factor or 1.5) ** 0.7
        # Two factors of one method stand a little apart on its line.
        height += {1.5: -0.15, 3.0: 0.15}.get(row.arm.factor or 0.0, 0.0)
        axes.plot(bounds(row.cells[key]), [height, height], color=COLOURS[kind], linewidth=1.4)
        axes.plot(row.cells[key].value, height, "o", color=COLOURS[kind], markersize=size)
    axes.locator_params(axis="x", nbins=4)
    if key == "decisive_unsure":
        axes.set_xlim(-0.04, 1.06)
    for height in range(len(names)):
        axes.axhline(height, color=ink, linewidth=0.3, alpha=0.15, zorder=0)


def bounds(cell: Cell) -> tuple[float, float]:
    """The interval of a figure; the figure itself where it has none."""
    assert cell.value is not None
    return cell.interval or (cell.value, cell.value)


def _least(pairs: Any) -> float:
    return min(low for low, _ in pairs)


def _most(pairs: Any) -> float:
    return max(high for _, high in pairs)


def _legend(figure: Any, ink: str, words: Mapping[str, str], top: float = 1.0) -> None:
    """A line at the height `top` of the figure: the colour of each kind of arms, and what the kind is."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=COLOURS[kind], marker="o", linewidth=1.4, label=text)
        for kind, text in words.items()
    ]
    figure.legend(
        handles=marks,
        loc="upper center",
        ncols=4,
        frameon=False,
        fontsize=8,
        labelcolor=ink,
        bbox_to_anchor=(0.5, top),
    )
