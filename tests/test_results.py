"""Protects the tables and numbers that README and docs/results show: each is that of a kept file."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from scipy.stats import t as student

from leaderboards import compare, load
from leaderboards.declaration import METRICS
from leaderboards.estimates import t_interval
from leaderboards.report import to_json
from tests.harness.studies.kept_files import values_table
from tests.leaderboards.recorded_runs import experiment, write_run

ROOT = Path(__file__).parents[1]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", ROOT / "docs" / "scripts" / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RESULTS = script()
#: What a page of results answers, in this order.
SECTIONS = ["The question", "The dumbest rules", "The table", "What it cannot say", "The command"]
#: Arms of the replay that was predicted from, which were trained only when the prediction had been judged.
LATER = {"raw_flow_3", "global_anchor_3"}
#: A difference with its interval, as the tables print it.
DIFFERENCE = re.compile(r"[+-]\d\.\d{3} ± \d\.\d{3}")


@pytest.mark.parametrize("page", RESULTS.PAGES, ids=lambda page: page.name)
def test_every_table_is_what_the_kept_file_says(page: Path) -> None:
    text = page.read_text()
    assert RESULTS.filled(text) == text, "run `python docs/scripts/results.py`"


@pytest.mark.parametrize("page", RESULTS.PAGES, ids=lambda page: page.name)
def test_every_difference_in_the_text_stands_in_a_table_of_its_page(page: Path) -> None:
    text = page.read_text()
    tables = "\n".join(match[0] for match in RESULTS.MARKED.finditer(text))
    words = RESULTS.MARKED.sub("", text)
    known = set(DIFFERENCE.findall(tables))
    assert set(DIFFERENCE.findall(words)) <= known


@pytest.mark.parametrize("page", RESULTS.RESULTS, ids=lambda page: page.name)
def test_a_page_answers_in_order(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS


@pytest.mark.parametrize("name", ["profile.json", "profile.md"])
def test_the_kept_profile_is_what_its_files_say(name: str) -> None:
    assert RESULTS.kept_profile()[name] == (RESULTS.KEPT / name).read_text(), (
        "run `python docs/scripts/results.py`"
    )


def test_sentences_on_arithmetic_and_graph_are_what_the_files_say() -> None:
    """The prose of these pages has no numbers; what it says must hold for those of the files all the same."""
    outcomes = {
        RESULTS._outcome(arm)
        for name in ("arithmetic.json", "comparison-arithmetic.json")
        for arm in RESULTS.load(name)["arms"]
    }
    assert not outcomes & {"better", "worse"}
    edges = {row["name"]: row["areas"] for row in RESULTS.load("graph-edges.json")["results"]}

    def equals(name: str) -> tuple[float, float]:
        low, high = edges[name]["among equals"][1]
        return low, high

    assert equals("edge_flow, middle, own")[0] < 0.5 < equals("edge_flow, middle, own")[1]
    assert equals("edge_flow, late, emitting")[0] > equals("edge_flow, middle, emitting")[1]
    assert equals("edge_flow, late, emitting")[0] < equals("one hop, late, emitting")[1]
    assert equals("flow to the token, late, emitting")[0] > equals("one hop, late, emitting")[1]
    steps = {row["name"]: row for row in RESULTS.load("graph-steps.json")["results"]["rows"]}
    assert steps["flow"]["needed"][1][0] > 0.5
    assert steps["flow"]["needed_matched"][1][0] < 0.5 < steps["flow"]["needed_matched"][1][1]
    assert 0.5 < steps["flow-late"]["needed_matched"][1][0]
    assert steps["flow-late"]["needed_matched"][1][1] < steps["named later"]["needed_matched"][1][0]
    assert steps["flow"]["wrong_matched"][1][0] < 0.5
    assert all(
        steps[name]["wrong_matched"][1][0] > 0.6
        for name in ("gtpo", "low_probability", "entropy_mask", "entropy")
    )
    assert steps["probability"]["needed_matched"][0] > steps["flow-late"]["needed_matched"][0]
    flows = [row for name, row in steps.items() if name.split("-")[0] == "flow"]
    assert len(flows) == 5 and sum(row["needed_matched"][1][0] > 0.51 for row in flows) == 1
    rules = {"nearest", "same token", "same text", "usual distance", "random"}
    for among in ("among equals", "all"):
        maps = [areas[among][1][1] for name, areas in edges.items() if name not in rules]
        assert len(maps) == 23 and max(maps) < edges["same text"][among][1][0]
    to_token = edges["flow to the token, late, emitting"]["all"]
    assert to_token[1][1] < edges["edge_flow, late, emitting"]["all"][1][0]
    assert to_token[1][1] < edges["one hop, late, emitting"]["all"][1][0]
    rows = RESULTS.figures("graph-replay.json")
    early, likely, sure = (rows[name]["decisive_unsure"][0] for name in ("position", "probability", "gtpo"))
    page = (ROOT / "docs" / "results" / "graph.md").read_text()
    assert f'"the earlier the more", has {1 - early:.2f}, `probability` {likely:.2f}' in page
    assert f'turned round to "the lower the entropy the more", {1 - sure:.2f}' in page
    detectable = [
        arm["smallest_detectable"]
        for arm in RESULTS.load("comparison-arithmetic.json")["arms"]
        if arm["smallest_detectable"]
    ]
    assert 0.02 < min(detectable) < max(detectable) < 0.06


def test_sentences_on_the_replays_of_graph_and_arithmetic_are_what_the_files_say() -> None:
    """What the pages say in words holds of the files' numbers: who is told from uniform, who finds the letters."""

    def told(name: str) -> tuple[set[str], set[str]]:
        """The methods whose ratio lies above uniform's, and below it, by their intervals."""
        rows = {label: row["ratio_difference_interval"] for label, row in RESULTS.figures(name).items()}
        above = {label for label, interval in rows.items() if interval and interval[0] > 0}
        return above, {label for label, interval in rows.items() if interval and interval[1] < 0}

    further = RESULTS.figures("replay-vine-spo.json")
    assert {"vine", "spo"} <= told("replay-vine-spo.json")[0]
    uniform = next(
        row for row in RESULTS.load("replay-vine-spo.json")["figures"] if row["label"] == "uniform"
    )
    for name in ("vine", "spo"):
        assert (
            further[name]["ratio"] < 7 * uniform["ratio"]
            and 7.5 < further[name]["seconds"] / uniform["seconds"] < 11.5
        )
    assert told("graph-replay.json") == (set(), {"random_mask", "oppo", "rlsd"})
    assert told("replay-arithmetic.json") == (set(), {"oar_perturb"})
    assert len(RESULTS.figures("replay-arithmetic.json")) == 34
    rows = RESULTS.figures("graph-replay.json")
    assert len(rows) == 41
    # docs/howto/teacher.md
    assert rows["opsd"]["decisive"][0] < 0.55 and 0.95 < rows["opsd"]["turn"][0] < 1.05
    for name in ("low_probability", "entropy_mask", "gtpo"):
        assert rows[name]["decisive"][0] > 0.94 and rows[name]["turn"][0] < 0.02
    assert (
        0.25 < rows["oracle_mask"]["turn"][0] < 0.26 and round(rows["oracle_mask"]["mean_weight"], 3) == 0.106
    )
    low, high = rows["shuffled_oracle_10"]["ratio_difference_interval"]
    assert f"{rows['shuffled_oracle_10']['ratio_difference']:.3f} ±{(high - low) / 2:.3f}" == "-0.008 ±0.042"
    page = (RESULTS.KEPT / "graph-replay.md").read_text()
    assert "undecided (-0.008 ±0.042)" in page and "is 0.257" in page


