"""Random policies of a given shape, trained as the trainer trains: what the benchmarks measure beyond SmolLM2."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config
from trl.trainer.utils import add_fused_lm_head

from harness.shapes import Shape


def shaped(shape: Shape, dtype: torch.dtype, attention: str, device: str) -> PreTrainedModel:
    """A random policy of that shape, whose training recomputes activations."""
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.head_width,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def with_trainers_head(model: PreTrainedModel) -> PreTrainedModel:
    """The same policy with the head of TRL's trainer, which never holds the logits of a whole sequence."""
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model


def log_probabilities(model: PreTrainedModel, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Log-probabilities (B, T - 1) of each token after the first, as the trainer computes them."""
    output = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False, fused_lm_head=True)
    return output.log_probs
