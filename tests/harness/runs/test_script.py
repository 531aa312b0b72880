"""Protects records of plain TRL scripts: what they hold, that our commands open them, and what is refused."""

import importlib.metadata
import json
import math
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset

import leaderboards
from flowtracer import CreditError
from flowtracer.recording import GROUP
from harness import ExperimentError, cli
from harness.policy import load_policy
from harness.runs import script
from leaderboards import read_run
from tests.harness.script import PROBLEMS, TASK, trainer


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """The entry point of pyproject.toml, whether or not this checkout is installed."""
    table = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    [(name, value)] = table["entry-points"][GROUP].items()
    there = importlib.metadata.entry_points

    def entry_points(*, group):
        return [importlib.metadata.EntryPoint(name, value, group)] if group == GROUP else there(group=group)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def recorded(runs):
    """Two arms, two seeds: trained once."""
    if not (runs / "mine").exists():
        for label in ("uniform", "flow"):
            for seed in (0, 1):
                trainer(runs, runs / f"mine/{label}/seed-{seed:04d}", label, seed=seed).train()
    return runs / "mine"


def test_the_record_of_a_script_with_a_teacher_says_what_the_teacher_read(tmp_path):
    """And holds the prompts that the student read, without the gold."""
    rows = [
        {"prompt": TASK.prompt(problem), "id": problem.id, "gold": json.dumps(problem.gold)}
        for problem in PROBLEMS.values()
    ]
    folder = tmp_path / "mine" / "rlsd" / "seed-0000"
    trainer(tmp_path, folder, "rlsd", data=Dataset.from_list(rows)).train()
    run = read_run(folder)
    assert run.manifest.credit["teacher"] == "the words of task decision"
    tokenizer = load_policy("decision").tokenizer
    prompts = {tokenizer.decode(row["prompt_ids"]) for row in run.table("rollouts").to_pylist()}
    assert prompts <= {row["prompt"] for row in rows}


def test_the_record_holds_what_was_trained(recorded):
    run = read_run(recorded / "flow" / "seed-0001")
    assert run.finished and not run.faults() and (run.method, run.seed) == ("flow", 1)
    rollouts = run.table("rollouts").to_pylist()
    assert [row["step"] for row in rollouts] == [0] * 8 + [1] * 8
    tokenizer = load_policy("decision").tokenizer
    for row in rollouts:
        assert tokenizer.decode(row["response_ids"], skip_special_tokens=True) == row["text"]
        assert tokenizer.decode(row["prompt_ids"]) == TASK.prompt(PROBLEMS[row["problem_id"]])
        assert row["reward"] == TASK.reward(PROBLEMS[row["problem_id"]], row["text"])
        assert (row["verdict"] == "correct") == (row["reward"] == 1)
        assert len(row["weights"]) == len(row["trainer_logprobs"]) == len(row["response_ids"])
        assert all(value <= 0 for value in row["trainer_logprobs"])
        assert all(map(math.isnan, row["sampler_logprobs"]))
    assert [(row["group"], row["sample"]) for row in rollouts[:8]] == [
        (group, number) for group in (0, 1) for number in range(4)
    ]
    assert {row["problem_id"] for row in rollouts} <= set(PROBLEMS)
    assert {weight for row in rollouts for weight in row["weights"]} == {1.0, 1.5}
    steps = run.table("steps").to_pylist()
    signals = []
    for step, row in enumerate(steps):
        of_step = [each["reward"] for each in rollouts if each["step"] == step]
        assert row["reward"] == pytest.approx(sum(of_step) / 8)
        # Only rewards that differ within a group of four move anything.
        signals.append(len(set(of_step[:4])) > 1 or len(set(of_step[4:])) > 1)
        assert math.isfinite(row["loss"]) and row["learning_rate"] > 0
        assert (row["gradient_norm"] > 0) == signals[-1]
        assert row["entropy"] > 0 and 0 < row["seconds_rollout"] < row["seconds_step"]
    assert any(signals)
    distances = [row["distance_from_start"] for row in steps]
    assert distances[0] < distances[1] and (distances[0] > 0) == signals[0]
    manifest = run.manifest
    assert manifest.credit["name"] == "flow" and manifest.experiment["task"]["contexts"] == 4
    assert manifest.experiment["training"]["samples_per_prompt"] == 4


def test_arms_and_seeds_of_a_script_are_one_experiment_until_something_else_changes(recorded, tmp_path):
    hashes = {run.manifest.experiment_hash for run in leaderboards.load(recorded)}
    assert len(hashes) == 1
    longer = trainer(tmp_path, tmp_path / "mine/flow/seed-0000", learning_rate=1e-4)
    other = Dataset.from_list([{"prompt": "ab?", "id": next(iter(PROBLEMS))}] * 4)
    asked = trainer(tmp_path, tmp_path / "other/flow/seed-0000", data=other)
    hashes |= {script.manifest(each, "mine", "flow").experiment_hash for each in (longer, asked)}
    assert len(hashes) == 3


def test_a_turn_that_a_script_measures_is_recorded_and_joins_runs_without_one(recorded, tmp_path):
    """The training is that of before, and so is the experiment."""
    folder = tmp_path / "mine/flow/seed-0000"
    trainer(tmp_path, folder, turn_every=1).train()
    measured, before = read_run(folder), read_run(recorded / "flow/seed-0000")
    turns = [row["turn"] for row in measured.table("steps").to_pylist()]
    signals = [row["signal_share"] > 0 for row in measured.table("steps").to_pylist()]
    assert [turn is not None and 0 < turn < 1 for turn in turns] == signals and any(signals)
    assert measured.manifest.experiment_hash == before.manifest.experiment_hash
    assert measured.content_hash("steps") == before.content_hash("steps")


