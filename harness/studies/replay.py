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
                        compare methods on one set of rollouts only.
cosine to uniform       mean over i of cos(g_i, u_i): how much the method changes an update.

Intervals of the ratio and of its difference from uniform's are the jackknife over batches (Efron and Tibshirani
1993, chapter 11), those of cosines Student's over batches, those of figures per response Student's over problems.

Figures of weights are per response and averaged over problems. Rank correlations are Spearman's with mean ranks for
ties; a response on which a method abstains, or whose weights are all equal, has none and is left out. The top 40% of
two methods overlap by the expected share where ties are broken at random, so that 40% is chance. AUC is the chance
that a decisive token outweighs another one, ties half.

Monte Carlo token values follow VinePPO (Kazemnejad et al. 2024, arXiv 2410.01679, section 4): the value of a prefix
is the mean verdict of K continuations by the policy, each with a key of its own; the value of a whole response is its
reward; what a token changes is the value after it less the value before. Weights are held against the size of that
change, and against the change in the direction of the response's advantage, which is what a weight should follow.
"""

from __future__ import annotations

import math
import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from scipy.stats import rankdata
from transformers import PrinterCallback, TrainerCallback

import tasks
from flowtracer import CreditGRPOTrainer, credit
from flowtracer.credit import CreditMethod
from flowtracer.spans import decode, tokens_in
from harness import experiment as experiments
from harness import seeds
from harness.engines.base import decoded
from harness.engines.keyed import sample
from harness.errors import ExperimentError
from harness.experiment import Experiment, Training
from harness.policy import Policy
from harness.runs.recorder import Rewards
from harness.runs.run import task_of
from harness.runs.settings import data_order, grpo_config
from leaderboards import load
from leaderboards.estimates import Interval, t_interval
from leaderboards.sheets import Sheet, level

#: Gradients of more parameters than this are kept as a random projection to so many numbers, which keeps inner
#: products up to 1 / sqrt(SKETCH) = 0.0007 of the lengths.
SKETCH = 2**21
#: The share of a response whose overlap between methods is shown: FlowTracer's ratio.
TOP = 0.4
OPERATORS = frozenset("+-*/=×÷−^<>%")
CATEGORIES = ("delimiters", "digits", "operators")

Row = Mapping[str, Any]
Batches = Sequence[Sequence[Row]]
Floats = NDArray[np.float64]
#: A mean and its 95% interval; None where there is nothing to average.
Level = tuple[float, Interval | None] | None
#: Called with what is done, and of all.
Progress = Callable[[int, int], None]


# ------------------------------------------------------------------------------------- rollouts


def fresh(experiment: Experiment, policy: Policy, batches: int, seed: int) -> list[list[dict[str, Any]]]:
    """The rollouts of steps 0 to `batches` - 1 of training seed `seed`, as if no step moved the policy.

    One list a batch; rows as in the record's table of rollouts, and the question. Step 0 is, token for token, what
    every arm of that seed begins with where rollouts come from the transformers engine.
    """
    settings = experiment.training
    task = task_of(experiment.task)
    order = data_order(task.problems("train"), batches, settings.prompts_per_step, seed)
    rewards = Rewards(task, order, settings.reward == "random")
    result = []
    for step in range(batches):
        asked = order[step * settings.prompts_per_step : (step + 1) * settings.prompts_per_step]
        rows: list[dict[str, Any]] = [
            {
                "problem_id": problem.id,
                "question": problem.question,
                "sample": number,
                "group": group,
                "key": seeds.key("rollout", seed, step, problem.id, number),
                "prompt_ids": policy.encode(task.prompt(problem)),
            }
            for group, problem in enumerate(asked)
            for number in range(settings.samples_per_prompt)
        ]
        with _as_in_training(experiment, policy):
            samples = _sample(
                policy, settings, [row["prompt_ids"] for row in rows], [row["key"] for row in rows]
            )
        for row, one in zip(rows, samples, strict=True):
            row |= {"response_ids": one.ids, "text": one.text, "finish_reason": one.finish_reason}
            row["sampler_logprobs"] = one.logprobs
        columns = {
            name: [row[name] for row in rows] for name in ("text", "problem_id", "finish_reason", "key")
        }
        earned = rewards(columns.pop("text"), **columns)
        for row, reward, verdict in zip(rows, earned, rewards.verdicts, strict=True):
            row |= {"reward": reward, "verdict": str(verdict)}
        result.append(rows)
    return result


def stored(folder: Path, batches: int) -> tuple[Experiment, list[list[dict[str, Any]]]]:
    """The experiment of the recorded runs in `folder`, and its earliest rollouts, at most `batches` batches.

    Step 0 of every seed, then step 1, and so on: the fewer updates lie before them, the closer they are to the
    initial policy, which gradients are taken at. All arms share a seed's step 0; later steps are those of the seed's
    first arm by name. Raises ExperimentError for runs of several experiments and for runs without rollouts.
    """
    runs = load(folder)
    if len({run.manifest["experiment_hash"] for run in runs}) > 1:
        raise ExperimentError(f"{folder} holds runs of several experiments: give the folder of one")
    table = runs[0].manifest["experiment"]
    experiment = experiments.from_table(
        {key: value for key, value in table.items() if key != "name"}, table["name"]
    )
    questions = {problem.id: problem.question for problem in task_of(experiment.task).problems("train")}
    first = {run.seed: run for run in reversed(runs)}
    found: list[list[dict[str, Any]]] = []
    for step in range(experiment.training.steps):
        for seed in sorted(first):
            if len(found) == batches:
                return experiment, found
            if rows := first[seed].table("rollouts", step=step).to_pylist():
                found.append([{**row, "question": questions[row["problem_id"]]} for row in rows])
    if not found:
        raise ExperimentError(f"{folder}: its runs hold no rollouts yet; train at least one step")
    return experiment, found


def _as_in_training(experiment: Experiment, policy: Policy) -> AbstractContextManager[Any]:
    """The precision that TRL computes in: float32 weights, which bfloat16 is cast from."""
    if experiment.policy.dtype != "bfloat16":
        return nullcontext()
    return torch.autocast(policy.model.device.type, torch.bfloat16)


def _sample(
    policy: Policy, settings: Training, prompts: Sequence[Sequence[int]], keys: Sequence[str], spent: int = 0
) -> list[Any]:
    return sample(
        policy.model,
        policy.tokenizer,
        prompts,
        keys,
        settings.max_response_tokens - spent,
        settings.temperature,
        settings.top_k,
        settings.top_p,
    )


# ------------------------------------------------------------------------------------- one method


@dataclass
class Pass:
    """What the trainer made of rollout batches under one credit method.

    weights: one array a response, batch by batch. abstained: (batch, row) of responses without a weight of their own.
    gradients: (batches, parameters) float32, or a projection of it; None where not asked for. gap: mean absolute
    difference of log-probabilities from those recorded, 0 up to rounding where this policy wrote the rollouts.
    """

    weights: list[list[NDArray[np.float32]]] = field(default_factory=list)
    advantages: list[list[float]] = field(default_factory=list)
    abstained: set[tuple[int, int]] = field(default_factory=set)
    gradients: NDArray[np.float32] | None = None
    gap: float = math.nan


class _Trainer(CreditGRPOTrainer):
    """The trainer over given rollouts: generates nothing, moves nothing."""

    def __init__(self, batches: Batches, gradients: bool, **keywords: Any) -> None:
        self.batches, self.gradients = batches, gradients
        super().__init__(rollout_func=_given, reward_funcs=_recorded_reward, **keywords)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        rows = self.batches[self.state.global_step]
        return super()._generate_and_score_completions(
            [{**given, "question": row["question"]} for given, row in zip(inputs, rows, strict=True)]
        )

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        if self.gradients:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        self._step += 1
        return loss


def _given(prompts: list[str], trainer: _Trainer) -> dict[str, Any]:
    rows = trainer.batches[trainer.state.global_step]
    return {
        "prompt_ids": [list(row["prompt_ids"]) for row in rows],
        "completion_ids": [list(row["response_ids"]) for row in rows],
        "logprobs": [list(row["sampler_logprobs"]) for row in rows],
        "recorded": [row["reward"] for row in rows],
    }


def _recorded_reward(completions: list[str], recorded: list[float | None], **_: Any) -> list[float | None]:
    return recorded


class _Keeper(TrainerCallback):
    """Takes the gradient where the optimizer would, before it is cleared, and the weights that made it."""

    def __init__(self, kept: Pass, signs: torch.Tensor | None) -> None:
        self.kept, self.signs = kept, signs
        self.gradients: list[NDArray[np.float32]] = []
        self.gaps: list[float] = []
        self.trainer: _Trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        batch = self.trainer.rollouts
        assert batch is not None
        rows = self.trainer.batches[state.global_step]
        lengths = [len(ids) for ids in batch.response_ids]
        self.kept.weights.append(
            [weights[:length].cpu().numpy() for weights, length in zip(batch.weights, lengths, strict=True)]
        )
        self.kept.advantages.append(batch.advantages.tolist())
        self.kept.abstained |= {(state.global_step, row) for row in batch.abstentions}
        for row, now, length in zip(rows, batch.trainer_logprobs.cpu().numpy(), lengths, strict=True):
            self.gaps += np.abs(now[:length] - row["sampler_logprobs"]).tolist()
        if self.trainer.gradients:
            self.gradients.append(flat_gradient(self.trainer.model, self.signs))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = False


def weigh(
    policy: Policy,
    task: tasks.Task,
    settings: Training,
    batches: Batches,
    method: CreditMethod,
    gradients: bool = True,
    dtype: str = "float32",
) -> Pass:
    """Runs the trainer over `batches` under `method` without moving the policy.

    settings: the training whose loss is taken; its learning rate, steps, and clipping of the gradient's length play no
    part, and each batch feeds one update. gradients: without, only the forward passes run, for the weights.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if settings.lora_rank:
        raise ExperimentError("replay takes the gradient of every parameter; set training.lora_rank to 0")
    settings = replace(settings, steps=len(batches), updates_per_batch=1, max_gradient_norm=0.0)
    kept = Pass()
    keeper = _Keeper(kept, _signs(policy.model))
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Trainer(
            batches,
            gradients,
            model=policy.model,
            processing_class=policy.tokenizer,
            credit=method,
            task=task,
            args=grpo_config(settings, dtype, 0, Path(folder)),
            # As many prompts as TRL will ask for; which rollouts it gets, the trainer knows.
            train_dataset=Dataset.from_dict({"prompt": [""] * len(batches) * settings.prompts_per_step}),
            callbacks=[keeper],
            # Plain descent at rate 0 has no state and moves nothing.
            optimizers=(torch.optim.SGD(policy.model.parameters(), lr=0.0), None),
        )
        keeper.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        finally:
            policy.model.zero_grad(set_to_none=True)
            policy.model.eval()
    kept.gap = float(np.mean(keeper.gaps)) if keeper.gaps else math.nan
    if gradients:
        kept.gradients = np.stack(keeper.gradients)
    return kept


