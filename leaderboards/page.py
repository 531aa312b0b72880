"""The leaderboard as one self-contained HTML page: no script, no network, light and dark, every text escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from leaderboards import estimates, sheets, terminal
from leaderboards.comparison import Arm, Comparison
from leaderboards.records import Run
from leaderboards.scores import Problem, RunScores
from leaderboards.sheets import Sheet

#: Problems whose answers are shown side by side, for each arm and direction.
SHOWN_FLIPS = 4
#: Training rollouts shown side by side are of the last steps, as many as it takes and at most these.
LATE_STEPS = 5
#: A curve is drawn through about this many points: each is a mean over neighbouring steps.
POINTS = 40
_WIDTH = 760
_COLOURS = 8

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2128; --soft: #5b6470; --line: #d5dae0;
  --panel: #f5f7f9; --good: #13753f; --bad: #b3261e; --same: #0b6680; --open: #8a5a00; --hot: 255, 150, 0;
  --c0: #6b7280; --c1: #0072b2; --c2: #d55e00; --c3: #009e73; --c4: #a8418c; --c5: #8a6d00; --c6: #3f51b5;
  --c7: #795548; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e6e9ed; --soft: #9aa4b0;
  --line: #363d46; --panel: #1c2229; --good: #5fd08f; --bad: #ff8a80; --same: #6fcbe6; --open: #f0c060;
  --c0: #9aa4b0; --c1: #56b4e9; --c2: #ff9a55; --c3: #3ddbab; --c4: #e58fcb; --c5: #e6c84a; --c6: #9fa8ff;
  --c7: #c9a58f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; }
h3 { font-size: .95rem; margin: 1.25rem 0 .25rem; }
p, dd { margin: .25rem 0; }
.soft, .note { color: var(--soft); }
.note { font-size: .85rem; max-width: 46rem; }
.control { display: inline-block; margin: .75rem 0 0; padding: .3rem .7rem; border: 1px solid; border-radius: .4rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .same { color: var(--same); } .open { color: var(--open); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: right; white-space: nowrap; }
th.word, td.word { text-align: left; }
th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); }
tr.baseline td { color: var(--soft); }
svg { display: block; width: 100%; height: auto; max-width: 760px; }
svg text { fill: var(--ink); font-size: 12px; }
svg .soft { fill: var(--soft); } svg .axis { stroke: var(--line); } svg .zero { stroke: var(--soft); }
.key { font-size: .85rem; margin: .25rem 0; }
.key span { white-space: nowrap; margin-right: 1rem; }
.key i { display: inline-block; width: 1.2rem; height: .2rem; vertical-align: middle; margin-right: .35rem; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; margin: .5rem 0 1rem; }
@media (max-width: 40rem) { .pair { grid-template-columns: 1fr; } }
pre { margin: 0; padding: .6rem .7rem; background: var(--panel); border-radius: .4rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .82rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
p + pre { margin-bottom: .6rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1.25rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""
_POSITIVE_CONTROL = {"sensitive": "good", "not sensitive": "bad", "not tested": "open"}


def _text(value: object) -> str:
    # Control characters are no HTML; a policy may emit any.
    shown = "".join(c if c in "\n\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))
    return html.escape(shown)


def _colours(comparison: Comparison) -> dict[str, str]:
    """A colour an arm, by name, so that it stays the same when ranks change; grey for the baseline."""
    others = sorted(arm.label for arm in comparison.arms if arm.label != comparison.baseline)
    colours = {label: f"var(--c{1 + index % (_COLOURS - 1)})" for index, label in enumerate(others)}
    return {comparison.baseline: "var(--c0)", **colours}


# ------------------------------------------------------------------------------------- drawings


def _ticks(low: float, high: float, most: int = 6) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float, sign: str = "") -> str:
    return "0" if abs(value) < 1e-9 else f"{value:{sign}.4g}"


def _forest(comparison: Comparison) -> str:
    """Paired difference and interval of every arm; the band is where differences do not matter."""
    arms = [arm for arm in comparison.arms if arm.difference is not None]
    if not arms:
        return ""
    d, digits = comparison.smallest_difference, terminal.decimals(comparison)
    bounds = [bound for arm in arms for bound in arm.interval_of_difference or ()]
    bounds += [value for arm in arms for value in arm.differences.values()]
    low_end, high_end = min(-d, *bounds), max(d, *bounds)
    room = 0.06 * (high_end - low_end)
    low_end, high_end = low_end - room, high_end + room
    left, right, row = 150, _WIDTH - 20, 30
    height = row * len(arms) + 34

    def x(value: float) -> float:
        return left + (value - low_end) / (high_end - low_end) * (right - left)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Paired differences with intervals">',
        f'<rect x="{x(-d):.1f}" y="0" width="{x(d) - x(-d):.1f}" height="{height - 30}" fill="var(--panel)"/>',
        f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{height - 30}"/>',
    ]
    for tick in _ticks(low_end, high_end):
        parts.append(
            f'<text class="soft" text-anchor="middle" x="{x(tick):.1f}" y="{height - 12}">'
            f"{_tick(tick, '+')}</text>"
        )
    for index, arm in enumerate(arms):
        y, colour = row * index + 16, f"var(--{sheets.tone(arm.outcome, 'soft')})"
        parts.append(f'<text x="0" y="{y + 4}">{_text(arm.label)}</text>')
        for value in arm.differences.values():
            parts.append(f'<circle cx="{x(value):.1f}" cy="{y}" r="2.5" fill="{colour}" opacity=".35"/>')
        if arm.interval_of_difference:
            low, high = (x(bound) for bound in arm.interval_of_difference)
            parts.append(
                f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
            )
        assert arm.difference is not None
        label = sheets.level(arm.difference, arm.interval_of_difference, digits, "+")
        parts.append(
            f'<circle cx="{x(arm.difference):.1f}" cy="{y}" r="5" fill="{colour}">'
            f"<title>{_text(arm.label)} {_text(label)}: {_text(arm.outcome)}</title></circle>"
        )
    return "\n".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Curve:
    steps: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]


def _curve(values: Sequence[dict[int, float]], alpha: float) -> _Curve:
    """Mean over seeds with Student's interval at each point; many steps are averaged in blocks first."""
    steps = sorted(values[0])
    table = np.array([[entry[step] for step in steps] for entry in values])
    size = math.ceil(len(steps) / POINTS)
    blocks = [np.arange(start, min(start + size, len(steps))) for start in range(0, len(steps), size)]
    table = np.stack([table[:, block].mean(axis=1) for block in blocks], axis=1)
    places = [float(np.mean([steps[index] for index in block])) for block in blocks]
    means = table.mean(axis=0)
    intervals = [
        estimates.t_interval(column, 1 - alpha) or (mean, mean)
        for column, mean in zip(table.T, means, strict=True)
    ]
    return _Curve(places, means.tolist(), [low for low, _ in intervals], [high for _, high in intervals])


