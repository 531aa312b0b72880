"""Protects what is decided for vLLM before it is loaded."""

import pytest
import torch

from harness.engines import vllm
from harness.engines.base import ALONE, BESIDE_TRAINING


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_batch_invariant_kernels_stay_out_of_a_process_that_trains(monkeypatch, capability):
    """They take the place of torch's own there: the first backward fails, or rotary positions are rounded."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    for share, wanted in ((BESIDE_TRAINING, "0"), (ALONE, "1")):
        assert vllm.environment(None, "bfloat16", 64, share)["VLLM_BATCH_INVARIANT"] == wanted
