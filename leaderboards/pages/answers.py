"""Answers beside answers: what an arm solves and the baseline does not, and where credit falls in a response."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow.compute as pc

from leaderboards.comparison import Arm, Comparison
from leaderboards.pages.parts import text as escaped
from leaderboards.scores import Problem, RunScores

#: Problems whose answers are shown side by side, for each arm and direction.
SHOWN_FLIPS = 4
#: Training rollouts shown side by side are of the last steps, as many as it takes and at most these.
LATE_STEPS = 5

#: From a task's name and a problem's id to the question and the gold in words; None where the problem is not known.
#: The task of a training rollout is "".
Asked = Callable[[str, str], tuple[str, str] | None]


def unknown(task: str, problem: str) -> tuple[str, str] | None:
    """None: nothing is known of any problem."""
    return None


def gained_and_lost(comparison: Comparison, asked: Asked) -> list[str]:
    """Problems that an arm solves and the baseline does not, and the other way round; nothing where there is none."""
    flips = [_flips(comparison, arm, asked) for arm in comparison.arms]
    if not any(flips):
        return []
    return [
        '<h2 id="answers">Problems gained and lost</h2>',
        f'<p class="note">Against {escaped(comparison.baseline)} on the same seed at the last evaluation; of each '
        "the first sample that only one of them solves is shown. Training rollouts below them had the same prompt "
        "and the same noise; background: a token's weight, from the smallest to the largest of the response.</p>",
        *flips,
    ]


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


def _flips(comparison: Comparison, arm: Arm, asked: Asked) -> str:
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
    rollouts = _rollouts(comparison, arm, asked)
    if not gained and not lost and not rollouts:
        return ""
    parts = [
        f'<details data-arm="{escaped(arm.label)}">',
        f"<summary>{escaped(arm.label)}: {len(gained)} gained, {len(lost)} lost, over {len(arm.differences)} seeds"
        "</summary>",
    ]
    for what, flips in (("gained", gained), ("lost", lost)):
        for change, seed, problem in sorted(flips)[:SHOWN_FLIPS]:
            sign = "+" if what == "gained" else "-"
            unit = "" if comparison.foreign else " of its samples correct"
            parts.append(f"<p>{escaped(problem[1])}, seed {seed}: {sign}{-change:.2f}{unit}</p>")
            if comparison.foreign:  # values without answers
                continue
            arm_score, base_score = (
                comparison.scores[arm.label, seed],
                comparison.scores[comparison.baseline, seed],
            )
            parts.append(_question(asked(*problem)))
            answers = _flip(arm_score, base_score, problem, what == "gained")
            shown = [escaped(text) for _, text in answers]
            parts.append(_side_by_side(comparison.baseline, arm, [verdict for verdict, _ in answers], shown))
    return "\n".join([*parts, *rollouts, "</details>"])


def _question(known: tuple[str, str] | None) -> str:
    """The question that both answers are to, and the gold that they are held to; nothing where it is not known."""
    if known is None:
        return ""
    question, gold = known
    return f'<p class="asked"><b>question</b> {escaped(question)}\n<b>gold</b> {escaped(gold)}</p>'


def _side_by_side(baseline: str, arm: Arm, verdicts: Sequence[str], texts: Sequence[str]) -> str:
    """Two answers with their verdicts; `texts` are HTML."""
    parts = []
    for label, verdict, text in zip((baseline, arm.label), verdicts, texts, strict=True):
        tone = "good" if verdict == "correct" else "bad"
        parts.append(
            f'<div><span class="soft">{escaped(label)}</span> <span class="{tone}">{escaped(verdict)}</span>'
            f"<pre>{text}</pre></div>"
        )
    return f'<div class="pair">{"".join(parts)}</div>'


def _rollouts(comparison: Comparison, arm: Arm, asked: Asked) -> list[str]:
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
        # Without a key, as in a script's record, nothing says which two were drawn with the same noise.
        by_key = {row["key"]: row for row in arm_rows if row["key"]}
        for row in base_rows:
            pair = [row, by_key.get(row["key"], row)]
            if sum(rollout["verdict"] == "correct" for rollout in pair) != 1:
                continue
            advantages = " and ".join(f"{rollout['advantage']:+.2f}" for rollout in pair)
            where = f"Training step {step}, seed {seed}, {row['problem_id']}, sample {row['sample']}"
            parts.append(f"<p>{escaped(where)}: advantage {advantages}</p>")
            parts.append(_question(asked("", row["problem_id"])))
            parts.append(
                _side_by_side(
                    comparison.baseline,
                    arm,
                    [rollout["verdict"] for rollout in pair],
                    [_weighted(rollout) for rollout in pair],
                )
            )
            if len(parts) == 3 * SHOWN_FLIPS:
                break
        if len(parts) == 3 * SHOWN_FLIPS:
            break
    return ["<h3>Late rollouts, each with the credit of its tokens</h3>", *parts] if parts else []


def credit(comparison: Comparison) -> str:
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
        label, about = escaped(arm.label), f"{row['problem_id']}, sample {row['sample']}, {row['verdict']}"
        parts.append(
            f'<div data-arm="{label}"><p><b>{label}</b> <span class="soft">{escaped(about)}, advantage '
            f"{row['advantage']:+.2f}</span></p><pre>{_weighted(row)}</pre></div>"
        )
    if not parts:
        return ""
    note = (
        "Background: the token's weight, from the smallest to the largest of the response. Where tokens are not "
        "single characters, the weights stand below the text, one a token."
    )
    return (
        f'<h2 id="credit">Credit on one response of the first training step, seed {seed}</h2>\n'
        f'<p class="note">{note}</p>\n' + "\n".join(parts)
    )


def _weighted(row: dict[str, object]) -> str:
    text, weights = str(row["text"]), [float(weight) for weight in row["weights"]]  # type: ignore[attr-defined]
    low, high = min(weights, default=1.0), max(weights, default=1.0)

    def mark(token: str, weight: float) -> str:
        heat = (weight - low) / (high - low) if high > low else 0.0
        shade = f' style="background: rgba(var(--hot), {0.55 * heat:.2f})"' if heat else ""
        return f'<span title="weight {weight:.3g}"{shade}>{escaped(token)}</span>'

    # Single-character tokens; the end token has a weight and no character.
    if len(weights) in (len(text), len(text) + 1):
        return "".join(mark(token, weight) for token, weight in zip(text, weights, strict=False))
    return escaped(text) + "\n" + " ".join(mark(f"{weight:.2g}", weight) for weight in weights)
