"""The contract of a credit method: a pure function of a CreditContext to one number a token.

The number is a weight w on the advantage A of the response, A' = w A, or an addend delta, A' = A + delta, as the method
was published. What can go wrong in every method alike, abstention, normalisation, tokens outside the response, is
handled here once, so that a method's file holds its rule and nothing else.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowtracer.blocked import BlockedRollout
from flowtracer.credit import elsewhere
from flowtracer.credit.card import Card
from flowtracer.errors import CreditError
from flowtracer.flow import Capacity
from flowtracer.hints import hint
from flowtracer.readings import HeadVectors, MeanMap, Reading

ABSTENTIONS = ("mean", "one")

#: The needs that a method may declare: fields of the CreditContext that are filled for those who ask, and nobody else.
NEEDS = {
    "capacity": "the attention map",
    "rollout": "the attention rollout",
    "head_vectors": "per-head attention vectors",
    "decisive": "a task that knows its decisive tokens",
    "logprobs": "the policy's log-probabilities",
    "entropies": "the policy's entropies",
    "squares": "the sums of the policy's squared probabilities",
    "teacher_logprobs": "the log-probabilities of a teacher that reads the gold",
    "saliency": "a backward pass from the answer",
    "divergence": "a forward for each token before the answer",
    "values": "the mean rewards of further rollouts",
    "pieces": "the text of each token",
    "ends": "which tokens end a response",
    "advantage": "the advantages",
    "reward": "the rewards",
    "group": "the groups",
    "step": "the training step",
}
#: Those that `CreditMethod.score` reads, in the forward that shows them; they are gone when weights are computed.
MAPS = frozenset({"capacity", "rollout", "head_vectors"})
#: Those that a method ranks tokens by, or bounds, as they are.
_RANKED = frozenset({"entropies", "logprobs", "saliency", "squares", "divergence", "teacher_logprobs"})


@dataclass
class CreditContext:
    """All that a credit method may look at: B responses, padded to T tokens with their prompts.

    token_ids: (B, T) integers, prompt then response. prompt, response: (B, T) boolean, pads in neither. source,
    answer: (B, T) boolean, where flow enters and ends; a row without an answer has none. decisive: (B, T) boolean or
    None, the tokens that decide the answer, where the task knows them; a row of False where it does not.
    advantage: (B,) float32; reward: (B,) float32, NaN where unscorable; group: (B,) integers, the prompt that a
    response belongs to. streams: B seeds of 63 bits, one a response: its own random numbers (`credit.draws`). No method
    may draw from a global generator.

    Filled for methods that declare the need of it, else None; values outside the response mean nothing:
    capacity: (B, T, T) float32, the mean attention of the traced layers, a map computed tile by tile for very long
    sequences. rollout: (B, T, T), see `readings.Rollout`, or never whole, for very long ones.
    head_vectors: `readings.HeadVectors`. logprobs, entropies: (B, T) float32, the log-probability of the token at a
    position and the entropy of the distribution that it was drawn from, in nats. squares: (B, T) float32, the sum of
    that distribution's squared probabilities. teacher_logprobs: (B, T) float32, the token's log-probability by the
    policy under a second prompt, which holds the gold. saliency: (B, T) float32, |gradient . embedding| of the answer's
    log-probability. divergence: (B, T) float32, how far the answer's distribution moves when the token is replaced by
    the pad token, in nats, 0 from the answer on. pieces: B lists of T strings, the text of each response token, ""
    elsewhere. ends: (B, T) boolean, the tokens that end a response, such as the end-of-sequence token. step: optimizer
    steps before the responses were generated.
    values: (B, T) float32, the mean reward of responses that the policy goes on with from before a token, where the
    method cuts (`CreditMethod.cuts`) and one of them could be judged; NaN elsewhere.
    over_processes: sums a tensor over the processes that train one policy, each on a part of the batch; None for one.
    scores: (B, T) or None: what `CreditMethod.score` read from the maps, if that had to happen earlier, in the
    pass that computes old log-probabilities.
    """

    token_ids: Tensor
    prompt: Tensor
    response: Tensor
    source: Tensor
    answer: Tensor
    advantage: Tensor | None = None
    reward: Tensor | None = None
    group: Tensor | None = None
    decisive: Tensor | None = None
    capacity: Capacity | None = None
    rollout: Tensor | BlockedRollout | None = None
    head_vectors: HeadVectors | None = None
    logprobs: Tensor | None = None
    entropies: Tensor | None = None
    squares: Tensor | None = None
    saliency: Tensor | None = None
    divergence: Tensor | None = None
    values: Tensor | None = None
    pieces: list[list[str]] | None = None
    ends: Tensor | None = None
    streams: list[int] | None = None
    scores: Tensor | None = None
    over_processes: Callable[[Tensor], Tensor] | None = None
    teacher_logprobs: Tensor | None = None
    step: int | None = None
    abstentions: dict[int, str] = field(default_factory=dict)

    def abstain(self, row: int, reason: str) -> None:
        """Marks a response that the method cannot judge. It is counted, shown, and gets a neutral weight."""
        self.abstentions.setdefault(row, reason)

    def abstain_where(self, rows: Tensor, reason: str) -> None:
        """`abstain` for every row where the boolean (B,) `rows` is True."""
        for row in rows.nonzero().flatten().tolist():
            self.abstain(row, reason)


@dataclass(frozen=True)
class Credit:
    """A credit method's judgement of a context: `weights` or, from an additive method, `addend`, and the abstentions.

    weights: (B, T) float32, detached, 1 outside the response; None from an additive method.
    addend: (B, T) float32, detached, 0 outside the response and on abstentions; None from every other method.
    abstentions: row -> reason.
    """

    weights: Tensor | None
    addend: Tensor | None
    abstentions: dict[int, str]

    def applied(self, advantage: Tensor) -> Tensor:
        """The advantages of the tokens, (B, T): w A or A + delta, for advantages (B,) or (B, 1)."""
        column = advantage.reshape(-1, 1)
        if self.weights is not None:
            return column * self.weights
        assert self.addend is not None
        return column + self.addend

    def as_weights(self, advantage: Tensor | None) -> Tensor:
        """Weights (B, T). An addend becomes 1 + delta / A; where A is 0 no weight can show it, and it becomes 1."""
        if self.weights is not None:
            return self.weights
        assert self.addend is not None and advantage is not None
        column = advantage.float().reshape(-1, 1)
        return 1.0 + torch.where(column == 0, 0.0, self.addend / torch.where(column == 0, 1.0, column))


@dataclass(frozen=True)
class CreditMethod(ABC):
    """A credit method. Its dataclass fields are its options: keyword arguments of `credit.get`, keys of a TOML table.

    mean_one: divide the weights by their mean over the method's scope, so that the total weight of the scope is
    conserved and only the contrast between tokens is left. Refused for methods with negative weights.
    """

    name: ClassVar[str]
    #: The needs of the method, of `NEEDS`: they are captured for it.
    needs: ClassVar[frozenset[str]] = frozenset()
    #: Over what `mean_one` conserves the total: "response", "group" or "batch".
    scope: ClassVar[str] = "response"
    #: True if weights may be negative.
    signed: ClassVar[bool] = False
    #: True if `weights` gives an addend to the advantage, and no factor.
    additive: ClassVar[bool] = False

    #: Its source, and how it could be proved wrong; every method of this package has its own.
    card: ClassVar[Card | None] = None

    mean_one: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.mean_one and (self.signed or self.additive):
            raise CreditError(
                f"credit {self.name}: mean_one is not defined for weights that may be negative; leave it out"
            )

    @property
    def usual_mean(self) -> float:
        """The method's mean weight by design: what abstentions get when a batch holds nothing but abstentions."""
        return 1.0

    def reading(self) -> Reading | None:
        """The reading of a forward's attention, fresh for each; None for methods that need none of it."""
        return MeanMap() if "capacity" in self.needs else None

    def score(self, context: CreditContext) -> Tensor | None:
        """The method's scores from the captured maps, (B, T) float32; None for methods that read none.

        Kept apart from `weights` because maps are large and short-lived, while advantages may not be known yet when
        they pass by. Must not look at advantage or reward, and must not write into the maps.
        """
        return None

    def cuts(self, context: CreditContext) -> Tensor:
        """The response tokens before which `values` are measured, (B, T) boolean: for methods that need them.

        The context holds all that the method needs but `values`.
        """
        return torch.zeros_like(context.response)

    @property
    def continuations(self) -> int:
        """How many responses are sampled from each cut."""
        return 0

    @abstractmethod
    def weights(self, context: CreditContext) -> Tensor:
        """The rule: weights (B, T), or addends from an additive method. It changes nothing in the context.

        Only entries on the response of rows that do not abstain are used. `context.abstain` says which rows abstain.
        """

    def __call__(self, context: CreditContext) -> Tensor:
        """Weights (B, T) float32, detached; 1 outside the response: `assess` for those who need only weights.

        Of an additive method they are 1 + delta / A, and 1 where A is 0: there `assess` alone tells the addend.
        """
        credit = self.assess(context)
        if credit.weights is None and context.advantage is None:
            raise CreditError(f"credit {self.name} needs {NEEDS['advantage']} (advantage) in its context")
        return credit.as_weights(context.advantage)

    @torch.no_grad()
    def assess(self, context: CreditContext) -> Credit:
        """Weights or addends of a context, which is left as it was, and who abstains.

        A response on which the method abstains gets the mean weight of the batch's other response tokens throughout:
        such responses are mostly wrong ones, and a weight of 1 would quietly count them less. To its advantage nothing
        is added.
        """
        context = replace(context, abstentions={})
        for need in sorted(self.needs):
            if getattr(context, need) is None and not (need in MAPS and context.scores is not None):
                raise CreditError(f"credit {self.name} needs {NEEDS[need]} ({need}) in its context")
        if context.scores is None:
            context.scores = self.score(context)
        self._check_finite(context)
        values = self.weights(context).detach().to(torch.float32)
        if values.shape != context.response.shape:
            raise CreditError(f"credit {self.name} gave weights of shape {tuple(values.shape)}")
        judged = context.response.clone()
        if context.abstentions:
            judged[list(context.abstentions)] = False
        if not bool((values.isfinite() | ~judged).all()):
            raise CreditError(f"credit {self.name} gave a weight that is not finite")
        if self.additive:
            return Credit(None, torch.where(judged, values, 0.0), context.abstentions)
        return Credit(self._completed(values, context, judged), None, context.abstentions)

    def _check_finite(self, context: CreditContext) -> None:
        for name in ("scores", *sorted(self.needs & _RANKED)):
            values = getattr(context, name)
            # A ranking puts NaN first or nowhere, and a sigmoid bounds infinity: neither says anything.
            if values is not None and not bool((values.isfinite() | ~context.response).all()):
                raise CreditError(
                    f"credit {self.name}: {name} of a response are not finite; does the forward give finite logits?"
                )

    def _completed(self, weights: Tensor, context: CreditContext, judged: Tensor) -> Tensor:
        """The weights with mean one where asked for, of abstentions, and outside the response."""
        if self.mean_one:
            weights = self._scaled_to_mean_one(weights, context, judged)
        if context.abstentions or context.over_processes is not None:
            neutral = self._abstention_weight(weights, judged, context)
            abstained = context.response & ~judged
            weights = torch.where(abstained, torch.full_like(weights, neutral), weights)
        weights = torch.where(context.response, weights, torch.ones_like(weights))
        if not self.signed and weights.numel() and float(weights.min()) < 0:
            raise CreditError(
                f"credit {self.name} gave a negative weight without declaring that it is signed"
            )
        return weights

    def _abstention_weight(self, weights: Tensor, judged: Tensor, context: CreditContext) -> float:
        if self.mean_one:
            return 1.0
        judged_weights = weights[judged].double()
        if context.over_processes is None:
            return float(judged_weights.mean()) if len(judged_weights) else self.usual_mean
        # Asked for by every process, those without an abstention too: they hold the weights that others lack.
        sums = torch.stack([judged_weights.sum(), judged_weights.new_tensor(len(judged_weights))])
        total, count = context.over_processes(sums).tolist()
        return total / count if count else self.usual_mean

    def _scaled_to_mean_one(self, weights: Tensor, context: CreditContext, judged: Tensor) -> Tensor:
        rows = len(weights)
        if self.scope == "batch":
            member = torch.zeros(rows, dtype=torch.long, device=weights.device)
        elif self.scope == "group" and context.group is not None:
            member = torch.unique(context.group, return_inverse=True)[1]
        else:
            member = torch.arange(rows, device=weights.device)
        total = weights.new_zeros(rows, dtype=torch.float64)
        count = weights.new_zeros(rows, dtype=torch.float64)
        total.index_add_(0, member, (weights.double() * judged).sum(1))
        count.index_add_(0, member, judged.sum(1).double())
        if bool(((total <= 0) & (count > 0)).any()):
            raise CreditError(f"credit {self.name}: mean_one is not defined where every weight is 0")
        mean = torch.where(count > 0, total / count.clamp(min=1), 1.0)
        return (weights.double() / mean[member].unsqueeze(1)).to(torch.float32)

    def check_range(self, option: str, low: float, high: float) -> None:
        """Raises CreditError unless `low <= option <= high`."""
        value = getattr(self, option)
        if not (isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high):
            raise CreditError(
                f"credit {self.name}: {option} must lie between {low:g} and {high:g}, not {value!r}"
            )

    def check_choice(self, option: str, choices: tuple[str, ...]) -> None:
        """Raises CreditError unless the option is one of `choices`."""
        if getattr(self, option) not in choices:
            raise CreditError(
                f"credit {self.name}: {option} must be one of {', '.join(choices)}, not {getattr(self, option)!r}"
            )


