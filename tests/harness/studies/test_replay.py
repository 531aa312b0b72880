"""Protects replay as a whole: what it says of `decision` is what is known of it, and nothing breaks without signal."""

import json
import shlex
from dataclasses import replace

import pytest

from flowtracer import credit
from harness import ExperimentError, cli
from harness.runs import run
from harness.studies import replay, replay_page, rollouts
from tests.leaderboards.recorded_runs import write_run


@pytest.fixture
def policy(tiny_experiment):
    return run.policy_of(tiny_experiment())


def test_the_whole_finds_what_is_known_of_decision(tiny_experiment, policy):
    built = tiny_experiment(("uniform", "oracle_mask"))
    batches = rollouts.fresh(built, policy, 6, 0)
    methods = replay.methods_of(built, ["oracle_mask", "flow", "anti_oracle", "constant", "entropy"])
    assert list(methods)[0] == "uniform"
    found = replay.replay(built, policy, batches, "here", methods, valued=6, continuations=8)
    figures = {one.label: one for one in found.figures}
    assert figures["oracle_mask"].decisive[0] == 1 and figures["anti_oracle"].decisive[0] == 0
    assert figures["oracle_mask"].decisive_unsure[0] == 1 and figures["anti_oracle"].decisive_unsure[0] == 0
    assert figures["entropy"].decisive[0] > 0.8 and 0.35 < figures["entropy"].decisive_unsure[0] < 0.65, (
        "it tells drawn letters from fixed tokens and nothing else"
    )
    assert figures["entropy"].turn[0] < 1e-3, "fixed tokens have no gradient"
    assert figures["uniform"].decisive[0] == figures["uniform"].decisive_unsure[0] == 0.5
    assert figures["uniform"].to_uniform[0] == pytest.approx(1)
    assert figures["constant"].to_uniform[0] == pytest.approx(1)
    assert figures["uniform"].turn[0] == pytest.approx(0, abs=1e-12)
    assert figures["constant"].turn[0] == pytest.approx(0, abs=1e-5)
    assert figures["oracle_mask"].turn[0] == pytest.approx(1 - figures["oracle_mask"].to_uniform[0])
    assert figures["oracle_mask"].turn[0] > 10 * figures["flow"].turn[0] > 0, (
        "a mask turns an update furthest"
    )
    assert all(0 < each.seconds < 60 for each in found.figures)
    assert figures["constant"].ratio == pytest.approx(figures["uniform"].ratio, abs=1e-3)
    assert figures["constant"].ratio_difference == pytest.approx(0, abs=1e-3)
    assert figures["oracle_mask"].value_direction[0] > 0.2 > figures["anti_oracle"].value_direction[0]
    assert figures["uniform"].value_size is None, "weights that are all equal rank nothing"
    assert "uniform" not in found.correlations
    assert found.correlations["oracle_mask"]["anti_oracle"] == pytest.approx(-1)
    assert found.overlaps["flow"]["flow"] == pytest.approx(1)
    page = replay_page.page(found, ["one more fact"])
    for sheet in page.tables:
        assert all(len(row) == len(sheet.columns) for row in sheet.rows)
    assert {row[0] for row in page.rules.rows} == {"uniform", "constant"}
    assert "Not replayed: first_tokens, last_tokens, random, shuffled_flow" in page.rules.note
    assert {row[0] for row in page.sheets[0].rows} == {"oracle_mask", "flow", "anti_oracle", "entropy"}
    assert {row[0] for row in page.sheets[1].rows} == set(methods)
    assert page.question and page.limits and page.facts[-1] == "one more fact"
    assert any("6 batches, 96 responses" in line for line in replay_page.facts(found))


def test_methods_with_a_teacher_are_replayed(tiny_experiment, policy):
    """The policy of `decision` copies the decision that it reads: a teacher with the gold has something to say."""
    built = tiny_experiment()
    batches = rollouts.fresh(built, policy, 4, 0)
    methods = replay.methods_of(built, ["rlsd", "opsd", "oppo"])
    found = replay.replay(built, policy, batches, "here", methods, continuations=0)
    figures = {each.label: each for each in found.figures}
    assert not found.left_out and set(figures) == {"uniform", "rlsd", "opsd", "oppo"}
    assert all(figures[label].turn[0] > 1e-4 for label in ("rlsd", "opsd", "oppo"))
    assert figures["rlsd"].turn[0] < figures["opsd"].turn[0], "opsd follows the teacher, and not the reward"


def test_a_teacher_without_its_gold_or_its_words_is_left_out_with_the_reason(tiny_experiment, policy):
    """Rollouts of another trainer hold other problems: the other methods are compared all the same."""
    built = tiny_experiment()
    batches = rollouts.fresh(built, policy, 1, 0)
    methods = replay.methods_of(built, ["rlsd"])
    methods["English"] = credit.get("opsd", template="{question} is {gold}"), {}
    foreign = [[{**row, "problem_id": f"dump/{row['group']}"} for row in rows] for rows in batches]
    found = replay.replay(built, policy, foreign, "here", methods, continuations=0)
    assert [each.label for each in found.figures] == ["uniform"]
    assert found.left_out["rlsd"].startswith("the gold of dump/0 is not known")
    found = replay.replay(built, policy, batches, "here", methods, continuations=0)
    assert [each.label for each in found.figures] == ["uniform", "rlsd"]
    assert "cannot read the teacher's prompt" in found.left_out["English"]


