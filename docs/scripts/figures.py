"""Draws the pictures of the documentation from what the code computes: `python docs/scripts/figures.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from style import Theme, canvases

from flowtracer import solve_flow

FOLDER = Path(__file__).parents[1] / "figures"
TOKENS = ("2", "+3", "so", "=", "ok", "5")
EDGES = {
    (1, 0): 0.5,
    (2, 0): 0.5,
    (2, 1): 0.25,
    (3, 0): 0.25,
    (3, 2): 0.5,
    (4, 1): 0.5,
    (4, 3): 0.25,
    (5, 2): 0.25,
    (5, 3): 0.5,
}
#: Where the packages stand in the second picture, and their work.
ROOMS = {
    "tasks": ((0.0, 0.0), "problems and verdicts"),
    "flowtracer": ((1.6, 0.0), "credit and the trainer"),
    "leaderboards": ((3.2, 0.0), "records and statistics"),
    "harness": ((1.6, 1.2), "experiments, runs, engines, commands"),
}


def six_tokens(path: Path) -> None:
    """The example of concepts/flow.md: edges as wide as their flow."""
    capacity = torch.zeros(6, 6, dtype=torch.float64)
    for (to, start), value in EDGES.items():
        capacity[to, start] = value
    positions = torch.arange(6)
    flow = solve_flow(capacity, positions < 2, positions == 5)
    carried = flow.edge_flow()
    for figure, theme in canvases(path, (9, 3.6)):
        axes = figure.subplots()
        for to, start in EDGES:
            _edge(axes, start, to, float(carried[to, start]), theme)
        for position, text in enumerate(TOKENS):
            fill = theme.fill if position > 1 else theme.warm
            axes.scatter(position, 0, s=900, color=fill, edgecolor=theme.ink, zorder=3)
            axes.text(position, 0, text, ha="center", va="center", color=theme.ink, zorder=4)
            passes = f"f = {float(flow.flow[position]):.2f}"
            axes.text(position, -0.33, passes, ha="center", color=theme.ink, fontsize=10)
        axes.set(xlim=(-0.5, 5.5), ylim=(-0.6, 0.85), aspect="equal")
        axes.axis("off")


def _edge(axes: Any, start: int, to: int, carried: float, theme: Theme) -> None:
    """An arrow as wide as its flow, in an arc over the tokens between, with the number on it."""
    between = to - start > 1
    arrow = {
        "arrowstyle": "-|>",
        "connectionstyle": f"arc3,rad={-0.35 if between else 0}",
        "color": theme.accent if carried else theme.faint,
        "linewidth": 1 + 7 * carried,
        "linestyle": "-" if carried else "--",
        "shrinkA": 20,
        "shrinkB": 20,
    }
    axes.annotate("", xy=(to, 0), xytext=(start, 0), arrowprops=arrow)
    height = 0.175 * (to - start) if between else 0.15
    axes.text(
        (to + start) / 2, height, f"{carried:.2f}", ha="center", va="center", color=theme.ink, fontsize=9,
        bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def rooms(path: Path) -> None:
    """The four packages: an arrow says "imports"."""
    for figure, theme in canvases(path, (9, 3.4)):
        axes = figure.subplots()
        for name, (place, work) in ROOMS.items():
            axes.text(
                *place, f"{name}\n{work}", ha="center", va="center", color=theme.ink, fontsize=10, zorder=3,
                bbox={"boxstyle": "round,pad=0.6", "facecolor": theme.fill, "edgecolor": theme.accent},
            )  # fmt: skip
        for name, ((x, y), _) in ROOMS.items():
            if name != "harness":
                arrow = {"arrowstyle": "-|>", "color": theme.ink, "shrinkA": 0, "shrinkB": 2}
                axes.annotate("", xy=(x, y + 0.23), xytext=(1.6 + (x - 1.6) * 0.35, 0.97), arrowprops=arrow)
        axes.set(xlim=(-0.8, 4.0), ylim=(-0.4, 1.6))
        axes.axis("off")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    six_tokens(FOLDER / "six-tokens")
    rooms(FOLDER / "rooms")