def test_pictures_are_drawn_of_what_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Light and dark; an arm without an interval, and a testbed without the figure, stop nothing."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "scripts"))
    import pictures

    arms = [
        {"label": "uniform", "difference": None, "interval_of_difference": None},
        {"label": "flow_3", "difference": 0.02, "interval_of_difference": [0.01, 0.03]},
        {"label": "constant_3", "difference": 0.0, "interval_of_difference": None},
    ]
    kept = {
        "arms": arms,
        "baseline": "uniform",
        "metric": "training_reward_area",
        "declaration": {"smallest_difference": 0.01},
    }
    RESULTS.draw_training(kept, str(tmp_path / "training"))
    assert {path.name for path in tmp_path.iterdir()} == {"training-light.png", "training-dark.png"}
    points = [pictures.Point("flow_3", 0.1, 0.02, (0.01, 0.03)), pictures.Point("oracle_3", 0.2, 0.0, None)]
    pictures.against({"reward": points}, "turn", str(tmp_path / "turn"))
    assert {path.name for path in tmp_path.glob("turn*")} == {"turn-light.png", "turn-dark.png"}
    kinds = {
        label: pictures.kind_of(label) for label in ("shuffled_flow_3", "oracle_3", "flow_all_3", "one_hop_3")
    }
    assert list(kinds.values()) == ["rule", "control", "flow", "method"]


