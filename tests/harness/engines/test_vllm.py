"""Protects what is decided for vLLM before it is loaded."""

from types import SimpleNamespace

import pytest
import torch

from harness import ExperimentError, seeds
from harness.engines import vllm
from harness.engines.base import ALONE, BESIDE_TRAINING, Sampling


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_batch_invariant_kernels_stay_out_of_a_process_that_trains(monkeypatch, capability):
    """They take the place of torch's own there: the first backward fails, or rotary positions are rounded."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    for share, wanted in ((BESIDE_TRAINING, "0"), (ALONE, "1")):
        assert vllm.environment(None, "bfloat16", 64, share)["VLLM_BATCH_INVARIANT"] == wanted


def test_both_engines_ask_with_the_same_requests():
    """In this process and of a server: the row's prompt and key, the policy's ends, nothing of its configuration."""
    model = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=64))
    )
    keys = [seeds.key("test", number) for number in range(2)]
    sampling = Sampling(4, 0.5, 3, 0.9)
    asked = vllm.requests(model, 8, [1, 2], [(5, 6), (7,)], keys, sampling)
    assert [prompt for prompt, _ in asked] == [[5, 6], [7]]
    parameters = [parameters for _, parameters in asked]
    assert parameters[0]["seed"] != parameters[1]["seed"]
    for row in parameters:
        assert row["stop_token_ids"] == [1, 2] and row["ignore_eos"] is True and row["max_tokens"] == 4
        assert (row["temperature"], row["top_k"], row["top_p"]) == (0.5, 3, 0.9)
    assert vllm.requests(model, 8, [1], [], [], sampling) == []
    with pytest.raises(ExperimentError, match="started for 8 tokens, not for 9"):
        vllm.requests(model, 8, [1], [(5, 6, 7, 8, 9)], keys[:1], sampling)
    with pytest.raises(ExperimentError, match="exceed the policy's context of 64"):
        vllm.requests(model, 100, [1], [[5] * 61], keys[:1], sampling)
