"""Credit to the trainer: CreditGRPOTrainer, a thin subclass of TRL's GRPOTrainer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from flowtracer import credit as credit_methods
from flowtracer.attention import AttentionTap
from flowtracer.credit import CreditContext, CreditMethod
from flowtracer.errors import CreditError
from flowtracer.spans import AnswerTask, Boxed, decode, tokens_in

_ROLLOUT = "rollout_index"
_WEIGHTS = "credit_weights"


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
    one rollout batch feeds one update, the attention is read inside the training forward itself, at no extra forward;
    else inside the pass that computes old log-probabilities, by the policy that wrote the responses. Either way the
    weights of a rollout are computed once. In the first case a response without an answer gets the mean weight of the
    other responses in its micro-batch, in the second that of the whole generation batch.

    Refused with a CreditError: sequence-level importance ratios (GSPO, LUSPO), whose loss averages token weights away;
    image inputs; a policy whose attention cannot be tapped, where the method needs it.
    """

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
        self._tap = None
        if "capacity" in self.credit.needs:
            self._tap = AttentionTap(self.model, getattr(self.credit, "layers", "middle"))
        #: The last generation batch, for records; None before the first.
        self.rollouts: RolloutBatch | None = None
        #: Seconds that credit took since the last generation began: tap, spans, solves and weights, host clock.
        self.credit_seconds = 0.0
        self._generated: tuple[list[list[int]], list[list[int]], list[str]] | None = None
        self._scores: list[Tensor] | None = None
        self._loss_inputs: dict[str, Any] | None = None

    # Generation: remember what was generated and rewarded, and compute what needs no map.

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
        reused = self.args.gradient_accumulation_steps % (self.args.steps_per_generation * self.num_iterations) != 0
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        self._scores = [] if self._tap is not None and (reused or corrected) else None
        output = super()._generate_and_score_completions(inputs)

        assert self._generated is not None
        prompt_ids, response_ids, texts = self._generated
        rows = len(texts)
        own = slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)
        weighted = (self._rewards * self.reward_weights.to(self._rewards.device)).nansum(1)
        unscorable = self._rewards.isnan().all(1)
        rewards = [None if none else float(value) for value, none in zip(weighted, unscorable, strict=True)][own]
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
        if self._tap is None or self._scores is not None:
            scores = torch.cat(self._scores) if self._scores else None
            width = output["prompt_ids"].shape[1]
            output[_WEIGHTS] = self._weigh(output, scores=scores)[:, width:]
            output["advantages"] = output["advantages"].unsqueeze(1) * output[_WEIGHTS]
        self._scores = None
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
            if self._tap is None or _WEIGHTS in inputs:
                output = forward(every)
            else:
                with self._tap.open(attention_mask) as capture:
                    output = forward(every)
                begin = time.perf_counter()
                weights = self._weigh(inputs, capacity=capture.capacity)[:, -logits_to_keep:]
                inputs[_WEIGHTS] = weights
                inputs["advantages"] = inputs["advantages"].unsqueeze(1) * weights
                self.credit_seconds += capture.seconds + time.perf_counter() - begin
            self._remember_logprobs(inputs, output[0])
            return output
        if self._scores is None or self._scores:
            # Not traced; or the reference policy's pass, which follows the traced one.
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs
            )
        assert self._tap is not None and self._generated is not None
        # Before rewards are known. Map by map, as TRL chunks this pass itself: a generation batch of maps is too much.
        _, response_ids, texts = self._generated
        answer, _ = self._spans(response_ids, texts)
        question = self._question_tokens(self._pending_rows, self._generated[0])
        outputs = []
        step = batch_size or len(input_ids)
        for start in range(0, len(input_ids), step):
            rows = slice(start, start + step)
            with self._tap.open(attention_mask[rows]) as capture:
                outputs.append(forward(rows))
            begin = time.perf_counter()
            context = self._context(
                input_ids[rows],
                attention_mask[rows],
                logits_to_keep,
                answer[rows],
                None if question is None else question[rows],
            )
            context.capacity = capture.capacity
            scores = self.credit.score(context)
            assert scores is not None
            self._scores.append(scores)
            self.credit_seconds += capture.seconds + time.perf_counter() - begin
        joined = [torch.cat(parts) if parts[0] is not None else None for parts in zip(*outputs, strict=True)]
        return tuple(joined)

    # From rows to a CreditContext and its weights.

    def _weigh(self, inputs: dict[str, Any], capacity: Tensor | None = None, scores: Tensor | None = None) -> Tensor:
        """Weights (b, T) of the rows in `inputs`, which may be a shuffled micro-batch of the generation batch."""
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
        context.capacity, context.scores = capacity, scores
        context.advantage = batch.advantages[inputs[_ROLLOUT]]
        rewards = [batch.rewards[row] for row in members]
        context.reward = torch.tensor([float("nan") if r is None else r for r in rewards], device=device)
        context.group = batch.group[inputs[_ROLLOUT]]
        if "decisive" in self.credit.needs:
            context.decisive = self._mask(context, [batch.decisive[row] for row in members], length)
        if "tool_mask" in inputs:
            context.response[:, -length:] &= inputs["tool_mask"].bool()
        context.generator = self._generator(members[0] if members else 0)
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

    def _spans(
        self, response_ids: Sequence[list[int]], texts: Sequence[str]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Token indices of answer and decisive spans in each response; empty where the method needs none."""
        answers: list[list[int]] = [[] for _ in texts]
        decisive: list[list[int]] = [[] for _ in texts]
        wants_answer, wants_decisive = self._tap is not None, "decisive" in self.credit.needs
        if not (wants_answer or wants_decisive):
            return answers, decisive
        for row, (ids, text) in enumerate(zip(response_ids, texts, strict=True)):
            decoded, spans = decode(self._tokenizer, ids)
            if decoded != text:
                raise CreditError(
                    f"the reward saw {text[:60]!r} where the sampled tokens say {decoded[:60]!r}: "
                    "the answer cannot be located in a text that was changed after sampling"
                )
            if wants_answer and (answer := self.answer_task.extract(decoded)) is not None:
                answers[row] = tokens_in(spans, [answer])
            if wants_decisive:
                known = self.answer_task.decisive(decoded)
                if known is None:
                    raise CreditError(f"credit {self.credit.name} needs a task that knows its decisive tokens")
                decisive[row] = tokens_in(spans, known)
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
            if at < 0:
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
