"""The tap: the attention of a model's traced layers, read inside its own forward.

It sits where transformers dispatches attention (`AttentionInterface`), after rotary embeddings and query/key norms. It
calls the very function that the model would have called, so outputs are bit for bit those of an untapped forward, and
hands queries and keys of the traced layers to a reading (`readings.py`). No `output_attentions`, no per-head map, no
extra forward.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from flowtracer import seam
from flowtracer.blocked import BlockedCapacity
from flowtracer.errors import CreditError
from flowtracer.readings import MeanMap, Reading, checked_mask

Layers = str | Sequence[int]


def traced_layers(layers: Layers, total: int, attending: Sequence[int] | None = None) -> list[int]:
    """The layer indices that `layers` names in a model of `total` layers.

    "middle", "early" and "late" are thirds, floor(total/3) to floor(2 total/3) half-open for the middle one (the
    paper's choice, arXiv 2606.10646, section 4); "all"; "last", the last one; "15-25" is half-open too (the paper's
    tuned setting for 36 layers); a sequence of integers is itself. A third of a model of one or two layers has at
    least one layer. A name followed by "/5" means 5 of those layers, evenly spaced with both ends (all of them where
    there are fewer), as in the paper's predecessor (arXiv 2510.13554).

    attending: the layers that use attention, where others do not (hybrid models); names and thirds are of these, a
    range takes those inside it. Qwen3-Next of 12 layers attends in 3, 7 and 11: "middle" is 7.

    Raises CreditError for an unknown name, and for layers that the model does not have or that do not attend.
    """
    attending = range(total) if attending is None else attending
    if isinstance(layers, str):
        name, slash, count = layers.partition("/")
        chosen = _named_layers(name, total, attending)
        if slash:
            chosen = _spread(layers, count, chosen)
    else:
        chosen = sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= total:
        raise CreditError(
            f"layers {layers!r} do not fit a model of {total} layers, numbered 0 to {total - 1}"
        )
    if idle := sorted(set(chosen) - set(attending)):
        raise CreditError(
            f"layers {layers!r}: {', '.join(map(str, idle))} of this model use no attention; those that do are "
            f"{', '.join(map(str, attending))}"
        )
    return chosen


def _named_layers(name: str, total: int, attending: Sequence[int]) -> list[int]:
    thirds = {"early": (0, 1), "middle": (1, 2), "late": (2, 3), "all": (0, 3)}
    if name == "last":
        return [attending[-1]]
    if name in thirds:
        first, last = (int(Fraction(part * len(attending), 3)) for part in thirds[name])
        first = min(first, len(attending) - 1)
        return list(attending[first : max(last, first + 1)])
    first_text, dash, last_text = name.partition("-")
    if not (dash and first_text.isdecimal() and last_text.isdecimal()):
        raise CreditError(
            f"layers {name!r} unknown: use early, middle, late, all, last, '15-25', one of these and '/5' for five of "
            "them, or a list of integers"
        )
    inside = range(int(first_text), int(last_text))
    return [layer for layer in inside if layer in attending or layer >= total]


def _spread(layers: str, count: str, chosen: list[int]) -> list[int]:
    """`count` of the chosen layers, evenly spaced with both ends."""
    if not count.isdecimal() or int(count) < 1:
        raise CreditError(f"layers {layers!r}: what follows '/' is how many layers to take, 1 or more")
    steps, last = min(int(count), len(chosen)), len(chosen) - 1
    return [chosen[(2 * last * step + steps - 1) // (2 * max(steps - 1, 1))] for step in range(steps)]


class Capture:
    """The attention of one forward: read `capacity`, or `fields` for any reading, after the forward has run."""

    def __init__(
        self,
        layers: list[int],
        attention_mask: Tensor,
        reading: Reading,
        modules: Mapping[nn.Module, int] | None = None,
    ) -> None:
        self._layers = layers
        self._modules = {} if modules is None else modules
        self._token = attention_mask.bool()
        self._seen: set[int] = set()
        self._reading = reading
        self._result: Any = None
        self._unkept: list[tuple[Tensor, str]] = []
        #: Seconds spent in the tap, host clock.
        self.seconds = 0.0

    @property
    def fields(self) -> dict[str, Any]:
        """The reading, under the name of the CreditContext field that it fills."""
        missing = [layer for layer in self._layers if layer not in self._seen]
        if missing:
            raise CreditError(
                f"layers {missing} were never seen by the tap: run the forward of its model inside it, in the same "
                "thread and without torch.compile, or trace other layers"
            )
        return {self._reading.fills: self._result}

    @property
    def capacity(self) -> Tensor | BlockedCapacity:
        """The mean over heads and traced layers, (B, T, T) float32; rows and columns of pads exactly 0.

        A tensor up to the `dense_tokens` of the reading, a map computed tile by tile beyond.
        """
        return self.fields[MeanMap.fills]

    def layer_of(self, module: nn.Module) -> int | None:
        """The layer that an attention module of the tapped model belongs to; None for another model's."""
        return self._modules.get(module)

    def watch(self, layer: int | None, query: Tensor) -> Any:
        """A context around a layer's attention op, which gives a `_Normalizers` where they are wanted, else None."""
        wanted = layer in self._layers and self._reading.wants_normalizers(query)
        return _Normalizers() if wanted else nullcontext()

    def take(
        self,
        layer: int | None,
        query: Tensor,
        key: Tensor,
        scale: float,
        mask: Tensor | None,
        *,
        normalizers: Tensor | None = None,
        window: int | None = None,
    ) -> None:
        """Adds one layer, if it is traced. Queries, keys and mask as in `capacity_from_qk`.

        normalizers: (B, Hq, T), where they are known. window: what the layer says its mask shows of the past.
        """
        if layer is None or layer not in self._layers:
            return
        if layer in self._seen:
            raise CreditError(
                f"layer {layer} ran twice inside one tap: open it around one forward, without cache or generation, "
                "and close it before backward"
            )
        begin = time.perf_counter()
        batch, _, length, _ = query.shape
        if key.shape[2] != length or self._token.shape != (batch, length):
            raise CreditError(
                f"the tap reads whole sequences of shape {tuple(self._token.shape)}, "
                f"but a forward brought {batch} x {length} queries and {key.shape[2]} keys: no cache, no packing"
            )
        try:
            mask = checked_mask(mask, batch, length)
        except CreditError as error:
            raise CreditError(f"layer {layer} has {error}") from None
        self._check_mask(layer, mask, length, window)
        if not self._seen:
            self._token = self._token.to(query.device)
            self._reading.begin(self._token, len(self._layers))
        if query.device != self._token.device:
            raise CreditError(
                f"layer {layer} runs on {query.device}, earlier ones on {self._token.device}: load the model onto one "
                "device, or trace only layers that share one"
            )
        self._reading.read(query.detach(), key.detach(), scale, mask, normalizers)
        self._seen.add(layer)
        if len(self._seen) == len(self._layers):
            for unkept, message in self._unkept:
                if bool(unkept):
                    raise CreditError(message)
            self._result = self._reading.finish(padded=mask is not None or not bool(self._token.all()))
        self.seconds += time.perf_counter() - begin

    def _check_mask(self, layer: int, mask: Tensor | None, length: int, window: int | None) -> None:
        """Notes what a layer's mask must keep to. It is looked at after the last layer: a GPU is not waited for in the
        middle of a forward.
        """
        if mask is not None and length > 1:
            # The next token, and the last: whoever looks ahead sees one of them somewhere. Not the whole mask, which
            # is as large as the map.
            ahead = mask.diagonal(1, -2, -1).any() | mask[..., :-1, -1].any()
            self._unkept.append((ahead, f"layer {layer} {_LOOKS_AHEAD}"))
        if window is not None and window < length:
            if mask is None:
                raise CreditError(f"layer {layer} {_MISMATCH}")
            beyond = mask[:, :, -1, : length - window].any()
            self._unkept.append((beyond, f"layer {layer} {_MISMATCH}"))


