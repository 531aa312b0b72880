"""Fills the result tables of README and docs/results from the kept files: `python docs/scripts/results.py`.

A table stands between `<!-- table FILE ARM ARM ... -->` and `<!-- end of table -->`; FILE is a JSON of
leaderboards/results. `<!-- turns FILE FILE ... -->` is one of how far arms turn an update, from comparisons and the
replays of the same names. tests/test_results.py holds the tables to the files, and numbers in the text to the tables.
With `--draw`, the figures of these pages are drawn too.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leaderboards import estimates

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "leaderboards" / "results"
FIGURES = ROOT / "docs" / "figures"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "results").glob("*.md")))
MARKED = re.compile(r"<!-- (table|turns) (\S+)((?: \S+)*) -->\n.*?<!-- end of table -->", re.DOTALL)
#: Arms in plain words.
WORDS = {
    "uniform": "nobody: uniform credit (GRPO)",
    "constant": "every token, 1.2 times",
    "constant_3": "every token, 1.8 times",
    "random": "a random 40% of the tokens",
    "random_3": "a random 40%, 3 times",
    "first_tokens": "the first 40%: a rule that reads no model",
    "first_tokens_3": "the first 40%, 3 times",
    "last_tokens": "the last 40%: another such rule",
    "last_tokens_3": "the last 40%, 3 times",
    "shuffled_flow": "flow's weights on tokens drawn at random",
    "shuffled_flow_3": "flow's weights on tokens drawn at random, 3 times",
    "flow": "flow: FlowTracer as published",
    "flow_3": "flow, 3 times",
    "flow_emitting": "flow from the rows that emit the answer",
    "flow_emitting_3": "flow from the rows that emit the answer, 3 times",
    "flow_all_3": "flow over all layers, 3 times",
    "flow_all_emitting_3": "flow over all layers, emitting rows, 3 times",
    "one_hop_3": "attention from the answer, one hop, 3 times",
    "one_hop_emitting_3": "attention from the emitting rows, one hop, 3 times",
    "coupled_3": "coupled rhythm of attention (Li et al.), 3 times",
    "entropy_3": "the 40% of highest entropy, 3 times",
    "tempo": "TEMPO: a value for each prefix of the group",
    "oracle_3": "the token that decides, 3 times (positive control)",
    "oracle_10": "the token that decides, 10 times (positive control)",
}


def load(name: str) -> Any:
    """A kept file, read."""
    return json.loads((KEPT / name).read_text())


def table(name: str, labels: Sequence[str]) -> str:
    """The rows `labels` of the comparison kept in the file `name`, all of them by rank where none is named."""
    kept = load(name)
    arms: Mapping[str, Any] = {arm["label"]: arm for arm in sorted(kept["arms"], key=lambda arm: arm["rank"])}
    lines = ["| who gets more credit | reward, minus uniform | outcome |", "|---|--:|---|"]
    for label in labels or arms:
        lines.append(
            f"| {WORDS.get(label, label)} | {_difference(arms[label], kept)} | {_outcome(arms[label])} |"
        )
    return "\n".join(lines)


def _difference(arm: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    if arm["label"] == kept["baseline"]:
        return f"{arm['scores'][kept['metric']]['mean']:.3f}"
    low, high = arm["interval_of_difference"]
    return f"{arm['difference']:+.3f} ± {(high - low) / 2:.3f}"


def _outcome(arm: Mapping[str, Any]) -> str:
    return str(arm.get("outcome", arm.get("verdict"))).partition(":")[0]


def turns(names: Sequence[str]) -> list[dict[str, Any]]:
    """Every arm of the comparisons `names` (decision.json) by its turn, with what its replay and training say.

    An arm that stands in several comparisons is taken from the first.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        kept = load(name)
        replayed = {figures["label"]: figures for figures in load(f"replay-{name}")["figures"]}
        for arm in kept["arms"]:
            label = arm["label"]
            if label == kept["baseline"] or label in rows or label not in replayed:
                continue
            differences = list(arm["differences"].values())
            rows[label] = {
                "label": label,
                "turn": replayed[label]["turn"][0],
                "area": replayed[label]["decisive"][0],
                "ratio": replayed[label]["ratio_difference"],
                "difference": arm["difference"],
                "interval": arm["interval_of_difference"],
                "shown": _difference(arm, kept),
                "seeds": estimates.seeds_to_detect(abs(arm["difference"]), estimates.spread(differences)),
            }
    return sorted(rows.values(), key=lambda row: row["turn"])


