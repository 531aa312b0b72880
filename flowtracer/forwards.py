"""Which forward of the policy shows a credit method what it needs: known from the method and the settings.

A plan asks before there is a trainer or a policy; the trainer asks the same, so that both give one answer.
"""

from __future__ import annotations

from enum import Enum

from flowtracer.credit import CreditMethod
from flowtracer.credit.method import MAPS

#: Fields that only a forward of the policy shows.
FROM_FORWARD = MAPS | {"logprobs", "entropies"}

#: Fields that take passes of our own over a whole generation batch (`passes.py`).
FROM_OWN_PASSES = frozenset({"divergence", "saliency", "squares", "values"})


class ReadAt(Enum):
    """Which forward of the policy a credit method is read in."""

    #: The method needs none.
    NOWHERE = "nowhere"
    #: That of the training, micro-batch by micro-batch: one generation batch feeds one update.
    TRAINING_FORWARD = "training forward"
    #: TRL's pass over old log-probabilities, by the policy that wrote the responses.
    OLD_LOGPROBS = "old log-probabilities"
    #: One of its own: the method judges whole groups or batches, which no training forward shows, or needs passes of
    #: our own beside it.
    EXTRA_FORWARD = "extra forward"


def reads_distributions(method: CreditMethod) -> bool:
    """True if the method takes a pass of our own over whole distributions, which shows all that it needs of them."""
    return "squares" in method.needs or (
        "values" in method.needs and bool(method.needs & {"logprobs", "entropies"})
    )


def from_forward(method: CreditMethod) -> frozenset[str]:
    """Fields of the context that the method needs of a forward, without those that passes of our own show."""
    shown_apart = {"logprobs", "entropies"} if reads_distributions(method) else set()
    return (method.needs & FROM_FORWARD) - shown_apart


def read_at(method: CreditMethod, *, old_logprobs: bool, split: bool, whitened_after: bool) -> ReadAt:
    """The forward that the method is read in, the same for every generation batch.

    old_logprobs: whether TRL passes over old log-probabilities. split: whether an update takes several micro-batches of
    a generation batch. whitened_after: whether advantages are whitened behind the weights.
    """
    if not from_forward(method):
        return ReadAt.NOWHERE
    if old_logprobs:
        return ReadAt.OLD_LOGPROBS
    # A micro-batch does not show whole groups, and whitening behind the weights asks for those of the whole batch.
    # Passes of our own are over a whole generation batch: what is read beside them is read there too.
    whole = (split and method.scope != "response") or whitened_after or method.needs & FROM_OWN_PASSES
    return ReadAt.EXTRA_FORWARD if whole else ReadAt.TRAINING_FORWARD