def _signs(model: torch.nn.Module) -> torch.Tensor | None:
    """One random sign a parameter, the same for every method, where gradients are projected."""
    total = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if total <= SKETCH:
        return None
    generator = torch.Generator().manual_seed(seeds.integer(seeds.key("projection")))
    return torch.randint(0, 2, (total,), dtype=torch.int8, generator=generator).mul_(2).sub_(1)


def flat_gradient(model: torch.nn.Module, signs: torch.Tensor | None) -> NDArray[np.float32]:
    """All gradients of a model as one vector; with `signs`, projected to SKETCH numbers.

    The projection adds up every SKETCH-th entry under random signs: inner products keep their expectation (the count
    sketch of Charikar, Chen, Farach-Colton 2002, with a fixed bucket for each entry).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # One parameter at a time: put together on a GPU, the vector would take as much of its memory as the policy.
    vector = torch.zeros(sum(parameter.numel() for parameter in parameters))
    for part, parameter in zip(
        vector.split([parameter.numel() for parameter in parameters]), parameters, strict=True
    ):
        if parameter.grad is not None:
            part.copy_(parameter.grad.detach().flatten())
    if signs is None:
        return vector.numpy()
    vector *= signs
    whole = len(vector) // SKETCH * SKETCH
    folded = vector[:whole].view(-1, SKETCH).sum(0)
    folded[: len(vector) - whole] += vector[whole:]
    return folded.numpy()


# ------------------------------------------------------------------------------------- figures of gradients


@dataclass(frozen=True)
class Moments:
    """Inner products of n gradients that every figure is made of.

    squares: (n,) |g_i|^2. with_sum: (n,) g_i . sum of g. with_large: (n,) cos(g_i, sum of u less u_i); with_uniform:
    (n,) cos(g_i, u_i); NaN where one of the two is 0.
    """

    squares: Floats
    with_sum: Floats
    with_large: Floats
    with_uniform: Floats


def moments(gradients: NDArray[Any], uniform: NDArray[Any]) -> Moments:
    """The `Moments` of `gradients` (n, D) beside those of uniform credit on the same batches (n, D), in float64."""
    total = gradients.sum(0, dtype=np.float64)
    large = uniform.sum(0, dtype=np.float64)
    squares, with_sum, with_large, with_uniform = [], [], [], []
    for one, other in zip(gradients, uniform, strict=True):
        own, plain = one.astype(np.float64), other.astype(np.float64)
        squares.append(own @ own)
        with_sum.append(own @ total)
        with_large.append(_cosine(own, large - plain))
        with_uniform.append(_cosine(own, plain))
    return Moments(*map(np.array, (squares, with_sum, with_large, with_uniform)))


def _cosine(one: Floats, other: Floats) -> float:
    lengths = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / lengths if lengths > 0 else math.nan


def _ratio(count: int, squares: float, total: float) -> float:
    """The ratio from n, the sum of |g_i|^2 and |sum of g|^2."""
    spread = (squares - total / count) / (count - 1)
    if spread <= 1e-12 * squares:  # all batches gave the same gradient, up to rounding
        return math.inf if squares > 0 else math.nan
    return (total / count**2 - spread / count) / spread


def signal_to_noise(found: Moments) -> float:
    """|G|^2 / tr S, see above; NaN for fewer than two batches and where every gradient is 0, infinite without noise."""
    count = len(found.squares)
    if count < 2:
        return math.nan
    return _ratio(count, math.fsum(found.squares), math.fsum(found.with_sum))


def without_each(found: Moments) -> Floats:
    """`signal_to_noise` without each batch in turn, (n,); NaN throughout for fewer than three batches."""
    count, squares = len(found.squares), math.fsum(found.squares)
    if count < 3:
        return np.full(count, math.nan)
    total = math.fsum(found.with_sum)
    return np.array(
        [
            _ratio(count - 1, squares - own, total - 2 * with_sum + own)
            for own, with_sum in zip(found.squares, found.with_sum, strict=True)
        ]
    )


def jackknife(value: float, left_out: Floats) -> Interval | None:
    """The jackknife's 95% interval of `value` from its values without each of n batches; None where not finite."""
    count = len(left_out)
    if count < 3 or not (math.isfinite(value) and np.isfinite(left_out).all()):
        return None
    around = t_interval(value + (count - 1) * (left_out.mean() - left_out))
    if around is None:
        return value, value
    half = (around[1] - around[0]) / 2
    return value - half, value + half


