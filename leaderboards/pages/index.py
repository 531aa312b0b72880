"""An index of several experiments: each by itself, with its verdict and a link to its page. Nothing is pooled."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboards.comparison import Comparison
from leaderboards.pages.board import summary
from leaderboards.pages.parts import page, table, text
from leaderboards.sheets import Sheet


def to_index(entries: Sequence[tuple[Comparison, str]], pooled: Sheet | None = None) -> str:
    """The index page. entries: a comparison and the address of its page. pooled: a table over all, where it was asked
    for.
    """
    body = [
        f"<h1>{len(entries)} experiments</h1>",
        '<p class="soft">Each answers its own question, on its own policy and task.</p>',
    ]
    for comparison, address in entries:
        body += [
            '<section class="board">',
            *summary(comparison, "h2"),
            f'<p class="soft">{text(about(comparison))}</p>',
            f'<p><a href="{text(address)}">Ranking, drawings and answers</a></p>',
            "</section>",
        ]
    return page("Experiments", [*body, table(pooled) if pooled else ""])


def about(comparison: Comparison) -> str:
    """Policy, task and metric of an experiment, as far as they are recorded."""
    parts = []
    for name in ("policy", "task"):
        recorded = comparison.experiment.get(name)
        if isinstance(recorded, dict) and recorded.get("name"):
            parts.append(f"{name} {recorded['name']}")
    return ", ".join([*parts, f"metric {comparison.metric}"])
