"""Benchmarks: problems, prompts, answer extraction and verdicts, one file a benchmark."""

from tasks import (  # noqa: F401  importing a task's file registers it
    aime,
    amc,
    arithmetic,
    countdown,
    crossthink,
    dapo_math,
    decision,
    graph,
    gsm8k,
    hendrycks_math,
    minerva,
    olympiadbench,
    reasoning_gym,
    sums,
    word_problems,
)
from tasks.problem import Problem, Task, get, kind, names, register
from tasks.rewards import dataset, reward_function, rubric, score_function
from tasks.verdict import TaskError, Verdict, reward_of

__all__ = [
    "Problem",
    "Task",
    "TaskError",
    "Verdict",
    "dataset",
    "get",
    "kind",
    "names",
    "register",
    "reward_function",
    "reward_of",
    "rubric",
    "score_function",
]