# ------------------------------------------------------------------------------------- figures of weights


def rank_correlations(rows: Floats) -> Floats:
    """Spearman's correlation of every two of m score lists over n tokens: (m, n) -> (m, m), NaN for constant ones."""
    ranks = rankdata(rows, axis=1)
    centred = ranks - ranks.mean(1, keepdims=True)
    length = np.sqrt((centred**2).sum(1))
    length[length < 1e-9] = math.nan
    return (centred @ centred.T) / np.outer(length, length)


def in_top(scores: Floats, count: int) -> Floats:
    """The chance that each of n tokens is among the `count` highest when ties are broken at random, (n,)."""
    if count == 0:
        return np.zeros(len(scores))
    edge = np.sort(scores)[-count]
    above = scores > edge
    tied = scores == edge
    return above + tied * ((count - above.sum()) / tied.sum())


def area_under_curve(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """The chance that a `positive` token scores higher than another, ties half; NaN where there is only one kind."""
    members, others = int(positive.sum()), int((~positive).sum())
    if not members or not others:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - members * (members + 1) / 2) / (members * others))


def category(piece: str) -> str | None:
    """ "operators", "digits" or "delimiters" (punctuation and line breaks) where a token's text is nothing else."""
    visible = "".join(piece.split())
    if not visible:
        return "delimiters" if "\n" in piece else None
    if all(character in OPERATORS for character in visible):
        return "operators"
    if visible.isdecimal():
        return "digits"
    if all(unicodedata.category(character)[0] in "PS" for character in visible):
        return "delimiters"
    return None


