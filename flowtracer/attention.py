"""Attention to graph: the head- and layer-mean attention of a model's traced layers, read inside its forward.

The tap sits where transformers dispatches attention (`AttentionInterface`), after rotary embeddings and query/key
norms. It calls the very function that the model would have called, so outputs are bit for bit those of an untapped
forward, and adds the probabilities of the traced layers to one float32 map, a tile of queries at a time. No
`output_attentions`, no per-head map, no extra forward.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from flowtracer.errors import CreditError
from flowtracer.flow import full_float32

#: Scores held at once while a layer is reduced, in elements: 64 MB of float32.
TILE_ELEMENTS = 16 * 1024 * 1024

# transformers gives names with "sdpa" or "flash" in them special treatment, and drops the padding mask in silence for
# a name without a mask function of its own. Hence a neutral name, registered for both.
_NAME = "flowtracer_tap"

Layers = str | Sequence[int]


def traced_layers(layers: Layers, total: int) -> list[int]:
    """The layer indices that `layers` names in a model of `total` layers.

    "middle", "early" and "late" are thirds, floor(total/3) to floor(2 total/3) half-open for the middle one (the
    paper's choice, arXiv 2606.10646, section 4); "all"; "15-25" is half-open too (the paper's tuned setting for 36
    layers); a sequence of integers is itself. A third of a model of one or two layers has at least one layer.
    """
    if isinstance(layers, str):
        thirds = {"early": (0, 1), "middle": (1, 2), "late": (2, 3), "all": (0, 3)}
        if layers in thirds:
            first, last = (int(Fraction(part * total, 3)) for part in thirds[layers])
            first = min(first, total - 1)
            return list(range(first, max(last, first + 1)))
        first_text, dash, last_text = layers.partition("-")
        if not (dash and first_text.isdecimal() and last_text.isdecimal()):
            raise CreditError(f"layers {layers!r} unknown: use early, middle, late, all, '15-25' or a list of integers")
        chosen = list(range(int(first_text), int(last_text)))
    else:
        chosen = sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= total:
        raise CreditError(f"layers {layers!r} do not fit a model of {total} layers, numbered 0 to {total - 1}")
    return chosen


def capacity_from_qk(query: Tensor, key: Tensor, *, scale: float, mask: Tensor | None = None) -> Tensor:
    """Head-mean attention probabilities of one layer, (B, T, T) float32, from its queries and keys.

    query: (B, Hq, T, D); key: (B, Hkv, T, D) before key heads are repeated, Hq a multiple of Hkv. mask: None for plain
    causal attention, or boolean (B, 1, T, T), True = visible. Rows that see nothing (pads) are 0.
    """
    batch, _, length, _ = query.shape
    capacity = torch.zeros(batch, length, length, dtype=torch.float32, device=query.device)
    _add_head_mean(capacity, query, key, scale, mask, weight=1.0)
    return capacity


@torch.no_grad()
def _add_head_mean(
    capacity: Tensor, query: Tensor, key: Tensor, scale: float, mask: Tensor | None, weight: float
) -> None:
    """Adds `weight` times the head-mean probabilities of one layer to `capacity` (B, T, T), tile by tile."""
    batch, heads, length, width = query.shape
    key_heads = key.shape[1]
    group = heads // key_heads
    rows = max(1, min(batch, TILE_ELEMENTS // max(1, heads * length * length)))
    tile = max(1, min(length, TILE_ELEMENTS // max(1, heads * length * rows)))
    with full_float32():
        for row in range(0, batch, rows):
            row_slice = slice(row, min(row + rows, batch))
            keys = key[row_slice].float().transpose(-1, -2)
            for start in range(0, length, tile):
                end = min(start + tile, length)
                # Causal: a tile of queries never looks beyond its own last position.
                queries = query[row_slice, :, start:end].float() * scale
                queries = queries.reshape(-1, key_heads, group * (end - start), width)
                scores = torch.matmul(queries, keys[..., :end])
                scores = scores.view(-1, heads, end - start, end)
                if mask is None:
                    hidden = torch.ones(end - start, end, dtype=torch.bool, device=scores.device).triu(start + 1)
                    scores.masked_fill_(hidden, float("-inf"))
                    probabilities = scores.softmax(-1)
                else:
                    visible = mask[row_slice, :, start:end, :end]
                    scores.masked_fill_(~visible, float("-inf"))
                    # A row that sees nothing is a pad: softmax gives NaN there, and a pad's row must be exactly 0.
                    probabilities = scores.softmax(-1).masked_fill_(~visible, 0.0)
                capacity[row_slice, start:end, :end] += probabilities.sum(1) * (weight / heads)


class Capture:
    """What one forward showed: read `capacity` after the forward has run."""

    def __init__(self, layers: list[int], attention_mask: Tensor) -> None:
        self._layers = layers
        self._attention_mask = attention_mask.bool()
        self._seen: set[int] = set()
        self._map: Tensor | None = None
        #: Seconds spent in the tap, host clock.
        self.seconds = 0.0

    @property
    def capacity(self) -> Tensor:
        """The mean over heads and traced layers, (B, T, T) float32; rows and columns of pads exactly 0."""
        missing = [layer for layer in self._layers if layer not in self._seen]
        if self._map is None or missing:
            raise CreditError(
                f"layers {missing} were never seen by the tap: did the forward run inside it, "
                "and does every traced layer use attention?"
            )
        return self._map

    def take(self, module: nn.Module, query: Tensor, key: Tensor, scale: float, mask: Tensor | None) -> None:
        """Adds one layer, if it is traced."""
        layer = getattr(module, "layer_idx", None)
        if layer not in self._layers:
            return
        if layer in self._seen:
            raise CreditError(
                f"layer {layer} ran twice inside one tap: open it around one forward, without cache or generation, "
                "and close it before backward"
            )
        begin = time.perf_counter()
        batch, _, length, _ = query.shape
        if key.shape[2] != length or self._attention_mask.shape != (batch, length):
            raise CreditError(
                f"the tap reads whole sequences of shape {tuple(self._attention_mask.shape)}, "
                f"but a forward brought {batch} x {length} queries and {key.shape[2]} keys: no cache, no packing"
            )
        if mask is not None and mask.dtype != torch.bool:
            raise CreditError(f"layer {layer} has an additive {mask.dtype} attention mask; the tap reads boolean masks")
        if self._map is None:
            self._map = torch.zeros(batch, length, length, dtype=torch.float32, device=query.device)
        _add_head_mean(self._map, query.detach(), key.detach(), scale, mask, weight=1.0 / len(self._layers))
        self._seen.add(layer)
        if len(self._seen) == len(self._layers):
            # Left pads see nothing, but right pads see the text before them: both are no part of the graph.
            pads = ~self._attention_mask
            if mask is not None or bool(pads.any()):
                self._map.masked_fill_(pads.unsqueeze(-1) | pads.unsqueeze(-2), 0.0)
        self.seconds += time.perf_counter() - begin


_open: Capture | None = None


def _tapped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: object
) -> tuple[Tensor, Tensor | None]:
    """transformers' sdpa attention, with a look at the queries and keys first."""
    for name, meaning in (("softcap", "a soft cap"), ("s_aux", "attention sinks"), ("position_bias", "a position bias")):
        if options.get(name) is not None:
            raise CreditError(f"{type(module).__name__} adds {meaning} to its scores, which the tap does not read yet")
    if _open is not None:
        scaling = options.get("scaling")
        scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)  # type: ignore[arg-type]
        _open.take(module, query, key, scale, attention_mask)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[arg-type]