Curves = dict[str, list[dict[int, float]]]


def _of_arms(comparison: Comparison, name: str) -> Curves:
    """Step to value on each seed of each arm; `name` is the RunScores attribute that holds them."""
    return {
        arm.label: [getattr(comparison.scores[arm.label, seed], name) for seed in arm.seeds]
        for arm in comparison.arms
    }


def _minus_baseline(comparison: Comparison, name: str) -> Curves:
    """The same, minus the baseline's curve on the same seed: what the seeds share is gone."""
    curves: Curves = {}
    for arm in comparison.arms:
        if arm.differences:
            pairs = [
                (
                    getattr(comparison.scores[arm.label, seed], name),
                    comparison.scores[comparison.baseline, seed],
                )
                for seed in arm.differences
            ]
            curves[arm.label] = [
                {step: value - getattr(base_score, name)[step] for step, value in arm_curve.items()}
                for arm_curve, base_score in pairs
            ]
    return curves


def _chart(comparison: Comparison, values: Curves, label: str) -> str:
    """Curves of all arms with their bands over seeds; nothing where there are fewer than two steps."""
    colours = _colours(comparison)
    curves = {arm: _curve(seeds, comparison.alpha) for arm, seeds in values.items() if len(seeds[0]) > 1}
    if not curves:
        return ""
    left, right, top, bottom = 48, _WIDTH - 12, 10, 250
    first = min(curve.steps[0] for curve in curves.values())
    last = max(curve.steps[-1] for curve in curves.values())
    low = min(min(curve.lows) for curve in curves.values())
    high = max(max(curve.highs) for curve in curves.values())
    room = 0.04 * ((high - low) or 1.0)
    low, high = (max(low - room, 0.0) if low >= 0 else low - room), high + room

    def x(step: float) -> float:
        return left + (step - first) / ((last - first) or 1) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    parts = [f'<svg viewBox="0 0 {_WIDTH} 290" role="img" aria-label="{_text(label)} over training steps">']
    for tick in _ticks(low, high):
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(
            f'<text class="soft" text-anchor="end" x="{left - 8}" y="{y(tick) + 4:.1f}">{_tick(tick)}</text>'
        )
    for tick in _ticks(first, last):
        parts.append(f'<text class="soft" text-anchor="middle" x="{x(tick):.1f}" y="270">{tick:.4g}</text>')
    parts.append(f'<text class="soft" text-anchor="end" x="{right}" y="286">training step</text>')
    # The baseline last, so that it lies on top and can be compared with every other.
    for arm_label, curve in sorted(curves.items(), key=lambda item: item[0] == comparison.baseline):
        there = [f"{x(s):.1f},{y(v):.1f}" for s, v in zip(curve.steps, curve.highs, strict=True)]
        back = [f"{x(s):.1f},{y(v):.1f}" for s, v in zip(curve.steps, curve.lows, strict=True)]
        line = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in zip(curve.steps, curve.means, strict=True))
        band, colour = " ".join(there + back[::-1]), colours[arm_label]
        parts.append(f'<polygon points="{band}" fill="{colour}" opacity=".13"/>')
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2">'
            f"<title>{_text(arm_label)}</title></polyline>"
        )
    keys = "".join(
        f'<span><i style="background: {colours[arm.label]}"></i>{_text(arm.label)}</span>'
        for arm in comparison.arms
        if arm.label in curves
    )
    return "\n".join([f'<p class="key">{keys}</p>', *parts, "</svg>"])


