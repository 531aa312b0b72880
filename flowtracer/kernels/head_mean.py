"""The head mean of one layer's attention, from its queries and keys to one float32 map, without a map per head.

Two kernels: the log-sum-exp of each row, where the attention op did not return it, and the mean over heads with it.
Each tile of the map belongs to one program, which adds up the heads in their order: no atomics, the same bits every
time. Tiles above the diagonal are not computed. Products take bf16 and fp16 as they are and float32 without TF32;
everything is added up in float32.

The flow's two triangular solves need no kernel: `flow.solve_flow` leaves 512 positions at a time to cuBLAS, and what
lies between them is products of the map with a vector, which cuBLAS runs at the speed of memory. At 8K tokens that is
two readings of a 256 MB map and some 200 launches.
"""

# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from flowtracer.errors import CreditError

#: True if kernels run in triton's interpreter (TRITON_INTERPRET=1), where products of bf16 are silently wrong.
INTERPRETED: bool = triton.knobs.runtime.interpret

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _queries(
    query,
    rows,
    stride,
    width_stride,
    row_stop,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A tile of queries, (rows, width). query: where the head begins."""
    width = tl.arange(0, BLOCK_WIDTH)
    tile = tl.load(
        query + rows[:, None].to(tl.int64) * stride + width[None, :] * width_stride,
        mask=(rows[:, None] < row_stop) & (width[None, :] < WIDTH),
        other=0.0,
    )
    if UPCAST:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def _keys(
    key,
    columns,
    stride,
    width_stride,
    column_stop,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A tile of keys, (width, columns). key: where the head begins."""
    width = tl.arange(0, BLOCK_WIDTH)
    tile = tl.load(
        key + columns[None, :].to(tl.int64) * stride + width[:, None] * width_stride,
        mask=(columns[None, :] < column_stop) & (width[:, None] < WIDTH),
        other=0.0,
    )
    if UPCAST:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def _log_sum_exp_kernel(
    query,
    key,
    mask,
    normalizers,
    query_batch_stride,
    query_head_stride,
    query_stride,
    query_width_stride,
    key_batch_stride,
    key_head_stride,
    key_stride,
    key_width_stride,
    mask_batch_stride,
    mask_row_stride,
    mask_column_stride,
    length,
    scale,
    GROUP: tl.constexpr,
    MASKED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A program: the rows of one tile of queries, one head, one sequence."""
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    query += batch * query_batch_stride + head.to(tl.int64) * query_head_stride
    key += batch * key_batch_stride + (head // GROUP).to(tl.int64) * key_head_stride
    mask += batch * mask_batch_stride
    largest = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    queries = _queries(query, rows, query_stride, query_width_stride, length, WIDTH, BLOCK_WIDTH, UPCAST)
    for start in range(0, tl.minimum((tl.program_id(0) + 1) * BLOCK_ROWS, length), BLOCK_COLUMNS):
        columns = start + tl.arange(0, BLOCK_COLUMNS)
        keys = _keys(key, columns, key_stride, key_width_stride, length, WIDTH, BLOCK_WIDTH, UPCAST)
        scores = tl.dot(queries, keys, input_precision="ieee")
        visible = (columns[None, :] <= rows[:, None]) & (rows[:, None] < length)
        if MASKED:
            seen = rows[:, None].to(tl.int64) * mask_row_stride + columns[None, :] * mask_column_stride
            visible = visible & (tl.load(mask + seen, mask=visible, other=0) != 0)
        scores = tl.where(visible, scores * (scale * _LOG2_E), float("-inf"))
        highest = tl.maximum(largest, tl.max(scores, 1))
        # A row that has seen nothing yet stays at -inf, and -inf less -inf is no number.
        base = tl.where(highest == float("-inf"), 0.0, highest)
        total = total * tl.exp2(largest - base) + tl.sum(tl.exp2(scores - base[:, None]), 1)
        largest = highest
    place = (batch * tl.num_programs(1) + head) * length + rows
    tl.store(normalizers + place, (largest + tl.log2(total)) / _LOG2_E, mask=rows < length)


@triton.jit
def _head_mean_kernel(
    query,
    key,
    mask,
    normalizers,
    out,
    query_batch_stride,
    query_head_stride,
    query_stride,
    query_width_stride,
    key_batch_stride,
    key_head_stride,
    key_stride,
    key_width_stride,
    mask_batch_stride,
    mask_row_stride,
    mask_column_stride,
    normalizer_batch_stride,
    normalizer_head_stride,
    normalizer_stride,
    out_batch_stride,
    out_row_stride,
    out_column_stride,
    row_start,
    row_stop,
    column_start,
    column_stop,
    scale,
    weight,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    MASKED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A program: one tile of the map of one sequence, over all heads."""
    first_row = row_start + tl.program_id(1) * BLOCK_ROWS
    first_column = column_start + tl.program_id(0) * BLOCK_COLUMNS
    if first_column < tl.minimum(first_row + BLOCK_ROWS, row_stop):
        batch = tl.program_id(2).to(tl.int64)
        rows = first_row + tl.arange(0, BLOCK_ROWS)
        columns = first_column + tl.arange(0, BLOCK_COLUMNS)
        inside = (rows[:, None] < row_stop) & (columns[None, :] < column_stop)
        query += batch * query_batch_stride
        key += batch * key_batch_stride
        normalizers += batch * normalizer_batch_stride
        total = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
        for key_head in range(HEADS // GROUP):
            # Heads that share their keys read them once: from L2, this kernel reads more than it computes.
            keys = _keys(
                key + tl.full([], key_head, tl.int64) * key_head_stride, columns,
                key_stride, key_width_stride, column_stop, WIDTH, BLOCK_WIDTH, UPCAST,
            )  # fmt: skip
            for member in range(GROUP):
                index = tl.full([], key_head * GROUP + member, tl.int64)
                queries = _queries(
                    query + index * query_head_stride, rows,
                    query_stride, query_width_stride, row_stop, WIDTH, BLOCK_WIDTH, UPCAST,
                )  # fmt: skip
                base = tl.load(
                    normalizers + index * normalizer_head_stride + rows * normalizer_stride,
                    mask=rows < row_stop,
                    other=0.0,
                )
                scores = tl.dot(queries, keys, input_precision="ieee")
                total += tl.exp2(scores * (scale * _LOG2_E) - base[:, None] * _LOG2_E)
        # Once for all heads. What is hidden may be no number: rows that see nothing have no finite log-sum-exp.
        visible = inside & (columns[None, :] <= rows[:, None])
        if MASKED:
            seen = rows[:, None].to(tl.int64) * mask_row_stride + columns[None, :] * mask_column_stride
            visible = visible & (tl.load(mask + batch * mask_batch_stride + seen, mask=visible, other=0) != 0)
        total = tl.where(visible, total, 0.0)
        rows_out = (rows - row_start)[:, None].to(tl.int64) * out_row_stride
        columns_out = (columns - column_start)[None, :] * out_column_stride
        target = out + batch * out_batch_stride + rows_out + columns_out
        tl.store(target, tl.load(target, mask=inside, other=0.0) + total * weight, mask=inside)


#: Rows, columns, warps and pipeline stages of a tile by the width of heads up to which they serve. At most 96 KB of
#: shared memory, and hardly a register spilled: at width 128, four warps on 64 x 64 of float32 spill 9 KB a thread, at
#: width 64 four on 64 x 128 of bfloat16 1 KB. Two blocks of the tile at width 128 fit a multiprocessor, so that one's
#: exponentials run beside the other's products; what it reads of L2 is in benchmarks/results/floor.md.
_HALF = {64: (128, 64, 8, 2), 128: (64, 128, 4, 2), 256: (64, 32, 4, 2), 512: (64, 32, 8, 1)}
_FLOAT = {64: (64, 64, 8, 1), 128: (64, 32, 8, 1), 256: (32, 32, 8, 1), 512: (32, 16, 8, 1)}


def blocks(dtype: torch.dtype, width: int) -> dict[str, int]:
    """Tile sizes and launch options for queries of this dtype and head width. Raises CreditError beyond width 512."""
    padded = max(16, triton.next_power_of_2(width))
    sizes = _HALF if dtype in (torch.float16, torch.bfloat16) else _FLOAT
    serves = min((limit for limit in sizes if limit >= padded), default=None)
    if serves is None:
        raise CreditError(f"the kernels read attention heads up to {max(sizes)} wide, not {width}")
    rows, columns, warps, stages = sizes[serves]
    return {
        "BLOCK_WIDTH": padded,
        "BLOCK_ROWS": rows,
        "BLOCK_COLUMNS": columns,
        "num_warps": warps,
        "num_stages": stages,
    }


def log_sum_exp(query: Tensor, key: Tensor, *, scale: float, mask: Tensor | None) -> Tensor:
    """Log-sum-exp of each row of scores, (B, Hq, T) float32; -inf for rows that see nothing.

    query (B, Hq, T, D), key (B, Hkv, T, D), mask (B, 1, T, T) boolean or None as in `attention.capacity_from_qk`.
    """
    batch, heads, length, width = query.shape
    normalizers = torch.empty(batch, heads, length, dtype=torch.float32, device=query.device)
    if not normalizers.numel():
        return normalizers
    size = blocks(query.dtype, width)
    # Triton launches on the current GPU, which need not be the one that holds this layer.
    with torch.cuda.device_of(query):
        _log_sum_exp_kernel[(triton.cdiv(length, size["BLOCK_ROWS"]), heads, batch)](
            query,
            key,
            *_mask_and_strides(mask, normalizers)[:1],
            normalizers,
            *query.stride(),
            *key.stride(),
            *_mask_and_strides(mask, normalizers)[1:],
            length,
            scale,
            GROUP=heads // key.shape[1],
            MASKED=mask is not None,
            WIDTH=width,
            UPCAST=INTERPRETED,
            **size,
        )
    return normalizers


def add_head_mean(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    normalizers: Tensor,
    *,
    scale: float,
    mask: Tensor | None,
    weight: float,
    rows: slice,
    columns: slice,
) -> None:
    """Adds `weight` times the head mean of these rows and columns of one layer's attention to `out`, in place.

    out: (B, n, m) float32. query (B, Hq, T, D), key (B, Hkv, T, D), mask (B, 1, T, T) boolean or None as in
    `attention.capacity_from_qk`. normalizers: (B, Hq, T) float32, the log-sum-exp of each row of scaled scores.
    """
    batch, heads, _, width = query.shape
    if not out.numel():
        return
    size = blocks(query.dtype, width)
    grid = (
        triton.cdiv(columns.stop - columns.start, size["BLOCK_COLUMNS"]),
        triton.cdiv(rows.stop - rows.start, size["BLOCK_ROWS"]),
        batch,
    )
    with torch.cuda.device_of(query):
        _head_mean_kernel[grid](
            query,
            key,
            *_mask_and_strides(mask, normalizers)[:1],
            normalizers,
            out,
            *query.stride(),
            *key.stride(),
            *_mask_and_strides(mask, normalizers)[1:],
            *normalizers.stride(),
            *out.stride(),
            rows.start,
            rows.stop,
            columns.start,
            columns.stop,
            scale,
            weight / heads,
            HEADS=heads,
            GROUP=heads // key.shape[1],
            MASKED=mask is not None,
            WIDTH=width,
            UPCAST=INTERPRETED,
            **size,
        )


def _mask_and_strides(mask: Tensor | None, stand_in: Tensor) -> tuple[Any, ...]:
    """The mask as bytes, and its strides over batch, row and column; without one, a pointer that nothing reads."""
    if mask is None:
        return stand_in, 0, 0, 0
    as_bytes = mask.view(torch.uint8)
    return as_bytes, as_bytes.stride(0), as_bytes.stride(2), as_bytes.stride(3)
