"""The turn of an update: how far credit turns the gradient away from uniform's, measured in the training itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback


class Turn(TrainerCallback):
    """Keeps uniform's gradient beside that of an update, and measures the angle before the optimizer takes its step.

    turn = 1 - cos(g, u), 0 where credit does not turn the update and 1 where it stands at a right angle; as `flowtracer
    replay` measures it. g: the gradient of the update, over all its micro-batches. u: the gradient of the same loss on
    the same micro-batches with every weight 1. Nothing is measured where one of them is 0: no group has a signal.

    every: measure each so many optimizer steps. note: takes a turn. of_batch: the turns of updates on the generation
    batch in training, those that were measured; whoever trains empties it before the next batch.
    """

    def __init__(self, every: int, note: Callable[[float], None]) -> None:
        self.every, self.note = every, note
        self.of_batch: list[float] = []
        self._uniform: list[tuple[Tensor, Tensor]] = []

    @property
    def mean(self) -> float | None:
        """The mean turn of updates on the generation batch in training; None where none was measured."""
        return sum(self.of_batch) / len(self.of_batch) if self.of_batch else None

    def due(self, step: int) -> bool:
        """True if the update after so many optimizer steps is measured."""
        return step % self.every == 0

    def add(self, model: Any, backward: Callable[[], None]) -> None:
        """Adds the gradient of a micro-batch with uniform credit, which `backward` computes; leaves the model's own."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        aside = [parameter.grad for parameter in parameters]
        known = {id(parameter): gradient for parameter, gradient in self._uniform}
        for parameter in parameters:
            # The sum over micro-batches goes on where the last one ended.
            parameter.grad = known.get(id(parameter))
        try:
            backward()
            self._uniform = [(each, each.grad) for each in parameters if each.grad is not None]
        finally:
            for parameter, gradient in zip(parameters, aside, strict=True):
                parameter.grad = gradient

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measures. Clipping, which was before, changes a gradient's length only."""
        pairs = [(each.grad, uniform) for each, uniform in self._uniform if each.grad is not None]
        self._uniform = []
        if not pairs:
            return
        product, ours, theirs = (
            sum(float((left * right).sum(dtype=torch.float64)) for left, right in chosen)
            for chosen in (pairs, [(g, g) for g, _ in pairs], [(u, u) for _, u in pairs])
        )
        if ours > 0 and theirs > 0:
            cosine = product / (ours * theirs) ** 0.5
            self.of_batch.append(min(max(1.0 - cosine, 0.0), 2.0))  # rounding may put a cosine a hair above 1
            self.note(self.of_batch[-1])


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """A context in which the random numbers are drawn (for dropout) that come after it too."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
