"""How a traced response is drawn: as terminal text and as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

import torch
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from torch import Tensor

from flowtracer.flow import Flow

#: Edges a token shows on the page: its largest inflows, and as many of its largest outflows.
EDGES = 8
#: Paths of the backbone on the page and in the terminal.
PATHS = 5


class Traced(Protocol):
    """The part of a `tracing.Trace` that is drawn; the fields are the trace's."""

    name: str
    layers: list[int]
    prompt_length: int
    tokens: list[str]
    answer: Tensor
    response: Tensor
    flow: Flow

    @property
    def answer_text(self) -> str:
        """The tokens of the answer as text."""

    def top(self, ratio: float = 0.4) -> list[int]:
        """Positions of the response tokens that credit `flow` up-weights at this ratio."""

    def backbone(self, paths: int = PATHS) -> list[tuple[float, list[int]]]:
        """The most probable paths of the flow, as (probability, positions)."""


class TerminalView:
    """A trace as a rich renderable. Without colours, or off a terminal, brackets mark what styles would."""

    def __init__(self, traced: Traced, width: int = 80) -> None:
        self.traced = traced
        self.width = width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        styled = console.is_terminal and console.color_system is not None
        options = options.update_width(min(self.width, options.max_width))
        for part in (self._summary(), self._text(styled), self._table(), self._paths()):
            for segment in console.render(part, options):
                yield _in_ascii(segment) if options.ascii_only else segment
            yield Text()

    def _summary(self) -> Text:
        traced = self.traced
        chosen, responses = len(traced.top()), int(traced.response.sum())
        summary = Text(traced.name or "Trace", style="bold")
        summary.append(
            f"\n{traced.prompt_length} prompt and {responses} response tokens, layers {ranges(traced.layers)}; "
            f"answer {traced.answer_text.strip()!r}; flow up-weights {chosen} of {responses} tokens",
            style="not bold dim",
        )
        return summary

    def _text(self, styled: bool) -> Text:
        """The response; runs of up-weighted tokens and the answer in a style, or in brackets with a legend."""
        traced, text = self.traced, Text()
        chosen = set(traced.top())

        def mark(kind: str, run: str) -> None:
            # A line break has to show something before it breaks, or nobody sees that it is marked.
            for line in run.replace("\n", "\u21b5\n").splitlines(keepends=True):
                body = line.rstrip("\n")
                if styled:
                    text.append(body, style=_STYLES[kind])
                else:
                    text.append(body.join(_BRACKETS[kind]))
                text.append(line[len(body) :])

        for kind in _BRACKETS:
            mark(kind, f" {kind} " if styled else kind)
            text.append("  ")
        text.append("\n\n")
        positions = range(traced.prompt_length, len(traced.tokens))
        kinds = ["answer" if traced.answer[at] else "up-weighted" if at in chosen else "" for at in positions]
        for kind, run in groupby(zip(kinds, positions, strict=True), key=itemgetter(0)):
            words = "".join(traced.tokens[position] for _, position in run)
            if kind:
                mark(kind, words)
            else:
                text.append(words)
        return text

    def _table(self) -> Table:
        """The ten response tokens of largest throughput."""
        traced = self.traced
        flow = traced.flow.flow
        table = Table(
            title="Response tokens of largest throughput", box=box.SIMPLE_HEAD, title_justify="left"
        )
        table.add_column("position", justify="right")
        table.add_column("token")
        table.add_column("share of flow", justify="right")
        table.add_column("largest inflow")
        for position in _largest(flow * traced.response, 10):
            # A row at a time: a long response has no edges as a whole.
            inflow = traced.flow.edge_flow(slice(position, position + 1))[0]
            source = int(inflow.argmax())
            share = float(inflow[source] / flow[position])
            table.add_row(
                str(position),
                Text(
                    _label(traced.tokens[position]),
                    style=_STYLES["answer" if traced.answer[position] else "up-weighted"],
                ),
                f"{float(flow[position]):.1%}",
                Text(f"{_label(traced.tokens[source])} @{source}, {share:.1%}"),
            )
        return table

    def _paths(self) -> Text:
        text = Text("Backbone: the most probable paths from the prompt to the answer\n", style="italic")
        for probability, path in self.traced.backbone():
            text.append(f"\n{probability:7.2%}  ", style="not italic")
            steps = [f"{_label(self.traced.tokens[position])} @{position}" for position in path]
            text.append(" \u2192 ".join(steps), style="not italic")
        return text