def over_problems(values: Iterable[tuple[str, float]]) -> Level:
    """The mean over problems of each one's mean, with Student's interval over problems; NaN are left out."""
    found: dict[str, list[float]] = {}
    for problem, value in values:
        if not math.isnan(value):
            found.setdefault(problem, []).append(value)
    return _level([math.fsum(own) / len(own) for own in found.values()])


def _level(values: Sequence[float] | Floats) -> Level:
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    return (float(finite.mean()), t_interval(finite)) if len(finite) else None


# ------------------------------------------------------------------------------------- token values


def token_values(
    policy: Policy,
    task: tasks.Task,
    settings: Training,
    rows: Sequence[Row],
    continuations: int,
    batch_size: int = 256,
    progress: Progress = lambda done, total: None,
) -> list[Floats]:
    """The verdicts of continuations of every prefix of responses: one (n + 1, K) array for a response of n tokens.

    Entry [t, k]: the reward of continuation k of the first t tokens, NaN where it could not be judged; the whole
    response has its own reward throughout. Sampled as in training, with at most the tokens that the response had left.
    """
    problems = {problem.id: problem for problem in task.problems("train")}
    values = [np.full((len(row["response_ids"]) + 1, continuations), math.nan) for row in rows]
    for found, row in zip(values, rows, strict=True):
        found[-1] = math.nan if row["reward"] is None else row["reward"]
    longest = max((len(row["response_ids"]) for row in rows), default=0)
    asked = sum(len(row["response_ids"]) for row in rows) * continuations
    done = 0
    for spent in range(longest):  # prefixes of one length together: they have the same tokens left
        wanted = [
            (index, number)
            for index, row in enumerate(rows)
            if len(row["response_ids"]) > spent
            for number in range(continuations)
        ]
        for start in range(0, len(wanted), batch_size):
            part = wanted[start : start + batch_size]
            prompts = [
                [*rows[index]["prompt_ids"], *rows[index]["response_ids"][:spent]] for index, _ in part
            ]
            keys = [seeds.key("continuation", rows[index]["key"], spent, number) for index, number in part]
            items = []
            for (index, _), one in zip(
                part, _sample(policy, settings, prompts, keys, spent=spent), strict=True
            ):
                ids = [*rows[index]["response_ids"][:spent], *one.ids]
                text = decoded(policy.tokenizer, ids)
                items.append((problems[rows[index]["problem_id"]], text, one.finish_reason))
            for (index, number), verdict in zip(part, task.verify_all(items), strict=True):
                reward = tasks.reward_of(verdict)
                values[index][spent, number] = math.nan if reward is None else reward
            done += len(part)
            progress(done, asked)
    return values


