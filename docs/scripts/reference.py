"""Writes the reference pages from the code: `python docs/scripts/reference.py`. tests/test_docs.py holds them to it."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import tasks
from flowtracer import credit
from flowtracer.credit import elsewhere
from harness import cards, cli
from harness.engines.base import ENGINES
from harness.experiment import OF_FILES, Evaluation, EvaluationTask, Experiment, PolicySettings, Training
from leaderboards.declaration import Declaration

FOLDER = Path(__file__).parents[1] / "reference"
#: Opens the page of the credit methods.
METHODS = """`flowtracer methods NAME` prints the same card. It follows the CA-ID card that the survey of credit
assignment asks for ([arXiv 2604.09459](https://arxiv.org/abs/2604.09459)): each claim with its estimand, its evidence
and a test that could prove it wrong. "Identical" names the file and lines of a public code, "our reading" the section
of a paper.

Our results are read from the files under leaderboards/results each time that this page is made. They are of small
testbeds and say nothing about a large policy; of those on the first version of `decision`, whose deciding token stood
first, [the trap](concepts/trap.md) says what they are worth.

Others, in independent tests of over 160 runs: a soft gate turned the gradient by 5%, a hard mask by 63%, and
neither gained (teilo.xyz, posts/sepa).
"""
MADE = "Made from the code by `python docs/scripts/reference.py`; a test holds this page to it.\n"


def commands() -> str:
    """The command line, from its parser."""
    parts = ["# Command line\n", MADE]
    for name, parser in subcommands().items():
        parts.append(f"## {name}\n\n{parser.description}\n")
        rows = [
            (_names(action), _help(parser, action)) for action in parser._actions if action.dest != "help"
        ]
        parts.append(_table(("argument", "meaning"), rows))
    return "\n".join(parts)


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, in the order of `flowtracer --help`."""
    action = next(a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def experiments() -> str:
    """The keys of an experiment file, from the dataclasses that read them."""
    hints = get_type_hints(Experiment)
    # Without the name, which is that of the file.
    top = [f for f in fields(Experiment) if hints[f.name] in (str, int) and f.name != "name"]
    parts = [
        "# Experiment keys\n",
        MADE,
        "## At the top of the file\n",
        _table(("key", "type", "default"), [(f.name, str(f.type), _default(f)) for f in top]),
        f"`engine` is {' or '.join(f'`{name}`' for name in ENGINES)}. More keys of a file, which are no part of an "
        "experiment:\n",
        _table(("key", "says"), list(OF_FILES.items())),
    ]
    tables = {
        "declaration": Declaration,
        "policy": PolicySettings,
        "training": Training,
        "evaluation": Evaluation,
        "evaluation.more": EvaluationTask,
    }
    for table, kind in tables.items():
        name = f"[[{table}]]" if "." in table else f"[{table}]"
        parts.append(f"## `{name}`\n\n{_doc(kind)}\n")
        parts.append(
            _table(("key", "type", "default"), [(f.name, str(f.type), _default(f)) for f in fields(kind)])
        )
    parts.append("## `[task]` and `[methods.ARM]`\n")
    parts.append(
        "`name` of the task, and its options: see [tasks](tasks.md). `credit` of the arm (the name of the arm where it "
        "is left out), and the options of the method: see [credit methods](../methods.md). `credit` may be an array of "
        "names, whose weights are multiplied; `sign` and `as_mask` go with every method: see "
        "[methods put together](../howto/experiment.md#methods-put-together).\n"
    )
    return "\n".join(parts)


def methods() -> str:
    """The cards of the credit methods, from their classes and the kept results."""
    from harness.commands.methods import listed

    every = [credit.get(name) for name in credit.names()]
    table = listed(every)
    rows = [(f"[{row[0]}](#{row[0]})", *map(_plain, row[1:])) for row in table.rows]
    parts = ["# Credit methods\n", MADE, METHODS, _table(table.columns, rows), f"\n{_plain(table.note)}\n"]
    parts += [_card(method) for method in every]
    parts.append("## Left out\n")
    parts += [f"`{name}`: {reason}.\n" for name, reason in elsewhere.LEFT_OUT.items()]
    return "\n".join(parts)


def _card(method: Any) -> str:
    """The card of one method as a section."""
    card = cards.shown(method)
    parts = [f"## {card.name}\n\n{_doc(type(method))}\n"]
    rows = [(what, f"<{text}>" if what == "link" else _plain(text)) for what, text in card.facts]
    rows += [("published", _plain(claim)) for claim in card.claims or ("none",)]
    parts.append(_table(("", ""), rows))
    options = [(name, f"`{default}`", _plain(source)) for name, default, source in card.options]
    parts.append(_table(("option", "default", "where the default comes from"), options))
    results = [
        (
            f"[{each.page.removesuffix('.md')}](../leaderboards/results/{each.page})",
            each.arm,
            _plain(each.says),
        )
        for each in card.results
    ]
    parts.append(_table(("our results", "arm", "what it says"), results) or "No result of it is kept.\n")
    return "\n".join(parts)


def task_pages() -> str:
    """The tasks with their options, from the registry."""
    parts = ["# Tasks\n", MADE]
    for name in tasks.names():
        kind = tasks.kind(name)
        signature = inspect.signature(kind).parameters.values()
        options = ", ".join(f"`{p.name}` ({p.default!r})" for p in signature if p.default is not p.empty)
        parts.append(f"## {name}\n\n{_doc(kind)}\n")
        rows = [
            ("source", kind.source),
            ("licence", kind.licence),
            ("answer", kind.answer_format),
            ("samples a problem", str(kind.samples)),
            ("options (default)", options or "none"),
        ]
        parts.append(_table(("", ""), rows))
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands,
    "experiments.md": experiments,
    "../methods.md": methods,
    "tasks.md": task_pages,
}


def _names(action: argparse.Action) -> str:
    words = ", ".join(f"`{name}`" for name in action.option_strings)
    value = action.metavar or (None if action.nargs == 0 else action.dest.upper())
    shown = " ".join(value) if isinstance(value, tuple) else value
    return " ".join(part for part in (words, f"`{shown}`" if shown else "") if part)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    if action.choices:
        said = f"{text.rstrip('.')}. " if text else ""
        text = f"{said}One of: {', '.join(map(str, action.choices))}."
    return text.strip()


def _default(field: Any) -> str:
    if field.default is MISSING:
        return "required" if field.default_factory is MISSING else "empty"
    return f"`{field.default!r}`"


def _doc(kind: type) -> str:
    # Names in capitals and formulas stand as they are written; only what Markdown would read as its own is escaped.
    return _plain(inspect.getdoc(kind) or "")


def _code(text: str) -> Iterator[tuple[bool, str]]:
    for number, part in enumerate(text.split("`")):
        yield number % 2 == 1, part


def _escaped(piece: tuple[bool, str]) -> str:
    is_code, text = piece
    if is_code:
        return f"`{text}`"
    for sign in ("\\", "*", "_", "<", "[", "|"):
        text = text.replace(sign, "\\" + sign)
    return text


def _plain(text: str) -> str:
    """Text in which Markdown finds nothing of its own."""
    return "".join(_escaped(part) for part in _code(text))


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [header, ("---",) * len(header), *rows]
    return "".join(
        "| " + " | ".join(" ".join(re.sub(r"\\?\|", r"\\|", cell).split()) for cell in row) + " |\n"
        for row in lines
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for page, text in PAGES.items():
        (FOLDER / page).write_text(text(), encoding="utf-8")
