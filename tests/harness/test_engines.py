"""Protects the choice of an engine where vLLM is not at hand: mistakes and breakdowns are one line with the way out."""

import pytest
import torch

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


def test_a_run_on_vllm_never_claims_to_be_bitwise(monkeypatch):
    assert engines.tier("transformers") == provenance.tier()
    assert engines.tier("vllm") == ("T1" if engines.batch_invariant() else "T2")
    monkeypatch.setattr(engines, "batch_invariant", lambda: True)
    assert engines.tier("vllm") == "T1"


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