def test_arms_of_a_turn_are_joined_by_method_and_not_by_label() -> None:
    """`flow_emitting_1.5` of the replay is `flow_emitting` of the comparison; what was not trained says so."""
    arms = {arm.label: arm for arm in RESULTS.turned("turn-replay.json", "comparison.json")}
    assert list(arms) == list(RESULTS.TURNS)
    trained = arms["flow_emitting_1.5"].trained
    assert trained is not None and trained["label"] == "flow_emitting"
    assert arms["oracle_10"].trained is None
    rows = RESULTS.turns("turn-replay.json", ["comparison.json"]).splitlines()
    assert next(row for row in rows if "`oracle_10`" in row).endswith("| not trained |  |")


def test_the_oracle_and_flow_get_clearer_with_the_factor_and_chance_gets_noisier() -> None:
    """What the page on the turn says in words."""
    rows = RESULTS.figures("turn-replay.json")
    for names, sign in ((RESULTS.TURNS[:8], 1), (RESULTS.TURNS[8:], -1)):
        for start in range(0, len(names), 4):
            ratios = [sign * rows[name]["ratio_difference"] for name in names[start : start + 4]]
            assert ratios == sorted(ratios) and ratios[0] > 0


def test_what_the_page_on_the_turn_says_of_its_training() -> None:
    arms = {arm.label: arm for arm in RESULTS.turned(RESULTS.TURNED, RESULTS.TURN_TRAINED)}
    gains = {label: arm.trained["difference"] for label, arm in arms.items()}
    lows = {label: arm.trained["interval_of_difference"][0] for label, arm in arms.items()}
    assert lows["oracle"] < 0 < gains["oracle"]
    for name in ("oracle", "flow_emitting"):
        assert gains[f"{name}_10"] > gains[f"{name}_3"] and gains[f"{name}_10"] > gains[f"{name}_mask"]
        assert lows[f"{name}_10"] > 0
    chance = [gains[name] for name in ("random", "random_3", "random_10", "random_mask")]
    assert chance == sorted(chance, reverse=True)
    rows = RESULTS.figures(RESULTS.TURNED)
    noise = [rows[label]["ratio_difference"] for label in gains]
    turns = [arm.turn for arm in arms.values()]
    of_noise, of_turn = (spearmanr(each, list(gains.values())).statistic for each in (noise, turns))
    page = (ROOT / "docs" / "results" / "turn.md").read_text()
    assert f"rank correlation {of_noise:.2f}; with the turn itself {of_turn:.2f}" in page
    grouped = [not label.startswith("random") for label in gains]
    assert f"by themselves correlate at {spearmanr(grouped, list(gains.values())).statistic:.2f}" in page
    inside = [spearmanr(each[:8], list(gains.values())[:8]).statistic for each in (noise, turns)]
    assert "signal to noise has {:.2f}, the turn {:.2f}".format(*inside) in page
    seeds = {label: arm.trained["differences"] for label, arm in arms.items()}
    for name, words, above in (
        ("oracle", "{} above the oracle at 3, on 7 of 8", 7),
        ("flow_emitting", "flow {}, on all 8", 8),
    ):
        values = [seeds[f"{name}_10"][seed] - value for seed, value in seeds[f"{name}_3"].items()]
        assert words.format(f"{sum(values) / len(values):.3f}") in page
        assert sum(value > 0 for value in values) == above
        interval = t_interval(values)
        assert interval is not None and interval[0] > 0
    compared = [
        arm["differences"] for arm in RESULTS.load(RESULTS.TURN_TRAINED)["arms"] if arm["differences"]
    ]
    lifted = f"{sum(arm['2'] > 0 for arm in compared)} of {len(compared)} arms are above uniform"
    assert f"{lifted}, `random` at 3 by {seeds['random_3']['2']:.3f}" in page
    rates = {arm["label"]: arm["difference"] for arm in RESULTS.load(RESULTS.RATES)["arms"]}
    assert f"uniform credit gains {rates['uniform_double']:.3f} by it" in page
    assert not {arm["outcome"] for arm in RESULTS.load(RESULTS.TURN_TRAINED)["arms"]} & {"better", "worse"}


