"""Tap and solves on their own, on random queries and keys of a policy's attention: what `floor` predicts.

map           the head mean of every traced layer added to one dense map, with the log-sum-exp that the op returned
normalizers   the log-sum-exp of every traced layer, where the op returned none
solves        both triangular solves; beyond the dense lengths they compute every tile of the map twice

The rest of the policy is not there, so that sequences of 128K tokens fit beside nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from unittest.mock import patch

import measure
import torch
from report import Row, figure, spread
from torch import Tensor

from flowtracer import solve_flow, traced_layers
from flowtracer.blocked import TracedLayer, row_normalizers
from flowtracer.readings import DENSE_TOKENS, MeanMap
from harness.shapes import Shape

MAP, NORMALIZERS, SOLVES = "map", "normalizers", "solves"
PARTS = (MAP, NORMALIZERS, SOLVES)
ANSWER = 8


def traced(shape: Shape, tokens: int, dtype: torch.dtype, device: str) -> list[TracedLayer]:
    """Random queries and keys of the middle third of the layers of one sequence, as models lay them out."""
    generator = torch.Generator(device).manual_seed(0)
    layers = []
    for _ in traced_layers("middle", shape.layers):
        query, key = (
            torch.randn(1, tokens, heads, shape.head_width, generator=generator, dtype=dtype, device=device)
            .transpose(1, 2)
            for heads in (shape.heads, shape.key_heads)
        )  # fmt: skip
        scale = shape.head_width**-0.5
        layers.append(TracedLayer(query, key, row_normalizers(query, key, scale, None), scale, None))
    return layers


@torch.no_grad()
def measured(
    policy: str,
    shape: Shape,
    tokens: int,
    repeats: int,
    record: Callable[[Row], None],
    dense_tokens: int = DENSE_TOKENS,
) -> None:
    """Measures the parts at one length, and calls `record` with the row of each as it ends."""
    device = measure.device()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    layers = traced(shape, tokens, dtype, device)
    position = torch.arange(tokens, device=device).unsqueeze(0)
    source, answer = position < tokens // 4, position >= tokens - ANSWER
    readings: list[MeanMap] = []

    def read() -> None:
        readings[:] = []
        reading = MeanMap(dense_tokens)
        reading.begin(torch.ones(1, tokens, dtype=torch.bool, device=device), len(layers))
        for layer in layers:
            reading.read(layer.query, layer.key, layer.scale, None, layer.normalizers)
        readings.append(reading)

    def normalize() -> None:
        for layer in layers:
            row_normalizers(layer.query, layer.key, layer.scale, None)

    def solve() -> None:
        flow: Tensor = solve_flow(readings[0].finish(padded=False), source, answer).flow
        if not abs(float(flow[answer].sum()) - 1.0) < 1e-2:
            raise ValueError(f"{policy} at {tokens} tokens: the answer's flow is {float(flow[answer].sum())}")

    for part, function in ((MAP, read), (NORMALIZERS, normalize), (SOLVES, solve)):
        measure.progress(f"attention: {part}, {policy}, {tokens} tokens")
        held = measure.restart_peak()
        first = measure.clock(function)
        # What takes seconds is not run again: the first run's compilation is lost in them.
        seconds = [first] if first > 5 else [measure.clock(function) for _ in range(repeats)]
        record(
            {
                "policy": policy,
                "tokens": tokens,
                "layers": len(layers),
                "part": part,
                "seconds": measure.quartiles(seconds),
                "megabytes": measure.peak() - held,
                "held_megabytes": held,
            }
        )


COLUMNS: dict[str, Callable[[Row], str]] = {
    "policy's shape": lambda row: row["policy"],
    "tokens": lambda row: str(row["tokens"]),
    "what": lambda row: row["part"],
    "seconds (quartiles)": lambda row: spread(row, "seconds"),
    "extra memory, MB": lambda row: figure(row.get("megabytes")),
    "beside, MB": lambda row: figure(row.get("held_megabytes")),
}


def tile(
    shape: Shape, tokens: int, size: tuple[int, int, int, int], repeats: int, record: Callable[[Row], None]
) -> None:
    """Measures the head mean of one layer with another tile: rows, columns, warps, stages. Needs a GPU."""
    from flowtracer.kernels import head_mean

    rows, columns, warps, stages = size
    row: Row = {"tile": f"{rows} x {columns}, {warps} warps, {stages} stages"}
    one = Shape(1, *astuple(shape)[1:])
    (layer,) = traced(one, tokens, torch.bfloat16, measure.device())
    out = torch.zeros(1, tokens, tokens, device=measure.device())
    everything = slice(0, tokens)

    def add() -> None:
        options = {
            "scale": layer.scale,
            "mask": None,
            "weight": 1.0,
            "rows": everything,
            "columns": everything,
        }
        head_mean.add_head_mean(out, layer.query, layer.key, layer.normalizers, **options)

    chosen = {"BLOCK_ROWS": rows, "BLOCK_COLUMNS": columns, "num_warps": warps, "num_stages": stages}
    as_built = head_mean.blocks
    with patch.object(head_mean, "blocks", lambda *what: {**as_built(*what), **chosen}):
        try:
            add()
            row["seconds"] = measure.quartiles([measure.clock(add) for _ in range(repeats)])
        except Exception as error:  # one that the card cannot hold is a result too
            row["note"] = f"does not run: {str(error).splitlines()[0]}"
    record(row)
