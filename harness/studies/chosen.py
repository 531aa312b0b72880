"""The credit methods of a study, chosen from those it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowtracer import credit
from flowtracer.credit import CreditMethod
from harness.errors import ExperimentError
from leaderboards.names import hint

#: Arguments of `credit.get`: the name of a method, or those of several, and the options.
Arguments = tuple[str | list[str], Mapping[str, Any]]


def chosen(
    known: Mapping[str, Arguments], wanted: Sequence[str] | None, always: str
) -> dict[str, CreditMethod]:
    """Label -> method: all of `known` in their order, or `always` and then those in `wanted`.

    Methods that sample further responses (`vine`, `spo`) cost many times the others and are there by their label in
    `wanted` only. Raises ExperimentError for a label that is not known.
    """
    for label in wanted or ():
        if label not in known:
            raise ExperimentError(
                f"unknown credit method {label!r}; {hint(label, sorted(known))}; `flowtracer methods` lists all"
            )
    labels = list(known) if wanted is None else dict.fromkeys([always, *wanted])
    methods = {label: credit.get(known[label][0], **known[label][1]) for label in labels}
    return {
        label: method
        for label, method in methods.items()
        if "values" not in method.needs or label in (wanted or ())
    }
