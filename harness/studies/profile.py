"""Profile: every credit method on every testbed, from files of `leaderboard`, `replay`, `steps` and `values`.

A testbed is an experiment with a policy, by the names in the files. Arms are joined by credit method and options, never
by their labels. Figures of unlike testbeds have no common scale, so nothing is averaged, pooled or ranked over them.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.studies.answering import Page
from harness.studies.arms import ALWAYS, ROLES, RULES, Arm, arm_of
from harness.studies.measured import REPLAY, STEPS, TRAINING, VALUES, Cell, Measured, Row
from leaderboards.estimates import Interval
from leaderboards.sheets import NOTHING, Sheet, level, plain


@dataclass(frozen=True)
class Figure:
    """A figure of an arm. of: the kind of file that holds it. means: for a reader of the table. In the table of a
    testbed, `brief` figures have a column, and `spread` ones their interval in it. chance: what a ranking in a random
    order has; the same ranking turned round has twice this, minus its value.
    """

    key: str
    head: str
    of: str
    means: str
    sign: str = ""
    digits: int = 2
    brief: bool = True
    spread: bool = True
    chance: float | None = None


FIGURES = (
    Figure("difference", "difference", TRAINING, "of the declared metric, from the baseline's", "+", 3),
    Figure("outcome", "outcome", TRAINING, "by the declared rule", brief=False),
    Figure(
        "decisive_unsure",
        "AUC",
        REPLAY,
        "the chance that a deciding token gets more weight than another one that the policy was unsure of",
        chance=0.5,
    ),
    Figure(
        "decisive",
        "AUC of all",
        REPLAY,
        "the chance that a deciding token gets more weight than any other one, also by telling sure tokens from unsure",
        brief=False,
        chance=0.5,
    ),
    Figure(
        "ratio_difference",
        "signal/noise",
        REPLAY,
        "of one batch's gradient, minus that of uniform credit",
        "+",
    ),
    Figure(
        "turn",
        "turn",
        REPLAY,
        "1 - cosine between the update and that of uniform credit",
        "",
        3,
        spread=False,
    ),
    Figure(
        "value_size",
        "value, size",
        REPLAY,
        "rank correlation of weights with how much a token changes the Monte Carlo value",
        "+",
        brief=False,
        chance=0.0,
    ),
    Figure(
        "value_direction",
        "value",
        REPLAY,
        "rank correlation of weights with what a token changes in the Monte Carlo value, in the advantage's direction",
        "+",
        chance=0.0,
    ),
    Figure(
        "needed_matched",
        "needed",
        STEPS,
        "the chance that a needed step outranks a useless one of its length",
        chance=0.5,
    ),
    Figure(
        "wrong_matched",
        "first wrong",
        STEPS,
        "the chance that the first wrong step outranks another of its length",
        chance=0.5,
    ),
    Figure(
        "cut_size",
        "cuts, size",
        VALUES,
        "rank correlation of a cut's weight with how much its segment changes the Monte Carlo value",
        "+",
        brief=False,
        chance=0.0,
    ),
    Figure(
        "cut_signed",
        "cuts",
        VALUES,
        "rank correlation of a cut's weight with what its segment changes, in the advantage's direction",
        "+",
        chance=0.0,
    ),
    Figure(
        "first_fall",
        "first fall",
        VALUES,
        "the chance that the segment after which the value is 0 outranks another of its response",
        chance=0.5,
    ),
    Figure(
        "step_seconds",
        "s/step",
        TRAINING,
        "seconds of a training step, sampling and all",
        digits=3,
        brief=False,
    ),
    Figure("update_seconds", "s/update", REPLAY, "seconds of an update, without sampling", digits=3),
)
#: Why an arm has no figure of a kind: where its testbed has a file of that kind, and where it has none.
NO_ROW = {
    TRAINING: "not trained",
    REPLAY: "not replayed",
    STEPS: "not in the study of steps",
    VALUES: "not in the study of values",
}
NO_FILE = {
    TRAINING: "no file of a training",
    REPLAY: "no file of a replay",
    STEPS: "no file of known steps",
    VALUES: "no file of values",
}
#: How an outcome stands behind its difference in the table of a testbed.
OUTCOMES = {"better": "▲", "worse": "▼", "no difference": "=", "cannot tell": "?"}
LIMITS = (
    "Testbeds differ in policy, task and size. Their figures have no common scale, so there is no mean and no rank.",
    "AUC, signal to noise, turn and value are read off rollouts of one policy. A clearer gradient is not yet a better "
    "policy; only the outcome of a training is.",
    "A rule turned round has no row, though it counts: where a rule has an AUC of 0.2, the other way round it has 0.8.",
    "How unsure the policy was of a token is a method here and no rule, values at cuts excepted.",
    "Each interval is of one arm by itself. Among so many arms some lie apart from chance by luck. Outcomes of "
    "training are corrected for that (Holm), other figures are not.",
    "Where two halves of the continuations hardly agree (under each table), a value correlation is mostly noise.",
    "Seconds were measured on a busy machine and cannot be repeated.",
)
#: Figures in which an arm can do more than rules without insight; more is better credit in each.
TELLING = (
    "difference",
    "decisive_unsure",
    "ratio_difference",
    "value_direction",
    "needed_matched",
    "wrong_matched",
    "cut_signed",
    "first_fall",
)


@dataclass(frozen=True)
class Testbed:
    """One testbed. rows: every arm of its files, then the rules that nobody measured there; `sources`: kind -> file."""

    name: str
    policy: str
    facts: Sequence[str]
    sources: Mapping[str, Path]
    rows: Sequence[Joined] = field(repr=False)


@dataclass(frozen=True)
class Joined:
    """An arm on a testbed. labels: kind -> the file's label. cells: a cell for every figure of `FIGURES`."""

    arm: Arm
    labels: Mapping[str, str]
    cells: Mapping[str, Cell]


