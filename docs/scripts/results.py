"""Fills the result tables of README and docs/results from the kept files: `python docs/scripts/results.py`.

A table stands between `<!-- table FILE ARM ARM ... -->` and `<!-- end of table -->`; FILE is a JSON of
leaderboards/results. In place of `table`:

    pairs       arms minus others than the baseline (ARM-ARM)
    metrics     arms minus the baseline by every metric
    replay      a replay
    length      replays of one question at several lengths, and `times`
    edges       known graphs, and `steps`
    values      where the chance of a right answer changes
    intervene   how often hiding tokens changes the answer
    turns       how far arms turn an update and what they gain
    facts       what a file was measured on
    command     the command that made it
    profile     tables over all testbeds: `rules`, `beyond` or keys of figures

tests/test_results.py holds the tables to the files, and numbers in the text to the tables.

The kept profile, leaderboards/results/profile.md and .json, is made anew, too. With `--draw`, so are the pictures.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from harness import experiment as experiments
from harness.studies import intervene
from harness.studies import profile as profiles
from harness.studies.measured import kind_of, read, read_one
from harness.studies.value_figures import CUT
from leaderboards.declaration import BASELINE, METRICS, Declaration
from leaderboards.estimates import decide, seeds_to_detect, spread, t_interval
from leaderboards.older import outcome_of, turn_of
from leaderboards.sheets import escaped, to_markdown

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "leaderboards" / "results"
FIGURES = ROOT / "docs" / "figures"
RESULTS = tuple(sorted((ROOT / "docs" / "results").glob("*.md")))
PAGES = (ROOT / "README.md", ROOT / "docs" / "predictions.md", *RESULTS)
MARKED = re.compile(
    r"<!-- (table|pairs|metrics|replay|length|times|edges|steps|values|intervene|turns|facts|command|profile) (\S+)"
    r"((?: \S+)*) -->\n.*?<!-- end of table -->",
    re.DOTALL,
)
#: The training that has a picture.
TRAINED = "decision-until-decided.json"
#: The replay of the study of the turn.
TURNED = "turn-replay.json"
#: Its training: the runs of `comparison`, and more arms that were added to them. The profile has the former already.
TURN_TRAINED = "turn.json"
#: The training at other learning rates, made in the same way.
RATES = "fairness.json"
#: The first seeds of TRAINED once more, on another kind of CPU.
AGAIN = "decision.json"
#: The arms of the turn in the table and the picture: those that tokens of three kinds are up-weighted in.
TURNS = (
    *("oracle", "oracle_3", "oracle_10", "oracle_mask"),
    *("flow_emitting_1.5", "flow_emitting_3", "flow_emitting_10", "flow_emitting_mask"),
    *("random", "random_3", "random_10", "random_mask"),
)
#: The testbeds of the profile, in its order: all files of them are in it, and no others.
TESTBEDS = (
    "decision",
    "decision-until-decided",
    "comparison",
    "decision-chain",
    "comparison-chain",
    "decision-decoy",
    "comparison-decoy",
    "arithmetic",
    "comparison-arithmetic",
    "graph",
    "smollm2",
    "sums",
    "word_problems",
)
#: Under a table whose number of seeds was not fixed.
OPEN = "Seeds are added until every arm is decided; this is the state so far."
ENDED = "Seeds were added until every arm is decided, {} at most: the sweep is at its end."
SEQUENTIAL = (
    "The outcomes come from a test that allows this, an e-process: a decision stands, even if later seeds point the "
    "other way. The 95% intervals are as if the number of seeds had been fixed: one may leave out zero where the test "
    "has not decided."
)
#: Keys of a replay's figures.
RATIO, INTERVAL = "ratio_difference", "ratio_difference_interval"
#: The chance that the deciding token gets more weight than another unsure one; older files do not have it.
FINDS = "decisive_unsure"
#: Arms in plain words.
WORDS: Mapping[str, str] = tomllib.loads((Path(__file__).parent / "arms.toml").read_text())


def load(name: str) -> Any:
    """A kept file, read."""
    return json.loads((KEPT / name).read_text())


def table(name: str, labels: Sequence[str]) -> str:
    """The rows `labels` of the comparison kept in the file `name`, all of them by rank where none is named."""
    comparison = load(name)
    ranked = sorted(comparison["arms"], key=lambda arm: arm["rank"])
    arms: Mapping[str, Any] = {arm["label"]: arm for arm in ranked}
    heads = [
        "arm",
        "who gets more credit",
        f"{_metric(comparison)}, minus {comparison['baseline']}",
        "seeds above",
        "outcome",
    ]
    lines = [_line(heads), "|---|---|--:|--:|---|"]
    decided = _decided_at(comparison)
    for label in labels or arms:
        arm = arms[label]
        at = f", at {decided[label]} seeds" if label in decided else ""
        cells = [_difference(arm, comparison), _seeds_above(arm["differences"].values()), _outcome(arm) + at]
        lines.append(_line([f"`{label}`", WORDS.get(label, label), *cells]))
    if Declaration.recorded(comparison["declaration"]).sequential:
        cap = comparison["experiment"].get("seeds")
        ended = all(len(arm["differences"]) == cap for arm in ranked if arm["differences"])
        lines += ["", f"{ENDED.format(cap) if ended else OPEN} {SEQUENTIAL}"]
    return "\n".join(lines)


def _decided_at(comparison: Mapping[str, Any]) -> dict[str, int]:
    """Label -> after how many seeds an arm of a comparison until decided was decided; none of another comparison."""
    rule = Declaration.recorded(comparison["declaration"])
    if not rule.sequential:
        return {}
    compared = [arm for arm in comparison["arms"] if arm["differences"]]
    every = {arm["label"]: list(arm["differences"].values()) for arm in compared}
    arms = max(len(comparison["experiment"]["methods"]), len(every) + 1) - 1
    decided: dict[str, int] = {}
    for seeds in range(2, max(map(len, every.values())) + 1):
        seen = {label: values[:seeds] for label, values in every.items()}
        decisions = decide(seen, rule.smallest_difference, rule.alpha, arms, rule.scale)
        for label, decision in decisions.items():
            if decision.outcome != "cannot tell":
                decided.setdefault(label, seeds)
    return decided


def pairs(name: str, words: Sequence[str]) -> str:
    """For each of the words ARM-ARM, the first arm minus the second one on the seeds that both have."""
    comparison = load(name)
    scores = {arm["label"]: arm["differences"] for arm in comparison["arms"]}
    lines = [_line(["difference", _metric(comparison), "seeds above"]), "|---|--:|--:|"]
    for word in words:
        first, second = word.split("-")
        values = [
            scores[first][seed] - scores[second][seed] for seed in scores[first] if seed in scores[second]
        ]
        lines.append(_line([f"`{first}` minus `{second}`", _mean(values), _seeds_above(values)]))
    return "\n".join(lines)


def metrics(name: str, labels: Sequence[str]) -> str:
    """The arms `labels` minus the baseline by every metric: reward in training, accuracy over steps and at the end."""
    comparison = load(name)
    scores = {arm["label"]: arm["scores"] for arm in comparison["arms"]}
    lines = [_line(["arm", *METRICS.values(), "seeds above at the end"])]
    lines.append("|---|" + "--:|" * (len(METRICS) + 1))
    for label in labels:
        cells = [f"`{label}`"]
        for metric in METRICS:
            base = scores[comparison["baseline"]][metric]["values"]
            differences = [value - base[seed] for seed, value in scores[label][metric]["values"].items()]
            cells.append(_mean(differences))
        lines.append(_line([*cells, _seeds_above(differences)]))
    return "\n".join(lines)


def _metric(comparison: Mapping[str, Any]) -> str:
    return "reward" if comparison["metric"] == "training_reward_area" else "accuracy"


def _seeds_above(differences: Collection[float]) -> str:
    """On how many seeds a difference lies above 0: `7 of 8`; nothing for the baseline, which has none."""
    return f"{sum(value > 0 for value in differences)} of {len(differences)}" if differences else ""


def _difference(arm: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    if arm["label"] == comparison["baseline"]:
        return f"{arm['scores'][comparison['metric']]['mean']:.3f}"
    return _with_interval(arm["difference"], arm["interval_of_difference"])


def _absolute(value: float, interval: Sequence[float] | None) -> str:
    """Uniform's own figure among the differences from it: `0.304 ± 0.176 (its own)`."""
    around = "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.3f}"
    return f"{value:.3f}{around} (its own)"


