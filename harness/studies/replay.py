"""Replay: what every credit method makes of the same rollouts, by the trainer's own gradient, without training.

The trainer itself runs over given rollouts, once a method, with an optimizer that moves nothing, and its gradients
are kept: what is compared is not a second implementation of the loss. All figures are of one policy, the one that
wrote the rollouts; fresh ones come from the transformers engine. Each batch feeds one update. This tells methods apart
with far fewer runs than training does; it does not say which one trains better, since a biased gradient may be the
less noisy one.

Figures of a method's gradients g_1 ... g_n over n rollout batches, u_1 ... u_n those of uniform credit:

signal-to-noise ratio   |G|^2 / tr S, the power of the true gradient over that of one batch's noise, from the unbiased
                        estimates tr S = sum |g_i - mean|^2 / (n - 1) and |G|^2 = |mean|^2 - tr S / n: below 0 where
                        no signal stands out. 1 / ratio is the gradient noise scale of McCandlish et al. 2018 (arXiv
                        1812.06162, section 2.2 and appendix A.1) in batches: how many of them it takes until signal
                        and noise are equal. Does not change with the method's mean weight.
cosine to large batch   mean over i of cos(g_i, sum of all u_j but u_i): how far one batch's weighted gradient points
                        along the policy gradient of the n - 1 other batches. Leaving the batch itself out keeps
                        uniform's noise from counting as agreement. The large batch is as noisy as n is small, so
                        compare methods on one set of rollouts only. The n cosines share batches, so that their own
                        spread makes the interval too short: it is the jackknife, too.
turn                    mean over i of 1 - cos(g_i, u_i): how far the method turns an update away from uniform's. The
                        yardstick is `random`: it turns an update by its noise, towards nothing.
seconds a step          median over batches of the time of one update, sampling left out: credit, forward, backward. On
                        a CPU the seconds that the process computed, whatever else ran on the machine.

Intervals of the ratio and of its difference from uniform's are the jackknife over batches (Efron and Tibshirani
1993, chapter 11), those of the turn Student's over batches, those of figures per response Student's over problems.

Figures of weights are per response and averaged over problems. Rank correlations are Spearman's with mean ranks for
ties; a response on which a method abstains, or whose weights are all equal, has none and is left out. The top 40% of
two methods overlap by the expected share where ties are broken at random, so that 40% is chance. AUC is the chance
that a decisive token outweighs another one, ties half: among all tokens of its response, and among those only that the
policy was unsure of (`figures.UNSURE`). A token that the policy is sure of has next to no gradient, so that a method
which tells sure tokens from unsure ones, and nothing else, has a high first AUC and changes no update.

Monte Carlo token values follow VinePPO (Kazemnejad et al. 2024, arXiv 2410.01679, section 4): the value of a prefix
is the mean verdict of K continuations by the policy, each with a key of its own; the value of a whole response is its
reward; what a token changes is the value after it less the value before. Weights are held against the size of that
change, and against the change in the direction of the response's advantage, which is what a weight should follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tasks
from flowtracer import credit
from flowtracer.credit import CreditMethod
from flowtracer.spans import decode, tokens_in
from harness.experiment import Experiment, task_of
from harness.policy import Policy
from harness.studies import figures
from harness.studies.arms import names_of
from harness.studies.chosen import chosen
from harness.studies.figures import CATEGORIES, Floats, Level, Moments
from harness.studies.rollouts import Batches, Progress, Row, as_in_training, token_values, value_changes
from harness.studies.weighing import Pass, gradients, teacher_trouble, values_trouble
from leaderboards.declaration import BASELINE
from leaderboards.estimates import Interval, problem_means


@dataclass(frozen=True)
class Figures:
    """Replay's figures of one credit method; the module's docstring defines each figure. None: does not apply.

    credit: the method's name, or those of several, as `credit.get` takes them with `options`. to_uniform: mean of
    cos(g_i, u_i), 1 - turn.
    """

    label: str
    credit: str | list[str]
    options: Mapping[str, Any]
    ratio: float | None
    ratio_interval: Interval | None
    ratio_difference: float | None
    ratio_difference_interval: Interval | None
    to_large: Level
    to_uniform: Level
    turn: Level
    seconds: float
    mean_weight: float
    abstained: float
    shares: Mapping[str, float]
    decisive: Level
    decisive_unsure: Level
    value_size: Level
    value_direction: Level


@dataclass(frozen=True)
class Replay:
    """Figures of every method on one set of rollouts.

    correlations, overlaps: label -> label -> mean over responses, for methods whose weights are not all equal.
    agreement: the rank correlation of value changes between two halves of the continuations, which no method can be
    expected to exceed by much. dead: batches without any group whose rewards differ. changes: settings of the
    experiment that were changed for it, `training.prompts_per_step=8` and the like. command: what made it.
    """

    experiment: str
    policy: str
    source: str
    batches: int
    responses: int
    correct: float
    dead: int
    gap: float
    figures: Sequence[Figures]
    correlations: Mapping[str, Mapping[str, float]]
    overlaps: Mapping[str, Mapping[str, float]]
    token_shares: Mapping[str, float]
    valued: int
    continuations: int
    agreement: Level
    left_out: Mapping[str, str]
    changes: Sequence[str] = ()
    command: str = ""


def methods_of(
    experiment: Experiment, wanted: Sequence[str] | None
) -> dict[str, tuple[CreditMethod, dict[str, Any]]]:
    """Label -> method and its options: every registered one, and the arms of the experiment that have options.

    Uniform comes first: the others are compared with it. `wanted` and errors as in `chosen`.
    """
    known: dict[str, tuple[str | list[str], dict[str, Any]]] = {name: (name, {}) for name in credit.names()}
    for label in experiment.methods:
        if experiment.credit_of(label) not in known.values():
            known[label] = experiment.credit_of(label)
    methods = chosen(known, wanted, BASELINE)
    labels = sorted(methods, key=lambda label: (label != BASELINE, label))
    return {label: (methods[label], known[label][1]) for label in labels}


#: Batch and row of a response.
Place = tuple[int, int]


@dataclass(frozen=True)
class _Response:
    """A response with what is known of each of its n tokens.

    categories: n of `figures.category`. unsure: (n,) the tokens that the policy was unsure of. decisive: (n,) the ones
    that decide; None where the task does not know them.
    """

    place: Place
    row: Row
    categories: Sequence[str | None]
    unsure: NDArray[np.bool_]
    decisive: NDArray[np.bool_] | None

    @property
    def problem(self) -> str:
        return str(self.row["problem_id"])


@dataclass(frozen=True)
class _Values:
    """The tokens' change of the Monte Carlo value, and how well half of the continuations foretells the other half.

    changes: place -> the change by each token, and the same in the direction of the response's advantage.
    """

    changes: Mapping[Place, tuple[Floats, Floats]]
    agreement: Level


def replay(
    experiment: Experiment,
    policy: Policy,
    batches: Batches,
    source: str,
    methods: Mapping[str, tuple[CreditMethod, Mapping[str, Any]]],
    valued: int = 32,
    continuations: int = 16,
    policy_name: str = "",
    progress: Progress = lambda done, total: None,
) -> Replay:
    """Every method of `methods`, uniform first, on `batches`, which `policy` wrote.

    valued: responses whose token values are measured, spread over problems; continuations: K of them a prefix, 0 to
    leave values out.
    """
    task = task_of(experiment.task)
    responses = _responses(policy, task, batches)
    unknown = any(response.decisive is None for response in responses)
    left_out = {
        label: f"task {task.name} does not know its decisive tokens"
        for label, (method, _) in methods.items()
        if "decisive" in method.needs and unknown
    }
    for label, (method, _) in methods.items():
        if trouble := teacher_trouble(policy, task, experiment.training, batches, method):
            left_out.setdefault(label, trouble)
        if trouble := values_trouble(task, batches, method):
            left_out.setdefault(label, trouble)
    methods = {label: pair for label, pair in methods.items() if label not in left_out}
    total = len(methods) + bool(continuations)
    passes, moments = _passes(experiment, policy, task, batches, methods, lambda done: progress(done, total))
    values = _Values({}, None)
    if continuations:
        uniform = passes["uniform"].advantages
        values = _values(experiment, policy, task, responses, uniform, valued, continuations)
        progress(total, total)
    correlations, overlaps = _between(responses, passes)
    categories = [name for response in responses for name in response.categories]
    return Replay(
        experiment=experiment.name,
        policy=policy_name or experiment.policy.name,
        source=source,
        batches=len(batches),
        responses=len(responses),
        correct=float(np.mean([response.row["verdict"] == "correct" for response in responses])),
        dead=int((moments["uniform"].squares == 0).sum()),
        gap=passes["uniform"].gap,
        figures=[
            Figures(
                label=label,
                credit=names_of(method, options),
                options=dict(options),
                abstained=len(passes[label].abstained) / len(responses),
                seconds=float(np.median(passes[label].seconds)),
                **_of_gradients(moments[label], moments["uniform"], label == "uniform"),
                **_of_weights(responses, passes[label], values.changes),
            )
            for label, (method, options) in methods.items()
        ],
        correlations=correlations,
        overlaps=overlaps,
        token_shares={name: categories.count(name) / max(len(categories), 1) for name in CATEGORIES},
        valued=len(values.changes),
        continuations=continuations,
        agreement=values.agreement,
        left_out=left_out,
    )


def _responses(policy: Policy, task: tasks.Task, batches: Batches) -> list[_Response]:
    responses = []
    for batch, rows in enumerate(batches):
        for number, row in enumerate(rows):
            text, spans = decode(policy.tokenizer, list(row["response_ids"]))
            decisive, marked = task.decisive(row["text"]), None
            if decisive is not None:
                marked = np.zeros(len(spans), dtype=bool)
                marked[tokens_in(spans, decisive)] = True
            categories = [figures.category(text[start:end]) for start, end in spans]
            unsure = figures.unsure(row["sampler_logprobs"])
            responses.append(_Response((batch, number), row, categories, unsure, marked))
    return responses


def _passes(
    experiment: Experiment,
    policy: Policy,
    task: tasks.Task,
    batches: Batches,
    methods: Mapping[str, tuple[CreditMethod, Mapping[str, Any]]],
    progress: Callable[[int], None],
) -> tuple[dict[str, Pass], dict[str, Moments]]:
    """The trainer's work on the batches under every method, without the gradients, and the moments of these."""
    passes: dict[str, Pass] = {}
    moments: dict[str, Moments] = {}
    uniform: NDArray[np.float32] | None = None
    for label, (method, _) in methods.items():
        passed = gradients(policy, task, experiment.training, batches, method, experiment.policy.dtype)
        assert passed.gradients is not None
        uniform = passed.gradients if uniform is None else uniform
        moments[label] = figures.moments(passed.gradients, uniform)
        passed.gradients = None  # the largest thing here, and used up
        passes[label] = passed
        progress(len(passes))
    return passes, moments