_REGISTRY: dict[str, type[CreditMethod]] = {}


def register(method: type[CreditMethod]) -> type[CreditMethod]:
    """Class decorator: makes a credit method available by its name.

    Raises CreditError for a name that is taken, and for a class without `weights`.
    """
    _check_whole(method)
    taken = _REGISTRY.setdefault(method.name, method)
    if taken is not method:
        raise CreditError(
            f"the credit method {method.name!r} of {method.__module__}.{method.__qualname__} is there already, as "
            f"{taken.__module__}.{taken.__qualname__}: give it another name"
        )
    return method


def _check_whole(method: type[CreditMethod]) -> None:
    """Raises CreditError for a class that leaves something abstract, before Python does so at its first use."""
    if inspect.isabstract(method):
        missing = ", ".join(sorted(method.__abstractmethods__))
        raise CreditError(
            f"the credit method {method.__module__}.{method.__qualname__} does not define {missing}"
        )


def names() -> list[str]:
    """Names of all registered credit methods, sorted; those of installed packages too."""
    _load_installed()
    return sorted(_REGISTRY)


@cache
def _load_installed() -> None:
    """Imports what installed packages offer under the entry points of flowtracer.credit."""
    for point in elsewhere.offers("flowtracer.credit"):
        if isinstance(point, type) and issubclass(point, CreditMethod):
            register(point)


