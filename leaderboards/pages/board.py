"""One experiment as a page: ranking and verdict first, then drawings whose arms can be switched on and off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leaderboards import terminal
from leaderboards.comparison import Comparison
from leaderboards.pages import answers, charts
from leaderboards.pages.answers import Asked
from leaderboards.pages.parts import page, table, text
from leaderboards.records import Run
from leaderboards.sheets import Sheet

_POSITIVE_CONTROL = {"sensitive": "good", "not sensitive": "bad", "not tested": "open"}


def to_html(
    comparison: Comparison,
    runs: Sequence[Run],
    command: str | None = None,
    claims: Sequence[Sheet] = (),
    asked: Asked = answers.unknown,
) -> str:
    """The page. `command` repeats these runs, by default `flowtracer reproduce` with the experiment's name.

    claims: tables of published numbers that these runs test. asked: the question and the gold of a problem, where they
    are known: records hold its id.
    """
    name = str(comparison.experiment.get("name", ""))
    command = command or f"flowtracer reproduce {name}".strip()
    ranking, *others = terminal.sheets(comparison, runs)
    drawn = charts.drawn(comparison)
    seen = answers.gained_and_lost(comparison, asked)
    credit = answers.credit(comparison)
    body = [
        *summary(comparison),
        _contents(bool(seen), bool(credit), bool(claims)),
        table(ranking, comparison.baseline, name="ranking"),
        "<main>",
        *_charts(comparison, drawn),
        *seen,
        credit,
        "</main>",
        '<span id="tables"></span>',
        *(table(sheet, comparison.baseline) for sheet in others),
    ]
    if claims:
        body += [
            '<h2 id="claims">Published claims</h2>',
            "<details><summary>What was published of these methods, and what runs say about it</summary>",
            *(table(sheet, heading="h3") for sheet in claims),
            "</details>",
        ]
    body += [*_provenance(comparison, runs), "<h2>To repeat it</h2>", f"<pre>{text(command)}</pre>"]
    return page(terminal.title(comparison), body, {"arms": charts.arms(comparison), "charts": drawn})


def summary(comparison: Comparison, heading: str = "h1") -> list[str]:
    """Title, how much was run, the verdict on each arm in a few lines, and the positive control."""
    control = comparison.positive_control
    items = "".join(
        f'<li class="{tone}">{text(words)}: <span>{text(", ".join(labels))}</span></li>'
        for words, tone, labels in verdicts(comparison)
    )
    return [
        f"<{heading}>{text(terminal.title(comparison))}</{heading}>",
        f'<p class="soft">{text(terminal.headline(comparison))}</p>',
        f'<ul class="verdicts">{items}</ul>' if items else "",
        f'<p class="control {_POSITIVE_CONTROL[control.outcome]}">{text(control.text)}</p>',
    ]


def verdicts(comparison: Comparison) -> list[tuple[str, str, list[str]]]:
    """The outcomes by the declared rule, the arms of one together: its words, its tone, and their labels by rank."""
    baseline, d = comparison.baseline, comparison.smallest_difference
    kinds = (
        ("better", f"better than {baseline}", "good"),
        ("no difference", f"no difference from {baseline} larger than {d:g}", "same"),
        ("worse", f"worse than {baseline}", "bad"),
        ("cannot tell", "cannot tell", "open"),
    )
    together = []
    for start, words, tone in kinds:
        labels = [arm.label for arm in comparison.arms if arm.outcome.startswith(start)]
        if labels:
            together.append((words, tone, labels))
    return together


def _contents(seen: bool, credit: bool, claims: bool) -> str:
    """Links to the parts of the page."""
    parts = [
        ("drawings", "drawings", True),
        ("answers", "gained and lost", seen),
        ("credit", "credit", credit),
    ]
    parts += [
        ("tables", "tables", True),
        ("claims", "published claims", claims),
        ("made", "provenance", True),
    ]
    links = "".join(f'<a href="#{place}">{words}</a>' for place, words, there in parts if there)
    return f"<nav>{links}</nav>"


def _charts(comparison: Comparison, drawn: Sequence[Mapping[str, Any]]) -> list[str]:
    if not drawn:
        return []
    inside = f"{1 - comparison.alpha:.0%} interval over training seeds"
    notes = {
        "differences": f"Large dot and line: mean and {inside}; small dots: single seeds; shaded: differences below "
        f"{comparison.smallest_difference:g}, declared not to matter.",
        "curves": f"Mean and {inside}; many steps are averaged in blocks.",
    }
    parts = [
        '<h2 id="drawings">Drawings</h2>',
        '<p class="note">Switch arms on and off: the scales follow, and the answers below. A positive control is off '
        "at first, since its gain squashes the others on one scale. Point at a curve for its values, and at a button "
        "to see one arm. Of more than five curves no intervals are drawn but that arm's.</p>",
        '<noscript><p class="note">Drawings need JavaScript; the tables hold their numbers.</p></noscript>',
        '<div class="arms" id="arms" role="group" aria-label="Arms that are drawn"></div>',
    ]
    for number, chart in enumerate(drawn):
        focus = ' tabindex="0"' if chart["kind"] == "curves" else ""
        parts += [
            f"<h3>{text(chart['title'])}</h3>",
            f'<p class="note">{text(notes[chart["kind"]])}</p>',
            f'<figure class="chart" data-chart="{number}"{focus}></figure>',
        ]
    return parts


def _place(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in sorted(value.items()) if item is not None)
    return str(value)


def _provenance(comparison: Comparison, runs: Sequence[Run]) -> list[str]:
    """The declaration and the places where the runs were made, as a list."""
    shown_above = ("positive control", "hashes")
    facts = [(key, words) for key, words in terminal.provenance(comparison, runs) if key not in shown_above]
    facts += [("note", note) for note in comparison.notes]
    facts += [("experiment hash", comparison.experiment_hash), ("run set hash", comparison.run_set_hash)]
    manifests = [score.run.manifest for score in comparison.scores.values()]
    for key in ("versions", "environment_hash", "hardware", "git_commit"):
        places = {_place(getattr(manifest, key)) for manifest in manifests} - {"None", ""}
        facts += [(key.replace("_", " "), place) for place in sorted(places)]
    modules = {
        f"{name} {record['sha256'][:12]}" for each in manifests for name, record in (each.code or {}).items()
    }
    facts += [("code of one's own", module) for module in sorted(modules)]
    items = "".join(f"<dt>{text(key)}</dt><dd>{text(words)}</dd>" for key, words in facts)
    return ['<h2 id="made">Provenance</h2>', f"<dl>{items}</dl>"]