def test_what_the_page_on_smollm2_says_of_its_replay() -> None:
    page = RESULTS.MARKED.sub("", (ROOT / "docs" / "results" / "smollm2.md").read_text())
    replay = RESULTS.load("replay-smollm2.json")
    rows = {row["label"]: row for row in replay["figures"]}
    intervals = [
        row["ratio_interval" if label == "uniform" else "ratio_difference_interval"]
        for label, row in rows.items()
    ]
    assert len(intervals) == 22 and all(low <= 0 <= high for low, high in intervals)
    assert "eight batches of 16 responses" in page and (replay["batches"], replay["responses"]) == (8, 128)
    turns = {label: 1 - row["to_uniform"][0] for label, row in rows.items()}
    others = [turn for label, turn in turns.items() if label != "entropy_mask"]
    assert f"by {turns['entropy_mask']:.3f}; no other method turns it by more than {max(others):.3f}" in page
    assert f"turns it by {turns['flow']:.3f}, `random` by {turns['random']:.3f}" in page
    agreement, (low, high) = replay["agreement"]
    assert f"agree at {agreement:.2f}, with an interval from {low:.2f} to {high:.2f}" in page
    for label in ("flow", "random"):
        mean, (low, high) = rows[label]["value_direction"]
        assert low * high > 0 and f"{mean:+.3f} ±{(high - low) / 2:.3f}" in page
    assert f"in {rows['flow']['abstained']:.1%} of the responses" in page
    for label in ("global_anchor", "coupled"):
        assert f"abstain on {rows[label]['abstained']:.1%}" in page
    digits = rows["flow"]["shares"]["digits"], replay["token_shares"]["digits"]
    assert "puts {:.1%} of the weight on digits, which are {:.1%} of all".format(*digits) in page


def test_what_the_page_on_smollm2_says_of_hidden_tokens_and_of_the_smoke_run() -> None:
    page = RESULTS.MARKED.sub("", (ROOT / "docs" / "results" / "smollm2.md").read_text())
    hidden = RESULTS.load("intervene-smollm2.json")
    said = (
        f"{hidden['responses']} responses to {hidden['problems']} problems, {hidden['correct']:.1%} correct"
    )
    assert said in page
    arms = {arm["name"]: arm for arm in hidden["arms"]}
    chances = []
    for name, arm in arms.items():
        if name not in ("none", "random"):
            mean, (low, high) = arm["changed_over_random"]
            half = (high - low) / 2
            error = half / student.ppf(0.975, hidden["problems"] - 1)
            chances.append(2 * student.sf(abs(mean) / error, hidden["problems"] - 1))
            if name in ("flow, highest", "flow, lowest", "one_hop, lowest"):
                assert (low < 0 < high) == (name == "flow, highest")
                assert f"{100 * mean:+.1f} ±{100 * half:.1f}" in page
    assert len(chances) == 6 and sum(chance < 0.05 for chance in chances) == 2
    highest, lowest = (arms[f"flow, {end}"]["changed_over_random"][1] for end in ("highest", "lowest"))
    assert highest[0] < lowest[1] and lowest[0] < highest[1]
    assert min(chances) * len(chances) > 0.05
    assert f"{arms['none']['changed'][0]:.1%} of the answers change with nothing hidden" in page
    flow = next(arm for arm in RESULTS.load("smollm2-smoke.json")["arms"] if arm["label"] == "flow")
    share = flow["cost"]["seconds_credit"] / flow["cost"]["seconds_step"]
    assert f"on {flow['training']['abstained']:.1%} of the responses" in page
    assert f"took {share:.1%} of a step" in page
    assert flow["tasks"]["gsm8k"] == 0 and sum(flow["verdicts"]["gsm8k"].values()) == 4


