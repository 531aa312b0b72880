"""Protects what is said about published numbers: judged by the right runs alone, and by the declared rules."""

import json
import sys
from itertools import cycle, islice
from pathlib import Path

import pytest

from harness import cli
from harness import experiment as experiments
from harness.studies import claims
from leaderboards import RunWriter, load

sys.path.insert(0, str(Path(__file__).parents[2] / "leaderboards"))
from recorded_runs import manifest, sample_rows, step_row

FIVE = ("aime24", "aime25", "amc23", "math500", "olympiadbench")


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def record(root, arms, name="paper-4b-1k", changes=None, tasks=FIVE, seconds_credit=0.5, key=None, seeds=8):
    """Finished runs of an experiment: whole percents of accuracy, on every task alike, of each seed of each arm,
    again and again up to `seeds`.
    """
    experiment = experiments.load(name)
    resolved = {**experiment.resolved(), **(changes or {})}
    for label, accuracies in arms.items():
        for seed, percent in enumerate(islice(cycle(accuracies), seeds)):
            own = {
                "experiment": resolved,
                "experiment_hash": key or ("other" if changes else experiment.hash),
            }
            writer = RunWriter(root / name / label / str(seed), manifest(label, seed, **own))
            verdicts = [["correct"] * percent + ["wrong"] * (100 - percent)]
            writer.write("samples", 1, [row for task in tasks for row in sample_rows(1, verdicts, task)])
            writer.write(
                "steps", 0, step_row(0, seconds_credit=seconds_credit + seed / 1000, seconds_step=20.0)
            )
            writer.finish({})


def finding(root, name):
    return next(one for one in claims.judge(claims.load(), load(root)) if one.claim.id == name)


def test_every_claim_says_what_it_is_about():
    known = claims.load()
    assert len({claim.id for claim in known}) == len(known)
    for claim in known:
        assert claim.kind in claims.KINDS and claim.text and claim.policy and claim.tasks
        assert claim.source.startswith(("arXiv 2606.10646", "arXiv 2510.13554 v2, table"))
        assert (claim.percent is None) == (claim.kind == "ordering")
        assert (claim.arm is None) == (claim.kind == "rate")
        assert (
            len(claim.against) == 1
            if claim.kind == "difference"
            else claim.against or claim.kind != "ordering"
        )
        assert -100 < (claim.percent or 0) < 100


def test_every_claim_is_tested_by_an_experiment_that_has_its_arms():
    for claim in claims.load():
        for name in filter(None, (claim.experiment, claim.more_than)):
            tested = experiments.load(name)
            assert set(claim.arms) <= set(tested.methods), (claim.id, name)
            assert tested.policy.name == claim.policy, claim.id
            evaluated = {tested.task["name"], *(extra.task["name"] for extra in tested.evaluation.more)}
            assert set(claim.tasks) <= evaluated, claim.id


def test_printed_differences_follow_from_printed_levels():
    """Percent and points, not fractions: 39.4 less 37.1 is 2.3."""
    known = claims.load()
    levels = {
        (claim.experiment, claim.tasks, claim.arm): claim.percent for claim in known if claim.kind == "level"
    }
    checked = 0
    for claim in known:
        if claim.kind == "difference" and not claim.more_than and "printed" not in claim.text:
            one, other = (levels[claim.experiment, claim.tasks, arm] for arm in claim.arms)
            assert claim.percent == pytest.approx(one - other, abs=1e-9), claim.id
            checked += 1
    assert checked > 25


def test_the_attention_column_is_local_chunk_credit():
    """Its numbers are those of local-chunk credit in arXiv 2510.13554 v2, tables 3 and 4, in five settings."""
    printed = {"4b-1k": 38.6, "4b-8k": 47.2, "8b-1k": 41.3, "countdown": 59.9, "crossthink": 50.0}
    known = {claim.id: claim for claim in claims.load()}
    for setting, percent in printed.items():
        claim = known[f"{setting}-attention"]
        assert (claim.arm, claim.percent) == ("local_chunk", percent)
        assert known[f"{setting}-flow-attention"].against == ("local_chunk",)


