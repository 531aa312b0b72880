"""Values: does the credit of a method go where a response's chance of being right changes?

The policy answers problems of a task. Each response is cut before the tokens of a probability below `UNSURE` (as SPO
does, Guo et al. 2025, arXiv 2505.23564), and the value of each cut is the mean reward of continuations from there (as
VinePPO does, Kazemnejad et al. 2024, arXiv 2410.01679, section 4). What lies between two cuts changes the value by
their difference, and every credit method's ranking of the same tokens is held against these changes (`value_figures`
defines the figures). Nothing is trained.

Only problems with right and wrong responses are valued: elsewhere the advantage is 0, and no credit does anything.
Continuations come in rounds of `HALF` for each of two halves, all responses before the next round, until the changes by
the two halves correlate as well as asked for, or there are as many continuations as asked for.

Everything is written to a journal as it comes: each response, each round of a response's continuations, each method's
scores of the responses to a few problems. The same command goes on from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import tasks
from flowtracer import credit
from flowtracer.credit import CreditMethod
from flowtracer.errors import CreditError
from flowtracer.spans import decode
from flowtracer.weighing import Read, read_responses
from harness import seeds
from harness.engines.base import Engine, Sample, Sampling
from harness.errors import ExperimentError
from harness.journal import Journal
from harness.policy import Policy
from harness.studies import steps
from harness.studies.figures import UNSURE, Level, group_advantages, unsure
from harness.studies.intervene import ranking
from harness.studies.rollouts import Progress, continued
from harness.studies.value_figures import (
    READINGS,
    Changes,
    Floats,
    Ranked,
    agreement,
    ceiling,
    ranked,
    rule_scores,
)

#: Continuations of each cut and half in one round.
HALF = 8
ROUND = 2 * HALF
#: Problems whose responses a method judges together, as a training step would hand them to it.
TOGETHER = 4
#: The fields that name a row of the journal.
NAMES = ("kind", "problem_id", "sample", "part")

Row = dict[str, Any]


def journal_in(path: Path | None = None, identity: Mapping[str, Any] | None = None) -> Journal:
    """The journal of a study, in memory where no file is given. Raises as `Journal` does."""
    return Journal(path, identity, NAMES, (), "record")


@dataclass(frozen=True)
class Asked:
    """The settings of a study.

    samples: responses to each problem. cuts: of a response, at most; of more unsure tokens, so many are drawn.
    continuations: of a cut, at most, a multiple of `ROUND`. agreement: of the two halves, from which on no further
    round is drawn. seed: the training seed whose first step the rollouts' noise is that of.

    Raises ExperimentError for values without meaning.
    """

    task: tasks.Task
    problems: Sequence[tasks.Problem]
    samples: int
    sampling: Sampling
    cuts: int = 48
    continuations: int = 2 * ROUND
    agreement: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampling.greedy:
            raise ExperimentError(
                "--temperature 0: all continuations of a cut would be duplicates; give more"
            )
        if self.samples < 2:
            raise ExperimentError(
                f"--samples {self.samples}: an advantage needs at least 2 responses a problem"
            )
        if self.cuts < 1:
            raise ExperimentError(f"--cuts {self.cuts}: give at least 1")
        if self.continuations < ROUND or self.continuations % ROUND:
            raise ExperimentError(
                f"--continuations {self.continuations}: they come in rounds of {ROUND}; give a multiple of it"
            )
        if not 0 < self.agreement <= 1:
            raise ExperimentError(f"--agreement {self.agreement:g}: give a number above 0 and up to 1")

    @property
    def longest(self) -> int:
        """Tokens of the longest response."""
        return self.sampling.max_new_tokens


# ------------------------------------------------------------------------------------- responses and their values


def rollouts(
    policy: Policy,
    engine: Engine,
    asked: Asked,
    journal: Journal,
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """The responses to all problems, by problem and sample; those that the journal lacks are sampled.

    A row is one of the record's table of rollouts. Raises as the engine does.
    """
    prompts = {problem.id: policy.encode(asked.task.prompt(problem)) for problem in asked.problems}
    wanted = [(problem, number) for problem in asked.problems for number in range(asked.samples)]
    missing = [pair for pair in wanted if ("rollout", pair[0].id, pair[1], 0) not in journal.rows]
    keys = [seeds.key("rollout", asked.seed, 0, problem.id, number) for problem, number in missing]
    done = len(wanted) - len(missing)

    def finished(index: int, sample: Sample) -> None:
        nonlocal done
        problem, number = missing[index]
        (verdict,) = asked.task.verify_all([(problem, sample.text, sample.finish_reason)])
        journal.add(
            {
                "kind": "rollout",
                "problem_id": problem.id,
                "sample": number,
                "part": 0,
                "key": keys[index],
                "response_ids": sample.ids,
                "sampler_logprobs": sample.logprobs,
                "text": sample.text,
                "finish_reason": sample.finish_reason,
                "verdict": str(verdict),
                "reward": tasks.reward_of(verdict),
            }
        )
        done += 1
        progress(done, len(wanted))

    if missing:
        engine.sample([prompts[problem.id] for problem, _ in missing], keys, asked.sampling, finished)
    return [
        {**journal.rows["rollout", problem.id, number, 0], "prompt_ids": prompts[problem.id]}
        for problem, number in wanted
    ]


def with_signal(rows: Sequence[Row]) -> list[Row]:
    """The responses to problems that have right and wrong ones.

    Raises ExperimentError where there are none: no response has an advantage.
    """
    rewards: dict[str, set[float]] = {}
    for row in rows:
        if row["reward"] is not None:
            rewards.setdefault(row["problem_id"], set()).add(row["reward"])
    chosen = [row for row in rows if len(rewards.get(row["problem_id"], ())) > 1]
    if not chosen:
        right = sum(row["reward"] == 1 for row in rows)
        raise ExperimentError(
            f"no problem has right and wrong responses ({right} of {len(rows)} are right): take more problems or "
            "samples, or a task that the policy half solves"
        )
    return chosen


def cuts_of(row: Mapping[str, Any], most: int) -> list[int]:
    """The tokens before which a response is cut, ascending: the unsure ones, or `most` of them drawn by its key."""
    places = np.flatnonzero(unsure(row["sampler_logprobs"])).tolist()
    if len(places) > most:
        places = sorted(places, key=lambda place: seeds.key("cut", row["key"], place))[:most]
    return sorted(places)


def measure(
    policy: Policy,
    engine: Engine,
    context: int,
    asked: Asked,
    rows: Sequence[Row],
    journal: Journal,
    progress: Progress = lambda done, total: None,
) -> tuple[list[Changes | None], int]:
    """The changes by the segments of each of `rows`, and how many continuations of each cut say so.

    None for a response without a cut, and where a value could not be judged. context: tokens that the engine takes.
    Rounds that the journal lacks are sampled, one response after the other.
    """
    problems = {problem.id: problem for problem in asked.problems}
    cut = [row for row in rows if cuts_of(row, asked.cuts) and row["reward"] is not None]
    rounds = asked.continuations // ROUND
    for part in range(rounds):
        for index, row in enumerate(cut):
            if ("values", row["problem_id"], row["sample"], part) not in journal.rows:
                journal.add(_round(policy, engine, context, asked, problems, row, part))
            progress(part * len(cut) + index + 1, rounds * len(cut))
        changes = _changes(asked, rows, journal, part + 1)
        reached = agreement([change for change in changes if change is not None])
        if part + 1 == rounds or (reached is not None and reached[0] >= asked.agreement):
            return changes, (part + 1) * ROUND
    raise AssertionError("at least one round")


def _round(
    policy: Policy,
    engine: Engine,
    context: int,
    asked: Asked,
    problems: Mapping[str, tasks.Problem],
    row: Row,
    part: int,
) -> Row:
    """One round of continuations of a response, for the journal."""

    def draw(prompts: Sequence[Sequence[int]], keys: Sequence[str], tokens: int) -> list[Sample]:
        return engine.sample(prompts, keys, replace(asked.sampling, max_new_tokens=tokens))

    began, cuts = time.perf_counter(), cuts_of(row, asked.cuts)
    rewards: list[list[float | None]] = []
    for together in bands(cuts, context - len(row["prompt_ids"]) - asked.longest):
        places = [
            (row, spent, number) for spent in together for number in range(part * ROUND, (part + 1) * ROUND)
        ]
        judged = continued(draw, policy.tokenizer, asked.task, problems, places, asked.longest)
        plain = [None if math.isnan(reward) else reward for reward in judged]
        rewards += [plain[first : first + ROUND] for first in range(0, len(plain), ROUND)]
    return {
        "kind": "values",
        "problem_id": row["problem_id"],
        "sample": row["sample"],
        "part": part,
        "cuts": cuts,
        "rewards": rewards,
        "seconds": time.perf_counter() - began,
    }


def bands(cuts: Sequence[int], room: int) -> list[list[int]]:
    """Ascending cuts, those together that can be sampled with one limit: they lie at most `room` tokens apart."""
    parts: list[list[int]] = []
    for cut in cuts:
        if not parts or cut - parts[-1][0] > room:
            parts.append([])
        parts[-1].append(cut)
    return parts


def _changes(asked: Asked, rows: Sequence[Row], journal: Journal, rounds: int) -> list[Changes | None]:
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(row["problem_id"], len(numbers)) for row in rows])
    rewards = np.array([math.nan if row["reward"] is None else row["reward"] for row in rows])
    advantages = group_advantages(rewards, groups)
    changes: list[Changes | None] = []
    for row, advantage in zip(rows, advantages, strict=True):
        cuts = cuts_of(row, asked.cuts)
        if not cuts or row["reward"] is None:
            changes.append(None)
            continue
        parts = [
            journal.rows["values", row["problem_id"], row["sample"], part]["rewards"]
            for part in range(rounds)
        ]
        drawn = np.concatenate([np.array(part, dtype=np.float64) for part in parts], axis=1)
        changes.append(changes_of(row, cuts, drawn, float(np.sign(advantage))))
    return changes


def changes_of(
    row: Mapping[str, Any], cuts: Sequence[int], drawn: Floats, direction: float
) -> Changes | None:
    """The changes by a response's segments. drawn: (m, K) rewards of the continuations of m cuts, round after round.

    None where a cut has no continuation that could be judged, in either half.
    """
    second = (np.arange(drawn.shape[1]) // HALF) % 2 == 1
    parts = [drawn, drawn[:, ~second], drawn[:, second]]
    if any(np.isnan(part).all(axis=1).any() for part in parts):
        return None
    whole, *halves = ([*np.nanmean(part, axis=1), row["reward"]] for part in parts)
    return Changes(
        problem=row["problem_id"],
        places=list(cuts),
        length=len(row["response_ids"]),
        values=np.array(whole, dtype=np.float64),
        halves=np.array(halves, dtype=np.float64),
        direction=direction,
        right=row["reward"] == 1,
    )


# ------------------------------------------------------------------------------------- what methods say

#: For each response the scores of its tokens, None where the method abstains.
Scores = list[Floats | None]


def methods_of(wanted: Sequence[str] | None) -> dict[str, CreditMethod]:
    """Every registered method and the variants of flow, or those that are wanted and flow; entropy, a rule, always."""
    return {**steps.methods_of(wanted), "entropy": credit.get("entropy")}


def weigh(
    policy: Policy,
    asked: Asked,
    rows: Sequence[Row],
    methods: Mapping[str, CreditMethod],
    journal: Journal,
    batch_size: int = 16,
    progress: Progress = lambda done, total: None,
) -> tuple[dict[str, Scores], dict[str, str]]:
    """Each method's ranking of the tokens of `rows`; and the methods that cannot judge them, with the reason.

    A method sees the responses to `TOGETHER` problems at once. What the journal lacks is computed; it costs forwards
    without gradient, not the trainer's loss, which no ranking needs.
    """
    chunks = _chunks(asked, rows)
    scores: dict[str, Scores] = {}
    left_out: dict[str, str] = {}
    for place, (name, method) in enumerate(methods.items()):
        if "decisive" in method.needs and any(asked.task.decisive(row["text"]) is None for row in rows):
            left_out[name] = f"task {asked.task.name} does not know its decisive tokens"
            continue
        of_method: Scores = []
        try:
            for number, chunk in enumerate(chunks):
                key = ("weights", chunk[0]["problem_id"], len(chunk), name)
                if key not in journal.rows:
                    weighed = _scores(policy, asked, chunk, method, batch_size)
                    journal.add({**dict(zip(NAMES, key, strict=True)), "scores": weighed})
                of_method += [
                    None if of_response is None else np.array(of_response, dtype=np.float64)
                    for of_response in journal.rows[key]["scores"]
                ]
                progress(place * len(chunks) + number + 1, len(methods) * len(chunks))
        except CreditError as error:
            left_out[name] = str(error)
            continue
        scores[name] = of_method
    return scores, left_out


def _chunks(asked: Asked, rows: Sequence[Row]) -> list[list[Row]]:
    """The responses to `TOGETHER` problems each, by the problems' places: more problems change none but the last."""
    places = {problem.id: place for place, problem in enumerate(asked.problems)}
    chunks: dict[int, list[Row]] = {}
    for row in rows:
        chunks.setdefault(places[row["problem_id"]] // TOGETHER, []).append(row)
    return list(chunks.values())


def _scores(
    policy: Policy, asked: Asked, chunk: Sequence[Row], method: CreditMethod, batch_size: int
) -> list[list[float] | None]:
    read = _read(policy, asked, chunk, method, batch_size)
    of_tokens = ranking(method, read.context).cpu().double().numpy()
    silent = method.assess(read.context).abstentions
    return [
        None if index in silent else steps.of_response(of_tokens[index], read, index).tolist()
        for index in range(len(chunk))
    ]


def _read(policy: Policy, asked: Asked, chunk: Sequence[Row], method: CreditMethod, batch_size: int) -> Read:
    problems = {problem.id: problem for problem in asked.problems}
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(row["problem_id"], len(numbers)) for row in chunk]
    rewards = np.array([math.nan if row["reward"] is None else row["reward"] for row in chunk])
    return read_responses(
        policy.model,
        policy.tokenizer,
        [row["prompt_ids"] for row in chunk],
        [row["response_ids"] for row in chunk],
        method,
        task=asked.task,
        rewards=[row["reward"] for row in chunk],
        advantages=group_advantages(rewards, np.array(groups)).tolist(),
        groups=groups,
        questions=[problems[row["problem_id"]].question for row in chunk],
        golds=[asked.task.gold_answer(problems[row["problem_id"]]) or "" for row in chunk],
        temperature=asked.sampling.temperature,
        seed=asked.seed,
        batch_size=batch_size,
    )