_MISMATCH = (
    "has a sliding window, but its mask shows what lies before it: which of them holds is not known; "
    "use the masks that transformers makes for the model"
)
_LOOKS_AHEAD = "looks ahead of its own position: only causal decoders are traced"


class _Normalizers(TorchDispatchMode):
    """Keeps the row log-sum-exp (B, Hq, T) float32 of the attention op inside, which chooses itself as ever.

    PyTorch's flash op always returns it, the memory-efficient one where gradients are recorded, others never or in
    other shapes: then `rows` stays None.
    """

    _RETURN_IT = (
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
    )

    def __init__(self) -> None:
        super().__init__()
        self.rows: Tensor | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in self._RETURN_IT:
            length = args[0].shape[2]
            # The memory-efficient op rounds the length up to a multiple of 32.
            if output[1].ndim == 3 and output[1].shape[2] >= length:
                self.rows = output[1][:, :, :length].detach()
        return output


#: The capture that is open in this thread. A thread of its own starts without one: autograd's, in which gradient
#: checkpointing runs layers again, and another one's that traces another model.
_open: ContextVar[Capture | None] = ContextVar("flowtracer_open_tap", default=None)

#: Addends of some models to their scores, under the names by which transformers passes them on.
_UNREAD = {"softcap": "a soft cap", "s_aux": "attention sinks", "position_bias": "a position bias"}


