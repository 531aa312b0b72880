"""Arms of several results: which credit method an arm is, with which options, in words that its results share.

Two arms are one only where the credit method and all of its options are the same: flow from the answer's own rows at
1.5 is not flow from emitting rows at 3. A label says nothing; users choose it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from flowtracer import credit
from flowtracer.credit import CreditMethod
from flowtracer.credit.composition import Composed
from flowtracer.errors import CreditError
from leaderboards.comparison import ORACLES
from leaderboards.declaration import BASELINE

#: Rules that could give the same result as a method without any insight, and what each of them knows.
RULES: Mapping[str, str] = {
    "constant": "the mean weight",
    "first_tokens": "where a token stands",
    "last_tokens": "where a token stands",
    "random": "nothing",
    "shuffled_flow": "nothing: flow's weights on tokens drawn at random",
    "position": "where a token stands",
    "random_mask": "nothing",
    "shuffled_oracle": "nothing: the oracle's weights on tokens drawn at random",
    BASELINE: "nothing, and trains otherwise than the baseline: a larger learning rate",
}
#: Those that a table shows even where nobody measured them.
ALWAYS = ("constant", "first_tokens", "last_tokens", "random", "shuffled_flow")

#: The parts that arms play, in the order in which tables show them.
ROLES = ("baseline", "control", "rule", "method")
MARKS: Mapping[str, str] = {"control": " *", "rule": " †"}
#: Options whose values say by themselves what they are: `flow, all, emitting`.
_PLAIN = ("layers", "answer_rows")


@dataclass(frozen=True)
class Arm:
    """A credit method with its options.

    words: `flow, all, emitting ×3`: the name, the options that are not the default, the factor. Arms of the same words
    are the same. credit: the method's name. factor: by which chosen tokens are up-weighted; None where the method has
    none. role: one of `ROLES`.
    """

    words: str
    credit: str
    factor: float | None
    role: str

    @property
    def marked(self) -> str:
        """Its words, with * behind a positive control and † behind a rule."""
        return self.words + MARKS.get(self.role, "")

    @property
    def place(self) -> tuple[int, bool, str, float, str]:
        """Where it stands among arms: by role, flow before other methods, then by name and factor."""
        return ROLES.index(self.role), self.credit != "flow", self.credit, self.factor or 0.0, self.words


def arm_of(name: str | Sequence[str], options: Mapping[str, Any]) -> Arm:
    """The arm of a credit method, or of several that are multiplied, with the options that a record holds.

    Options of the default's value are the default. Of a method that is not known here, a user's own for one, no
    default is known: its options stand as the record has them. Settings of an arm's own `training` are part of it.
    """
    options = dict(options)
    training = options.pop("training", {})
    more = [f"training.{key}={_value(value)}" for key, value in sorted(training.items())]
    try:
        method = credit.get(name, **options)
    except CreditError:
        text = name if isinstance(name, str) else " * ".join(name)
        factor = options.pop("gamma", None)
        changed = [f"{key}={_value(value)}" for key, value in sorted(options.items())]
        return Arm(_joined(text, [*changed, *more], factor), text, factor, "method")
    factor = None if isinstance(method, Composed) else _factor(method)
    words = _words(method)
    return Arm(", ".join([words, *more]), method.name, factor, _role(method, trained_alike=not training))


def names_of(method: CreditMethod, options: Mapping[str, Any]) -> str | list[str]:
    """The name, or the names, by which `credit.get` makes this method of these options."""
    if not isinstance(method, Composed):
        return method.name
    names = [part.name for part in method.parts]
    tables = any(isinstance(value, Mapping) for value in options.values())
    return names[0] if len(names) == 1 and not tables else names


def known(name: str) -> bool:
    """True for the name of a registered credit method."""
    return name in credit.names()


def _role(method: CreditMethod, *, trained_alike: bool) -> str:
    if method.name == BASELINE and trained_alike:
        return "baseline"
    if method.name in ORACLES:
        return "control"
    return "rule" if method.name in RULES else "method"


def _words(method: CreditMethod) -> str:
    if isinstance(method, Composed):
        product = " * ".join(part.name for part in method.parts)
        more = ["mean_one"] if method.mean_one else []
        return _joined(" * ".join(map(_words, method.parts)) + method.name.removeprefix(product), more, None)
    changed = [
        _option(each.name, getattr(method, each.name))
        for each in fields(method)
        if each.name != _factor_name(method) and getattr(method, each.name) != _default(each)
    ]
    return _joined(method.name, changed, _factor(method))


def _joined(name: str, changed: Sequence[str], factor: float | None) -> str:
    return ", ".join([name, *changed]) + ("" if factor is None else f" ×{factor:g}")


def _option(name: str, value: Any) -> str:
    if name in _PLAIN and isinstance(value, str):
        return value
    return name if value is True else f"{name}={_value(value)}"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _factor_name(method: CreditMethod) -> str | None:
    return "weight" if method.name == "constant" else "gamma" if hasattr(method, "gamma") else None


def _factor(method: CreditMethod) -> float | None:
    name = _factor_name(method)
    return None if name is None else float(getattr(method, name))


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()
