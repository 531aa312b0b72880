"""Protects the words for what breaks inside an engine."""

import pytest
import torch

from harness.engines.base import reason


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
    line = reason(error)
    assert said in line and "\n" not in line
