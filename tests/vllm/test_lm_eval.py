"""Protects agreement with lm-eval on vLLM and on a server of ours, by its real command line: one policy, the same
prompts and greedy decoding give the same text and score, sample by sample, as our evaluation. Runs where vLLM is (`nox
-s tests_vllm`).
"""

import importlib.util
import re
from pathlib import Path

import pytest

from harness.policy import FOLDER
from tests.harness.by_lm_eval import lm_eval_samples, same_scores, with_chat_template
from tests.vllm.serving import Serving

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "lm-eval.md"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.mark.slow
def test_lm_eval_on_vllm_scores_what_our_evaluation_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against our transformers engine: where the two best logits are no closer than rounding, texts are the same."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    policy = FOLDER / "arithmetic"
    arguments = {"pretrained": policy, "dtype": "float32", "max_model_len": 96, "enforce_eager": True}
    theirs = lm_eval_samples("vllm", "arithmetic", 40, tmp_path, **arguments)
    scores = same_scores(theirs, policy, "arithmetic", 40)
    assert 0 < sum(scores) < 40, "the example must hold both scores"


@pytest.mark.slow
def test_lm_eval_on_a_server_of_ours_scores_what_our_evaluation_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the two commands of the documentation, with a small policy in the place of its large one."""
    pytest.importorskip("tenacity", reason="lm-eval's API models need the packages of lm-eval[api]")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    policy = with_chat_template(tmp_path / "chat")
    served = re.search(r"^flowtracer serve \S+ --dtype \S+ (.*)$", PAGE.read_text(), re.M)
    asked = re.search(r"--model local-completions --model_args (\S+)", PAGE.read_text())
    assert served is not None and asked is not None
    server = Serving(str(policy), *served[1].split())
    try:
        arguments = dict(pair.split("=", 1) for pair in asked[1].split(","))
        # lm-eval takes 2048 tokens for the context where it is not told, and cuts prompts to fit, down to nothing.
        assert set(arguments) == {"base_url", "model", "tokenizer", "max_length", "num_concurrent"}
        arguments["base_url"] = arguments["base_url"].replace("http://127.0.0.1:8000", server.address)
        arguments |= {"tokenizer": str(policy), "max_length": "96"}
        options = ("--apply_chat_template",)
        theirs = lm_eval_samples(
            "local-completions", "arithmetic", 40, tmp_path / "theirs", *options, **arguments
        )
    finally:
        server.kill()
    scores = same_scores(theirs, policy, "arithmetic", 40)
    assert 0 < sum(scores) < 40, "the example must hold both scores"