def _kind(name: str) -> type[CreditMethod]:
    """The class of a method, by its registered name or as `module:Class`."""
    if ":" in name:
        kind = elsewhere.named(name)
        if not issubclass(kind, CreditMethod):
            raise CreditError(f"credit {name!r} is no subclass of flowtracer.credit.CreditMethod")
        _check_whole(kind)
        return kind
    if name not in _REGISTRY:
        _load_installed()
    if name not in _REGISTRY and name in elsewhere.LEFT_OUT:
        raise CreditError(f"credit method {name!r} is left out: {elsewhere.LEFT_OUT[name]}")
    if name not in _REGISTRY:
        raise CreditError(
            f"unknown credit method {name!r}; {hint(name, names())}; `flowtracer methods` lists all; one of your own "
            "is imported first, by --import FILE or imports = [FILE] in the experiment file"
        )
    return _REGISTRY[name]


def options_of(name: str) -> list[str]:
    """Names of the options that a method takes. Raises CreditError for an unknown name."""
    return [option.name for option in fields(_kind(name))]


def get(name: str, **options: Any) -> CreditMethod:
    """The credit method called `name`, or that of the class `module:Class`.

    Raises CreditError for an unknown name or option.
    """
    known = options_of(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise CreditError(f"credit {name} has no option {unknown[0]!r}; {hint(unknown[0], known)}")
    return _kind(name)(**options)