# ------------------------------------------------------------------------------------- tables and texts


def _table(sheet: Sheet, baseline: str | None = None, heading: str = "h2") -> str:
    def cell(tag: str, column: int, text: str, more: str = "") -> str:
        names = " ".join(["word"] * (column in sheet.words) + [more] * bool(more))
        return f'<{tag} class="{names}">{_text(text)}</{tag}>'

    head = "".join(cell("th", column, name) for column, name in enumerate(sheet.columns))
    rows = []
    for row in sheet.rows:
        row_class = ' class="baseline"' if row[0] == baseline else ""
        cells = (
            cell(
                "td",
                column,
                text,
                sheets.tone(text, "soft") if sheet.columns[column] in sheets.JUDGED else "",
            )
            for column, text in enumerate(row)
        )
        rows.append(f"<tr{row_class}>{''.join(cells)}</tr>")
    note = f'<p class="note">{_text(sheet.note)}</p>' if sheet.note else ""
    return (
        f'<{heading}>{_text(sheet.title)}</{heading}>\n<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table></div>\n{note}"
    )


def _answers(score: RunScores, problem: Problem) -> dict[int, tuple[str, str]]:
    """Sample number to verdict and text, of one problem at the last evaluation."""
    columns = ["task", "problem_id", "sample", "verdict", "text"]
    samples = score.run.table("samples", columns, step=max(score.accuracies))
    samples = samples.filter((pc.field("task") == problem[0]) & (pc.field("problem_id") == problem[1]))
    return {row["sample"]: (row["verdict"], row["text"]) for row in samples.to_pylist()}


def _flip(arm: RunScores, base: RunScores, problem: Problem, gained: bool) -> list[tuple[str, str]]:
    """The two answers to the first sample, sampled with the same noise, that one of them solves and the other not."""
    arm_answers, base_answers = _answers(arm, problem), _answers(base, problem)
    flipped = (
        sample
        for sample in sorted(arm_answers)
        if ((base_answers[sample][0] == "correct"), (arm_answers[sample][0] == "correct"))
        == (not gained, gained)
    )
    # None flipped where answers that could not be judged made the difference.
    sample = next(flipped, min(arm_answers))
    return [base_answers[sample], arm_answers[sample]]


