"""Memory of a training update on one small GPU: the plan of `harness.fits` beside a simulated allocator, or a real GPU.

The simulation runs the update itself, at its real shape, on tensors without values (torch's FakeTensorMode): every
storage that an operation makes is counted until nothing holds it. What operations take inside and give back, and what
an allocator wastes, is not seen. Two micro-batches make an update, and the second update counts: then gradients and
Adam's moments are there beside the activations.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import measure
import torch
from random_policy import log_probabilities, shaped, with_trainers_head
from report import Report, Row, Table, figure
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trl.kernels import chunked_logprob

from flowtracer import AttentionTap, solve_flow
from harness import experiment as experiments
from harness import fits
from harness.experiment import ADAMW, ADAMW_8BIT
from harness.fits import GB
from harness.plan import PROMPT
from harness.runs.settings import adapters_of
from harness.shapes import RATES, SHAPES, Device, Shape

EXPERIMENT, POLICY = "qwen3-0.6b", "Qwen/Qwen3-0.6B-Base"
#: Bytes of the GPU that the experiment is planned for.
CARD = 24e9


@dataclass(frozen=True)
class Variant:
    """How the policy is trained: LoRA's rank or 0 for all of it, and whether Adam keeps its moments in 8 bits."""

    name: str
    rank: int = 0
    eight_bit: bool = False
    checkpointing: bool = True


VARIANTS = (
    Variant("as declared: bfloat16 products, checkpointing"),
    Variant("without checkpointing", checkpointing=False),
    Variant("8-bit Adam", eight_bit=True),
    Variant("LoRA of rank 16", rank=16),
    Variant("LoRA of rank 16, 8-bit Adam", rank=16, eight_bit=True),
)


@dataclass(frozen=True)
class Update:
    """The sequences of a micro-batch, and their tokens."""

    rollouts: int
    prompt: int
    response: int

    @property
    def tokens(self) -> int:
        """Tokens of a sequence at its longest."""
        return self.prompt + self.response


#: As the experiment declares it, and as its plan takes it.
DECLARED = Update(rollouts=8, prompt=PROMPT, response=512)


