"""Benchmarks: problems, prompts, answer extraction and verdicts, one file a benchmark."""

from tasks import decision as _decision
from tasks.problem import Problem, Task, TaskError, Verdict, get, names, register, reward_of

__all__ = ["Problem", "Task", "TaskError", "Verdict", "get", "names", "register", "reward_of"]