def joined(files: Sequence[Measured]) -> list[Testbed]:
    """The testbeds of the files, in the order of the files."""
    groups: dict[tuple[str, str], list[Measured]] = {}
    for each in files:
        groups.setdefault((each.testbed, each.policy), []).append(each)
    return [_testbed(name, policy, group) for (name, policy), group in groups.items()]


def _testbed(name: str, policy: str, files: Sequence[Measured]) -> Testbed:
    arms: dict[str, Arm] = {}
    rows: dict[str, dict[str, Row]] = {}
    for each in files:
        for row in each.rows:
            arms[row.arm.words] = row.arm
            rows.setdefault(row.arm.words, {})[each.kind] = row
    known = {arm.credit for arm in arms.values()}
    for arm in (arm_of(rule, {}) for rule in ALWAYS if rule not in known):
        arms[arm.words] = arm
    kinds = [each.kind for each in files]
    return Testbed(
        name=name,
        policy=policy,
        facts=[fact for each in files for fact in each.facts],
        sources={each.kind: each.path for each in files},
        rows=[
            Joined(
                arm,
                {kind: row.label for kind, row in rows.get(arm.words, {}).items()},
                _cells(rows.get(arm.words, {}), kinds),
            )
            for arm in sorted(arms.values(), key=lambda arm: arm.place)
        ],
    )


def _cells(rows: Mapping[str, Row], kinds: Sequence[str]) -> Mapping[str, Cell]:
    return {
        figure.key: rows[figure.of].cells[figure.key]
        if figure.of in rows
        else Cell(missing=(NO_ROW if figure.of in kinds else NO_FILE)[figure.of])
        for figure in FIGURES
    }


# ------------------------------------------------------------------------------------- tables