@pytest.mark.parametrize(
    ("policy", "arm", "scores"),
    [  # by benchmark, as table 17 of arXiv 2510.13554 v2 prints them
        ("llama-3b", "grpo", {"amc23": 3.8, "math500": 5.4, "olympiadbench": 2.2, "minerva": 3.2, "gsm8k": 9.5}),
        ("llama-3b", "coupled", {"amc23": 4.8, "math500": 6.3, "olympiadbench": 2.9, "minerva": 3.3, "gsm8k": 11.0}),
        ("llama-8b", "grpo", {"amc23": 3.2, "math500": 8.1, "olympiadbench": 3.2, "minerva": 5.3, "gsm8k": 18.7}),
        ("llama-8b", "coupled", {"amc23": 5.2, "math500": 7.7, "olympiadbench": 3.9, "minerva": 6.0, "gsm8k": 20.8}),
    ],
)  # fmt: skip
def test_the_averages_of_llama_are_over_the_sets_that_give_them(policy, arm, scores):
    claim = next(claim for claim in claims.load() if claim.id == f"{policy}-{arm}")
    assert set(claim.tasks) == set(scores)
    assert claim.percent == pytest.approx(sum(scores.values()) / 5, abs=claims.ROUNDING)
    sets = {extra.task["name"] for extra in experiments.load(claim.experiment).evaluation.more}
    assert sets == set(scores), "the declared metric is the mean over exactly these"


def test_nothing_was_run():
    found = claims.judge(claims.load(), [])
    assert {one.status for one in found} == {claims.NOT_RUN}
    assert claims.counts(found) == f"{len(found)} published claims: {len(found)} not run"


@pytest.mark.parametrize(
    ("uniform", "flow", "status"),
    [  # claimed: +2.3
        ([37, 38, 36, 37], [40, 40, 39, 40], claims.REPRODUCED),
        ([37, 38, 36, 37], [47, 48, 46, 48], claims.REPRODUCED),  # more than claimed
        ([37, 38, 36, 37, 37, 38], [38, 39, 37, 38, 38, 40], claims.SMALLER),
        ([37, 38, 36, 37, 37, 38], [37, 39, 36, 36, 37, 38], claims.NOT_REPRODUCED),
        ([37, 38, 36, 37], [35, 36, 34, 36], claims.CONTRADICTED),
        ([37, 38, 36, 37], [47, 30, 40, 39], claims.CANNOT_TELL),
        ([37], [40], claims.CANNOT_TELL),
    ],
)
def test_a_difference(tmp_path, uniform, flow, status):
    record(tmp_path, {"uniform": uniform, "flow": flow})
    found = finding(tmp_path, "4b-1k-flow-grpo")
    assert found.status == status
    differences = list(islice(cycle(one - other for one, other in zip(flow, uniform, strict=True)), 8))
    assert found.measured.value == pytest.approx(sum(differences) / 8)
    assert found.measured.seeds == 8 and not found.reason
    assert not found.beside
    assert finding(tmp_path, "4b-8k-flow-grpo").status == claims.NOT_RUN


@pytest.mark.parametrize(
    ("gamma", "status"),
    [
        ([30, 29, 30, 30], claims.REPRODUCED),
        ([35, 36, 34, 36], claims.SMALLER),
        ([40, 40, 39, 40], claims.CONTRADICTED),
    ],
)
def test_a_claimed_loss(tmp_path, gamma, status):
    """-7.4: the other direction, and the other end of the interval."""
    record(tmp_path, {"uniform": [37, 38, 36, 37], "flow_gamma_3": gamma})
    assert finding(tmp_path, "gamma-3-grpo").status == status


@pytest.mark.parametrize(
    ("random", "status"),
    [
        ([37, 38, 36, 37, 37, 38, 38, 37], claims.REPRODUCED),
        ([39, 40, 38, 39, 39, 40, 38, 38], claims.CONTRADICTED),
        ([30, 45, 38, 39, 31, 44, 38, 38], claims.CANNOT_TELL),
    ],
)
def test_a_claim_of_no_difference(tmp_path, random, status):
    """Within the difference that was declared to be the smallest that matters, a point."""
    record(tmp_path, {"uniform": [37, 38, 36, 37, 37, 38, 37, 37], "random": random})
    assert finding(tmp_path, "random-4b-1k-grpo").status == status


