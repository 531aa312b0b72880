"""Credit methods: how much each token of a response counts. One file a family, and the registry."""

# Imported for their entries in the registry.
from flowtracer.credit import (  # noqa: F401
    continued,
    controls,
    entropy,
    flow,
    gradient,
    graph,
    outcome,
    phrases,
    rhythm,
    teacher,
)
from flowtracer.credit.composition import get
from flowtracer.credit.method import CreditContext, CreditMethod, names, register

__all__ = ["CreditContext", "CreditMethod", "get", "names", "register"]
