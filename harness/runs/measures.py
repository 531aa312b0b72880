"""The columns of a step's row that its rollouts give."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import tasks


def measures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of a step's row that its rollouts, rows of the record, give."""
    verdicts = Counter(row["verdict"] for row in rows)
    responses, group = [row["response_ids"] for row in rows], [row["group"] for row in rows]
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    groups: dict[int, set[float]] = {}
    for row in rows:
        if row["reward"] is not None:
            groups.setdefault(row["group"], set()).add(row["reward"])
    gaps = [
        abs(ours - theirs)
        for row in rows
        for ours, theirs in zip(row["sampler_logprobs"], row["trainer_logprobs"], strict=True)
    ]
    tokens = sum(map(len, responses))
    return {
        "reward": sum(rewards) / len(rewards) if rewards else math.nan,
        "response_length": tokens / len(rows),
        **{str(verdict): verdicts.get(verdict, 0) for verdict in tasks.Verdict},
        "abstained": sum(row["abstained"] is not None for row in rows),
        "duplicate_share": duplicate_share(responses, group),
        "signal_share": sum(len(seen) > 1 for seen in groups.values()) / max(len(set(group)), 1),
        "mean_weight": sum(sum(row["weights"]) for row in rows) / max(tokens, 1),
        "sampler_gap": sum(gaps) / max(len(gaps), 1),
        "tokens": tokens,
    }


def duplicate_share(response_ids: Sequence[Sequence[int]], group: Sequence[int]) -> float:
    """The share of responses that repeat an earlier one of their group, token for token; 0 without any.

    response_ids: token ids of each response. group: the group that each belongs to.
    """
    different = {(member, tuple(ids)) for ids, member in zip(response_ids, group, strict=True)}
    return 1 - len(different) / len(response_ids) if response_ids else 0.0
