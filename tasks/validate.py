"""What a task's verifier is worth: its own golds must pass, spelled as published and otherwise, and changed ones must
not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks.problem import Problem, Task, TaskError, Verdict
from tasks.verify import answers, numbers

#: Share of golds that must verify.
REQUIRED = 0.995


@dataclass
class Validation:
    """What came out for one split of one task. Lists hold (problem id, answer, verdict); empty ones are good news."""

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
    found = [_validate_split(task, name, limit) for name in splits]
    if len(task.splits) > 1:
        asked = [{problem.question for problem in task.problems(name)} for name in task.splits]
        shared = sorted(set.intersection(*asked))
        for validation in found:
            validation.shared = shared
    return found


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
        for other in respelled(task, answer):
            result.respelled += 1
            verdict = task.verify(problem, task.respond(other))
            if verdict is not Verdict.CORRECT:
                result.respelled_refused.append((problem.id, other, verdict))
        for other in mutated(task, problem, answer):
            result.mutated += 1
            verdict = task.verify(problem, task.respond(other))
            if verdict is Verdict.CORRECT:
                result.mutated_passed.append((problem.id, other, verdict))
    result.removed = len(task.removed)
    result.seconds = time.perf_counter() - started
    return result


def respelled(task: Task, answer: str) -> Iterator[str]:
    """The same answer in other spellings, where the task's answers are mathematics."""
    if "\\boxed" not in task.respond("") and "####" not in task.respond(""):
        return
    if re.fullmatch(r"-?[0-9]+", answer):
        yield f"{answer}.0"
        yield f"{int(answer):,}"
        yield f"${answer}$" if "\\boxed" in task.respond("") else f"{answer}."
        return
    if task.name in ("countdown", "reasoning_gym"):
        return
    yield f" {answer} ".replace("\\frac", "\\dfrac").replace("(", "\\left( ").replace(")", " \\right)")
    form = answers.parse(answers.clean(answer))
    odd = re.search(r"\\text|\\mathrm|_|[a-zA-Z]{3}|\\pm|=", form.text)
    if form.kind == "value" and not odd and numbers.parse(answer) is None:
        yield f"0 + {form.text}"
    if form.kind == "list":
        yield ", ".join(part.text for part in reversed(form.parts))


def mutated(task: Task, problem: Problem, answer: str) -> Iterator[str]:
    """Answers that differ from the gold in value: a number changed, a sign turned, an item added, lost or moved."""
    if task.name == "decision":
        yield chr((ord(answer) - ord("a") + 1) % 8 + ord("a"))
        return
    seen = {answer}
    literals = list(re.finditer(r"(?<![0-9.])[0-9]+", answer))
    for match in (literals[:1] + literals[-1:]) if literals else ():
        changed = answer[: match.start()] + str(int(match.group()) + 1) + answer[match.end() :]
        if changed not in seen:
            seen.add(changed)
            yield changed
    if task.name == "countdown":
        return
    form = answers.parse(answers.clean(answer))
    if form.kind == "value" and numbers.parse(answer) is not None and re.search(r"[1-9]", answer):
        yield answer[1:] if answer.startswith("-") else f"-{answer}"
    if form.kind in ("list", "set"):
        texts = [part.text for part in form.parts]
        yield ", ".join(texts[:-1])
        yield ", ".join([*texts, "987654321"])
    elif len(form.kind) == 2 and form.kind[0] in "([" and len(form.parts) > 1:
        texts = [part.text for part in form.parts]
        if texts != texts[::-1]:
            yield form.kind[0] + ", ".join(reversed(texts)) + form.kind[1]
        yield form.kind[0] + ", ".join([*texts, "987654321"]) + form.kind[1]
        if len(texts) == 2 and "[" + "]" != form.kind:
            yield "[" + ", ".join(texts) + "]"
    elif not literals:
        yield answer + "987654321"
        yield "\\text{none}"
