"""Problems, tasks and verdicts: the contract that every task file fulfils, and the registry of tasks."""

from __future__ import annotations

import importlib.metadata
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar

from tasks.hints import hint
from tasks.judging import Judging
from tasks.verdict import TaskError, Verdict, reward_of
from tasks.verify import spellings


@dataclass(frozen=True)
class Problem:
    """One item of a task.

    `id` is unique within the task and names the split (`gsm8k/test/17`); `gold` is the reference answer in the
    form the task's data set publishes it, so that a record of (question, gold) can be turned back into a problem.
    """

    id: str
    question: str
    gold: Any


class Task(ABC):
    """A benchmark: its problems, the prompt that asks for them, where the answer stands, and whether it is right.

    Subclasses state where the data comes from and implement `problems`, `extract` and `judge`; everything a
    trainer, an evaluation and a tracer need beyond that is derived here, so that reward, score and traced span
    can never disagree about what the answer is.

    A task may have `taught(question, gold) -> str`: the question as a credit method's teacher reads it, with the text
    of the gold in it. Without one the method's template says so, in English.
    """

    name: ClassVar[str]
    #: Who published the problems and how they were made.
    source: ClassVar[str]
    licence: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    #: How a response must mark its answer, in words a reader of a leaderboard understands.
    answer_format: ClassVar[str]
    #: Samples per problem that an evaluation needs before its mean means something (avg@k).
    samples: ClassVar[int] = 1
    #: True if a verdict can take long, in a process of its own: then it is worth asking for while others are written.
    slow: ClassVar[bool] = False
    #: The options that `get` built it with.
    chosen: Mapping[str, Any] = MappingProxyType({})
    #: Items left out because their published gold states no answer: pairs of (id, reason).
    unreadable: Sequence[tuple[str, str]] = ()
    #: Training problems left out because a test set contains them: pairs of (training id, test id).
    removed: Sequence[tuple[str, str]] = ()

    @abstractmethod
    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        """The problems of `split` in their published order, at most `limit` of them.

        Raises TaskError for an unknown split, and for data that cannot be found or read.
        """

    @abstractmethod
    def extract(self, text: str) -> tuple[int, int] | None:
        """Character span `(start, end)` of the answer in a response, or None. `judge` sees exactly that span."""

    @abstractmethod
    def judge(self, problem: Problem, answer: str) -> Verdict:
        """The verdict on an extracted answer: correct or wrong; timeout or error where it could not be judged."""

    def problem_from(self, question: str, gold: Any) -> Problem:
        """A problem that is not in the data set, from a question and a gold as the data set publishes it."""
        return Problem(id=f"{self.name}/given", question=question, gold=gold)

    def prompt(self, problem: Problem) -> str:
        """The question to the policy. A chat policy wraps it in its own template."""
        return problem.question

    def decisive(self, text: str) -> list[tuple[int, int]] | None:
        """Character spans of the tokens that decide a response's answer, where the task knows them; else None."""
        return None

    def gold_answer(self, problem: Problem) -> str | None:
        """The text of a right answer to `problem`, for validation; None where the gold states none."""
        return str(problem.gold)

    def respond(self, answer: str) -> str:
        """A response that marks `answer` as this task wants it marked."""
        return f"\\boxed{{{answer}}}"

    def respelled(self, answer: str) -> Iterator[str]:
        """A right answer in other spellings, for validation: all must verify."""
        return iter(())

    def changed(self, problem: Problem, answer: str) -> Iterator[str]:
        """Answers that differ from a right one in value, for validation: none may verify."""
        return spellings.others(answer)

    def lenient(self, text: str) -> tuple[int, int] | None:
        """Span of the answer where a reader would find one, marked or not: reported beside the strict one, never
        rewarded.
        """
        return self.extract(text)

    def verify(self, problem: Problem, text: str, finish_reason: str | None = None) -> Verdict:
        """The verdict on a whole response.

        An extracted answer is judged even if the text was cut off after it; without one, `finish_reason`
        `"length"` makes it truncated, anything else no_answer.
        """
        span = self.extract(text)
        if span is not None:
            return self.judge(problem, text[span[0] : span[1]])
        return Verdict.TRUNCATED if finish_reason == "length" else Verdict.NO_ANSWER

    def verify_all(
        self, items: Sequence[tuple[Problem, str, str | None]], seconds: float | None = None
    ) -> list[Verdict]:
        """The verdicts of many (problem, text, finish reason), such as a step's rollouts.

        What is not judged after `seconds` is a timeout, where a task's verifier can run long at all. An exception that
        a verifier raises is logged, and the verdict error.
        """
        judging = Judging(self)
        try:
            return judging.verdicts([judging.begin(*item) for item in items], seconds)
        finally:
            judging.close()

    def reward(self, problem: Problem, text: str, finish_reason: str | None = None) -> float | None:
        """1 for correct, None for error (unscorable: left out of the group's mean), else 0.

        A timeout earns 0 and not None: a policy must not gain by hanging its verifier.
        """
        return reward_of(self.verify(problem, text, finish_reason))

    def unknown_split(self, split: str) -> TaskError:
        """The error for a split that this task does not have."""
        return TaskError(f"task {self.name} has no split {split!r}; it has: {', '.join(self.splits)}")


_REGISTRY: dict[str, type[Task]] = {}


def register(task: type[Task]) -> type[Task]:
    """Class decorator: makes a task available by its name to `get`, the command line and experiment files.

    Raises TaskError for a name that is taken.
    """
    taken = _REGISTRY.setdefault(task.name, task)
    if taken is not task:
        raise TaskError(
            f"the task {task.name!r} of {task.__module__}.{task.__qualname__} is there already, as "
            f"{taken.__module__}.{taken.__qualname__}: give it another name"
        )
    return task


def names() -> list[str]:
    """Names of all registered tasks, sorted; those of installed packages too."""
    _load_installed()
    return sorted(_REGISTRY)


@cache
def _load_installed() -> None:
    """Imports what installed packages offer under the entry points of flowtracer.tasks: classes or modules."""
    for point in importlib.metadata.entry_points(group="flowtracer.tasks"):
        try:
            offer = point.load()
        except TaskError:
            raise
        except Exception as error:
            package = point.dist.name if point.dist else point.value
            raise TaskError(
                f"the installed package {package} offers the task {point.name} = {point.value}, which does not import "
                f"({type(error).__name__}: {error}): mend it, or pip uninstall {package}"
            ) from error
        if isinstance(offer, type) and issubclass(offer, Task):
            register(offer)


def kind(name: str) -> type[Task]:
    """The class of the task called `name`: source, licence and format, without loading anything."""
    if name not in _REGISTRY:
        _load_installed()
    if name not in _REGISTRY:
        raise TaskError(
            f"unknown task {name!r}; {hint(name, names())}; `flowtracer tasks` lists all; one of your own is imported "
            "first, by --import FILE or imports = [FILE] in the experiment file"
        )
    return _REGISTRY[name]


def get(name: str, **options: Any) -> Task:
    """The task called `name`, built with its options. Raises TaskError for an unknown name or option."""
    chosen = kind(name)
    known = inspect.signature(chosen).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in known.values())
    unknown = [] if takes_any else sorted(set(options) - set(known))
    if unknown:
        raise TaskError(
            f"task {name} has no option {unknown[0]!r}; {hint(unknown[0], known) if known else 'it takes none'}"
        )
    try:
        task = chosen(**options)
    except TypeError as error:
        raise TaskError(f"task {name} does not take these options ({error})") from None
    task.chosen = dict(options)
    return task
