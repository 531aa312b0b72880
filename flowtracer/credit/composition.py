"""Credit methods put together: multiplied, kept to one sign of the advantage, or turned into a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flowtracer.credit import method as methods
from flowtracer.credit.method import CreditContext, CreditMethod
from flowtracer.errors import CreditError
from flowtracer.readings import Reading

_SCOPES = ("response", "group", "batch")
#: Options of the one method that reads attention, by which others ask how it is to be read.
_OF_READER = ("layers", "source", "dense_tokens")


@dataclass(frozen=True)
class Composed(CreditMethod):
    """The product of the weights of `parts`, as a mask if asked for, on one sign of the advantage or on both.

    as_mask: 1 where the product is above its mean over the response, 0 elsewhere: the up-weighted tokens of two levels.
        A response whose weights are all equal keeps every token. Refused for weights that may be negative.
    sign: "both", "positive" or "negative": responses whose advantage has another sign weigh 1.
    A response on which one part abstains is an abstention of the whole. At most one part may read attention.
    """

    parts: tuple[CreditMethod, ...] = field(default=(), kw_only=True)
    sign: str = field(default="both", kw_only=True)
    as_mask: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        masked, signed = (
            " as a mask" if self.as_mask is True else "",
            "" if self.sign == "both" else f" ({self.sign})",
        )
        needs = frozenset().union(*(part.needs for part in self.parts))
        values = {
            "name": " * ".join(names) + masked + signed,
            "needs": needs if self.sign == "both" else needs | {"advantage"},
            "scope": max((part.scope for part in self.parts), key=_SCOPES.index),
            "signed": any(part.signed for part in self.parts),
            "additive": any(part.additive for part in self.parts),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check(names)
        super().__post_init__()

    def _check(self, names: list[str]) -> None:
        self.check_choice("sign", ("both", "positive", "negative"))
        if not isinstance(self.as_mask, bool):
            raise CreditError(f"credit {self.name}: as_mask must be true or false, not {self.as_mask!r}")
        if self.additive and len(names) > 1:
            adds = next(part.name for part in self.parts if part.additive)
            raise CreditError(
                f"credit {self.name}: {adds} adds to the advantage and cannot be multiplied; name it by itself"
            )
        if self.as_mask and (self.signed or self.additive):
            raise CreditError(
                f"credit {self.name}: as_mask is not defined for weights that may be negative; leave it out"
            )
        if len(readers := [part.name for part in self.parts if part.reading() is not None]) > 1:
            raise CreditError(
                f"credit {self.name}: {' and '.join(readers)} both read attention; only one may"
            )
        if len({part.template for part in self._taught()}) > 1:
            raise CreditError(f"credit {self.name}: its teachers' templates differ, and there is one teacher")
        if any(getattr(part, "abstain", "mean") == "one" for part in self.parts):
            raise CreditError(f"credit {self.name}: abstain='one' is not defined for methods put together")

    def __getattr__(self, name: str) -> Any:
        if name in _OF_READER and (reader := self._reader()) is not None and hasattr(reader, name):
            return getattr(reader, name)
        if name == "template" and (taught := self._taught()):
            return taught[0].template
        raise AttributeError(name)

    def _taught(self) -> list[Any]:
        """The parts that have a teacher."""
        return [part for part in self.parts if "teacher_logprobs" in part.needs]

    def _reader(self) -> CreditMethod | None:
        return next((part for part in self.parts if part.reading() is not None), None)

    @property
    def usual_mean(self) -> float:
        """That of the product; of a mask, whose share of tokens no part declares, 1."""
        product = 1.0
        for part in () if self.as_mask else self.parts:
            product *= part.usual_mean
        return product

    def reading(self) -> Reading | None:
        reader = self._reader()
        return None if reader is None else reader.reading()

    def cuts(self, context: CreditContext) -> Tensor:
        # What adds to the advantage stands alone.
        return self.parts[0].cuts(context)

    @property
    def continuations(self) -> int:
        return self.parts[0].continuations

    def score(self, context: CreditContext) -> Tensor | None:
        reader = self._reader()
        return None if reader is None else reader.score(context)

    def weights(self, context: CreditContext) -> Tensor:
        reader, applies = self._reader(), self._applies(context)
        result = torch.zeros(()) if self.additive else torch.ones_like(context.response, dtype=torch.float32)
        for part in self.parts:
            credit = part.assess(context if part is reader else replace(context, scores=None))
            for row, reason in credit.abstentions.items():
                if applies[row]:  # a response of the other sign is not judged at all, and weighs 1
                    context.abstain(row, reason)
            if credit.addend is not None:
                result = credit.addend
            else:
                assert credit.weights is not None
                result = result * credit.weights
        if self.as_mask:
            result = _mask(result, context.response)
        return torch.where(applies.unsqueeze(1), result, 0.0 if self.additive else 1.0)

    def _applies(self, context: CreditContext) -> Tensor:
        """Which responses the method is for, by the sign of their advantage: (B,) boolean."""
        if self.sign == "both":
            return torch.ones(len(context.response), dtype=torch.bool, device=context.response.device)
        assert context.advantage is not None
        return context.advantage > 0 if self.sign == "positive" else context.advantage < 0

    def _scaled_to_mean_one(self, weights: Tensor, context: CreditContext, judged: Tensor) -> Tensor:
        """The total of those that the method is for is conserved; the others weigh 1 as before."""
        applies = self._applies(context).unsqueeze(1)
        return torch.where(applies, super()._scaled_to_mean_one(weights, context, judged & applies), weights)

    def _abstention_weight(self, weights: Tensor, judged: Tensor, context: CreditContext) -> float:
        """The mean of those that the method is for: the others' weights of 1 would dilute it."""
        return super()._abstention_weight(weights, judged & self._applies(context).unsqueeze(1), context)


