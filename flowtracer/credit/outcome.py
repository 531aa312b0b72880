"""Credit from the group's outcomes: tokens and prefixes that go with correct responses, and a baseline for each token.

These rules add to the advantage, A' = A + delta, and are applied as such: a response whose reward is its group's mean
has advantage 0 and still gets its delta.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowtracer.credit.card import Card
from flowtracer.credit.method import CreditContext, CreditMethod, register
from flowtracer.errors import CreditError


@dataclass(frozen=True)
class _Additive(CreditMethod):
    scope: ClassVar[str] = "group"
    additive: ClassVar[bool] = True

    def weights(self, context: CreditContext) -> Tensor:
        assert context.reward is not None and context.group is not None
        addend = torch.zeros_like(context.response, dtype=torch.float32)
        for group in context.group.unique():
            rows = ((context.group == group) & ~context.reward.isnan()).nonzero().flatten()
            reward = context.reward[rows].double()
            if len(rows) and not bool((reward == reward[0]).all()):
                addend[rows] = self.change(context, rows, reward).float()
        return addend

    @classmethod
    def scale(cls, advantage: Tensor, reward: Tensor) -> float:
        """s of A = s (r - mean r) over one group, (rows,) float64 each: what turns changes of reward into advantages.

        Raises CreditError where there is none.
        """
        centred = reward - reward.mean()
        scale = float((advantage * centred).sum() / centred.square().sum())
        # Advantages come in float32, and the mean of the group was taken in it.
        tolerance = 1e-3 * float(advantage.abs().max()) + 1e-6
        if float((advantage - scale * centred).abs().max()) > tolerance:
            raise CreditError(
                f"credit {cls.name} adds changes of the reward to the advantages, which must be a multiple of the "
                "rewards minus their group's mean; give one reward function, or several with "
                "multi_objective_aggregation='sum_then_normalize', and no whiten='before'"
            )
        return scale

    @abstractmethod
    def change(self, context: CreditContext, rows: Tensor, reward: Tensor) -> Tensor:
        """delta of the `rows` of one group, (rows, T) float64; their rewards are finite and not all equal."""


@register
@dataclass(frozen=True)
class KeyTokens(_Additive):
    """Token types that occur in correct rather than wrong responses of the group gain credit (KTAE, arXiv 2505.16826).

    For each token id of a group, the table of "response is correct" against "token occurs in it". Its strength is
    (fisher exp(-2 p) + information IG) / (fisher + information), p the two-sided Fisher exact test (where p = 1,
    `at_one` stands for exp(-2 p)), IG the information gain in bits. Its direction is
    asin sqrt P(occurs | correct) - asin sqrt P(occurs | wrong), half of Cohen's h, plus
    frequency (f_c / (f_w + 1e-5) - f_w / (f_c + 1e-5)), where f is a BM25-like term frequency in all correct and in all
    wrong responses: n (k1 + 1) / (n + k1 (1 - b + b length / mean length)), n the token's share of the class's tokens,
    length their number, k1 2, b 0.5. delta = 2 (sigmoid(strength direction) - 0.5) at every occurrence of the token, in
    every response of the group, and 0 at end tokens. A token that occurs on one side only has a huge direction, and
    delta 1 or -1. Correct means a reward above 0.

    The rule is identical to that of the authors' code, xiaolizh1/KTAE at ea9fb77,
    verl/workers/actor/compute_key_tokens.py:19-182 and verl/trainer/ppo/core_algos.py:214-233, in float64 and with a
    tolerance where that code compares probabilities for equality. There the end token is Qwen's id 151643; here it is
    the tokenizer's, and those at which the policy stops to generate. fisher, information and frequency are 1 in that
    file; the scripts beside it ask for information 2. There frequency is only switched on and off; as a factor it is
    ours.

    Its rounding is not reproduced, and matters. That code asks in float32 whether p is 1. Run on a CPU it misses 1 of
    the 6 tables with p = 1 of two correct and two wrong responses, and 11 of the 12 of four and four; there exp(-2)
    counts, not 0. `at_one` 0, the default, is what that code says; exp(-2) = 0.1353 is what it mostly computes from
    eight responses on. On random groups of eight, 49% of its addends are more than 0.01 from those of at_one 0, and 7%
    from those of 0.1353.

    Ten response tokens of a correct response (A = 1) beside a wrong one (A = -1), token ids 5 5 6 7 8 9 2 3 4 1 against
    6 7 8 9 2 3 4 1, 1 the end token: token 5 occurs in one of one correct and none of one wrong response; p = 1,
    IG = 1, strength 0.5, direction above 10,000, delta = 1. The others occur in both, strength 0, delta 0:
    2 2 1 1 1 1 1 1 1 1.
    """

    name: ClassVar[str] = "ktae"
    card: ClassVar[Card | None] = Card(
        rule="delta = 2 (sigmoid(strength x direction) - 0.5) by token type over the group; 0 at end tokens",
        source="KTAE, arXiv 2505.16826",
        url="https://arxiv.org/abs/2505.16826",
        fidelity="identical to verl/workers/actor/compute_key_tokens.py:19-182 and "
        "verl/trainer/ppo/core_algos.py:214-233 of xiaolizh1/KTAE at ea9fb77, its rounding left out: in float32 that "
        "code mostly misses p = 1, which at_one = 0.1353 does too",
        defaults={
            "fisher": "that file's 1",
            "information": "that file's 1; the scripts beside it ask for 2",
            "frequency": "that file's 1",
            "at_one": "that file's 0; its float32 mostly comes to exp(-2)",
        },
        claims=(
            "with GRPO and DAPO above both on five benchmarks, with shorter responses (arXiv 2505.16826, abstract)",
        ),
        estimand="the association of a token's occurrence with a correct answer, within a group",
        evidence="training results on 1.5B and 7B; the group's size limits the test: of 4 against 4 responses no p is "
        "below 0.028",
        falsification="it does not beat the same addends permuted over the group's token types",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"ends", "group", "reward"})
    fisher: float = 1.0
    information: float = 1.0
    frequency: float = 1.0
    at_one: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("fisher", 0.0, 1e6)
        self.check_range("information", 0.0 if self.fisher else 1e-6, 1e6)
        self.check_range("frequency", 0.0, 1e6)
        self.check_range("at_one", 0.0, 1.0)

    def change(self, context: CreditContext, rows: Tensor, reward: Tensor) -> Tensor:
        assert context.ends is not None
        response = context.response[rows]
        correct = reward > 0
        if bool(correct.all()) or not bool(correct.any()):
            return torch.zeros(response.shape, dtype=torch.float64, device=response.device)
        types, index = torch.unique(context.token_ids[rows], return_inverse=True)
        counts = torch.zeros(len(rows), len(types), dtype=torch.float64, device=response.device)
        counts.scatter_add_(1, index, response.double())
        delta = self._association(counts, correct)[index]
        return torch.where(context.ends[rows], 0.0, delta)

    def _association(self, counts: Tensor, correct: Tensor) -> Tensor:
        """delta of each token type, from how often it occurs (rows, types) in which correct (rows,) responses."""
        occurs = counts.clamp(max=1.0)
        with_correct, with_wrong = occurs[correct].sum(0), occurs[~correct].sum(0)
        all_correct, all_wrong = correct.sum().double(), (~correct).sum().double()
        p = fisher_exact(with_correct, with_wrong, all_correct, all_wrong)
        evidence = torch.where(p > 1.0 - 1e-9, self.at_one, torch.exp(-2.0 * p))
        gain = _information_gain(with_correct, with_wrong, all_correct, all_wrong)
        strength = (self.fisher * evidence + self.information * gain) / (self.fisher + self.information)
        direction = (with_correct / all_correct).sqrt().asin() - (with_wrong / all_wrong).sqrt().asin()
        if self.frequency:
            often, seldom = _term_frequencies(counts[correct].sum(0), counts[~correct].sum(0))
            direction += self.frequency * (often / (seldom + 1e-5) - seldom / (often + 1e-5))
        return 2.0 * (torch.sigmoid(strength * direction) - 0.5)


def _term_frequencies(
    first: Tensor, second: Tensor, k1: float = 2.0, b: float = 0.5
) -> tuple[Tensor, Tensor]:
    """The BM25-like frequency of each token type in two classes of texts, from its counts there."""
    mean_length = (first.sum() + second.sum()) / 2.0

    def frequency(counts: Tensor) -> Tensor:
        length = counts.sum()
        share = counts / length.clamp(min=1.0)
        return share * (k1 + 1.0) / (share + k1 * (1.0 - b + b * length / mean_length))

    return frequency(first), frequency(second)


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

    V(prefix) = mean reward of the group's responses that start with it; the change at token t is V(through t) -
    V(before t), which is 0 wherever the responses that share a prefix go on together. It is divided by what the
    trainer divides the group's rewards by (their standard deviation, as published, if it divides by that), read off
    its advantages: A = s (r - mean r). The changes of a response of n tokens add up to r - mean r, unless it is the
    beginning of another.

    Identical to compute_tempo_outcome_advantage of its authors, fatebreaker/tempo at 0a1c273,
    verl/trainer/ppo/core_algos.py:261-352, where s is 1 / (std + 1e-6). There the padding behind a response's end is a
    token like others; here a response that has ended shares no prefix, which differs only where the end token is the
    padding. A group of one, whose advantages are NaN there, has delta 0 here. Raises CreditError where the advantages
    of a group are no multiple of its centred rewards, as when several rewards are normalised before they are summed.

    Ten response tokens of a correct response (r = 1, A = 1) and a wrong one (r = 0, A = -1) that agree in the first
    three: V = 0.5 before token 4 and 1 after it, s = 2, delta = 1: 1 1 1 2 1 1 1 1 1 1, and the same for the wrong one.
    """

    name: ClassVar[str] = "tempo"
    card: ClassVar[Card | None] = Card(
        rule="delta = s (V(through t) - V(before t)), V the mean reward of the group's responses that share a prefix",
        source="TEMPO, arXiv 2509.18314",
        url="https://arxiv.org/abs/2509.18314",
        fidelity="identical to verl/trainer/ppo/core_algos.py:261-352 of fatebreaker/tempo at 0a1c273, its authors' "
        "code; s is what the trainer divides by",
        claims=(
            "above PPO and GRPO with Qwen3-1.7B and 4B on MATH and MedQA and beyond, in about the same time "
            "(arXiv 2509.18314, abstract)",
        ),
        estimand="the value of a prefix, V, by the outcomes of the group",
        evidence="training results on two sizes",
        falsification="responses branch once, early: V then says nothing of what follows (replay, token values)",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"advantage", "group", "reward"})

    def change(self, context: CreditContext, rows: Tensor, reward: Tensor) -> Tensor:
        assert context.advantage is not None
        scale = self.scale(context.advantage[rows].double(), reward)
        return scale * self._value_changes(context, rows, reward)

    @staticmethod
    def _value_changes(context: CreditContext, rows: Tensor, reward: Tensor) -> Tensor:
        """V(through t) - V(before t), (rows, T) float64."""
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
        return torch.zeros_like(change).scatter(1, order, change)


