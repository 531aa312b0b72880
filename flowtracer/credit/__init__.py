"""Credit methods: how much each token of a response counts. One file a family, and the registry."""

from flowtracer.credit import controls as _controls
from flowtracer.credit import flow as _flow
from flowtracer.credit.method import CreditContext, CreditMethod, get, names, register

__all__ = ["CreditContext", "CreditMethod", "get", "names", "register"]
