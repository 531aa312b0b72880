"""Protects agreement with lm-eval on vLLM, by its real command line: one policy, the same prompts and greedy decoding
give the same text and score, sample by sample, as our evaluation. Runs where vLLM is (`nox -s tests_vllm`).
"""

import importlib.util
from pathlib import Path

import pytest

from harness.policy import FOLDER
from tests.harness.by_lm_eval import lm_eval_samples, same_scores

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.mark.slow
def test_lm_eval_on_vllm_scores_what_our_evaluation_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against our transformers engine: where the two best logits are no closer than rounding, texts are the same."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    policy = FOLDER / "arithmetic"
    arguments = {"dtype": "float32", "max_model_len": 96, "enforce_eager": True}
    theirs = lm_eval_samples("vllm", policy, "arithmetic", 40, tmp_path, **arguments)
    scores = same_scores(theirs, policy, "arithmetic", 40)
    assert 0 < sum(scores) < 40, "the example must hold both scores"
