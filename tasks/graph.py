"""Graph: reasoning whose dependencies are known, token by token.

A prompt defines variables in shuffled order, some of them useless, and asks for one: `b=a+3;d=c*2;a=4;c=b+a?c`. A
response works them out, each step the definition, the same with values, and the value modulo 10, so that a value is one
token: `a=4;b=a+3=4+3=7;c=b+a=7+4=1#1`. What a policy has to plan is which variable comes next: an operand that no step
has worked out can only be guessed.

For every response the task knows the true sources of each token that is copied or computed, which steps are needed and
which are not, and the first step that is wrong. The decisive tokens are the letters that open a step.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

from tasks.problem import Problem, Task, register
from tasks.verdict import TaskError, Verdict

NAMES = "abcdefgh"
#: How many variables a prompt defines, the first of them by a value, and how many its question needs at least.
VARIABLES, VALUES, NEEDED = (5, 6), 2, 3
OPERATIONS = {"+": int.__add__, "*": int.__mul__}
TRAIN_PROBLEMS, TEST_PROBLEMS = 8192, 512
#: In a demonstration: how often a needed step is left out, and how often a useless one is worked out.
SKIPPED, ADDED = 0.3, 0.3

#: The roles of the tokens that `Graph.sources` knows: copied from the prompt; an operation or a number, copied from the
#: definition that the step has just restated; an operand looked up in the step that worked it out; computed; copied
#: from the last step.
ROLES = ("definition", "restated", "operand", "result", "answer")

_STEP = re.compile(r"([a-h])=(?:(\d)|([a-h])([+*])([a-h\d])=(\d)([+*])(\d)=(\d))")
_RESPONSE = re.compile(f"(?:{_STEP.pattern};)*{_STEP.pattern}#(\\d)")


@dataclass(frozen=True)
class Step:
    """One step of a response: its characters from `start` to `end`, and what it claims.

    value: where the claimed value stands. right: whether that is the variable's true value. needed: whether the asked
    variable depends on this one. workable: whether earlier steps stated every operand. faithful: whether the mechanics
    are right, whatever the plan: the definition is the prompt's, stated operands have the values that were stated
    last, and the value follows.
    """

    start: int
    end: int
    variable: str
    value: int
    right: bool
    needed: bool
    workable: bool
    faithful: bool


@dataclass(frozen=True)
class System:
    """The definitions of a prompt: variable -> its right-hand side, and the variable asked for."""

    question: str

    @cached_property
    def definitions(self) -> Mapping[str, str]:
        """Variable -> `4` or `a+3`, in the prompt's order."""
        return {part[0]: part[2:] for part in self.question[:-2].split(";")}

    @property
    def asked(self) -> str:
        """The variable that the question asks for."""
        return self.question[-1]

    def place(self, variable: str) -> int:
        """Where the definition of a variable starts in the prompt."""
        return self.question.index(f"{variable}=")

    def operands(self, variable: str) -> list[str]:
        """The variables that a definition reads; none where it states a value."""
        return [item for item in self.definitions[variable] if item in NAMES]

    @cached_property
    def needed(self) -> frozenset[str]:
        """The asked variable and everything that it depends on."""
        reached, waiting = set[str](), [self.asked]
        while waiting:
            variable = waiting.pop()
            if variable not in reached:
                reached.add(variable)
                waiting += self.operands(variable)
        return frozenset(reached)

    def value(self, variable: str, known: Mapping[str, int] | None = None) -> int:
        """The value of a variable modulo 10; operands in `known` are taken from there."""
        right = self.definitions[variable]
        if len(right) == 1:
            return int(right)
        left, sign, other = tuple(right)
        values = [
            int(item)
            if item.isdigit()
            else known[item]
            if known and item in known
            else self.value(item, known)
            for item in (left, other)
        ]
        return OPERATIONS[sign](*values) % 10


def _system(source: random.Random) -> System:
    """A system whose question needs some variables and leaves at least one useless."""
    while True:
        names = source.sample(NAMES, source.randint(*VARIABLES))
        definitions = []
        for index, name in enumerate(names):
            if index < VALUES:
                definitions.append(f"{name}={source.randrange(10)}")
            else:
                other = source.choice([*names[:index], str(source.randrange(2, 10))])
                definitions.append(f"{name}={source.choice(names[:index])}{source.choice('+*')}{other}")
        source.shuffle(definitions)
        system = System(";".join(definitions) + "?" + source.choice(names[VALUES:]))
        if NEEDED <= len(system.needed) < len(names):
            return system


