"""Credit from a teacher that knows the answer: the policy itself, which reads the gold beside the question.

On the responses that the student wrote, the evidence of a token is log p_T - log p_S, the teacher's log-probability of
it minus the student's: how much more likely the token is to one who knows the answer. The teacher costs one forward
without gradient (`flowtracer.teaching` makes its prompt); the student never reads the gold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowtracer.credit.card import Card
from flowtracer.credit.method import CreditContext, CreditMethod, register
from flowtracer.errors import CreditError

#: The place of the question in the prompt as the teacher reads it, where neither method nor task has words of its own.
TEMPLATE = "{question}\n\nThe right answer is: {gold}\nReach it by reasoning of your own."

NEED = "teacher_logprobs"

#: Where the default of the option that all teachers share comes from, for their cards.
_DEFAULTS = {"template": "ours: the task's own words, or those of `teacher.TEMPLATE`"}

_FIELD = re.compile(r"\{(question|gold)\}")


def check_template(template: Any, name: str) -> None:
    """Raises CreditError unless a template, an option of the method `name`, has a place for question and gold."""
    if template is None:
        return
    if not isinstance(template, str) or {*_FIELD.findall(template)} != {"question", "gold"}:
        raise CreditError(
            f"credit {name}: template must be a text that holds {{question}} and {{gold}}, not {template!r:.60}"
        )


def filled(template: str, question: str, gold: str) -> str:
    """The template with question and gold in their places; other braces, those of \\boxed{} for one, stay."""
    values = {"question": question, "gold": gold}
    return _FIELD.sub(lambda match: values[match[1]], template)


@dataclass(frozen=True)
class Taught(CreditMethod):
    """A method with a teacher. template: the words in which it is shown the gold, with {question} and {gold}.

    None: the task's own (`taught`), or those of `TEMPLATE`.
    """

    template: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_template(self.template, self.name)

    def evidence(self, context: CreditContext) -> Tensor:
        """log p_T - log p_S of each response token, (B, T) float64, 0 elsewhere."""
        assert context.logprobs is not None and context.teacher_logprobs is not None
        return (context.teacher_logprobs.double() - context.logprobs.double()).masked_fill(
            ~context.response, 0.0
        )


@register
@dataclass(frozen=True)
class SelfDistilledWeights(Taught):
    """The reward gives the direction, the teacher the size: more on tokens that it holds for likelier (RLSD).

    w = 1 - mix + mix clip((p_T / p_S)^sign(A), 1 - epsilon, 1 + epsilon): where A < 0 a token that the teacher holds
    for less likely is punished more. w is never negative, so that the gold turns no sign round.
    mix 0.5 and epsilon 0.2 are the defaults of the authors' code. fade_steps: mix falls linearly to 0 over so many
    steps; 0, that code's default, keeps it. Their script fades over 60 steps, the paper over 50.

    Identical to iie-ycx/RLSD at 93e46f7, verl/workers/actor/dp_opsd_actor.py:221-239, the weight, and
    verl/trainer/opsd_trainer.py:1952-1961, the fading (arXiv 2604.03128, section 4). There the teacher's parameters may
    be older, taken over every 20 steps in the script; here they are the policy's own at each generation, that code's
    default. There both log-probabilities are those of the update; here they are those of the generation, the same on a
    batch's first update. Fading counts optimizer steps from 1; that code counts generations from 1, which is the same
    at one update a generation. The template is not theirs. Equation 15 of the paper is mix 1, which its training then
    mixes with uniform credit and fades.

    Ten response tokens, A = 1, of p_T / p_S 1 1.1 0.9 2 0.5 1 1.2 0.8 1.04 0.96:
    1 1.05 0.95 1.1 0.9 1 1.1 0.9 1.02 0.98.
    """

    name: ClassVar[str] = "rlsd"
    card: ClassVar[Card | None] = Card(
        rule="w = 1 - mix + mix clip((p_T / p_S)^sign(A), 1 - epsilon, 1 + epsilon)",
        source="RLSD, arXiv 2604.03128, section 4",
        url="https://arxiv.org/abs/2604.03128",
        fidelity="identical to verl/workers/actor/dp_opsd_actor.py:221-239 and "
        "verl/trainer/opsd_trainer.py:1952-1961 of iie-ycx/RLSD at 93e46f7, on a batch's first update; the template is "
        "not theirs",
        defaults={
            "mix": "that code's 0.5",
            "epsilon": "that code's 0.2",
            "fade_steps": "that code's 0, no fading; their script fades over 60 steps, the paper over 50",
            **_DEFAULTS,
        },
        claims=(
            "a higher ceiling and more stable training than GRPO and self-distillation (arXiv 2604.03128, abstract)",
        ),
        estimand="how much a token leans on what only the one who knows the answer knows",
        evidence="training results on multimodal reasoning",
        falsification="it does not beat itself with a wrong gold in the teacher's prompt, or random at the same turn",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"advantage", "logprobs", "teacher_logprobs"})
    mix: float = 0.5
    epsilon: float = 0.2
    fade_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("mix", 0.0, 1.0)
        self.check_range("epsilon", 0.0, 1.0)
        self.check_range("fade_steps", 0, 1e9)
        if self.fade_steps:
            object.__setattr__(self, "needs", type(self).needs | {"step"})

    def weights(self, context: CreditContext) -> Tensor:
        assert context.advantage is not None
        mix = self.mix
        if self.fade_steps:
            assert context.step is not None
            mix *= max(1.0 - (context.step + 1) / self.fade_steps, 0.0)  # their first step is step 1
        sign = context.advantage.double().sign().unsqueeze(1)
        ratio = (sign * self.evidence(context)).exp().clamp(1.0 - self.epsilon, 1.0 + self.epsilon)
        return 1.0 - mix + mix * ratio


@register
@dataclass(frozen=True)
class OnPolicySelfDistillation(Taught):
    """The teacher's evidence in place of the advantage: A' = log p_T - log p_S, whatever the reward says (OPSD).

    The policy gradient of the reverse KL to the teacher, on sampled tokens. delta = scale (log p_T - log p_S) +
    (outcome - 1) A. scale 1. outcome: how much of the response's advantage stays beside it, 0 in the paper; 1 adds the
    evidence to GRPO's advantage. A group whose rewards are all equal is trained on too.

    Identical to siyan-zhao/OPSD at 590ec26, opsd_trainer.py:690-714, the branch `use_thinking_machines_loss`
    (arXiv 2601.18734), up to the mean over tokens, which is the trainer's loss type here, and to the importance ratio,
    which is 1 on a batch's first update. That code's default compares whole distributions (a Jensen-Shannon
    divergence), which no token weight can say; its script keeps the teacher at the initial policy, here it is the
    policy itself. It shows a whole solution; here the teacher sees the text of the answer.

    Ten response tokens, A = 1, of log p_T - log p_S 0 0.5 -0.5 2 -1 0 0.25 -3 0 1, as weights A' / A:
    0 0.5 -0.5 2 -1 0 0.25 -3 0 1.
    """

    name: ClassVar[str] = "opsd"
    card: ClassVar[Card | None] = Card(
        rule="A' = scale (log p_T - log p_S) + outcome A",
        source="OPSD, arXiv 2601.18734",
        url="https://arxiv.org/abs/2601.18734",
        fidelity="identical to opsd_trainer.py:690-714 of siyan-zhao/OPSD at 590ec26 (use_thinking_machines_loss), up "
        "to the mean over tokens and the importance ratio",
        defaults={
            "scale": "published: 1",
            "outcome": "published: 0, the reward has no say",
            **_DEFAULTS,
        },
        claims=(
            "8 to 12 times fewer generated tokens than GRPO for the same, and above off-policy distillation, on "
            "mathematics (arXiv 2601.18734, abstract of version 2; version 1 says 4 to 8 times, version 3 no number)",
            "Qwen3-1.7B on AIME24, average of 16: 47.7% before, 51.7% at 200 steps and 51.0% at 500 (README of "
            "siyan-zhao/OPSD at 590ec26)",
        ),
        estimand="the gradient of the reverse KL from the policy to itself with the answer in its prompt",
        evidence="abstracts and README of its authors, all of whole distributions, not of sampled tokens; the paper's "
        "tables were not at hand. A reproduction (JLiangHe/OPSD_exp on the Hugging Face hub) finds Qwen3-4B and 8B "
        "below their start on AIME24; arXiv 2604.03128 reports leaks and unstable long training",
        falsification="accuracy without the gold does not rise, or falls after its first rise, where uniform's rises",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"advantage", "logprobs", "teacher_logprobs"})
    additive: ClassVar[bool] = True
    scale: float = 1.0
    outcome: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("scale", 0.0, 1e6)
        self.check_range("outcome", 0.0, 1e6)

    def weights(self, context: CreditContext) -> Tensor:
        assert context.advantage is not None
        rest = (self.outcome - 1.0) * context.advantage.double().unsqueeze(1)
        return self.scale * self.evidence(context) + rest


@register
@dataclass(frozen=True)
class OraclePrompted(Taught):
    """The change that a token makes in the chance of success, by the teacher's evidence up to it (OPPO).

    The chance before the first token, V_0, is the mean reward of the group; each token multiplies its odds by
    p_T / p_S: V_t = sigmoid(logit V_0 + sum of log (p_T / p_S) up to t), and A'_t = V_t - V_{t-1}, so that a token
    counts where success is in doubt. delta = A'_t - A. A group whose mean reward is not between 0 and 1 has delta 0.
    clip: the evidence of one token is at most so large, in nats. anchor: a token that moves the chance against the
    response's outcome, the sign of A, gets 0, so that no step of a wrong response is rewarded.

    Our reading of the recursion in arXiv 2605.21851 (self-oracle), whose code is not public. The paper clips the
    evidence and anchors the direction too, the latter with the largest effect of its ablation; how is not known to us:
    clip 5 and the rule of `anchor` are ours, and that V_0 is the group's mean. The
    sum of V_t - V_{t-1} over a response is at most 1 in size, so that updates are smaller than GRPO's by about the
    response's length; Adam takes that out, a penalty beside the loss does not.

    Ten response tokens of a correct response (A = 1) in a group of mean reward 0.5, p_T / p_S 1 3 1 1/3 1 9 1 1 1 1:
    the chance is 0.5, 0.75, back to 0.5, which is anchored, and 0.9. As weights A' / A: 0 0.25 0 0 0 0.4 0 0 0 0.
    """

    name: ClassVar[str] = "oppo"
    card: ClassVar[Card | None] = Card(
        rule="A' = V_t - V_(t-1), V the chance of success, whose odds each token multiplies by p_T / p_S",
        source="OPPO, arXiv 2605.21851, self-oracle",
        url="https://arxiv.org/abs/2605.21851",
        fidelity="our reading of the recursion; no code is public, and clip and anchor are ours",
        defaults={
            "clip": "ours: 5 nats; the paper clips, at what is not known to us",
            "anchor": "ours: true; the paper anchors the direction, how is not known to us",
            **_DEFAULTS,
        },
        claims=(
            "above GRPO, DAPO and SDPO by up to 6.0 points on AMC23 and 5.2 on AIME24, more for longer responses "
            "(arXiv 2605.21851, abstract)",
        ),
        estimand="the change of the success probability by a token, as a Bayesian update",
        evidence="training results on two policies and seven benchmarks",
        falsification="its V_t does not foretell the outcomes of continuations from t (replay, token values)",
    )
    needs: ClassVar[frozenset[str]] = frozenset(
        {"advantage", "group", "logprobs", "reward", "teacher_logprobs"}
    )
    scope: ClassVar[str] = "group"
    additive: ClassVar[bool] = True
    clip: float = 5.0
    anchor: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("clip", 1e-6, 1e6)

    def weights(self, context: CreditContext) -> Tensor:
        assert context.advantage is not None and context.reward is not None
        advantage = context.advantage.double().unsqueeze(1)
        start, mixed = self._prior(context)
        # Outside the response the evidence is 0, so that the sum runs over its tokens alone.
        odds = self.evidence(context).clamp(-self.clip, self.clip).cumsum(1) + start.logit().unsqueeze(1)
        chance = torch.cat([start.unsqueeze(1), odds.sigmoid()], dim=1)
        change = chance.diff(dim=1)
        if self.anchor:
            change = torch.where(change * advantage < 0, 0.0, change)
        counted = (mixed & ~context.reward.isnan()).unsqueeze(1)
        return torch.where(counted, change - advantage, 0.0)

    def _prior(self, context: CreditContext) -> tuple[Tensor, Tensor]:
        """The mean reward of each row's group, (B,) float64, and whether it lies between 0 and 1; 0.5 where not."""
        assert context.reward is not None and context.group is not None
        reward = context.reward.double()
        member = torch.unique(context.group, return_inverse=True)[1]
        total = torch.zeros_like(reward).index_add_(0, member, reward.nan_to_num())
        count = torch.zeros_like(reward).index_add_(0, member, (~reward.isnan()).double())
        mean = (total / count.clamp(min=1.0))[member]
        mixed = (mean > 0) & (mean < 1)
        return torch.where(mixed, mean, 0.5), mixed
