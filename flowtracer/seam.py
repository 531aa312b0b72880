"""The inside of transformers and TRL that FlowTracer relies on, under public names: nothing else in it knows theirs.

`reliances.py` lists every private name with its signature, those of the harness too; a test says which one moved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from flowtracer.errors import CreditError
from flowtracer.layout import Padded, Turn, turns_of

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Base
else:
    # TRL takes seconds to import, and who only inspects a model does not pay for it: the mixin stands before
    # GRPOTrainer among the bases of the trainer.
    _Base = object

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
    if (outer.tp_size or 1) > 1:
        raise CreditError(
            f"{name} is split over {outer.tp_size} processes by attention heads (tensor parallelism), and each sees "
            "its own only: load it without tp_plan, or take a credit method that reads no attention"
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


def end_tokens(model: nn.Module, tokenizer: Any) -> list[int]:
    """The tokens that end a response: the tokenizer's, and those at which the model stops to generate."""
    configured = getattr(getattr(unwrapped(model), "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, Sequence) else [configured]
    return sorted({int(token) for token in (tokenizer.eos_token_id, *several) if token is not None})


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


def learns_prompts(model: nn.Module) -> str | None:
    """The kind of PEFT adapter that puts learned vectors before the text (prompt and prefix tuning), or None."""
    config: Any = getattr(model, "active_peft_config", None)
    return str(config.peft_type) if getattr(config, "is_prompt_learning", False) else None


# ------------------------------------------------------------------------------------- TRL


@dataclass(frozen=True)
class Generated:
    """The generation of one process for one batch: token ids without pads, and the content that the reward sees.

    turns: of each response the parts that the policy wrote, see `layout.Turn`. texts: the last content of each.
    masks: of each response, 1 for each token that the policy wrote and 0 for others; None where it wrote all.
    """

    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    texts: list[str]
    turns: list[list[Turn]]
    masks: list[Sequence[int] | None]


@dataclass(frozen=True)
class LogprobPass:
    """A pass of TRL's over log-probabilities that is about to run.

    batch: its sequences. step: how many of them it takes at once, None for all. run: runs it over some of its rows and
    returns (log-probabilities (b, length), entropies (b, length) or None, ...); entropies if `entropies`.
    """

    batch: Padded
    step: int | None
    run: Callable[..., Any]

    def whole(self) -> Any:
        """The pass as TRL runs it."""
        return self.run(slice(None), step=self.step)

    def in_steps(self, visit: Callable[[slice], Any]) -> Any:
        """`visit` on each step's rows, one after the other, and what it returned joined as TRL joins its own chunks."""
        rows = len(self.batch.input_ids)
        step = self.step or rows
        outputs = [visit(slice(start, start + step)) for start in range(0, rows, step)]
        joined = [torch.cat(parts) if parts[0] is not None else None for parts in zip(*outputs, strict=True)]
        return tuple(joined)


class TrainerSeam(_Base):
    """The inside of TRL's GRPOTrainer under public names. TRL's long methods are called, never copied.

    A trainer overrides `generated`, `rewarded`, `roll_out`, `micro_batch_loss` and `logprob_pass`, each of which has
    TRL's own behaviour here.
    """

    # Declared as optional all the way down, and always there.
    args: Any
    model: Any
    _logs: Any
    _step: int

    def generated(self, generated: Generated) -> None:
        """Called after each generation, with what this process generated."""

    def rewarded(self, rewards: Tensor) -> None:
        """Called with the rewards (rows of all processes, reward functions), NaN where a function gave none."""

    def roll_out(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Generates and rewards a batch; the tensors that the loss will read."""
        return super()._generate_and_score_completions(rows)

    def micro_batch_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """The loss of a micro-batch."""
        return super()._compute_loss(model, inputs)

    def logprob_pass(self, passing: LogprobPass) -> Any:
        """Runs a pass over log-probabilities: of a micro-batch, of a generation batch by the old or another policy."""
        return passing.whole()

    # What TRL calls.

    def _generate(self, prompts: list[Any]) -> Any:
        output = super()._generate(prompts)
        prompt_ids, response_ids, tool_mask, completions = output[:4]
        masks = [None] * len(response_ids) if tool_mask is None else tool_mask
        texts, turns = [], []
        for ids, mask, completion in zip(response_ids, masks, completions, strict=True):
            text, parts = written(completion, mask, len(ids))
            texts.append(text)
            turns.append(parts)
        self.generated(Generated(prompt_ids, response_ids, texts, turns, masks))
        return output

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)
        self.rewarded(rewards)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return self.roll_out(inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        return self.micro_batch_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        batch = Padded(input_ids, attention_mask, logits_to_keep)
        return self.logprob_pass(self._pass(model, batch, batch_size, kwargs))

    def _pass(self, model: Any, batch: Padded, step: int | None, kwargs: dict[str, Any]) -> LogprobPass:
        def run(rows: slice, step: int | None = None, entropies: bool = False) -> Any:
            options = {**kwargs, "compute_entropy": True} if entropies else kwargs
            part = batch[rows]
            return super(TrainerSeam, self)._get_per_token_logps_and_entropies(
                model, part.input_ids, part.attention_mask, part.length, batch_size=step, **options
            )

        return LogprobPass(batch, step, run)

    # What a trainer asks of TRL.

    def pass_over(self, model: Any, batch: Padded, step: int | None) -> LogprobPass:
        """A pass of one's own over log-probabilities, `step` sequences at once."""
        return self._pass(model, batch, step, {})

    @contextmanager
    def without_checkpointing(self) -> Iterator[None]:
        """A context for forwards without gradient, in which gradient checkpointing would only warn."""
        from trl.models.utils import disable_gradient_checkpointing

        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            yield

    @property
    def text_tokenizer(self) -> Any:
        """The tokenizer, of a processor its own."""
        return self._tokenizer

    @property
    def trains_on_images(self) -> bool:
        """True if prompts may hold images."""
        return self._is_vlm

    @property
    def averages_tokens_away(self) -> bool:
        """True if one importance ratio a response (GSPO, LUSPO) averages token weights away."""
        return self.importance_sampling_level == "sequence"

    @property
    def normalizes_each_reward(self) -> bool:
        """True if rewards are normalised function by function before they are summed."""
        return self.multi_objective_aggregation == "normalize_then_sum"

    @property
    def splits_the_policy(self) -> bool:
        """True if a process holds a part of the policy only."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @property
    def passes_over_old_logprobs(self) -> bool:
        """True if TRL computes old log-probabilities, before any other forward over a generation batch."""
        every = self.args.steps_per_generation * self.num_iterations
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        return self.args.gradient_accumulation_steps % every != 0 or corrected

    @property
    def updates_per_batch(self) -> int | None:
        """Optimizer steps on one generation batch; None if a batch ends in the middle of one."""
        every = self.args.steps_per_generation * self.num_iterations
        whole, rest = divmod(every, self.args.gradient_accumulation_steps)
        return None if rest else whole

    @property
    def generates_next(self) -> bool:
        """True if the generation batch in training has fed its last update."""
        return self._step % (self.args.steps_per_generation * self.num_iterations) == 0

    @property
    def training_metrics(self) -> dict[str, list[float]]:
        """Numbers of the training since the last log, which shows their means."""
        return self._metrics["train"]

    @property
    def mean_entropy(self) -> float:
        """The mean entropy of the policy since the last log, in nats a token; NaN where TRL computed none."""
        entropies = self.training_metrics.get("entropy")
        return sum(entropies) / len(entropies) if entropies else math.nan

    @contextmanager
    def unlogged(self) -> Iterator[None]:
        """A context that leaves nothing in what is logged."""
        before = {name: list(values) for name, values in self.training_metrics.items()}
        try:
            yield
        finally:
            self.training_metrics.clear()
            self.training_metrics.update(before)

    def weighted(self, rewards: Tensor) -> list[float | None]:
        """The reward of each row of all processes, summed over functions as TRL weights them; None if none gave one."""
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        unscorable = rewards.isnan().all(1)
        pairs = zip(total.tolist(), unscorable.tolist(), strict=True)
        return [None if none else value for value, none in pairs]

    def logged_column(self, name: str, values: Iterable[Any]) -> None:
        """A column beside the logged completions: one value for each response of all processes, of every generation.

        TRL keeps the last so many of each column: one that leaves a generation out shows its values beside others.
        """
        self._logs["extra"][name].extend(values)

    def correct_for_another_sampler(self) -> None:
        """Has TRL correct for a sampler of one's own (a rollout function) as it corrects for its vLLM.

        Its own engine is never asked: what it would load before a generation, the rollout function does.
        """
        self.use_vllm = True
        self.vllm_generation: Any = SimpleNamespace(sync_weights=lambda: None)
        self._last_loaded_step = -1

    def before_checkpoint(self) -> None:
        """Called before a checkpoint is saved."""

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.before_checkpoint()
        super()._save_checkpoint(*args, **kwargs)


def written(completion: Any, mask: Sequence[int] | None, length: int) -> tuple[str, list[Turn]]:
    """The last content that the policy wrote in a completion of TRL's, and the parts of its tokens that it wrote.

    completion: text, or messages, of which the assistant's are the policy's. mask: 1 for each of its own tokens among
    `length`, or None for all.
    """
    turns = turns_of(mask, length)
    if isinstance(completion, str):
        return completion, turns if mask is not None else [Turn(0, length, completion)]
    messages = [message for message in completion if message.get("role") == "assistant"]
    contents = [_content(message) for message in messages]
    calls = [_calls(message) for message in messages]
    text = next((content for content in reversed(contents) if content), "")
    if len(messages) == len(completion) == 1 and mask is not None and not all(mask):
        # A rollout function's: one message says it all, what an environment answered too.
        return text, turns
    if len(turns) == 1:
        last = len(contents) - 1 if len(contents) == 1 or not text else contents.index(text)
        return text, [Turn(turns[0].start, turns[0].end, text, calls[last] if calls else ())]
    # One message a turn, in their order; what was cut off for its length has none.
    return text, [
        Turn(turn.start, turn.end, content, asked)
        for turn, content, asked in zip(turns, contents, calls, strict=False)
    ]


def _content(message: dict[str, Any]) -> str:
    """The text of a message; of several parts, theirs together."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def _calls(message: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Each call of a tool in a message as its name and the texts of its arguments that need no escaping."""

    def leaves(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for inner in value.values():
                yield from leaves(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from leaves(inner)
        else:
            plain = value if isinstance(value, str) else json.dumps(value)
            if json.dumps(plain, ensure_ascii=False)[1:-1] == plain:
                yield plain

    calls = []
    for call in message.get("tool_calls") or []:
        function = call.get("function", call)
        calls.append((str(function.get("name", "")), *leaves(function.get("arguments"))))
    return tuple(calls)
