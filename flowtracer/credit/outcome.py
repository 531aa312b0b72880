"""Credit from the group's outcomes alone: which tokens, and which prefixes, go with correct responses.

Both rules add to the advantage, A' = A + delta; as factors w = 1 + delta / A, which loses nothing: A is 0 only where a
group has no signal (or a response no reward), and there delta is 0 too and w is 1. Such weights may be negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowtracer.credit.method import CreditContext, CreditMethod, register


@dataclass(frozen=True)
class _Additive(CreditMethod):
    scope: ClassVar[str] = "group"
    signed: ClassVar[bool] = True

    def weights(self, context: CreditContext) -> Tensor:
        assert context.reward is not None and context.group is not None
        weights = torch.ones_like(context.response, dtype=torch.float32)
        for group in context.group.unique():
            rows = ((context.group == group) & ~context.reward.isnan()).nonzero().flatten()
            reward = context.reward[rows].double()
            if len(rows) and not bool((reward == reward[0]).all()):
                weights[rows] = (1.0 + self.relative_change(context, rows, reward)).float()
        return weights

    def relative_change(self, context: CreditContext, rows: Tensor, reward: Tensor) -> Tensor:
        """delta / A of the `rows` of one group, (rows, T) float64; their rewards are finite and not all equal."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class KeyTokens(_Additive):
    """Token types that occur in correct rather than wrong responses of the group gain credit (KTAE, arXiv 2505.16826).

    For each token id of a group, the table of "response is correct" against "token occurs in it". Its strength is
    (fisher exp(-2 p) + information IG) / (fisher + information), p the two-sided Fisher exact test (p = 1 counts as
    strength 0), IG the information gain in bits; its direction is asin sqrt P(occurs | correct) - asin sqrt P(occurs |
    wrong), half of Cohen's h, as in the authors' code. delta = sigmoid(strength
    direction) - 0.5, at every occurrence of the token, in every response of the group.

    Correct means a reward above 0, as in that code. Its term for how often a token occurs within responses
    (`gamma_tf`) is left out: its weight is unpublished, and it is off where that is 0. fisher and information 1.

    Ten response tokens of a correct response (A = 1) beside a wrong one (A = -1), token ids 5 5 6 7 8 9 2 3 4 1 against
    6 7 8 9 2 3 4 1 alone: token 5 occurs in one of one correct and none of one wrong response; p = 1, IG = 1,
    strength 0.5, direction asin(1) = 1.5708, delta = sigmoid(0.7854) - 0.5 = 0.1869. The others occur in both, delta 0:
    1.1869 1.1869 1 1 1 1 1 1 1 1.
    """

    name: ClassVar[str] = "ktae"
    needs: ClassVar[frozenset[str]] = frozenset({"advantage", "group", "reward"})
    fisher: float = 1.0
    information: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("fisher", 0.0, 1e6)
        self.check_range("information", 0.0 if self.fisher else 1e-6, 1e6)

    def relative_change(self, context: CreditContext, rows: Tensor, reward: Tensor) -> Tensor:
        assert context.advantage is not None
        response = context.response[rows]
        correct = reward > 0
        advantage = context.advantage[rows].double().unsqueeze(1)
        if bool(correct.all()) or not bool(correct.any()):
            return torch.zeros(response.shape, dtype=torch.float64, device=response.device)
        types, index = torch.unique(context.token_ids[rows], return_inverse=True)
        occurs = torch.zeros(len(rows), len(types), dtype=torch.float64, device=response.device)
        occurs.scatter_add_(1, index, response.double())
        occurs.clamp_(max=1.0)
        delta = self._association(occurs, correct)[index]
        return torch.where(advantage == 0, 0.0, delta / torch.where(advantage == 0, 1.0, advantage))

    def _association(self, occurs: Tensor, correct: Tensor) -> Tensor:
        """delta of each token type, from what occurs (rows, types) in which correct (rows,) responses."""
        with_correct, with_wrong = occurs[correct].sum(0), occurs[~correct].sum(0)
        all_correct, all_wrong = correct.sum().double(), (~correct).sum().double()
        p = fisher_exact(with_correct, with_wrong, all_correct, all_wrong)
        evidence = torch.where(p > 1.0 - 1e-9, 0.0, torch.exp(-2.0 * p))
        gain = _information_gain(with_correct, with_wrong, all_correct, all_wrong)
        strength = (self.fisher * evidence + self.information * gain) / (self.fisher + self.information)
        direction = (with_correct / all_correct).sqrt().asin() - (with_wrong / all_wrong).sqrt().asin()
        return torch.sigmoid(strength * direction) - 0.5


