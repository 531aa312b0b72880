"""The leaderboard in a terminal: several small tables that stay readable at 80 columns.

`sheets` puts a comparison into words and numbers once; the terminal, the Markdown export and the page show
the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from leaderboards import estimates
from leaderboards.comparison import Arm, Comparison
from leaderboards.declaration import METRICS
from leaderboards.estimates import Interval
from leaderboards.format import VERDICTS
from leaderboards.manifest import TIERS
from leaderboards.records import Run
from leaderboards.sheets import (
    NOTHING,
    Sheet,
    count,
    fitted,
    level,
    number,
    p_value,
    rounded,
    seconds,
    share,
    style,
    table,
)

#: A console of so many columns has room for the drawn intervals.
ROOM_TO_DRAW = 100


# ------------------------------------------------------------------------------------- numbers in words


def metric_in_words(comparison: Comparison) -> str:
    """The declared metric; of runs made elsewhere with the name of the column that their values stand in."""
    column = comparison.experiment.get("value")
    return METRICS[comparison.metric] + (f", column {column}" if comparison.foreign else "")


def decimals(comparison: Comparison) -> int:
    """Digits behind the point at which a tenth of the smallest difference that matters is still seen."""
    return max(3, math.ceil(-math.log10(comparison.smallest_difference)) + 1)


# ------------------------------------------------------------------------------------- sheets

_TURN = (
    " turn: 1 - cosine between an update and that of uniform credit on the same rollouts, mean over the updates that "
    "were measured; random, which knows nothing, is its yardstick."
)


def _ranking(comparison: Comparison) -> Sheet:
    digits = decimals(comparison)
    rows = []
    turned = any("turn" in arm.training for arm in comparison.arms)
    for arm in comparison.arms:
        difference = level(arm.difference, arm.interval_of_difference, digits, "+")
        outcome = arm.outcome
        within = arm.decision is not None and (arm.decision.equivalence_p_holm or 1.0) <= comparison.alpha
        if outcome in ("better", "worse") and within:
            outcome += f", by less than {comparison.smallest_difference:g}"
        cells = [arm.label, str(arm.rank), difference, p_value(arm.p_holm)]
        if turned:
            cells.append(number(arm.training["turn"], 4) if "turn" in arm.training else NOTHING)
        rows.append((*cells, outcome))
    # Student's interval holds for a number of seeds that was fixed beforehand.
    sequential = comparison.declaration.sequential
    test, fixed = ("e-process", ", as if their number had been fixed") if sequential else ("paired t", "")
    left = (
        f" {_more_seeds(comparison)}" if sequential and "about" in " ".join(row[-1] for row in rows) else ""
    )
    return Sheet(
        f"Ranking by paired difference from {comparison.baseline}",
        ("method", "#", "difference", "p (Holm)", *(["turn"] * turned), "outcome"),
        tuple(rows),
        f"Of the {metric_in_words(comparison)}, same seed minus same seed, ± {1 - comparison.alpha:.0%} "
        f"interval over seeds{fixed}; p of the {test}, which decides.{left}{_TURN * turned}",
        words=(0, 4 + turned),
    )


def _whole_seeds(comparison: Comparison) -> int:
    """How many seeds every arm has finished, those that are not shown as well."""
    return min(Counter(label for label, _ in comparison.scores).values())


def _more_seeds(comparison: Comparison) -> str:
    """How `about N more seeds` is meant under optional stopping, and how many the declaration leaves."""
    left = max(0, comparison.experiment["seeds"] - _whole_seeds(comparison))
    more = f"at most {left} more are declared" if left else "no more are declared"
    return f"about N more seeds: if the evidence goes on growing as it did; {more}."


def _per_seed(comparison: Comparison) -> Sheet | None:
    digits = decimals(comparison)
    arms = [arm for arm in comparison.arms if arm.differences]
    seeds = sorted({seed for arm in arms for seed in arm.differences})
    rows = []
    for arm in arms:
        values = [arm.differences.get(seed) for seed in seeds]
        cells = [NOTHING if value is None else f"{rounded(value, digits):+.{digits}f}" for value in values]
        up = sum(value > 0 for value in arm.differences.values())
        rows.append((arm.label, *cells, f"{up}/{len(arm.differences)}"))
    if not rows:
        return None
    columns = ("method", *map(str, seeds), "up")
    return Sheet(f"Difference from {comparison.baseline} on each training seed", columns, tuple(rows))


def _levels(comparison: Comparison, runs: Sequence[Run]) -> Sheet:
    began = Counter(run.method for run in runs)
    rows = []
    for arm in comparison.arms:
        cells = []
        for metric in ("final_accuracy", "training_reward_area", "evaluation_area"):
            score = arm.scores.get(metric)
            cells.append(level(score.mean, score.interval) if score else NOTHING)
        finished, all_runs = len(arm.seeds), began[arm.label]
        rows.append(
            (arm.label, *cells, str(finished) if finished >= all_runs else f"{finished} of {all_runs}")
        )
    return Sheet(
        "Levels",
        ("method", "accuracy", "reward area", "accuracy area", "seeds"),
        tuple(rows),
        f"± {1 - comparison.alpha:.0%} interval over training seeds; it includes the luck that seeds share, so "
        "compare differences, not levels.",
    )


def _evidence(comparison: Comparison) -> Sheet | None:
    digits, sequential = decimals(comparison), comparison.declaration.sequential
    rows, notes = [], []
    for arm in comparison.arms:
        if not arm.differences:
            continue
        cells = [arm.label, *map(p_value, (arm.p, arm.sign_flip_p, arm.sign_flip_minimum))]
        if not sequential:
            smallest = arm.smallest_detectable
            cells.append(NOTHING if smallest is None else f"{smallest:.{digits}f}")
        cells.append(level(arm.accuracy_difference, arm.crossed_interval, 3, "+"))
        if sequential:
            cells.append(NOTHING if arm.e_value is None else f"{arm.e_value:.3g}")
        rows.append(tuple(cells))
    if not rows:
        return None
    # The e-value doubles at most with each seed: the least p of both tests is 2 / 2^n.
    short = sorted(
        {
            len(arm.differences)
            for arm in comparison.arms
            if arm.differences and not arm.sign_flip_reaches_alpha
        }
    )
    if short:
        seeds = " or ".join(str(number) for number in short)
        notes.append(
            f"{'The e-process' if sequential else 'Sign-flip'} cannot reach {comparison.alpha:g} with {seeds} "
            f"seed{'s' * (short != [1])} and this many arms."
        )
    notes.append("min: smallest p that sign-flip can reach.")
    if not sequential:
        notes.append("detectable: smallest true difference found 8 times in 10.")
    notes.append("new problems too: accuracy minus the baseline's, interval over seeds and problems.")
    if sequential:
        notes.append(
            "e-value: after the last seed; p is 1 / the largest so far. sign-flip and the interval: as if the number "
            "of seeds had been fixed."
        )
    columns = ["method", "p", "sign-flip", "min", *(["detectable"] * (not sequential)), "new problems too"]
    columns += ["e-value"] * sequential
    return Sheet("Strength of evidence", tuple(columns), tuple(rows), " ".join(notes))


def _middle(comparison: Comparison, arm: Arm, tasks: Sequence[str]) -> str:
    """The inter-quartile mean of an arm over seeds and tasks; a dash where no sample of some task could be judged."""
    scores = [comparison.scores[arm.label, seed].tasks for seed in arm.seeds]
    if any(task not in of_seed for of_seed in scores for task in tasks):
        return NOTHING
    # One run is evaluated on all tasks: their scores on a seed go up and down together.
    middle, interval = estimates.bootstrap_over_tasks(
        [[of_seed[task] for task in tasks] for of_seed in scores],
        confidence=1 - comparison.alpha,
        together=True,
    )
    return f"{middle:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")


def _on_task(comparison: Comparison, arm: Arm, task: str) -> str:
    """An arm's difference from the baseline on one task, over the seeds on which both could be judged."""
    pairs = [
        tuple(comparison.scores[label, seed].tasks.get(task) for label in (arm.label, comparison.baseline))
        for seed in arm.differences
    ]
    values = [value - base for value, base in pairs if value is not None and base is not None]
    if not values:
        return NOTHING
    return level(math.fsum(values) / len(values), estimates.t_interval(values, 1 - comparison.alpha), 3, "+")


