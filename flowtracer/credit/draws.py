"""Random numbers of credit methods: each response has a stream of its own.

A draw then depends on the rollout only, and not on padding, micro-batches or processes. No method draws from a global
generator: the next rollouts would change with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowtracer.credit.method import CreditContext
from flowtracer.errors import CreditError


def uniform(name: str, context: CreditContext) -> Tensor:
    """Uniform random numbers from 0 to 1, (B, T) float64, one a response token in its order; 0 elsewhere.

    Raises CreditError, in the name of the credit method, for a context without streams.
    """
    response = context.response
    if context.streams is None or len(context.streams) != len(response):
        raise CreditError(
            f"credit {name} draws at random and needs a stream for each response (streams) in its context"
        )
    drawn = torch.zeros(response.shape, dtype=torch.float64)
    for row, (stream, members) in enumerate(zip(context.streams, response.cpu(), strict=True)):
        generator = torch.Generator().manual_seed(stream)
        drawn[row, members] = torch.rand(int(members.sum()), generator=generator, dtype=torch.float64)
    return drawn.to(response.device)
