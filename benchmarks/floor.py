"""The floor of credit on an H100, on paper: operations and bytes of tap and solves against the limits of the card.

python benchmarks/run.py floor writes results/floor.md. Per sequence of T tokens, L traced layers of H query heads and
G key heads of width D, in bfloat16:

map       2 D H products an entry and layer, one exponential a head; entries in whole tiles of the lower triangle.
          Memory: queries, keys and normalizers of each layer once, and the map's lower half read and written a layer.
          L2: each tile reads its queries and keys of every head; keys that several heads share once, where so built.
solves    two products of the map's lower half with a vector, 4 bytes an entry read each; before them the map's least
          and largest entry, two readings of it. Beyond `DENSE_TOKENS` every tile of the map is computed for each.
step      forward and backward with recomputed activations, 4 forwards' products (harness.plan): the update of one
          sequence without the optimizer.

The floor of a part is its slowest limit, as if all else were hidden behind it; the estimate adds the limits up, as if
nothing were, and takes the step at the share of the peak that `harness.plan` plans with. The truth lies between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import measure
from report import Report, Row, Table, figure

from flowtracer import traced_layers
from flowtracer.flow import BLOCK
from flowtracer.readings import DENSE_TOKENS
from harness.plan import UTILISATION
from harness.shapes import SHAPES, Shape

POLICIES = {
    "Qwen3-4B": SHAPES["Qwen/Qwen3-4B-Base"],
    "Qwen3-8B": SHAPES["Qwen/Qwen3-8B-Base"],
    # Source: its config.json on the Hugging Face hub. No single card holds its training; shares are the same on many.
    "Qwen3-32B": Shape(64, 5120, 25600, 64, 8, 128, 151936, False, 40960, True),
}
LENGTHS = tuple(1024 * 2**power for power in range(8))
#: The length of the goal, and the goal: credit as a share of a step. The paper reports 4.5%.
GOAL_TOKENS, GOAL = 8192, 0.015
#: Operations that a dense solve launches for each block of positions, and seconds of one that nothing hides: assumed.
LAUNCHES, LAUNCH = 18, 5e-6


@dataclass(frozen=True)
class Limits:
    """The limits of a card, a second: operations in bfloat16, bytes of its memory, exponentials, bytes of L2."""

    flops: float
    memory: float
    exponentials: float
    cache: float


#: H100 SXM. flops, memory: its data sheet. exponentials: 16 a clock on each of 132 multiprocessors (Shah et al. 2024,
#: arXiv 2407.08608, section 3.1). cache: assumed, near what microbenchmarks of the PCIe card read.
H100 = Limits(flops=989e12, memory=3.35e12, exponentials=3.9e12, cache=5.5e12)


@dataclass(frozen=True)
class Work:
    """Operations and bytes of a part."""

    flops: float = 0.0
    memory: float = 0.0
    exponentials: float = 0.0
    cache: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, name) + getattr(other, name) for name in LIMITS))

    def __mul__(self, factor: float) -> Work:
        return Work(*(getattr(self, name) * factor for name in LIMITS))

    def seconds(self, limits: Limits = H100) -> dict[str, float]:
        """Seconds by each limit on its own."""
        return {name: getattr(self, name) / getattr(limits, name) for name in LIMITS}

    def floor(self, limits: Limits = H100) -> float:
        """Seconds of the slowest limit."""
        return max(self.seconds(limits).values())

    def estimate(self, limits: Limits = H100) -> float:
        """Seconds of all limits, one after the other."""
        return sum(self.seconds(limits).values())


LIMITS = ("flops", "memory", "exponentials", "cache")


@dataclass(frozen=True)
class Design:
    """How the head mean is computed. shared: whether keys are read once for all heads that share them.

    traced: the layers, as `traced_layers` names them. half: bytes of a query's or key's number; product: its speed.
    """

    name: str
    rows: int = 128
    columns: int = 64
    shared: bool = False
    traced: str = "middle"
    half: int = 2
    product: float = 1.0


BUILT = Design("64 x 128, shared keys", 64, 128, shared=True)
DESIGNS = (
    Design("128 x 64, keys a head: as it was"),
    BUILT,
    Design("128 x 128, shared keys", 128, 128, shared=True),
    replace(BUILT, name="as built, queries and keys in fp8", half=1, product=2.0),
    replace(BUILT, name="as built, 5 layers of the middle third", traced="middle/5"),
)


def tiles(tokens: int, rows: int, columns: int) -> int:
    """Tiles of the lower triangle, diagonal included."""
    starts = range(0, tokens, rows)
    return sum(-(-min(start + rows, tokens) // columns) for start in starts)


def head_mean(shape: Shape, tokens: int, layers: int, design: Design = BUILT) -> Work:
    """The head mean of `layers` layers, a tile at a time, without where it goes."""
    count = layers * tiles(tokens, design.rows, design.columns)
    entries = count * design.rows * design.columns
    key_reads = shape.key_heads if design.shared else shape.heads
    a_tile = design.half * shape.head_width * (shape.heads * design.rows + key_reads * design.columns)
    read = design.half * (shape.queries + shape.keys) * tokens + 4 * shape.heads * tokens
    return Work(
        flops=2.0 * shape.queries * entries / design.product,
        memory=float(layers * read),
        exponentials=float(shape.heads * entries),
        cache=float(count * a_tile),
    )


def dense_map(shape: Shape, tokens: int, layers: int, design: Design = BUILT) -> Work:
    """The map of up to `DENSE_TOKENS` tokens: zeroed, then read and written a layer, its lower half."""
    return head_mean(shape, tokens, layers, design) + Work(memory=4.0 * tokens**2 + layers * 4.0 * tokens**2)


def solves(shape: Shape, tokens: int, layers: int, design: Design = BUILT) -> Work:
    """Both triangular solves: of a dense map, or of one whose tiles are computed for each."""
    lower = tokens * (tokens + 1) / 2
    reading = Work(flops=2.0 * lower, memory=4.0 * lower)
    if tokens <= DENSE_TOKENS:
        return reading * 2 + Work(memory=2 * 4.0 * tokens**2)
    strips = Work(memory=4.0 * lower + layers * 8.0 * lower)
    return (reading + strips + head_mean(shape, tokens, layers, design)) * 2


def credit(shape: Shape, tokens: int, design: Design = BUILT) -> dict[str, Work]:
    """Work of the tap and of the solves on the traced layers."""
    layers = len(traced_layers(design.traced, shape.layers))
    mapped = dense_map(shape, tokens, layers, design) if tokens <= DENSE_TOKENS else Work()
    return {"map": mapped, "solves": solves(shape, tokens, layers, design)}


def step(shape: Shape, tokens: int) -> Work:
    """Products of a training forward and backward with recomputed activations."""
    return Work(flops=4 * shape.forward(tokens))


def shares(shape: Shape, tokens: int, design: Design = BUILT) -> tuple[float, float]:
    """Credit as a share of the step: floor of floor, and estimate of the step as it is planned."""
    total = sum(credit(shape, tokens, design).values(), Work())
    whole = step(shape, tokens).floor()
    return total.floor() / whole, total.estimate() / (whole / UTILISATION)


def rows_of(measured: Mapping[tuple[str, int, str], float]) -> list[Row]:
    """Every policy and length. measured: seconds by (shape's name, tokens, part), parts as in `attention_only`."""
    result = []
    for policy, shape in POLICIES.items():
        for tokens in LENGTHS:
            parts = credit(shape, tokens)
            floor, estimate = shares(shape, tokens)
            result.append(
                {
                    "policy": policy,
                    "tokens": tokens,
                    "limits": {part: work.seconds() for part, work in parts.items()},
                    "step": step(shape, tokens).floor(),
                    "floor_share": floor,
                    "estimated_share": estimate,
                    "measured": {
                        part: measured.get((policy, tokens, part)) for part in ("map", "solves", "share")
                    },
                }
            )
    return result


def designs() -> list[Row]:
    """Each design at the length of the goal."""
    result = []
    for policy, shape in POLICIES.items():
        for design in DESIGNS:
            floor, estimate = shares(shape, GOAL_TOKENS, design)
            limits = credit(shape, GOAL_TOKENS, design)["map"].seconds()
            result.append(
                {
                    "policy": policy,
                    "design": design.name,
                    "limits": limits,
                    "floor_share": floor,
                    "estimated_share": estimate,
                }
            )
    return result


def run(settings: measure.Settings) -> Report:
    """The floor without measured columns."""
    return report({})


def report(measured: Mapping[tuple[str, int, str], float]) -> Report:
    """The floor beside what was measured."""
    rows = rows_of(measured)
    return Report(
        "floor",
        "The floor of credit on an H100",
        _text(rows),
        [Table(COLUMNS, rows), Table(DESIGN_COLUMNS, designs())],
    )


def _text(rows: list[Row]) -> list[str]:
    at_goal = [row for row in rows if row["tokens"] == GOAL_TOKENS]
    late = [row["policy"] for row in at_goal if row["estimated_share"] > GOAL]
    shares_there = "; ".join(
        f"{row['policy']} {row['floor_share']:.2%} and {row['estimated_share']:.2%}" for row in at_goal
    )
    launches = 1000 * 2 * LAUNCHES * LAUNCH * GOAL_TOKENS / BLOCK
    return [
        "Milliseconds of one sequence on one H100: 989e12 bfloat16 flop/s, 3.35e12 B/s of memory, 3.9e12 "
        "exponentials/s, and 5.5e12 B/s of L2, which are assumed. The middle third of the layers is traced. By each "
        "limit on its own: products, exponentials, L2, memory. Share of a step: the slowest limit of credit over the "
        "step at its peak, and all limits added up over the step at 40% of its peak.",
        f"At {GOAL_TOKENS} tokens, where the goal is {GOAL:.1%} (paper: 4.5%): {shares_there}. "
        + (f"For {', '.join(late)} the goal is not met on paper." if late else "The goal is met on paper."),
        "The designs. A tile of 128 rows and 64 columns that reads the keys of every head reads 5.9 bytes of L2 an "
        "entry and head, which made L2 the slowest limit. One of 64 rows and 128 columns that reads them once for the "
        "heads that share them reads 3.1, and two of its blocks fit a multiprocessor (`kernels.md`), so that one's "
        "exponentials run beside the other's products: this one is built. 128 x 128 reads less still, but one block of "
        "it fills a multiprocessor: `gpu.py` times both. fp8 would halve L2 and products, at the price of weights that "
        "no longer are those of the model's attention. Fewer layers cost in proportion, and are another credit: "
        '`layers = "middle/5"` is there for whoever needs the goal at 4B. The log-sum-exp comes from the attention op '
        "already. A fused pass cannot be had: the forward knows a row's normalizer only at its end, and the backward, "
        "which computes the same probabilities again, comes after credit is needed.",
        f"Beyond {DENSE_TOKENS} tokens every tile is computed for each of the two solves. A map of 64K tokens takes "
        "17 GB: where they are free, `dense_tokens = 65536` halves the cost.",
        "Not in these figures: launches and the latency of small solves. A dense solve makes about "
        f"{LAUNCHES} launches a block of {BLOCK} positions, {1e6 * LAUNCH:.0f} microseconds each where nothing hides "
        f"them: {launches:.1f} ms at {GOAL_TOKENS} tokens.",
    ]


def _milliseconds(seconds: Mapping[str, float]) -> str:
    return ", ".join(figure(1000 * seconds[name], 2) for name in ("flops", "exponentials", "cache", "memory"))


def _measured(part: str) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        value = row["measured"][part]
        if value is None:
            return "unmeasured"
        return f"{value:.2%}" if part == "share" else figure(1000 * value)

    return show


COLUMNS: dict[str, Callable[[Row], str]] = {
    "shape": lambda row: row["policy"],
    "tokens": lambda row: str(row["tokens"]),
    "map: products, exponentials, L2, memory, ms": lambda row: _milliseconds(row["limits"]["map"]),
    "map, measured": _measured("map"),
    "solves, the same, ms": lambda row: _milliseconds(row["limits"]["solves"]),
    "solves, measured": _measured("solves"),
    "step at its peak, ms": lambda row: figure(1000 * row["step"]),
    "share of a step": lambda row: f"{row['floor_share']:.2%} to {row['estimated_share']:.2%}",
    "share, measured": _measured("share"),
}
DESIGN_COLUMNS: dict[str, Callable[[Row], str]] = {
    "shape": lambda row: row["policy"],
    f"design, {GOAL_TOKENS} tokens": lambda row: row["design"],
    "map: products, exponentials, L2, memory, ms": lambda row: _milliseconds(row["limits"]),
    "share of a step": lambda row: f"{row['floor_share']:.2%} to {row['estimated_share']:.2%}",
}