def _tasks(comparison: Comparison) -> list[Sheet]:
    tasks = sorted({task for arm in comparison.arms for task in arm.tasks})
    if len(tasks) < 2:
        return []
    levels, differences = [], []
    for arm in comparison.arms:
        means = (f"{arm.tasks[task]:.3f}" if task in arm.tasks else NOTHING for task in tasks)
        levels.append((arm.label, *means, _middle(comparison, arm, tasks)))
        if arm.differences:
            differences.append((arm.label, *(_on_task(comparison, arm, task) for task in tasks)))
    note = (
        f"IQM: mean of the middle half of all seeds and tasks, [{1 - comparison.alpha:.0%} interval] by a bootstrap "
        "of whole seeds; too short for few of them."
    )
    tables = [Sheet("Final accuracy by task", ("method", *tasks, "IQM"), tuple(levels), note)]
    if differences:
        note = "Not adjusted for the number of tasks: the declared metric decides, these describe."
        title = f"Final accuracy by task, minus {comparison.baseline}'s on the same seed"
        tables.append(Sheet(title, ("method", *tasks), tuple(differences), note))
    return tables


def _verdicts(comparison: Comparison) -> list[Sheet]:
    tasks = sorted({task for arm in comparison.arms for task in arm.verdicts})
    tables = []
    for task in tasks:
        rows = []
        for arm in comparison.arms:
            counts = [arm.verdicts[task][verdict] for verdict in VERDICTS]
            rows.append((arm.label, *map(str, counts), str(sum(counts))))
        title = f"Verdicts on the samples of the last evaluation: {task}"
        tables.append(Sheet(title, ("method", *VERDICTS, "samples"), tuple(rows)))
    return tables