def _with_interval(value: float, interval: Sequence[float] | None) -> str:
    if interval is None:  # equal on every seed
        return _signed(value)
    low, high = interval
    return f"{_signed(value)} ± {(high - low) / 2:.3f}"


def _mean(differences: Sequence[float]) -> str:
    """Their mean with Student's interval over seeds."""
    return _with_interval(math.fsum(differences) / len(differences), t_interval(differences))


def _signed(value: float) -> str:
    """Three digits with their sign; what rounds to nothing is +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _outcome(arm: Mapping[str, Any]) -> str:
    return outcome_of(arm).partition(":")[0]


def replayed(name: str, labels: Sequence[str]) -> str:
    """The rows `labels` of the replay kept in the file `name`, all of them by ratio where none is named.

    Uniform has its own ratio where the others have their difference from it, and stands above the first that is lower.
    """
    rows, uniform = figures(name), uniform_of(name)
    knows = any(row["decisive"] for row in rows.values())
    heads = [
        "arm",
        "who gets more credit",
        *(["finds the deciding token", "among all tokens"] if knows else []),
    ]
    lines = [_line([*heads, "signal to noise, minus uniform's", "turn"])]
    lines.append("|---|---|" + "--:|" * len(heads))
    named = [label for label in labels or rows if label != BASELINE]
    place = next((place for place, label in enumerate(named) if rows[label][RATIO] < 0), len(named))
    for label in [*named[:place], BASELINE, *named[place:]]:
        row = uniform if label == BASELINE else rows[label]
        turn = turn_of(row)
        finds = [_finds(row.get(key)) for key in (FINDS, "decisive")] if knows else []
        ratio = _ratio(row)
        lines.append(
            _line([f"`{label}`", WORDS.get(label, label), *finds, ratio, f"{turn[0]:.3f}" if turn else "-"])
        )
    return "\n".join(lines)


def _ratio(row: Mapping[str, Any]) -> str:
    """The ratio minus uniform's, with its interval; uniform's own in its row."""
    if row["label"] == BASELINE:
        return _absolute(row["ratio"], row["ratio_interval"])
    return _with_interval(row[RATIO], row[INTERVAL])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


#: Replays of one question at several lengths, shortest first.
LENGTHS = ("length-5.json", "length-10.json", "length-20.json")


@cache
def tokens_of(name: str) -> int:
    """How many tokens a response has, the end token counted, in the experiment that the file `name` is a replay of."""
    task: Any = experiments.task_of(experiments.load(load(name)["experiment"]).task)
    ((_, response),) = task.demonstrations(1, "length")
    return len(response) + 1


def length(name: str, more: Sequence[str]) -> str:
    """A row an arm, a column a file: the ratio minus uniform's (of uniform the ratio), and the last file's minus the
    first's with the interval of two independent figures.
    """
    files = [name, *more]
    spans = [f"{tokens_of(each)} tokens" for each in files]
    lines = [_line(["arm", "who gets more credit", *spans, f"{spans[-1]} minus {spans[0]}"])]
    lines.append("|---|---|" + "--:|" * (len(files) + 1))
    for label, rows in _over_lengths(files).items():
        value, interval = ("ratio", "ratio_interval") if label == BASELINE else (RATIO, INTERVAL)
        halves = [(row[interval][1] - row[interval][0]) / 2 for row in rows]
        last = f"{_signed(rows[-1][value] - rows[0][value])} ± {math.hypot(halves[0], halves[-1]):.3f}"
        last += " (its own)" if label == BASELINE else ""
        lines.append(_line([f"`{label}`", WORDS.get(label, label), *map(_ratio, rows), last]))
    return "\n".join(lines)


def times(name: str, more: Sequence[str]) -> str:
    """A row an arm: what it finds at each length, and how many times uniform's its ratio is.

    No number of times where uniform's interval reaches 0.
    """
    files = [name, *more]
    spans = [f"{tokens_of(each)} tokens" for each in files]
    heads = [*(f"finds, {span}" for span in spans), *(f"times uniform's, {span}" for span in spans)]
    lines = [_line(["arm", *heads]), "|---|" + "--:|" * len(heads)]
    every = _over_lengths(files)
    for label, rows in every.items():
        if label != BASELINE:
            finds = [_finds(row.get(FINDS)) for row in rows]
            ratios = [
                f"{row['ratio'] / base['ratio']:.1f}" if base["ratio_interval"][0] > 0 else "-"
                for row, base in zip(rows, every[BASELINE], strict=True)
            ]
            lines.append(_line([f"`{label}`", *finds, *ratios]))
    return "\n".join(lines)


def _over_lengths(files: Sequence[str]) -> dict[str, list[Any]]:
    """Label -> its figures in each file, uniform first and then by the first file's difference."""
    every = [{row["label"]: row for row in load(name)["figures"]} for name in files]
    return {label: [rows[label] for rows in every] for label in (BASELINE, *figures(files[0]))}