def _tapped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """transformers' sdpa attention, with a look at the queries and keys of the model that is tapped in this thread."""
    # Nothing of the tap goes into compiled code; the capture then says that its layers were never seen.
    capture = None if torch.compiler.is_compiling() else _open.get()
    layer = None if capture is None else capture.layer_of(module)
    if capture is None or layer is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[arg-type]
    for name, meaning in _UNREAD.items():
        if options.get(name) is not None:
            raise CreditError(
                f"{type(module).__name__} adds {meaning} to its scores, which the tap does not read yet"
            )
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if attention_mask is None and not causal:
        raise CreditError(f"{type(module).__name__} {_LOOKS_AHEAD}")
    scaling = options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)  # type: ignore[arg-type]
    with capture.watch(layer, query) as normalizers:
        output = sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[arg-type]
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings and norms may hand over float32; what the op read is that, rounded.
        rounded = torch.get_autocast_dtype(query.device.type)
        query, key = query.to(rounded), key.to(rounded)
    capture.take(
        layer,
        query,
        key,
        scale,
        attention_mask,
        normalizers=None if normalizers is None else normalizers.rows,
        window=options.get("sliding_window"),  # type: ignore[arg-type]
    )
    return output


_registering = threading.Lock()
_open_taps = 0


@contextmanager
def _registered() -> Iterator[None]:
    """Stands in for transformers' sdpa function while any tap is open.

    Under its own name: models ask for the name, and some compute other attention under another one (the sparse
    attention of DeepSeek-V3.2 becomes dense). Threads without an open tap pass straight through.
    """
    global _open_taps
    with _registering:
        current = ALL_ATTENTION_FUNCTIONS["sdpa"]
        if current not in (sdpa_attention_forward, _tapped_attention):
            raise CreditError(
                "another function is registered as transformers' 'sdpa' attention, whose scores the tap does not know"
            )
        AttentionInterface.register("sdpa", _tapped_attention)
        _open_taps += 1
    try:
        yield
    finally:
        with _registering:
            _open_taps -= 1
            if not _open_taps:
                AttentionInterface.register("sdpa", sdpa_attention_forward)


class AttentionTap:
    """Reads the attention of a transformers decoder inside its own forward.

    model: any causal language model of transformers that dispatches attention through its attention interface and
        runs on `sdpa`; wrappers (PEFT, data parallelism) are looked through, and so is a model of text and images
        whose text decoder this is. layers: see `traced_layers`; of a hybrid model, those layers that attend.

    Raises CreditError for a model that cannot be tapped: one outside the attention interface, with another attention
    implementation than sdpa, with soft-capped scores, or with an encoder.
    """

    def __init__(self, model: nn.Module, layers: Layers = "middle") -> None:
        decoder = seam.text_decoder(model)
        self._modules = seam.attention_layers(decoder)
        self.layers = traced_layers(
            layers, decoder.config.num_hidden_layers, sorted(set(self._modules.values()))
        )

    @contextmanager
    def open(self, attention_mask: Tensor, reading: Reading | None = None) -> Iterator[Capture]:
        """A context around exactly one forward of the sequences that `attention_mask` (B, T), 1 = token, describes.

        reading: what to keep of the attention, the mean map by default; a fresh one for every forward.

        Close it before backward: gradient checkpointing runs layers again there. It is open in the thread that opened
        it. Closed paths, generation among them, other models and other threads never see it.
        """
        if _open.get() is not None:
            raise CreditError("another attention tap is open in this thread; close it first")
        capture = Capture(
            self.layers, attention_mask, MeanMap() if reading is None else reading, self._modules
        )
        with _registered():
            token = _open.set(capture)
            try:
                yield capture
            finally:
                _open.reset(token)