def _values(
    experiment: Experiment,
    policy: Policy,
    task: tasks.Task,
    responses: Sequence[_Response],
    advantages: Sequence[Sequence[float]],
    valued: int,
    continuations: int,
) -> _Values:
    # The first sample of every group, then the second: as many problems as can be.
    chosen = sorted(responses, key=lambda response: (response.row["sample"], response.place))[:valued]
    chosen = [response for response in chosen if response.row["reward"] is not None]
    with as_in_training(experiment, policy):
        rows = [response.row for response in chosen]
        values = token_values(policy, task, experiment.training, rows, continuations)
    changes: dict[Place, tuple[Floats, Floats]] = {}
    agreements = []
    half = continuations // 2
    for response, verdicts in zip(chosen, values, strict=True):
        batch, row = response.place
        change = value_changes(verdicts)
        changes[response.place] = (change, float(np.sign(advantages[batch][row])) * change)
        if half:
            halves = np.stack([value_changes(verdicts[:, :half]), value_changes(verdicts[:, half:])])
            agreements.append((response.problem, float(figures.rank_correlations(halves)[0, 1])))
    return _Values(changes, figures.mean_level(problem_means(agreements).values()))


def _of_gradients(moments: Moments, uniform: Moments, is_uniform: bool) -> dict[str, Any]:
    """The fields of `Figures` that come from gradients."""
    ratio, without = figures.signal_to_noise(moments), figures.without_each(moments)
    difference = ratio - figures.signal_to_noise(uniform)
    around = figures.jackknife(difference, without - figures.without_each(uniform))
    return {
        "ratio": ratio if math.isfinite(ratio) else None,
        "ratio_interval": figures.jackknife(ratio, without),
        "ratio_difference": None if is_uniform or not math.isfinite(difference) else difference,
        "ratio_difference_interval": None if is_uniform else around,
        "to_large": figures.to_large(moments, uniform),
        "to_uniform": figures.mean_level(moments.with_uniform),
        "turn": figures.mean_level(moments.turns),
    }