@cache
def _questions() -> list[str]:
    """The questions of both splits, the test split first; none occurs twice."""
    source = random.Random("graph/problems")
    questions: dict[str, None] = {}
    while len(questions) < TEST_PROBLEMS + TRAIN_PROBLEMS:
        questions[_system(source).question] = None
    return list(questions)


def _order(system: System, source: random.Random) -> list[str]:
    """All variables in a random order in which every operand comes before what reads it."""
    waiting, order = list(system.definitions), list[str]()
    while waiting:
        ready = [
            variable for variable in waiting if all(operand in order for operand in system.operands(variable))
        ]
        order.append(source.choice(ready))
        waiting.remove(order[-1])
    return order


def worked(question: str, variables: Sequence[str], guesses: random.Random | None = None) -> str:
    """The response that works out `variables` in that order, the asked one last.

    An operand that no earlier step states is drawn from `guesses`; without it, it has its true value.
    """
    system, known, steps = System(question), dict[str, int](), list[str]()
    for variable in variables:
        right = system.definitions[variable]
        for operand in system.operands(variable):
            if operand not in known and guesses is not None:
                known[operand] = guesses.randrange(10)
        value = system.value(variable, known)
        stated = "".join(
            str(known.get(item, system.value(item))) if item in NAMES else item for item in right
        )
        steps.append(f"{variable}={right}" if len(right) == 1 else f"{variable}={right}={stated}={value}")
        known = {name: known[name] for name in known if name in variables[: len(steps)]} | {variable: value}
    return ";".join(steps) + f"#{known[variables[-1]]}"


@register
class Graph(Task):
    """Generated; 8,192 systems of five or six variables to train, 512 others to test."""

    name: ClassVar[str] = "graph"
    source: ClassVar[str] = "generated by this file"
    licence: ClassVar[str] = "Apache-2.0"
    answer_format: ClassVar[str] = "the digit after #"

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        questions = _questions()
        chosen = questions[:TEST_PROBLEMS] if split == "test" else questions[TEST_PROBLEMS:]
        return [
            self._problem(question, f"graph/{split}/{index}") for index, question in enumerate(chosen[:limit])
        ]

    @staticmethod
    def _problem(question: str, name: str) -> Problem:
        system = System(question)
        return Problem(id=name, question=question, gold=str(system.value(system.asked)))

    def problem_from(self, question: str, gold: Any) -> Problem:
        if str(gold) not in tuple("0123456789"):
            raise TaskError(f"task graph: gold must be one digit, not {gold!r:.60}")
        return super().problem_from(question, str(gold))

    def extract(self, text: str) -> tuple[int, int] | None:
        match = _RESPONSE.fullmatch(text)
        return None if match is None else (len(text) - 1, len(text))

    def taught(self, question: str, gold: str) -> str:
        """The question as a credit method's teacher reads it, in characters that the small policy knows."""
        return question + gold

    def judge(self, problem: Problem, answer: str) -> Verdict:
        return Verdict.CORRECT if answer == problem.gold else Verdict.WRONG

    def respond(self, answer: str) -> str:
        return f"a=0#{answer}"

    def decisive(self, text: str) -> list[tuple[int, int]] | None:
        starts = [0, *(mark.end() for mark in re.finditer(";", text))]
        return [(start, start + 1) for start in starts if text[start : start + 1] in tuple(NAMES)]

    def steps(self, problem: Problem, text: str) -> list[Step]:
        """The steps of a response up to the first that is cut off or malformed.

        A step that works out what the prompt does not define is neither right nor needed nor workable nor faithful.
        """
        system = System(problem.question)
        steps, stated, start = list[Step](), dict[str, str](), 0
        while match := _STEP.match(text, start):
            variable, end = match[1], match.end()
            defined = variable in system.definitions
            steps.append(
                Step(
                    start=start,
                    end=end,
                    variable=variable,
                    value=end - 1,
                    right=defined and int(text[end - 1]) == system.value(variable),
                    needed=variable in system.needed,
                    workable=defined and set(stated).issuperset(system.operands(variable)),
                    faithful=defined and _faithful(system.definitions[variable], match[0], stated),
                )
            )
            stated[variable] = text[end - 1]
            if text[end : end + 1] != ";":
                break
            start = end + 1
        return steps

    def first_wrong(self, problem: Problem, text: str) -> Step | None:
        """The first step that claims a wrong value; None where every step is right."""
        return next((step for step in self.steps(problem, text) if not step.right), None)

    def sources(self, problem: Problem, text: str) -> dict[int, list[int]]:
        """Where each copied or computed token of a response comes from.

        Position in the prompt followed by the response -> the positions before it that its content is taken from: the
        definition's token for a restated definition, the value that a step stated for a restated operand, operands and
        operation for a result, the last stated value for the answer. A guessed operand has no source and is left out,
        and so are the tokens that every response has (`=`, `;`, `#`) and the letters that open a step.
        """
        system, before = System(problem.question), len(problem.question)
        sources: dict[int, list[int]] = {}
        values: dict[str, int] = {}
        for step in self.steps(problem, text):
            if step.variable in system.definitions:
                definition = system.place(step.variable) + 2
                sources |= _of_step(text, step, definition, before, values)
            values[step.variable] = before + step.value
        span = self.extract(text)
        if span is not None and system.asked in values:
            sources[before + span[0]] = [values[system.asked]]
        return sources

    def roles(self, problem: Problem, text: str) -> dict[int, str]:
        """The role, of `ROLES`, of each token that `sources` knows, by position in prompt and response."""
        before, last = len(problem.question), len(problem.question) + len(text) - 1
        roles = {}
        for position, sources in self.sources(problem, text).items():
            if len(sources) > 1:
                roles[position] = "result"
            elif sources[0] < before:
                roles[position] = "definition"
            elif position == last:
                roles[position] = "answer"
            else:
                # The definition that the step has just restated stands four tokens before its values.
                roles[position] = "restated" if position - sources[0] == len("3=4+") else "operand"
        return roles

    def demonstrations(self, count: int, seed: str) -> list[tuple[str, str]]:
        """`count` pairs of prompt and response for a warm start; no prompt of the test split is among them."""
        source = random.Random(f"graph/demonstrations/{seed}")
        held_out = {problem.question for problem in self.problems("test")}
        pairs: list[tuple[str, str]] = []
        while len(pairs) < count:
            pair = self.demonstration(source)
            if pair[0] not in held_out:
                pairs.append(pair)
        return pairs

    @staticmethod
    def demonstration(source: random.Random, skipped: float = SKIPPED) -> tuple[str, str]:
        """A prompt and a response.

        The steps stand in a random order that works, but needed ones are missing, each with the chance `skipped`, and
        useless ones are added at random: the mechanics are always right, the plan is left to chance.
        """
        system = _system(source)
        return system.question, worked(system.question, _plan(system, skipped, source), source)


