"""A result page that answers, in this order: the question, the dumbest rules, the table, its limits, the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.studies.figures import Level
from leaderboards.sheets import Sheet, escaped, to_markdown


@dataclass(frozen=True)
class Page:
    """One question and its answer.

    facts: what was measured on, a line each. rules: the dumbest rules that could give the same answer. sheets: the
    answer. limits: what it cannot say. command: the exact command that made the page.
    """

    title: str
    question: str
    facts: Sequence[str]
    rules: Sheet
    sheets: Sequence[Sheet]
    limits: Sequence[str]
    command: str

    @property
    def tables(self) -> list[Sheet]:
        """All tables, the rules first."""
        return [self.rules, *self.sheets]

    def to_markdown(self) -> str:
        """The page in Markdown."""
        lines = [f"# {escaped(self.title)}", "", escaped(self.question), ""]
        lines += [f"- {escaped(fact)}" for fact in self.facts]
        lines += ["", *(to_markdown(sheet, "##") for sheet in self.tables)]
        lines += ["## What it cannot say", "", *(f"- {escaped(limit)}" for limit in self.limits)]
        return "\n".join([*lines, "", "## The command", "", "```sh", self.command, "```", ""])


def changed_settings(changes: Sequence[str]) -> list[str]:
    """A fact on the settings that --set changed; none where it changed nothing."""
    return [f"changed settings: {', '.join(changes)}"] if changes else []


def values_fact(valued: int, continuations: int, agreement: Level) -> list[str]:
    """A fact on token values, and how well two halves of the continuations agree; none where nothing was valued."""
    if not valued:
        return []
    agreed = "unknown" if agreement is None else f"{agreement[0]:.2f}"
    return [
        f"token values: {valued} responses, {continuations} continuations a prefix; two halves of them agree at rank "
        f"correlation {agreed}"
    ]
