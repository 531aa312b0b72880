"""Evaluation: a policy's answers to a task's problems, sampled with named noise and scored through lm-eval.

lm-eval asks, repeats, filters and aggregates; the policy answers through `harness.rollout`, and the task's
own verifier judges. The accuracy that lm-eval reports is compared with the rows that are recorded, and must
agree.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import datasets
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask

from harness import seeds
from harness.errors import ExperimentError
from harness.policy import Policy
from harness.rollout import Sample, sample
from tasks import Problem, Task, Verdict, reward_of

METRIC, FILTER = "accuracy", "all"

#: Called after each batch with the number of samples that are done, and of all.
Progress = Callable[[int, int], None]


def evaluate(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    samples: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 256,
    progress: Progress = lambda done, total: None,
) -> list[dict[str, Any]]:
    """`samples` answers to each problem, one row a sample, ordered by problem and sample.

    A row has the columns of the record's table of samples but the step: task, problem_id, sample, key, text,
    response_tokens (the end token counts), finish_reason, verdict, reward (None where it could not be judged). The
    noise of a sample is named by task, problem id and sample index: every policy is asked with the same.

    Scored by `lm_eval.evaluate`. Its wrapper `simple_evaluate` would also reseed python, numpy and torch, and
    collect the machine's particulars for a second or more; this touches no global generator. lm-eval reads
    its data through `datasets` nevertheless, so keep it out of a process that trains.

    Raises ExperimentError for no problems, for problems with one id, for options without meaning;
    RuntimeError if lm-eval's accuracy (mean over problems of the mean over judged samples) differs from that
    of the rows.
    """
    if not problems:
        raise ExperimentError(f"task {task.name}: nothing to evaluate, the list of problems is empty")
    if repeated := [name for name, count in Counter(problem.id for problem in problems).items() if count > 1]:
        raise ExperimentError(
            f"task {task.name}: problem {repeated[0]} is listed twice; problems need different ids, they name the noise"
        )
    if samples < 1 or batch_size < 1:
        raise ExperimentError(f"samples ({samples}) and batch_size ({batch_size}) must be at least 1")
    if temperature == 0 and samples > 1:
        raise ExperimentError(
            f"{samples} samples at temperature 0 are {samples} copies: set samples = 1, or a temperature above 0"
        )
    model = _Model(policy, task, problems, max_new_tokens, temperature, batch_size, progress)
    scorer = _Scorer(task, problems)
    with _quiet():
        asked = _Asked(config=_configuration(task, problems, samples, scorer))
        results: Any = lm_eval.evaluate(
            model, {"tasks": {task.name: asked}}, bootstrap_iters=0, log_samples=False
        )
    expected, reported = accuracy(scorer.rows), results["results"][task.name][f"{METRIC},{FILTER}"]
    if len(scorer.rows) != samples * len(problems) or not _same(expected, reported):
        raise RuntimeError(
            f"task {task.name}: lm-eval reports accuracy {reported} for {len(problems)} problems x {samples}, but "
            f"the {len(scorer.rows)} recorded samples say {expected}"
        )
    return scorer.rows


def accuracy(rows: Sequence[dict[str, Any]]) -> float:
    """Mean over problems of the mean reward of their judged samples; NaN when nothing could be judged."""
    rewards: dict[str, list[float]] = {}
    for row in rows:
        if row["reward"] is not None:
            rewards.setdefault(row["problem_id"], []).append(row["reward"])
    return _mean([_mean(values) for values in rewards.values()])


class Response(str):
    """A response's text as lm-eval hands it around, with the sample it came from and the key of its noise."""

    sample: Sample
    key: str


class _Model(LM):
    """lm-eval's view of a policy. The requests of one problem are its samples 0, 1, ..."""

    def __init__(
        self,
        policy: Policy,
        task: Task,
        problems: Sequence[Problem],
        max_new_tokens: int,
        temperature: float,
        batch_size: int,
        progress: Progress,
    ) -> None:
        super().__init__()
        self.policy, self.task, self.problems, self.progress = policy, task, problems, progress
        self.max_new_tokens, self.temperature, self.batch_size = max_new_tokens, temperature, batch_size

    def generate_until(self, requests: list[Instance]) -> list[str]:
        asked: Counter[int] = Counter()
        keys = []
        for request in requests:
            index = request.doc["index"]
            keys.append(seeds.key("evaluation", self.task.name, self.problems[index].id, asked[index]))
            asked[index] += 1
        prompts = {prompt: self.policy.encode(prompt) for prompt in {request.args[0] for request in requests}}
        rows = [prompts[request.args[0]] for request in requests]
        # Prompts of a length together: little padding, and it is the same whatever their order was.
        order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), index))
        responses: dict[int, str] = {}
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            for index, one in zip(
                part,
                sample(
                    self.policy.model,
                    self.policy.tokenizer,
                    [rows[index] for index in part],
                    [keys[index] for index in part],
                    self.max_new_tokens,
                    self.temperature,
                ),
                strict=True,
            ):
                response = Response(one.text)
                response.sample, response.key = one, keys[index]
                responses[index] = response
            self.progress(len(responses), len(rows))
        return [responses[index] for index in range(len(rows))]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("tasks here are scored by what a policy writes, never by likelihood")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError("tasks here are scored by what a policy writes, never by likelihood")


class _Scorer:
    """Judges each sample with its own finish reason, and keeps the rows."""

    def __init__(self, task: Task, problems: Sequence[Problem]) -> None:
        self.task, self.problems = task, problems
        self.rows: list[dict[str, Any]] = []

    def __call__(self, doc: dict[str, Any], results: list[list[Response]]) -> dict[str, float]:
        (responses,) = results
        problem = self.problems[doc["index"]]
        rows = []
        for index, response in enumerate(responses):
            verdict = self.task.verify(problem, str(response), response.sample.finish_reason)
            rows.append(
                {
                    "task": self.task.name,
                    "problem_id": problem.id,
                    "sample": index,
                    "key": response.key,
                    "text": str(response),
                    "response_tokens": len(response.sample.ids),
                    "finish_reason": response.sample.finish_reason,
                    "verdict": str(verdict),
                    "reward": reward_of(Verdict(verdict)),
                }
            )
        self.rows += rows
        return {METRIC: accuracy(rows)}


class _Asked(ConfigurableTask):
    """lm-eval's own task class, without its bar over the building of prompts."""

    def build_all_requests(self, **options: Any) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            super().build_all_requests(**options)


def _configuration(task: Task, problems: Sequence[Problem], samples: int, scorer: _Scorer) -> dict[str, Any]:
    rows = {"index": list(range(len(problems)))}
    return {
        "task": task.name,
        "output_type": "generate_until",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_dict(rows)},
        "test_split": "test",
        "doc_to_text": lambda doc: task.prompt(problems[doc["index"]]),
        "doc_to_target": lambda doc: str(problems[doc["index"]].gold),
        "generation_kwargs": {"until": [], "do_sample": True},
        "process_results": scorer,
        "metric_list": [
            {
                "metric": METRIC,
                "aggregation": lambda values: _mean([value for value in values if not math.isnan(value)]),
                "higher_is_better": True,
            }
        ],
        "repeats": samples,
        # Without this filter, lm-eval scores sample 0 of each problem and drops the others.
        "filter_list": [{"name": FILTER, "filter": [{"function": "take_first_k", "k": samples}]}],
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(one) and math.isnan(other))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval's notes about tasks in memory say nothing that a user could act on; errors still appear."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
