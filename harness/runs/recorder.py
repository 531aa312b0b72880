"""The trainer that writes a run's record: keyed rollouts, their verdicts and rewards, and a row for every step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import tasks
from flowtracer import CreditGRPOTrainer
from harness import parallel, seeds
from harness.engines import choice
from harness.engines.base import BESIDE_TRAINING, VLLM, EngineChoice, Sample
from harness.errors import ExperimentError
from harness.experiment import Experiment, Training
from harness.policy import Policy
from harness.runs.ahead import Ahead
from harness.runs.checkpoints import good_until, parameters, policy_folder, save_policy
from harness.runs.further import go_on, prefixes_of
from harness.runs.rows import Drawn, rollout_rows, step_row
from leaderboards import RunWriter
from tasks.judging import Judged, Judging

#: Above this many parameters, hashing them and measuring their distance from the start at every step would be felt.
SMALL = 10_000_000

#: A step's rollouts are judged within this; what is not is a timeout. Texts that hang their verifier must not hang
#: the training.
VERIFICATION_SECONDS = 60.0

Report = Callable[[str, int, int], None]


class Rewards:
    """The reward function that TRL calls. The verdicts of its last call are there for the record."""

    __name__ = "verdict"

    def __init__(self, task: tasks.Task, problems: Sequence[tasks.Problem], settings: Training) -> None:
        self.task, self.settings = task, settings
        self.problems = {problem.id: problem for problem in problems}
        self.judging = Judging(task)
        #: Verdicts that were asked for while responses were written, by key.
        self.asked: dict[str, Judged] = {}
        self.verdicts: list[tasks.Verdict] = []
        #: The exception of a verifier that gave no verdict, in one line, for each verdict `error`; else None.
        self.troubles: list[str | None] = []
        self.seconds = 0.0

    def ask(self, key: str, problem_id: str, sample: Sample) -> None:
        """Asks for the verdict on a response, which may take long, while others of its batch are written."""
        self.asked[key] = self.judging.begin(self.problems[problem_id], sample.text, sample.finish_reason)

    def __call__(
        self,
        completions: list[str],
        problem_id: list[str],
        finish_reason: list[str],
        key: list[str],
        **_: Any,
    ) -> list[float | None]:
        begin = time.perf_counter()
        asked = [self.asked.pop(name) for name in key if name in self.asked]
        if [answer.text for answer in asked] != completions:
            asked = [
                self.judging.begin(self.problems[problem], text, reason)
                for text, problem, reason in zip(completions, problem_id, finish_reason, strict=True)
            ]
        self.verdicts = self.judging.verdicts(asked, VERIFICATION_SECONDS)
        self.troubles = [answer.trouble for answer in asked]
        self.seconds = time.perf_counter() - begin
        return self._payments(self.verdicts, key)

    def of(
        self, samples: Sequence[Sample], problem_ids: Sequence[str], keys: Sequence[str]
    ) -> list[float | None]:
        """The rewards of further responses, by the same verifier; the record's verdicts stay as they are."""
        asked = [
            self.judging.begin(self.problems[problem], sample.text, sample.finish_reason)
            for sample, problem in zip(samples, problem_ids, strict=True)
        ]
        return self._payments(self.judging.verdicts(asked, VERIFICATION_SECONDS), keys)

    def _payments(self, verdicts: Sequence[tasks.Verdict], keys: Sequence[str]) -> list[float | None]:
        # Verdicts stay what they are, whatever is paid: the record must tell the two apart.
        if self.settings.reward == "random":
            return [float(int(seeds.key("random reward", name), 16) & 1) for name in keys]
        return [self._paid(verdict, name) for verdict, name in zip(verdicts, keys, strict=True)]

    def _paid(self, verdict: tasks.Verdict, key: str) -> float | None:
        """The reward of a verdict, by a verifier that is wrong as often as the settings say.

        One draw a rollout, the same for every share: what is wrong at 10% is wrong at 30% too, so that arms differ in
        nothing else.
        """
        reward = tasks.reward_of(verdict)
        if reward is None or self.settings.pays_verdicts:
            return reward
        wrong = self.settings.false_refusals if reward else self.settings.false_rewards
        draw = seeds.integer(seeds.key("false verdict", key), 53) / 2**53
        return 1.0 - reward if draw < wrong else reward


