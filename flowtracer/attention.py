"""Attention to graph: the head- and layer-mean attention of a model's traced layers, read inside its forward.

The tap sits where transformers dispatches attention (`AttentionInterface`), after rotary embeddings and query/key
norms. It calls the very function that the model would have called, so outputs are bit for bit those of an untapped
forward, and adds the probabilities of the traced layers to one float32 map: on CUDA by a Triton kernel, elsewhere a
tile of queries at a time. Beyond `DENSE_TOKENS` it keeps queries and keys instead, from which `BlockedCapacity`
computes any tile. No `output_attentions`, no per-head map, no extra forward.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from flowtracer.blocked import (
    TILE_ELEMENTS,
    BlockedCapacity,
    BlockedRollout,
    TracedLayer,
    add_head_mean,
    row_normalizers,
)
from flowtracer.errors import CreditError
from flowtracer.flow import full_float32

#: The same on a GPU, which has more to fill: 64 MB of float32.
GPU_TILE_ELEMENTS = 16 * 1024 * 1024

#: The longest sequence whose map is held as a whole: 4 GB of float32. Beyond, it outgrows queries and keys.
DENSE_TOKENS = 32 * 1024

#: Maps smaller than this are made without asking how much memory is free.
_SMALL = 2**26

# transformers gives names with "sdpa" or "flash" in them special treatment, and drops the padding mask in silence for
# a name without a mask function of its own. Hence a neutral name, registered for both.
_NAME = "flowtracer_tap"

Layers = str | Sequence[int]


def traced_layers(layers: Layers, total: int) -> list[int]:
    """The layer indices that `layers` names in a model of `total` layers.

    "middle", "early" and "late" are thirds, floor(total/3) to floor(2 total/3) half-open for the middle one (the
    paper's choice, arXiv 2606.10646, section 4); "all"; "last", the last one; "15-25" is half-open too (the paper's
    tuned setting for 36 layers); a sequence of integers is itself. A third of a model of one or two layers has at
    least one layer. A name followed by "/5" means 5 of those layers, evenly spaced with both ends (all of them where
    there are fewer), as in the paper's predecessor (arXiv 2510.13554).
    """
    if isinstance(layers, str):
        name, slash, count = layers.partition("/")
        chosen = _named_layers(name, total)
        if slash:
            if not count.isdecimal() or int(count) < 1:
                raise CreditError(
                    f"layers {layers!r}: what follows '/' is how many layers to take, 1 or more"
                )
            steps, last = min(int(count), len(chosen)), len(chosen) - 1
            chosen = [
                chosen[(2 * last * step + steps - 1) // (2 * max(steps - 1, 1))] for step in range(steps)
            ]
    else:
        chosen = sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= total:
        raise CreditError(
            f"layers {layers!r} do not fit a model of {total} layers, numbered 0 to {total - 1}"
        )
    return chosen


def _named_layers(name: str, total: int) -> list[int]:
    thirds = {"early": (0, 1), "middle": (1, 2), "late": (2, 3), "all": (0, 3)}
    if name == "last":
        return [total - 1]
    if name in thirds:
        first, last = (int(Fraction(part * total, 3)) for part in thirds[name])
        first = min(first, total - 1)
        return list(range(first, max(last, first + 1)))
    first_text, dash, last_text = name.partition("-")
    if not (dash and first_text.isdecimal() and last_text.isdecimal()):
        raise CreditError(
            f"layers {name!r} unknown: use early, middle, late, all, last, '15-25', one of these and '/5' for five of "
            "them, or a list of integers"
        )
    return list(range(int(first_text), int(last_text)))


def capacity_from_qk(query: Tensor, key: Tensor, *, scale: float, mask: Tensor | None = None) -> Tensor:
    """Head-mean attention probabilities of one layer, (B, T, T) float32, from its queries and keys.

    query: (B, Hq, T, D); key: (B, Hkv, T, D) before key heads are repeated, Hq a multiple of Hkv. mask: None for plain
    causal attention, or boolean (B, 1, T, T), True = visible. Rows that see nothing (pads) are 0.
    """
    batch, heads, length, _ = query.shape
    if key.shape[0] != batch or key.shape[2:] != query.shape[2:] or heads % key.shape[1]:
        raise CreditError(
            f"queries {tuple(query.shape)} and keys {tuple(key.shape)} do not fit: (B, Hq, T, D) and (B, Hkv, T, D), "
            "Hq a multiple of Hkv"
        )
    reading = MeanMap(dense_tokens=length)
    reading.begin(torch.ones(batch, length, dtype=torch.bool, device=query.device), layers=1)
    reading.read(query.detach(), key.detach(), scale, _checked(mask, batch, length), None)
    return reading.map


def _checked(mask: Tensor | None, batch: int, length: int) -> Tensor | None:
    """The mask as (B, 1, T, T), if it is one that the tap can read."""
    if mask is None:
        return None
    if mask.dtype != torch.bool:
        raise CreditError(f"an additive {mask.dtype} attention mask; the tap reads boolean masks")
    if mask.ndim != 4 or mask.shape[0] not in (1, batch) or mask.shape[1:] != (1, length, length):
        raise CreditError(
            f"a mask of shape {tuple(mask.shape)} for {batch} sequences of {length} tokens: "
            f"the tap reads masks (B, 1, T, T), one for all heads"
        )
    return mask.expand(batch, 1, length, length)


@torch.no_grad()
def _each_tile(
    query: Tensor, key: Tensor, scale: float, mask: Tensor | None, visit: Callable[[slice, int, Tensor], None]
) -> None:
    """Calls `visit(rows, start, probabilities)` for every tile of queries of one layer.

    probabilities: (b, Hq, n, start + n) float32, the attention of positions start to start + n - 1 in `rows`.
    """
    batch, heads, length, width = query.shape
    key_heads = key.shape[1]
    group = heads // key_heads
    elements = GPU_TILE_ELEMENTS if query.is_cuda else TILE_ELEMENTS
    rows = max(1, min(batch, elements // max(1, heads * length * length)))
    tile = min(length, max(16, elements // max(1, heads * length * rows)))
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
                    # Only the last columns can lie after a row.
                    hidden = torch.ones(end - start, end - start, dtype=torch.bool, device=scores.device)
                    scores[..., start:].masked_fill_(hidden.triu(1), float("-inf"))
                    torch.softmax(scores, -1, out=scores)
                else:
                    hidden = ~mask[row_slice, :, start:end, :end]
                    scores.masked_fill_(hidden, float("-inf"))
                    # A row that sees nothing is a pad: softmax gives NaN there, and a pad's row must be exactly 0.
                    torch.softmax(scores, -1, out=scores).masked_fill_(hidden, 0.0)
                visit(row_slice, start, scores)


class Reading(ABC):
    """What is kept of the attention of the traced layers: fed layer by layer, read after the forward."""

    #: The field of a CreditContext that the result fills.
    fills: ClassVar[str]

    @abstractmethod
    def begin(self, token: Tensor, layers: int) -> None:
        """Called once, with the boolean mask of real tokens (B, T) and the number of layers to come."""

    def wants_normalizers(self, query: Tensor) -> bool:
        """Whether `read` has a use for the row normalisers of a layer, if its attention op returns them."""
        return False

    def read(
        self, query: Tensor, key: Tensor, scale: float, mask: Tensor | None, normalizers: Tensor | None
    ) -> None:
        """A layer: queries, keys and mask as in `capacity_from_qk`; normalizers (B, Hq, T), where they are known."""
        _each_tile(query, key, scale, mask, self.add)
        self.end_layer()

    @abstractmethod
    def add(self, rows: slice, start: int, probabilities: Tensor) -> None:
        """A tile: probabilities (b, H, n, start + n) of queries start to start + n - 1 in `rows`."""

    def end_layer(self) -> None:
        """Called after the last tile of each layer."""
        return

    @abstractmethod
    def finish(self, padded: bool) -> Any:
        """The result, after the last layer. padded: whether pads may have left something behind."""


class MeanMap(Reading):
    """The mean over heads and layers, (B, T, T) float32; rows and columns of pads exactly 0.

    dense_tokens: the longest sequence whose map is held; a longer one gives a `BlockedCapacity`.
    Raises CreditError where the map does not fit into the memory that is free.
    """

    fills: ClassVar[str] = "capacity"

    def __init__(self, dense_tokens: int = DENSE_TOKENS) -> None:
        self._dense_tokens = dense_tokens

    def begin(self, token: Tensor, layers: int) -> None:
        batch, length = token.shape
        self._token, self._weight = token, 1.0 / layers
        self._layers: list[TracedLayer] = []
        self._blocked = length > self._dense_tokens
        if not self._blocked:
            _check_room(4 * batch * length * length, token)
            self.map = torch.zeros(batch, length, length, dtype=torch.float32, device=token.device)

    def wants_normalizers(self, query: Tensor) -> bool:
        return query.is_cuda or query.shape[2] > self._dense_tokens

    def read(
        self, query: Tensor, key: Tensor, scale: float, mask: Tensor | None, normalizers: Tensor | None
    ) -> None:
        # On the CPU a softmax is as fast as what the normalisers would save, and rounds less.
        if not self.wants_normalizers(query):
            super().read(query, key, scale, mask, normalizers)
            return
        if normalizers is None:
            normalizers = row_normalizers(query, key, scale, mask)
        layer = TracedLayer(query, key, normalizers, scale, mask)
        if self._blocked:
            self._layers.append(layer)
        else:
            everything = slice(0, query.shape[2])
            add_head_mean(self.map, layer, everything, everything, self._weight)

    def add(self, rows: slice, start: int, probabilities: Tensor) -> None:
        heads, end = probabilities.shape[1], probabilities.shape[3]
        self.map[rows, start:end, :end] += probabilities.sum(1).mul_(self._weight / heads)

    def finish(self, padded: bool) -> Tensor | BlockedCapacity:
        if self._blocked:
            return BlockedCapacity(self._token, self._layers)
        # Left pads see nothing, but right pads see the text before them: both are no part of the graph.
        if padded:
            pads = ~self._token
            self.map.masked_fill_(pads.unsqueeze(-1), 0.0).masked_fill_(pads.unsqueeze(-2), 0.0)
        return self.map


def _check_room(needed: int, token: Tensor) -> None:
    """Raises CreditError where a map of `needed` bytes for the tokens (B, T) exceeds the memory that is free."""
    if needed < _SMALL:
        return
    if token.is_cuda:
        held = torch.cuda.memory_reserved(token.device) - torch.cuda.memory_allocated(token.device)
        free = torch.cuda.mem_get_info(token.device)[0] + held
    else:
        free = psutil.virtual_memory().available
    if needed > free:
        batch, length = token.shape
        raise CreditError(
            f"the attention map of {batch} x {length} tokens takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
            f"free: take fewer sequences at once, or dense_tokens below {length}, where a method has it, to keep none"
        )


class Rollout(Reading):
    """Attention rollout (Abnar and Zuidema, 2020, arXiv 2005.00928), (B, T, T) float32; pads 0.

    The product over layers of (A + I) / 2 with the head-mean A, later layers to the left: entry [k, i] is the share
    of position i's input in position k after the last layer. Three maps of memory, one matrix product a layer.

    dense_tokens: the longest sequence whose product is held; a longer one gives a `BlockedRollout`.
    """

    fills: ClassVar[str] = "rollout"

    def __init__(self, dense_tokens: int = DENSE_TOKENS) -> None:
        self._dense_tokens = dense_tokens

    def begin(self, token: Tensor, layers: int) -> None:
        self._token = token
        self._layers: list[TracedLayer] = []
        self._blocked = token.shape[1] > self._dense_tokens
        self._product: Tensor | None = None
        if not self._blocked:
            self._layer = MeanMap(dense_tokens=token.shape[1])
            self._layer.begin(token, layers=1)

    def wants_normalizers(self, query: Tensor) -> bool:
        return query.is_cuda or query.shape[2] > self._dense_tokens

    def read(
        self, query: Tensor, key: Tensor, scale: float, mask: Tensor | None, normalizers: Tensor | None
    ) -> None:
        if self._blocked:
            if normalizers is None:
                normalizers = row_normalizers(query, key, scale, mask)
            self._layers.append(TracedLayer(query, key, normalizers, scale, mask))
            return
        self._layer.read(query, key, scale, mask, normalizers)
        self.end_layer()

    def add(self, rows: slice, start: int, probabilities: Tensor) -> None:
        self._layer.add(rows, start, probabilities)

    def end_layer(self) -> None:
        mixed = self._layer.map.mul_(0.5)
        mixed.diagonal(dim1=-2, dim2=-1).add_(0.5)
        with full_float32():
            self._product = mixed if self._product is None else torch.matmul(mixed, self._product)
        self._layer.begin(self._token, layers=1)

    def finish(self, padded: bool) -> Tensor | BlockedRollout:
        if self._blocked:
            return BlockedRollout(self._token, self._layers)
        assert self._product is not None
        if padded:
            pads = ~self._token
            self._product.masked_fill_(pads.unsqueeze(-1), 0.0).masked_fill_(pads.unsqueeze(-2), 0.0)
        return self._product


@dataclass(frozen=True)
class HeadVectors:
    """Per-head sums over attention, (B, H, T) float32 each; H counts the heads of all traced layers, layer by layer.

    All three are linear in the attention, so that heads can be chosen and averaged afterwards and no per-head map is
    ever kept (12 layers of 32 heads at 8,192 tokens: 12.6 MB each).

    reach: sum over s <= t of A[t, s] min(t - s, clip): WAAD of arXiv 2510.13554.
    distance: sum over s <= t of A[t, s] (t - s), the mean distance that position t looks back.
    influence: mean over t in [s + near, s + far] of A[t, s], as far as the sequence goes; 0 where it does not go to
        s + near: FAI of the same paper.
    """

    reach: Tensor
    distance: Tensor
    influence: Tensor


class HeadReading(Reading):
    """Reads `HeadVectors`, with the paper's windows in tokens."""

    fills: ClassVar[str] = "head_vectors"

    def __init__(self, clip: int, near: int, far: int) -> None:
        self._clip, self._near, self._far = clip, near, far

    def begin(self, token: Tensor, layers: int) -> None:
        self._token = token
        self._layers: list[tuple[Tensor, Tensor, Tensor]] = []
        self._current: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, rows: slice, start: int, probabilities: Tensor) -> None:
        _, heads, _, end = probabilities.shape
        device = probabilities.device
        if self._current is None:
            batch, length = self._token.shape
            reach, distance, influence = (torch.zeros(batch, heads, length, device=device) for _ in range(3))
            self._current = reach, distance, influence
        reach, distance, influence = self._current
        positions = torch.arange(end, device=device)
        gap = (positions[start:].unsqueeze(1) - positions).clamp(min=0).float()
        reach[rows, :, start:end] = (probabilities * gap.clamp(max=self._clip)).sum(-1)
        distance[rows, :, start:end] = (probabilities * gap).sum(-1)
        # Right pads look at the text before them, and are no future of it.
        band = ((gap >= self._near) & (gap <= self._far)) & self._token[rows, start:end].unsqueeze(-1)
        influence[rows, :, :end] += (probabilities * band.unsqueeze(1)).sum(2)

    def end_layer(self) -> None:
        assert self._current is not None
        self._layers.append(self._current)
        self._current = None

    def finish(self, padded: bool) -> HeadVectors:
        reach, distance, influence = (torch.cat(parts, dim=1) for parts in zip(*self._layers, strict=True))
        token = self._token
        positions = torch.arange(token.shape[1], device=token.device)
        last = torch.where(token, positions, -1).amax(1, keepdim=True)
        seen = (torch.minimum(positions + self._far, last) - (positions + self._near) + 1).clamp(min=0)
        influence = influence / seen.clamp(min=1).unsqueeze(1)
        keep = token.unsqueeze(1)
        return HeadVectors(reach * keep, distance * keep, influence * keep)