def test_what_the_page_on_smollm2_says_of_values() -> None:
    """Of two readings flow has an interval above zero in one."""
    page = RESULTS.MARKED.sub("", (ROOT / "docs" / "results" / "smollm2.md").read_text())
    results = RESULTS.load("values-smollm2.json")["results"]
    rows = {(row["name"], row["reading"]): row for row in (*results["rules"], *results["methods"])}

    def shown(name: str, key: str) -> str:
        mean, (low, high) = rows[name, "over the segment"][key]
        return f"{mean:+.3f} ±{(high - low) / 2:.3f}"

    for key in ("by_halves", "signed"):
        assert rows["flow", RESULTS.CUT][key][1][0] > 0
        assert (
            rows["flow", "over the segment"][key][1][0] < 0 < rows["unlikely", "over the segment"][key][1][0]
        )
    assert f"{shown('flow', 'by_halves')} and {shown('flow', 'signed')}" in page
    assert f"keeps {shown('unlikely', 'by_halves')}" in page
    ranked = {name for name, reading in rows if reading == RESULTS.CUT and rows[name, reading]["by_halves"]}
    methods = {row["name"] for row in results["methods"]}
    assert f"one of {len(ranked & methods)} methods" in page
    signed = (rows[name, RESULTS.CUT]["signed"][0] for name in ("flow", "unlikely"))
    assert "0.099 to its 0.135" == "{:.3f} to its {:.3f}".format(*signed) and "0.099 to its 0.135" in page


def test_what_the_page_on_length_says_of_the_letters_that_are_up_weighted() -> None:
    """Both arms always up-weight the deciding one: they have the most that two weights on 40% can reach."""
    others: dict[str, list[int]] = {"flow_emitting_3": [], "one_hop_emitting_3": []}
    for name, letters in zip(RESULTS.LENGTHS, (4, 9, 19), strict=True):
        rows = RESULTS.figures(name)
        for label, counts in others.items():
            assert rows[label]["decisive"][1] is None
            counts.append(round(2 * (1 - rows[label]["decisive_unsure"][0]) * letters))
        flow, hop = (rows[label]["ratio_difference_interval"] for label in others)
        assert (flow[0] > hop[1]) == (letters == 9)
    assert list(others.values()) == [[0, 1, 3], [1, 4, 8]]


def test_lengths_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "scripts"))
    RESULTS.draw_lengths(str(tmp_path / "length"))
    assert {path.name for path in tmp_path.iterdir()} == {"length-light.png", "length-dark.png"}


def test_no_method_of_the_published_factor_turns_an_update_by_more_than_the_readme_says() -> None:
    names = [
        "turn-replay",
        "replay-decision-chain",
        "replay-decision-decoy",
        "graph-replay",
        "replay-arithmetic",
    ]
    turns = []
    for name in names:
        rows = RESULTS.figures(f"{name}.json")
        arms = {row.label: row.arm for row in RESULTS.read_one(RESULTS.KEPT / f"{name}.json").rows}
        turns += [
            rows[label]["turn"][0] for label, arm in arms.items() if label in rows and arm.factor == 1.5
        ]
    assert len(turns) > 60 and 0.02 < max(turns) <= 0.03
    assert "by at most 0.03, 1 - cosine" in (ROOT / "README.md").read_text()


def test_the_level_of_uniform_in_the_readme_is_that_of_its_table() -> None:
    comparison = RESULTS.load("decision-until-decided.json")
    uniform = next(arm for arm in comparison["arms"] if arm["label"] == comparison["baseline"])
    mean = uniform["scores"][comparison["metric"]]["mean"]
    assert f"uniform credit ({mean:.3f})" in (ROOT / "README.md").read_text()


def runs_of(name: str) -> dict[tuple[str, int], Any]:
    """The runs of a kept comparison by method and seed."""
    return {(run["method"], run["seed"]): run for run in RESULTS.load(name)["runs"]}


def differences_of(name: str) -> dict[str, np.ndarray]:
    """Every arm of a kept comparison, minus uniform on each of its seeds."""
    arms = RESULTS.load(name)["arms"]
    return {arm["label"]: np.array(list(arm["differences"].values())) for arm in arms if arm["differences"]}


