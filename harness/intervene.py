"""The causal masking test: does an answer depend on the tokens that a credit method singles out?

For each response, a fifth of its tokens before the answer is hidden, and the answer is written anew. Arms differ only
in which tokens those are: the highest by a method, the lowest, random ones, or none at all, which shows how often an
answer changes by sampling noise alone. The noise of a response's second answer has one key in all arms, so that arms
are coupled, and at temperature 0 there is none.

Published (Dong et al. 2026, arXiv 2606.10646): 20% of a response's tokens are masked, the response is "regenerated from
there", and high flow changes more answers than random tokens, which change more than low flow. Unpublished, and our
choice:

what is kept    everything before the answer's first token, the hidden tokens' places included; the answer and what
                follows it are regenerated. The answer's own tokens are never hidden: hiding them would say nothing.
masking         "attention": no position, before or after, attends to a hidden token, in any layer; positions stay.
                "deletion": the hidden tokens are taken out, and the rest moves together.
how many        floor(n / 5) of the n response tokens before the answer. Responses with less than five are left out and
                counted, and so are those without an answer and those on which a compared method abstains.
ranking         by weight; methods with two levels by the order in which tokens are raised as their ratio grows. Equal
                tokens stand in the random arm's order.

A changed answer is another text of the extracted span, or none. A flip is a verdict that was correct and no longer is,
or the other way round. Intervals are over problems; differences are paired by response.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import tasks
from flowtracer.credit import CreditContext, CreditMethod
from flowtracer.credit.levels import TwoLevel, pool_size
from flowtracer.spans import decode, tokens_in
from harness import seeds
from harness.engines.base import Sample, Sampling, decoded
from harness.engines.keyed import sample
from harness.errors import ExperimentError
from harness.experiment import Training
from harness.policy import Policy
from harness.replay import weigh
from leaderboards.estimates import Interval, t_interval, wilson_interval
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
    """What became of one response in one arm."""

    changed: bool
    lost: bool
    gained: bool

    @property
    def flipped(self) -> bool:
        """Whether the verdict went from correct to another, or the other way round."""
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
    """The whole test. left_out: reason -> responses; length: mean tokens before the answer."""

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


class _Ranking:
    """A credit method's ranking of the tokens, in place of its weights, for the trainer to compute."""

    def __init__(self, method: CreditMethod) -> None:
        self.method = method

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def __call__(self, context: CreditContext) -> torch.Tensor:
        return ranking(self.method, context)


