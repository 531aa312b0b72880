"""Small random policies of real architectures, and a character tokenizer, for the contract tests."""

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


#: Projections of queries and keys by their names in transformers.
SHARPENED = ("q_proj", "k_proj", "query_key_value", "qkv_proj", "c_attn", "q_a_proj", "q_b_proj", "kv_b_proj")


def tiny_model(architecture, attention="sdpa", layers=3, seed=0, **changes):
    """A random policy of one of transformers' architectures, float32, attention spread out enough to matter."""
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[architecture](**{**SIZES, "num_hidden_layers": layers, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for name, parameter in model.named_parameters():
        if any(part in name for part in SHARPENED) and parameter.ndim > 1:
            parameter.data.mul_(20.0)
    return model.eval()


class LargestTensors(TorchDispatchMode):
    """Notes the bytes of each tensor that is made inside, the largest first in `sizes`."""

    def __init__(self):
        super().__init__()
        self._made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        given = {
            part.untyped_storage().data_ptr() for part in tree_leaves(args) if isinstance(part, torch.Tensor)
        }
        for part in tree_leaves(output):
            if isinstance(part, torch.Tensor) and part.untyped_storage().data_ptr() not in given:
                self._made.append(part.untyped_storage().nbytes())
        return output

    @property
    def sizes(self):
        return sorted(self._made, reverse=True)


@pytest.fixture
def tokenizer():
    """One token a character: <pad>, <eos> and 30 letters and marks."""
    alphabet = "abcdefghijklmnop0123456789#?=;+"
    vocabulary = {"<pad>": 0, "<eos>": 1, **{letter: index + 2 for index, letter in enumerate(alphabet[:30])}}
    raw = Tokenizer(models.WordLevel(vocabulary))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )
