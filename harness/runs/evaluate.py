"""Evaluation: a policy's answers to a task's problems, sampled with named noise and judged by the task.

An engine of `harness.engines` samples. The task judges each answer as soon as it is there. No global generator is read
or moved, so the process that trains may evaluate too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from harness import seeds
from harness.engines import choice
from harness.engines.base import ALONE, EngineChoice, Sample, Sampling
from harness.errors import ExperimentError
from harness.journal import Journal
from harness.policy import Policy
from leaderboards.estimates import over_problems
from tasks import Problem, Task, Verdict, reward_of
from tasks.judging import Judged, Judging

#: Called after each sample with the number of samples that are done, and of all.
Progress = Callable[[int, int], None]


def evaluate(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    sampling: Sampling,
    samples: int = 1,
    batch_size: int = 256,
    engine: EngineChoice | None = None,
    progress: Progress = lambda done, total: None,
    journal: Journal | None = None,
) -> list[dict[str, Any]]:
    """`samples` answers to each problem, one row a sample, ordered by problem and sample.

    A row has the columns of the record's table of samples but the step: task, problem_id, sample, key, text,
    response_tokens (the end token counts), finish_reason, verdict, reward (None where it could not be judged). The
    noise of a sample is named by task, problem id and sample index: every policy is asked with the same.

    engine: transformers where it is None. batch_size: responses that transformers samples at a time, and that vLLM has
    at work at once. journal: samples of an evaluation that was stopped; they are not drawn again, and those that finish
    now are added.

    Raises ExperimentError for no problems, for problems with one id, for options without meaning, and as the engine
    does.
    """
    _check(task, problems, sampling, samples, batch_size)
    journal = journal or Journal()
    asked = [(problem, number) for problem in problems for number in range(samples)]
    prompts = {problem.id: policy.encode(task.prompt(problem)) for problem in problems}
    missing = [(problem, number) for problem, number in asked if (problem.id, number) not in journal.rows]
    # Prompts of a length together: little padding, and it is the same whatever their order was.
    missing.sort(key=lambda pair: len(prompts[pair[0].id]))
    done = len(asked) - len(missing)
    progress(done, len(asked))
    if missing:
        started = choice.start(
            engine or EngineChoice(dtype=str(policy.model.dtype).removeprefix("torch.")),
            policy,
            max(len(prompts[problem.id]) for problem, _ in missing) + sampling.max_new_tokens,
            batch_size,
            ALONE,
        )
        keys = [seeds.key("evaluation", task.name, problem.id, number) for problem, number in missing]
        with _Judging(task, missing, keys, journal, lambda now: progress(done + now, len(asked))) as judging:
            ids = [prompts[problem.id] for problem, _ in missing]
            started.sample(ids, keys, sampling, judging.finished)
    return [journal.rows[problem.id, number] for problem, number in asked]


def _check(
    task: Task, problems: Sequence[Problem], sampling: Sampling, samples: int, batch_size: int
) -> None:
    """Raises as `evaluate` documents it."""
    if not problems:
        raise ExperimentError(f"task {task.name}: nothing to evaluate, the list of problems is empty")
    if repeated := [name for name, count in Counter(problem.id for problem in problems).items() if count > 1]:
        raise ExperimentError(
            f"task {task.name}: problem {repeated[0]} is listed twice; problems need different ids, they name the noise"
        )
    if samples < 1 or batch_size < 1:
        raise ExperimentError(f"samples ({samples}) and batch_size ({batch_size}) must be at least 1")
    if sampling.greedy and samples > 1:
        raise ExperimentError(
            f"{samples} samples at temperature 0 are duplicates: set samples = 1, or a temperature above 0"
        )


class _Judging:
    """Judges samples as they end, and adds each to the journal as soon as its verdict is there.

    asked: problem and number of each sample. report: called with the number of samples that have ended.
    """

    def __init__(
        self,
        task: Task,
        asked: Sequence[tuple[Problem, int]],
        keys: Sequence[str],
        journal: Journal,
        report: Callable[[int], None],
    ) -> None:
        self.task, self.asked, self.keys, self.journal, self.report = task, asked, keys, journal, report
        self.judging = Judging(task)
        self.judged: list[Judged] = []

    def __enter__(self) -> _Judging:
        self.judging.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.judging.__exit__(kind, error, trace)
        if error is None:
            for answer in self.judged:
                answer.verdict.result()  # raises what went wrong while it was judged

    def finished(self, index: int, sample: Sample) -> None:
        """Takes the sample of that index."""
        problem, number = self.asked[index]
        row = {
            "task": self.task.name,
            "problem_id": problem.id,
            "sample": number,
            "key": self.keys[index],
            "text": sample.text,
            "response_tokens": len(sample.ids),
            "finish_reason": sample.finish_reason,
        }

        def add(verdict: Verdict) -> None:
            self.journal.add({**row, "verdict": str(verdict), "reward": reward_of(verdict)})

        self.judged.append(self.judging.begin(problem, sample.text, sample.finish_reason, then=add))
        self.report(len(self.judged))


def accuracy(rows: Sequence[dict[str, Any]]) -> float:
    """Mean over problems of the mean reward of their judged samples; NaN when nothing could be judged."""
    return over_problems((row["problem_id"], row["reward"]) for row in rows)