def ranking(method: CreditMethod, context: CreditContext) -> torch.Tensor:
    """Scores (B, T) by which `method` ranks the tokens of each response: higher is more credit."""
    if not isinstance(method, TwoLevel):
        return method(context)
    longest = int(context.response.sum(1).max())
    total = torch.zeros(context.response.shape)
    for count in range(1, longest + 1):
        # The sum of weights over all ratios: who is raised first is raised most often.
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
) -> tuple[list[Original], list[dict[str, Any]], Counter[str]]:
    """Sampled responses that can be intervened on, all of them as rollout rows, and how many were left out and why.

    The noise is that of an evaluation: these are the answers that `flowtracer evaluate` judges.
    """
    asked = [(problem, number) for problem in problems for number in range(samples)]
    prompts = {problem.id: policy.encode(task.prompt(problem)) for problem in problems}
    keys = [seeds.key("evaluation", task.name, problem.id, number) for problem, number in asked]
    given = [prompts[problem.id] for problem, _ in asked]
    found, rows, left_out = [], [], Counter[str]()
    for (problem, number), key, one in zip(
        asked,
        keys,
        _in_batches(policy, given, keys, sampling, batch_size),
        strict=True,
    ):
        verdict = task.verify(problem, one.text, one.finish_reason)
        text, spans = decode(policy.tokenizer, one.ids)
        span = task.extract(text)
        prefix = min(tokens_in(spans, [span]), default=0) if span is not None else 0
        if span is None:
            left_out["no answer"] += 1
        elif not int(pool_size(torch.tensor(prefix), SHARE)):
            left_out["less than five tokens before the answer"] += 1
        elif verdict in (tasks.Verdict.TIMEOUT, tasks.Verdict.ERROR):
            left_out["not judged"] += 1
        else:
            answer, correct = text[slice(*span)], verdict is tasks.Verdict.CORRECT
            found.append(Original(problem, number, prompts[problem.id], one.ids, prefix, answer, correct))
            rows.append(
                {
                    "problem_id": problem.id,
                    "question": problem.question,
                    "prompt_ids": prompts[problem.id],
                    "response_ids": one.ids,
                    "sampler_logprobs": one.logprobs,
                    "reward": tasks.reward_of(verdict),
                    "key": key,
                }
            )
    return found, rows, left_out


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
        raise ExperimentError(f"unknown masking {masking!r}; known: {', '.join(MASKINGS)}")
    if sampling.greedy and samples > 1:
        raise ExperimentError(
            f"{samples} samples at temperature 0 are copies: take 1, or a temperature above 0"
        )
    for label, method in methods.items():
        if method.scope != "response" or method.needs & {"advantage", "reward", "group"}:
            raise ExperimentError(
                f"credit {label} judges groups or rewards; this test is about single responses"
            )
    total = 3 + 3 * len(methods)
    found, rows, left_out = originals(policy, task, problems, samples, sampling, batch_size)
    progress(1, total)
    if not found:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in left_out.items())
        raise ExperimentError(
            f"no response can be intervened on ({reasons}): take more problems or another task"
        )
    scores: dict[str, list[NDArray[np.float64]]] = {}
    judged = np.ones(len(found), dtype=bool)
    for label, method in methods.items():
        scores[label], abstained = _scores(policy, task, rows, method, batch_size)
        judged[sorted(abstained)] = False
        progress(1 + len(scores), total)
    if not judged.all():
        left_out["an abstaining method"] = int((~judged).sum())
    kept = np.flatnonzero(judged).tolist()
    if not kept:
        raise ExperimentError("the methods abstain on every response: compare others")

    orders = {index: _order(task, found[index]) for index in kept}
    chosen: dict[str, list[list[int]]] = {NONE: [[] for _ in kept]}
    chosen[RANDOM] = [_highest(np.zeros(found[index].prefix), orders[index]) for index in kept]
    for label, own in scores.items():
        before = [own[index][: found[index].prefix] for index in kept]
        pairs = list(zip(before, (orders[index] for index in kept), strict=True))
        chosen[f"{label}, highest"] = [_highest(values, order) for values, order in pairs]
        chosen[f"{label}, lowest"] = [_highest(-values, order) for values, order in pairs]
    outcomes: dict[str, list[Outcome]] = {}
    for name, hidden in chosen.items():
        outcomes[name] = _regenerate(
            policy,
            task,
            [found[index] for index in kept],
            hidden,
            masking,
            sampling,
            batch_size,
        )
        progress(1 + len(scores) + len(outcomes), total)
    names = [found[index].problem.id for index in kept]
    sizes = [found[index].prefix for index in kept]
    return Intervention(
        policy=policy_name,
        task=task.name,
        masking=masking,
        temperature=sampling.temperature,
        problems=len(set(names)),
        responses=len(kept),
        correct=float(np.mean([found[index].correct for index in kept])),
        length=float(np.mean(sizes)),
        left_out=dict(left_out),
        arms=[
            _arm(name, own, outcomes[RANDOM], names, sum(map(len, chosen[name])) / sum(sizes))
            for name, own in outcomes.items()
        ],
    )


def _in_batches(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    sampling: Sampling,
    batch_size: int,
    hidden: Sequence[Sequence[int]] | None = None,
) -> list[Sample]:
    found: list[Sample] = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        found += sample(
            policy.model,
            policy.tokenizer,
            prompts[part],
            keys[part],
            sampling,
            hidden=None if hidden is None else hidden[part],
        )
    return found


def _scores(
    policy: Policy, task: tasks.Task, rows: Sequence[Mapping[str, Any]], method: CreditMethod, batch_size: int
) -> tuple[list[NDArray[np.float64]], set[int]]:
    """Each response's scores by the trainer's own reading of it, and the rows on which the method abstains."""
    # The trainer wants full groups of at least two; what fills the last one up is dropped again.
    size = max(2, min(batch_size, len(rows)))
    padded = [*rows, *rows[: -len(rows) % size]] if len(rows) >= size else [*rows, *rows]
    batches = [padded[start : start + size] for start in range(0, len(padded), size)]
    settings = Training(
        steps=1,
        prompts_per_step=1,
        samples_per_prompt=size,
        max_response_tokens=max(len(row["response_ids"]) for row in rows),
        learning_rate=1.0,
    )
    passed = weigh(policy, task, settings, batches, _Ranking(method), gradients=False)  # type: ignore[arg-type]
    scores = [own.astype(np.float64) for batch in passed.weights for own in batch][: len(rows)]
    abstained = {batch * size + row for batch, row in passed.abstained}
    return scores, {row for row in abstained if row < len(rows)}


def _order(task: tasks.Task, one: Original) -> NDArray[np.int64]:
    """The tokens before the answer in a random order of this response's own."""
    key = seeds.key("masking", task.name, one.problem.id, one.sample)
    return np.random.Generator(np.random.Philox(key=int(key, 16))).permutation(one.prefix)


def _highest(values: NDArray[np.float64], order: NDArray[np.int64]) -> list[int]:
    """Positions of the highest fifth of `values`, equal ones in the given order."""
    ranked = order[np.argsort(-values[order], kind="stable")]
    return sorted(ranked[: int(pool_size(torch.tensor(len(values)), SHARE))].tolist())