class Capture:
    """What one forward showed: read `capacity`, or `fields` for any reading, after the forward has run."""

    def __init__(self, layers: list[int], attention_mask: Tensor, reading: Reading) -> None:
        self._layers = layers
        self._token = attention_mask.bool()
        self._seen: set[int] = set()
        self._reading = reading
        self._result: Any = None
        self._beyond_window: list[tuple[int, Tensor]] = []
        #: Seconds spent in the tap, host clock.
        self.seconds = 0.0

    @property
    def fields(self) -> dict[str, Any]:
        """What was read, under the name of the CreditContext field that it fills."""
        missing = [layer for layer in self._layers if layer not in self._seen]
        if missing:
            raise CreditError(
                f"layers {missing} were never seen by the tap: run the forward inside it, and trace only layers that "
                "use attention (hybrid models: layers=[...])"
            )
        return {self._reading.fills: self._result}

    @property
    def capacity(self) -> Tensor | BlockedCapacity:
        """The mean over heads and traced layers, (B, T, T) float32; rows and columns of pads exactly 0.

        A tensor up to the `dense_tokens` of the reading, a map computed tile by tile beyond.
        """
        return self.fields[MeanMap.fills]

    def watch(self, layer: int | None, query: Tensor) -> Any:
        """A context around a layer's attention op, which gives a `_Normalizers` where they are wanted, else None."""
        wanted = layer in self._layers and self._reading.wants_normalizers(query)
        return _Normalizers() if wanted else nullcontext()

    def take(
        self,
        layer: int | None,
        query: Tensor,
        key: Tensor,
        scale: float,
        mask: Tensor | None,
        *,
        normalizers: Tensor | None = None,
        window: int | None = None,
    ) -> None:
        """Adds one layer, if it is traced. Queries, keys and mask as in `capacity_from_qk`.

        normalizers: (B, Hq, T), where they are known. window: what the layer says its mask shows of the past.
        """
        if layer is None or layer not in self._layers:
            return
        if layer in self._seen:
            raise CreditError(
                f"layer {layer} ran twice inside one tap: open it around one forward, without cache or generation, "
                "and close it before backward"
            )
        begin = time.perf_counter()
        batch, _, length, _ = query.shape
        if key.shape[2] != length or self._token.shape != (batch, length):
            raise CreditError(
                f"the tap reads whole sequences of shape {tuple(self._token.shape)}, "
                f"but a forward brought {batch} x {length} queries and {key.shape[2]} keys: no cache, no packing"
            )
        try:
            mask = _checked(mask, batch, length)
        except CreditError as error:
            raise CreditError(f"layer {layer} has {error}") from None
        if window is not None and window < length:
            self._check_window(layer, mask, length, window)
        if not self._seen:
            self._token = self._token.to(query.device)
            self._reading.begin(self._token, len(self._layers))
        if query.device != self._token.device:
            raise CreditError(
                f"layer {layer} runs on {query.device}, earlier ones on {self._token.device}: load the model onto one "
                "device, or trace only layers that share one"
            )
        self._reading.read(query.detach(), key.detach(), scale, mask, normalizers)
        self._seen.add(layer)
        if len(self._seen) == len(self._layers):
            for windowed, beyond in self._beyond_window:
                if bool(beyond):
                    raise CreditError(_MISMATCH.format(windowed))
            self._result = self._reading.finish(padded=mask is not None or not bool(self._token.all()))
        self.seconds += time.perf_counter() - begin

    def _check_window(self, layer: int, mask: Tensor | None, length: int, window: int) -> None:
        if mask is None:
            raise CreditError(_MISMATCH.format(layer))
        # Looked at after the last layer: a GPU is not waited for in the middle of a forward.
        self._beyond_window.append((layer, mask[:, :, -1, : length - window].any()))


