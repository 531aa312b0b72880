"""Evaluation: a policy's answers to a task's problems, sampled with named noise and scored through lm-eval.

lm-eval asks, repeats, filters and aggregates; the policy answers through an engine of `harness.engines`, and the
task's own verifier judges each answer as soon as it is there. The accuracy that lm-eval reports is compared with the
rows that are recorded, and must agree.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask

from harness import seeds
from harness.engines import choice
from harness.engines.base import ALONE, TRANSFORMERS, Sample
from harness.errors import ExperimentError
from harness.policy import Policy
from harness.verification import Judged, Verification
from tasks import Problem, Task, Verdict, reward_of

METRIC, FILTER = "accuracy", "all"

#: Seconds between two times that kept samples are forced to the disk: what a power cut can cost.
SYNC_SECONDS = 1.0

#: Called after each sample with the number of samples that are done, and of all.
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
    engine: str = TRANSFORMERS,
    kept: Kept | None = None,
    server: str | None = None,
) -> list[dict[str, Any]]:
    """`samples` answers to each problem, one row a sample, ordered by problem and sample.

    A row has the columns of the record's table of samples but the step: task, problem_id, sample, key, text,
    response_tokens (the end token counts), finish_reason, verdict, reward (None where it could not be judged). The
    noise of a sample is named by task, problem id and sample index: every policy is asked with the same.

    engine: "transformers" samples `batch_size` responses at a time, "vllm" has as many at work. server: the address of
    the vLLM that samples, None for one in this process. kept: samples of an evaluation that was stopped; they are not
    drawn again, and those that finish now are added.

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
    model = _Model(
        policy,
        task,
        problems,
        max_new_tokens,
        temperature,
        batch_size,
        progress,
        engine,
        server,
        kept or Kept(),
    )
    scorer = _Scorer()
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