def _regenerate(
    policy: Policy,
    task: tasks.Task,
    found: Sequence[Original],
    hidden: Sequence[Sequence[int]],
    masking: str,
    sampling: Sampling,
    batch_size: int,
) -> list[Outcome]:
    prefixes = [one.ids[: one.prefix] for one in found]
    places = None
    if masking == "deletion":
        prefixes = [
            [token for position, token in enumerate(prefix) if position not in set(gone)]
            for prefix, gone in zip(prefixes, hidden, strict=True)
        ]
    else:
        places = [
            [len(one.prompt_ids) + position for position in gone]
            for one, gone in zip(found, hidden, strict=True)
        ]
    keys = [seeds.key("intervention", task.name, one.problem.id, one.sample) for one in found]
    prompts = [[*one.prompt_ids, *prefix] for one, prefix in zip(found, prefixes, strict=True)]
    outcomes = []
    for one, prefix, new in zip(
        found,
        prefixes,
        _in_batches(policy, prompts, keys, sampling, batch_size, places),
        strict=True,
    ):
        text = decoded(policy.tokenizer, [*prefix, *new.ids])
        span = task.extract(text)
        correct = task.verify(one.problem, text, new.finish_reason) is tasks.Verdict.CORRECT
        changed = span is None or text[slice(*span)].strip() != one.answer.strip()
        outcomes.append(Outcome(changed, one.correct and not correct, correct and not one.correct))
    return outcomes


# ------------------------------------------------------------------------------------- figures


def share(values: Sequence[bool], problems: Sequence[str]) -> tuple[float, Interval | None]:
    """The mean over problems of each one's share, and its interval over problems (Wilson's where all are 0 or 1)."""
    means = _over_problems(values, problems)
    if len(means) < 2:
        return float(np.mean(means)), None
    if set(means) <= {0.0, 1.0}:
        return float(np.mean(means)), wilson_interval(round(sum(means)), len(means))
    # With one more problem at 0 and one at 1, as avg@k has it: shares heaped at one end make the plain one too short.
    around = t_interval([*means, 0.0, 1.0])
    assert around is not None
    return float(np.mean(means)), (max(0.0, around[0]), min(1.0, around[1]))


def difference(
    values: Sequence[bool], others: Sequence[bool], problems: Sequence[str]
) -> tuple[float, Interval | None]:
    """The mean difference of two arms, paired by response, and Student's interval over problems."""
    means = _over_problems(
        [float(one) - float(other) for one, other in zip(values, others, strict=True)], problems
    )
    return float(np.mean(means)), t_interval(means)


def _over_problems(values: Sequence[float], problems: Sequence[str]) -> list[float]:
    grouped: dict[str, list[float]] = {}
    for value, problem in zip(values, problems, strict=True):
        grouped.setdefault(problem, []).append(float(value))
    return [math.fsum(own) / len(own) for own in grouped.values()]


def _arm(
    name: str, own: Sequence[Outcome], random: Sequence[Outcome], problems: Sequence[str], hidden: float
) -> Arm:
    changed, flipped = [one.changed for one in own], [one.flipped for one in own]
    paired = name != RANDOM
    return Arm(
        name=name,
        hidden=hidden,
        changed=share(changed, problems),
        flipped=share(flipped, problems),
        changed_over_random=difference(changed, [one.changed for one in random], problems)
        if paired
        else None,
        flipped_over_random=difference(flipped, [one.flipped for one in random], problems)
        if paired
        else None,
        lost=share([one.lost for one in own], problems)[0],
        gained=share([one.gained for one in own], problems)[0],
    )


# ------------------------------------------------------------------------------------- in words


def facts(found: Intervention) -> list[str]:
    """What was done, one line a fact."""
    lines = [
        f"policy {found.policy}; task {found.task}, temperature {found.temperature:g}; masking by {found.masking}",
        f"{found.responses} responses to {found.problems} problems, {found.correct:.1%} correct, "
        f"{found.length:.1f} tokens before the answer on average",
    ]
    return [*lines, *(f"left out: {count} responses: {reason}" for reason, count in found.left_out.items())]


def sheets(found: Intervention) -> list[Sheet]:
    """The test as one small table."""
    return [
        Sheet(
            "What hiding tokens does to the answer",
            (
                "hidden tokens",
                "share",
                "answer changes",
                "minus random",
                "verdict flips",
                "minus random",
                "lost",
                "gained",
            ),
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
                for arm in found.arms
            ),
            "Shares of responses, percent, with 95% intervals over problems; differences are paired by response. Lost: "
            "correct before, not after; gained: the other way round. The first line is sampling noise.",
        )
    ]


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