def turn_table(names: Sequence[str]) -> str:
    """The table of `turns`."""
    lines = [
        "| arm | turn | area of the deciding token | reward, minus uniform | seeds to see as much |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in turns(names):
        seeds = "-" if row["seeds"] is None else row["seeds"]
        lines.append(f"| {row['label']} | {row['turn']:.3f} | {row['area']:.2f} | {row['shown']} | {seeds} |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """A page's text with its tables made anew."""

    def made(match: re.Match[str]) -> str:
        opening = match[0].partition("\n")[0]
        words = match[3].split()
        body = table(match[2], words) if match[1] == "table" else turn_table([match[2], *words])
        return f"{opening}\n\n{body}\n\n<!-- end of table -->"

    return MARKED.sub(made, text)


def draw(names: Sequence[str]) -> None:
    """The two figures: every arm's difference with its interval, and differences against turns; light and dark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = sorted(turns(names), key=lambda row: row["difference"])
    for theme, (ink, paper) in {"light": ("#333333", "white"), "dark": ("#dddddd", "#1e2129")}.items():
        plt.rcParams.update(
            dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
        )
        figure, axes = plt.subplots(figsize=(9, 0.32 * len(rows) + 1), facecolor=paper)
        _intervals(axes, rows, ink)
        figure.savefig(FIGURES / f"differences-{theme}.png", dpi=130, bbox_inches="tight", facecolor=paper)
        figure, axes = plt.subplots(figsize=(9, 4.5), facecolor=paper)
        _against_turn(axes, rows, ink)
        figure.savefig(FIGURES / f"turns-{theme}.png", dpi=130, bbox_inches="tight", facecolor=paper)


def _colour(label: str) -> str:
    kinds = {
        "oracle": "#8a8a8a",
        "flow": "#1f77b4",
        "one_hop": "#2ca02c",
        "raw_flow": "#2ca02c",
        "gradient": "#2ca02c",
    }
    kinds["global_anchor"] = "#2ca02c"
    return next((colour for start, colour in kinds.items() if label.startswith(start)), "#d9822b")


def _frame(axes: Any, ink: str) -> None:
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)


def _intervals(axes: Any, rows: Sequence[Mapping[str, Any]], ink: str) -> None:
    _frame(axes, ink)
    axes.axvline(0, color=ink, linewidth=0.8)
    for height, row in enumerate(rows):
        low, high = row["interval"]
        axes.plot([low, high], [height, height], color=_colour(row["label"]), linewidth=2)
        axes.plot(row["difference"], height, "o", color=_colour(row["label"]))
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows], fontfamily="monospace")
    axes.set_xlabel("mean training reward minus uniform's, 95% interval over seeds")
    axes.margins(y=0.02)


def _against_turn(axes: Any, rows: Sequence[Mapping[str, Any]], ink: str) -> None:
    _frame(axes, ink)
    axes.axhline(0, color=ink, linewidth=0.8)
    for row in rows:
        low, high = row["interval"]
        axes.plot([row["turn"]] * 2, [low, high], color=_colour(row["label"]), linewidth=1.2, alpha=0.7)
        axes.plot(row["turn"], row["difference"], "o", color=_colour(row["label"]))
        axes.annotate(
            row["label"],
            (row["turn"], row["difference"]),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=7,
        )
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xlabel("turn: 1 - cosine to uniform's gradient on the same rollouts")
    axes.set_ylabel("reward, minus uniform")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: fills every page."""
    for page in PAGES:
        page.write_text(filled(page.read_text()))
    if "--draw" in (sys.argv[1:] if arguments is None else arguments):
        draw(["decision.json", "comparison.json"])


if __name__ == "__main__":
    main()