def test_what_the_page_on_decision_says_of_luck_is_what_the_file_says() -> None:
    """Numbers beside the tables: how large a change of gain chance gives, and where gains are large."""
    comparison = RESULTS.load("decision-until-decided.json")
    runs = runs_of("decision-until-decided.json")
    seeds = sorted({seed for _, seed in runs})
    uniform = np.array([runs["uniform", seed]["metrics"]["training_reward_area"] for seed in seeds])
    gains = differences_of("decision-until-decided.json")
    arms = list(gains)
    page = " ".join((ROOT / "docs" / "results" / "decision.md").read_text().split())

    def changes(values: np.ndarray) -> np.ndarray:
        first, later = values[:, :8], values[:, 8:]
        change = np.abs(later.mean(1) - first.mean(1))
        error = np.sqrt(first.var(1, ddof=1) / 8 + later.var(1, ddof=1) / later.shape[1])
        return np.array([change.max(), (change / values.std(1, ddof=1)).max(), (change / error).max()])

    nine = np.array([gains[arm] for arm in arms if arm != "entropy_3" and not arm.endswith("_double")])
    assert len(nine) == 9
    generator = np.random.default_rng(0)
    shuffled = [changes(nine[:, generator.permutation(len(seeds))]) for _ in range(5000)]
    raw, over_spread, welch = 100 * (np.array(shuffled) >= changes(nine) - 1e-12).mean(0)
    flow = gains["flow_emitting_3"]
    assert (
        f"gain was {flow[:8].mean():+.3f} on the first eight seeds and {flow[8:].mean():+.3f} on those behind"
        in page
    )
    assert f"{raw:.0f}% of shuffles of the seeds, divided by its spread in {over_spread:.0f}%" in page
    assert f"as Welch's t in {welch:.0f}%" in page
    with_uniform = {arm: float(np.corrcoef(gains[arm], uniform)[0, 1]) for arm in arms}
    assert (
        f"{with_uniform['entropy_3']:.2f} for `entropy_3`, {with_uniform['one_hop_emitting_3']:.2f} for one hop"
        in page
    )
    assert (
        f"{with_uniform['oracle_3']:.2f} for the oracle and {with_uniform['flow_emitting_3']:.2f} for flow"
        in page
    )
    declared = [arm for arm in arms if not arm.endswith("_double")]
    lifted = [arm for arm in declared if seeds[int(gains[arm].argmax())] == 2]
    assert seeds[int(uniform.argmin())] == 2 and len(lifted) == 6 and len(declared) == 10
    assert "the highest seed of six of the ten arms at the declared rate" in page
    parted = []
    for seed in seeds:
        constant, plain = (runs[arm, seed]["rewards"] for arm in ("constant_3", "uniform"))
        parted.append(next(step for (step, x), (_, y) in zip(constant, plain, strict=True) if x != y))
    assert f"part after {min(parted)} to {max(parted)} steps" in page
    p_holm = {arm["label"]: arm["p_holm"] for arm in comparison["arms"]}
    assert f"{p_holm['flow']:.3f}" == f"{p_holm['flow_emitting_3_double']:.3f}" == "0.053"
    assert page.count("by a hair (p 0.053)") == 2
    processors = {seed: run["hardware"]["processor"] for (_, seed), run in runs.items()}
    assert [seed for seed, processor in processors.items() if processor != "AMD EPYC"] == [35, 36, 37, 38, 39]