def fisher_exact(in_first: Tensor, in_second: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Two-sided p values of Fisher's exact test, float64: `in_first` of `first` items against `in_second` of `second`.

    The sum over all tables with the same margins that are at most as likely as the one seen.
    """

    def log_choose(n: Tensor, k: Tensor) -> Tensor:
        return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)

    drawn = in_first + in_second
    counts = torch.arange(int(first) + 1, dtype=torch.float64, device=in_first.device)
    possible = (counts <= drawn.unsqueeze(-1)) & (drawn.unsqueeze(-1) - counts <= second)
    others = (drawn.unsqueeze(-1) - counts).clamp(min=0).minimum(second)
    logs = (
        log_choose(first, counts)
        + log_choose(second, others)
        - log_choose(first + second, drawn).unsqueeze(-1)
    )
    likelihood = torch.where(possible, logs.exp(), 0.0)
    seen = likelihood.gather(-1, in_first.long().unsqueeze(-1))
    return torch.where(likelihood <= seen * (1.0 + 1e-7), likelihood, 0.0).sum(-1).clamp(max=1.0)


def _information_gain(in_first: Tensor, in_second: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Bits that "occurs" tells about which of two classes of `first` and `second` items an item belongs to."""

    def entropy(a: Tensor, b: Tensor) -> Tensor:
        total = (a + b).clamp(min=1.0)
        return -(torch.xlogy(a / total, a / total) + torch.xlogy(b / total, b / total)) / torch.log(
            total.new_tensor(2.0)
        )

    whole = first + second
    occurs = in_first + in_second
    left, right = first - in_first, second - in_second
    rest = (occurs * entropy(in_first, in_second) + (whole - occurs) * entropy(left, right)) / whole
    return entropy(first, second) - rest


@register
@dataclass(frozen=True)
class PrefixTree(_Additive):
    """Where responses of a group branch, the change of the prefix's value is added (TEMPO, arXiv 2509.18314).

    V(prefix) = mean reward of the group's responses that start with it; delta(t) = V(through t) - V(before t), which
    is 0 wherever the responses that share a prefix go on together. In the paper delta is divided by the group's
    standard deviation like the advantage; here w = 1 + delta / (r - mean r), the same whatever TRL divides by. The
    deltas of a response of n tokens add up to r - mean r, unless it is the beginning of another: mean weight 1 + 1/n.

    Ten response tokens of a correct response (r = 1) and a wrong one (r = 0) that agree in the first three: V = 0.5
    before token 4 and 1 after it, delta = 0.5, r - mean r = 0.5: 1 1 1 2 1 1 1 1 1 1, and the same for the wrong one.
    """

    name: ClassVar[str] = "tempo"
    needs: ClassVar[frozenset[str]] = frozenset({"group", "reward"})

    def relative_change(self, context: CreditContext, rows: Tensor, reward: Tensor) -> Tensor:
        ids, response = context.token_ids[rows], context.response[rows]
        # Responses start at different columns: left-align them, with -1 behind their ends.
        order = response.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        aligned = ids.masked_fill(~response, -1).gather(1, order)
        value = torch.full(response.shape, float(reward.mean()), dtype=torch.float64, device=response.device)
        change = torch.zeros_like(value)
        before = value[:, :1].expand(-1, 1).clone()
        shares = torch.ones(len(rows), len(rows), dtype=torch.bool, device=response.device)
        for step in range(int(response.sum(1).max())):
            column = aligned[:, step]
            here = column >= 0
            shares &= (column.unsqueeze(0) == column.unsqueeze(1)) & here
            mean = (shares * reward).sum(1, keepdim=True) / shares.sum(1, keepdim=True).clamp(min=1)
            after = torch.where(here.unsqueeze(1), mean, before)
            change[:, step : step + 1] = after - before
            before = after
        change = torch.zeros_like(change).scatter(1, order, change)
        centred = (reward - reward.mean()).unsqueeze(1)
        return torch.where(centred == 0, 0.0, change / torch.where(centred == 0, 1.0, centred))
