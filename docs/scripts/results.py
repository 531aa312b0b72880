"""Fills the result tables of README and docs/results from the kept files: `python docs/scripts/results.py`.

A table stands between `<!-- table FILE ARM ARM ... -->` and `<!-- end of table -->`; FILE is a JSON of
leaderboards/results; `replay` in place of `table` for one of a replay. tests/test_results.py holds the tables to the
files, and numbers in the text to the tables. With `--draw`, the figure of these pages is drawn too.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "leaderboards" / "results"
FIGURES = ROOT / "docs" / "figures"
RESULTS = tuple(sorted((ROOT / "docs" / "results").glob("*.md")))
PAGES = (ROOT / "README.md", ROOT / "docs" / "predictions.md", *RESULTS)
MARKED = re.compile(r"<!-- (table|replay) (\S+)((?: \S+)*) -->\n.*?<!-- end of table -->", re.DOTALL)
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
    "flow": "flow: FlowTracer, from the answer's own rows",
    "flow_3": "flow from the answer's own rows, 3 times",
    "flow_emitting": "flow from the rows that emit the answer",
    "flow_emitting_3": "flow from the rows that emit the answer, 3 times",
    "flow_all_3": "flow over all layers, own rows, 3 times",
    "flow_all_emitting_3": "flow over all layers, emitting rows, 3 times",
    "one_hop_3": "attention from the answer, one hop, 3 times",
    "one_hop_emitting_3": "attention from the emitting rows, one hop, 3 times",
    "raw_flow_3": "flow from the prompt, whatever the answer, 3 times",
    "gradient_3": "the answer's gradient, 3 times",
    "global_anchor_3": "tokens that later ones attend to from afar, 3 times",
    "coupled_3": "coupled rhythm of attention (Li et al.), 3 times",
    "entropy_3": "the 40% of highest entropy, 3 times",
    "tempo": "TEMPO: a value for each prefix of the group",
    "oracle": "the token that decides, 1.5 times (positive control)",
    "one_hop": "attention from the answer's rows, one hop",
    "attention_rollout": "attention rollout from the answer",
    "gradient": "the answer's gradient",
    "raw_flow": "flow from the prompt, whatever the answer",
    "oar_perturb": "what moves the answer when it is replaced (OAR)",
    "oppo": "a teacher that knows the answer (OPPO)",
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
    return f"{_signed(arm['difference'])} ± {(high - low) / 2:.3f}"


def _signed(value: float) -> str:
    """Three digits with their sign; what rounds to nothing is +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _outcome(arm: Mapping[str, Any]) -> str:
    return str(arm.get("outcome", arm.get("verdict"))).partition(":")[0]


def replayed(name: str, labels: Sequence[str]) -> str:
    """The rows `labels` of the replay kept in the file `name`, all of them by ratio where none is named."""
    rows = figures(name)
    lines = [
        "| who gets more credit | finds the deciding token | signal to noise, minus uniform's | turn |",
        "|---|--:|--:|--:|",
    ]
    for label in labels or rows:
        row = rows[label]
        low, high = row["ratio_difference_interval"]
        lines.append(
            f"| {WORDS.get(label, label)} | {row['decisive'][0]:.2f} | {_signed(row['ratio_difference'])} ± "
            f"{(high - low) / 2:.3f} | {row['turn'][0]:.3f} |"
        )
    return "\n".join(lines)


def figures(name: str) -> dict[str, Any]:
    """Label -> figures of every arm but uniform of the replay kept in the file `name`, best ratio first."""
    rows = [row for row in load(name)["figures"] if row["label"] != "uniform"]
    return {row["label"]: row for row in sorted(rows, key=lambda row: -row["ratio_difference"])}


def filled(text: str) -> str:
    """A page's text with its tables made anew."""

    def made(match: re.Match[str]) -> str:
        opening = match[0].partition("\n")[0]
        words = match[3].split()
        body = (table if match[1] == "table" else replayed)(match[2], words)
        return f"{opening}\n\n{body}\n\n<!-- end of table -->"

    return MARKED.sub(made, text)


def draw(name: str) -> None:
    """The figure of a replay: every arm's signal to noise, minus uniform's, with its interval; light and dark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = list(reversed(figures(name).values()))
    for theme, (ink, paper) in {"light": ("#333333", "white"), "dark": ("#dddddd", "#1e2129")}.items():
        figure, axes = plt.subplots(figsize=(9, 0.3 * len(rows) + 1), facecolor=paper)
        _intervals(axes, rows, ink)
        figure.savefig(FIGURES / f"replay-{theme}.png", dpi=130, bbox_inches="tight", facecolor=paper)


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


def _intervals(axes: Any, rows: Sequence[Mapping[str, Any]], ink: str) -> None:
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(ink)
    axes.axvline(0, color=ink, linewidth=0.8)
    for height, row in enumerate(rows):
        colour = _colour(row["label"])
        axes.plot(row["ratio_difference_interval"], [height, height], color=colour, linewidth=2)
        axes.plot(row["ratio_difference"], height, "o", color=colour)
    names = [f"{row['label']}  (area {row['decisive'][0]:.2f})" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontfamily="monospace", color=ink)
    axes.tick_params(colors=ink)
    axes.set_xlabel("signal-to-noise ratio of one batch's gradient, minus uniform's; 95% interval", color=ink)
    axes.margins(y=0.02)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: fills every page."""
    for page in PAGES:
        page.write_text(filled(page.read_text()))
    if "--draw" in (sys.argv[1:] if arguments is None else arguments):
        draw("replay-comparison.json")


if __name__ == "__main__":
    main()