def _training(comparison: Comparison) -> Sheet | None:
    rows = []
    for arm in comparison.arms:
        of = arm.training
        if not of:
            return None
        rows.append(
            (
                arm.label,
                share(of["truncated"]),
                number(of["response_length"], 1),
                number(of["entropy"], 3),
                share(of["duplicate_share"]),
                share(of["signal_share"]),
                share(of["abstained"]),
                number(of["mean_weight"], 3),
                # Of a large policy it is not measured.
                NOTHING if math.isnan(of["distance_from_start"]) else f"{of['distance_from_start']:.3g}",
            )
        )
    return Sheet(
        "During training",
        ("method", "truncated", "length", "entropy", "duplicates", "signal", "abstain", "weight", "moved"),
        tuple(rows),
        "Means over steps. duplicates: responses that repeat another of their group. "
        "signal: groups whose rewards differ. abstain: responses "
        "without credit. weight: mean token weight. moved: distance from the start, last step.",
    )


def _cost(comparison: Comparison) -> Sheet | None:
    rows = []
    for arm in comparison.arms:
        of = arm.cost
        if not of:
            return None
        phases = (
            seconds(of[f"seconds_{name}"]) for name in ("rollout", "reward", "credit", "update", "step")
        )
        rows.append((arm.label, *phases, seconds(of["seconds_total"]), count(of["tokens"])))
    return Sheet(
        "Cost",
        ("method", "rollout", "reward", "credit", "update", "a step", "a run", "tokens"),
        tuple(rows),
        "Mean time of a training step by phase; time and tokens of a whole run. Measured, so not repeatable.",
    )


def sheets(comparison: Comparison, runs: Sequence[Run]) -> list[Sheet]:
    """Every table of the leaderboard, in the order in which it is read."""
    every = [
        _ranking(comparison),
        _per_seed(comparison),
        _levels(comparison, runs),
        _evidence(comparison),
        *_tasks(comparison),
        *_verdicts(comparison),
        _training(comparison),
        _cost(comparison),
    ]
    return [sheet for sheet in every if sheet is not None]


