"""The functions that the YAML files of this folder call: the problems as a data set, prompts, and verdicts as metrics.

lm-eval hands no finish reason on, so a response that was cut off before an answer counts as `no_answer` here, where
`flowtracer evaluate` says `truncated`; every other verdict, and the score, is the same by construction.
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from tasks.problem import Problem, Task, get, kind, names
from tasks.verdict import TaskError, Verdict

_TASKS: dict[tuple[str, str], Task] = {}


def _task(name: str, options: str) -> Task:
    """The task with these options, a JSON object."""
    if (name, options) not in _TASKS:
        _TASKS[name, options] = get(name, **json.loads(options))
    return _TASKS[name, options]


def dataset(name: str, split: str = "test", **metadata: Any) -> datasets.DatasetDict:
    """The problems of a task's split; `name` and `split` come from the YAML file's metadata.

    metadata: what lm-eval adds to it, `--metadata '{"word_problems": {"steps": 2}}'`, by task. Raises TaskError for an
    option that the task does not have.
    """
    options = json.dumps(_options(name, metadata), sort_keys=True)
    task = _task(name, options)
    rows = [
        {
            "task": name,
            "options": options,
            "id": problem.id,
            "question": problem.question,
            "prompt": task.prompt(problem),
            "gold": json.dumps(problem.gold, ensure_ascii=False),
        }
        for problem in task.problems(split)
    ]
    return datasets.DatasetDict({split: datasets.Dataset.from_list(rows)})


def _options(name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The task's options among the metadata, to which lm-eval adds the arguments of the model by their names."""
    options = metadata.get(name, {})
    written = f"--metadata '{{\"{name}\": {{OPTION: VALUE}}}}'"
    if not isinstance(options, Mapping):
        raise TaskError(f"options of task {name} are a table: {written}, not {options!r}")
    known = [option for option in inspect.signature(kind(name)).parameters if option != "options"]
    for key, value in metadata.items():
        if key in known:
            raise TaskError(f"--metadata: {key!r} is an option of task {name}: write {written}")
        if difflib.get_close_matches(key, known, 1, cutoff=0.85):
            raise TaskError(
                f"--metadata: {key!r} is no argument of a model; an option of task {name}? write {written}"
            )
        if isinstance(value, Mapping) and key not in names():
            close = difflib.get_close_matches(key, names(), 1)
            if close:
                raise TaskError(f"--metadata: there is no task {key!r}; did you mean {close[0]!r}?")
    return dict(options)


def score(doc: dict[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Mean accuracy over the samples of one problem, and the share of each verdict.

    `lenient` counts what a reader would have accepted without the marker: the gap shows what the format costs.
    """
    task = _task(doc["task"], doc["options"])
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
