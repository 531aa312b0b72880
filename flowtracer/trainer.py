"""Credit to the trainer: CreditGRPOTrainer, a thin subclass of TRL's GRPOTrainer."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from flowtracer import contexts, forwards, passes, refusals, seam, teaching
from flowtracer.attention import AttentionTap
from flowtracer.batches import Observed, RolloutBatch, in_loss
from flowtracer.contexts import ContextBuilder, Extract
from flowtracer.credit import CreditContext, CreditMethod
from flowtracer.errors import CreditError
from flowtracer.forwards import ReadAt
from flowtracer.layout import Padded
from flowtracer.recording import Recorder, Recording, recorder
from flowtracer.seam import Generated, LogprobPass, TrainerSeam
from flowtracer.spans import AnswerTask
from flowtracer.tracking import Described, collected, summed
from flowtracer.turn import Turn, same_random_numbers
from flowtracer.whitening import AFTER, BEFORE, Whitening

_ROLLOUT = "rollout_index"
_WEIGHTS = "credit_weights"

#: Generation batches in a row that a method may judge nothing of, before the training ends.
SILENT_BATCHES = 10


class CreditGRPOTrainer(TrainerSeam, GRPOTrainer):
    """TRL's GRPOTrainer with token-level credit.

    credit: the name of a credit method, or a method from `flowtracer.credit.get(name, **options)`.
    task: where the answer of a response stands, and for the oracle methods which tokens decide it: a task
        (`extract(text) -> (start, end) or None`, `decisive(text)`; any `tasks.Task`), the name of a registered one, or
        a function like `extract`. Without one, the last `\\boxed{}` is the answer.
    record: a folder for the training's record, `runs/EXPERIMENT/ARM/seed-0000`, which `flowtracer leaderboard`,
        `replay`, `trace` and `doctor` open; every update is logged then. Or a `recording.Recorder`.
    turn_every: every so many optimizer steps, measure how far credit turns the update away from uniform's, 1 minus the
        cosine of the gradients (`credit/turn`). Such a step takes one more forward and backward. 0, the default: never.
    whiten: "before" or "after" the token weights, advantages are whitened over the tokens in the loss of the generation
        batch, over all processes; None, the default, leaves them as TRL made them. After the weights it takes their
        mean out, and needs a forward before the first micro-batch. Whitening gives an advantage even to a group whose
        rewards are all equal.
    advantage_clip: the last step: advantages are clamped to plus and minus this value; 0, the default: never. A record
        keeps the advantages of responses, and the weights before clamping and whitening after the weights.
    Everything else is TRL's.

    Methods with a teacher (rlsd, opsd, oppo) read the data set's column `gold`: with a `tasks.Task`, as `tasks.dataset`
    writes it, else the text that the teacher is shown. They cost one forward without gradient. The gold stands in the
    teacher's prompt only, which is made after a generation has ended.

    The advantage A of a response becomes w A or A + delta for each token, before TRL computes its loss. Where one
    rollout batch feeds one update, attention, log-probabilities and entropies are read inside the training forward
    itself, at no extra forward; else inside the pass that computes old log-probabilities, by the policy that wrote the
    responses. Either way the credit of a rollout is computed once. In the first case a response without an answer gets
    the mean weight of the other responses in its micro-batch, in the second that of the whole generation batch, over
    all processes either way. Several processes give the credit that one would.

    Methods of group or batch scope see whole groups and batches, before micro-batches are made. One of them that needs
    a forward, where a generation batch is split over several micro-batches of one update, costs an extra forward
    without gradients; credit `gradient` costs an extra forward and backward.

    An answer is looked for in what the policy wrote as content: neither in a call of a tool nor in what a tool or an
    environment answered. A response that cannot be judged is a counted abstention, never the end of a training. After
    a generation batch of nothing but abstentions a warning says what was looked for, and after ten in a row the
    training ends with a CreditError: its weights are one constant. The first batch in which every token has weight 0
    is a warning too.

    Trackers get `credit/mean_weight`, `credit/up_weighted`, `credit/abstained` and each reason's share,
    `credit/answer_found`, `credit/top_share` (share of the scores on a response's top 10%) and `credit/seconds`, over
    all processes; logged completions a column `credit_weights`; the model card the credit method.

    Refused with a CreditError when built: sequence-level importance ratios (GSPO, LUSPO), whose loss averages token
    weights away; image inputs; torch.compile, prompt tuning, and a policy whose attention cannot be tapped, where the
    method reads it; groups and batches that are spread over processes, where the method needs them whole; gradients
    through a sharded policy; a method that needs decisive tokens or a question which task or data set do not have;
    additive methods with rewards that are normalised one by one; a record where no package is installed that writes
    one, or where an update does not end with a generation batch.
    """

    def __init__(
        self,
        *args: Any,
        credit: str | CreditMethod = "flow",
        task: AnswerTask | Extract | str | None = None,
        record: str | os.PathLike[str] | Recorder | None = None,
        turn_every: int = 0,
        whiten: str | None = None,
        advantage_clip: float = 0.0,
        **kwargs: Any,
    ) -> None:
        # Before TRL loads models and data sets.
        self.recorder = recorder(record)
        self.credit = contexts.credit_method(credit)
        self.whitening = Whitening(whiten, advantage_clip)
        self.answer_task: AnswerTask = contexts.answer_task(task)
        super().__init__(*args, **kwargs)
        ends = seam.end_tokens(self.model, self.text_tokenizer)
        self.builder = ContextBuilder(self.credit, self.answer_task, self.text_tokenizer, ends)
        refusals.check(self)
        self.tap: AttentionTap | None = None
        if self.builder.reads_attention:
            self.tap = AttentionTap(self.model, getattr(self.credit, "layers", "middle"))
        #: The generation batch in training, filled as it goes through its stages; None before the first.
        self.rollouts: RolloutBatch | None = None
        #: Seconds that credit took since the last generation began: tap, spans, solves and weights, host clock.
        self.credit_seconds = 0.0
        self._micro_batch: dict[str, Any] | None = None
        self._silent_batches = 0
        self._said_nothing_is_trained = False
        self.turn = self._turn(turn_every)
        self.add_callback(Described(self.credit_settings(), self.callback_handler.callbacks))
        if self.recorder is not None:
            self.recorder.open(self)
            self.add_callback(Recording(self.recorder, self))

    def _turn(self, every: int) -> Turn | None:
        """The callback that measures the turn of updates; None where none is measured."""
        refusals.check_turn(self, every)
        if every == 0:
            return None
        turn = Turn(every, lambda value: self.training_metrics.setdefault("credit/turn", []).append(value))
        self.add_callback(turn)
        return turn

    def credit_settings(self) -> dict[str, Any]:
        """Credit method, options and task, as trackers and the model card show them."""
        task = getattr(self.answer_task, "name", None) or type(self.answer_task).__name__
        options = asdict(self.credit) if is_dataclass(self.credit) else {}
        settings = {"credit": self.credit.name, "credit_options": options, "credit_task": task}
        return (
            settings if self.builder.words is None else settings | {"credit_teacher": self.builder.words.text}
        )

    # Generation: remember what was generated and rewarded, and compute what needs no training forward.

    def read_at(self) -> ReadAt:
        """Which forward the method is read in: a function of the settings, the same for every batch."""
        return forwards.read_at(
            self.credit,
            old_logprobs=self.passes_over_old_logprobs,
            split=self.args.steps_per_generation > 1,
            whitened_after=self.whitening.acts(AFTER),
        )

    def generated(self, generated: Generated) -> None:
        if not self.model.training:
            return
        begin = time.perf_counter()
        batch = self.rollouts
        assert batch is not None
        batch.clock["generated"] = begin
        batch.prompt_ids, batch.response_ids = generated.prompt_ids, generated.response_ids
        batch.texts, batch.masks = generated.texts, generated.masks
        batch.located = [
            self.builder.locate(ids, turns)
            for ids, turns in zip(generated.response_ids, generated.turns, strict=True)
        ]
        questions = [row.get("question") for row in batch.rows]
        batch.source = self.builder.questions(generated.prompt_ids, questions)
        if self.builder.words is not None:
            # From here on only: what the student read is settled, and of it are copies that nobody can write into.
            student = [tuple(ids) for ids in generated.prompt_ids]
            batch.teacher_prompts = self._teacher_prompts(student, batch.rows)
        self.credit_seconds += time.perf_counter() - begin

    def _teacher_prompts(
        self, prompt_ids: Sequence[Sequence[int]], rows: list[dict[str, Any]]
    ) -> list[list[int]]:
        questions = [teaching.asked(row) for row in rows]
        golds = [
            teaching.gold_text(self.answer_task, question or "", row.get("gold"))
            for question, row in zip(questions, rows, strict=True)
        ]
        prompts = self.builder.teacher_prompts(prompt_ids, questions, golds)
        teaching.check_context(self.model, prompts, self.args.max_completion_length)
        return prompts

    def rewarded(self, rewards: Tensor) -> None:
        if self.model.training:
            assert self.rollouts is not None
            self.rollouts.clock["rewarded"] = time.perf_counter()
            self.rollouts.all_rewards = self.weighted(rewards)

    def roll_out(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            output = super().roll_out(rows)
            self._show(rows)
            return output
        self.credit_seconds = 0.0
        if self.turn is not None:
            self.turn.of_batch.clear()
        before, step = self.rollouts, self.state.global_step
        earlier = before.earlier + 1 if before is not None and before.step == step else 0
        batch = self.rollouts = RolloutBatch(rows=rows, step=step, earlier=earlier)
        output = super().roll_out(rows)
        batch.shown = self._show(rows)
        begin = time.perf_counter()
        if self.whitening.acts(BEFORE):
            output["advantages"] = self._whitened(output["advantages"], in_loss(output))
        batch.scored(output, self.accelerator.process_index, self.args.num_generations, self.args.seed)
        output[_ROLLOUT] = torch.arange(len(rows), device=output["completion_ids"].device)
        if batch.teacher_prompts is not None:
            batch.teacher_logprobs = self.teacher_logprobs(batch, output["completion_ids"].shape[1])
        if self.read_at() is ReadAt.EXTRA_FORWARD:
            # No forward of TRL's shows the whole batch before its first micro-batch is trained on.
            whole = Padded.of(output)
            # Without dropout, which would draw from the generator of the next rollouts.
            rows_at_once = self.args.per_device_train_batch_size
            with torch.no_grad(), self.without_checkpointing(), passes.evaluating(self.model):
                self._read_all(self.pass_over(self.model, whole, rows_at_once))
        if self.credit.name == "uniform":
            # Its weights are 1 already: it costs what stock TRL costs.
            self._finish(batch)
        elif self.read_at() is not ReadAt.TRAINING_FORWARD:
            self._apply(output, batch.read_fields() | self._own_passes(output))
        if self.whitening.acts(AFTER):
            output["advantages"] = self._whitened(output["advantages"], batch.in_loss)
        self.credit_seconds += time.perf_counter() - begin
        return output

    def _show(self, rows: list[dict[str, Any]]) -> list[list[float]]:
        """A row of weights for each completion that TRL logs, of all processes: empty until they are known."""
        if not self.log_completions:
            return []
        shown: list[list[float]] = collected([[] for _ in rows])
        self.logged_column("credit_weights", shown)
        return shown

    # The forward: read the attention, and weigh the advantages that the loss is about to read.

    def micro_batch_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self.turn is not None and self.model.training and self.turn.due(self.state.global_step):
            self._add_uniform(self.turn, model, inputs)
        self._micro_batch = inputs if self.model.training else None
        try:
            loss = super().micro_batch_loss(model, inputs)
        finally:
            self._micro_batch = None
        if self.model.training and self.credit.name != "uniform" and _WEIGHTS not in inputs:
            raise CreditError(
                f"credit {self.credit.name!r} was not applied: this loss of TRL's makes no pass over "
                "log-probabilities; set use_liger_kernel=False"
            )
        return loss

    def _add_uniform(self, turn: Turn, model: Any, inputs: dict[str, Any]) -> None:
        """Adds the gradient that the micro-batch would give with uniform credit: one more forward and backward.

        Before the micro-batch's own forward, so that one graph is in memory at a time; nothing of it is logged, and
        the training draws the random numbers that it would have drawn.
        """
        batch = self.rollouts
        assert batch is not None
        advantages = batch.advantages
        if self.whitening.acts(AFTER):
            advantages = self._whitened(advantages, batch.in_loss)
        plain = {**inputs, "advantages": advantages[inputs[_ROLLOUT]]}
        with same_random_numbers(self.accelerator.device), self.unlogged():
            loss = super().micro_batch_loss(model, plain)
            turn.add(self.model, lambda: self.accelerator.backward(loss))

    def logprob_pass(self, passing: LogprobPass) -> Any:
        inputs, batch = self._micro_batch, self.rollouts
        if inputs is not None:
            if self.read_at() is ReadAt.TRAINING_FORWARD and _WEIGHTS not in inputs:
                output, fields = self._reading(passing, slice(None))
                begin = time.perf_counter()
                self._apply(inputs, fields)
                self.credit_seconds += time.perf_counter() - begin
            else:
                output = passing.whole()
            if batch is not None:
                batch.remember_logprobs(inputs[_ROLLOUT], output[0])
            return output
        # TRL's first pass over a generation batch is by the old policy; the reference policy's follows.
        unread = batch is not None and self.model.training and not batch.read
        if unread and self.read_at() is ReadAt.OLD_LOGPROBS:
            return self._read_all(passing)
        return passing.whole()

    def _read_all(self, passing: LogprobPass) -> Any:
        """Runs a pass over a generation batch step by step, and keeps what the method reads of each.

        Before rewards may be known. Step by step, as TRL chunks this pass itself: a generation batch of maps is too
        much.
        """
        batch = self.rollouts
        assert batch is not None

        def visit(rows: slice) -> Any:
            output, fields = self._reading(passing, rows, entropies="entropies" in self.builder.from_forward)
            begin = time.perf_counter()
            source = None if batch.source is None else batch.source[rows]
            batch.read.append(
                self.builder.scored(
                    passing.batch[rows], batch.located[rows], source, fields, batch.masks[rows]
                )
            )
            self.credit_seconds += time.perf_counter() - begin
            return output

        return passing.in_steps(visit)

    def _reading(
        self, passing: LogprobPass, rows: slice, entropies: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """The output of a pass over `rows`, and what the credit method needs of it by the names of context fields."""
        part = passing.batch[rows]
        opened = (
            nullcontext() if self.tap is None else self.tap.open(part.attention_mask, self.credit.reading())
        )
        with opened as capture:
            output = passing.run(rows, entropies=entropies)
        if capture is not None:
            self.credit_seconds += capture.seconds
        captured = {} if capture is None else capture.fields
        return output, self.builder.read(part, output[0], output[1], captured)

    def _own_passes(self, output: dict[str, Any]) -> dict[str, Any]:
        """The readings that take passes of our own over a generation batch, by the names of context fields."""
        fields: dict[str, Any] = {}
        assert self.rollouts is not None
        if "saliency" in self.credit.needs:
            fields["saliency"] = self.saliency(output)
        if self.builder.reads_distributions:
            step = self.args.per_device_train_batch_size
            with self.without_checkpointing(), self.accelerator.autocast():
                fields |= passes.distributions(self.model, Padded.of(output), self.temperature, step)
        if "divergence" in self.credit.needs:
            batch = Padded.of(output)
            answer = batch.on_response([row.answer for row in self.rollouts.located])
            with self.without_checkpointing(), self.accelerator.autocast():
                fields["divergence"] = passes.answer_divergence(
                    self.model,
                    batch,
                    answer,
                    self.builder.replacement(),
                    self.args.per_device_train_batch_size,
                )
        if "values" in self.credit.needs:
            fields["values"] = self._values(output, fields)
        return fields

    def continued(self, prefixes: list[tuple[int, int]], count: int) -> list[list[float | None]]:
        """The rewards of `count` responses that go on from each prefix; None where one could not be judged.

        prefixes: a row of the generation batch, and how many of its response tokens are kept. For trainers that can
        sample from the middle of a response; `credit` methods that need `values` are refused in all others.
        """
        raise NotImplementedError

    @property
    def samples_continuations(self) -> bool:
        """True if `continued` is there."""
        return type(self).continued is not CreditGRPOTrainer.continued

    def _values(self, output: dict[str, Any], fields: dict[str, Any]) -> Tensor:
        """The mean reward of continuations from each cut of the method, (B, T) float32; NaN elsewhere."""
        cuts = self.credit.cuts(self.context_of(output, fields))
        first = cuts.shape[1] - Padded.of(output).length
        places = cuts.nonzero().tolist()
        rewards = self.continued([(row, column - first) for row, column in places], self.credit.continuations)
        values = torch.full(cuts.shape, math.nan, dtype=torch.float32)
        for (row, column), given in zip(places, rewards, strict=True):
            known = [reward for reward in given if reward is not None]
            if known:
                values[row, column] = math.fsum(known) / len(known)
        return values.to(cuts.device)

    def saliency(self, output: dict[str, Any]) -> Tensor:
        """|gradient . embedding| of the answers' log-probabilities, (B, T) float32; 0 for a response without answer."""
        assert self.rollouts is not None
        batch = Padded.of(output)

        def logprobs_of(model: Any, part: Padded) -> Tensor:
            return self.pass_over(model, part, None).run(slice(None))[0]

        answer = batch.on_response([row.answer for row in self.rollouts.located])
        model = self.accelerator.unwrap_model(self.model)
        step = self.args.per_device_train_batch_size
        return passes.answer_gradient(model, logprobs_of, batch, answer, step)

    def teacher_logprobs(self, batch: RolloutBatch, length: int) -> Tensor:
        """Log-probabilities of the responses behind the teacher's prompts, (B, length): a forward of its own."""
        assert batch.teacher_prompts is not None
        pad_id = self.text_tokenizer.pad_token_id
        taught = teaching.taught_batch(
            batch.teacher_prompts, batch.response_ids, pad_id, self.accelerator.device
        )
        step = self.args.per_device_train_batch_size
        with torch.no_grad(), self.without_checkpointing(), passes.evaluating(self.model):
            logprobs = self.pass_over(self.model, taught, step).run(slice(None), step=step)[0]
        return teaching.placed(logprobs, length)

    # From rows to their credit.

    def _whitened(self, advantages: Tensor, in_loss: Tensor) -> Tensor:
        several = self.accelerator.num_processes > 1
        return self.whitening(advantages, in_loss, self.accelerator.reduce if several else None)

    def _apply(self, inputs: dict[str, Any], fields: dict[str, Any]) -> None:
        """Puts the advantage of each token into `inputs`, a generation batch or a micro-batch of it.

        fields: what was read for its rows, by the names of context fields.
        """
        context = self.context_of(inputs, fields)
        if self.builder.reads_attention and context.scores is None:
            context.scores = self.credit.score(context)
        credit = self.credit.assess(context)
        batch = self.rollouts
        assert batch is not None
        length = inputs["completion_ids"].shape[1]
        inputs[_WEIGHTS] = batch.judged(inputs[_ROLLOUT], context, credit, length)
        inputs["advantages"] = credit.applied(inputs["advantages"])[:, -length:]
        if batch.is_judged:
            self._finish(batch)

    def context_of(self, inputs: dict[str, Any], fields: dict[str, Any]) -> CreditContext:
        """The context of the rows in `inputs`, which may be a shuffled micro-batch of the generation batch."""
        batch = self.rollouts
        assert batch is not None
        members = inputs[_ROLLOUT].tolist()
        padded = Padded.of(inputs)
        located = [batch.located[row] for row in members]
        source = None if batch.source is None else [batch.source[row] for row in members]
        masks = [batch.masks[row] for row in members]
        context = self.builder.context(padded, located, source, fields, masks)
        rewards = [batch.rewards[row] for row in members]
        device = padded.input_ids.device
        context.advantage = batch.advantages[inputs[_ROLLOUT]]
        context.reward = torch.tensor([float("nan") if r is None else r for r in rewards], device=device)
        context.group = batch.group[inputs[_ROLLOUT]]
        context.pieces = self.builder.pieces(padded, [batch.response_ids[row] for row in members])
        context.streams = [batch.streams[row] for row in members]
        context.step = batch.step
        if batch.teacher_logprobs is not None:
            context.teacher_logprobs = padded.in_columns(batch.teacher_logprobs[inputs[_ROLLOUT]])
        if self.accelerator.num_processes > 1:
            context.over_processes = self.accelerator.reduce
        return context

    # What a generation batch came to.

    def _finish(self, batch: RolloutBatch) -> None:
        """Shows trackers what became of a generation batch, and makes sure that nobody is misled by one of abstentions.

        Once a batch and in every process: numbers are those of all.
        """
        if batch.shown:
            for shown, weights in zip(batch.shown, collected(batch.weights_of_tokens()), strict=True):
                shown[:] = weights
        answered = [self.answer_task.extract(text) is not None for text in batch.texts]
        observed = batch.observed(answered, self.credit_seconds)
        reduce: Callable[[Tensor], Tensor] | None = None
        if self.accelerator.num_processes > 1:
            reduce = self.accelerator.reduce
        observed = summed(observed, reduce, self.accelerator.device)
        for name, value in observed.metrics().items():
            self.training_metrics.setdefault(name, []).append(value)
        self._silent_batches = self._silent_batches + 1 if observed.is_silent else 0
        if self._silent_batches in (1, SILENT_BATCHES):
            message = self._silence(observed, batch)
            if self._silent_batches == SILENT_BATCHES:
                raise CreditError(f"{SILENT_BATCHES} generation batches in a row: {message}")
            self._warn(message)
        elif observed.trains_nothing and not self._said_nothing_is_trained:
            # No error: a mask over tokens that the policy is unsure of may end there, and rightly.
            self._said_nothing_is_trained = True
            self._warn(
                f"credit {self.credit.name!r} gives every token of a generation batch weight 0: nothing is trained"
            )

    def _warn(self, message: str) -> None:
        if self.accelerator.is_main_process:
            warnings.warn(message, stacklevel=3)

    def _silence(self, observed: Observed, batch: RolloutBatch) -> str:
        """The warning about a batch that holds only abstentions."""
        reason = max(observed.reasons, key=observed.reasons.__getitem__)
        task = self.credit_settings()["credit_task"]
        sought = "the last \\boxed{}" if task == "Boxed" else f"what task {task} takes for one"
        ends = next((text for text in batch.texts if text), "")[-60:]
        return (
            f"credit {self.credit.name!r} judged none of {observed.responses} responses ({reason}): every weight is "
            f"{observed.mean_weight:.4g}, GRPO times a constant. An answer was looked for as {sought}; a response ends "
            f"{ends!r}. Give task=..., a task, the name of one, or a function text -> (start, end) or None"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.recorder is not None and "loss" in logs and self.generates_next:
            self.recorder.record(self, {**logs, "entropy": self.mean_entropy})
        super().log(logs, start_time)

    def before_checkpoint(self) -> None:
        if self.recorder is not None:
            self.recorder.settle()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's model card, and which credit trained the model."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            card = Path(self.args.output_dir) / "README.md"
            settings = self.credit_settings()
            options = ", ".join(f"{name} {value}" for name, value in settings["credit_options"].items())
            with card.open("a", encoding="utf-8") as page:
                page.write(
                    f"\n## Credit\n\nTrained with FlowTracer's CreditGRPOTrainer: credit method "
                    f"`{settings['credit']}` ({options or 'no options'}), answers by task "
                    f"`{settings['credit_task']}` (arXiv 2606.10646).\n"
                )