def test_groups_without_signal_give_dashes_and_are_counted(tiny_experiment, policy):
    """Every response has the same reward: no gradient, no direction, no crash."""
    built = tiny_experiment()
    batches = rollouts.fresh(built, policy, 3, 0)
    dead = [[{**row, "reward": 0.0, "verdict": "wrong"} for row in rows] for rows in batches]
    found = replay.replay(built, policy, dead, "here", replay.methods_of(built, ["flow"]), continuations=0)
    assert found.dead == 3 and found.valued == 0
    for one in found.figures:
        assert one.ratio is one.to_large is one.to_uniform is one.turn is None
        assert one.mean_weight >= 1
    assert any("3 of 3 batches" in line for line in replay_page.facts(found))
    assert replay_page.page(found).tables


def test_one_batch_and_no_answer_in_any_response(tiny_experiment, policy):
    """Flow abstains on all of them, and says so; a single batch has no spread. Some drawn letters have a gradient."""
    built = tiny_experiment(max_response_tokens=12)
    batches = rollouts.fresh(built, policy, 1, 0)
    assert {row["verdict"] for row in batches[0]} == {"truncated"}
    batches = [[{**row, "reward": float(index % 2)} for index, row in enumerate(batches[0])]]
    found = replay.replay(built, policy, batches, "here", replay.methods_of(built, ["flow"]), continuations=0)
    flow = next(one for one in found.figures if one.label == "flow")
    assert flow.abstained == 1 and flow.decisive is flow.decisive_unsure is None
    assert flow.ratio is None and flow.to_large is None
    assert flow.to_uniform[0] == pytest.approx(1)
    assert replay_page.page(found).tables


def test_a_task_that_does_not_know_its_decisive_tokens_leaves_the_oracles_out(policy, tiny_experiment):
    built = tiny_experiment()
    built = replace(built, policy=replace(built.policy, name="arithmetic"), task={"name": "arithmetic"})
    policy = run.policy_of(built)
    batches = rollouts.fresh(built, policy, 2, 0)
    methods = replay.methods_of(built, ["oracle", "position"])
    found = replay.replay(built, policy, batches, "here", methods, continuations=0)
    assert set(found.left_out) == {"oracle"} and [one.label for one in found.figures] == [
        "uniform",
        "position",
    ]
    assert all(one.decisive is one.decisive_unsure is None for one in found.figures)


def test_arms_with_options_join_the_registry(tiny_experiment):
    built = tiny_experiment()
    built = replace(
        built, methods={"uniform": {"credit": "uniform"}, "strong": {"credit": "flow", "gamma": 3.0}}
    )
    methods = replay.methods_of(built, None)
    sampling = {name for name in credit.names() if "values" in credit.get(name).needs}
    assert (
        set(methods) == ({*credit.names()} - sampling) | {"strong"}
        and sampling == {"spo", "vine"}
        and methods["strong"][0].gamma == 3.0
    )
    with pytest.raises(ExperimentError, match="unknown credit method 'folw'"):
        replay.methods_of(built, ["folw"])


def test_the_command_prints_and_exports(tmp_path, capsys):
    export, page = tmp_path / "replay.json", tmp_path / "replay.md"
    wanted = [
        "replay",
        "decision",
        "--batches",
        "2",
        "--set",
        "training.prompts_per_step=2",
        "--methods",
        "flow,oracle_3",
    ]
    files = ["--export", str(export), "--export", str(page)]
    assert cli.main([*wanted, "--valued", "2", "--continuations", "2", *files]) == 0
    printed = capsys.readouterr().out
    assert "oracle_3" in printed and "signal/noise" in printed
    assert max(map(len, printed.splitlines())) <= 100
    figures = {one["label"]: one for one in json.loads(export.read_text())["figures"]}
    assert set(figures) == {"uniform", "flow", "oracle_3"}
    assert {"turn", "s/step"} <= set(printed.split())
    assert figures["flow"]["turn"][0] == pytest.approx(1 - figures["flow"]["to_uniform"][0])
    assert figures["flow"]["seconds"] > 0
    kept = json.loads(export.read_text())
    assert kept["changes"] == ["training.prompts_per_step=2"]
    text = page.read_text()
    assert f"```sh\n{kept['command']}\n```" in text
    assert (
        text.index("rules without insight")
        < text.index("## Gradient\n")
        < text.index("## What it cannot say")
    )
    parsed, meant = (cli._parser().parse_args(words) for words in (shlex.split(kept["command"])[1:], wanted))
    for name in ("source", "batches", "changes", "methods"):
        assert getattr(parsed, name) == getattr(meant, name)
    assert parsed.seed == 0, "the default is in it"
    assert (parsed.valued, parsed.continuations, parsed.export) == (2, 2, [export, page])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["decsion"], "unknown experiment"),
        (["decision", "--batches", "0"], "--batches 0"),
        (["decision", "--methods", "folw"], "folw"),
        (["decision", "--export", "x.html"], ".json, .md"),
        (["decision", "--policy", "/nowhere"], "/nowhere"),
        (["HERE"], "no run in it"),
        (["RUNS", "--policy", "decision"], "--policy goes with an experiment"),
        (["RUNS", "--seed", "3"], "--seed goes with an experiment"),
        (["decision", "--methods", ","], "--methods ',' names none: give one or more"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, tmp_path, capsys):
    write_run(tmp_path / "runs", "uniform", 0, [0.1])
    places = {"HERE": str(tmp_path / "empty"), "RUNS": str(tmp_path / "runs")}
    (tmp_path / "empty").mkdir()
    assert cli.main(["replay", *(places.get(word, word) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