_MISMATCH = (
    "layer {} has a sliding window, but its mask shows what lies before it: which of them holds is not known; "
    "use the masks that transformers makes for the model"
)


class _Normalizers(TorchDispatchMode):
    """Keeps the row log-sum-exp (B, Hq, T) float32 of the attention op inside, which chooses itself as ever.

    PyTorch's flash op always returns it, the memory-efficient one where gradients are recorded, others never or in
    other shapes: then `found` stays None.
    """

    _RETURN_IT = (
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: Tensor | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in self._RETURN_IT:
            length = args[0].shape[2]
            # The memory-efficient op rounds the length up to a multiple of 32.
            if output[1].ndim == 3 and output[1].shape[2] >= length:
                self.found = output[1][:, :, :length].detach()
        return output


_open: Capture | None = None

#: What some models add to their scores, under the names by which transformers passes it on.
_UNREAD = {"softcap": "a soft cap", "s_aux": "attention sinks", "position_bias": "a position bias"}


def _tapped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """transformers' sdpa attention, with a look at the queries and keys."""
    for name, meaning in _UNREAD.items():
        if options.get(name) is not None:
            raise CreditError(
                f"{type(module).__name__} adds {meaning} to its scores, which the tap does not read yet"
            )
    if torch.compiler.is_compiling():
        raise CreditError(
            "the tap cannot read compiled code: trace the model before torch.compile, or without it"
        )
    capture, layer = _open, getattr(module, "layer_idx", None)
    if capture is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[arg-type]
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if attention_mask is None and not causal:
        raise CreditError(
            f"{type(module).__name__} looks ahead of its own position: only causal decoders are traced"
        )
    scaling = options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)  # type: ignore[arg-type]
    with capture.watch(layer, query) as normalizers:
        output = sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[arg-type]
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings and norms may hand over float32; what the op read is that, rounded.
        rounded = torch.get_autocast_dtype(query.device.type)
        query, key = query.to(rounded), key.to(rounded)
    capture.take(
        layer,
        query,
        key,
        scale,
        attention_mask,
        normalizers=None if normalizers is None else normalizers.found,
        window=options.get("sliding_window"),  # type: ignore[arg-type]
    )
    return output


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
        if any(
            hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in model.modules()
        ):
            raise CreditError(
                f"{name} is compiled, and compiled code cannot be tapped: trace it without torch.compile"
            )
        if not inner._can_set_attn_implementation():
            raise CreditError(
                f"{name} does not use transformers' attention interface, so its attention cannot be tapped"
            )
        if not inner._supports_sdpa:
            raise CreditError(
                f"{name} has no sdpa attention in transformers, so that the tap does not know its scores"
            )
        if config._attn_implementation != "sdpa":
            raise CreditError(
                f"{name} runs {config._attn_implementation!r} attention, which cannot be tapped; "
                "load it with attn_implementation='sdpa'"
            )
        if getattr(config, "attn_logit_softcapping", None):
            raise CreditError(
                f"{name} soft-caps its attention scores, which sdpa does not do and the tap does not read"
            )
        if getattr(config, "num_hidden_layers", None) is None:
            raise CreditError(
                f"{name} has no num_hidden_layers in its configuration: only text decoders can be traced"
            )
        self._config = config
        self.layers = traced_layers(layers, config.num_hidden_layers)

    @contextmanager
    def open(self, attention_mask: Tensor, reading: Reading | None = None) -> Iterator[Capture]:
        """A context around exactly one forward of the sequences that `attention_mask` (B, T), 1 = token, describes.

        reading: what to keep of the attention, the mean map by default; a fresh one for every forward.

        Close it before backward: gradient checkpointing runs layers again there. The model's attention
        implementation is the tap's only inside. Closed paths, generation among them, never see it.
        """
        global _open
        if _open is not None:
            raise CreditError("another attention tap is open in this process; close it first")
        capture = Capture(self.layers, attention_mask, MeanMap() if reading is None else reading)
        self._config._attn_implementation = _NAME
        _open = capture
        try:
            yield capture
        finally:
            _open = None
            self._config._attn_implementation = "sdpa"
