"""Protects what a run goes on from: whole checkpoints of the same policy, and policies saved after their records."""

import itertools

import pytest
import torch

from harness import ExperimentError
from harness.engines import keyed
from harness.engines.base import EngineError
from harness.policy import load_policy
from harness.runs import recorder, run
from harness.runs.checkpoints import last_checkpoint


@pytest.mark.parametrize(
    "error",
    [EngineError("engine vllm broke down"), torch.OutOfMemoryError("CUDA out of memory")],
)
def test_a_breakdown_in_the_middle_of_a_run_names_its_last_good_checkpoint(
    tiny_experiment, tmp_path, monkeypatch, error
):
    plain, calls = keyed.sample, iter(range(100))

    def breaks(*arguments):
        if next(calls) == 3:
            raise error
        return plain(*arguments)

    monkeypatch.setattr(keyed, "sample", breaks)
    with pytest.raises(ExperimentError, match="checkpoint-2") as caught:
        run.train(tiny_experiment(("uniform",)), "uniform", 0, tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(keyed, "sample", plain)
    assert run.train(tiny_experiment(("uniform",)), "uniform", 0, tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(tiny_experiment, tmp_path):
    built = tiny_experiment(("uniform",))
    answers = itertools.chain([False] * 2, itertools.repeat(True))
    assert not run.train(built, "uniform", 0, tmp_path, stop=lambda: next(answers))
    other = load_policy("arithmetic")
    other.model.save_pretrained(last_checkpoint(tmp_path))
    with pytest.raises(ExperimentError, match="checkpoint-3 holds another policy"):
        run.train(built, "uniform", 0, tmp_path)


def test_a_policy_is_saved_after_the_records_that_led_to_it(tiny_experiment, tmp_path, monkeypatch):
    """A saved last policy means "trained": a kill right after it must not have cost a record."""
    original, seen = recorder.save_policy, []

    def watched(policy, folder, *weights):
        seen.append((folder.name, len(list((tmp_path / "steps").glob("*.parquet")))))
        original(policy, folder, *weights)

    monkeypatch.setattr(recorder, "save_policy", watched)
    run.train(tiny_experiment(("uniform",)), "uniform", 0, tmp_path)
    assert seen == [("step-000003", 3), ("step-000006", 6)]
    assert not (tmp_path / "checkpoint" / "checkpoint-6").exists()
