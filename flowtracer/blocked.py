"""The head mean of attention from queries, keys and row normalisers: any tile of it, and a map that is never whole.

A normaliser is the log-sum-exp of a row of scaled scores: with it, any entry of an attention map can be computed
again from one query and one key. Attention ops compute them for their own backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from flowtracer.errors import CreditError
from flowtracer.flow import blocks, full_float32

#: Scores of one tile held at once on the CPU, in elements: 2 MB of float32, which its cache holds.
TILE_ELEMENTS = 512 * 1024


@dataclass(frozen=True, eq=False)
class TracedLayer:
    """Queries, keys and mask that one layer's attention is computed from.

    query: (B, Hq, T, D); key: (B, Hkv, T, D), Hq a multiple of Hkv; normalizers: (B, Hq, T) float32; mask: None for
    plain causal attention, or boolean (B, 1, T, T), True = visible.
    """

    query: Tensor
    key: Tensor
    normalizers: Tensor
    scale: float
    mask: Tensor | None


class BlockedCapacity:
    """The mean over heads and layers, as a map (B, T, T) whose tiles are computed when they are asked for.

    It keeps each layer's queries, keys and normalisers, 2 (Hq + Hkv) D + 4 Hq bytes a token in half precision, and a
    reference to the mask that the model made. So memory grows with T. 128K tokens (131,072) of an 8B-shaped
    attention, 32 query heads and 8 key heads of width 128, are 2 (32 + 8) 128 x 131,072 = 1.34 GB of queries and keys
    a layer, 16.1 GB in 12 layers, and 0.2 GB of normalisers. `solve_flow` adds one strip of 512 rows, 0.27 GB. The
    dense map would be 68.7 GB. A padded batch adds the (B, 1, T, T) mask of its forward; one sequence has none.

    token: boolean (B, T), False for pads, whose rows and columns are exactly 0. Made by the tap for sequences longer
    than `attention.DENSE_TOKENS`; `capacity[row]` is one sequence of it, (T, T).
    """

    dtype = torch.float32

    def __init__(self, token: Tensor, layers: list[TracedLayer]) -> None:
        self._token, self._layers = token, layers
        self._batched = True

    @property
    def shape(self) -> torch.Size:
        """(B, T, T), or (T, T) for one sequence."""
        batch, length = self._token.shape
        return torch.Size((batch, length, length) if self._batched else (length, length))

    @property
    def device(self) -> torch.device:
        """Where queries and keys are, and tiles will be."""
        return self._token.device

    def __getitem__(self, row: int) -> BlockedCapacity:
        rows = slice(row, row + 1)
        single = BlockedCapacity(
            self._token[rows],
            [
                replace(
                    layer,
                    query=layer.query[rows],
                    key=layer.key[rows],
                    normalizers=layer.normalizers[rows],
                    mask=None if layer.mask is None else layer.mask[rows],
                )
                for layer in self._layers
            ],
        )
        single._batched = False
        return single

    def batch(self) -> BlockedCapacity:
        """One sequence as a batch of one, (1, T, T)."""
        return BlockedCapacity(self._token, self._layers)

    @torch.no_grad()
    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Entries (B, n, m) float32, or (n, m), of these rows and columns; 0 above the diagonal."""
        length = self._token.shape[1]
        rows, columns = (slice(*part.indices(length)[:2]) for part in (rows, columns))
        size = (len(self._token), rows.stop - rows.start, columns.stop - columns.start)
        out = torch.zeros(size, dtype=self.dtype, device=self.device)
        for layer in self._layers:
            add_head_mean(out, layer, rows, columns, 1.0 / len(self._layers))
        pads = ~self._token
        out.masked_fill_(pads[:, rows].unsqueeze(-1), 0.0).masked_fill_(pads[:, columns].unsqueeze(-2), 0.0)
        return out if self._batched else out[0]


