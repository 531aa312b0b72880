"""The tap for plain PyTorch: models built from torch.nn.MultiheadAttention, such as a causal nn.TransformerEncoder.

From a forward to the flow between two of its positions:

    import torch
    from flowtracer import solve_flow, tap_multihead

    layer = torch.nn.TransformerEncoderLayer(d_model=32, nhead=4, dropout=0.0, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, num_layers=3, enable_nested_tensor=False).eval()
    states, token = torch.randn(2, 12, 32), torch.ones(2, 12)
    causal = torch.nn.Transformer.generate_square_subsequent_mask(12)
    with torch.no_grad(), tap_multihead(model, token, layers="middle") as capture:
        model(states, mask=causal)
    source, answer = torch.zeros(2, 12, dtype=torch.bool), torch.zeros(2, 12, dtype=torch.bool)
    source[:, :4], answer[:, 11] = True, True
    throughput = solve_flow(capture.capacity, source, answer).throughput
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowtracer.attention import Capture, Layers, traced_layers
from flowtracer.errors import CreditError
from flowtracer.readings import MeanMap, Reading


@contextmanager
def tap_multihead(
    model: nn.Module, attention_mask: Tensor, layers: Layers = "middle", reading: Reading | None = None
) -> Iterator[Capture]:
    """A context around exactly one forward of a model whose attention is `torch.nn.MultiheadAttention`.

    attention_mask: (B, T), 1 = token. layers: of the model's MultiheadAttention modules in their order, see
    `attention.traced_layers`. reading: what to keep, the mean map by default. Outputs are those of an untapped
    forward without PyTorch's fused inference path, which hooks switch off.

    Raises CreditError, inside the forward, for attention that is not causal self-attention with one mask for all
    heads: no mask, a mask that adds anything but -inf, cross-attention, bias or zero keys.
    """
    modules = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    if not modules:
        raise CreditError(
            f"{type(model).__name__} holds no torch.nn.MultiheadAttention; use capacity_from_qk"
        )
    capture = Capture(
        traced_layers(layers, len(modules)), attention_mask, MeanMap() if reading is None else reading
    )

    def hook(layer: int) -> Any:
        def look(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            assert isinstance(module, nn.MultiheadAttention)
            names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")
            given = {**dict(zip(names, arguments, strict=False)), **keywords}
            query, key, visible = _projected(module, given)
            capture.take(layer, query, key, query.shape[-1] ** -0.5, visible)

        return look

    handles = [
        module.register_forward_pre_hook(hook(layer), with_kwargs=True)
        for layer, module in enumerate(modules)
    ]
    try:
        yield capture
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _projected(module: nn.MultiheadAttention, given: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys (B, H, T, D) of a call, and its mask (B, 1, T, T), True = visible."""
    states = given["query"]
    if given["key"] is not states:
        raise CreditError(
            "cross-attention cannot be traced: MultiheadAttention was called with other keys than queries"
        )
    if module.bias_k is not None or module.add_zero_attn:
        raise CreditError(
            "MultiheadAttention with add_bias_kv or add_zero_attn attends to keys that are no tokens"
        )
    if states.ndim != 3:
        raise CreditError(f"the tap reads batches (B, T, D), not {tuple(states.shape)}")
    if not module.batch_first:
        states = states.transpose(0, 1)
    batch, length, width = states.shape
    if module._qkv_same_embed_dim:
        query_weight, key_weight, _ = module.in_proj_weight.chunk(3)
    else:
        query_weight, key_weight = module.q_proj_weight, module.k_proj_weight
    biases = (None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[:2]
    query, key = (
        functional.linear(states, weight, bias).view(batch, length, module.num_heads, -1).transpose(1, 2)
        for weight, bias in zip((query_weight, key_weight), biases, strict=True)
    )
    hidden = _hidden(given.get("attn_mask"), "attn_mask")
    if hidden is None or hidden.ndim != 2 or not bool(hidden[torch.ones_like(hidden).triu(1).bool()].all()):
        raise CreditError(
            "MultiheadAttention was not called with one causal (T, T) attn_mask: only causal models are traced"
        )
    hidden = hidden.view(1, 1, length, length).expand(batch, 1, length, length)
    padding = _hidden(given.get("key_padding_mask"), "key_padding_mask")
    if padding is not None:
        hidden = hidden | padding.view(batch, 1, 1, length)
    return query, key, ~hidden


def _hidden(mask: Tensor | None, name: str) -> Tensor | None:
    """PyTorch's masks as booleans, True = hidden."""
    if mask is None or mask.dtype == torch.bool:
        return mask
    hidden = mask == float("-inf")
    if bool((mask[~hidden] != 0).any()):
        raise CreditError(
            f"{name} adds to the scores, which the tap does not read: only 0 and -inf are understood"
        )
    return hidden
