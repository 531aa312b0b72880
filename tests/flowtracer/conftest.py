"""Small random policies of real architectures, and a character tokenizer, for the contract tests."""

import re

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from flowtracer.tracing import Trace

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


def batch(length=24, left_pads=(0, 5, 11)):
    """Ids and mask (B, T), left-padded by different amounts."""
    ids = torch.randint(2, 32, (len(left_pads), length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, pads in enumerate(left_pads):
        ids[row, :pads], mask[row, :pads] = 0, 0
    return ids, mask


def eager_mean(architecture, ids, mask, layers, **changes):
    """The mean over heads and layers of what an eager forward with output_attentions returns; pads zeroed."""
    eager = tiny_model(architecture, attention="eager", **changes)
    with torch.no_grad():
        attentions = eager(
            input_ids=ids, attention_mask=mask, output_attentions=True, use_cache=False
        ).attentions
    maps = [attention for attention in attentions if attention is not None]
    if len(maps) > len(layers):  # not a hybrid, which returns the maps of its layers that attend
        maps = [maps[layer] for layer in layers]
    mean = torch.stack(maps).double().mean((0, 2))
    return mean * mask[:, :, None] * mask[:, None, :]


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
    return plain_tokenizer()


def plain_tokenizer():
    """The tokenizer of the fixture, for who is no test."""
    alphabet = "abcdefghijklmnop0123456789#?=;+"
    vocabulary = {"<pad>": 0, "<eos>": 1, **{letter: index + 2 for index, letter in enumerate(alphabet[:30])}}
    raw = Tokenizer(models.WordLevel(vocabulary))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )


@pytest.fixture(scope="session")
def byte_tokenizer():
    """One token a byte, so that every character beyond ASCII is split; token 256 is special."""
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|end|>", clean_up_tokenization_spaces=False
    )


def attention(length, seed=0, per_token=24):
    """A random causal map: every token looks at its neighbours, at some tokens far back, and at the first one."""
    generator = torch.Generator().manual_seed(seed)
    capacity = torch.zeros(length, length)
    for k in range(1, length):
        seen = torch.cat(
            [torch.arange(max(0, k - per_token), k), torch.randint(0, k, (per_token,), generator=generator)]
        )
        capacity[k, seen] = torch.rand(len(seen), generator=generator) ** 4
        capacity[k, 0] += 3.0
        capacity[k] /= capacity[k].sum()
    return capacity


def traced(tokens, prompt_length, answer, **fields):
    marked = torch.zeros(len(tokens), dtype=torch.bool)
    marked[list(answer)] = True
    return Trace(
        token_ids=[0] * len(tokens),
        tokens=tokens,
        prompt_length=prompt_length,
        capacity=attention(len(tokens)),
        answer=marked,
        layers=[2, 3],
        **fields,
    )


@pytest.fixture(scope="session")
def story():
    """40 tokens, of which 12 are the prompt; the answer is followed by two more."""
    words = "How many eggs are left if 3 of 9 break ?\n|So 9 - 3 = 6 are left .\n\nThen we see that the answer is 6 ,"
    prompt, response = (re.findall(r"\s*\S+\n*", part) for part in words.split("|"))
    tokens = [*prompt, *response, " which", " is", "\n", " ####", " ", "6", "\n", "<|end|>"]
    return traced(tokens, len(prompt), [len(tokens) - 3], pieces=[*tokens[:-1], ""], name="a story")