def _plan(system: System, skipped: float, source: random.Random) -> list[str]:
    """The variables of a demonstration in its order, the asked one last. skipped: how often a needed one is missing."""
    order = [variable for variable in _order(system, source) if variable != system.asked]
    chosen = [
        variable
        for variable in order
        if source.random() < (1 - skipped if variable in system.needed else ADDED)
    ]
    return [*chosen, system.asked]


def _faithful(definition: str, step: str, stated: Mapping[str, str]) -> bool:
    """True if a step restates `definition` with the values that were stated, and computes its value from them."""
    _, restated, *rest = step.split("=")
    if restated != definition or not rest:
        return restated == definition
    (left, sign, other), value = tuple(rest[0]), rest[1]
    operands = all(
        given == stated.get(name, name if name.isdigit() else given)
        for name, given in ((definition[0], left), (definition[2], other))
    )
    return operands and sign == definition[1] and int(value) == OPERATIONS[sign](int(left), int(other)) % 10


def _of_step(
    text: str, step: Step, definition: int, before: int, values: Mapping[str, int]
) -> dict[int, list[int]]:
    """The sources of one step's tokens, by position in prompt and response."""
    at = before + step.start
    if step.end - step.start == len("a=4"):
        return {at + 2: [definition]}
    # a = b + 3 = 7 + 3 = 0
    # 0 1 2 3 4 5 6 7 8 9 10
    sources = {at + 2 + index: [definition + index] for index in range(3)}
    for index in (0, 2):
        operand = text[step.start + 2 + index]
        if operand.isdigit():
            sources[at + 6 + index] = [at + 2 + index]
        elif operand in values:
            sources[at + 6 + index] = [values[operand]]
    return sources | {at + 7: [at + 3], at + 10: [at + 6, at + 7, at + 8]}