def _mask(weights: Tensor, response: Tensor) -> Tensor:
    """1 where weights (B, T) are above their mean over the response, or all equal there; 0 elsewhere."""
    inside = weights.double().masked_fill(~response, 0.0)
    mean = inside.sum(1, keepdim=True) / response.sum(1, keepdim=True).clamp(min=1)
    low = weights.masked_fill(~response, float("inf")).amin(1, keepdim=True)
    high = weights.masked_fill(~response, float("-inf")).amax(1, keepdim=True)
    return ((inside > mean) | (low >= high)).to(torch.float32)


def get(name: str | Sequence[str], **options: Any) -> CreditMethod:
    """The credit method called `name` with its options, or the product of several.

    sign, as_mask: see `Composed`; for any method. Of several, the options of one stand in a table of its name:
    `get(["flow", "gtpo"], sign="positive", flow={"gamma": 2.0})`.
    Raises CreditError for an unknown name or option, and for methods that cannot be put together.
    """
    if isinstance(name, str):
        of_method = methods.options_of(name)
        outer: dict[str, Any] = {
            key: options[key] for key in ("sign", "as_mask") if key in options and key not in of_method
        }
        if outer and "mean_one" in options:  # of what is left: of the mask, and of the one sign
            outer["mean_one"] = options["mean_one"]
        single = methods.get(name, **{key: value for key, value in options.items() if key not in outer})
        return Composed(parts=(single,), **outer) if outer else single
    names: list[Any] = list(name) if isinstance(name, (list, tuple)) else [name]
    if not names or not all(isinstance(part, str) for part in names) or len(set(names)) < len(names):
        raise CreditError(f"credit {names!r}: give the names of different credit methods")
    outer = {key: value for key, value in options.items() if key in ("sign", "as_mask", "mean_one")}
    tables = {key: value for key, value in options.items() if key not in outer}
    for key, table in tables.items():
        if key not in names or not isinstance(table, dict):
            raise CreditError(
                f"credit {' * '.join(names)} has no option {key!r}; it has: sign, as_mask, mean_one, and a table of "
                f"options for each of {', '.join(names)}"
            )
    return Composed(parts=tuple(methods.get(part, **tables.get(part, {})) for part in names), **outer)
