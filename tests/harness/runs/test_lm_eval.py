"""Protects agreement with lm-eval, by its real command line: one policy, the same prompts and greedy decoding give the
same text and score, sample by sample, as our evaluation.
"""

import pytest

from harness.policy import FOLDER
from tests.harness.by_lm_eval import lm_eval_samples, same_scores, with_chat_template


@pytest.mark.slow
def test_bare_prompts_score_the_same(tmp_path):
    policy = FOLDER / "arithmetic"
    theirs = lm_eval_samples("hf", "arithmetic", 40, tmp_path, "--device", "cpu", pretrained=policy)
    scores = same_scores(theirs, policy, "arithmetic", 40)
    assert 0 < sum(scores) < 40, "the example must hold both scores"


@pytest.mark.slow
def test_prompts_in_a_chat_template_score_the_same(tmp_path):
    policy = with_chat_template(tmp_path / "chat")
    options = ("--device", "cpu", "--apply_chat_template")
    theirs = lm_eval_samples("hf", "arithmetic", 40, tmp_path / "theirs", *options, pretrained=policy)
    scores = same_scores(theirs, policy, "arithmetic", 40)
    assert 0 < sum(scores) < 40, "the example must hold both scores"
    assert all(row["arguments"]["gen_args_0"]["arg_0"].endswith("=??") for row in theirs)