def stopping(comparison: Comparison) -> str:
    """The declared stopping rule and, where it depends on what is found, at which seed it stopped."""
    declared = comparison.declaration.stopping
    if not comparison.declaration.sequential:
        return declared
    seeds = _whole_seeds(comparison)
    most, undecided = comparison.experiment["seeds"], ", ".join(comparison.undecided)
    if not undecided:
        state = f"every arm is decided after {seeds} of at most {most} seeds"
    elif seeds >= most:
        state = f"the most seeds, {most}, are run; undecided: {undecided}"
    else:
        state = f"{seeds} of at most {most} seeds are run; undecided: {undecided}"
    return f"{declared} (e-process, scale {comparison.declaration.scale:g}): {state}"


def overall(comparisons: Sequence[Comparison], pooled: bool = False) -> Sheet | None:
    """The methods that all of these experiments share: final accuracy in each. None without any, or for one.

    Of each method the seeds that all experiments have. pooled: also mean and inter-quartile mean over seeds and tasks
    with stratified bootstrap intervals (Agarwal et al. 2021), and the mean difference from the baseline on the same
    seeds. Experiments on unlike policies and tasks have no common mean, so nothing is pooled unasked.
    """
    shared = [
        label
        for label in dict.fromkeys(arm.label for comparison in comparisons for arm in comparison.arms)
        if all(
            any(arm.label == label and "final_accuracy" in arm.scores for arm in comparison.arms)
            for comparison in comparisons
        )
    ]
    baseline = comparisons[0].baseline if comparisons else ""
    if len(comparisons) < 2 or baseline not in shared:
        return None
    confidence = 1 - max(comparison.alpha for comparison in comparisons)

    def accuracies(label: str, seeds: Sequence[int]) -> list[list[float]]:
        return [
            [comparison.arm(label).scores["final_accuracy"].values[seed] for comparison in comparisons]
            for seed in seeds
        ]

    def spread(estimate: tuple[float, Interval | None], sign: str = "") -> str:
        middle, interval = estimate
        return f"{rounded(middle, 3):{sign}.3f}" + (
            f" [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]" if interval else ""
        )

    rows = []
    for label in shared:
        seeds = sorted(set.intersection(*(set(comparison.arm(label).seeds) for comparison in comparisons)))
        paired = [
            seed
            for seed in seeds
            if all(seed in comparison.arm(baseline).seeds for comparison in comparisons)
        ]
        if not seeds:
            continue
        scores = np.array(accuracies(label, seeds))
        cells = [f"{value:.3f}" for value in scores.mean(axis=0)]
        if pooled:
            cells += [spread(estimates.bootstrap_over_tasks(scores, np.mean, confidence))]
            cells += [spread(estimates.bootstrap_over_tasks(scores, confidence=confidence))]
            difference = NOTHING
            if label != baseline and paired:
                differences = np.array(accuracies(label, paired)) - np.array(accuracies(baseline, paired))
                difference = spread(estimates.bootstrap_over_tasks(differences, np.mean, confidence), "+")
            cells.append(difference)
        rows.append((scores.mean() if pooled else 0.0, (label, *cells, str(len(seeds)))))
    names = [str(comparison.experiment.get("name", "experiment")) for comparison in comparisons]
    rows.sort(key=lambda row: -row[0])
    pools = ("mean", "IQM", f"mean minus {baseline}") if pooled else ()
    note = (
        f"IQM: mean of the middle half of all seeds and tasks. [{confidence:.0%} intervals] by stratified bootstrap "
        "over the seeds that all experiments have; too short for few of them. "
        if pooled
        else "Over the seeds that all experiments have; --pool adds means over experiments. "
    )
    return Sheet(
        f"All {len(comparisons)} experiments: final accuracy",
        ("method", *names, *pools, "seeds"),
        tuple(row for _, row in rows),
        f"{note}These describe: each experiment's declared metric decides.",
    )


