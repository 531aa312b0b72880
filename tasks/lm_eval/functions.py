"""The functions that the YAML files of this folder call: the problems as a data set, prompts, and verdicts as metrics.

lm-eval hands no finish reason on, so a response that was cut off before an answer counts as `no_answer` here, where
`flowtracer evaluate` says `truncated`; every other verdict, and the score, is the same by construction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import datasets

from tasks.problem import Problem, Task, get
from tasks.verdict import Verdict

_TASKS: dict[str, Task] = {}


def _task(name: str) -> Task:
    if name not in _TASKS:
        _TASKS[name] = get(name)
    return _TASKS[name]


def dataset(name: str, split: str = "test", **_: Any) -> datasets.DatasetDict:
    """The problems of a task's split; `name` and `split` come from the YAML file's metadata."""
    task = _task(name)
    rows = [
        {
            "task": name,
            "id": problem.id,
            "question": problem.question,
            "prompt": task.prompt(problem),
            "gold": json.dumps(problem.gold, ensure_ascii=False),
        }
        for problem in task.problems(split)
    ]
    return datasets.DatasetDict({split: datasets.Dataset.from_list(rows)})


def score(doc: dict[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Mean accuracy over the samples of one problem, and the share of each verdict.

    `lenient` counts what a reader would have accepted without the marker: the gap shows what the format costs.
    """
    task = _task(doc["task"])
    problem = Problem(doc["id"], doc["question"], json.loads(doc["gold"]))
    texts = [text for result in results for text in ([result] if isinstance(result, str) else result)]
    verdicts = [task.verify(problem, text) for text in texts]
    shares = {verdict.value: verdicts.count(verdict) / len(verdicts) for verdict in Verdict}
    lenient = sum(
        _lenient(task, problem, text, verdict) for text, verdict in zip(texts, verdicts, strict=True)
    )
    return {
        "exact_match": shares["correct"],
        "wrong": shares["wrong"],
        "no_answer": shares["no_answer"],
        "timeout": shares["timeout"],
        "error": shares["error"],
        "lenient": lenient / len(texts),
    }


def _lenient(task: Task, problem: Problem, text: str, strict: Verdict) -> bool:
    if strict is not Verdict.NO_ANSWER:
        return strict is Verdict.CORRECT
    span = task.lenient(text)
    return span is not None and task.judge(problem, text[span[0] : span[1]]) is Verdict.CORRECT
