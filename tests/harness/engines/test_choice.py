"""Protects the choice of an engine where vLLM is not at hand: mistakes are one line with the way out."""

from types import SimpleNamespace

import pytest
import torch

from harness import cli, provenance
from harness.engines import choice
from harness.engines.base import ALONE, BESIDE_TRAINING, EngineChoice


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
    assert choice.tier("transformers") == provenance.tier()
    assert choice.tier("vllm") == provenance.DISTRIBUTION


def test_a_policy_is_evaluated_where_there_is_a_gpu_on_it(monkeypatch):
    """Loaded policies are on the CPU; one that trains is where the trainer has put it."""
    places = []
    policy = SimpleNamespace(tokenizer=None, model=SimpleNamespace(to=places.append))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for share, wanted in ((BESIDE_TRAINING, []), (ALONE, ["cuda"])):
        choice.start(EngineChoice(), policy, 64, 8, share)
        assert places == wanted
