"""The causal masking test: does an answer depend on the tokens that a credit method singles out?

For each response, a fifth of its tokens before the answer is hidden, and the answer is written anew. Arms differ only
in which tokens those are: the highest by a method, the lowest, random ones, or none at all, which shows how often an
answer changes by sampling noise only. The noise of a response's second answer has one key in all arms, so that arms
are coupled, and at temperature 0 there is none.

Published (Dong et al. 2026, arXiv 2606.10646): 20% of a response's tokens are masked, the response is "regenerated from
there", and high flow changes more answers than random tokens, which change more than low flow. Unpublished, and our
choice:

what is kept    everything before the answer's first token, the hidden tokens' places included; the answer and what
                follows it are regenerated. The answer's own tokens are never hidden: hiding them would say nothing.
masking         "attention": no position, before or after, attends to a hidden token, in any layer; positions stay.
                "deletion": the hidden tokens are taken out, and the rest moves together.
how many        floor(n / 5) of the n response tokens before the answer. Responses with fewer than five are left out and
                counted, and so are those without an answer and those on which a compared method abstains.
ranking         by weight; methods with two levels by the order in which tokens are up-weighted as their ratio grows.
                Equal tokens stand in the random arm's order.

A changed answer is another text of the extracted span, or none. A flip is a verdict that was correct and no longer is,
or the other way round. Intervals are over problems; differences are paired by response.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

import tasks
from flowtracer import contexts
from flowtracer.credit import CreditContext, CreditMethod
from flowtracer.credit.levels import TwoLevel, pool_size
from flowtracer.layout import turns_of
from flowtracer.weighing import read_responses
from harness import seeds
from harness.engines.base import Sample, Sampling, decoded
from harness.engines.keyed import sample
from harness.errors import ExperimentError
from harness.policy import Policy
from harness.studies.answering import Page
from harness.studies.arms import RULES
from leaderboards.estimates import Interval, problem_means, t_interval, wilson_interval
from leaderboards.names import hint
from leaderboards.sheets import Sheet, level

SHARE = 0.2
MASKINGS = ("attention", "deletion")
NONE, RANDOM = "none", "random"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Original:
    """A response that can be intervened on. prefix: its tokens before the answer; answer: the answer's text."""

    problem: tasks.Problem
    sample: int
    prompt_ids: list[int]
    ids: list[int]
    prefix: int
    answer: str
    correct: bool


@dataclass(frozen=True)
class Outcome:
    """The outcome of one response in one arm."""

    changed: bool
    lost: bool
    gained: bool

    @property
    def flipped(self) -> bool:
        """The verdict went from correct to another, or the other way round."""
        return self.lost or self.gained


@dataclass(frozen=True)
class Arm:
    """One arm over all responses. Shares with their intervals, and paired differences from the random arm."""

    name: str
    hidden: float
    changed: tuple[float, Interval | None]
    flipped: tuple[float, Interval | None]
    changed_over_random: tuple[float, Interval | None] | None
    flipped_over_random: tuple[float, Interval | None] | None
    lost: float
    gained: float


@dataclass(frozen=True)
class Intervention:
    """The whole test. left_out: reason -> responses; length: mean tokens before the answer; command: what made it."""

    policy: str
    task: str
    masking: str
    temperature: float
    problems: int
    responses: int
    correct: float
    length: float
    left_out: Mapping[str, int]
    arms: Sequence[Arm]
    command: str = ""


def ranking(method: CreditMethod, context: CreditContext) -> torch.Tensor:
    """Scores (B, T) by which `method` ranks the tokens of each response: higher is more credit."""
    if not isinstance(method, TwoLevel):
        return method(context)
    longest = int(context.response.sum(1).max())
    total = torch.zeros(context.response.shape)
    for count in range(1, longest + 1):
        # The sum of weights over all ratios: who is up-weighted first is up-weighted most often.
        graded = replace(method, ratio=count / longest, gamma=2.0, mean_one=False)
        total += graded(context).cpu()
    return total.to(context.response.device)


def originals(
    policy: Policy,
    task: tasks.Task,
    problems: Sequence[tasks.Problem],
    samples: int,
    sampling: Sampling,
    batch_size: int,
) -> tuple[list[Original], Counter[str]]:
    """Sampled responses that can be intervened on, and how many were left out and why.

    The noise is that of an evaluation: these are the answers that `flowtracer evaluate` judges.
    """
    asked = [(problem, number) for problem in problems for number in range(samples)]
    encoded = {problem.id: policy.encode(task.prompt(problem)) for problem in problems}
    prompts = [encoded[problem.id] for problem, _ in asked]
    keys = [seeds.key("evaluation", task.name, problem.id, number) for problem, number in asked]
    usable, left_out = [], Counter[str]()
    responses = _in_batches(policy, prompts, keys, sampling, batch_size)
    for (problem, number), prompt_ids, response in zip(asked, prompts, responses, strict=True):
        verdict = task.verify(problem, response.text, response.finish_reason)
        answer = _answer(task, response.text)
        located = contexts.locate(policy.tokenizer, task, response.ids, turns_of(None, len(response.ids)))
        prefix = min(located.answer, default=0)
        if answer is None:
            left_out["no answer"] += 1
        elif not int(pool_size(torch.tensor(prefix), SHARE)):
            left_out["fewer than five tokens before the answer"] += 1
        elif verdict in (tasks.Verdict.TIMEOUT, tasks.Verdict.ERROR):
            left_out["not judged"] += 1
        else:
            correct = verdict is tasks.Verdict.CORRECT
            usable.append(Original(problem, number, prompt_ids, response.ids, prefix, answer, correct))
    return usable, left_out


def _answer(task: tasks.Task, text: str) -> str | None:
    """The text of the answer in a response, None where it has none."""
    span = task.extract(text)
    return None if span is None else text[slice(*span)]


def intervene(
    policy: Policy,
    task: tasks.Task,
    problems: Sequence[tasks.Problem],
    methods: Mapping[str, CreditMethod],
    sampling: Sampling,
    samples: int = 4,
    masking: str = "attention",
    batch_size: int = 32,
    policy_name: str = "",
    progress: Progress = lambda done, total: None,
) -> Intervention:
    """The test with `samples` responses to each problem (1 at temperature 0) and the arms of every method.

    Raises ExperimentError for a masking that is none, a method that judges groups or rewards and not single responses,
    and where no response can be intervened on.
    """
    if masking not in MASKINGS:
        raise ExperimentError(f"unknown masking {masking!r}; {hint(masking, MASKINGS)}")
    if sampling.greedy and samples > 1:
        raise ExperimentError(
            f"{samples} samples at temperature 0 are duplicates: take 1, or a temperature above 0"
        )
    for label, method in methods.items():
        if method.scope != "response" or method.needs & {"advantage", "reward", "group"}:
            raise ExperimentError(
                f"credit {label} judges groups or rewards; this test is about single responses"
            )
    total = 3 + 3 * len(methods)
    usable, left_out = originals(policy, task, problems, samples, sampling, batch_size)
    progress(1, total)
    if not usable:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in left_out.items())
        raise ExperimentError(
            f"no response can be intervened on ({reasons}): take more problems or another task"
        )
    scores: dict[str, list[NDArray[np.float64]]] = {}
    judged = np.ones(len(usable), dtype=bool)
    for label, method in methods.items():
        scores[label], abstained = _scores(policy, task, usable, method, batch_size)
        judged[sorted(abstained)] = False
        progress(1 + len(scores), total)
    if not judged.all():
        left_out["an abstaining method"] = int((~judged).sum())
    rows = np.flatnonzero(judged).tolist()
    if not rows:
        raise ExperimentError("the methods abstain on every response: compare others")
    tested = [usable[row] for row in rows]
    hidden = _hidden(task, tested, {label: [values[row] for row in rows] for label, values in scores.items()})
    outcomes: dict[str, list[Outcome]] = {}
    for name, places in hidden.items():
        outcomes[name] = _regenerate(policy, task, tested, places, masking, sampling, batch_size)
        progress(1 + len(scores) + len(outcomes), total)
    names = [original.problem.id for original in tested]
    length = sum(original.prefix for original in tested)
    return Intervention(
        policy=policy_name,
        task=task.name,
        masking=masking,
        temperature=sampling.temperature,
        problems=len(set(names)),
        responses=len(tested),
        correct=float(np.mean([original.correct for original in tested])),
        length=length / len(tested),
        left_out=dict(left_out),
        arms=[
            _arm(name, of_arm, outcomes[RANDOM], names, sum(map(len, hidden[name])) / length)
            for name, of_arm in outcomes.items()
        ],
    )