@pytest.mark.parametrize(
    ("percents", "status"),
    [([37, 38, 36], claims.REPRODUCED), ([45, 46, 44], claims.REPRODUCED), ([30, 31, 30], claims.SMALLER)],
)
def test_a_level(tmp_path, percents, status):
    record(tmp_path, {"uniform": percents})
    assert finding(tmp_path, "4b-1k-grpo").status == status


@pytest.mark.parametrize(
    ("early", "status"),
    [
        ([36, 37, 35, 37], claims.REPRODUCED),
        ([44, 46, 43, 45], claims.CONTRADICTED),
        ([30, 50, 40, 45], claims.CANNOT_TELL),
        ([40, 41, 39, 40], claims.CANNOT_TELL),  # equal on every seed: no spread, no interval
    ],
)
def test_an_ordering_is_as_good_as_its_worst_pair(tmp_path, early, status):
    arms = {"uniform": [37, 38, 36, 37], "flow": [40, 41, 39, 40], "flow_early": early}
    others = {"flow_late": [30, 31, 30, 30], "flow_all": [31, 31, 30, 30]}
    record(tmp_path, arms)
    assert finding(tmp_path, "layers").reason == "no finished run of flow_late, flow_all"
    record(tmp_path, others)
    assert finding(tmp_path, "layers").status == status


def test_a_gain_that_grows_takes_two_experiments(tmp_path):
    record(tmp_path, {"uniform": [37, 38, 36, 37], "flow": [39, 40, 39, 39]})
    assert finding(tmp_path, "4b-growth").reason == "flowtracer reproduce paper-4b-8k"
    record(tmp_path, {"uniform": [45, 44, 46, 45], "flow": [49, 49, 50, 49]}, "paper-4b-8k")
    found = finding(tmp_path, "4b-growth")
    assert found.measured.value == pytest.approx(4.25 - 2.25) and found.status == claims.REPRODUCED


@pytest.mark.parametrize(
    ("credit", "status"),
    [(0.4, claims.REPRODUCED), (0.1, claims.REPRODUCED), (1.0, claims.CONTRADICTED)],
)
def test_an_overhead_may_be_smaller(tmp_path, credit, status):
    record(tmp_path, {"uniform": [37] * 3, "flow": [39] * 3}, seconds_credit=credit)
    found = finding(tmp_path, "overhead-1k")
    assert found.status == status
    assert found.measured.value == pytest.approx(100 * credit / (20 - credit), rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "paper-4b-1k-smoke", "policy": {"name": "smollm2-135m-instruct"}},
        {"training": {"steps": 5}},  # the right policy, and not the experiment
    ],
)
def test_no_other_run_settles_a_claim(tmp_path, changes):
    record(tmp_path, {"uniform": [37, 38, 36, 37], "flow": [40, 40, 39, 40]}, changes=changes)
    found = finding(tmp_path, "4b-1k-flow-grpo")
    assert found.status == claims.NOT_RUN and found.measured is None
    assert found.beside[0].experiment == changes.get("name", "paper-4b-1k")
    assert found.beside[0].measured.value == pytest.approx(2.75)
    assert not finding(tmp_path, "4b-1k-flow").beside and not finding(tmp_path, "4b-growth").beside
    assert finding(tmp_path, "overhead-1k").beside
    sheet = claims.beside(load(tmp_path))
    assert sheet.rows[0][0] == found.beside[0].experiment and sheet.rows[0][-1] == "8"
    # In a row with a printed number it would read as its measurement.
    *judged, elsewhere = claims.sheets([found])
    assert all(row[1] == "+2.3" and row[2] == "-" for sheet in judged for row in sheet.rows)
    assert elsewhere.rows == (("flow minus uniform", found.beside[0].experiment, elsewhere.rows[0][2]),)
    assert elsewhere.rows[0][2].startswith("+2.8") and "printed" not in elsewhere.columns


