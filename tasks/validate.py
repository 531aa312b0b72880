"""The worth of a task's verifier: its own golds must pass, spelled as published and otherwise, and changed ones must
not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tasks.problem import Task
from tasks.verdict import TaskError, Verdict

#: Share of golds that must verify.
REQUIRED = 0.995


@dataclass
class Validation:
    """The outcome for one split of one task. Lists hold (problem id, answer, verdict); empty ones are good news."""

    task: str
    split: str
    items: int = 0
    #: Golds that did not verify as published.
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    #: Other spellings of the golds: how many, and those that did not verify.
    respelled: int = 0
    respelled_refused: list[tuple[str, str, str]] = field(default_factory=list)
    #: Changed golds: how many, and those that verified all the same.
    mutated: int = 0
    mutated_passed: list[tuple[str, str, str]] = field(default_factory=list)
    #: Items left out because their published gold states no answer: (id, reason).
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    #: Training problems left out because a test set contains them, and items that both splits hold.
    removed: int = 0
    shared: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Share of the golds that verify."""
        return 1 - len(self.refused) / self.items if self.items else 0.0

    @property
    def respelled_rate(self) -> float:
        """Share of the respelled golds that verify; 1 where a task has none."""
        return 1 - len(self.respelled_refused) / self.respelled if self.respelled else 1.0

    @property
    def passed(self) -> bool:
        """At least 99.5% of the golds verify, no changed gold does, and no item stands in two splits."""
        return self.rate >= REQUIRED and not self.mutated_passed and not self.shared


def validate(task: Task, split: str | None = None, limit: int | None = None) -> list[Validation]:
    """Runs the golds of each split (or one) through the task's verifier; at most `limit` of each split.

    Raises TaskError where the task's data cannot be loaded.
    """
    if split is not None and split not in task.splits:
        raise task.unknown_split(split)
    splits = task.splits if split is None else (split,)
    validations = [_validate_split(task, name, limit) for name in splits]
    if len(task.splits) > 1:
        asked = [{problem.question for problem in task.problems(name)} for name in task.splits]
        shared = sorted(set.intersection(*asked))
        for validation in validations:
            validation.shared = shared
    return validations


def _validate_split(task: Task, split: str, limit: int | None) -> Validation:
    started = time.perf_counter()
    result = Validation(task.name, split)
    for problem in task.problems(split, limit):
        answer = task.gold_answer(problem)
        if answer is None:
            raise TaskError(f"task {task.name}: {problem.id} states no answer that could be verified")
        result.items += 1
        verdict = task.verify(problem, task.respond(answer))
        if verdict is not Verdict.CORRECT:
            result.refused.append((problem.id, answer, verdict))
            continue
        for other in task.respelled(answer):
            result.respelled += 1
            verdict = task.verify(problem, task.respond(other))
            if verdict is not Verdict.CORRECT:
                result.respelled_refused.append((problem.id, other, verdict))
        for other in task.changed(problem, answer):
            result.mutated += 1
            verdict = task.verify(problem, task.respond(other))
            if verdict is Verdict.CORRECT:
                result.mutated_passed.append((problem.id, other, verdict))
    result.removed = len(task.removed)
    result.unreadable = [item for item in task.unreadable if item[0].startswith(f"{task.name}/{split}/")]
    result.seconds = time.perf_counter() - started
    return result