def _hidden(
    task: tasks.Task, tested: Sequence[Original], scores: Mapping[str, Sequence[NDArray[np.float64]]]
) -> dict[str, list[list[int]]]:
    """The tokens that each arm hides in each response, by the name of the arm."""
    orders = [_order(task, original) for original in tested]
    hidden: dict[str, list[list[int]]] = {NONE: [[] for _ in tested]}
    hidden[RANDOM] = [
        _highest(np.zeros(original.prefix), order) for original, order in zip(tested, orders, strict=True)
    ]
    for label, of_method in scores.items():
        before = [values[: original.prefix] for values, original in zip(of_method, tested, strict=True)]
        for name, sign in (("highest", 1), ("lowest", -1)):
            hidden[f"{label}, {name}"] = [
                _highest(sign * values, order) for values, order in zip(before, orders, strict=True)
            ]
    return hidden


def _in_batches(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    sampling: Sampling,
    batch_size: int,
    hidden: Sequence[Sequence[int]] | None = None,
) -> list[Sample]:
    responses: list[Sample] = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        responses += sample(
            policy.model,
            policy.tokenizer,
            prompts[part],
            keys[part],
            sampling,
            hidden=None if hidden is None else hidden[part],
        )
    return responses


def _scores(
    policy: Policy, task: tasks.Task, responses: Sequence[Original], method: CreditMethod, batch_size: int
) -> tuple[list[NDArray[np.float64]], list[int]]:
    """The method's scores of each response, and the rows on which it abstains."""
    read = read_responses(
        policy.model,
        policy.tokenizer,
        [response.prompt_ids for response in responses],
        [response.ids for response in responses],
        method,
        task=task,
        questions=[response.problem.question for response in responses],
        batch_size=batch_size,
    )
    ranked = ranking(method, read.context).cpu().double().numpy()
    first = ranked.shape[1] - read.batch.length
    scores = [
        values[first : first + len(response.ids)] for values, response in zip(ranked, responses, strict=True)
    ]
    return scores, sorted(method.assess(read.context).abstentions)


def _order(task: tasks.Task, original: Original) -> NDArray[np.int64]:
    """The tokens before the answer in a random order, one for each response."""
    key = seeds.key("masking", task.name, original.problem.id, original.sample)
    return np.random.Generator(np.random.Philox(key=int(key, 16))).permutation(original.prefix)


def _highest(values: NDArray[np.float64], order: NDArray[np.int64]) -> list[int]:
    """Positions of the highest fifth of `values`, equal ones in the given order."""
    ranked = order[np.argsort(-values[order], kind="stable")]
    return sorted(ranked[: int(pool_size(torch.tensor(len(values)), SHARE))].tolist())


def _regenerate(
    policy: Policy,
    task: tasks.Task,
    tested: Sequence[Original],
    hidden: Sequence[Sequence[int]],
    masking: str,
    sampling: Sampling,
    batch_size: int,
) -> list[Outcome]:
    """Every response written anew from its answer on, with the `hidden` tokens of its prefix masked."""
    prefixes = [original.ids[: original.prefix] for original in tested]
    places = None
    if masking == "deletion":
        prefixes = [
            [token for position, token in enumerate(prefix) if position not in set(gone)]
            for prefix, gone in zip(prefixes, hidden, strict=True)
        ]
    else:
        places = [
            [len(original.prompt_ids) + position for position in gone]
            for original, gone in zip(tested, hidden, strict=True)
        ]
    keys = [seeds.key("intervention", task.name, original.problem.id, original.sample) for original in tested]
    prompts = [[*original.prompt_ids, *prefix] for original, prefix in zip(tested, prefixes, strict=True)]
    written = _in_batches(policy, prompts, keys, sampling, batch_size, places)
    outcomes = []
    for original, prefix, new in zip(tested, prefixes, written, strict=True):
        text = decoded(policy.tokenizer, [*prefix, *new.ids])
        answer = _answer(task, text)
        correct = task.verify(original.problem, text, new.finish_reason) is tasks.Verdict.CORRECT
        changed = answer is None or answer.strip() != original.answer.strip()
        outcomes.append(Outcome(changed, original.correct and not correct, correct and not original.correct))
    return outcomes


# ------------------------------------------------------------------------------------- figures


def share(values: Sequence[bool], problems: Sequence[str]) -> tuple[float, Interval | None]:
    """The mean over problems of each one's share, and its interval over problems (Wilson's where all are 0 or 1)."""
    means = list(problem_means(zip(problems, values, strict=True)).values())
    mean = float(np.mean(means))
    if len(means) < 2:
        return mean, None
    if set(means) <= {0.0, 1.0}:
        return mean, wilson_interval(round(sum(means)), len(means))
    # With one more problem at 0 and one at 1, as avg@k has it: shares heaped at one end make the plain one too short.
    around = t_interval([*means, 0.0, 1.0])
    assert around is not None
    return mean, (max(0.0, around[0]), min(1.0, around[1]))