@register
@dataclass(frozen=True)
class OptimalTokenBaseline(_Additive):
    """A baseline for each token in place of the group's mean (OTB, arXiv 2602.07078).

    B_t = sum_i r_i W_it / (sum_i W_it + 1e-8) over the group's responses that reach token t. W_it is the realised
    energy: the sum over the response's tokens up to t of 1 - 2 pi + sum pi^2, the squared length of the gradient of the
    token's log-probability by the logits (pi the token's probability, sum pi^2 over the vocabulary). The advantage
    becomes s (r - B_t), which is A + s (mean r - B_t), where A = s (r - mean r): s is 1 where the trainer divides
    rewards by nothing (scale_rewards="none"), as published. Where one response has outlasted all others it is its own
    baseline, and its advantage is 0.

    Identical, at s = 1, to compute_optimal_token_baseline_advantage of volcengine/verl at b178a3c,
    verl/trainer/ppo/core_algos.py:758-873, with handle_zero_tail and importance weights off as there by default, for a
    reward at the end of the response; an energy that rounding makes negative is 0 here. A group whose rewards are all
    equal has delta 0; there a token before any energy, and the only response of a group, keep the reward as their
    advantage. It costs one forward without gradients: the trainer's own shows no sum pi^2.

    Ten response tokens of a correct response (r = 1, A = 1) and ten of a wrong one (r = 0, A = -1), s = 2. The correct
    one draws each token with pi = 0.5 from two (energy 0.5), the wrong one is sure of its first five (energy 0) and
    draws the others alike: B = 1 1 1 1 1 3/3.5 3.5/4.5 4/5.5 4.5/6.5 5/7.5, and the correct one gets
    0 0 0 0 0 0.2857 0.4444 0.5455 0.6154 0.6667.
    """

    name: ClassVar[str] = "otb"
    card: ClassVar[Card | None] = Card(
        rule="delta = s (mean r - B_t), B_t the energy-weighted mean reward of responses that reach token t",
        source="OTB, arXiv 2602.07078",
        url="https://arxiv.org/abs/2602.07078",
        fidelity="identical to verl/trainer/ppo/core_algos.py:758-873 of volcengine/verl at b178a3c, at s = 1",
        claims=("groups of 4 do what groups of 32 do; over 65% fewer tokens (arXiv 2602.07078, abstract)",),
        estimand="the policy gradient with the least variance that a baseline for each token allows",
        evidence="a derivation; training results with and without tools",
        falsification="on replayed rollouts its signal to noise is not above uniform's",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"advantage", "group", "logprobs", "reward", "squares"})

    def change(self, context: CreditContext, rows: Tensor, reward: Tensor) -> Tensor:
        assert context.advantage is not None and context.logprobs is not None and context.squares is not None
        response = context.response[rows]
        energy = 1.0 - 2.0 * context.logprobs[rows].double().exp() + context.squares[rows].double()
        energy = energy.clamp(min=0.0).masked_fill(~response, 0.0)
        # Responses start at different columns: token t of each in the same one.
        places = torch.arange(response.shape[1], device=response.device)
        order = (places + response.to(torch.uint8).argmax(1, keepdim=True)) % response.shape[1]
        realised = energy.gather(1, order).cumsum(1) * response.gather(1, order)
        baseline = (reward.unsqueeze(1) * realised).sum(0) / (realised.sum(0) + 1e-8)
        scale = self.scale(context.advantage[rows].double(), reward)
        delta = scale * (reward.mean() - baseline).expand(len(rows), -1)
        return torch.zeros_like(delta).scatter(1, order, delta)