def provenance(comparison: Comparison, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The declaration and the size of what was run: pairs of a name and its text."""
    declaration = comparison.declaration
    arms = len(comparison.arms) - 1
    rule = f"d = {comparison.smallest_difference:g}, alpha = {comparison.alpha:g} over all arms (Holm)"
    rule += " for better or worse, and again for no difference"
    spent = math.fsum(arm.cost.get("seconds_total", 0.0) * len(arm.seeds) for arm in comparison.arms)
    finished = sum(run.finished for run in runs)
    return [
        ("compared by" if comparison.foreign else "declared", f"{comparison.metric}, {rule}"),
        ("estimand", declaration.estimand),
        ("stopping", stopping(comparison)),
        ("positive control", comparison.positive_control.text),
        (
            "runs",
            f"{finished} finished, {arms + 1} methods"
            + (f", {seconds(spent)} of training in all" if spent else ""),
        ),
        ("tier", f"{comparison.tier}: {TIERS[comparison.tier]}"),
        ("hashes", f"experiment {comparison.experiment_hash[:16]}, run set {comparison.run_set_hash[:16]}"),
    ]


def title(comparison: Comparison) -> str:
    """The experiment in one line."""
    experiment = comparison.experiment
    name, words = str(experiment.get("name", "experiment")), str(experiment.get("title", ""))
    if not words or words.lower().startswith(name.lower()):
        return words or name
    return f"{name}: {words}"


def headline(comparison: Comparison) -> str:
    """How much was run."""
    seeds = sorted({seed for arm in comparison.arms for seed in arm.seeds})
    steps = comparison.experiment.get("training", {}).get("steps")
    methods = f"{len(comparison.arms)} method{'s' * (len(comparison.arms) != 1)}"
    parts = [methods, f"{len(seeds)} training seed{'s' * (len(seeds) != 1)}"]
    return ", ".join(parts + ([f"{steps} steps"] if steps else []))


# ------------------------------------------------------------------------------------- rich

_POSITIVE_CONTROL = {"sensitive": "green", "not sensitive": "bold red", "not tested": "yellow"}


def forest(arm: Arm, reach: float, cells: int) -> Text:
    """The arm's difference and interval on a line of `cells` characters from -reach to +reach; 0 is `│`."""

    def place(value: float) -> int:
        return round((min(1.0, max(-1.0, value / reach)) + 1) / 2 * (cells - 1))

    line = [" "] * cells
    if arm.interval_of_difference:
        low, high = (place(bound) for bound in arm.interval_of_difference)
        line[low : high + 1] = "─" * (high - low + 1)
    line[place(0.0)] = "┼" if line[place(0.0)] == "─" else "│"
    if arm.difference is not None:
        line[place(arm.difference)] = "●"
    return Text("".join(line), style=style(arm.outcome))


def _intervals(comparison: Comparison) -> tuple[str, dict[str, Text]]:
    """A column in which every arm's interval is drawn to one scale, with its head."""
    bounds = [abs(bound) for arm in comparison.arms for bound in arm.interval_of_difference or ()]
    sizes = [abs(arm.difference) for arm in comparison.arms if arm.difference is not None]
    reach = max([*bounds, *sizes, comparison.smallest_difference]) * 1.02
    drawings = {arm.label: forest(arm, reach, 25) for arm in comparison.arms}
    drawings[comparison.baseline] = Text("baseline".center(25), style="dim")
    return f"-{reach:.2g} to +{reach:.2g}", drawings


def render(comparison: Comparison, runs: Sequence[Run], width: int = 80) -> RenderableType:
    """The whole leaderboard for a console of `width` columns; wide ones get a drawn interval beside each outcome."""
    heading = Text(title(comparison), style="bold")
    parts: list[RenderableType] = [
        Rule(style="dim"),
        heading,
        Text(headline(comparison), style="dim"),
        Text(comparison.positive_control.text, style=_POSITIVE_CONTROL[comparison.positive_control.outcome]),
    ]
    for sheet in sheets(comparison, runs):
        for piece in fitted(sheet, width):
            drawn = width >= ROOM_TO_DRAW and "difference" in piece.columns
            parts.append(table(piece, comparison.baseline, _intervals(comparison) if drawn else None))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for name, text in provenance(comparison, runs):
        if name != "positive control":  # it stands in the title already
            facts.add_row(name, Text(text))
    for note in comparison.notes:
        facts.add_row("note", Text(note, style="yellow"))
    parts += [Padding(facts, (1, 0, 0, 0)), Rule(style="dim")]
    return Group(*parts)