def _of_weights(
    responses: Sequence[_Response], passed: Pass, changes: Mapping[Place, tuple[Floats, Floats]]
) -> dict[str, Any]:
    """The fields of `Figures` that come from weights."""
    total, tokens, signed = 0.0, 0, 0.0
    shares = dict.fromkeys(CATEGORIES, 0.0)
    decisive, among_unsure, size, direction = [], [], [], []
    # Unless every response knows its decisive tokens, those that do are no fair sample of all.
    known = all(response.decisive is not None for response in responses)
    for response in responses:
        batch, row = response.place
        weights = passed.weights[batch][row].astype(np.float64)
        absolute = np.abs(weights)
        total, signed, tokens = total + absolute.sum(), signed + weights.sum(), tokens + len(weights)
        for name, weight in zip(response.categories, absolute, strict=True):
            if name is not None:
                shares[name] += weight
        if response.place in passed.abstained:
            continue
        if known and response.decisive is not None:
            decisive.append((response.problem, figures.roc_auc(weights, response.decisive)))
            area = figures.roc_auc(weights[response.unsure], response.decisive[response.unsure])
            among_unsure.append((response.problem, area))
        if response.place in changes:
            change, directed = changes[response.place]
            ranked = figures.rank_correlations(np.stack([weights, np.abs(change), directed]))
            size.append((response.problem, float(ranked[0, 1])))
            direction.append((response.problem, float(ranked[0, 2])))
    return {
        "mean_weight": signed / max(tokens, 1),
        "shares": {name: share / total if total else math.nan for name, share in shares.items()},
        "decisive": figures.mean_level(problem_means(decisive).values()),
        "decisive_unsure": figures.mean_level(problem_means(among_unsure).values()),
        "value_size": figures.mean_level(problem_means(size).values()),
        "value_direction": figures.mean_level(problem_means(direction).values()),
    }