def test_what_another_processor_changes_is_what_the_files_say() -> None:
    """The first eight seeds of `decision` were trained on two kinds of CPU; the page says how far they part."""
    names = ("decision-until-decided.json", RESULTS.AGAIN)
    first, again = map(runs_of, names)
    assert {run["hardware"]["processor"] for run in again.values()} == {"Intel(R) Xeon(R) Processor"}
    assert {first[key]["hardware"]["processor"] for key in again} == {"AMD EPYC"}
    rewards = {key: (np.array(first[key]["rewards"]), np.array(again[key]["rewards"])) for key in again}
    parted = [np.argmax(old[:, 1] != new[:, 1]) for old, new in rewards.values() if (old != new).any()]
    area = "training_reward_area"
    moved = {key: abs(again[key]["metrics"][area] - first[key]["metrics"][area]) for key in again}
    double = [value for (arm, _), value in moved.items() if arm.endswith("_double")]
    at_declared_rate = [value for (arm, _), value in moved.items() if not arm.endswith("_double")]
    before, after = map(differences_of, names)
    arms = {arm: abs(float(after[arm].mean() - before[arm][:8].mean())) for arm in after}
    most = {
        twice: max(arms[arm] for arm in arms if arm.endswith("_double") == twice) for twice in (False, True)
    }
    page = " ".join((ROOT / "docs" / "results" / "decision.md").read_text().split())
    assert f"{len(again) - len(parted)} of the {len(again)} runs have the same reward at each step" in page
    assert f"the others part after {min(parted)} steps or more" in page
    values = list(moved.values())
    assert f"moves by {np.mean(values):.3f} on average and by {max(values):.3f} at most" in page
    assert (
        f"moves by {most[False]:.3f} at most at the declared rate, and by {most[True]:.3f} at twice the rate"
        in page
    )
    assert f"every second one moves there by {np.median(double):.3f} or more" in page
    assert np.median(at_declared_rate) == 0
    intervals = {arm["label"]: arm["interval_of_difference"] for arm in RESULTS.load(RESULTS.AGAIN)["arms"]}
    assert all(moved_by < (intervals[arm][1] - intervals[arm][0]) / 8 for arm, moved_by in arms.items())


def test_uniform_stands_where_its_difference_of_zero_sorts() -> None:
    """A difference says little without what it is a difference from: uniform's row is there, whatever is named."""
    for labels in ([], ["oracle_3", "random_3"]):
        rows = RESULTS.replayed("replay-comparison.json", labels).splitlines()[2:]
        ratios = [float(re.search(r"\| ([+-]?\d\.\d{3}) ±", row)[1]) for row in rows]
        (place,) = (place for place, row in enumerate(rows) if row.startswith("| `uniform`"))
        assert ratios[place] > 0 and rows[place].endswith("(its own) | 0.000 |")
        assert min(ratios[:place]) >= 0 > max(ratios[place + 1 :])
    assert len(rows) == 3


def test_seeds_above_the_baseline_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that equals the baseline's does not lie above; the baseline has no count."""
    arm = {"credit": "flow", "outcome": "cannot tell: about 8 more seeds", "difference": 0.01, "rank": 1}
    arm |= {"label": "flow", "differences": {"0": 0.03, "1": 0.0, "2": -0.01}, "interval_of_difference": None}
    uniform = {
        **arm,
        "label": "uniform",
        "rank": 2,
        "outcome": "baseline",
        "differences": {},
        "scores": {"final_accuracy": {"mean": 0.5}},
    }
    kept = {"arms": [arm, uniform], "baseline": "uniform", "metric": "final_accuracy"}
    monkeypatch.setattr(RESULTS, "KEPT", tmp_path)
    for stopping in ("fixed number of seeds", "until decided"):
        rule = {"stopping": stopping, "smallest_difference": 0.01, "scale": 0.05, "alpha": 0.05}
        table = {**kept, "declaration": rule, "experiment": {"methods": {"uniform": {}, "flow": {}}}}
        (tmp_path / "x.json").write_text(json.dumps(table))
        made = RESULTS.table("x.json", [])
        assert "| +0.010 | 1 of 3 | cannot tell |" in made and "| 0.500 |  | baseline |" in made
        assert ("as if the number of seeds had been fixed" in made) == (stopping == "until decided")