def _flips(comparison: Comparison, arm: Arm) -> str:
    """Problems that this arm solves more or less often than the baseline on the same seed, some with both answers."""
    gained: list[tuple[float, int, Problem]] = []
    lost: list[tuple[float, int, Problem]] = []
    for seed in arm.differences:
        arm_score, base_score = (
            comparison.scores[arm.label, seed],
            comparison.scores[comparison.baseline, seed],
        )
        for problem in sorted(arm_score.problems.keys() & base_score.problems.keys()):
            change = arm_score.problems[problem] - base_score.problems[problem]
            if change:
                (gained if change > 0 else lost).append((-abs(change), seed, problem))
    rollouts = _rollouts(comparison, arm)
    if not gained and not lost and not rollouts:
        return ""
    parts = [
        f"<details><summary>{_text(arm.label)}: {len(gained)} gained, {len(lost)} lost, over "
        f"{len(arm.differences)} seeds</summary>"
    ]
    for what, flips in (("gained", gained), ("lost", lost)):
        for change, seed, problem in sorted(flips)[:SHOWN_FLIPS]:
            sign = "+" if what == "gained" else "-"
            unit = "" if comparison.foreign else " of its samples correct"
            parts.append(f"<p>{_text(problem[1])}, seed {seed}: {sign}{-change:.2f}{unit}</p>")
            if comparison.foreign:  # values without answers
                continue
            arm_score, base_score = (
                comparison.scores[arm.label, seed],
                comparison.scores[comparison.baseline, seed],
            )
            answers = _flip(arm_score, base_score, problem, what == "gained")
            shown = [_text(text) for _, text in answers]
            parts.append(_side_by_side(comparison.baseline, arm, [verdict for verdict, _ in answers], shown))
    return "\n".join([*parts, *rollouts, "</details>"])


def _side_by_side(baseline: str, arm: Arm, verdicts: Sequence[str], texts: Sequence[str]) -> str:
    """Two answers with their verdicts; `texts` are HTML."""
    parts = []
    for label, verdict, text in zip((baseline, arm.label), verdicts, texts, strict=True):
        tone = "good" if verdict == "correct" else "bad"
        parts.append(
            f'<div><span class="soft">{_text(label)}</span> <span class="{tone}">{_text(verdict)}</span>'
            f"<pre>{text}</pre></div>"
        )
    return f'<div class="pair">{"".join(parts)}</div>'


def _rollouts(comparison: Comparison, arm: Arm) -> list[str]:
    """Late rollouts of the first seed that one of the two solves, the same prompt and noise, each with its credit."""
    if not arm.differences:
        return []
    seed = min(arm.differences)
    columns = ["problem_id", "sample", "key", "text", "verdict", "advantage", "weights"]
    parts: list[str] = []
    for step in sorted(comparison.scores[arm.label, seed].rewards, reverse=True)[:LATE_STEPS]:
        base_rows, arm_rows = (
            comparison.scores[label, seed].run.table("rollouts", columns, step).to_pylist()
            for label in (comparison.baseline, arm.label)
        )
        by_key = {row["key"]: row for row in arm_rows}
        for row in base_rows:
            pair = [row, by_key.get(row["key"], row)]
            if sum(rollout["verdict"] == "correct" for rollout in pair) != 1:
                continue
            advantages = " and ".join(f"{rollout['advantage']:+.2f}" for rollout in pair)
            where = f"Training step {step}, seed {seed}, {row['problem_id']}, sample {row['sample']}"
            parts.append(f"<p>{_text(where)}: advantage {advantages}</p>")
            parts.append(
                _side_by_side(
                    comparison.baseline,
                    arm,
                    [rollout["verdict"] for rollout in pair],
                    [_weighted(rollout) for rollout in pair],
                )
            )
            if len(parts) == 2 * SHOWN_FLIPS:
                break
        if len(parts) == 2 * SHOWN_FLIPS:
            break
    return ["<h3>Late rollouts, each with the credit of its tokens</h3>", *parts] if parts else []


def _credit(comparison: Comparison) -> str:
    """One response of the first training step under every arm: the same tokens, and the weight that each gave them."""
    seed = min(seed for arm in comparison.arms for seed in arm.seeds)
    parts = []
    for arm in comparison.arms:
        if seed not in arm.seeds:
            continue
        score = comparison.scores[arm.label, seed]
        columns = ["problem_id", "sample", "text", "verdict", "advantage", "weights"]
        rows = score.run.table("rollouts", columns, step=min(score.rewards, default=0))
        if not rows.num_rows:
            continue
        # A response that was rewarded unlike its group: credit on any other teaches nothing.
        row = max(
            rows.to_pylist(), key=lambda row: (abs(row["advantage"]), row["problem_id"], -row["sample"])
        )
        parts.append(
            f'<p><b>{_text(arm.label)}</b> <span class="soft">{_text(row["problem_id"])}, sample {row["sample"]}, '
            f"{_text(row['verdict'])}, advantage {row['advantage']:+.2f}</span></p><pre>{_weighted(row)}</pre>"
        )
    if not parts:
        return ""
    note = (
        "Background: the token's weight, from the smallest to the largest of the response. Where tokens are not "
        "single characters, the weights stand below the text, one a token."
    )
    return (
        f'<h2>Credit on one response of the first training step, seed {seed}</h2>\n<p class="note">{note}</p>\n'
        + "\n".join(parts)
    )


