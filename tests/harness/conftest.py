"""A tiny experiment on a random character policy, so that runs take a second and not a minute."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from harness import experiment as experiments
from harness.policy import character_tokenizer


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory):
    """The folder of a random policy that reads and writes the letters of the decision task."""
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = character_tokenizer("abcdefgh?#")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_experiment(tiny_policy):
    """Two seeds, two arms, six steps of eight rollouts on `decision`; keyword arguments change the training."""

    def build(methods=("uniform", "flow"), seeds=2, **training):
        table = {
            "title": "tiny",
            "seeds": seeds,
            "declaration": {"metric": "training_reward_area", "smallest_difference": 0.01},
            "policy": {"name": str(tiny_policy)},
            "task": {"name": "decision"},
            "training": {
                "steps": 6,
                "prompts_per_step": 2,
                "samples_per_prompt": 4,
                "max_response_tokens": 12,
                "learning_rate": 1e-2,
                "save_every": 2,
                **training,
            },
            "evaluation": {"every": 3, "problems": 6, "batch_size": 8},
            "methods": {label: {} for label in methods},
        }
        return experiments.from_table(table, "tiny")

    return build