def _between(
    responses: Sequence[_Response], passes: Mapping[str, Pass]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Mean rank correlation and mean overlap of the top 40% between methods, over responses that both rank."""
    labels = list(passes)
    sums, counts = np.zeros((2, len(labels), len(labels))), np.zeros((len(labels), len(labels)))
    for response in responses:
        batch, row = response.place
        weights = np.stack([passed.weights[batch][row] for passed in passes.values()]).astype(np.float64)
        count = int(2 * weights.shape[1] // 5)
        if not count:
            continue
        ranked = figures.rank_correlations(weights)
        abstained = [response.place in passed.abstained for passed in passes.values()]
        ranked[abstained] = ranked[:, abstained] = math.nan
        members = np.stack([figures.in_top(of_method, count) for of_method in weights])
        both = np.isfinite(ranked)
        sums[0] += np.where(both, ranked, 0.0)
        sums[1] += np.where(both, members @ members.T / count, 0.0)
        counts += both
    ranking = [index for index in range(len(labels)) if counts[index, index]]

    def mean(total: Floats) -> dict[str, dict[str, float]]:
        with np.errstate(invalid="ignore"):
            means = total / counts
        return {
            labels[row]: {labels[column]: float(means[row, column]) for column in ranking} for row in ranking
        }

    return mean(sums[0]), mean(sums[1])