def _by_name(rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Rows by their names as a marker writes them: spaces as underscores."""
    return {row["name"].replace(" ", "_"): row for row in rows}


def edges(name: str, labels: Sequence[str]) -> str:
    """The rankings `labels` of a kept file of `flowtracer edges`, spaces in them written as underscores; or all."""
    rows = _by_name(load(name)["results"])
    lines = [_line(["positions ranked by", "among equals", "all"]), "|---|--:|--:|"]
    for label in labels or rows:
        areas = rows[label]["areas"]
        lines.append(_line([rows[label]["name"], _area(areas["among equals"]), _area(areas["all"])]))
    return "\n".join(lines)


def steps(name: str, labels: Sequence[str]) -> str:
    """The rows `labels` of a kept file of `flowtracer steps`, spaces in them written as underscores; or all."""
    rows = _by_name(load(name)["results"]["rows"])
    keys = ("needed", "needed_matched", "wrong", "wrong_matched")
    heads = ["steps ranked by", "needed", "needed, matched", "first wrong", "first wrong, matched"]
    lines = [_line(heads), "|---|--:|--:|--:|--:|"]
    for label in labels or rows:
        lines.append(_line([rows[label]["name"], *(_area(rows[label][key]) for key in keys)]))
    return "\n".join(lines)


def followed(name: str, labels: Sequence[str]) -> str:
    """The rankings `labels` of a kept file of `flowtracer values`, at the cuts; all where none is named, rules first.

    Spaces in labels are written as underscores.
    """
    results = load(name)["results"]
    every = [row for row in (*results["rules"], *results["methods"]) if row["reading"] == CUT]
    rows = _by_name(every)
    keys = {"by_halves": "size, by halves", "signed": "signed", "fall": "first fall"}
    lines = [_line(["tokens ranked by", *keys.values()]), "|---|" + "--:|" * len(keys)]
    for label in labels or rows:
        row = rows[label]
        cells = [_correlation(row["by_halves"]), _correlation(row["signed"]), _area(row["fall"])]
        lines.append(_line([row["name"], *cells]))
    return "\n".join(lines)


def intervened(name: str, labels: Sequence[str]) -> str:
    """The rows `labels` of a kept file of `flowtracer intervene`, spaces in them written as underscores; or all."""
    arms = _by_name(load(name)["arms"])
    sheet = intervene.sheet("", [intervene.Arm(**arms[label]) for label in labels or arms], "")
    return to_markdown(sheet).partition("\n\n")[2].rstrip()


def _correlation(level: Sequence[Any] | None) -> str:
    return "-" if level is None else _with_interval(*level)


class Turned(NamedTuple):
    """An arm without training and with it.

    replayed: its figures in a kept replay. trained: the arm in a kept comparison, by method and options and not by
    label; None where none trained it.
    """

    label: str
    replayed: Mapping[str, Any]
    trained: Mapping[str, Any] | None

    @property
    def turn(self) -> float:
        """1 - cosine between its update and that of uniform credit."""
        return float(self.replayed["turn"][0])


def turned(name: str, comparison: str) -> list[Turned]:
    """The arms `TURNS` of the replay kept in the file `name` beside those of a kept comparison, in their order."""
    by_label = {arm["label"]: arm for arm in load(comparison)["arms"]}
    trained = {row.arm.words: by_label[row.label] for row in read_one(KEPT / comparison).rows}
    arms = {row.label: row.arm.words for row in read_one(KEPT / name).rows}
    rows = figures(name)
    return [Turned(label, rows[label], trained.get(arms[label])) for label in TURNS]


def turns(name: str, more: Sequence[str]) -> str:
    """How far arms of a kept replay turn an update, what they gained in training, and the seeds to see that.

    more: the file of the kept comparison.
    """
    (file,) = more
    heads = ["arm", "turn", "signal to noise, minus uniform's", "reward, minus uniform", "seeds to see it"]
    lines = [_line(heads), "|---|--:|--:|--:|--:|"]
    uniform, comparison = uniform_of(name), load(file)
    scores = next(arm["scores"] for arm in comparison["arms"] if arm["label"] == BASELINE)
    reward = scores[comparison["metric"]]["mean"]
    (turn, _) = turn_of(uniform) or (math.nan, None)
    lines.append(_line([f"`{BASELINE}`", f"{turn:.3f}", _ratio(uniform), _absolute(reward, None), ""]))
    for arm in turned(name, file):
        gain, seeds = "not trained", ""
        if arm.trained is not None:
            gain = _difference(arm.trained, comparison)
            values = list(arm.trained["differences"].values())
            needed = seeds_to_detect(arm.trained["difference"], spread(values))
            seeds = "more than 10,000" if needed is None else f"{needed:,}"
        lines.append(_line([f"`{arm.label}`", f"{arm.turn:.3f}", _ratio(arm.replayed), gain, seeds]))
    return "\n".join(lines)


def _finds(level: Sequence[Any] | None) -> str:
    """An area under the ROC curve without its interval, for a table whose question is another."""
    return "-" if level is None else f"{level[0]:.2f}"


def _area(level: Sequence[Any] | None) -> str:
    if level is None:
        return "-"
    mean, interval = level
    return f"{mean:.3f}" + (f" ±{(interval[1] - interval[0]) / 2:.3f}" if interval else "")


def facts(name: str, _: Sequence[str]) -> str:
    """The facts of a kept file, one line each."""
    content = load(name)
    lines = content["facts"] if "facts" in content else read_one(KEPT / name).facts
    return "\n".join(f"- {escaped(line)}" for line in lines)


def command(name: str, more: Sequence[str]) -> str:
    """The commands that kept files say made them."""
    return "\n".join(["```sh", *(load(each)["command"] for each in (name, *more)), "```"])


# ------------------------------------------------------------------------------------- profile


@cache
def testbeds() -> tuple[profiles.Testbed, ...]:
    """The testbeds of the kept files, every file under its name."""
    names = sorted({path.name for path in KEPT.glob("*.json")} - {TURN_TRAINED, RATES, AGAIN})
    paths = [KEPT / name for name in names if kind_of(load(name))]
    files = [replace(each, path=Path(each.path.name)) for each in read(paths)]
    every = [bed for bed in profiles.joined(files) if bed.name in TESTBEDS]
    return tuple(sorted(every, key=lambda bed: TESTBEDS.index(bed.name)))


def profile(what: str, more: Sequence[str]) -> str:
    """The rules, the arms beyond them, or a table for each of the figures that are named."""
    if what == "rules":
        sheets = [profiles.rules(testbeds()), *profiles.by_figure(testbeds(), more, ("rule",))]
    elif what == "beyond":
        sheets = [profiles.beyond(testbeds())]
    else:
        sheets = profiles.by_figure(testbeds(), (what, *more))
    return "\n".join(to_markdown(sheet) for sheet in sheets).rstrip()


def kept_profile() -> dict[str, str]:
    """The texts of the kept profile by their names."""
    names = ["profile.json", "profile.md"]
    files = [path.name for bed in testbeds() for path in bed.sources.values()]
    words = ["flowtracer", "profile", *files, *(word for name in names for word in ("--export", name))]
    page = profiles.page(testbeds(), profiles.by_testbed(testbeds()), shlex.join(words))
    return dict(zip(names, (profiles.to_json(page, testbeds()), page.to_markdown()), strict=True))


def figures(name: str) -> dict[str, Any]:
    """Label -> figures of every arm but uniform of the replay kept in the file `name`, best ratio first."""
    rows = [row for row in load(name)["figures"] if row["label"] != BASELINE]
    return {row["label"]: row for row in sorted(rows, key=lambda row: -row[RATIO])}


def uniform_of(name: str) -> Any:
    """The figures of uniform of the replay kept in the file `name`."""
    return next(row for row in load(name)["figures"] if row["label"] == BASELINE)


MAKERS: Mapping[str, Callable[[str, Sequence[str]], str]] = {
    "table": table,
    "pairs": pairs,
    "metrics": metrics,
    "replay": replayed,
    "length": length,
    "times": times,
    "edges": edges,
    "steps": steps,
    "values": followed,
    "intervene": intervened,
    "turns": turns,
    "facts": facts,
    "command": command,
    "profile": profile,
}


def filled(text: str) -> str:
    """A page's text with its tables made anew."""

    def made(match: re.Match[str]) -> str:
        opening = match[0].partition("\n")[0]
        words = match[3].split()
        body = MAKERS[match[1]](match[2], words)
        return f"{opening}\n\n{body}\n\n<!-- end of table -->"

    return MARKED.sub(made, text)


def draw() -> None:
    """Draws the pictures: the replay and the training of `comparison`, the profile, and the turn."""
    import pictures  # stands beside this script

    noise = [
        pictures.Line(
            label,
            f"  (finds {row[FINDS][0]:.2f})",
            row[RATIO],
            row[INTERVAL],
        )
        for label, row in figures("replay-comparison.json").items()
    ]
    words = "signal-to-noise ratio of one batch's gradient, minus uniform's; 95% interval"
    pictures.intervals(noise, words, str(FIGURES / "replay"))
    if (KEPT / TRAINED).is_file():
        draw_training(load(TRAINED), str(FIGURES / "training"))
    if all((KEPT / name).is_file() for name in LENGTHS):
        draw_lengths(str(FIGURES / "length"))
    pictures.multiples(testbeds(), FIGURES)
    if (KEPT / TURN_TRAINED).is_file():
        draw_turns(str(FIGURES / "turn"))


def draw_turns(path: str) -> None:
    """The picture of the turn: signal to noise and the gain in training of every arm of its table against the turn."""
    import pictures

    arms = turned(TURNED, TURN_TRAINED)
    noise = [pictures.Point(arm.label, arm.turn, arm.replayed[RATIO], arm.replayed[INTERVAL]) for arm in arms]
    gains = [
        pictures.Point(arm.label, arm.turn, arm.trained["difference"], arm.trained["interval_of_difference"])
        for arm in arms
        if arm.trained is not None
    ]
    panels = {"signal to noise, minus uniform's": noise, "reward in training, minus uniform's": gains}
    pictures.against(panels, "turn: 1 - cosine to uniform's update; 95% intervals", path)


def draw_lengths(path: str) -> None:
    """The picture of the replays of `LENGTHS`: every arm's difference from uniform's ratio against tokens."""
    import pictures

    curves = {
        label: [(row[RATIO], row[INTERVAL]) for row in rows]
        for label, rows in _over_lengths(LENGTHS).items()
        if label != BASELINE
    }
    words = "signal-to-noise ratio, minus uniform's"
    pictures.lengths(curves, [tokens_of(name) for name in LENGTHS], words, path)


def draw_training(comparison: Mapping[str, Any], path: str) -> None:
    """The picture of a training: every arm's difference from the baseline, best first."""
    import pictures

    arms = [arm for arm in comparison["arms"] if arm["difference"] is not None]
    lines = [
        pictures.Line(arm["label"], "", arm["difference"], arm["interval_of_difference"])
        for arm in sorted(arms, key=lambda arm: -arm["difference"])
    ]
    smallest = comparison["declaration"]["smallest_difference"]
    words = (
        f"{METRICS[comparison['metric']]}, minus {comparison['baseline']}'s on the same seed; 95% interval; "
        f"shaded: less than {smallest:g}"
    )
    pictures.intervals(lines, words, path, smallest)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: fills every page."""
    for name, text in kept_profile().items():
        (KEPT / name).write_text(text)
    for page in PAGES:
        page.write_text(filled(page.read_text()))
    if "--draw" in (sys.argv[1:] if arguments is None else arguments):
        draw()


if __name__ == "__main__":
    main()
