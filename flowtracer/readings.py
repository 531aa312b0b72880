"""Readings of the attention of a forward: the mean map, the attention rollout, or sums for each head.

A reading is fed the queries and keys of one layer after the other. It computes their probabilities a tile of queries
at a time (on CUDA by a Triton kernel), so that no map of a head is ever held. Beyond `DENSE_TOKENS` it keeps queries
and keys instead, from which `BlockedCapacity` computes any tile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import psutil
import torch
from torch import Tensor

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
    reading.read(query.detach(), key.detach(), scale, checked_mask(mask, batch, length), None)
    return reading.map


def checked_mask(mask: Tensor | None, batch: int, length: int) -> Tensor | None:
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
    """A reading of the attention of the traced layers: fed layer by layer, read after the forward."""

    #: The field of a CreditContext that the result fills.
    fills: ClassVar[str]

    @abstractmethod
    def begin(self, token: Tensor, layers: int) -> None:
        """Called once, with the boolean mask of real tokens (B, T) and the number of layers to come."""

    def wants_normalizers(self, query: Tensor) -> bool:
        """True if `read` has a use for the row normalisers of a layer, if its attention op returns them."""
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
