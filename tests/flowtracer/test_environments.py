"""Protects credit where a rollout function has an environment answer in the middle of a response (TRL's `env_mask`)."""

import pytest
import torch
from datasets import Dataset

from flowtracer import credit, weigh
from tests.flowtracer.conftest import tiny_model
from tests.flowtracer.test_trainer import SEAMS, Letters, train

#: What stands in a response, and whose words they are: the policy's 1, the environment's 0.
SAID = [
    ("cabdeabfac#0#0#0bcad", "11111111110000001111"),
    ("bcadbc#0#0#0#0", "11111100000000"),
]


def talked(prompts, trainer):
    """A rollout function whose policy says the texts above by turns."""
    said = [SAID[row % 2] for row in range(len(prompts))]
    ids = [trainer.text_tokenizer(text).input_ids for text, _ in said]
    prompt = trainer.text_tokenizer("abc?").input_ids
    return {
        "prompt_ids": [list(prompt) for _ in prompts],
        "completion_ids": ids,
        "logprobs": [[0.0] * len(row) for row in ids],
        "env_mask": [[int(own) for own in mask] for _, mask in said],
    }


def trained(tokenizer, folder, method, conversational=False, **changes):
    prompt = [{"role": "user", "content": "abc?"}] if conversational else "abc?"
    return train(
        tokenizer,
        folder,
        credit=method,
        task=Letters(),
        steps=1,
        rollout_func=talked,
        data=Dataset.from_dict({"prompt": [prompt] * 4}),
        reward=lambda completions, **_: [float(row % 2) for row in range(len(completions))],
        **changes,
    ).rollouts


@pytest.mark.parametrize("conversational", [False, True])
def test_the_answer_is_what_the_policy_wrote(tokenizer, tmp_path, conversational):
    """A chat has one message for all of it; its policy's last letter is the answer, whatever was said after it."""
    batch = trained(tokenizer, tmp_path, "flow", conversational)
    assert not batch.abstentions
    assert [row.answer for row in batch.located] == [[19], [5]] * 4
    assert (batch.weights[~batch.in_loss] == 1).all() and len(batch.weights.unique()) == 2


def test_every_forward_shows_the_same_response(tokenizer, tmp_path):
    """Anchors are chosen among the policy's tokens, also where they are read before rewards are known."""
    method = credit.get("coupled", near=2, far=5)
    first, later = (
        trained(tokenizer, tmp_path, method, **SEAMS[seam])
        for seam in ("training forward", "old log-probabilities")
    )
    assert len(first.weights.unique()) > 1
    assert torch.equal(first.weights, later.weights)
    weighed = weigh(
        tiny_model("qwen3", seed=3), tokenizer, first.prompt_ids, first.response_ids, method, task=Letters(),
        masks=first.masks,
    )  # fmt: skip
    for ours, theirs in zip(weighed, first.weights, strict=True):
        assert torch.equal(ours.weights, theirs[: len(ours.weights)])