class Allocator(TorchDispatchMode):
    """Counts the bytes of all storages made inside, as long as something holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for part in tree_leaves(output):
            if isinstance(part, Tensor):
                self._count(part.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()

        def free(_: object) -> None:
            if self._seen.pop(key, None) is not None:
                self.held -= size

        self._seen[key] = weakref.ref(storage, free)
        self.held += size
        self.peak = max(self.peak, self.held)

    def restart(self) -> None:
        """Forgets the peak so far."""
        self.peak = self.held


class EightBitAdam(torch.optim.Optimizer):
    """The memory of 8-bit Adam (Dettmers et al. 2022, arXiv 2110.02861) without its arithmetic: it moves nothing.

    Two moments of a byte a parameter, and a float32 scale for every 256 of each.
    """

    BLOCK = 256

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes the moments where they are not there yet."""
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None or self.state[parameter]:
                continue
            count = parameter.numel()
            for moment in ("first", "second"):
                self.state[parameter][moment] = torch.zeros(count, dtype=torch.uint8, device=parameter.device)
                scales = torch.zeros(-(-count // self.BLOCK), device=parameter.device)
                self.state[parameter][f"{moment}_scales"] = scales


def policy(variant: Variant, shape: Shape, device: str) -> nn.Module:
    """A random policy as the trainer trains it: float32, or adapters on frozen bfloat16."""
    model: Any = with_trainers_head(
        shaped(shape, torch.bfloat16 if variant.rank else torch.float32, "sdpa", device)
    )
    if not variant.checkpointing:
        model.gradient_checkpointing_disable()
    if variant.rank:
        from peft import get_peft_model

        declared = experiments.load(EXPERIMENT).training
        model.enable_input_require_grads()
        model = get_peft_model(model, adapters_of(replace(declared, lora_rank=variant.rank)))
    return model.train()


def without_values(model: nn.Module) -> None:
    """Gives a model on the meta device parameters and buffers of the mode that it is called in, on the CPU."""
    tied: dict[nn.Parameter, nn.Parameter] = {}

    def like(part: Tensor) -> Tensor:
        return torch.empty(part.shape, dtype=part.dtype, device="cpu")

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in tied:
                    tied[parameter] = nn.Parameter(like(parameter), parameter.requires_grad)
                module._parameters[name] = tied[parameter]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = like(buffer)


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Update, credit: Any, device: str
) -> None:
    """An update of two micro-batches. credit: a context around a forward of the mask that it is given."""
    ids = torch.ones(batch.rollouts, batch.tokens, dtype=torch.long, device=device)
    mask = torch.ones_like(ids)
    for _ in range(2):
        with torch.autocast(device, dtype=torch.bfloat16), credit(mask) as weigh:
            scores = log_probabilities(model, ids, mask)
        weights = weigh()
        (scores * weights[:, 1:]).mean().backward()
        del scores, weights, weigh
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def simulated_credit(mask: Tensor) -> Iterator[Callable[[], Tensor]]:
    """Flow's map, held from the forward to the weights: its values cannot be looked at where there are none."""
    rows, tokens = mask.shape
    held = [torch.zeros(rows, tokens, tokens, device=mask.device)]

    def weigh() -> Tensor:
        return held.pop().sum(-1)

    yield weigh


def real_credit(
    model: nn.Module, answer: int = 8
) -> Callable[[Tensor], AbstractContextManager[Callable[[], Tensor]]]:
    """Flow's credit by the tap."""

    @contextmanager
    def credit(mask: Tensor) -> Iterator[Callable[[], Tensor]]:
        position = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        source, sink = position < mask.shape[1] // 4, position >= mask.shape[1] - answer
        with AttentionTap(model).open(mask) as capture:
            yield lambda: solve_flow(capture.capacity, source, sink).throughput

    return credit


@contextmanager
def _gpus_head() -> Iterator[None]:
    """The head of TRL's trainer as on a GPU, where kernels work in the tiles that it gives them and make none."""
    with ExitStack() as stack:
        for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
            stack.enter_context(patch.object(chunked_logprob, name, lambda *parts, **options: None))
        yield


def simulated(variant: Variant, shape: Shape, batch: Update) -> float:
    """Bytes at the peak of the second update, counted on tensors without values."""
    model = policy(variant, shape, "meta")
    with FakeTensorMode(), _gpus_head(), Allocator() as allocator:
        without_values(model)
        trained = [part for part in model.parameters() if part.requires_grad]
        optimizer: torch.optim.Optimizer = (
            EightBitAdam(iter(trained)) if variant.eight_bit else torch.optim.AdamW(trained, foreach=False)
        )
        for _ in range(2):
            allocator.restart()
            update(model, optimizer, batch, simulated_credit, "cpu")
        return float(allocator.peak)


def on_gpu(variant: Variant, shape: Shape, batch: Update) -> float:
    """Bytes at the peak of the second update, as torch counts them on the GPU."""

    def run() -> float:
        model = policy(variant, shape, "cuda")
        trained = [part for part in model.parameters() if part.requires_grad]
        optimizer: torch.optim.Optimizer = (
            EightBitAdam(iter(trained)) if variant.eight_bit else torch.optim.AdamW(trained, fused=True)
        )
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            update(model, optimizer, batch, real_credit(model), "cuda")
        return float(torch.cuda.max_memory_allocated())

    return measure.apart(run)


def planned(variant: Variant, shape: Shape, batch: Update) -> dict[str, float]:
    """Bytes of each part by the plan of the experiment, of its flow arm."""
    experiment = experiments.load(EXPERIMENT)
    training = replace(
        experiment.training,
        micro_batch=batch.rollouts,
        max_response_tokens=batch.response,
        lora_rank=variant.rank,
        optimizer=ADAMW_8BIT if variant.eight_bit else ADAMW,
        gradient_checkpointing=variant.checkpointing,
    )
    device = Device("a GPU of 24 GB", "gpu", CARD, *RATES["RTX 4090"])
    return fits.memory(experiment, "flow", shape, batch.prompt, device, training)


def row(variant: Variant, shape: Shape, batch: Update, measured: bool) -> Row:
    """A variant's bytes: planned, simulated and, on a GPU, measured."""
    parts = planned(variant, shape, batch)
    training = {name: size for name, size in parts.items() if name not in ("process", "cache")}
    result: Row = {
        "variant": variant.name,
        "planned": sum(training.values()),
        "simulated": simulated(variant, shape, batch),
        "whole": fits.total(parts),
        "card": CARD,
    }
    if measured:
        result["measured"] = on_gpu(variant, shape, batch)
    return result


def run(settings: measure.Settings) -> Report:
    """All variants of the experiment for one GPU of 24 GB, planned and simulated; measured where there is a GPU."""
    rows = []
    for variant in VARIANTS[::4] if settings.smoke else VARIANTS:
        measure.progress(f"memory: {variant.name}")
        rows.append(row(variant, SHAPES[POLICY], DECLARED, measure.device() == "cuda"))
    text = [
        f"{EXPERIMENT}: micro-batches of {DECLARED.rollouts} sequences of {DECLARED.tokens} tokens, flow's credit. "
        "Planned: `harness.fits`, what one micro-batch holds beside weights, gradients and Adam. Simulated: the same "
        "update on tensors without values, every storage counted. Whole process: what the plan says at most, with "
        "CUDA's context and the cache of sampling, which other times need.",
    ]
    return Report("memory", "Memory of an update on one GPU of 24 GB", text, [Table(COLUMNS, rows)])


COLUMNS: dict[str, Callable[[Row], str]] = {
    "qwen3-0.6b": lambda row: row["variant"],
    "planned, GB": lambda row: figure(row["planned"] / GB),
    "simulated, GB": lambda row: figure(row["simulated"] / GB),
    "measured, GB": lambda row: figure(row["measured"] / GB) if "measured" in row else "unmeasured",
    "planned / simulated": lambda row: figure(row["planned"] / row["simulated"]),
    "whole process, GB": lambda row: figure(row["whole"] / GB),
    "fits 24 GB": lambda row: "yes" if row["whole"] <= row["card"] else "no",
}
