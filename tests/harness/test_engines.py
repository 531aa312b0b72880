"""Protects the choice of an engine where vLLM is not at hand: mistakes and breakdowns are one line with the way out."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from harness import ExperimentError, cli, engines, provenance, run
from harness.rollout import sample as plain_sample


@pytest.mark.parametrize(
    ("version", "said"), [(None, "not installed; pip install"), ("0.21.1", "0.21.1 was never tested")]
)
def test_vllm_missing_or_untested_is_said_before_the_first_run(monkeypatch, tmp_path, capsys, version, said):
    """But for the plan, which is asked before anything is installed."""
    monkeypatch.setattr(provenance, "vllm_version", lambda: version)
    file = tmp_path / "fast.toml"
    file.write_text('base = "decision"\nengine = "vllm"\n')
    out = tmp_path / "runs"
    for command in (["reproduce", str(file)], ["train", str(file), "--method", "flow"]):
        assert cli.main([*command, "--out", str(out)]) == 2
        assert said in capsys.readouterr().err and not out.exists()
    assert cli.main(["reproduce", str(file), "--plan"]) == 0


def test_a_run_on_vllm_never_claims_to_be_bitwise():
    assert engines.tier("transformers") == provenance.tier()
    assert engines.tier("vllm") == provenance.DISTRIBUTION


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_batch_invariant_kernels_stay_out_of_a_process_that_trains(monkeypatch, capability):
    """They take the place of torch's own there: the first backward fails, or rotary positions are rounded."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    for share, wanted in ((engines.BESIDE_TRAINING, "0"), (engines.ALONE, "1")):
        assert engines.environment(None, "bfloat16", 64, share)["VLLM_BATCH_INVARIANT"] == wanted


def test_a_policy_is_evaluated_where_there_is_a_gpu_on_it(monkeypatch):
    """Loaded policies are on the CPU; one that trains is where the trainer has put it."""
    places = []
    policy = SimpleNamespace(tokenizer=None, model=SimpleNamespace(to=places.append))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for share, wanted in ((engines.BESIDE_TRAINING, []), (engines.ALONE, ["cuda"])):
        engines.start("transformers", policy, "float32", 64, 8, share)
        assert places == wanted


def test_one_process_trains_on_one_gpu_however_many_it_sees(monkeypatch, tmp_path, tiny_experiment):
    """transformers would copy the policy to each, and draw as many times the rollouts of a step."""

    def sees_eight(self):
        if not hasattr(self, "distributed_state"):
            self._n_gpu, self.distributed_state = 8, None
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(sees_eight))
    settings = tiny_experiment().training
    assert run.grpo_config(settings, "float32", 0, tmp_path).train_batch_size == settings.rollouts


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nmore"), "out of memory: lower"),
        (
            ValueError("Free memory on device cuda:0 (1/80 GiB) on startup is less than desired"),
            "out of memory: lower",
        ),
        (
            RuntimeError("The server socket has failed to listen: EADDRINUSE"),
            "a port is in use: unset VLLM_PORT",
        ),
        (RuntimeError("CUDA error: unspecified launch failure\nCompile with"), "the GPU is lost: see dmesg"),
        (KeyError("q_proj"), "q_proj"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_a_known_cause_comes_with_its_way_out(error, said):
    line = engines.reason(error)
    assert said in line and "\n" not in line


@pytest.mark.parametrize(
    "error",
    [engines.EngineError("engine vllm broke down"), torch.OutOfMemoryError("CUDA out of memory")],
)
def test_a_breakdown_in_the_middle_of_a_run_names_its_last_good_checkpoint(
    tiny_experiment, tmp_path, monkeypatch, error
):
    calls = iter(range(100))

    def breaks(*arguments):
        if next(calls) == 3:
            raise error
        return plain_sample(*arguments)

    monkeypatch.setattr(engines.rollout, "sample", breaks)
    with pytest.raises(ExperimentError, match="checkpoint-2") as caught:
        run.train(tiny_experiment(("uniform",)), "uniform", 0, tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(engines.rollout, "sample", plain_sample)
    assert run.train(tiny_experiment(("uniform",)), "uniform", 0, tmp_path)


@pytest.mark.parametrize(
    ("options", "wanted"), [({}, True), ({"top_k": 100}, False), ({"top_p": 0.9}, False)]
)
def test_samples_of_a_truncated_distribution_are_not_weighed_by_what_was_left_out(
    tmp_path, tiny_experiment, options, wanted
):
    """On SmolLM2 with the paper's top-k of 100, responses of 96 tokens got ratios from 0.70 down to 0.004."""
    settings = tiny_experiment(**options).training
    assert run.grpo_config(settings, "float32", 0, tmp_path).vllm_importance_sampling_correction is wanted
