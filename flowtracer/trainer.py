"""Credit to the trainer: CreditGRPOTrainer, a thin subclass of TRL's GRPOTrainer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from flowtracer import credit as credit_methods
from flowtracer.attention import AttentionTap
from flowtracer.boxed import Boxed
from flowtracer.credit import CreditContext, CreditMethod
from flowtracer.credit.method import MAPS
from flowtracer.errors import CreditError
from flowtracer.spans import AnswerTask, decode, tokens_in

_ROLLOUT = "rollout_index"
_WEIGHTS = "credit_weights"
#: What a credit method can need that only a forward of the policy shows.
_FROM_FORWARD = MAPS | {"logprobs", "entropies"}


@dataclass
class RolloutBatch:
    """One generation batch of this process, row by row in the order in which it was generated.

    rows: the data set's rows, one a rollout, with what a rollout function added. prompt_ids, response_ids: token ids
    without pads. texts: responses without special tokens. rewards: None where unscorable. advantages: (B,). weights:
    (B, C) over the padded response, once computed. trainer_logprobs: (B, C) of the first training forward.
    abstentions: row -> reason. entropy: mean over response tokens.
    """

    rows: list[dict[str, Any]]
    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    texts: list[str]
    rewards: list[float | None]
    advantages: Tensor
    weights: Tensor
    trainer_logprobs: Tensor
    abstentions: dict[int, str]
    group: Tensor
    answer: list[list[int]]
    decisive: list[list[int]]
    source: list[list[int]] | None


class CreditGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer with token-level credit.

    credit: the name of a credit method, or a method from `flowtracer.credit.get(name, **options)`.
    task: where the answer of a response stands (`extract(text) -> (start, end) or None`) and, for the oracle methods,
        which tokens decide it (`decisive(text)`); any `tasks.Task` serves. Without one, the last `\\boxed{}` is it.
    Everything else is TRL's.

    The advantage of a response becomes a weight per token times the advantage, before TRL computes its loss. Where
    one rollout batch feeds one update, attention, log-probabilities and entropies are read inside the training forward
    itself, at no extra forward; else inside the pass that computes old log-probabilities, by the policy that wrote the
    responses. Either way the weights of a rollout are computed once. In the first case a response without an answer
    gets the mean weight of the other responses in its micro-batch, in the second that of the whole generation batch,
    over all processes either way. On several processes credit is that of one, but for methods that draw at random.

    Methods of group or batch scope see whole groups and batches, before micro-batches are made. One of them that needs
    a forward, where a generation batch is split over several micro-batches of one update, costs an extra forward
    without gradients; credit `gradient` costs an extra forward and backward.

    Refused with a CreditError: sequence-level importance ratios (GSPO, LUSPO), whose loss averages token weights away;
    image inputs; a policy whose attention cannot be tapped, where the method needs it; groups and batches that are
    spread over processes, where the method needs them whole; gradients through a sharded policy.
    """

    # Declared as optional all the way down, and always there.
    args: Any
    model: Any

    def __init__(
        self,
        *args: Any,
        credit: str | CreditMethod = "flow",
        task: AnswerTask | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.credit = credit_methods.get(credit) if isinstance(credit, str) else credit
        self.answer_task: AnswerTask = task if task is not None else Boxed()
        if self.importance_sampling_level == "sequence" and self.credit.name != "uniform":
            raise CreditError(
                f"credit {self.credit.name!r} has no effect with importance_sampling_level='sequence' (GSPO, LUSPO): "
                "one ratio a response averages token weights away; use 'token', or credit='uniform'"
            )
        if self._is_vlm:
            raise CreditError("CreditGRPOTrainer trains text policies; image inputs are not traced")
        self._check_whole()
        self._tap = None
        if self.credit.reading() is not None:
            if self.args.torch_compile:
                raise CreditError(
                    f"credit {self.credit.name!r} reads attention inside the forward, which torch.compile would "
                    "compile away; set torch_compile=False, or take a credit method that reads none"
                )
            self._tap = AttentionTap(self.model, getattr(self.credit, "layers", "middle"))
        self._reads_forward = bool(self.credit.needs & _FROM_FORWARD)
        #: The last generation batch, for records; None before the first.
        self.rollouts: RolloutBatch | None = None
        #: Seconds that credit took since the last generation began: tap, spans, solves and weights, host clock.
        self.credit_seconds = 0.0
        self._generated: tuple[list[list[int]], list[list[int]], list[str]] | None = None
        self._read: list[dict[str, Tensor]] | None = None
        self._loss_inputs: dict[str, Any] | None = None

    def _check_whole(self) -> None:
        """Raises CreditError where the method needs what no process sees."""
        name, scope = self.credit.name, self.credit.scope
        rows = self.args.per_device_train_batch_size * self.args.steps_per_generation
        if scope == "batch" and self.accelerator.num_processes > 1:
            raise CreditError(
                f"credit {name!r} judges a whole generation batch at once; train it in one process"
            )
        if scope == "group" and rows % self.num_generations:
            raise CreditError(
                f"credit {name!r} judges whole groups of {self.num_generations}, but a process generates {rows} "
                "responses; make per_device_train_batch_size * steps_per_generation a multiple of num_generations"
            )
        if "saliency" in self.credit.needs and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise CreditError(
                f"credit {name!r} needs gradients that FSDP and DeepSpeed do not give; train without them"
            )

    # Generation: remember what was generated and rewarded, and compute what needs no training forward.

    def _generate(self, prompts: list[Any]) -> Any:
        output = super()._generate(prompts)
        prompt_ids, response_ids, completions = output[0], output[1], output[3]
        texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
        self._generated = (prompt_ids, response_ids, texts)
        return output

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)
        self._rewards = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        self.credit_seconds = 0.0
        self._pending_rows = inputs
        # TRL's own condition for its pass over the old log-probabilities, which comes before any other forward.
        reused = (
            self.args.gradient_accumulation_steps % (self.args.steps_per_generation * self.num_iterations)
            != 0
        )
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        self._read = [] if self._reads_forward and (reused or corrected) else None
        output = super()._generate_and_score_completions(inputs)

        assert self._generated is not None
        prompt_ids, response_ids, texts = self._generated
        rows = len(texts)
        own = slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)
        weighted = (self._rewards * self.reward_weights.to(self._rewards.device)).nansum(1)
        unscorable = self._rewards.isnan().all(1)
        rewards = [None if none else float(value) for value, none in zip(weighted, unscorable, strict=True)][
            own
        ]
        device = output["completion_ids"].device
        positions = torch.arange(rows, device=device)
        begin = time.perf_counter()
        answer, decisive = self._spans(response_ids, texts)
        self.rollouts = RolloutBatch(
            rows=inputs,
            prompt_ids=prompt_ids,
            response_ids=response_ids,
            texts=texts,
            rewards=rewards,
            advantages=output["advantages"].clone(),
            weights=torch.ones_like(output["completion_mask"], dtype=torch.float32),
            trainer_logprobs=torch.full_like(output["completion_mask"], float("nan"), dtype=torch.float32),
            abstentions={},
            group=(positions + own.start) // self.num_generations,
            answer=answer,
            decisive=decisive,
            source=self._question_tokens(inputs, prompt_ids),
        )
        output[_ROLLOUT] = positions
        split = self.args.steps_per_generation > 1 and self.credit.scope != "response"
        if self._reads_forward and self._read is None and split:
            # No forward of TRL's shows the whole batch before its first micro-batch is trained on.
            self._read = []
            self._read_all(output)
        fields: dict[str, Tensor] = {}
        if self._read is not None:
            fields = {name: torch.cat([part[name] for part in self._read]) for name in self._read[0]}
        if "saliency" in self.credit.needs:
            fields["saliency"] = self._saliency(output)
        # The weights of uniform credit are 1 already: it costs what stock TRL costs.
        if self.credit.name != "uniform" and (not self._reads_forward or self._read is not None):
            width = output["prompt_ids"].shape[1]
            output[_WEIGHTS] = self._weigh(output, fields)[:, width:]
            output["advantages"] = output["advantages"].unsqueeze(1) * output[_WEIGHTS]
        self._read = None
        self.credit_seconds += time.perf_counter() - begin
        return output

    # The forward: read the attention, and weigh the advantages that the loss is about to read.

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._loss_inputs = inputs if self.model.training else None
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._loss_inputs = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        def forward(rows: slice) -> Any:
            return super(CreditGRPOTrainer, self)._get_per_token_logps_and_entropies(
                model, input_ids[rows], attention_mask[rows], logits_to_keep, **kwargs
            )

        inputs, every = self._loss_inputs, slice(None)
        if inputs is not None:
            if not self._reads_forward or _WEIGHTS in inputs:
                output = forward(every)
            else:
                output, fields = self._reading_forward(forward, every, attention_mask)
                begin = time.perf_counter()
                weights = self._weigh(inputs, fields)[:, -logits_to_keep:]
                inputs[_WEIGHTS] = weights
                inputs["advantages"] = inputs["advantages"].unsqueeze(1) * weights
                self.credit_seconds += time.perf_counter() - begin
            self._remember_logprobs(inputs, output[0])
            return output
        if self._read is None or self._read:
            # Not traced; or the reference policy's pass, which follows the traced one.
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs
            )
        assert self._generated is not None
        # Before rewards are known. Map by map, as TRL chunks this pass itself: a generation batch of maps is too much.
        if "entropies" in self.credit.needs:
            kwargs["compute_entropy"] = True
        _, response_ids, texts = self._generated
        answer, _ = self._spans(response_ids, texts)
        question = self._question_tokens(self._pending_rows, self._generated[0])
        outputs = []
        step = batch_size or len(input_ids)
        for start in range(0, len(input_ids), step):
            rows = slice(start, start + step)
            output, fields = self._reading_forward(forward, rows, attention_mask)
            outputs.append(output)
            begin = time.perf_counter()
            if self._tap is not None:
                context = self._context(
                    input_ids[rows],
                    attention_mask[rows],
                    logits_to_keep,
                    answer[rows],
                    None if question is None else question[rows],
                )
                for name, value in fields.items():
                    setattr(context, name, value)
                scores = self.credit.score(context)
                assert scores is not None
                fields = {name: value for name, value in fields.items() if name not in MAPS}
                fields["scores"] = scores
            self._read.append(fields)
            self.credit_seconds += time.perf_counter() - begin
        joined = [torch.cat(parts) if parts[0] is not None else None for parts in zip(*outputs, strict=True)]
        return tuple(joined)

    def _reading_forward(
        self, forward: Callable[[slice], Any], rows: slice, attention_mask: Tensor
    ) -> tuple[Any, dict[str, Any]]:
        """The output of a forward, and what the credit method needs of it under the names of context fields."""
        mask = attention_mask[rows]
        fields: dict[str, Any] = {}
        with nullcontext() if self._tap is None else self._tap.open(mask, self.credit.reading()) as capture:
            output = forward(rows)
        if capture is not None:
            fields = capture.fields
            self.credit_seconds += capture.seconds
        for name, values in (("logprobs", output[0]), ("entropies", output[1])):
            if name in self.credit.needs:
                fields[name] = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
                fields[name][:, -values.shape[1] :] = values.detach()
        return output, fields

    def _read_all(self, output: dict[str, Any]) -> None:
        """A forward over the generation batch for the credit method alone, as TRL's pass over old log-probabilities."""
        input_ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attention_mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        length = output["completion_ids"].shape[1]
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
        ):
            self._get_per_token_logps_and_entropies(
                self.model, input_ids, attention_mask, length, self.args.per_device_train_batch_size
            )

    def _saliency(self, output: dict[str, Any]) -> Tensor:
        """|gradient . embedding| of the answers' log-probabilities, (B, T) float32; 0 for a response without answer."""
        assert self.rollouts is not None
        input_ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attention_mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        length = output["completion_ids"].shape[1]
        context = self._context(input_ids, attention_mask, length, self.rollouts.answer, None)
        model = self.accelerator.unwrap_model(self.model)
        embedded: list[Tensor] = []

        def keep(module: Any, inputs: Any, vectors: Tensor) -> Tensor:
            embedded.append(vectors.requires_grad_())
            return vectors

        training = model.training
        handle = model.get_input_embeddings().register_forward_hook(keep)
        parts = []
        try:
            # Without dropout: it would draw from the global generator, and blur what is measured.
            model.eval()
            step = self.args.per_device_train_batch_size
            for start in range(0, len(input_ids), step):
                rows = slice(start, start + step)
                with torch.enable_grad():
                    logprobs = super()._get_per_token_logps_and_entropies(
                        model, input_ids[rows], attention_mask[rows], length
                    )[0]
                    answers = (logprobs * context.answer[rows, -length:]).sum()
                    (gradient,) = torch.autograd.grad(answers, embedded[-1])
                parts.append((gradient.float() * embedded.pop().detach().float()).sum(-1).abs())
        finally:
            handle.remove()
            model.train(training)
        return torch.cat(parts)

    # From rows to a CreditContext and its weights.

    def _weigh(self, inputs: dict[str, Any], fields: dict[str, Any]) -> Tensor:
        """Weights (b, T) of the rows in `inputs`, which may be a shuffled micro-batch of the generation batch.

        fields: what was read for them, by names of context fields.
        """
        batch = self.rollouts
        assert batch is not None
        members = inputs[_ROLLOUT].tolist()
        input_ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention_mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        length = inputs["completion_ids"].shape[1]
        context = self._context(
            input_ids,
            attention_mask,
            length,
            [batch.answer[row] for row in members],
            None if batch.source is None else [batch.source[row] for row in members],
        )
        device = input_ids.device
        for name, value in fields.items():
            setattr(context, name, value)
        context.advantage = batch.advantages[inputs[_ROLLOUT]]
        rewards = [batch.rewards[row] for row in members]
        context.reward = torch.tensor([float("nan") if r is None else r for r in rewards], device=device)
        context.group = batch.group[inputs[_ROLLOUT]]
        if "decisive" in self.credit.needs:
            context.decisive = self._mask(context, [batch.decisive[row] for row in members], length)
        if "pieces" in self.credit.needs:
            context.pieces = self._pieces(context, [batch.response_ids[row] for row in members], length)
        if "tool_mask" in inputs:
            context.response[:, -length:] &= inputs["tool_mask"].bool()
        context.generator = self._generator(members[0] if members else 0)
        if self.accelerator.num_processes > 1:
            context.over_processes = self.accelerator.reduce
        weights = self.credit(context)
        for row, reason in context.abstentions.items():
            batch.abstentions[members[row]] = reason
        batch.weights[inputs[_ROLLOUT]] = weights[:, -length:]
        kept = weights[context.response]
        self._metrics["train"]["credit/mean_weight"].append(float(kept.mean()) if len(kept) else 1.0)
        self._metrics["train"]["credit/abstained"].append(len(context.abstentions) / max(len(members), 1))
        return weights

    def _context(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        length: int,
        answer: Sequence[list[int]],
        source: Sequence[list[int]] | None,
    ) -> CreditContext:
        token = attention_mask.bool()
        in_response = torch.zeros_like(token)
        in_response[:, -length:] = True
        prompt = token & ~in_response
        context = CreditContext(input_ids, prompt, token & in_response, prompt, torch.zeros_like(token))
        context.answer = self._mask(context, answer, length)
        if source is not None:
            context.source = torch.zeros_like(token)
            for row, tokens in enumerate(source):
                # Prompts are left-padded: count from the first real token.
                first = int(token[row].to(torch.uint8).argmax())
                context.source[row, [first + position for position in tokens]] = True
        return context

    @staticmethod
    def _mask(context: CreditContext, tokens: Sequence[list[int]], length: int) -> Tensor:
        """Response token indices a row as a mask (b, T)."""
        width = context.response.shape[1]
        mask = torch.zeros(len(tokens), width, dtype=torch.bool)
        for row, positions in enumerate(tokens):
            mask[row, [width - length + position for position in positions]] = True
        return mask.to(context.response.device) & context.response

    def _pieces(
        self, context: CreditContext, response_ids: Sequence[list[int]], length: int
    ) -> list[list[str]]:
        """The text of each response token in its column, "" elsewhere."""
        width = context.response.shape[1]
        pieces = []
        for ids in response_ids:
            text, spans = decode(self._tokenizer, ids)
            own = [text[start:end] for start, end in spans]
            pieces.append([""] * (width - length) + own + [""] * (length - len(own)))
        return pieces

    def _spans(
        self, response_ids: Sequence[list[int]], texts: Sequence[str]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Token indices of answer and decisive spans in each response; empty where the method needs none."""
        answers: list[list[int]] = [[] for _ in texts]
        decisive: list[list[int]] = [[] for _ in texts]
        wants_answer = self._tap is not None or "saliency" in self.credit.needs
        wants_decisive = "decisive" in self.credit.needs
        if not (wants_answer or wants_decisive):
            return answers, decisive
        for row, (ids, text) in enumerate(zip(response_ids, texts, strict=True)):
            decoded, spans = decode(self._tokenizer, ids)
            # A chat parser may hand the reward a part of what was sampled, without the reasoning for one. The answer is
            # the one that the reward saw, found where that part stands among the sampled tokens.
            offset = decoded.rfind(text)
            if offset < 0:
                raise CreditError(
                    f"the reward saw {text[:60]!r} where the sampled tokens say {decoded[:60]!r}: "
                    "the answer cannot be located in a text that was changed after sampling"
                )
            if wants_answer and (answer := self.answer_task.extract(text)) is not None:
                answers[row] = tokens_in(spans, [(offset + answer[0], offset + answer[1])])
            if wants_decisive:
                known = self.answer_task.decisive(text)
                if known is None:
                    raise CreditError(
                        f"credit {self.credit.name} needs a task that knows its decisive tokens"
                    )
                decisive[row] = tokens_in(spans, [(offset + start, offset + end) for start, end in known])
        return answers, decisive

    def _question_tokens(
        self, rows: Sequence[dict[str, Any]], prompt_ids: Sequence[list[int]]
    ) -> list[list[int]] | None:
        """Token indices of the question in each prompt, for methods whose source is the question alone; else None."""
        if getattr(self.credit, "source", "prompt") != "question":
            return None
        found = []
        for row, ids in zip(rows, prompt_ids, strict=True):
            question = row.get("question")
            text, spans = decode(self._tokenizer, ids)
            at = text.rfind(question) if question else -1
            if question is None or at < 0:
                raise CreditError(
                    "credit source='question' needs a data set column `question` whose text stands in the prompt; "
                    f"it is {question!r} for the prompt {text[:60]!r}"
                )
            found.append(tokens_in(spans, [(at, at + len(question))]))
        return found

    def _generator(self, first: int) -> torch.Generator:
        """The credit method's own random numbers: a function of seed, step, process and the first row to weigh.

        Nothing else may enter, TRL's own step counter least of all: it starts at 0 again in a resumed run.
        """
        stream = f"credit/{self.args.seed}/{self.state.global_step}/{self.accelerator.process_index}/{first}"
        digest = hashlib.blake2b(stream.encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)

    def _remember_logprobs(self, inputs: dict[str, Any], logprobs: Tensor) -> None:
        """Keeps the log-probabilities of each rollout's first training forward, for records."""
        if self.rollouts is None:
            return
        stored = self.rollouts.trainer_logprobs
        rows, length = inputs[_ROLLOUT], logprobs.shape[1]
        fresh = stored[rows].isnan().all(1)
        stored[rows[fresh], :length] = logprobs.detach()[fresh].to(stored.dtype)
