"""The recipes of the shipped policies: model, demonstrations and optimizer of each warm start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tasks
from harness import graph_start
from tasks.decision import ANSWERS, Decision, alphabet


@dataclass(frozen=True)
class Recipe:
    """How one shipped policy is made.

    `groups` is the number of key-value heads, `context` the longest text in tokens that the policy can read
    and write, `max_new_tokens` the longest response of its measurement.
    """

    task: str
    alphabet: str
    layers: int
    width: int
    inner_width: int
    heads: int
    groups: int
    context: int
    max_new_tokens: int
    steps: int
    batch: int
    learning_rate: float
    options: dict[str, Any] = field(default_factory=dict)
    #: The learning rate's course. "cosine" ends at 0, in a minimum so sharp that reinforcement learning first loses
    #: what was learnt; "constant_with_warmup" does not.
    schedule: str = "cosine"
    #: Of AdamW. With the usual 0.999 the copying of a decision stays at 98%: its gradients grow late and fast.
    beta2: float = 0.95
    #: Gradients are shortened to this norm.
    clip_norm: float = 1.0
    #: 32 is the narrowest head that vLLM runs on a CPU.
    head_width: int = 32
    #: A character's weight in the loss, where it is not 1: a copied token that is one of thirty is learnt late.
    loss_weights: dict[str, float] = field(default_factory=dict)
    #: The shipped policy whose weights it begins with; a new character's embedding is drawn.
    start: str | None = None

    def task_of(self) -> tasks.Task:
        """The task whose demonstrations the policy learns and on whose test split it is measured."""
        return tasks.get(self.task, **self.options)


def _decision(variant: str, places: int = 10, steps: int = 2000, start: str | None = None) -> Recipe:
    longest = Decision(variant, places=places).longest
    return Recipe(
        task="decision",
        options={"variant": variant} | ({} if places == 10 else {"places": places}),
        alphabet=alphabet(places),
        layers=6,
        width=64,
        inner_width=128,
        heads=4,
        groups=2,
        # Room for a prompt, too; a multiple of 32.
        context=(longest + 6 + 31) // 32 * 32,
        max_new_tokens=longest,
        steps=steps,
        batch=64,
        learning_rate=3e-3,
        # The answer's share of the loss is the same in responses of any length.
        loss_weights=dict.fromkeys(ANSWERS, 0.8 * places),
        start=start,
    )


RECIPES = {
    "decision": _decision("aligned"),
    "decision-decoy": _decision("decoy"),
    "decision-chain": _decision("chain"),
    # From `decision`, which knows how to look up and copy: only the other labels have to be learnt.
    "decision-5": _decision("aligned", 5, steps=400, start="decision"),
    "decision-20": _decision("aligned", 20, steps=1200, start="decision"),
    "arithmetic": Recipe(
        task="arithmetic",
        alphabet="0123456789+=;#?",
        layers=4,
        width=128,
        inner_width=256,
        heads=4,
        groups=2,
        context=96,
        max_new_tokens=48,
        steps=450,
        batch=64,
        learning_rate=1e-3,
        schedule="constant_with_warmup",
    ),
    "graph": Recipe(
        task="graph",
        alphabet="abcdefgh0123456789+*=;#?",
        layers=6,
        width=96,
        inner_width=192,
        heads=4,
        groups=2,
        context=128,
        max_new_tokens=80,
        steps=2068,
        batch=32,
        learning_rate=2e-3,
        schedule=graph_start.SCHEDULE,
    ),
}