# ------------------------------------------------------------------------------------- the study


@dataclass(frozen=True)
class Values:
    """The study. rules, methods: one a reading. halves: agreement of the two halves of the continuations.

    responses: all, by verdict. signal: those to problems with right and wrong ones; ranked: those of them that could be
    cut and judged. cuts: of these, in all. falls: responses with a first fall. seconds: of all continuations.
    """

    rules: Sequence[Ranked]
    methods: Sequence[Ranked]
    halves: Level
    reached: bool
    continuations: int
    problems: int
    responses: Mapping[str, int]
    signal: int
    with_signal: int
    ranked: int
    cuts: int
    falls: int
    seconds: float
    left_out: Mapping[str, str]


def study(
    policy: Policy,
    asked: Asked,
    rows: Sequence[Row],
    chosen: Sequence[Row],
    changes: Sequence[Changes | None],
    continuations: int,
    weights: tuple[Mapping[str, Scores], Mapping[str, str]],
    journal: Journal,
) -> Values:
    """The figures, from all responses, the `chosen` ones with signal, and their changes and scores in the same order.

    Raises ExperimentError where no response can be ranked.
    """
    valued = [index for index, change in enumerate(changes) if change is not None]
    judged = [change for change in changes if change is not None]
    if not judged:
        raise ExperimentError(
            f"no response has a token of probability below {UNSURE:g}: there is nothing to cut; sample at a higher "
            "--temperature"
        )
    rules = _of_rules(policy, [chosen[index] for index in valued])
    scores, left_out = weights
    if "entropy" in scores:
        rules["entropy"] = [scores["entropy"][index] for index in valued]
    of_methods = {name: [of_method[index] for index in valued] for name, of_method in scores.items()}
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    halves = agreement(judged)
    used = [row for row in journal.rows.values() if row["kind"] == "values"]
    return Values(
        rules=_rankings(judged, rules),
        methods=[ceiling(judged), *_rankings(judged, of_methods)],
        halves=halves,
        reached=halves is not None and halves[0] >= asked.agreement,
        continuations=continuations,
        problems=len(asked.problems),
        responses=counts,
        signal=len({row["problem_id"] for row in chosen}),
        with_signal=len(chosen),
        ranked=len(judged),
        cuts=sum(len(change.places) for change in judged),
        falls=sum(change.fall is not None and len(change.places) > 1 for change in judged),
        seconds=math.fsum(row["seconds"] for row in used),
        left_out={
            **left_out,
            **{
                name: "measures such values itself, by further rollouts of the training"
                for name in credit.names()
                if "values" in credit.get(name).needs
            },
        },
    )


def _of_rules(policy: Policy, rows: Iterable[Row]) -> dict[str, Scores]:
    rules: dict[str, Scores] = {}
    for row in rows:
        text, spans = decode(policy.tokenizer, list(row["response_ids"]))
        pieces = [text[start:end] for start, end in spans]
        for name, of_tokens in rule_scores(pieces, row["sampler_logprobs"], row["key"]).items():
            rules.setdefault(name, []).append(of_tokens)
    return rules


def _rankings(judged: Sequence[Changes], scores: Mapping[str, Scores]) -> list[Ranked]:
    return [
        ranked(name, reading, judged, of_name) for reading in READINGS for name, of_name in scores.items()
    ]