class _Reasons:
    """The letters of a table that stand for why there is no figure."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def shown(self, cell: Cell, figure: Figure, spread: bool = True) -> str:
        if cell.missing:
            place = len(self.letters)
            letter = self.letters.setdefault(cell.missing, string.ascii_lowercase[place % 26])
            return f"{NOTHING} {letter}"
        return cell.outcome or level(
            cell.value, cell.interval if spread else None, figure.digits, figure.sign
        )

    def note(self) -> list[str]:
        return [f"{letter}: {reason}." for reason, letter in self.letters.items()]


MARKED = "* positive control: knows the deciding tokens. † a rule that could give the same result without any insight."


def by_testbed(testbeds: Iterable[Testbed]) -> list[Sheet]:
    """A table a testbed: a row an arm, a column a figure."""
    return [_sheet(testbed) for testbed in testbeds]


def _sheet(testbed: Testbed) -> Sheet:
    measured = [figure for figure in FIGURES if any(row.cells[figure.key].measured for row in testbed.rows)]
    shown = [figure for figure in measured if figure.brief] or measured
    reasons = _Reasons()
    rows = tuple(
        (row.arm.marked, *(_brief(row, figure, reasons) for figure in shown)) for row in testbed.rows
    )
    note = [
        *(f"{fact[:1].upper()}{fact[1:]}." for fact in testbed.facts),
        *(f"Without {heads}: {reason}." for reason, heads in _absent(testbed, measured).items()),
        *reasons.note(),
        MARKED,
    ]
    if any(figure.key == "difference" for figure in shown):
        note.append(f"Outcomes: {', '.join(f'{mark} {outcome}' for outcome, mark in OUTCOMES.items())}.")
    title = testbed.name if testbed.policy == testbed.name else f"{testbed.name}, policy {testbed.policy}"
    return Sheet(title, ("method", *(figure.head for figure in shown)), rows, " ".join(note))


def _brief(row: Joined, figure: Figure, reasons: _Reasons) -> str:
    text = reasons.shown(row.cells[figure.key], figure, figure.spread)
    outcome = row.cells["outcome"].outcome
    if figure.key != "difference" or not outcome:
        return text
    return f"{text} {next((mark for start, mark in OUTCOMES.items() if outcome.startswith(start)), outcome)}"


def _absent(testbed: Testbed, measured: Sequence[Figure]) -> Mapping[str, str]:
    """Why no arm has a figure -> the heads of such figures."""
    absent: dict[str, list[str]] = {}
    for figure in FIGURES:
        if figure not in measured:
            # The baseline, and an arm without a row in the file, lack it for another reason.
            rows = [row for row in testbed.rows if figure.of in row.labels and row.arm.role != "baseline"]
            cell = (rows or testbed.rows)[0].cells[figure.key]
            absent.setdefault(cell.missing, []).append(figure.head)
    return {reason: ", ".join(heads) for reason, heads in absent.items()}


def by_figure(
    testbeds: Sequence[Testbed], keys: Iterable[str] | None = None, roles: Sequence[str] = ROLES
) -> list[Sheet]:
    """A table a figure: a row an arm, a column a testbed. Arms, rules too, and testbeds without it are left out.

    keys: of `FIGURES`; all of them by default. roles: only arms of these roles.
    """
    sheets = []
    for figure in FIGURES if keys is None else [figure for figure in FIGURES if figure.key in set(keys)]:
        beds = with_figure(testbeds, figure.key, roles)
        if beds:
            sheets.append(_figure_sheet(figure, beds, roles))
    return sheets


def with_figure(testbeds: Iterable[Testbed], key: str, roles: Sequence[str] = ROLES) -> list[Testbed]:
    """The testbeds on which any arm of these roles has this figure."""
    return [
        bed for bed in testbeds if any(row.cells[key].measured for row in bed.rows if row.arm.role in roles)
    ]


def _figure_sheet(figure: Figure, testbeds: Sequence[Testbed], roles: Sequence[str]) -> Sheet:
    cells: dict[Arm, dict[int, Cell]] = {}
    for place, testbed in enumerate(testbeds):
        for row in (row for row in testbed.rows if row.arm.role in roles):
            cells.setdefault(row.arm, {})[place] = row.cells[figure.key]
    reasons = _Reasons()
    missing = Cell(missing=NO_ROW[figure.of])
    rows = tuple(
        (
            arm.marked,
            *(reasons.shown(cells[arm].get(place, missing), figure) for place, _ in enumerate(testbeds)),
        )
        for arm in sorted(cells, key=lambda arm: arm.place)
        if any(cell.measured for cell in cells[arm].values())
    )
    note = [f"{figure.head}: {figure.means}.", *reasons.note(), MARKED]
    columns = ("method", *(testbed.name for testbed in testbeds))
    words = tuple(range(len(columns))) if figure.key == "outcome" else (0,)
    return Sheet(figure.head, columns, rows, " ".join(note), words)


def beyond(testbeds: Sequence[Testbed]) -> Sheet:
    """For every testbed and figure the arms that lie beyond all rules: whose interval begins above theirs.

    Figures of a single seed, batch or problem have no interval: they are counted and left out.
    """
    rows, singles = [], 0
    for bed in testbeds:
        for figure in (each for each in FIGURES if each.key in TELLING):
            measured = [
                row for row in bed.rows if row.cells[figure.key].measured and row.arm.role != "baseline"
            ]
            bounds = {
                row.arm: _bounds(row.cells[figure.key])
                for row in measured
                if not row.cells[figure.key].single
            }
            singles += len(measured) - len(bounds)
            ruled = [_reach(figure, each) for arm, each in bounds.items() if arm.role == "rule"]
            if not ruled or len(ruled) == len(bounds):
                continue
            above = [arm for arm, (low, _) in bounds.items() if arm.role != "rule" and low > max(ruled)]
            names = "; ".join(arm.words for arm in above if arm.role == "method") or "none"
            counts = [
                f"{sum(arm.role == role for arm in above)} of {sum(arm.role == role for arm in bounds)}"
                for role in ("control", "method")
            ]
            rows.append((bed.name, figure.head, str(len(ruled)), *counts, names))
    note = (
        "Arms whose interval begins above the intervals of all rules that were measured on the testbed, at whatever "
        "factor; a rule that ranks counts both ways round. Controls: the positive ones, which know the deciding tokens."
    )
    if singles:
        note += f" Left out: {singles} figures of a single seed, batch or problem, which have no interval."
    columns = ("testbed", "figure", "rules", "controls beyond", "methods beyond", "which methods")
    return Sheet("Beyond every rule without insight", columns, tuple(rows), note, words=(0, 1, 5))


def _bounds(cell: Cell) -> Interval:
    """The interval of a figure; one value, twice, where it was the same on all of several seeds or problems."""
    assert cell.value is not None
    return cell.interval or (cell.value, cell.value)


def _reach(figure: Figure, bounds: Interval) -> float:
    """How high a rule's interval reaches; the later the more is as dumb as the earlier the more."""
    low, high = bounds
    return high if figure.chance is None else max(high, 2 * figure.chance - low)