def value_changes(values: Floats) -> Floats:
    """What each of n tokens changes in the value of its prefix: (n + 1, K) verdicts -> (n,)."""
    return np.diff(np.nanmean(values, axis=1))


# ------------------------------------------------------------------------------------- the whole


@dataclass(frozen=True)
class Figures:
    """What replay says of one credit method; the module's docstring defines each figure. None: does not apply."""

    label: str
    options: Mapping[str, Any]
    ratio: float | None
    ratio_interval: Interval | None
    ratio_difference: float | None
    ratio_difference_interval: Interval | None
    to_large: Level
    to_uniform: Level
    mean_weight: float
    abstained: float
    shares: Mapping[str, float]
    decisive: Level
    value_size: Level
    value_direction: Level


@dataclass(frozen=True)
class Replay:
    """Figures of every method on one set of rollouts.

    correlations, overlaps: label -> label -> mean over responses, for methods whose weights are not all equal.
    agreement: the rank correlation of value changes between two halves of the continuations, which no method can be
    expected to exceed by much. dead: batches without any group whose rewards differ.
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


def methods_of(
    experiment: Experiment, wanted: Sequence[str] | None
) -> dict[str, tuple[CreditMethod, dict[str, Any]]]:
    """Label -> method and its options: every registered one, and the arms of the experiment that have options.

    Uniform comes first: the others are compared with it. Raises ExperimentError for a label that is neither.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in credit.names()}
    for label in experiment.methods:
        if experiment.credit_of(label) not in found.values():
            found[label] = experiment.credit_of(label)
    for label in wanted or ():
        if label not in found:
            raise ExperimentError(f"unknown credit method {label!r}; known: {', '.join(sorted(found))}")
    chosen = sorted(found if wanted is None else {"uniform", *wanted})
    chosen.sort(key=lambda label: label != "uniform")
    return {label: (credit.get(found[label][0], **found[label][1]), found[label][1]) for label in chosen}


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
    task, settings = task_of(experiment.task), experiment.training
    knows = all(task.decisive(row["text"]) is not None for rows in batches for row in rows)
    left_out = {
        label: f"task {task.name} does not know its decisive tokens"
        for label, (method, _) in methods.items()
        if "decisive" in method.needs and not knows
    }
    methods = {label: pair for label, pair in methods.items() if label not in left_out}
    total = len(methods) + bool(continuations)
    passes: dict[str, Pass] = {}
    found: dict[str, Moments] = {}
    uniform: NDArray[np.float32] | None = None
    for label, (method, _) in methods.items():
        passes[label] = kept = weigh(policy, task, settings, batches, method, dtype=experiment.policy.dtype)
        assert kept.gradients is not None
        uniform = kept.gradients if uniform is None else uniform
        found[label] = moments(kept.gradients, uniform)
        kept.gradients = None  # the largest thing here, and used up
        progress(len(passes), total)

    responses = [(batch, row, one) for batch, rows in enumerate(batches) for row, one in enumerate(rows)]
    pieces = {(batch, row): _pieces(policy, one) for batch, row, one in responses}
    decisive = {(batch, row): _decisive(policy, task, one) for batch, row, one in responses} if knows else {}
    changes: dict[tuple[int, int], tuple[Floats, float]] = {}
    agreement: Level = None
    if continuations:
        # The first sample of every group, then the second: as many problems as can be.
        chosen = sorted(responses, key=lambda item: (item[2]["sample"], item[0], item[1]))[:valued]
        chosen = [item for item in chosen if item[2]["reward"] is not None]
        with _as_in_training(experiment, policy):
            values = token_values(policy, task, settings, [one for *_, one in chosen], continuations)
        halves = []
        for (batch, row, one), verdicts in zip(chosen, values, strict=True):
            advantage = passes["uniform"].advantages[batch][row]
            changes[batch, row] = (value_changes(verdicts), float(np.sign(advantage)))
            half = continuations // 2
            if half:
                pair = np.stack([value_changes(verdicts[:, :half]), value_changes(verdicts[:, half:])])
                halves.append((one["problem_id"], float(rank_correlations(pair)[0, 1])))
        agreement = over_problems(halves)
        progress(total, total)

    base = found["uniform"]
    figures = []
    for label, (_, options) in methods.items():
        own, own_ratio = found[label], signal_to_noise(found[label])
        difference, without = own_ratio - signal_to_noise(base), without_each(own)
        measured = _of_weights(responses, passes[label], pieces, changes, decisive)
        figures.append(
            Figures(
                label=label,
                options=dict(options),
                ratio=own_ratio if math.isfinite(own_ratio) else None,
                ratio_interval=jackknife(own_ratio, without),
                ratio_difference=None if label == "uniform" or not math.isfinite(difference) else difference,
                ratio_difference_interval=None
                if label == "uniform"
                else jackknife(difference, without - without_each(base)),
                to_large=_level(own.with_large) if len(batches) > 1 else None,
                to_uniform=_level(own.with_uniform),
                abstained=len(passes[label].abstained) / len(responses),
                **measured,
            )
        )
    correlations, overlaps = _between(responses, passes)
    tokens = [name for own in pieces.values() for name in own]
    return Replay(
        experiment=experiment.name,
        policy=policy_name or experiment.policy.name,
        source=source,
        batches=len(batches),
        responses=len(responses),
        correct=float(np.mean([one["verdict"] == "correct" for *_, one in responses])),
        dead=int((base.squares == 0).sum()),
        gap=passes["uniform"].gap,
        figures=figures,
        correlations=correlations,
        overlaps=overlaps,
        token_shares={name: tokens.count(name) / max(len(tokens), 1) for name in CATEGORIES},
        valued=len(changes),
        continuations=continuations,
        agreement=agreement,
        left_out=left_out,
    )