def _weighted(row: dict[str, object]) -> str:
    text, weights = str(row["text"]), [float(weight) for weight in row["weights"]]  # type: ignore[attr-defined]
    low, high = min(weights, default=1.0), max(weights, default=1.0)

    def mark(token: str, weight: float) -> str:
        heat = (weight - low) / (high - low) if high > low else 0.0
        shade = f' style="background: rgba(var(--hot), {0.55 * heat:.2f})"' if heat else ""
        return f'<span title="weight {weight:.3g}"{shade}>{_text(token)}</span>'

    # Single-character tokens; the end token has a weight and no character.
    if len(weights) in (len(text), len(text) + 1):
        return "".join(mark(token, weight) for token, weight in zip(text, weights, strict=False))
    return _text(text) + "\n" + " ".join(mark(f"{weight:.2g}", weight) for weight in weights)


def _place(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in sorted(value.items()) if item is not None)
    return str(value)


def _curves(comparison: Comparison) -> list[str]:
    """Reward and accuracy over training, each where it was recorded, under headings."""
    band = f"Mean and {1 - comparison.alpha:.0%} interval over training seeds; many steps are averaged in blocks."
    parts = []
    for label, values in (
        ("Training reward", _of_arms(comparison, "rewards")),
        (f"Training reward minus {comparison.baseline}'s, same seed", _minus_baseline(comparison, "rewards")),
        ("Evaluation accuracy", _of_arms(comparison, "accuracies")),
    ):
        chart = _chart(comparison, values, label)
        if chart:
            parts += [f"<h2>{_text(label)}</h2>", f'<p class="note">{band}</p>', chart]
    return parts


def _gained_and_lost(comparison: Comparison) -> list[str]:
    """Problems that an arm solves and the baseline does not, and the other way round; nothing where there is none."""
    flips = [_flips(comparison, arm) for arm in comparison.arms]
    if not any(flips):
        return []
    return [
        "<h2>Problems gained and lost</h2>",
        f'<p class="note">Against {_text(comparison.baseline)} on the same seed at the last evaluation; of each '
        "the first sample that only one of them solves is shown. Training rollouts below them had the same prompt "
        "and the same noise; background: a token's weight, from the smallest to the largest of the response.</p>",
        *flips,
    ]


def _provenance(comparison: Comparison, runs: Sequence[Run]) -> list[str]:
    """The declaration and the places where the runs were made, as a list."""
    shown_above = ("positive control", "hashes")
    facts = [(key, text) for key, text in terminal.provenance(comparison, runs) if key not in shown_above]
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
    items = "".join(f"<dt>{_text(key)}</dt><dd>{_text(text)}</dd>" for key, text in facts)
    return ["<h2>Provenance</h2>", f"<dl>{items}</dl>"]


def to_html(
    comparison: Comparison,
    runs: Sequence[Run],
    command: str | None = None,
    claims: Sequence[Sheet] = (),
) -> str:
    """The page. `command` repeats these runs, by default `flowtracer reproduce` with the experiment's name.

    `claims`: tables of published numbers beside these runs.
    """
    name = str(comparison.experiment.get("name", ""))
    command = command or f"flowtracer reproduce {name}".strip()
    title = _text(terminal.title(comparison))
    control = comparison.positive_control
    ranking, *others = terminal.sheets(comparison, runs)
    body = [
        f"<h1>{title}</h1>",
        f'<p class="soft">{_text(terminal.headline(comparison))}</p>',
        f'<p class="control {_POSITIVE_CONTROL[control.outcome]}">{_text(control.text)}</p>',
        _table(ranking, comparison.baseline),
        "<h2>Paired differences</h2>",
        f'<p class="note">Large dot and line: mean and {1 - comparison.alpha:.0%} interval over training seeds; small '
        f"dots: single seeds; shaded: differences below {comparison.smallest_difference:g}, declared not to "
        "matter.</p>",
        _forest(comparison),
        *_curves(comparison),
        *(_table(sheet, comparison.baseline) for sheet in others),
        *_gained_and_lost(comparison),
        _credit(comparison),
    ]
    if claims:
        body += [
            "<h2>Published claims</h2>",
            "<details><summary>What was published of these methods, and what runs say about it</summary>",
            *(_table(sheet, heading="h3") for sheet in claims),
            "</details>",
        ]
    body += [*_provenance(comparison, runs), "<h2>To repeat it</h2>", f"<pre>{_text(command)}</pre>"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )
