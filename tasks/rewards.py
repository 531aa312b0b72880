"""Our verdicts as rewards in other trainers: TRL's `reward_funcs`, verl's `compute_score`, a rubric of `verifiers`.

An answer that cannot be judged (the verdict error) has no reward. TRL takes None for it and leaves it out; verl and
verifiers take numbers only, so there it is 0, and counted beside the score as `unscorable`. Nothing is dropped in
silence: every function carries `verdicts`, a count of all that it gave.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.problem import Problem, Task, get
from tasks.verdict import TaskError, Verdict, reward_of

if TYPE_CHECKING:
    import datasets

#: Seconds that the verdicts on one batch may take; what is not judged then is a timeout and earns 0.
SECONDS = 120.0
HOSTS = ("trl", "verl", "verifiers")


class RewardFunction:
    """A reward function as TRL calls it: `reward_function(prompts, completions, **columns) -> list[float | None]`.

    `columns` are those of `dataset(name, split)`: `question` and `gold`. Completions are texts or lists of messages.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.verdicts: Counter[Verdict] = Counter()
        self.__name__ = f"verdict_{task.name}"  # TRL names its metric after it

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]
    ) -> list[float | None]:
        """One reward a completion: 1 for correct, 0 for what is not, None for what cannot be judged."""
        return [reward_of(verdict) for verdict in self.judge(completions, columns)]

    def judge(self, completions: Sequence[Any], columns: dict[str, Sequence[Any]]) -> list[Verdict]:
        """The verdicts on a batch of completions."""
        if "gold" not in columns:
            known = ", ".join(columns) or "none"
            raise TaskError(
                f"reward of task {self.task.name}: column 'gold' is missing (columns: {known}); take the data set of "
                f"tasks.dataset({self.task.name!r}, split), and keep its columns (remove_unused_columns=False)"
            )
        questions = columns.get("question") or [""] * len(completions)
        items = [
            (self.problem(question, gold), written(completion), None)
            for question, gold, completion in zip(questions, columns["gold"], completions, strict=True)
        ]
        verdicts = self.task.verify_all(items, seconds=SECONDS)
        self.verdicts.update(verdicts)
        return verdicts

    def problem(self, question: str, gold: str) -> Problem:
        """The problem of a row: its gold is JSON, as `dataset` wrote it."""
        try:
            return Problem(f"{self.task.name}/given", question, json.loads(gold))
        except (TypeError, ValueError):
            raise TaskError(
                f"reward of task {self.task.name}: gold must be JSON as in tasks.dataset, not {gold!r:.60}"
            ) from None


class ScoreFunction(RewardFunction):
    """A reward function as verl calls it, with the four arguments of its default reward manager."""

    def __call__(  # type: ignore[override]  # another host, another signature
        self,
        data_source: str,
        solution_str: str,
        ground_truth: str,
        extra_info: dict[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, float]:
        """`score` is the reward; `unscorable` and `timeout` are 1 where it is 0 for that reason."""
        question = (extra_info or {}).get("question", "")
        (verdict,) = self.judge([solution_str], {"question": [question], "gold": [ground_truth]})
        return {
            "score": reward_of(verdict) or 0.0,
            "unscorable": float(verdict is Verdict.ERROR),
            "timeout": float(verdict is Verdict.TIMEOUT),
        }


def written(completion: Any) -> str:
    """The text of a completion: a text, or the contents of the assistant's messages."""
    if isinstance(completion, str):
        return completion
    texts = []
    for message in completion:
        is_mapping = isinstance(message, dict)
        role = message.get("role") if is_mapping else getattr(message, "role", None)
        content = message.get("content") if is_mapping else getattr(message, "content", None)
        if role == "assistant" and isinstance(content, str):
            texts.append(content)
    return "\n".join(texts)


def reward_function(name: str, **options: Any) -> RewardFunction:
    """The verdicts of a task as a function that `trl.GRPOTrainer(reward_funcs=...)` takes as it stands.

    Raises TaskError for an unknown task or option. Its data set is `dataset(name, split)`.
    """
    return RewardFunction(get(name, **options))


def score_function(name: str, **options: Any) -> ScoreFunction:
    """The verdicts of a task as a function of verl's `compute_score` signature."""
    return ScoreFunction(get(name, **options))


def rubric(name: str, **options: Any) -> Any:
    """The verdicts of a task as a `verifiers.Rubric`: the reward `correct`, and the metric `unscorable`, weight 0.

    Raises TaskError where the package verifiers is not installed.
    """
    try:
        import verifiers
    except ImportError:
        raise TaskError("tasks.rubric needs the package verifiers: pip install verifiers") from None
    return verifiers.Rubric(funcs=list(rubric_functions(name, **options)), weights=[1.0, 0.0])


def rubric_functions(name: str, **options: Any) -> tuple[Any, Any]:
    """The two functions of `rubric`. Both are coroutines: verdicts are waited for beside the host's event loop."""
    judge = reward_function(name, **options)

    async def verdict(completion: Any, answer: str, info: Any) -> Verdict:
        question = info.get("question", "") if isinstance(info, dict) else ""
        columns: dict[str, Sequence[Any]] = {"question": [question], "gold": [answer]}
        return (await asyncio.to_thread(judge.judge, [completion], columns))[0]

    async def correct(completion: Any, answer: str, info: Any = None) -> float:
        return reward_of(await verdict(completion, answer, info)) or 0.0

    async def unscorable(completion: Any, answer: str, info: Any = None) -> float:
        return float(await verdict(completion, answer, info) is Verdict.ERROR)

    return correct, unscorable


def dataset(
    name: str, split: str, limit: int | None = None, host: str = "trl", **options: Any
) -> datasets.Dataset:
    """The problems of a task's split as a `datasets.Dataset` with the columns that a host's trainer expects.

    host "trl": prompt (messages), id, question, gold (JSON). "verl": data_source, prompt, ability, reward_model with
    ground_truth, extra_info. "verifiers": prompt, answer (JSON), info. Raises TaskError for an unknown host or split.
    """
    if host not in HOSTS:
        raise TaskError(f"tasks.dataset: host must be one of {', '.join(HOSTS)}, not {host!r}")
    from datasets import Dataset

    task = get(name, **options)
    return Dataset.from_list([_row(task, problem, host) for problem in task.problems(split, limit)])


def _row(task: Task, problem: Problem, host: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": task.prompt(problem)}]
    gold = json.dumps(problem.gold, ensure_ascii=False)
    if host == "verl":
        return {
            "data_source": task.name,
            "prompt": messages,
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": gold},
            "extra_info": {"id": problem.id, "question": problem.question},
        }
    if host == "verifiers":
        return {
            "prompt": messages,
            "answer": gold,
            "info": {"id": problem.id, "question": problem.question},
        }
    return {"prompt": messages, "id": problem.id, "question": problem.question, "gold": gold}