def test_a_look_before_the_last_declared_seed_settles_nothing(tmp_path):
    record(tmp_path, {"uniform": [37, 38, 36, 37], "flow": [40, 40, 39, 40]}, seeds=7)
    found = finding(tmp_path, "4b-1k-flow-grpo")
    assert found.status == claims.CANNOT_TELL and found.reason == "7 of 8 declared seeds"
    assert found.measured.interval[0] > 0


@pytest.mark.parametrize("changed", ["flow", "uniform"])
def test_an_arm_with_other_options_settles_nothing(tmp_path, changed):
    """The experiment's hash leaves the arms out: under the name flow, anything could have been trained."""
    methods = experiments.load("paper-4b-1k").resolved()["methods"]
    methods[changed] = {"credit": "oracle_mask", "training": {"learning_rate": 1e-5}}
    arms = {"uniform": [37, 38, 36, 37], "flow": [40, 40, 39, 40], "random": [37, 37, 37, 38]}
    right = experiments.load("paper-4b-1k").hash
    record(tmp_path, arms, changes={"methods": methods}, key=right)
    found = finding(tmp_path, "4b-1k-flow-grpo")
    assert found.status == claims.NOT_RUN and found.measured is None
    assert found.reason == f"{changed} ran with other options than paper-4b-1k declares"
    assert finding(tmp_path, "random-4b-1k").status != claims.NOT_RUN  # of an arm as it was declared


def test_a_manifest_under_the_hash_of_another_experiment_settles_nothing(tmp_path):
    right = experiments.load("paper-4b-1k").hash
    smaller = {"policy": {"name": "smollm2-135m-instruct"}}
    record(tmp_path, {"uniform": [37, 38, 36, 37], "flow": [40, 40, 39, 40]}, changes=smaller, key=right)
    found = finding(tmp_path, "4b-1k-flow-grpo")
    assert found.status == claims.NOT_RUN and found.beside


def test_runs_that_were_not_evaluated_on_its_tasks_settle_nothing(tmp_path):
    record(tmp_path, {"uniform": [37, 38], "flow": [40, 40]}, tasks=FIVE[:4])
    found = finding(tmp_path, "4b-1k-flow-grpo")
    assert found.status == claims.NOT_RUN and "olympiadbench" in found.reason


def test_the_command(tmp_path, capsys):
    record(tmp_path, {"uniform": [37, 38, 36, 37], "flow": [40, 40, 39, 40]})
    other = {"name": "a-testbed-with-a-name", "policy": {"name": "decision"}}
    record(tmp_path / "other", {"uniform": [1, 2], "flow": [2, 4]}, changes=other)
    assert cli.main(["claims", str(tmp_path / "paper-4b-1k"), str(tmp_path / "other")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any("+2.3" in line and "+2.8 ±0.4" in line and "reproduced" in line for line in lines)
    assert any(line.startswith("a-testbed-with-a-name") for line in lines)
    assert cli.main(["claims"]) == 0
    for suffix in ("json", "md"):
        assert cli.main(["claims", str(tmp_path), "--export", str(tmp_path / f"x.{suffix}")]) == 0
    rows = json.loads((tmp_path / "x.json").read_text())
    assert len(rows) == len(claims.load())
    row = next(row for row in rows if row["id"] == "4b-1k-flow-grpo")
    assert row["percent"] == 2.3 and row["status"] == "reproduced" and row["found"]["seeds"] == 8
    assert "| flow minus uniform | +2.3 | +2.8 ±0.4 | reproduced |" in (tmp_path / "x.md").read_text()
    assert cli.main(["claims", "--export", str(tmp_path / "x.pdf")]) == 2
    assert "the name must end in .json, .md" in capsys.readouterr().err


def test_records_that_declare_nothing_stand_beside(tmp_path):
    """A script's, or another program's."""
    from recorded_runs import write_run

    for method in ("uniform", "flow"):
        write_run(tmp_path, method, 0, [0.2], experiment={"name": "theirs"})
    assert claims.beside(load(tmp_path)).rows == (("theirs", "?", "?", "?", "1"),)
    assert cli.main(["claims", str(tmp_path)]) == 0