_BRACKETS = {"up-weighted": ("\u27e6", "\u27e7"), "answer": ("\u27ea", "\u27eb")}
_STYLES = {"up-weighted": "bold black on yellow", "answer": "bold black on green"}


# For consoles without Unicode: the signs above and below in ASCII, any other character by its number.
_ASCII = str.maketrans(
    {
        "\u27e6": "[",
        "\u27e7": "]",
        "\u27ea": "{",
        "\u27eb": "}",
        "\u21b5": "\\n",
        "\u2423": "_",
        "\u2192": "->",
    }
)


def _in_ascii(segment: Segment) -> Segment:
    text = segment.text.translate(_ASCII).encode("ascii", "backslashreplace").decode()
    return Segment(text, segment.style, segment.control)


def _label(piece: str) -> str:
    """A token on one line, its blanks visible."""
    stripped = piece.strip(" ")
    left = len(piece) - len(piece.lstrip(" ")) if stripped else len(piece)
    right = len(piece) - left - len(stripped)
    return "\u2423" * left + stripped.replace("\n", "\u21b5").replace("\t", "\u21e5") + "\u2423" * right


def _largest(values: Tensor, count: int) -> list[int]:
    """Positions of the `count` largest values above 0, largest first, ties by position."""
    order = values.argsort(descending=True, stable=True)[:count].tolist()
    return [position for position in order if values[position] > 0]


def page(traced: Traced, methods: list[dict[str, Any]]) -> str:
    """The HTML page. methods: the weights of each credit method, as its script reads them."""
    template = resources.files("flowtracer").joinpath("view.html").read_text(encoding="utf-8")
    # json escapes everything beyond ASCII; a "<" in the text must not end the script element either.
    data = json.dumps(_page_data(traced, methods), separators=(",", ":")).replace("<", "\\u003c")
    return template.replace("{{DATA}}", data)


def _page_data(traced: Traced, methods: list[dict[str, Any]]) -> dict[str, Any]:
    """The data that the page draws. Only the largest edges of each token: whole maps of long responses fit no page."""
    flow = traced.flow.flow
    edges = traced.flow.edge_flow()
    sources = int(traced.flow.reaching_sources)
    return {
        "name": traced.name,
        "layers": ranges(traced.layers),
        "prompt": traced.prompt_length,
        "tokens": traced.tokens,
        "answer": traced.answer.nonzero().flatten().tolist(),
        "flow": [float(f"{share:.3g}") for share in flow.tolist()],
        "sources": sources,
        "entering": float(f"{1 / sources:.3g}"),
        "into": _largest_shares(edges, flow),
        "out": _largest_shares(edges.mT, flow),
        "backbone": [
            {"probability": float(f"{probability:.3g}"), "path": path}
            for probability, path in traced.backbone()
        ],
        "methods": methods,
    }


def _largest_shares(edges: Tensor, flow: Tensor) -> list[list[int]]:
    """For each row, the columns of its largest edges and their thousandths of the token's flow, alternating."""
    shares, columns = (edges / flow.clamp(min=torch.finfo(flow.dtype).tiny).unsqueeze(1)).topk(
        min(EDGES, len(flow))
    )
    thousandths = (1000 * shares).round().int()
    rows = torch.stack((columns, thousandths), -1).tolist()
    return [[number for column, share in row if share > 0 for number in (column, share)] for row in rows]


def ranges(numbers: Sequence[int]) -> str:
    """[3, 4, 5, 9] as "3-5, 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