class RecordedTrainer(CreditGRPOTrainer):
    """CreditGRPOTrainer with keyed rollouts that writes a part of the record after each rollout batch."""

    def __init__(
        self,
        *,
        policy: Policy,
        experiment: Experiment,
        settings: Training,
        seed: int,
        writer: RunWriter,
        report: Report,
        prompts: Mapping[str, list[int]],
        engine: EngineChoice,
        **keywords: Any,
    ) -> None:
        self.run_policy, self.run_seed, self.experiment, self.settings = policy, seed, experiment, settings
        self.writer, self.report = writer, report
        #: Token ids of each problem's prompt. In the data set they would be copied and looked through, id by id, for
        #: every rollout of every step.
        self.prompts = prompts
        self.rewards: Rewards = keywords["reward_funcs"]
        super().__init__(
            model=policy.model, processing_class=policy.tokenizer, rollout_func=_rollouts, **keywords
        )
        if settings.lora_rank and self.splits_the_policy:
            raise ExperimentError(
                "training.lora_rank: adapters on a policy that is split over processes cannot be saved with it; "
                f"take {parallel.FOLDER / 'ddp.yaml'}"
            )
        self.small = sum(parameter.numel() for parameter in self.model.parameters()) <= SMALL
        # The initial policy anew, not the model's state now: a resumed run must measure from the same start.
        self.ahead = Ahead(writer, parameters(self.model) if self.small else None)
        context = max(map(len, prompts.values())) + settings.max_response_tokens
        self.engine = choice.start(
            engine, policy, context, settings.rollouts // parallel.processes(), BESIDE_TRAINING
        )
        if engine.name == VLLM:
            self.correct_for_another_sampler()
        self.rollout_seconds = 0.0
        self.batch_began = 0.0
        self.batch_step = 0
        #: Tokens of further responses that the credit method asked for, in this step.
        self.continued_tokens = 0

    def train(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return super().train(*arguments, **keywords)
        finally:
            self.ahead.settle()  # who is told of a failed run finds every step before it on record

    def roll_out(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        self.batch_began = time.perf_counter()
        self.continued_tokens = 0
        self.batch_step = self.state.global_step // self.settings.updates_per_batch
        return super().roll_out(rows)

    def micro_batch_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss = super().micro_batch_loss(model, inputs)
        self.ahead.release()  # the step before, while this one's backward runs
        return loss

    def continued(self, prefixes: list[tuple[int, int]], count: int) -> list[list[float | None]]:
        """Samples from the run's engine, with at most the tokens that a response had left: see `further.go_on`."""
        batch = self.rollouts
        assert batch is not None
        named = prefixes_of(batch, prefixes)
        with self.accelerator.autocast(), parallel.generating(self, self.engine.forwards) as model:
            self.engine.take(model)
            rewards, tokens = go_on(
                named,
                count,
                self.engine,
                self.run_policy.tokenizer,
                self.rewards,
                self.settings,
                self.run_seed,
                self.batch_step,
            )
        self.continued_tokens += tokens
        return rewards

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Called once an optimizer step.
        if "loss" in logs:
            self._stop_on_garbage(logs)
            if self.state.global_step % self.settings.updates_per_batch == 0:
                self._record(logs)
                done = self.batch_step + 1
                if done in self.experiment.evaluation_steps():
                    # After the step's record: where the last policy stands, every record does.
                    self._save_policy(policy_folder(self.writer.folder, done))
                self.report("step", done, self.settings.steps)
        super().log(logs, start_time)

    def before_checkpoint(self) -> None:
        self.ahead.settle()

    def _stop_on_garbage(self, logs: Mapping[str, float]) -> None:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise ExperimentError(
                    f"{self.writer.folder}: {name} is {logs[name]} at step {self.state.global_step}; training stopped. "
                    f"{good_until(self.writer.folder)}; lower the learning rate"
                )

    def _save_policy(self, folder: Path) -> None:
        self.ahead.settle()
        weights = None
        if self.splits_the_policy:
            # Put together, for which all must ask.
            weights = self.accelerator.get_state_dict(self.model_wrapped)
        if parallel.first():
            save_policy(self.run_policy, folder, weights)
        parallel.meet()

    def _rows(self) -> list[dict[str, Any]]:
        """The rollouts of this process as rows of the record."""
        batch = self.rollouts
        assert batch is not None
        judged = zip(batch.rows, self.rewards.verdicts, self.rewards.troubles, strict=True)
        drawn = [
            Drawn(
                problem_id=source["problem_id"],
                sample=source["sample"],
                key=source["key"],
                finish_reason=source["finish_reason"],
                verdict=str(verdict),
                sampler_logprobs=source["sampler_logprobs"],
                verdict_error=trouble,
            )
            for source, verdict, trouble in judged
        ]
        return rollout_rows(batch, self.batch_step, drawn)

    def _record(self, logs: Mapping[str, float]) -> None:
        seconds = time.perf_counter() - self.batch_began
        rows = parallel.gathered(self._rows())
        further = 0
        if "values" in self.credit.needs:
            further = sum(parallel.gathered([self.continued_tokens]))
        policy = parameters(self.model) if self.small else None
        if not parallel.first():
            return
        measured = step_row(self, logs, self.batch_step, self.rollout_seconds, self.rewards.seconds, seconds)
        if further:
            # What the credit method had sampled is a cost of its arm.
            measured["tokens"] = sum(len(row["response_ids"]) for row in rows) + further
        self.ahead.hold(rows, measured, policy)


def _rollouts(prompts: list[str], trainer: RecordedTrainer) -> dict[str, Any]:
    """TRL's rollout function: keyed samples. TRL repeats each prompt for its group, and here each gets its number.

    Numbers go over all processes, which have one part of the step's rows after the other: where a group is split
    between two, the second goes on counting.
    """
    begin = time.perf_counter()
    assert trainer.rollouts is not None
    rows, settings = trainer.rollouts.rows, trainer.settings
    before = trainer.accelerator.process_index * len(rows)
    numbers = [(before + row) % settings.samples_per_prompt for row in range(len(rows))]
    keys = [
        seeds.key("rollout", trainer.run_seed, trainer.batch_step, row["problem_id"], number)
        for row, number in zip(rows, numbers, strict=True)
    ]
    prompt_ids = [trainer.prompts[row["problem_id"]] for row in rows]

    def finished(row: int, sample: Sample) -> None:
        trainer.rewards.ask(keys[row], rows[row]["problem_id"], sample)

    with trainer.accelerator.autocast(), parallel.generating(trainer, trainer.engine.forwards) as model:
        trainer.engine.take(model)
        samples = trainer.engine.sample(
            prompt_ids,
            keys,
            settings.sampling,
            finished if trainer.rewards.task.slow else None,
        )
    trainer.rollout_seconds = time.perf_counter() - begin
    return {
        "prompt_ids": prompt_ids,
        "completion_ids": [sample.ids for sample in samples],
        # TRL corrects for a sampler that is another policy by these, and would only pad them else.
        "logprobs": None if trainer.engine.forwards else [sample.logprobs for sample in samples],
        "finish_reason": [sample.finish_reason for sample in samples],
        "sampler_logprobs": [sample.logprobs for sample in samples],
        "key": keys,
        "sample": numbers,
    }
