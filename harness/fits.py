"""Memory of one process of a run, part by part: whether it fits, and what would where it does not.

Estimates from the shape of the policy, as in `harness.plan`, with every response at its longest: upper bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness import parallel
from harness.engines.base import BESIDE_TRAINING, BFLOAT16, VLLM
from harness.errors import ExperimentError
from harness.experiment import ADAMW, Experiment, Training
from harness.parallel import Split
from harness.sameness import method_of
from harness.shapes import Device, Shape

if TYPE_CHECKING:
    from harness.plan import Plan

#: Bytes that a process takes beside the model: CUDA's context and libraries; Python with torch and transformers.
PROCESS = {"gpu": 1.5e9, "cpu": 0.8e9}
#: Bytes of Adam's two moments for a parameter in 8 bits, with a float32 scale for each block of 256.
EIGHT_BIT = 2.0 * (1 + 4 / 256)
#: A rank to plan adapters with, where the experiment has none.
RANK = 16
#: The fused head of TRL 1.16 holds a tile of logits: so many tokens and so much of the vocabulary.
HEAD_TOKENS, HEAD_VOCABULARY = 4096, 32768
GB = 1e9


def memory(
    experiment: Experiment,
    label: str,
    shape: Shape,
    prompt: int,
    device: Device,
    training: Training | None = None,
    gpus: int | None = None,
    split: Split | None = None,
) -> dict[str, float]:
    """Bytes of each part of one process of a run, at their most; see `total`.

    training: what the arm trains, where not as declared. gpus: how many processes, one a GPU, share the run, and split:
    what of the policy they split between them; both by default as this process was launched. Each has an equal part of
    the rollouts. A layer is put together where it is computed on.

    Raises ExperimentError where rollouts cannot be dealt out to so many.
    """
    training = training or experiment.training_of(label)
    gpus = parallel.processes() if gpus is None else gpus
    split = parallel.split() if split is None else split
    bfloat16, adapted = experiment.policy.dtype == BFLOAT16, training.lora_rank > 0
    trained = shape.adapters(training.lora_rank) if adapted else shape.parameters
    length = prompt + training.max_response_tokens
    rollouts, micro = parallel.dealt(training, gpus)
    tokens = micro * length
    layer = tokens * _activations(shape, bfloat16)
    value = 2 if bfloat16 and adapted else 4
    inputs = shape.layers * tokens * shape.width * value
    weights = shape.parameters * value + 4.0 * trained * adapted

    def share(of: Split) -> float:
        """The share of it that each process holds."""
        return 1 / gpus if split >= of else 1.0

    parts = {
        "weights": weights * share(Split.PARAMETERS),
        "bfloat16 copies": 2.0 * shape.matrices if bfloat16 and not adapted else 0.0,
        "Adam": (8.0 if training.optimizer == ADAMW else EIGHT_BIT) * trained * share(Split.OPTIMIZER),
        "gradients": 4.0 * trained * _gradients(training, gpus, split) * share(Split.GRADIENTS),
        "activations": inputs + layer if training.gradient_checkpointing else shape.layers * layer,
        "head": 8.0 * min(tokens, HEAD_TOKENS) * min(shape.vocabulary, HEAD_VOCABULARY),
        "attention map": _attention_map(experiment, label, shape, micro, length),
    }
    # Keys are float32 where the weights are, whatever the products are computed in.
    key = 3 if bfloat16 and not adapted else value
    cache = 2.0 * key * shape.layers * shape.keys * length * rollouts
    if experiment.engine == VLLM:
        parts["engine"] = (
            BESIDE_TRAINING * device.memory if device.kind == "gpu" else 2.0 * shape.parameters + cache
        )
    else:
        parts["cache"] = cache
        if gpus > 1 and split is Split.PARAMETERS:
            # `parallel.generating` puts them together; of a whole bfloat16 policy these are the copies above.
            parts["weights, put together"] = (
                0.0 if bfloat16 and not adapted else float(value * shape.parameters)
            )
    parts["process"] = PROCESS[device.kind]
    return parts


def _gradients(training: Training, gpus: int, split: Split) -> int:
    """How many gradients of every parameter are held: uniform's too where the turn is measured, and with them the
    buckets that DDP reduces, which are no views of them (torch's DistributedDataParallel, `gradient_as_bucket_view`).
    """
    return 1 + (training.turn_every > 0) + (gpus > 1 and split is Split.NOTHING)


def _attention_map(experiment: Experiment, label: str, shape: Shape, micro: int, length: int) -> float:
    """Bytes of what the credit method reads of the attention in a micro-batch of sequences of so many tokens."""
    from flowtracer.attention import traced_layers
    from flowtracer.flow import BLOCK
    from flowtracer.readings import DENSE_TOKENS, TILE_ELEMENTS

    method = method_of(experiment, label)
    tile = 8.0 * min(TILE_ELEMENTS, micro * shape.heads * length**2)
    # Beyond, no map is held, but a strip of it; queries and keys wait for their backward anyway.
    columns = length if length <= getattr(method, "dense_tokens", DENSE_TOKENS) else BLOCK
    if "capacity" in method.needs:
        return 4.0 * micro * length * columns + tile
    if "rollout" in method.needs:
        return (12.0 if columns == length else 4.0) * micro * length * columns + tile
    if "head_vectors" in method.needs:
        traced = len(traced_layers(getattr(method, "layers", "middle"), shape.layers))
        return 12.0 * micro * traced * shape.heads * length + tile
    return 0.0


#: Parts that are there while the policy trains, and while it samples; the others stay.
TRAINING = ("gradients", "activations", "head", "attention map")
SAMPLING = ("cache", "weights, put together")


def total(parts: Mapping[str, float]) -> float:
    """The most that is held at once: what sampling needs, or what one training forward and backward needs."""
    training, sampling = (sum(parts.get(name, 0.0) for name in names) for names in (TRAINING, SAMPLING))
    staying = sum(size for name, size in parts.items() if name not in (*TRAINING, *SAMPLING))
    return staying + max(training, sampling)


def refuse(costs: Plan, workers: int = 1, served: bool = False) -> None:
    """Raises ExperimentError, with what would fit, where `workers` processes of the plan's runs do not.

    served: whether a server samples, on other memory than this.
    """
    device, experiment = costs.device, costs.experiment
    parts = costs.memory["as declared"]
    engine = parts.get("engine", 0.0)
    wanted, room = total(parts) - engine * served, device.memory / workers
    if wanted <= room:
        return
    ways = ["--workers 1"] if workers > 1 and wanted <= device.memory else []
    if engine and not served and wanted - engine <= room:
        ways.append(f"--server, with vLLM elsewhere ({(wanted - engine) / GB:.0f} GB)")
    ways += _ways(costs, room)
    shared = f" for {workers} processes at once" if workers > 1 else ""
    raise ExperimentError(
        f"experiment {experiment.name} does not fit here: the arm {costs.arm} needs {wanted / GB:.0f} GB, and "
        f"{device.name} has {device.memory / GB:.0f} GB{shared}; what would: {'; or '.join(ways)}"
    )


def _ways(costs: Plan, room: float) -> list[str]:
    """Changes that would make the plan fit into `room` bytes, or elsewhere; each is enough."""
    experiment, device, shape, arm = costs.experiment, costs.device, costs.shape, costs.arm
    declared = experiment.training_of(arm)
    ways = []
    rollouts, micro = parallel.dealt(declared, parallel.processes())
    smaller = [size for size in range(micro - 1, 0, -1) if rollouts % size == 0]
    changes: list[dict[str, Any]] = [{"gradient_checkpointing": True}]
    changes += [{"micro_batch": size} for size in smaller]
    changes += [{"gradient_checkpointing": True, "micro_batch": size} for size in smaller]
    adapted: list[dict[str, Any]] = [{"lora_rank": RANK}, {"lora_rank": RANK, "gradient_checkpointing": True}]
    adapted += [{**adapted[1], "micro_batch": size} for size in smaller]
    for options in (changes, [] if declared.lora_rank else adapted):
        for change in options:
            size = total(memory(experiment, arm, shape, costs.prompt, device, replace(declared, **change)))
            if size <= room:
                ways.append(f"training.{_named(change)} ({size / GB:.0f} GB)")
                break
    gpu, cheapest = costs.gpu, replace(declared, gradient_checkpointing=True)
    if experiment.engine != VLLM:  # which holds as much of the cache as there is room for
        paged = replace(experiment, engine=VLLM)
        for change in ({}, changes[0], adapted[1]):
            size = total(memory(paged, arm, shape, costs.prompt, gpu, replace(declared, **change), 1))
            if size <= (room if device.kind == "gpu" else gpu.memory):
                extra = f" with training.{_named(change)}" if change else ""
                ways.append(f'engine = "{VLLM}" on one {gpu.name}{extra} ({size / GB:.0f} GB)')
                break
    for gpus in (1, 2, 4, 8, 16, 32, 64):
        if gpus == 1 and device.kind == "gpu":
            continue
        if gpus > 1:  # the turn is measured in one process
            cheapest = replace(cheapest, turn_every=0)
        with suppress(ExperimentError):  # rollouts that cannot be dealt out to so many
            size = total(memory(experiment, arm, shape, costs.prompt, gpu, cheapest, gpus, Split.PARAMETERS))
            if size <= gpu.memory:
                many = f"{gpus} GPUs like the {gpu.name} by FSDP" if gpus > 1 else f"one {gpu.name}"
                no_turn = " and turn_every = 0" if gpus > 1 and declared.turn_every else ""
                ways.append(f"{many} with gradient_checkpointing{no_turn} ({size / GB:.0f} GB each)")
                break
    return ways or ["a smaller policy"]


def _named(change: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {str(value).lower()}" for key, value in change.items())


def variants(
    experiment: Experiment, arm: str, shape: Shape, prompt: int, device: Device
) -> dict[str, dict[str, float]]:
    """Memory of the arm, all parameters or adapters trained, with and without gradient checkpointing."""
    training = experiment.training_of(arm)
    sizes = {}
    for rank in (0, training.lora_rank or RANK):
        for again in (False, True):
            name = ("LoRA" if rank else "full") + (", checkpointing" if again else "")
            changed = replace(training, lora_rank=rank, gradient_checkpointing=again)
            sizes[name] = memory(experiment, arm, shape, prompt, device, changed)
    return sizes


def _activations(shape: Shape, bfloat16: bool) -> float:
    """Bytes of a layer that are kept for its backward, a token; without the attention matrix, as sdpa computes it."""
    channels = shape.queries + shape.keys
    if bfloat16:  # under autocast: norms in float32, products in bfloat16
        return 26 * shape.width + 8 * shape.inner + (10 if shape.normalised else 4) * channels
    return 24 * shape.width + 16 * shape.inner + (16 if shape.normalised else 8) * channels
