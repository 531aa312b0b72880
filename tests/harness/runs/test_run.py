"""Protects a run: repeated, resumed or stopped, it is the same run bit for bit, and arms share what they must."""

import dataclasses
import itertools
import json
import re
import shutil
import sys

import pytest
import torch

from flowtracer import CreditError
from harness import ExperimentError
from harness.policy import merged_weights
from harness.runs import run, settings
from harness.runs.checkpoints import good_until, last_checkpoint, policy_folder
from harness.runs.recorder import RecordedTrainer
from harness.runs.settings import adapters_of
from leaderboards import RecordError, read_run

TABLES = ("rollouts", "steps")


def hashes(folder):
    recorded = read_run(folder)
    return {table: recorded.step_hashes(table) for table in TABLES}


@pytest.fixture(scope="module")
def memo():
    return {}


@pytest.fixture
def whole(tiny_experiment, memo, tmp_path_factory):
    """An undisturbed run of an arm, made once."""

    def build(label="flow", seed=0):
        if (label, seed) not in memo:
            memo[label, seed] = tmp_path_factory.mktemp("whole") / label
            assert run.train(tiny_experiment(("uniform", "flow", "random")), label, seed, memo[label, seed])
        return memo[label, seed]

    return build


@pytest.mark.parametrize("label", ["flow", "random"])
def test_one_seed_run_twice_is_identical_at_every_step(tiny_experiment, whole, tmp_path, label):
    """An experiment without the other arms on top: they change nothing."""
    assert run.train(tiny_experiment((label,)), label, 0, tmp_path)
    assert hashes(tmp_path) == hashes(whole(label))
    assert len(hashes(tmp_path)["steps"]) == 6


def test_first_rollouts_are_shared_by_arms_and_not_by_seeds(whole):
    def first(label, seed):
        rows = read_run(whole(label, seed)).table("rollouts").to_pylist()
        return [(row["key"], row["response_ids"], row["reward"]) for row in rows if row["step"] == 0]

    assert first("flow", 0) == first("uniform", 0) == first("random", 0)
    assert first("flow", 0) != first("flow", 1)


def test_arms_differ_later(whole):
    """Against a comparison of an arm with itself."""
    flow, uniform = (read_run(whole(label)).table("steps").to_pylist() for label in ("flow", "uniform"))
    assert flow[-1]["parameters_hash"] != uniform[-1]["parameters_hash"]
    assert {row["mean_weight"] for row in uniform} == {1.0}
    assert all(row["mean_weight"] > 1 for row in flow)


@pytest.mark.parametrize("label", ["flow", "random"])
@pytest.mark.parametrize("asked", [1, 3])
def test_stopped_and_resumed_is_bit_identical(tiny_experiment, whole, tmp_path, asked, label):
    built = tiny_experiment((label,))
    answers = itertools.chain([False] * asked, itertools.repeat(True))
    assert not run.train(built, label, 0, tmp_path, stop=lambda: next(answers))
    assert len(hashes(tmp_path)["steps"]) == asked + 1
    assert run.train(built, label, 0, tmp_path)
    assert hashes(tmp_path) == hashes(whole(label))


def test_a_cut_off_checkpoint_and_later_records_are_not_trusted(tiny_experiment, whole, tmp_path):
    """As after a kill in the middle of a save: the run goes on from the checkpoint before."""
    built = tiny_experiment(("flow",))
    answers = itertools.chain([False] * 4, itertools.repeat(True))
    run.train(built, "flow", 0, tmp_path, stop=lambda: next(answers))
    latest = last_checkpoint(tmp_path)
    assert latest.name == "checkpoint-5"
    (latest / "whole").unlink()
    (latest / "optimizer.pt").write_bytes(b"half")
    assert last_checkpoint(tmp_path).name == "checkpoint-4"
    assert run.train(built, "flow", 0, tmp_path)
    assert hashes(tmp_path) == hashes(whole("flow"))


def test_updates_on_one_rollout_batch_resume_between_batches(tiny_experiment, tmp_path):
    built = tiny_experiment(("flow",), updates_per_batch=2, micro_batch=4, steps=4)
    run.train(built, "flow", 0, tmp_path / "whole")
    answers = itertools.chain([False], itertools.repeat(True))
    assert not run.train(built, "flow", 0, tmp_path / "cut", stop=lambda: next(answers))
    assert run.train(built, "flow", 0, tmp_path / "cut")
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "cut")
    assert len(hashes(tmp_path / "cut")["steps"]) == 4


def test_adapters_resume_bit_for_bit_and_are_saved_merged(tiny_experiment, tmp_path):
    built = tiny_experiment(("flow",), lora_rank=4)
    assert run.train(built, "flow", 0, tmp_path / "whole")
    answers = itertools.chain([False] * 2, itertools.repeat(True))
    assert not run.train(built, "flow", 0, tmp_path / "cut", stop=lambda: next(answers))
    assert run.train(built, "flow", 0, tmp_path / "cut")
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "cut")
    assert run.train(built, "flow", 1, tmp_path / "other")
    assert hashes(tmp_path / "whole") != hashes(tmp_path / "other")
    # The folder holds the policy itself, trained, as `evaluate` and everybody else loads it.
    initial, saved = run.policy_of(built), run.policy_of(built, policy_folder(tmp_path / "whole", 6))
    assert type(saved.model) is type(initial.model)
    names = [name for name, _ in initial.model.named_parameters()]
    assert [name for name, _ in saved.model.named_parameters()] == names
    changed = [
        name
        for (name, before), after in zip(
            initial.model.named_parameters(), saved.model.parameters(), strict=True
        )
        if not torch.equal(before, after)
    ]
    assert len(changed) == 7 * initial.model.config.num_hidden_layers and all(
        "proj" in name for name in changed
    )


def test_merged_weights_answer_as_the_adapters_do(tiny_experiment):
    from peft import get_peft_model

    built = tiny_experiment(lora_rank=4)
    policy, plain = run.policy_of(built), run.policy_of(built)
    adapted = get_peft_model(policy.model, adapters_of(built.training))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([plain.encode("cab3?")])
    before = plain.model(ids).logits
    plain.model.load_state_dict(merged_weights(policy.model))
    with torch.no_grad():
        torch.testing.assert_close(plain.model(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(plain.model(ids).logits, before, atol=0.1)


def test_adapters_without_peft_say_how_to_get_it(tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ExperimentError, match=r"lora_rank = 4 needs peft: pip install 'flowtracer\[lora\]'"):
        run.train(tiny_experiment(("uniform",), lora_rank=4), "uniform", 0, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_gradient_checkpointing_changes_nothing_but_memory(tiny_experiment, whole, tmp_path):
    built = tiny_experiment(("flow",), gradient_checkpointing=True)
    assert run.train(built, "flow", 0, tmp_path)
    # Everything but the experiment that the manifest names: hashes are of the tables alone.
    assert hashes(tmp_path) == hashes(whole("flow"))


@pytest.mark.parametrize("rank", [0, 4])
def test_bfloat16_trains_float32_weights(tiny_experiment, tmp_path, rank):
    """A step of 1e-6 is less than half of the last bit of nearly every bfloat16 weight."""
    built = tiny_experiment(("flow",), learning_rate=1e-6, lora_rank=rank)
    object.__setattr__(built, "policy", dataclasses.replace(built.policy, dtype="bfloat16"))
    assert run.train(built, "flow", 0, tmp_path)
    steps = read_run(tmp_path).table("steps").to_pylist()
    # Adam's first step moves a parameter by the learning rate, in whichever direction.
    assert steps[0]["distance_from_start"] > (1e-4 if rank == 0 else 1e-5)
    assert all(step["sampler_gap"] < 0.02 for step in steps)
    assert run.evaluate(built, "flow", 0, tmp_path)
    object.__setattr__(built, "policy", dataclasses.replace(built.policy, dtype="float16"))
    with pytest.raises(ExperimentError, match="float32 or bfloat16"):
        run.train(built, "flow", 0, tmp_path / "half")


def test_records_say_what_happened(whole):
    recorded = read_run(whole("flow"))
    rows = recorded.table("rollouts").to_pylist()
    steps = recorded.table("steps").to_pylist()
    assert len({row["key"] for row in rows}) == len(rows) == 6 * 16
    for row in rows:
        assert len(row["weights"]) == len(row["response_ids"]) == len(row["trainer_logprobs"])
        assert row["sampler_logprobs"] == pytest.approx(row["trainer_logprobs"], abs=1e-4)
        assert (row["reward"] == 1.0) == (row["verdict"] == "correct")
        assert (row["finish_reason"] == "stop") == (row["response_ids"][-1] == 1)
    for step in steps:
        verdicts = [row["verdict"] for row in rows if row["step"] == step["step"]]
        names = ("correct", "wrong", "no_answer", "truncated", "timeout", "error")
        assert {name: step[name] for name in names} == {name: verdicts.count(name) for name in names}
        assert step["seconds_step"] >= step["seconds_rollout"] > 0
    assert steps[0]["distance_from_start"] > 0


def test_evaluation_finishes_a_run_and_shares_the_initial_policy(tiny_experiment, tmp_path, monkeypatch):
    built, known, asked = tiny_experiment(), {}, []
    original = run.evaluation.evaluate
    monkeypatch.setattr(run.evaluation, "evaluate", lambda *a, **k: asked.append(1) or original(*a, **k))
    for label in built.methods:
        assert run.train(built, label, 0, tmp_path / label)
        assert run.evaluate(built, label, 0, tmp_path / label, known=known)
    assert len(asked) == 1 + 2 * 2
    flow, uniform = (read_run(tmp_path / label) for label in ("flow", "uniform"))
    assert flow.finished and flow.closing["summary"] == {"tier": "T0"}
    samples = flow.table("samples").to_pylist()
    assert [row["step"] for row in samples] == [step for step in (0, 3, 6) for _ in range(6)]
    assert flow.step_hashes("samples")[0] == uniform.step_hashes("samples")[0]
    assert (tmp_path / "flow" / "policy" / "model.safetensors").is_file()
    assert not (tmp_path / "flow" / "checkpoint").exists() and not (tmp_path / "flow" / "policies").exists()
    before = json.dumps(flow.closing)
    assert run.train(built, "flow", 0, tmp_path / "flow") and run.evaluate(
        built, "flow", 0, tmp_path / "flow"
    )
    assert json.dumps(read_run(tmp_path / "flow").closing) == before


def test_a_folder_of_another_run_is_refused(tiny_experiment, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole("flow"), folder)
    with pytest.raises(RecordError, match="another output folder"):
        run.train(tiny_experiment(("flow",), learning_rate=1e-4), "flow", 0, folder)
    with pytest.raises(RecordError, match="method"):
        run.train(tiny_experiment(("uniform",)), "uniform", 0, folder)
    other = tiny_experiment(("flow",))
    object.__setattr__(other, "methods", {"flow": {"credit": "flow", "gamma": 2.0}})
    with pytest.raises(ExperimentError, match="other options"):
        run.train(other, "flow", 0, folder)


def test_too_few_test_problems_are_said_before_the_training(tiny_experiment, tmp_path):
    """Published ones are counted only when they are loaded: by the evaluation, it would be hours later."""
    asked = tiny_experiment(evaluation={"problems": 81})
    with pytest.raises(
        ExperimentError, match=r"evaluation\.problems is 81, and decision has 80 test problems"
    ):
        run.train(asked, "flow", 0, tmp_path)
    assert not read_run(tmp_path).step_numbers("rollouts")


def test_garbage_stops_training(tiny_experiment, tmp_path):
    """In the step behind the first in which rewards differ, wherever that is: Adam has moved every weight by 1e38."""
    with pytest.raises(ExperimentError) as caught:
        run.train(tiny_experiment(("uniform",), learning_rate=1e38), "uniform", 0, tmp_path)
    said = re.fullmatch(
        r"(.+): (loss|grad_norm) is (nan|-?inf) at step (\d+); training stopped\. (.+); lower the learning rate",
        str(caught.value),
    )
    assert said is not None, caught.value
    recorded = read_run(tmp_path).table("steps").to_pylist()
    moved = next(row["step"] for row in recorded if row["signal_share"] > 0)
    # The record counts steps from 0, the trainer from 1.
    assert int(said[4]) == moved + 2 and [row["step"] for row in recorded] == list(range(moved + 1))
    assert said[1] == str(tmp_path) and said[5] == good_until(tmp_path)


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_garbage_names_the_last_good_checkpoint_and_is_never_saved(
    tiny_experiment, tmp_path, monkeypatch, spoilt
):
    original = RecordedTrainer._compute_loss

    def compute_loss(self, model, inputs):
        loss = original(self, model, inputs)
        if self.state.global_step < 3:
            return loss
        # A loss that is finite and whose gradient is not: the derivative of a square root at 0.
        return loss * float("nan") if spoilt == "loss" else loss + (loss - loss).sqrt() * 0

    monkeypatch.setattr(RecordedTrainer, "_compute_loss", compute_loss)
    named = {"loss": "loss is nan", "gradient": "grad_norm is nan"}[spoilt]
    with pytest.raises(ExperimentError, match=f"{named} at step 4.*good checkpoint.*checkpoint"):
        run.train(tiny_experiment(("uniform",)), "uniform", 0, tmp_path)
    assert last_checkpoint(tmp_path).name == "checkpoint-2"
    assert len(hashes(tmp_path)["steps"]) == 3


def test_eight_bit_adam_needs_bitsandbytes(tiny_experiment, tmp_path, monkeypatch):
    """An option that cannot act is refused before the first step, with the way to install it."""
    built = tiny_experiment(("uniform",), optimizer="adamw_8bit")
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(
        ExperimentError, match=r"adamw_8bit' needs bitsandbytes: pip install 'flowtracer\[adam-8bit\]'"
    ):
        run.train(built, "uniform", 0, tmp_path / "run")
    monkeypatch.setattr(settings, "find_spec", lambda name: object())
    assert settings._optimizer(built.training) == {"optim": "adamw_bnb_8bit"}
    assert settings._optimizer(tiny_experiment(("uniform",)).training) == {}


@pytest.mark.parametrize("name", ["rlsd", "opsd", "oppo"])
def test_an_arm_with_a_teacher_trains_and_its_record_says_what_the_teacher_read(
    tiny_experiment, whole, tmp_path, name
):
    """The words are the task's; the student's prompts, and so its first rollouts, are those of every other arm."""
    built = tiny_experiment({"taught": {"credit": name}}, steps=2, save_every=2)
    assert run.train(built, "taught", 0, tmp_path)
    recorded = read_run(tmp_path)
    assert recorded.manifest.credit["teacher"] == "the words of task decision"
    assert "teacher" not in read_run(whole("flow")).manifest.credit

    def first(folder):
        rows = read_run(folder).table("rollouts", step=0).to_pylist()
        return [(row["prompt_ids"], row["response_ids"], row["sampler_logprobs"]) for row in rows]

    assert first(tmp_path) == first(whole("uniform"))
    weights = [weight for row in recorded.table("rollouts").to_pylist() for weight in row["weights"]]
    assert min(weights) < max(weights)


def test_a_teacher_whose_words_the_policy_cannot_read_is_one_line(tiny_experiment, tmp_path):
    built = tiny_experiment({"taught": {"credit": "rlsd", "template": "{question} is {gold}"}})
    with pytest.raises(CreditError, match="cannot read the teacher's prompt .*`template`"):
        run.train(built, "taught", 0, tmp_path)