def _pieces(policy: Policy, row: Row) -> list[str | None]:
    text, spans = decode(policy.tokenizer, list(row["response_ids"]))
    return [category(text[start:end]) for start, end in spans]


def _decisive(policy: Policy, task: tasks.Task, row: Row) -> NDArray[np.bool_]:
    """Which response tokens decide, for a task that knows them."""
    _, spans = decode(policy.tokenizer, list(row["response_ids"]))
    marked = np.zeros(len(spans), dtype=bool)
    marked[tokens_in(spans, task.decisive(row["text"]) or [])] = True
    return marked


def _of_weights(
    responses: Sequence[tuple[int, int, Row]],
    passed: Pass,
    pieces: Mapping[tuple[int, int], Sequence[str | None]],
    changes: Mapping[tuple[int, int], tuple[Floats, float]],
    marked: Mapping[tuple[int, int], NDArray[np.bool_]],
) -> dict[str, Any]:
    """The fields of `Figures` that come from weights."""
    total, tokens, signed = 0.0, 0, 0.0
    shares = dict.fromkeys(CATEGORIES, 0.0)
    decisive, size, direction = [], [], []
    for batch, row, one in responses:
        weights = passed.weights[batch][row].astype(np.float64)
        absolute = np.abs(weights)
        total, signed, tokens = total + absolute.sum(), signed + weights.sum(), tokens + len(weights)
        for name, weight in zip(pieces[batch, row], absolute, strict=True):
            if name is not None:
                shares[name] += weight
        if (batch, row) in passed.abstained:
            continue
        problem = one["problem_id"]
        if (batch, row) in marked:
            decisive.append((problem, area_under_curve(weights, marked[batch, row])))
        if (batch, row) in changes:
            change, sign = changes[batch, row]
            lists = np.stack([weights, np.abs(change), sign * change])
            ranked = rank_correlations(lists)
            size.append((problem, float(ranked[0, 1])))
            direction.append((problem, float(ranked[0, 2])))
    return {
        "mean_weight": signed / max(tokens, 1),
        "shares": {name: share / total if total else math.nan for name, share in shares.items()},
        "decisive": over_problems(decisive),
        "value_size": over_problems(size),
        "value_direction": over_problems(direction),
    }