def test_an_arm_is_shown_by_every_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is the mean over the arm's seeds of its score minus the baseline's; the count is that of the last one."""

    def scores(*values: float) -> dict[str, Any]:
        per_seed = {str(seed): value for seed, value in enumerate(values)}
        return {metric: {"values": per_seed} for metric in METRICS}

    arms = [{"label": "uniform", "scores": scores(0.5, 0.6)}, {"label": "flow", "scores": scores(0.6, 0.5)}]
    arms[1]["scores"]["final_accuracy"]["values"] = {"0": 0.7, "1": 0.8}
    (tmp_path / "x.json").write_text(json.dumps({"arms": arms, "baseline": "uniform"}))
    monkeypatch.setattr(RESULTS, "KEPT", tmp_path)
    (row,) = RESULTS.metrics("x.json", ["flow"]).splitlines()[2:]
    assert row == "| `flow` | +0.000 ± 1.271 | +0.000 ± 1.271 | +0.200 | 2 of 2 |"


def test_a_comparison_until_decided_fills_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `leaderboard --export` writes it: outcomes of the e-process, an interval, and arms that the profile takes."""
    declared = experiment(["uniform", "flow"], stopping="until decided", scale=0.05)
    declared |= {"name": "decision-until-decided", "seeds": 40}
    for seed in range(12):
        for method, reward in (("uniform", 0.5), ("flow", 0.7 + seed / 100)):
            write_run(tmp_path, method, seed, [0.5, reward], experiment=declared)
    runs = load(tmp_path)
    (tmp_path / "decision-until-decided.json").write_text(to_json(compare(runs), runs))
    monkeypatch.setattr(RESULTS, "KEPT", tmp_path)
    row = next(
        row for row in RESULTS.table("decision-until-decided.json", []).splitlines() if "`flow`" in row
    )
    assert re.search(r"\| \+0\.\d{3} ± 0\.\d{3} \| 12 of 12 \| better, at 6 seeds \|$", row)
    measured = RESULTS.read_one(tmp_path / "decision-until-decided.json")
    assert measured.testbed in RESULTS.TESTBEDS


def test_rankings_at_the_cuts_fill_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two readings of a ranking the one at the cuts; a figure that ranks nothing is a dash."""
    (tmp_path / "x.json").write_text(json.dumps(values_table()))
    monkeypatch.setattr(RESULTS, "KEPT", tmp_path)
    made = RESULTS.followed("x.json", [])
    assert made.splitlines()[2:] == [
        "| early | +0.200 ± 0.100 | +0.300 ± 0.200 | - |",
        "| flow | +0.200 ± 0.100 | +0.300 ± 0.200 | - |",
        "| (the other half) | +0.200 ± 0.100 | +0.300 ± 0.200 | - |",
    ]
    assert RESULTS.followed("x.json", ["flow"]).count("\n") == 2


def test_a_wrong_number_is_seen() -> None:
    """The check itself: a table whose number was changed by hand is not what the file says."""
    page = next(page for page in RESULTS.PAGES if RESULTS.MARKED.search(page.read_text()))
    text = page.read_text()
    number = DIFFERENCE.search(RESULTS.MARKED.search(text)[0])
    assert number is not None
    assert RESULTS.filled(text.replace(number[0], "+9.999 ± 0.001")) == text


def test_the_correlation_that_was_foretold_is_that_of_the_kept_files() -> None:
    """docs/predictions.md, line 5: over the arms that were both replayed and trained, uniform left out."""
    trained = {arm["label"]: arm["difference"] for arm in RESULTS.load("comparison.json")["arms"]}
    foretold = {
        name: row["ratio_difference"] for name, row in RESULTS.figures("replay-comparison.json").items()
    }
    page = (ROOT / "docs" / "predictions.md").read_text()
    # Arms that joined later are not in it.
    marker = re.search(r"<!-- replay replay-comparison\.json (.+) -->", page)
    assert marker is not None
    both = sorted(set(trained) & set(foretold) & set(marker[1].split()) - LATER)
    assert len(both) == 13
    correlation = spearmanr([foretold[name] for name in both], [trained[name] for name in both]).statistic
    assert f"the rank correlation is {correlation:.2f}" in page
    finds = RESULTS.figures("replay-comparison.json")

    def ordered(names: list[str], key: str) -> float:
        values = [finds[name][key] for name in names]
        places = [value[0] if isinstance(value, list) else value for value in values]
        return float(spearmanr(places, [trained[name] for name in names]).statistic)

    said = ordered(both, "decisive"), ordered(both, "decisive_unsure")
    assert 'among all tokens" is {:.2f}, of "finds" {:.2f}'.format(*said) in page
    every = sorted(set(trained) & set(foretold))
    keys = ("ratio_difference", "decisive_unsure", "decisive")
    words = "(rank correlation {:.2f})|orders them as well ({:.2f}; among all tokens {:.2f})"
    decision = (ROOT / "docs" / "results" / "decision.md").read_text()
    parts = words.format(*(ordered(every, key) for key in keys)).split("|")
    assert [part for part in parts if part not in decision] == []