class Kept:
    """Rows of finished samples; in a file, one JSON line each, where a `path` is given.

    The file begins with `identity`, what the samples are samples of: the same policy, task and options go on in it,
    others are refused. Lines are only added, each as soon as its sample is judged, so a process that is killed loses
    nothing but what it was writing; a line that was cut off is dropped.

    Raises ExperimentError for a file of something else, that cannot be read or written, or that another process uses.
    """

    def __init__(self, path: Path | None = None, identity: Mapping[str, Any] | None = None) -> None:
        self.path, self.rows = path, dict[tuple[str, int], dict[str, Any]]()
        self.lock, self.synced, self.file = threading.Lock(), 0.0, None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("ab+")
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.file.seek(0)
            content = self.file.read()
            whole = content.rfind(b"\n") + 1
            self.file.truncate(whole)
        except BlockingIOError:
            raise ExperimentError(
                f"{path} is in use by another evaluation: wait for it, or take another file"
            ) from None
        except OSError as error:
            raise ExperimentError(f"{path} cannot be used: {error.strerror}; take another file") from None
        lines = [
            self._read(line, number) for number, line in enumerate(content[:whole].splitlines(), start=1)
        ]
        if not lines:
            self._write(dict(identity or {}))
            return
        found, wanted = lines[0], json.loads(json.dumps(identity))
        for name in sorted({*found, *wanted}):
            if found.get(name) != wanted.get(name):
                raise ExperimentError(
                    f"{path} holds samples with {name} {json.dumps(found.get(name))}, "
                    f"not {json.dumps(wanted.get(name))}: take another file"
                )
        self.rows = {(row["problem_id"], row["sample"]): row for row in lines[1:]}

    def add(self, row: dict[str, Any]) -> None:
        """Adds the row of a finished sample."""
        with self.lock:
            self.rows[row["problem_id"], row["sample"]] = row
            self._write(row)

    def close(self) -> None:
        """Forces what was added to the disk. Further rows are kept in memory."""
        with self.lock:
            if self.file is not None:
                os.fsync(self.file.fileno())
                self.file.close()
            self.file = None

    def _write(self, row: dict[str, Any]) -> None:
        if self.file is None:
            return
        self.file.write(json.dumps(row).encode() + b"\n")
        self.file.flush()
        if time.monotonic() - self.synced > SYNC_SECONDS:
            os.fsync(self.file.fileno())
            self.synced = time.monotonic()

    def _read(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
            if number > 1:
                row["problem_id"], row["sample"], row["text"], row["reward"]
            return dict(row)
        except (ValueError, KeyError, TypeError):
            raise ExperimentError(
                f"{self.path}: line {number} is no sample; remove that line, or take another file"
            ) from None


class Response(str):
    """A response's text as lm-eval hands it around, with its row of the record."""

    row: dict[str, Any]


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
        engine: str,
        server: str | None,
        kept: Kept,
    ) -> None:
        super().__init__()
        self.policy, self.task, self.problems, self.progress = policy, task, problems, progress
        self.max_new_tokens, self.temperature, self.batch_size = max_new_tokens, temperature, batch_size
        self.engine, self.server, self.kept = engine, server, kept

    def generate_until(self, requests: list[Instance]) -> list[str]:
        asked: Counter[int] = Counter()
        names: list[tuple[Problem, int]] = []
        for request in requests:
            index = request.doc["index"]
            names.append((self.problems[index], asked[index]))
            asked[index] += 1
        prompts = {prompt: self.policy.encode(prompt) for prompt in {request.args[0] for request in requests}}
        rows = [prompts[request.args[0]] for request in requests]
        missing = [
            index
            for index, (problem, number) in enumerate(names)
            if (problem.id, number) not in self.kept.rows
        ]
        # Prompts of a length together: little padding, and it is the same whatever their order was.
        missing.sort(key=lambda index: (len(rows[index]), index))
        self._sample([rows[index] for index in missing], [names[index] for index in missing], len(rows))
        return [self._response(problem, number) for problem, number in names]

    def _sample(self, prompts: list[list[int]], names: list[tuple[Problem, int]], total: int) -> None:
        """Draws and judges the samples that are missing, and keeps each as soon as it is judged."""
        done = total - len(names)
        self.progress(done, total)
        if not names:
            return
        keys = [seeds.key("evaluation", self.task.name, problem.id, number) for problem, number in names]
        judged: list[Judged] = []

        def finished(index: int, one: Sample) -> None:
            problem, number = names[index]
            row = {
                "task": self.task.name,
                "problem_id": problem.id,
                "sample": number,
                "key": keys[index],
                "text": one.text,
                "response_tokens": len(one.ids),
                "finish_reason": one.finish_reason,
            }

            def keep(verdict: Verdict) -> None:
                self.kept.add({**row, "verdict": str(verdict), "reward": reward_of(verdict)})

            judged.append(verification.begin(problem, one.text, one.finish_reason, then=keep))
            self.progress(done + len(judged), total)

        started = choice.start(
            self.engine,
            self.policy,
            str(self.policy.model.dtype).removeprefix("torch."),
            max(map(len, prompts)) + self.max_new_tokens,
            self.batch_size,
            ALONE,
            self.server,
        )
        with Verification(self.task) as verification:
            started.sample(prompts, keys, self.max_new_tokens, self.temperature, finished=finished)
        for one in judged:
            one.verdict.result()  # raises what went wrong while it was judged

    def _response(self, problem: Problem, number: int) -> Response:
        row = self.kept.rows[problem.id, number]
        response = Response(row["text"])
        response.row = row
        return response

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("tasks here are scored by what a policy writes, never by likelihood")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError("tasks here are scored by what a policy writes, never by likelihood")


class _Scorer:
    """Gives lm-eval the verdicts that each sample already has, and collects the rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def __call__(self, doc: dict[str, Any], results: list[list[Response]]) -> dict[str, float]:
        (responses,) = results
        rows = [response.row for response in responses]
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
