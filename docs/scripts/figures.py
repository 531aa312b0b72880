"""Draws the pictures of the documentation from what the code computes: `python docs/scripts/figures.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt

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
#: Light enough for a dark page, dark enough for a light one.
INK, ACCENT, PAPER = "#333333", "#1769aa", "white"
LABEL = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}


def six_tokens() -> None:
    """The example of concepts/flow.md: edges as wide as their flow."""
    capacity = torch.zeros(6, 6, dtype=torch.float64)
    for (to, start), value in EDGES.items():
        capacity[to, start] = value
    positions = torch.arange(6)
    flow = solve_flow(capacity, positions < 2, positions == 5)
    edges = flow.edge_flow()
    figure, axes = plt.subplots(figsize=(9, 3.6), facecolor=PAPER)
    for to, start in EDGES:
        carried = float(edges[to, start])
        axes.annotate(
            "",
            xy=(to, 0),
            xytext=(start, 0),
            arrowprops={
                "arrowstyle": "-|>",
                "connectionstyle": f"arc3,rad={-0.35 if to - start > 1 else 0}",
                "color": ACCENT if carried else "#bbbbbb",
                "linewidth": 1 + 7 * carried,
                "linestyle": "-" if carried else "--",
                "shrinkA": 20,
                "shrinkB": 20,
            },
        )
        middle = (to + start) / 2
        height = 0.175 * (to - start) if to - start > 1 else 0.15
        axes.text(
            middle, height, f"{carried:.2f}", ha="center", va="center", color=INK, fontsize=9, bbox=LABEL
        )
    for position, text in enumerate(TOKENS):
        axes.scatter(
            position, 0, s=900, color="#e8f1f8" if position > 1 else "#f6e7cf", edgecolor=INK, zorder=3
        )
        axes.text(position, 0, text, ha="center", va="center", color=INK, zorder=4)
        axes.text(
            position, -0.33, f"f = {float(flow.flow[position]):.2f}", ha="center", color=INK, fontsize=10
        )
    axes.set(xlim=(-0.5, 5.5), ylim=(-0.6, 0.85), aspect="equal")
    axes.axis("off")
    figure.savefig(FOLDER / "six-tokens.png", dpi=130, bbox_inches="tight")


def rooms() -> None:
    """The four packages: an arrow says "imports"."""
    places = {"tasks": (0, 0), "flowtracer": (1.6, 0), "leaderboards": (3.2, 0), "harness": (1.6, 1.2)}
    work = {
        "tasks": "problems and verdicts",
        "flowtracer": "credit and the trainer",
        "leaderboards": "records and statistics",
        "harness": "experiments, runs, engines, commands",
    }
    figure, axes = plt.subplots(figsize=(9, 3.4), facecolor=PAPER)
    for name, (x, y) in places.items():
        axes.text(
            x, y, f"{name}\n{work[name]}", ha="center", va="center", color=INK, fontsize=10, zorder=3,
            bbox={"boxstyle": "round,pad=0.6", "facecolor": "#e8f1f8", "edgecolor": ACCENT},
        )  # fmt: skip
        if name != "harness":
            arrow = {"arrowstyle": "-|>", "color": INK, "shrinkA": 26, "shrinkB": 26}
            axes.annotate("", xy=(x, y), xytext=places["harness"], arrowprops=arrow)
    axes.set(xlim=(-0.8, 4.0), ylim=(-0.4, 1.6))
    axes.axis("off")
    figure.savefig(FOLDER / "rooms.png", dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    six_tokens()
    rooms()
