"""The private names of transformers, TRL and vLLM that FlowTracer relies on: nothing else in it knows one.

`tests/flowtracer/test_seam.py` lists them with their signatures and says which one a new version moved.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from flowtracer.errors import CreditError

# ------------------------------------------------------------------------------------- transformers


def text_decoder(model: nn.Module) -> PreTrainedModel:
    """The decoder whose attention can be tapped: the model itself, or the text part of a model of text and images.

    Raises CreditError for a model that cannot be tapped, and says why.
    """
    outer = unwrapped(model)
    name = type(outer).__name__
    if any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in model.modules()):
        raise CreditError(
            f"{name} is compiled, and compiled code cannot be tapped: trace it without torch.compile"
        )
    config = outer.config.get_text_config(decoder=True)
    if getattr(outer.config, "is_encoder_decoder", False):
        raise CreditError(f"{name} has an encoder, which looks ahead: only causal decoders are traced")
    decoder = next(
        (part for part in outer.modules() if isinstance(part, PreTrainedModel) and part.config is config),
        outer,
    )
    if not decoder._can_set_attn_implementation():
        raise CreditError(
            f"{name} does not use transformers' attention interface, so its attention cannot be tapped"
        )
    if not decoder._supports_sdpa:
        raise CreditError(
            f"{name} has no sdpa attention in transformers, so that the tap does not know its scores"
        )
    if config._attn_implementation != "sdpa":
        raise CreditError(
            f"{name} runs {config._attn_implementation!r} attention, which cannot be tapped; "
            "load it with attn_implementation='sdpa'"
        )
    if getattr(config, "attn_logit_softcapping", None):
        raise CreditError(
            f"{name} soft-caps its attention scores, which sdpa does not do and the tap does not read"
        )
    if getattr(config, "num_hidden_layers", None) is None:
        raise CreditError(
            f"{name} has no num_hidden_layers in its configuration: only text decoders can be traced"
        )
    return decoder


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside wrappers (PEFT, data parallelism). Raises CreditError where there is none."""
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if inner is None:
        raise CreditError(
            f"{type(model).__name__} is no transformers model; use capacity_from_qk on its queries and keys"
        )
    return inner


def attention_layers(decoder: PreTrainedModel) -> dict[nn.Module, int]:
    """The attention modules of a decoder and the layer that each belongs to.

    Those that say whether they are causal: state-space and convolution layers of hybrid models, which have a
    `layer_idx` too, and the indexers of sparse attention do not.
    """
    modules = {
        module: module.layer_idx
        for module in decoder.modules()
        if isinstance(getattr(module, "layer_idx", None), int) and hasattr(module, "is_causal")
    }
    if not modules:
        raise CreditError(
            f"{type(decoder).__name__} has no layer whose attention the tap can read: "
            "take a credit method that reads none"
        )
    return modules  # type: ignore[return-value]
