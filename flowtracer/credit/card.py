"""The card of a credit method: what a reader must know of it before its numbers mean anything.

It ties the method to its source and each claim to its estimand, its evidence and a test that could prove it wrong: the
CA-ID card that the survey of credit assignment (arXiv 2604.09459) asks for. Every registered method fills one, as the
class attribute `card`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowtracer.credit.method import CreditMethod

#: How a fidelity begins: the rule of a public code, a paper's rule as we read it, or a rule of this project.
IDENTICAL, READING, OURS = FIDELITIES = ("identical to ", "our reading of ", "ours")
#: The option that every method takes, and where its default comes from.
EVERY = MappingProxyType({"mean_one": "ours: false, the weights as published"})

#: Classes of cost, the cheapest first: what a step pays beyond uniform's.
COSTS = MappingProxyType(
    {
        "none": "nothing: the rollouts are all that it reads",
        "logits": "the logits of the forward that the trainer runs anyway",
        "attention": "a second look at the attention of a forward that the trainer runs anyway",
        "forward": "one more forward, without gradients",
        "backward": "one more forward and backward",
        "forwards": "one more forward for each token",
        "rollouts": "more rollouts",
    }
)
#: The cost of each need. A need that is missing here is an error of whoever adds it, and a test says so.
COST_OF_NEED = MappingProxyType(
    {
        "advantage": "none",
        "reward": "none",
        "group": "none",
        "decisive": "none",
        "pieces": "none",
        "ends": "none",
        "logprobs": "logits",
        "entropies": "logits",
        "capacity": "attention",
        "head_vectors": "attention",
        "rollout": "attention",
        "squares": "forward",
        "teacher_logprobs": "forward",
        "saliency": "backward",
        "divergence": "forwards",
        "values": "rollouts",
        "step": "none",
    }
)


@dataclass(frozen=True)
class Card:
    """The card of a method: the part that is published, the part that is ours, and how it could be proved wrong.

    rule: the weight w of a token, or the addend delta, in a line.
    source: where the rule was published, with the section where it matters; "this project" for a control of ours.
    url: of the source; "" where there is none.
    fidelity: begins with one of `FIDELITIES`; of an identical rule the file, its lines and the commit, of a reading the
        section and what it leaves open.
    defaults: option -> where its default comes from; `mean_one`, which every method has, left out.
    claims: what its authors say it gains, each with its setting; none of a control.
    estimand: the quantity that the method claims to estimate or to move.
    evidence: what the claims rest on, as published.
    falsification: an outcome that this project can measure and that would prove the method wrong.
    """

    rule: str
    source: str
    fidelity: str
    estimand: str
    evidence: str
    falsification: str
    url: str = ""
    defaults: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[str, ...] = ()


def card_of(method: CreditMethod | type[CreditMethod]) -> Card | None:
    """A method's own card; None for one without, such as a plug-in. A card of the class below is not its own."""
    kind = method if isinstance(method, type) else type(method)
    return vars(kind).get("card")


def cost(method: CreditMethod) -> str:
    """The class of cost, of `COSTS`, by the most expensive of the method's needs; `?` where a need has none."""
    classes = {COST_OF_NEED.get(need, "?") for need in method.needs}
    return "?" if "?" in classes else max(classes, key=list(COSTS).index, default="none")


def defaults_of(method: CreditMethod) -> list[tuple[str, Any, str]]:
    """Every option of a method with its default, and where that comes from; `?` where nobody says."""
    card = card_of(method)
    sources = {**EVERY, **(card.defaults if card else {})}
    if method.additive or method.signed:
        sources["mean_one"] = "false: not defined for credit that may be negative"
    return [
        (option.name, getattr(method, option.name), sources.get(option.name, "?"))
        for option in fields(method)
    ]