AttentionInterface.register(_NAME, _tapped_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


class AttentionTap:
    """Reads the attention of a transformers decoder inside its own forward.

    model: any causal language model of transformers that dispatches attention through its attention interface and
        runs on `sdpa`; wrappers (PEFT, data parallelism) are looked through. layers: see `traced_layers`.

    Raises CreditError for a model that cannot be tapped: one outside the attention interface, with another attention
    implementation than sdpa, or with soft-capped scores.
    """

    def __init__(self, model: nn.Module, layers: Layers = "middle") -> None:
        inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
        if inner is None:
            raise CreditError(
                f"{type(model).__name__} is no transformers model; use capacity_from_qk on its queries and keys"
            )
        config = inner.config
        name = type(inner).__name__
        if not inner._can_set_attn_implementation():
            raise CreditError(f"{name} does not use transformers' attention interface, so its attention cannot be tapped")
        if config._attn_implementation != "sdpa":
            raise CreditError(
                f"{name} runs {config._attn_implementation!r} attention, which cannot be tapped; "
                "load it with attn_implementation='sdpa'"
            )
        if getattr(config, "attn_logit_softcapping", None):
            raise CreditError(f"{name} soft-caps its attention scores, which sdpa does not do and the tap does not read")
        if getattr(config, "num_hidden_layers", None) is None:
            raise CreditError(f"{name} has no num_hidden_layers in its configuration: only text decoders can be traced")
        self._config = config
        self.layers = traced_layers(layers, config.num_hidden_layers)

    @contextmanager
    def open(self, attention_mask: Tensor) -> Iterator[Capture]:
        """A context around exactly one forward of the sequences that `attention_mask` (B, T), 1 = token, describes.

        Close it before backward: gradient checkpointing runs layers again there. The model's attention
        implementation is the tap's only inside. Closed paths, generation among them, never see it.
        """
        global _open
        if _open is not None:
            raise CreditError("another attention tap is open in this process; close it first")
        capture = Capture(self.layers, attention_mask)
        self._config._attn_implementation = _NAME
        _open = capture
        try:
            yield capture
        finally:
            _open = None
            self._config._attn_implementation = "sdpa"