def difference(
    values: Sequence[bool], others: Sequence[bool], problems: Sequence[str]
) -> tuple[float, Interval | None]:
    """The mean difference of two arms, paired by response, and Student's interval over problems."""
    differences = np.subtract(values, others, dtype=np.float64).tolist()
    means = list(problem_means(zip(problems, differences, strict=True)).values())
    return float(np.mean(means)), t_interval(means)


def _arm(
    name: str,
    outcomes: Sequence[Outcome],
    random: Sequence[Outcome],
    problems: Sequence[str],
    hidden: float,
) -> Arm:
    changed = [outcome.changed for outcome in outcomes]
    flipped = [outcome.flipped for outcome in outcomes]
    paired = name != RANDOM
    return Arm(
        name=name,
        hidden=hidden,
        changed=share(changed, problems),
        flipped=share(flipped, problems),
        changed_over_random=difference(changed, [outcome.changed for outcome in random], problems)
        if paired
        else None,
        flipped_over_random=difference(flipped, [outcome.flipped for outcome in random], problems)
        if paired
        else None,
        lost=share([outcome.lost for outcome in outcomes], problems)[0],
        gained=share([outcome.gained for outcome in outcomes], problems)[0],
    )


# ------------------------------------------------------------------------------------- in words


def facts(test: Intervention) -> list[str]:
    """The facts of the test, one line each."""
    lines = [
        f"policy {test.policy}; task {test.task}, temperature {test.temperature:g}; masking by {test.masking}",
        f"{test.responses} responses to {test.problems} problems, {test.correct:.1%} correct, "
        f"{test.length:.1f} tokens before the answer on average",
    ]
    return [*lines, *(f"left out: {count} responses: {reason}" for reason, count in test.left_out.items())]


LIMITS = (
    "A hidden token leaves a hole that the policy never met in training. An answer may change because of the hole: the "
    "random arm says how often.",
    "A token may decide and be stated twice: hiding one of them changes nothing.",
    "Only responses with an answer and at least five tokens before it are tested, and only those that every compared "
    "method judges.",
    "Nothing was trained: tokens that the answer depends on need not be those that credit should go to.",
    "One policy and one task.",
)


def page(test: Intervention) -> Page:
    """The test as a page."""
    simple = [arm for arm in test.arms if arm.name in (NONE, RANDOM) or arm.name.partition(",")[0] in RULES]
    others = [arm for arm in test.arms if arm not in simple]
    note = (
        "Shares of responses, percent, with 95% intervals over problems; differences are paired by response. Lost: "
        "correct before, not after; gained: the other way round."
    )
    return Page(
        title=f"Intervention on {test.task}",
        question="A fifth of a response's tokens before its answer is hidden, and the answer is written anew. Does it "
        "depend on the tokens that a credit method singles out, more than on random ones?",
        facts=facts(test),
        rules=sheet(
            "Nothing hidden, random tokens, and rules without insight",
            simple,
            "none: sampling noise only." if others else f"none: sampling noise only. {note}",
        ),
        sheets=[sheet("Credit methods", others, note)] if others else [],
        limits=LIMITS,
        command=test.command,
    )


def sheet(title: str, arms: Sequence[Arm], note: str) -> Sheet:
    """Arms as one table: how often hiding tokens changed the answer."""
    columns = ("hidden tokens", "share", "answer changes", "minus random", "verdict flips", "minus random")
    return Sheet(
        title,
        (*columns, "lost", "gained"),
        tuple(
            (
                arm.name,
                f"{arm.hidden:.0%}",
                _percent(arm.changed),
                _points(arm.changed_over_random),
                _percent(arm.flipped),
                _points(arm.flipped_over_random),
                f"{arm.lost:.1%}",
                f"{arm.gained:.1%}",
            )
            for arm in arms
        ),
        note,
    )


def _percent(value: tuple[float, Interval | None]) -> str:
    mean, interval = value
    around = "" if interval is None else f" [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]"
    return f"{100 * mean:.1f}{around}"


def _points(value: tuple[float, Interval | None] | None) -> str:
    if value is None:
        return level(None, None)
    mean, interval = value
    around = None if interval is None else (100 * interval[0], 100 * interval[1])
    return level(100 * mean, around, 1, "+")
