"""Further responses that a credit method asks for, from the middle of those that it judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness import seeds
from harness.engines.base import decoded

if TYPE_CHECKING:
    from harness.engines.base import Engine
    from harness.experiment import Training
    from harness.runs.recorder import Rewards


@dataclass(frozen=True)
class Prefix:
    """The beginning of a response to a problem. prompt_ids: what the policy read; ids: what it had written."""

    problem: str
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]


def prefixes_of(batch: Any, places: Sequence[tuple[int, int]]) -> list[Prefix]:
    """The prefixes at `places` of a trainer's rollouts: a row, and how many of its response tokens are kept."""
    return [
        Prefix(
            batch.rows[row]["problem_id"],
            tuple(batch.prompt_ids[row]),
            tuple(batch.response_ids[row][:spent]),
        )
        for row, spent in places
    ]


def go_on(
    prefixes: Sequence[Prefix],
    count: int,
    engine: Engine,
    tokenizer: Any,
    rewards: Rewards,
    settings: Training,
    seed: int,
    step: int,
) -> tuple[list[list[float | None]], int]:
    """The rewards of `count` responses that go on from each prefix, None where one is not judged, and all their tokens.

    With at most the tokens that a response has left. The noise is named by the problem and the prefix: equal prefixes
    have one value, in whichever process they stand, and are sampled once.
    """
    wanted: dict[int, dict[tuple[str, tuple[int, ...]], Prefix]] = {}
    for prefix in prefixes:
        wanted.setdefault(len(prefix.ids), {})[prefix.problem, prefix.ids] = prefix
    paid: dict[tuple[str, tuple[int, ...]], list[float | None]] = {}
    tokens = 0
    for spent, named in sorted(
        wanted.items()
    ):  # prefixes of one length together: they have as many tokens left
        each = [prefix for prefix in named.values() for _ in range(count)]
        keys = [
            seeds.key("value", seed, step, problem, " ".join(map(str, ids)), number)
            for problem, ids in named
            for number in range(count)
        ]
        samples = engine.sample(
            [[*prefix.prompt_ids, *prefix.ids] for prefix in each],
            keys,
            replace(settings.sampling, max_new_tokens=settings.max_response_tokens - spent),
        )
        tokens += sum(len(sample.ids) for sample in samples)
        whole = [
            replace(sample, text=decoded(tokenizer, [*prefix.ids, *sample.ids]))
            for prefix, sample in zip(each, samples, strict=True)
        ]
        given = rewards.of(whole, [prefix.problem for prefix in each], keys)
        paid |= {name: given[index * count : (index + 1) * count] for index, name in enumerate(named)}
    return [paid[prefix.problem, prefix.ids] for prefix in prefixes], tokens