def rules(testbeds: Sequence[Testbed]) -> Sheet:
    """The rules that could give the same result, what each knows, and where it was measured."""
    rows = []
    for rule, knows in RULES.items():
        beds = [
            bed.name
            for bed in testbeds
            if any(
                row.arm.credit == rule
                and row.arm.role == "rule"
                and any(cell.measured for cell in row.cells.values())
                for row in bed.rows
            )
        ]
        if beds or rule in ALWAYS:
            rows.append((rule, knows, ", ".join(beds) or "nowhere"))
    note = "Their rows are marked † and stand at each factor at which they were measured."
    return Sheet("The dumbest rules", ("rule", "knows", "measured on"), tuple(rows), note, words=(0, 1, 2))


def page(testbeds: Sequence[Testbed], tables: Sequence[Sheet], command: str) -> Page:
    """The profile as a page of five parts. command: the one that made it."""
    facts = [f"{figure.head}: {figure.means}" for figure in FIGURES]
    facts += [
        f"{bed.name} (policy {bed.policy}): {', '.join(str(path) for path in bed.sources.values())}"
        for bed in testbeds
    ]
    return Page(
        title="Every credit method on every testbed",
        question=(
            "Which credit method does on which testbed what no rule without insight does? Arms are one where method "
            "and options are the same. A name ends with the factor on the tokens that are up-weighted."
        ),
        facts=facts,
        rules=rules(testbeds),
        sheets=[beyond(testbeds), *tables],
        limits=LIMITS,
        command=command,
    )


def to_json(made: Page, testbeds: Sequence[Testbed]) -> str:
    """The profile as JSON, a line an arm: of every arm on every testbed its figures, or why there is none."""

    def line(value: Any) -> str:
        return json.dumps(plain(value), allow_nan=False, ensure_ascii=False)

    beds = []
    for bed in _table(testbeds):
        arms = ",\n    ".join(map(line, bed.pop("arms")))
        beds.append(f'  {line(bed)[:-1]}, "arms": [\n    {arms}\n  ]}}')
    head = line({"title": made.title, "command": made.command})[:-1]
    return f'{head}, "testbeds": [\n' + ",\n".join(beds) + "\n]}\n"


def _table(testbeds: Sequence[Testbed]) -> list[dict[str, Any]]:
    return [
        {
            "name": bed.name,
            "policy": bed.policy,
            "facts": list(bed.facts),
            "files": {kind: path.name for kind, path in bed.sources.items()},
            "arms": [
                {
                    "method": row.arm.words,
                    "credit": row.arm.credit,
                    "factor": row.arm.factor,
                    "role": row.arm.role,
                    "labels": dict(row.labels),
                    "measured": {key: _plain(cell) for key, cell in row.cells.items()},
                }
                for row in bed.rows
            ],
        }
        for bed in testbeds
    ]


def _plain(cell: Cell) -> Any:
    if cell.missing:
        return {"missing": cell.missing}
    return {"outcome": cell.outcome} if cell.outcome else {"value": cell.value, "interval": cell.interval}
