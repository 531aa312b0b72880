"""The cost of credit inside a forward that takes place anyway, against the ways of getting it without the tap.

All on one sequence of random tokens, credit by flow over the middle third of the layers:

training step        forward and backward with every token's log-probability, without credit and the optimizer
plain forward        the decoder without its head: what the tap sits in
credit               tap and solves, as what they add to that forward
extra forward        a forward of its own, eager with output_attentions=True, and vectorised solves
extra forward, loops the same with Python loops for h and f, up to LOOPS tokens

On SmolLM2-135M without gradients, and on a GPU then on a random policy of the shape of LARGE, whose training step
recomputes activations; its forwards are those of training, with gradients recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import measure
import psutil
import torch
from random_policy import log_probabilities, shaped, with_trainers_head
from report import Report, Row, Table, figure, spread
from torch import Tensor

from flowtracer import AttentionTap, solve_flow, traced_layers
from harness.policy import SMOLLM2, load_policy
from harness.shapes import SHAPES

STEP, FORWARD, CREDIT = "training step", "plain forward", "credit"
EXTRA, LOOPED = "extra forward", "extra forward, loops"
METHODS = (STEP, FORWARD, CREDIT, EXTRA, LOOPED)
#: Python loops take minutes beyond so many tokens.
LOOPS = 512
#: Beyond so many tokens everything is measured once, and its first run counts: each takes a minute or more on a CPU.
REPEATED = 1024
ANSWER = 8
#: What is measured on a GPU beside SmolLM2: a shape that the paper trains. Its weights are random.
LARGE = "Qwen/Qwen3-4B-Base"
#: How far apart two ways to the same throughput may be, relative to its largest value.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass
class Case:
    """One policy and one sequence (1, T): the first quarter is the prompt, the last ANSWER tokens the answer."""

    policy: str
    tokens: int
    processor_time: bool
    attention: str = "sdpa"

    def __post_init__(self) -> None:
        torch.set_num_threads(1 if self.processor_time else measure.cores())
        device = measure.device()
        dtype = "bfloat16" if device == "cuda" else "float32"
        self.gradients = self.policy in SHAPES
        if self.gradients:
            self.model = shaped(SHAPES[self.policy], getattr(torch, dtype), self.attention, device)
        else:
            self.model = load_policy(self.policy, dtype=dtype, attention=self.attention).model.to(device)
        with_trainers_head(self.model)
        if (
            measure.stand_in
        ):  # its backward runs in threads that do not see it: nothing can be computed anew there
            self.model.gradient_checkpointing_disable()
        self.dtype = self.model.dtype
        self.decoder = self.model.get_decoder()
        config = self.model.config
        self.layers = traced_layers("middle", config.num_hidden_layers)
        if self.attention == "eager":
            self._check_room(config.num_hidden_layers * config.num_attention_heads)
        self.resize(self.tokens)

    def resize(self, tokens: int) -> None:
        """Another sequence, of `tokens` tokens."""
        generator = torch.Generator().manual_seed(tokens)
        ids = torch.randint(self.model.config.vocab_size, (1, tokens), generator=generator)
        self.ids = ids.to(self.model.device)
        self.mask = torch.ones_like(self.ids)
        position = torch.arange(tokens, device=self.ids.device).unsqueeze(0)
        self.source, self.answer = position < tokens // 4, position >= tokens - ANSWER

    def warm_up(self, function: Callable[[], object]) -> None:
        """Runs `function` on a short sequence, so that code and workspaces do not count as memory of the long one."""
        self.resize(2 * ANSWER)
        function()
        self.resize(self.tokens)

    def clock(self, function: Callable[[], object]) -> float:
        """Seconds that `function()` takes, of the clock or of the processor."""
        return measure.clock(function, self.processor_time)

    def _check_room(self, maps: int) -> None:
        needed = maps * self.tokens**2 * self.dtype.itemsize
        cuda = self.model.device.type == "cuda"
        free = torch.cuda.mem_get_info()[0] if cuda else psutil.virtual_memory().available
        if needed > 0.8 * free:
            raise MemoryError(f"not run: its attention maps need {needed / 1e9:.0f} of {free / 1e9:.0f} GB")

    def train(self) -> None:
        """Forward and backward of a training step."""
        log_probabilities(self.model, self.ids).mean().backward()
        self.model.zero_grad(set_to_none=True)

    def forward(self) -> None:
        """The forward that a step takes anyway, without the head, whose tiles would hide what credit needs."""
        with torch.set_grad_enabled(self.gradients):
            self.decoder(self.ids, use_cache=False)

    def forward_with_credit(self) -> tuple[Tensor, float]:
        """The same with the tap open, and the solves: throughput (T,), and seconds by the host's clock."""
        with self.tap.open(self.mask) as capture:
            self.forward()
        found: list[Tensor] = []
        seconds = self.clock(
            lambda: found.append(solve_flow(capture.capacity, self.source, self.answer).throughput)
        )
        return found[0][0], capture.seconds + seconds

    @torch.no_grad()
    def extra_forward(self, solve: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Throughput (T,) from a forward that returns its attention maps."""
        maps = self.decoder(self.ids, use_cache=False, output_attentions=True).attentions
        capacity = sum(maps[layer].float().mean(1) for layer in self.layers) / len(self.layers)
        return solve(capacity, self.source, self.answer)

    @property
    def tap(self) -> AttentionTap:
        """A tap on the traced layers."""
        return AttentionTap(self.model, self.layers)


def vectorised(capacity: Tensor, source: Tensor, answer: Tensor) -> Tensor:
    """Throughput (T,) by two triangular solves."""
    return solve_flow(capacity, source, answer).throughput[0]


def loops(capacity: Tensor, source: Tensor, answer: Tensor) -> Tensor:
    """Throughput (T,) by the recursions for h and f as written, node by node (arXiv 2606.10646, section 3)."""
    weight, starts, ends = capacity[0], source[0].tolist(), answer[0].tolist()
    length = len(weight)
    potential = torch.zeros(length, device=weight.device)
    for i in reversed(range(length)):
        if ends[i]:
            potential[i] = 1.0
            continue
        for k in range(i + 1, length):
            potential[i] += weight[k, i] * potential[k]
    reaching = [i for i in range(length) if starts[i] and potential[i] > 0]
    flow = torch.zeros(length, device=weight.device)
    for k in range(length):
        if starts[k] and potential[k] > 0:
            flow[k] += 1.0 / len(reaching)
        for i in range(k):
            if not ends[i] and potential[i] > 0:
                flow[k] += weight[k, i] * potential[k] / potential[i] * flow[i]
    return 2.0 * flow


def repeated(case: Case) -> bool:
    """True if the case is measured several times."""
    return case.ids.is_cuda or case.tokens <= REPEATED


def measure_step(policy: str, tokens: int, repeats: int, processor_time: bool) -> list[Row]:
    """The training step without credit, in this process."""
    case = Case(policy, tokens, processor_time)
    return [{"method": STEP, **_alone(case, case.train, repeats)}]


def measure_extra(policy: str, tokens: int, repeats: int, processor_time: bool, looped: bool) -> list[Row]:
    """An extra forward with its maps, in this process."""
    case = Case(policy, tokens, processor_time, attention="eager")
    found: list[Tensor] = []
    solve = loops if looped else vectorised
    row = {"method": LOOPED if looped else EXTRA}
    row |= _alone(case, lambda: found.append(case.extra_forward(solve)), repeats)
    return [{**row, "throughput": found[-1].tolist()}]


def _alone(case: Case, function: Callable[[], None], repeats: int) -> Row:
    """Seconds, and memory beyond the loaded policy. The first run of several is not timed."""
    case.warm_up(function)
    held = measure.restart_peak()
    first = case.clock(function)
    seconds = [case.clock(function) for _ in range(repeats)] if repeated(case) else [first]
    return {"seconds": measure.quartiles(seconds), "megabytes": measure.peak() - held}


def measure_credit(policy: str, tokens: int, repeats: int, processor_time: bool) -> list[Row]:
    """The plain forward, and what credit adds to it: forwards without and with credit in turns, in this process."""
    case = Case(policy, tokens, processor_time)
    case.warm_up(case.forward_with_credit)
    held = measure.restart_peak()
    forwards = [case.clock(case.forward)]
    forward_peak = measure.peak()
    measure.restart_peak()
    found: list[tuple[Tensor, float]] = []
    added = [case.clock(lambda: found.append(case.forward_with_credit())) - forwards[0]]
    throughput, clocks = found[0][0], [found[0][1]]
    extra = max(0.0, measure.peak() - forward_peak)
    if repeated(case):
        forwards, added, clocks = [], [], []
        for _ in range(repeats):
            forwards.append(case.clock(case.forward))
            added.append(case.clock(lambda: clocks.append(case.forward_with_credit()[1])) - forwards[-1])
    # Only the host's clock was read inside, which a GPU does not wait for.
    own = None if case.ids.is_cuda or processor_time else measure.quartiles(clocks)
    return [
        {"method": FORWARD, "seconds": measure.quartiles(forwards), "megabytes": forward_peak - held},
        {
            "method": CREDIT,
            "seconds": measure.quartiles(added),
            "megabytes": extra,
            "own_clock": own,
            "throughput": throughput.tolist(),
            "tolerance": TOLERANCE[case.dtype],
        },
    ]


def run(settings: measure.Settings) -> Report:
    """All methods at every length, each in a fresh process."""
    policies = ["decision" if settings.smoke else SMOLLM2]
    if measure.device() == "cuda" and not settings.smoke:
        policies.append(LARGE)
    lengths = [32, 64] if settings.smoke else []
    while not settings.smoke and 256 << len(lengths) <= settings.max_tokens:
        lengths.append(256 << len(lengths))
    found = [[row for tokens in lengths for row in at(policy, tokens, settings)] for policy in policies]
    kind = (
        "bfloat16 on the GPU"
        if measure.device() == "cuda"
        else f"float32, a thread a core ({measure.cores()})"
    )
    if settings.processor_time:
        kind = "float32, one thread, seconds of the processor and not of the clock, for the machine was busy"
    own_clock = (
        ""
        if settings.processor_time
        else " Beside them, what the tap and the solves took by their own clock, which other work disturbs "
        "less: on a CPU it is what the others are divided by."
    )
    text = [
        f"Policy {policies[0]}, {kind}, one sequence of random tokens. Seconds: median and quartiles of "
        f"{settings.repeats} repeated runs after one that is not counted, beyond {REPEATED} tokens one run; those of "
        f"credit are differences of forwards with and without it, taken in turns, and noise where they are hundredths."
        f"{own_clock}",
        "Memory: for credit, the peak of the forward with it less the peak without, and beside it how many float32 "
        "maps (T, T) that is, below 1 where the map fits under the forward's own peak; for all else, the peak beyond "
        "the loaded policy. Each training step and each extra forward in a process of its own, as are the pairs of "
        "credit.",
    ]
    if len(policies) > 1:
        text.append(
            f"The first tables are those of {policies[0]}, as is the plot; then come those of a random policy of the "
            f"shape of {LARGE}, whose training step recomputes activations."
        )
    tables = []
    for rows in found:
        growth = _growth(rows)
        tables += [Table(COLUMNS, rows), *([Table(GROWTH_COLUMNS, growth)] if growth else [])]
    return Report("credit", "What credit costs, by length", text, tables, partial(plot, found[0]))


def at(
    policy: str, tokens: int, settings: measure.Settings, record: Callable[[list[Row]], None] | None = None
) -> list[Row]:
    """The rows of one length. record: called with what is measured so far, after each method.

    Raises ValueError if two methods disagree about the throughput.
    """
    found: dict[str, Row] = {}
    rows: list[Row] = []
    what = (policy, tokens, settings.repeats, settings.processor_time)
    parts: list[tuple[str, Callable[[], list[Row]]]] = [
        (CREDIT, lambda: measure.apart(measure_credit, *what)),
        (STEP, lambda: measure.apart(measure_step, *what)),
        (EXTRA, lambda: measure.apart(measure_extra, *what, False)),
    ]
    if tokens <= LOOPS:
        parts.append((LOOPED, lambda: measure.apart(measure_extra, *what, True)))
    for method, part in parts:
        measure.progress(f"credit: {method}, {tokens} tokens")
        try:
            measured = part()
        except (MemoryError, torch.OutOfMemoryError) as error:
            measured = [{"method": method, "note": str(error).splitlines()[0]}]
        found |= {row["method"]: row for row in measured}
        rows = _together(found, policy, tokens)
        if record is not None:
            record(rows)
    return rows


def _together(found: dict[str, Row], policy: str, tokens: int) -> list[Row]:
    """The rows of what was measured at one length, held against each other; `found` is left as it is."""
    rows = {method: dict(row) for method, row in found.items()}
    rows.setdefault(LOOPED, {"method": LOOPED, "note": f"not run beyond {LOOPS} tokens"})
    credit, step = rows.get(CREDIT, {}), rows.get(STEP, {})
    cost = credit.get("own_clock") or credit.get("seconds")
    expected = credit.pop("throughput", None)
    for method in METHODS:
        row = rows.setdefault(method, {"method": method, "note": "not run"})
        row |= {"policy": policy, "tokens": tokens}
        throughput = row.pop("throughput", None)
        if throughput is not None and expected is not None:
            apart = max(abs(a - b) for a, b in zip(throughput, expected, strict=True)) / max(expected)
            if not apart <= credit["tolerance"]:
                raise ValueError(f"{method} at {tokens} tokens: its throughput is off by {apart:.1e}")
            row["difference"] = apart
        if "seconds" in row:
            median = (cost if method == CREDIT else row["seconds"])["median"]
            for name, base in (("of_step", step.get("seconds")), ("of_credit", cost)):
                if base is not None and base["median"] > 0:
                    row[name] = median / base["median"]
    return [rows[method] for method in METHODS]


def _note(row: Row) -> str:
    if row["method"] == CREDIT and "megabytes" in row:
        maps = f"{row['megabytes'] * 1e6 / (4 * row['tokens'] ** 2):.1f} maps"
        return f"own clock: {spread(row, 'own_clock')} s; {maps}" if row.get("own_clock") else maps
    if "difference" in row:
        return f"same throughput to {row['difference']:.0e}"
    return row.get("note", "")


COLUMNS: dict[str, Callable[[Row], str]] = {
    "tokens": lambda row: str(row["tokens"]),
    "what": lambda row: row["method"],
    "seconds (quartiles)": lambda row: spread(row, "seconds"),
    "of a training step": lambda row: f"{row['of_step']:.1%}" if "of_step" in row else "–",
    "times credit": lambda row: figure(row.get("of_credit")),
    "extra memory, MB": lambda row: figure(row.get("megabytes")),
    "": _note,
}
GROWTH_COLUMNS: dict[str, Callable[[Row], str]] = {
    "what": lambda row: row["method"],
    "tokens": lambda row: f"{row['from']} to {row['to']}",
    "seconds times": lambda row: figure(row["seconds"]),
    "memory times": lambda row: figure(row["megabytes"]),
}


def _growth(rows: list[Row]) -> list[Row]:
    """How each method grows over the last doubling at which it was measured."""
    growth = []
    for method in METHODS:
        measured = [row for row in rows if row["method"] == method and "seconds" in row]
        if len(measured) > 1:
            before, after = measured[-2:]
            first, last = before["seconds"]["median"], after["seconds"]["median"]
            growth.append(
                {
                    "method": method,
                    "from": before["tokens"],
                    "to": after["tokens"],
                    "seconds": last / first if first > 0 else None,
                    "megabytes": after["megabytes"] / before["megabytes"]
                    if before["megabytes"] > 0
                    else None,
                }
            )
    return growth


def plot(rows: list[Row], path: Path) -> None:
    """PATH-light.png and PATH-dark.png: seconds and memory by tokens, both axes logarithmic."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "scripts"))
    from style import bare, canvases  # that of all pictures of the documentation

    lengths = sorted({row["tokens"] for row in rows})
    for picture, theme in canvases(path, (10, 4), tight=False):
        picture.set_layout_engine("constrained")
        for axes, label in zip(picture.subplots(1, 2), ("seconds", "extra memory, MB"), strict=True):
            bare(axes, theme)
            for method in METHODS:
                measured = [row for row in rows if row["method"] == method and "seconds" in row]
                values = [_height(row, label) for row in measured]
                width = 3 if method == CREDIT else 1.5
                axes.loglog([row["tokens"] for row in measured], values, "o-", linewidth=width, label=method)
            axes.set_xticks(lengths, [str(length) for length in lengths])
            axes.minorticks_off()
            axes.tick_params(colors=theme.ink)
            axes.set_xlabel("tokens", color=theme.ink)
            axes.set_ylabel(label, color=theme.ink)
            axes.grid(alpha=0.3)
        handles = axes.get_legend_handles_labels()
        picture.legend(
            *handles, loc="outside lower center", ncols=len(METHODS), frameon=False, labelcolor=theme.ink
        )


def _height(row: Row, label: str) -> float:
    """A row's figure in the plot of `label`."""
    if label != "seconds":
        return row["megabytes"]
    # A difference of two forwards may be negative, which no such axis can show.
    return (row.get("own_clock") or row["seconds"])["median"]