class BlockedRollout:
    """Attention rollout whose matrix is never held: sums of its rows, from tiles of one layer after the other.

    A sum of rows of the product of (A + I) / 2 is one row times that product, last layer first; each step computes the
    tiles of a layer's head mean A once. Layers as `BlockedCapacity` keeps them, with the same memory; time grows with
    T squared, where the product of whole maps takes T cubed.

    token: boolean (B, T), False for pads, which no row's sum counts. layers: first layer first.
    """

    def __init__(self, token: Tensor, layers: list[TracedLayer]) -> None:
        self._token, self._layers = token, layers

    @torch.no_grad()
    def sum_of_rows(self, wanted: Tensor) -> Tensor:
        """For boolean `wanted` (B, T), the sum of those rows, (B, T) float32; 0 on pads."""
        sums = (wanted & self._token).to(torch.float32)
        for layer in reversed(self._layers):
            passed = torch.zeros_like(sums)
            for rows in blocks(wanted.shape[1]):
                if not bool(sums[:, rows].any()):
                    continue  # at the last layer, all but the answer's
                tile = sums.new_zeros(len(sums), rows.stop - rows.start, rows.stop)
                add_head_mean(tile, layer, rows, slice(0, rows.stop), 1.0)
                with full_float32():
                    passed[:, : rows.stop] += torch.matmul(sums[:, rows].unsqueeze(1), tile).squeeze(1)
            sums = (sums + passed) / 2
        return sums.masked_fill(~self._token, 0.0)


def add_head_mean(out: Tensor, layer: TracedLayer, rows: slice, columns: slice, weight: float) -> None:
    """Adds `weight` times the head mean of these rows and columns of a layer's attention to `out` (B, n, m).

    On CUDA by a Triton kernel, elsewhere by PyTorch, a few rows at a time.
    """
    if layer.query.is_cuda:
        kernels().add_head_mean(
            out,
            layer.query,
            layer.key,
            layer.normalizers,
            scale=layer.scale,
            mask=layer.mask,
            weight=weight,
            rows=rows,
            columns=columns,
        )
        return
    heads = layer.query.shape[1]
    step = _rows_a_tile(len(out), heads, columns.stop - columns.start)
    for start in range(rows.start, rows.stop, step):
        some = slice(start, min(start + step, rows.stop))
        chances = _scores(layer, some, columns).sub_(layer.normalizers[:, :, some].unsqueeze(-1)).exp_()
        # Pads see nothing and have no finite normaliser: what is hidden is set to 0 and not multiplied by it.
        chances.masked_fill_(_hidden(layer.mask, some, columns, out.device), 0.0)
        out[:, some.start - rows.start : some.stop - rows.start] += chances.sum(1).mul_(weight / heads)


def row_normalizers(query: Tensor, key: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """The normalisers (B, Hq, T) of a layer, where its attention op did not return them: one pass over its scores."""
    if query.is_cuda:
        return kernels().log_sum_exp(query, key, scale=scale, mask=mask)
    batch, heads, length, _ = query.shape
    normalizers = query.new_empty((batch, heads, length), dtype=torch.float32)
    layer = TracedLayer(query, key, normalizers, scale, mask)
    step = _rows_a_tile(batch, heads, length)
    for start in range(0, length, step):
        some = slice(start, min(start + step, length))
        seen = slice(0, some.stop)
        scores = _scores(layer, some, seen)
        scores.masked_fill_(_hidden(mask, some, seen, scores.device), float("-inf"))
        normalizers[:, :, some] = scores.logsumexp(-1)
    return normalizers


def kernels() -> ModuleType:
    """The Triton kernels. Raises CreditError where there is no triton."""
    try:
        from flowtracer.kernels import head_mean
    except ImportError as error:
        raise CreditError(
            f"tracing on a GPU needs triton, which torch's CUDA builds bring ({error}): pip install triton"
        ) from None
    return head_mean


def _rows_a_tile(batch: int, heads: int, columns: int) -> int:
    return max(16, TILE_ELEMENTS // max(1, batch * heads * columns))


def _scores(layer: TracedLayer, rows: slice, columns: slice) -> Tensor:
    """Scaled scores (B, Hq, n, m) float32."""
    batch, heads, _, width = layer.query.shape
    key_heads = layer.key.shape[1]
    queries = layer.query[:, :, rows].float() * layer.scale
    keys = layer.key[:, :, columns].float()
    # Heads that share their keys are one product.
    with full_float32():
        scores = torch.matmul(queries.reshape(batch, key_heads, -1, width), keys.transpose(-1, -2))
    return scores.view(batch, heads, rows.stop - rows.start, -1)


def _hidden(mask: Tensor | None, rows: slice, columns: slice, device: torch.device) -> Tensor:
    """The columns that these rows do not see, boolean (n, m) or (B, 1, n, m)."""
    after = torch.arange(columns.start, columns.stop, device=device) > torch.arange(
        rows.start, rows.stop, device=device
    ).unsqueeze(-1)
    return after if mask is None else after | ~mask[..., rows, columns]
