"""Protects agreement with lm-eval, by its real command line: one policy, the same prompts and greedy decoding give the
same text and score, sample by sample, as our evaluation.
"""

import shutil

import pytest
from transformers import AutoTokenizer

from harness.policy import FOLDER
from tests.harness.by_lm_eval import lm_eval_samples, same_scores


@pytest.mark.slow
def test_bare_prompts_score_the_same(tmp_path):
    policy = FOLDER / "arithmetic"
    theirs = lm_eval_samples("hf", policy, "arithmetic", 40, tmp_path, "--device", "cpu")
    scores = same_scores(theirs, policy, "arithmetic", 40)
    assert 0 < sum(scores) < 40, "the example must hold both scores"


@pytest.mark.slow
def test_prompts_in_a_chat_template_score_the_same(tmp_path):
    """The template asks twice: other prompts and other responses than the bare ones, some of them right."""
    policy = tmp_path / "chat"
    shutil.copytree(FOLDER / "arithmetic", policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] + '?' }}{% endfor %}"
    tokenizer.save_pretrained(policy)
    options = ("--device", "cpu", "--apply_chat_template")
    theirs = lm_eval_samples("hf", policy, "arithmetic", 40, tmp_path / "theirs", *options)
    scores = same_scores(theirs, policy, "arithmetic", 40)
    assert 0 < sum(scores) < 40, "the example must hold both scores"
    assert all(row["arguments"]["gen_args_0"]["arg_0"].endswith("=??") for row in theirs)