def _between(
    responses: Sequence[tuple[int, int, Row]], passes: Mapping[str, Pass]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Mean rank correlation and mean overlap of the top 40% between methods, over responses that both rank."""
    labels = list(passes)
    sums, counts = np.zeros((2, len(labels), len(labels))), np.zeros((len(labels), len(labels)))
    for batch, row, _ in responses:
        weights = np.stack([passed.weights[batch][row] for passed in passes.values()]).astype(np.float64)
        count = int(2 * weights.shape[1] // 5)
        if not count:
            continue
        ranked = rank_correlations(weights)
        abstained = [(batch, row) in passed.abstained for passed in passes.values()]
        ranked[abstained] = ranked[:, abstained] = math.nan
        members = np.stack([in_top(own, count) for own in weights])
        both = np.isfinite(ranked)
        sums[0] += np.where(both, ranked, 0.0)
        sums[1] += np.where(both, members @ members.T / count, 0.0)
        counts += both
    ranking = [index for index in range(len(labels)) if counts[index, index]]

    def table(which: int) -> dict[str, dict[str, float]]:
        return {
            labels[one]: {
                labels[other]: float(sums[which, one, other] / counts[one, other])
                if counts[one, other]
                else math.nan
                for other in ranking
            }
            for one in ranking
        }

    return table(0), table(1)


# ------------------------------------------------------------------------------------- in words


def facts(found: Replay) -> list[str]:
    """What was replayed, one line a fact."""
    lines = [
        f"policy {found.policy}; rollouts {found.source}: {found.batches} batches, {found.responses} responses, "
        f"{found.correct:.1%} correct",
        f"mean gap between the policy's log-probabilities and those that were sampled from: {found.gap:.2g}",
    ]
    if found.dead:
        lines.append(
            f"{found.dead} of {found.batches} batches have no group whose rewards differ: no gradient"
        )
    if found.valued:
        agreement = "-" if found.agreement is None else f"{found.agreement[0]:.2f}"
        lines.append(
            f"token values: {found.valued} responses, {found.continuations} continuations a prefix; two halves of them "
            f"agree at rank correlation {agreement}"
        )
    lines += [f"left out: {label}: {reason}" for label, reason in found.left_out.items()]
    return lines


def sheets(found: Replay) -> list[Sheet]:
    """The replay as small tables."""
    by_ratio = sorted(
        found.figures, key=lambda one: -math.inf if one.ratio is None else one.ratio, reverse=True
    )
    gradient = Sheet(
        "Gradient",
        ("method", "signal/noise", "minus uniform's", "cos to large", "cos to uniform"),
        tuple(
            (
                one.label,
                level(one.ratio, one.ratio_interval),
                level(one.ratio_difference, one.ratio_difference_interval, 3, "+"),
                _text(one.to_large),
                _text(one.to_uniform),
            )
            for one in by_ratio
        ),
        "Signal-to-noise ratio (power) of one batch's gradient; cosine to the uniform gradient of all other "
        "batches, and to uniform's on the same batch. ± 95% intervals over batches.",
    )
    known = any(one.decisive for one in found.figures)
    columns = ["method", "mean weight", "abstains", *(["AUC decisive"] if known else [])]
    columns += ["value, size", "value, signed"] if found.valued else []
    weights = Sheet(
        "Weights",
        tuple(columns),
        tuple(
            (
                one.label,
                f"{one.mean_weight:.3f}",
                f"{one.abstained:.1%}",
                *([_text(one.decisive)] if known else []),
                *([_text(one.value_size, "+"), _text(one.value_direction, "+")] if found.valued else []),
            )
            for one in by_ratio
        ),
        ("AUC: the chance that a decisive token outweighs another. " if known else "")
        + (
            "Value: rank correlation with what a token changes in the Monte Carlo value, its size, and its size in the "
            "direction of the advantage. "
            if found.valued
            else ""
        )
        + "± 95% intervals over problems.",
    )
    present = [name for name in CATEGORIES if found.token_shares[name]]
    shares = Sheet(
        "Share of the weight",
        ("method", *present),
        (
            ("(of all tokens)", *(f"{found.token_shares[name]:.1%}" for name in present)),
            *((one.label, *(f"{one.shares[name]:.1%}" for name in present)) for one in by_ratio),
        ),
        "Delimiters: other punctuation, and line breaks. A method without preference has the share of all tokens.",
    )
    labels = [one.label for one in by_ratio if one.label in found.correlations]
    between = Sheet(
        "Agreement of methods, in percent",
        ("method", *(str(number) for number in range(1, len(labels) + 1))),
        tuple(
            (
                f"{row + 1:>2} {label}",
                *(
                    "·"
                    if row == column
                    else _percent((found.correlations if column < row else found.overlaps)[label][other])
                    for column, other in enumerate(labels)
                ),
            )
            for row, label in enumerate(labels)
        ),
        "Below the diagonal the rank correlation of weights, above it the overlap of the top 40% sets (chance: 40). "
        "Columns by number; means over responses. Methods of equal weights rank nothing and are left out.",
    )
    return [gradient, weights, *([shares] if present else []), *([between] if len(labels) > 1 else [])]


def _text(value: Level, sign: str = "") -> str:
    return level(None, None) if value is None else level(value[0], value[1], 3, sign)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f}"