def test_the_turn_of_a_step_is_the_mean_over_its_updates(tmp_path):
    """Two updates on each generation batch, both measured: the record has one row for the two."""
    folder = tmp_path / "mine/flow/seed-0000"
    trained = trainer(tmp_path, folder, turn_every=1, num_iterations=2, max_steps=4)
    trained.train()
    logged = {
        line["step"]: line["credit/turn"] for line in trained.state.log_history if "credit/turn" in line
    }
    recorded = {row["step"]: row["turn"] for row in read_run(folder).table("steps").to_pylist()}
    assert set(recorded) == {0, 1}
    pairs = {batch: [logged.get(2 * batch + update) for update in (1, 2)] for batch in recorded}
    assert any(None not in pair and pair[0] != pair[1] for pair in pairs.values())
    for batch, pair in pairs.items():
        known = [turn for turn in pair if turn is not None]
        assert recorded[batch] == (pytest.approx(sum(known) / len(known)) if known else None)


def test_our_commands_open_it(recorded, capsys, tmp_path):
    assert cli.main(["doctor", str(recorded)]) == 0
    page = tmp_path / "board.html"
    assert cli.main(["leaderboard", str(recorded)]) == 2
    assert "--smallest-difference" in capsys.readouterr().err
    command = ["leaderboard", str(recorded), "--smallest-difference", "0.02"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "flow" in out and "not declared" in out and "nan" not in out.lower()
    assert cli.main([*command, "--export", str(page)]) == 0
    assert "NaN" not in page.read_text() and ">nan" not in page.read_text()


def test_a_stopped_script_goes_on_in_its_record(tmp_path):
    folder, keep = tmp_path / "mine/uniform/seed-0000", {"save_strategy": "steps", "save_steps": 1}
    whole = trainer(tmp_path / "whole", tmp_path / "whole/mine/uniform/seed-0000", "uniform", **keep)
    whole.train()
    first = trainer(tmp_path, folder, "uniform", **keep)
    first.train()
    # As if it had been killed after its first step: the record of the second is made again.
    (folder / "finished.json").unlink()
    run = read_run(tmp_path / "whole/mine/uniform/seed-0000")
    import pyarrow.parquet as pq

    for table in ("rollouts", "steps"):
        rows = pq.read_table(folder / f"{table}.parquet")
        (folder / f"{table}.parquet").unlink()
        (folder / table).mkdir(exist_ok=True)
        for step in (0, 1):
            part = rows.filter([value == step for value in rows["step"].to_pylist()])
            pq.write_table(part, folder / table / f"step-{step:06d}.parquet")
    second = trainer(tmp_path, folder, "uniform", **keep)
    second.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    again = read_run(folder)
    assert again.finished and not again.faults()
    assert again.content_hash("rollouts") == run.content_hash("rollouts")
    assert again.content_hash("steps") == run.content_hash("steps")


def test_updates_on_one_batch_and_steps_that_are_not_logged_leave_no_gap(tmp_path):
    folder = tmp_path / "mine/flow/seed-0000"
    trainer(tmp_path, folder, num_iterations=2, max_steps=4, logging_steps=100).train()
    steps = read_run(folder).table("steps").to_pylist()
    assert [row["step"] for row in steps] == [0, 1]
    assert all(math.isfinite(row["loss"]) for row in steps)


@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        ("runs/mine/flow/seed-0000", {"seed": 3}, r"trains seed 3: give GRPOConfig\(seed=0\)"),
        ("somewhere", {}, "name the folder by experiment, arm and seed"),
        ("runs/mine/flow/first", {}, "name the folder by experiment, arm and seed"),
        (
            "runs/mine/flow/seed-0000",
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "steps_per_generation": 2},
            "make steps_per_generation",
        ),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(tmp_path, monkeypatch, record, changes, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ExperimentError, CreditError), match=message):
        trainer(tmp_path, record, "uniform", **changes)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("tools", "masks", "message"),
    [
        ([print], [], "the responses hold the words of tools; a record does not tell them from the policy's"),
        (
            [],
            [None, [1, 1, 0, 1]],
            "the rollout function masks the words of an environment; a record does not",
        ),
    ],
)
def test_responses_that_others_write_to_are_not_recorded(tmp_path, tools, masks, message):
    """Replayed, they would be weighed as the policy's own."""
    recorder = script.ScriptRecorder(tmp_path / "mine" / "flow" / "seed-0000")
    policy = SimpleNamespace(tools=tools, args=SimpleNamespace(seed=0), rollouts=SimpleNamespace(masks=masks))
    with pytest.raises(ExperimentError, match=message):
        recorder.open(policy) if tools else recorder.record(policy, {})


def test_a_finished_record_is_not_written_over(recorded, tmp_path):
    with pytest.raises(ExperimentError, match="holds a finished run"):
        trainer(tmp_path, recorded / "flow" / "seed-0000")


def test_without_an_installed_recorder_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [])
    with pytest.raises(CreditError, match=r"pip install 'flowtracer\[harness\]'"):
        trainer(tmp_path, tmp_path / "mine/flow/seed-0000", credit="uniform")


@pytest.mark.parametrize(
    ("reward", "answered", "finish_reason", "expected"),
    [
        (None, True, "stop", "error"),
        (1.0, False, "length", "correct"),
        (1.5, True, "stop", "correct"),
        (0.2, True, "length", "wrong"),
        (-1.0, False, "stop", "no_answer"),
        (0.0, False, "length", "truncated"),
    ],
)
def test_the_words_for_rewards(reward, answered, finish_reason, expected):
    assert script.verdict(reward, answered, finish_reason) == expected
