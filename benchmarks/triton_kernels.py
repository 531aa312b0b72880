"""The Triton kernels: their errors against float64, and what they take of a GPU's multiprocessor as compiled.

The first needs a GPU or triton's interpreter (TRITON_INTERPRET=1), the second needs neither: triton compiles for a GPU
that is not there, and its own ptxas and cuobjdump say what came out.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import torch
from random_policy import shaped
from report import Report, Row, Table, figure
from torch import Tensor

from flowtracer import AttentionTap
from flowtracer.blocked import TracedLayer
from flowtracer.readings import MeanMap
from harness.shapes import Shape

KERNELS = ("_log_sum_exp_kernel", "_head_mean_kernel")
#: What is compiled: dtype, width of the heads, compute capability. H100 and H200 are 90, A100 80.
COMPILED = [
    (dtype, width, capability)
    for capability in (80, 90)
    for dtype, width in (
        (torch.bfloat16, 64),
        (torch.bfloat16, 128),
        (torch.bfloat16, 256),
        (torch.float32, 128),
    )
]
#: Registers, threads and bytes of shared memory of a multiprocessor, by compute capability; a block can have all but
#: 1 KB of the memory. Source: CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability".
MULTIPROCESSOR = {80: (65536, 2048, 164 * 1024), 90: (65536, 2048, 228 * 1024)}
_UNIT_STRIDES = {
    "query_width_stride", "key_width_stride", "mask_column_stride", "normalizer_stride", "out_column_stride",
}  # fmt: skip


# ------------------------------------------------------------------------------------ errors


def errors(dtype: torch.dtype, shape: tuple[int, int, int, int], padded: bool) -> Row:
    """Largest errors of both kernels against float64. shape: query heads, key heads, tokens, width."""
    from flowtracer.kernels import head_mean

    heads, key_heads, tokens, width = shape
    device = "cpu" if head_mean.INTERPRETED else "cuda"
    generator = torch.Generator().manual_seed(0)
    query, key = (
        torch.randn(2, tokens, count, width, generator=generator).transpose(1, 2).to(device, dtype)
        for count in (heads, key_heads)
    )
    visible = torch.ones(2, 1, tokens, tokens, dtype=torch.bool, device=device).tril()
    if padded:
        visible[0, :, :7], visible[0, :, :, :7] = False, False
    scale, mask = width**-0.5, visible if padded else None
    normalizers, truth = _float64(query, key, scale, visible)
    out = torch.zeros(2, tokens, tokens, device=device)
    everything = slice(0, tokens)
    computed = head_mean.log_sum_exp(query, key, scale=scale, mask=mask)
    options = {"scale": scale, "mask": mask, "weight": 1.0, "rows": everything, "columns": everything}
    head_mean.add_head_mean(out, query, key, computed, **options)
    finite = normalizers.isfinite()
    return {
        "what": "kernels",
        "dtype": str(dtype).removeprefix("torch."),
        "shape": f"{heads}/{key_heads} heads of {width}, {tokens} tokens" + (", left pads" if padded else ""),
        "normalizers": float((computed.double() - normalizers)[finite].abs().max()),
        "map": float((out.double() - truth).abs().max()),
    }


def tap_errors(dtype: torch.dtype, tokens: int) -> Row:
    """The largest error of the tap's map through a small model in training, against float64 on what it read."""
    device = measure.device()
    model = shaped(Shape(3, 64, 96, 4, 2, 16, 64, True, 4096, True), dtype, "sdpa", device)
    ids = torch.randint(64, (2, tokens), generator=torch.Generator().manual_seed(1)).to(device)
    mask = torch.ones_like(ids)
    mask[1, : tokens // 8] = 0
    maps = []
    for dense_tokens in (tokens, tokens - 1):
        with AttentionTap(model, [1]).open(mask, MeanMap(dense_tokens)) as capture:
            model(input_ids=ids, attention_mask=mask, use_cache=False)
        maps.append(capture.capacity)
    dense, blocked = maps
    layer: TracedLayer = blocked._layers[0]
    visible = torch.ones(2, 1, tokens, tokens, dtype=torch.bool, device=device).tril()
    visible &= mask.bool()[:, None, :, None] & mask.bool()[:, None, None]
    _, truth = _float64(layer.query, layer.key, layer.scale, visible)
    everything = slice(0, tokens)
    return {
        "what": "tap",
        "dtype": str(dtype).removeprefix("torch."),
        "shape": f"a tiny model in training, {tokens} tokens, left pads",
        "map": float((dense.double() - truth).abs().max()),
        "blocked map": float((blocked.tile(everything, everything).double() - truth).abs().max()),
    }


def _float64(query: Tensor, key: Tensor, scale: float, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Row normalizers (B, Hq, T) and head mean (B, T, T) in float64."""
    keys = key.double().repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = (query.double() @ keys.transpose(-1, -2) * scale).masked_fill(~visible, float("-inf"))
    return scores.logsumexp(-1), scores.softmax(-1).masked_fill(~visible, 0.0).mean(1)


ERROR_COLUMNS: dict[str, Callable[[Row], str]] = {
    "what": lambda row: row["what"],
    "dtype": lambda row: row["dtype"],
    "shape": lambda row: row["shape"],
    "normalizers, error": lambda row: f"{row['normalizers']:.1e}" if "normalizers" in row else "–",
    "map, error": lambda row: f"{row['map']:.1e}",
    "blocked map, error": lambda row: f"{row['blocked map']:.1e}" if "blocked map" in row else "–",
}


# ------------------------------------------------------------------------------------ as compiled


def compiled(name: str, dtype: torch.dtype, width: int, capability: int, **changes: Any) -> Any:
    """A kernel as triton compiles it for 32 query and 8 key heads. changes: of tile sizes and launch options."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from flowtracer.kernels import head_mean

    function = getattr(head_mean, name)
    size = {**head_mean.blocks(dtype, width), **changes}
    options = {option: size.pop(option) for option in ("num_warps", "num_stages")}
    fixed = {"HEADS": 32, "GROUP": 4, "MASKED": True, "WIDTH": width, "UPCAST": False, **size}
    kinds = dict.fromkeys(("query", "key"), "*bf16" if dtype == torch.bfloat16 else "*fp32")
    kinds |= {"mask": "*u8", "normalizers": "*fp32", "out": "*fp32", "scale": "fp32", "weight": "fp32"}
    # As a launch specialises them: strides of 1 are known, those of queries and keys divide by 16, others need not.
    fixed |= {part.name: 1 for part in function.params if part.name in _UNIT_STRIDES}
    names = [part.name for part in function.params]
    signature = {name: "constexpr" if name in fixed else kinds.get(name, "i32") for name in names}
    aligned = [
        (index,)
        for index, name in enumerate(names)
        if signature[name].startswith("*") or re.match("(query|key)_.*stride", name)
    ]
    return compile(
        ASTSource(
            fn=function,
            signature=signature,
            constexprs={name: fixed[name] for name in names if name in fixed},
            attrs={index: [["tt.divisibility", 16]] for index in aligned},
        ),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )


def resources(name: str, dtype: torch.dtype, width: int, capability: int, **changes: Any) -> Row:
    """Registers a thread, spilled bytes, shared memory, and the blocks of a kernel that a multiprocessor holds."""
    import triton

    from flowtracer.kernels import head_mean

    kernel = compiled(name, dtype, width, capability, **changes)
    said = _cuobjdump(kernel.asm["cubin"])
    registers, local = (int(re.search(rf"{part}:(\d+)", said)[1]) for part in ("REG", "LOCAL"))  # type: ignore[index]
    stack = int(re.search(r"STACK:(\d+)", said)[1])  # type: ignore[index]
    threads = 32 * kernel.metadata.num_warps
    all_registers, all_threads, all_shared = MULTIPROCESSOR[capability]
    # A warp's registers are given out 256 at a time, and a block's shared memory with 1 KB of the system's.
    a_warp = -(-registers * 32 // 256) * 256
    holds = min(
        all_registers // (a_warp * threads // 32),
        all_threads // threads,
        all_shared // (kernel.metadata.shared + 1024),
    )
    size = {**head_mean.blocks(dtype, width), **changes}
    ptx = kernel.asm["ptx"]
    return {
        "kernel": name.strip("_").removesuffix("_kernel"),
        "triton": triton.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "width": width,
        "architecture": f"sm_{capability}",
        "tile": f"{size['BLOCK_ROWS']} x {size['BLOCK_COLUMNS']}",
        "warps": kernel.metadata.num_warps,
        "stages": size["num_stages"],
        "product": next((part for part in ("wgmma", "mma.sync") if part in ptx), "fma"),
        "registers": registers,
        "spilled": local + stack,
        "shared": kernel.metadata.shared,
        "blocks": holds,
    }


def _cuobjdump(cubin: bytes) -> str:
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


COLUMNS: dict[str, Callable[[Row], str]] = {
    "kernel": lambda row: row["kernel"],
    "for": lambda row: row["architecture"],
    "triton": lambda row: row["triton"],
    "dtype, width": lambda row: f"{row['dtype']}, {row['width']}",
    "tile": lambda row: f"{row['tile']}, {row['warps']} warps, {row['stages']} stages",
    "product": lambda row: row["product"],
    "registers a thread": lambda row: str(row["registers"]),
    "spilled, bytes": lambda row: str(row["spilled"]),
    "shared memory, KB": lambda row: figure(row["shared"] / 1024),
    "blocks on an SM": lambda row: str(row["blocks"]),
}


def run(settings: measure.Settings) -> Report:
    """The kernels' resources, compiled for A100 and H100."""
    rows = []
    for what in COMPILED[1::4] if settings.smoke else COMPILED:
        for name in KERNELS:
            measure.progress(f"kernels: {name}, {what}")
            rows.append(resources(name, *what))
    text = [
        "Compiled for 32 query heads and 8 key heads with a mask, on a machine without a GPU. Spilled: bytes of local "
        "memory and stack a thread, by cuobjdump; blocks: how many fit a multiprocessor by registers, threads and "
        "shared memory. `wgmma` are the matrix products of Hopper, `mma.sync` those of Ampere.",
    ]
    return Report("kernels", "What the kernels take of a multiprocessor", text, [Table(COLUMNS, rows)])
