"""Fills the result tables of README and docs/results from the kept files: `python docs/scripts/results.py`.

A table stands between `<!-- table FILE ARM ARM ... -->` and `<!-- end of table -->`; FILE is a JSON of
leaderboards/results. tests/test_results.py holds the tables to the files, and numbers in the text to the tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "leaderboards" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "results").glob("*.md")))
MARKED = re.compile(r"<!-- table (\S+)((?: \S+)*) -->\n.*?<!-- end of table -->", re.DOTALL)
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


def filled(text: str) -> str:
    """A page's text with its tables made anew."""

    def made(match: re.Match[str]) -> str:
        opening = match[0].partition("\n")[0]
        return f"{opening}\n\n{table(match[1], match[2].split())}\n\n<!-- end of table -->"

    return MARKED.sub(made, text)


def main() -> None:
    """The command line: fills every page."""
    for page in PAGES:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
