"""Extra work of a credit method in a step, as a plan counts it: forwards of its own, a teacher's, and further rollouts.

Counts, not times: `harness.plan` makes FLOPs and seconds of them. Responses are taken at their longest. The method
itself says where it cuts, on one such response in which a share `UNSURE` of the tokens is unsure and every `LINE`-th
ends a line.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import parallel
from harness.engines.base import VLLM
from harness.experiment import Experiment, task_of
from harness.sameness import method_of

if TYPE_CHECKING:
    from flowtracer.credit import CreditContext, CreditMethod
    from harness.experiment import Training

#: The share of a response's tokens whose probability is below 0.9, where a method may cut. Measured: 0.37 on the
#: embedded policy `decision` (the mean weight of `low_probability` in the kept replay); assumed of others.
UNSURE = 0.4
#: Tokens of a line, after which `vine` cuts: assumed.
LINE = 16
#: Problems that are looked at for the length of a teacher's words.
PROBLEMS = 16


@dataclass(frozen=True)
class Extra:
    """Extra work of one step of an arm.

    forwards: of every rollout, without gradients by the parameters; a backward to the embeddings counts as one.
    each_token: whether each rollout has one more forward for each of its tokens. taught: tokens by which a teacher's
    prompt is longer than the student's; None without a teacher. cuts: pairs of how many tokens of a response are kept
    and how many further responses go on from there, over all rollouts of the step.
    """

    forwards: int
    each_token: bool
    taught: int | None
    cuts: tuple[tuple[int, int], ...]

    @property
    def responses(self) -> int:
        """Further responses of a step."""
        return sum(count for _, count in self.cuts)

    def tokens(self, longest: int) -> int:
        """Tokens of a step's further responses, where a response has at most `longest` with what it goes on from."""
        return sum(count * (longest - spent) for spent, count in self.cuts)


def extra_of(experiment: Experiment, label: str, characters: float) -> Extra:
    """The extra work of an arm's step. characters: of a token, by which a teacher's words are counted."""
    from flowtracer.forwards import reads_distributions

    method, training = method_of(experiment, label), experiment.training_of(label)
    needs = method.needs
    forwards = (
        reads_distributions(method) + 2 * ("saliency" in needs) + _reads_apart(experiment, method, training)
    )
    return Extra(
        forwards=forwards,
        each_token="divergence" in needs,
        taught=_taught(experiment, method, characters) if "teacher_logprobs" in needs else None,
        cuts=_cuts(method, training) if "values" in needs else (),
    )


def old_logprobs(training: Training, engine: str) -> bool:
    """True if TRL passes over old log-probabilities: for a batch that feeds several updates, and to correct for another
    sampler, which it cannot where that one drew from a part of the distribution only (`runs.settings`).
    """
    return training.updates_per_batch > 1 or (engine == VLLM and not training.sampling.truncated)


def _reads_apart(experiment: Experiment, method: CreditMethod, training: Training) -> bool:
    """True if no forward that TRL makes shows what the method reads of one."""
    from flowtracer.forwards import ReadAt, read_at
    from flowtracer.whitening import AFTER

    rollouts, micro = parallel.dealt(training, parallel.processes())
    place = read_at(
        method,
        old_logprobs=old_logprobs(training, experiment.engine),
        split=micro < rollouts,
        whitened_after=training.whiten == AFTER,
    )
    return place is ReadAt.EXTRA_FORWARD


def _taught(experiment: Experiment, method: CreditMethod, characters: float) -> int:
    """Tokens that the teacher's words add to the longest prompt of a few problems; nothing is downloaded for them."""
    from flowtracer.credit.teacher import TEMPLATE
    from flowtracer.teaching import words_of

    task = task_of(experiment.task)
    if getattr(task, "hub", None) is not None:
        return math.ceil(len(getattr(method, "template", None) or TEMPLATE) / characters)
    words = words_of(method, task)
    assert words is not None
    longer = [0]
    for problem in task.problems("train", PROBLEMS):
        gold = task.gold_answer(problem) or ""
        longer.append(len(words.put(problem.question, gold)) - len(problem.question))
    return math.ceil(max(longer) / characters)


def _cuts(method: CreditMethod, training: Training) -> tuple[tuple[int, int], ...]:
    """The further responses of a step by where they begin. A group shares those that begin at its prompt."""
    places = method.cuts(_assumed(method, training.max_response_tokens))[0].nonzero().flatten().tolist()
    counts = Counter(place - 1 for place in places)  # one token of prompt stands before the response
    groups = training.rollouts // training.samples_per_prompt
    return tuple(
        (spent, method.continuations * count * (training.rollouts if spent else groups))
        for spent, count in sorted(counts.items())
    )


def _assumed(method: CreditMethod, longest: int) -> CreditContext:
    """One response of `longest` tokens behind one of prompt, with unsure tokens and lines spread evenly."""
    import torch

    from flowtracer.credit import CreditContext

    at = torch.arange(longest + 1).unsqueeze(0)
    response = at >= 1
    # The first token is unsure, and in every run of n tokens UNSURE n are.
    unsure = torch.tensor([int((i + 1) * UNSURE) > int(i * UNSURE) for i in range(longest)])
    logprobs = torch.zeros(1, longest + 1)
    logprobs[0, 1:] = torch.where(unsure.roll(-int(unsure.nonzero()[0])), -2.0, 0.0)
    boundary = str(getattr(method, "boundary", "\n"))
    pieces = ["", *(boundary if (i + 1) % LINE == 0 else "" for i in range(longest))]
    return CreditContext(
        token_ids=at,
        prompt=~response,
        response=response,
        source=~response,
        answer=torch.zeros_like(response),
        advantage=torch.ones(1),
        reward=torch.ones(1),
        group=torch.zeros(1, dtype=torch.long),
        logprobs=logprobs,
        entropies=-logprobs,
        pieces=[pieces],
    )
