"""Sizes of policies and devices, from which plans are made: no weights are read."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ExperimentError


@dataclass(frozen=True)
class Shape:
    """A decoder of transformers: its sizes, and what follows from them."""

    layers: int
    width: int
    inner: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    context: int
    #: True if queries and keys are normalised (Qwen3), which costs activations.
    normalised: bool

    @property
    def queries(self) -> int:
        """Channels of all query heads."""
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        """Channels of all key heads."""
        return self.key_heads * self.head_width

    @property
    def linear(self) -> int:
        """Parameters of the linear layers, the head left out: what adapters sit on."""
        attention = self.width * (2 * self.queries + 2 * self.keys)
        return self.layers * (attention + 3 * self.width * self.inner)

    @property
    def matrices(self) -> int:
        """Parameters that every token is multiplied with."""
        return self.linear + self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All of them."""
        norms = self.layers * (2 * self.width + (2 * self.head_width if self.normalised else 0)) + self.width
        return self.matrices + norms + (0 if self.tied else self.vocabulary * self.width)

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA adapters on every linear layer but the head."""
        sides = 2 * (self.width + self.queries) + 2 * (self.width + self.keys) + 3 * (self.width + self.inner)
        return self.layers * rank * sides

    def forward(self, tokens: int) -> float:
        """FLOPs of one sequence's forward."""
        return 2.0 * self.matrices * tokens + 2.0 * self.layers * self.queries * tokens**2


#: The policies that experiments name, for planning without a hub. Source: config.json of each on the Hugging Face hub.
#: Qwen3 is also in its technical report (arXiv 2505.09388), Llama 3.1 in 2407.21783.
SHAPES = {
    "Qwen/Qwen3-0.6B-Base": Shape(28, 1024, 3072, 16, 8, 128, 151936, True, 32768, True),
    "Qwen/Qwen3-1.7B-Base": Shape(28, 2048, 6144, 16, 8, 128, 151936, True, 32768, True),
    "Qwen/Qwen3-4B-Base": Shape(36, 2560, 9728, 32, 8, 128, 151936, True, 32768, True),
    "Qwen/Qwen3-8B-Base": Shape(36, 4096, 12288, 32, 8, 128, 151936, False, 32768, True),
    "meta-llama/Llama-3.2-3B": Shape(28, 3072, 8192, 24, 8, 128, 128256, True, 131072, False),
    "meta-llama/Llama-3.1-8B": Shape(32, 4096, 14336, 32, 8, 128, 128256, False, 131072, False),
    "smollm2-135m-instruct": Shape(30, 576, 1536, 9, 3, 64, 49152, True, 8192, False),
}


@dataclass(frozen=True)
class Device:
    """A device that computes. memory: bytes. flops: peak a second (GPUs: dense bfloat16; CPUs: reached, one thread).

    bandwidth: bytes a second. Sources of GPUs: their makers' data sheets. assumed: True where the last two are not
    known of this device.
    """

    name: str
    kind: str
    memory: float
    flops: float
    bandwidth: float
    assumed: bool = False


#: The device that hours are given for where there is no GPU, and the rates of devices that are known by words of their
#: names.
REFERENCE = Device("H100 of 80 GB", "gpu", 80e9, 989e12, 3.35e12)
RATES = {
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 1.9e12),
    "L40S": (362e12, 0.86e12),
    "RTX 4090": (165e12, 1.0e12),
    "A10G": (70e12, 0.6e12),
    "L4": (121e12, 0.3e12),
    "T4": (65e12, 0.3e12),
}
#: Words of a name with which it is another GPU, or a part of one.
OTHERS = ("Laptop", "MIG")
#: The share of the reference's rates that is assumed of a GPU that is not known.
ASSUMED = 1 / 4
#: One thread of a server CPU: float32 FLOPs a second that torch reaches on small matrices, and bytes a second.
CPU = (40e9, 10e9)


def shape_of(name: str) -> Shape:
    """The shape of the policy called `name`, from the table above or its configuration. Raises ExperimentError."""
    if name in SHAPES:
        return SHAPES[name]
    from transformers import AutoConfig

    from harness.policy import source_of

    try:
        config = AutoConfig.from_pretrained(source_of(name)).get_text_config()
        return Shape(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            config.vocab_size,
            bool(config.tie_word_embeddings),
            config.max_position_embeddings,
            config.model_type.startswith("qwen3"),
        )
    except (OSError, ValueError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExperimentError(
            f"policy {name} cannot be planned without its config.json: {reason}; go online once, or name a folder"
        ) from None


def rates_of(name: str) -> tuple[float, float] | None:
    """FLOPs and bytes a second of the GPU that calls itself so; None where it is not known."""
    words = re.split(r"[\s-]+", name)
    if any(word in words for word in OTHERS):
        return None
    # Whole words: an L40 is no L4, a GH200 no H200.
    known = (rates for part, rates in RATES.items() if f" {part} " in f" {' '.join(words)} ")
    return next(known, None)


def here() -> Device:
    """The GPU that runs would use, else this machine's CPU."""
    import torch

    if torch.cuda.is_available():
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
        if (rates := rates_of(name)) is not None:
            return Device(name, "gpu", memory, *rates)
        return Device(
            name, "gpu", memory, ASSUMED * REFERENCE.flops, ASSUMED * REFERENCE.bandwidth, assumed=True
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # what a container may take of it
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return Device("CPU, no GPU", "cpu", memory, *CPU)
