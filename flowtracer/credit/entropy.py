"""Credit from the policy's own uncertainty: entropies and probabilities of the forward that is there anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowtracer.credit.card import Card
from flowtracer.credit.levels import DEFAULTS, TwoLevel, pool_size, top
from flowtracer.credit.method import CreditContext, CreditMethod, register


@register
@dataclass(frozen=True)
class EntropyTop(TwoLevel):
    """gamma for the 40% of a response's tokens that were drawn with the highest entropy (arXiv 2510.13554, a baseline).

    The entropy is that of the distribution from which the token was drawn, in the forward that the trainer runs
    anyway. Ratio and levels as in FlowTracer; ties go to the earliest token.

    Ten response tokens of entropy 0 2 0.1 1 0.5 0 1 0 1 0.2: 1 1.5 1 1.5 1 1 1.5 1 1.5 1.
    """

    name: ClassVar[str] = "entropy"
    card: ClassVar[Card | None] = Card(
        rule="gamma for the 40% of the response with the highest entropy, 1 elsewhere",
        source="baseline in arXiv 2510.13554",
        url="https://arxiv.org/abs/2510.13554",
        fidelity="our reading of the entropy baseline of arXiv 2510.13554; no code is public",
        defaults=DEFAULTS,
        claims=(
            "average of five mathematics benchmarks, GRPO -> entropy: Qwen3-4B at 1K 37.1 -> 37.2, at 8K 44.8 -> 44.5; "
            "Qwen3-8B at 1K 39.4 -> 40.1; Countdown 52.6 -> 57.7; ZebraLogic 83.9 -> 90.3 (arXiv 2510.13554v2)",
        ),
        estimand="how open the policy's choice was at a token",
        evidence="a baseline there, below the attention methods",
        falsification="it does not beat random with the same levels",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})

    def weights(self, context: CreditContext) -> Tensor:
        assert context.entropies is not None
        response = context.response
        return self.up_weighted(top(context.entropies, response, pool_size(response.sum(1), self.ratio)))


@register
@dataclass(frozen=True)
class EntropyMask(CreditMethod):
    """Loss only where the entropy is in the batch's top 20%: w = 1 there, 0 elsewhere ("80/20", arXiv 2506.01939).

    The threshold is the (1 - ratio) quantile of all response tokens of the generation batch, interpolated linearly,
    and every token at or above it counts. Identical to get_high_entropy_mask (`top_entropy_quantile`),
    trl/trainer/grpo_trainer.py:1380-1416 of huggingface/trl at 1.16.0, which takes it over each micro-batch and not
    over the generation batch. The loss is still divided by all tokens, as there. No abstention: a response may get no
    weight at all.

    The paper's authors, Shenzhi-Wang/Beyond-the-80-20-Rule-RLVR at 6f5dda6 (verl/trainer/ppo/core_algos.py:53-87 and
    1004-1007), take the ceil(ratio n) highest of a micro-batch's n tokens: the same where no entropies tie. Their loss
    is the mean over these tokens and not over all, 5 times as large; `mean_one = true` with a loss that is a mean over
    the tokens of the batch gives that.

    Ten response tokens, alone in their batch, of entropy 0 2 0.1 1 0.5 0 0.9 0 0.8 0.2: the 80% quantile lies between
    0.9 and 1: 0 1 0 1 0 0 0 0 0 0.
    """

    name: ClassVar[str] = "entropy_mask"
    card: ClassVar[Card | None] = Card(
        rule="w = 1 where the entropy is in the batch's top 20%, 0 elsewhere",
        source="the 80/20 rule, arXiv 2506.01939",
        url="https://arxiv.org/abs/2506.01939",
        fidelity="identical to trl/trainer/grpo_trainer.py:1380-1416 of huggingface/trl at 1.16.0 "
        "(top_entropy_quantile); there each micro-batch has a quantile of its own, here the whole batch has one. Its "
        "authors' code selects the same tokens and divides the loss by them and not by all: mean_one does that",
        defaults={"ratio": "published: 20% (arXiv 2506.01939)"},
        claims=(
            "a fifth of the tokens equals all on Qwen3-8B; +7.7 AIME24 and +11.0 AIME25 on Qwen3-32B, +5.2 and +4.8 on "
            "Qwen3-14B (arXiv 2506.01939, abstract)",
            "the 80% of lowest entropy train markedly worse",
        ),
        estimand="the part of the policy gradient that comes from forking tokens",
        evidence="training results on three sizes, one run each as far as told",
        falsification="it does not beat random_mask with the same ratio: then any fifth would do",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})
    scope: ClassVar[str] = "batch"
    ratio: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("ratio", 0.0, 1.0)

    @property
    def usual_mean(self) -> float:
        return self.ratio

    def weights(self, context: CreditContext) -> Tensor:
        assert context.entropies is not None
        # torch.quantile stops at 16 million entries, which a large batch of long responses exceeds.
        ordered = context.entropies[context.response].float().sort().values
        if not len(ordered):
            return torch.zeros_like(context.entropies)
        place = (1.0 - self.ratio) * (len(ordered) - 1)
        low = min(int(place), len(ordered) - 1)
        high = min(low + 1, len(ordered) - 1)
        threshold = torch.lerp(ordered[low], ordered[high], place - low)
        return (context.entropies >= threshold).to(torch.float32)


@register
@dataclass(frozen=True)
class EntropyAdvantage(CreditMethod):
    """The advantage plus a clipped entropy bonus: A + min(alpha H, |A| / kappa) (arXiv 2506.14758).

    As a factor, w = 1 + sign(A) min(alpha H / |A|, 1 / kappa), and 1 where A = 0. H is the entropy at the token,
    detached; alpha 0.4 and kappa 2 are the paper's (for GRPO). kappa below 1 would turn signs round and is refused.

    Ten response tokens, A = 1, of entropy 0 2 0.1 1 0.5 0 1 0 1.25 0.25: 1 1.5 1.04 1.4 1.2 1 1.4 1 1.5 1.1; with
    A = -1 as much below 1: 1 0.5 0.96 0.6 0.8 1 0.6 1 0.5 0.9.
    """

    name: ClassVar[str] = "entropy_advantage"
    card: ClassVar[Card | None] = Card(
        rule="w = 1 + sign(A) min(alpha H / |A|, 1 / kappa)",
        source="Reasoning with Exploration, arXiv 2506.14758",
        url="https://arxiv.org/abs/2506.14758",
        fidelity="our reading of its equation for the shaped advantage, which it calls one line of code",
        defaults={"alpha": "published: 0.4 for GRPO", "kappa": "published: 2"},
        claims=("large gains in Pass@K, also at very large K (arXiv 2506.14758, abstract)",),
        estimand="the gain of exploring where the policy is unsure, beyond that of the reward",
        evidence="Pass@K curves on mathematics",
        falsification="Pass@K at the largest K is not above uniform's while accuracy is the same",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"advantage", "entropies"})
    alpha: float = 0.4
    kappa: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("alpha", 0.0, 1e6)
        self.check_range("kappa", 1.0, 1e6)

    def weights(self, context: CreditContext) -> Tensor:
        assert context.entropies is not None and context.advantage is not None
        advantage = context.advantage.float().unsqueeze(1)
        size = advantage.abs().clamp(min=torch.finfo(torch.float32).tiny)
        bonus = (self.alpha * context.entropies.clamp(min=0.0) / size).clamp(max=1.0 / self.kappa)
        return 1.0 + advantage.sign() * bonus


@register
@dataclass(frozen=True)
class Probability(CreditMethod):
    """w = alpha pi + 1 - alpha, pi the probability of the token: less for what was unlikely (AR, arXiv 2505.12929).

    Low-probability tokens have the largest gradients; advantage reweighting takes them down. alpha 0.2. pi comes from
    the forward that the trainer runs anyway, detached. Identical to verl/trainer/ppo/ray_trainer.py:347-353
    (both_linear_normal, negative advantages weighing 1) of zhyang2226/AR-Lopti at cbeb333.

    Ten response tokens of probability 1 0.5 0.25 0 0.75 1 1 0.1 0.9 0.5: 1 0.9 0.85 0.8 0.95 1 1 0.82 0.98 0.9.
    """

    name: ClassVar[str] = "probability"
    card: ClassVar[Card | None] = Card(
        rule="w = alpha p + 1 - alpha, p the token's probability",
        source="Advantage Reweighting (AR), arXiv 2505.12929",
        url="https://arxiv.org/abs/2505.12929",
        fidelity="identical to verl/trainer/ppo/ray_trainer.py:347-353 (both_linear_normal) of zhyang2226/AR-Lopti at "
        "cbeb333, with the settings of its script for AR",
        defaults={"alpha": "its authors' 0.2 (scripts/train_kklogic_AR_4x80GB.sh of zhyang2226/AR-Lopti)"},
        claims=(
            "up to 46.2% better on Knights and Knaves puzzles, relative to GRPO (arXiv 2505.12929, abstract)",
        ),
        estimand="the gradient with the share of improbable tokens, whose gradients are longest, taken down",
        evidence="training results on logic puzzles and mathematics",
        falsification="it does not beat random at the same turn of the update",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    alpha: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("alpha", 0.0, 1.0)

    def weights(self, context: CreditContext) -> Tensor:
        assert context.logprobs is not None
        return self.alpha * context.logprobs.float().exp() + (1.0 - self.alpha)


@register
@dataclass(frozen=True)
class LowProbability(CreditMethod):
    """w = 1 where the probability of the token is below a threshold, 0 elsewhere (the mask of SPO, arXiv 2505.23564).

    threshold 0.9. The mask is identical to that of AIFrameResearch/SPO at b9fc6a2,
    src/treetune/trainers/ppo_trainer.py:1057-1059. There it multiplies the advantage of a segment, and the loss is
    divided by the tokens that are left; here it multiplies that of the response, and the loss is still divided by all
    tokens. No abstention: a response that the policy was sure of throughout gets no weight at all.

    Ten response tokens of probability 1 0.5 0.25 0.95 0.75 1 1 0.1 0.92 0.5: 0 1 1 0 1 0 0 1 0 1.
    """

    name: ClassVar[str] = "low_probability"
    card: ClassVar[Card | None] = Card(
        rule="w = 1 where the token's probability is below 0.9, 0 elsewhere",
        source="the probability mask of SPO, arXiv 2505.23564",
        url="https://arxiv.org/abs/2505.23564",
        fidelity="identical to src/treetune/trainers/ppo_trainer.py:1057-1059 of AIFrameResearch/SPO at b9fc6a2, the "
        "mask; there it acts on the advantage of a segment, not of a response",
        defaults={"threshold": "published: 0.9"},
        estimand="the part of the gradient that comes from tokens at which the policy could have gone elsewhere",
        evidence="an ablation inside SPO, never on its own",
        falsification="it does not beat random_mask with as many tokens",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    threshold: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("threshold", 0.0, 1.0)

    def weights(self, context: CreditContext) -> Tensor:
        assert context.logprobs is not None
        return (context.logprobs.float().exp() < self.threshold).to(torch.float32)


@register
@dataclass(frozen=True)
class EntropyShare(CreditMethod):
    """w = max(0, 1 + beta (H / mean H - 1)): more where the policy was less sure than on average (GTPO's idea).

    H is the entropy at the token, detached, and mean H that of the response; beta 0.1. Where mean H is 0, w is 1. The
    form is that of a public port, teilomillet/retrain at 19db12f, retrain/advantages/credit.py:13-38, which puts the
    token's surprisal in the place of H; the authors' code is not public. beta up to 1 keeps the mean weight at 1.

    It is not GTPO itself (arXiv 2508.04349, equations 3 to 6): that adds alpha_2 H / sum H to the reward of a right
    response, the sum over the right responses of the group that reach the same position, times their number; takes
    alpha_2 (1 / H) / sum (1 / H) off a wrong one, so that there the surest tokens are punished most, where here it is
    the least sure; and normalises the two kinds apart. So says another port by the same hand,
    teilomillet/textpolicy at e88fc30, textpolicy/algorithms/grpo.py:758-992.

    Ten response tokens of entropy 0 2 0 1 1 0 3 0 2 1, mean 1: 0.9 1.1 0.9 1 1 0.9 1.2 0.9 1.1 1.
    """

    name: ClassVar[str] = "gtpo"
    card: ClassVar[Card | None] = Card(
        rule="w = max(0, 1 + beta (H / mean H - 1)), H the entropy",
        source="GTPO, arXiv 2508.04349",
        url="https://arxiv.org/abs/2508.04349",
        fidelity="our reading of its entropy weight, in the form of a port (retrain/advantages/credit.py:13-38 of "
        "teilomillet/retrain at 19db12f, which has the surprisal in place of the entropy). Not the paper's rule: that "
        "divides by the group's sum at each position, adds, and punishes wrong responses by 1 / H, their surest tokens "
        "most",
        defaults={"beta": "that port's 0.1"},
        claims=(
            "above DAPO and other entropy-guided baselines on AIME and MATH500 (arXiv 2508.04349, abstract)",
        ),
        estimand="the effort at a token, for which its entropy stands",
        evidence="training results without a number of seeds",
        falsification="it turns an update by less than N seeds could see, or does not beat random at the same turn",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("beta", 0.0, 1e6)

    def weights(self, context: CreditContext) -> Tensor:
        assert context.entropies is not None
        entropies = context.entropies.double().masked_fill(~context.response, 0.0)
        mean = entropies.sum(1, keepdim=True) / context.response.sum(1, keepdim=True).clamp(min=1)
        share = torch.where(mean > 0, entropies / torch.where(mean > 0, mean, 1.0), 1.0)
        return (1.0 + self.beta * (share - 1.0)).clamp(min=0.0)


@register
@dataclass(frozen=True)
class Delight(CreditMethod):
    """Credit by delight, advantage times surprisal: a rare success counts, and a rare failure does not (2603.20521).

    l = -log p is the surprisal of the token, from the forward that the trainer runs anyway, detached.
    shape: "soft", w = sigmoid(A l / eta); or "hard", w = 1 on the share `ratio` of the response with the highest
        surprisal where A > 0, with the lowest where A < 0, and 0 elsewhere; ties go to the earliest token.
    eta 1 and ratio 0.2, of at least one token. Where A is 0 no weight matters: 0.5 in "soft", 1 in "hard".

    "soft" is the gate of the authors' code, egg at d005eac, egg/losses/dg.py:158-206 (arXiv 2603.14608), with its
    threshold at 0 as there. Two things differ by default: their A is the reward minus the group's mean, not divided by
    its deviation (scale_rewards "none" in TRL), and their surprisal is the current policy's at each update, here that
    of the generation's forward, the same at one update a generation. "hard" is not theirs (at eta 0 they keep what has
    A l > 0): it is that of a public port, teilomillet/retrain at 19db12f, retrain/advantages/delight/gate.py:23-53;
    "soft" is in it too, at 83-112, with a rescaling of surprisals and a cap of 50 nats on them that are not here.

    Ten response tokens, A = 1, of surprisal 0 1 2 0 0.5 0 1 3 0 1:
    0.5 0.7311 0.8808 0.5 0.6225 0.5 0.7311 0.9526 0.5 0.7311; hard: 0 0 1 0 0 0 0 1 0 0.
    """

    name: ClassVar[str] = "delight"
    card: ClassVar[Card | None] = Card(
        rule="w = sigmoid(A l / eta), l the surprisal; or the 20% of highest delight A l (hard)",
        source="the Delightful Policy Gradient, arXiv 2603.14608 and 2603.20521",
        url="https://arxiv.org/abs/2603.20521",
        fidelity="identical to the authors' egg/losses/dg.py:158-206 of egg at d005eac (copy plugyawn/egg) in the soft "
        "gate; their A is not divided by the deviation, and their surprisal is the current policy's. The hard gate is "
        "not theirs: retrain/advantages/delight/gate.py:23-53 of teilomillet/retrain at 19db12f, a port",
        defaults={
            "shape": "published: the soft gate",
            "eta": "its authors' 1",
            "ratio": "ours: 20%, as in other masks",
        },
        claims=(
            "above REINFORCE and PPO on MNIST, sequence models and control (arXiv 2603.14608, abstract)",
        ),
        estimand="a gradient nearer to that of supervised learning: rare successes count, rare failures do not",
        evidence="proofs for bandits; small-scale training",
        falsification="on replayed rollouts its gradient is no nearer to that of a large batch than uniform's",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"advantage", "logprobs"})
    shape: str = "soft"
    eta: float = 1.0
    ratio: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("shape", ("soft", "hard"))
        self.check_range("eta", 1e-6, 1e6)
        self.check_range("ratio", 0.0, 1.0)

    @property
    def usual_mean(self) -> float:
        return 0.5 if self.shape == "soft" else self.ratio

    def weights(self, context: CreditContext) -> Tensor:
        assert context.logprobs is not None and context.advantage is not None
        advantage = context.advantage.double().unsqueeze(1)
        delight = -context.logprobs.double() * advantage
        if self.shape == "soft":
            return torch.sigmoid(delight / self.eta)
        # Where A < 0 the lowest surprisal is the highest delight.
        count = pool_size(context.response.sum(1), self.ratio).clamp(min=1)
        chosen = top(delight, context.response, count)
        return torch.where(advantage == 0, 1.0, chosen.double())
