"""The distance of a policy from the one that its training began with."""

from __future__ import annotations

import math

import torch

from harness import parallel


class Start:
    """The parameters of a policy as they are now, to measure from later."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.parameters = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def distance(self, model: torch.nn.Module) -> float:
        """The L2 distance of the policy's parameters from the start; of a split policy every process must ask."""
        pairs = zip(model.parameters(), self.parameters, strict=True)
        # A policy that is split was still on the CPU when it began.
        moved = (parallel.whole(now).cpu() - then.cpu() for now, then in pairs)
        return math.sqrt(sum(float(change.double().square().sum()) for change in moved))
