"""Edges: do the maps that credit methods read show where the tokens of a response come from?

A task that knows the true sources of its tokens (`graph`) is asked, and the policy's own responses are read. For each
token that was copied or computed, the positions before it are ranked by a map; the figure is the chance that a true
source stands above another position, ties half (the area under the ROC curve). 0.5 is chance.

A token is written from the row before it, the one that emits it, and read again in its own row. FlowTracer's edges are
those of own rows. Both are measured; the position that emits a token is no candidate, since no map ranks it against
the others (the flow drops the diagonal).

edge_flow           flow along an edge, from the prompt to the answer: what FlowTracer's graph sends on. Its sink is the
                    answer's own row, and for emitting rows the one before it
flow to the token   the throughput of a flow from the prompt whose sink is the token's row, not the answer's
one hop             the attention that the flow is made of: mean over the heads of the same layers
last layer          mean over the heads of the last layer
rollout             attention rollout over all layers (Abnar and Zuidema, 2020, arXiv 2005.00928)
gradient            |gradient . embedding| of the token's log-probability (emitting rows only)
nearest             a rule that reads no model: the later, the higher
same token          a rule that reads no model: 1 where the same token stands, else 0
same text           a rule that reads no model: of equal tokens the one behind the longest text that also stands before
                    the token, and of these the nearest
usual distance      a rule that reads no model: how often true sources lie at that distance in the task's demonstrations
random              drawn

Figures are means over tokens, then over a problem's responses, then over problems; intervals are over problems.

"among equals" is of definitions and operands only, whose sources lie at no fixed distance, and among those candidates
only that hold the very token that is written. Same token is at 0.5 there; same text is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import tasks
from flowtracer import contexts
from flowtracer.attention import AttentionTap, traced_layers
from flowtracer.flow import solve_flow
from flowtracer.layout import turns_of
from flowtracer.readings import MeanMap, Reading
from harness import seeds
from harness.engines.base import Sample, Sampling
from harness.engines.keyed import sample
from harness.errors import ExperimentError
from harness.policy import Policy
from harness.studies.answering import Page
from harness.studies.figures import Level, mean_level, roc_auc
from leaderboards.estimates import problem_means
from leaderboards.sheets import Sheet, level
from tasks.graph import ROLES, Graph

#: The rows of a map that are read for a token: its own, or the one that emits it.
OWN, EMITTING = "own", "emitting"
ROWS = (OWN, EMITTING)
#: Layers that the flow is made of.
LAYERS = ("middle", "late", "all")
#: Our default, where the paper leaves the rows open: the middle third, own rows. The others are compared with it.
DEFAULT = f"edge_flow, middle, {OWN}"
DUMB = ("nearest", "same token", "same text", "usual distance", "random")
ALL, EQUALS = "all", "among equals"
#: How many demonstrations the usual distance is counted on.
DEMONSTRATIONS = 2000

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Response:
    """A response in the task's format.

    ids: prompt and response. prompt: how many of them are the prompt. answer: positions of the answer's tokens.
    sources, roles: position -> true sources, and the role of the token there.
    """

    problem: tasks.Problem
    number: int
    sample: Sample
    verdict: str
    ids: list[int]
    prompt: int
    answer: list[int]
    sources: Mapping[int, list[int]]
    roles: Mapping[int, str]


@dataclass(frozen=True)
class Ranking:
    """How well one map ranks true sources. areas: role, `ALL` or `EQUALS` -> area under the ROC curve.

    minus_published: the same, minus those of `DEFAULT`, paired by problem; files keep the name of before.
    """

    name: str
    areas: Mapping[str, Level]
    minus_published: Mapping[str, Level]


def graph_task(task: tasks.Task) -> Graph:
    """The task, if it knows the sources of its tokens. Raises ExperimentError if not."""
    if not isinstance(task, Graph):
        raise ExperimentError(f"task {task.name} does not know where its tokens come from: take graph")
    return task


def responses_of(
    policy: Policy,
    task: Graph,
    problems: Sequence[tasks.Problem],
    samples: int,
    temperature: float,
    tokens: int,
    batch_size: int = 256,
) -> tuple[list[Response], int]:
    """`samples` responses to each problem that have the task's format, and how many were asked for.

    The noise is that of an evaluation. Raises ExperimentError where a character is no token of its own, and where no
    response has the format.
    """
    asked = [(problem, number) for problem in problems for number in range(samples)]
    responses = []
    for start in range(0, len(asked), batch_size):
        part = asked[start : start + batch_size]
        prompts = [policy.encode(task.prompt(problem)) for problem, _ in part]
        keys = [seeds.key("evaluation", task.name, problem.id, number) for problem, number in part]
        drawn = sample(policy.model, policy.tokenizer, prompts, keys, Sampling(tokens, temperature))
        for (problem, number), prompt, answer in zip(part, prompts, drawn, strict=True):
            if len(prompt) != len(problem.question):
                raise ExperimentError("the policy's tokens are no single characters: take the policy graph")
            if task.extract(answer.text) is not None:
                responses.append(_response(policy, task, problem, number, prompt, answer))
    if not responses:
        raise ExperimentError(
            f"none of {len(asked)} responses has the format of task {task.name}: take the policy graph, or a longer "
            "--max-response-tokens"
        )
    return responses, len(asked)


def _response(
    policy: Policy, task: Graph, problem: tasks.Problem, number: int, prompt: list[int], drawn: Sample
) -> Response:
    located = contexts.locate(policy.tokenizer, task, drawn.ids, turns_of(None, len(drawn.ids)))
    return Response(
        problem=problem,
        number=number,
        sample=drawn,
        verdict=str(task.verify(problem, drawn.text, drawn.finish_reason)),
        ids=[*prompt, *drawn.ids],
        prompt=len(prompt),
        answer=[len(prompt) + at for at in located.answer],
        sources=task.sources(problem, drawn.text),
        roles=task.roles(problem, drawn.text),
    )


# ------------------------------------------------------------------------------------- maps


class _LayerMaps(Reading):
    """The mean over heads of each traced layer, (L, B, T, T) float32."""

    fills = "capacity"

    def begin(self, token: Tensor, layers: int) -> None:
        self._token, self._maps = token, list[Tensor]()
        self._next()

    def _next(self) -> None:
        self._layer = MeanMap(dense_tokens=self._token.shape[1])
        self._layer.begin(self._token, layers=1)

    def add(self, rows: slice, start: int, probabilities: Tensor) -> None:
        self._layer.add(rows, start, probabilities)

    def end_layer(self) -> None:
        self._maps.append(self._layer.map)
        self._next()

    def finish(self, padded: bool) -> Tensor:
        return torch.stack(self._maps)


def layer_maps(model: Any, ids: Sequence[int]) -> Tensor:
    """The head-mean attention of every layer on one sequence, (L, T, T) float32."""
    tap = AttentionTap(model, "all")
    inputs = torch.tensor([ids], device=model.device)
    with torch.no_grad(), tap.open(torch.ones_like(inputs), _LayerMaps()) as capture:
        model(input_ids=inputs, use_cache=False)
    maps: Tensor = capture.fields["capacity"]
    return maps[:, 0].cpu()


def rollout_of(maps: Tensor) -> Tensor:
    """The attention rollout of layer maps (L, T, T), as (T, T): the product of (A + I) / 2, later layers left."""
    identity = torch.eye(maps.shape[-1])
    product = identity
    for layer in maps:
        product = (layer + identity) / 2 @ product
    return product


def edge_flows(capacity: Tensor, prompt: int, sinks: Sequence[int]) -> Tensor:
    """The flow along every edge, (T, T), from the first `prompt` positions to the sinks."""
    positions = torch.arange(len(capacity))
    answer = torch.zeros(len(capacity), dtype=torch.bool)
    answer[list(sinks)] = True
    return solve_flow(capacity, positions < prompt, answer).edge_flow()


def flows_to(capacity: Tensor, prompt: int, sinks: Sequence[int]) -> Tensor:
    """The throughput of the flow from the first `prompt` positions to each of n sinks by itself, (n, T)."""
    count, length = len(sinks), len(capacity)
    source = (torch.arange(length) < prompt).expand(count, -1)
    sink = torch.zeros(count, length, dtype=torch.bool)
    sink[torch.arange(count), list(sinks)] = True
    return solve_flow(capacity.expand(count, -1, -1), source, sink).throughput


def gradients_of(model: Any, ids: Sequence[int], targets: Sequence[int]) -> Tensor:
    """|gradient . embedding| of the log-probability of each of n tokens, (n, T) float32."""
    inputs = torch.tensor([ids], device=model.device)
    embedded = model.get_input_embeddings()(inputs).detach().repeat(len(targets), 1, 1).requires_grad_()
    with torch.enable_grad():
        logits = model(inputs_embeds=embedded, use_cache=False).logits
        rows = torch.arange(len(targets)), torch.tensor(targets) - 1
        logprobs = logits[rows].float().log_softmax(-1)
        wanted = logprobs[torch.arange(len(targets)), inputs[0, list(targets)]].sum()
        (gradient,) = torch.autograd.grad(wanted, embedded)
    return (gradient * embedded.detach()).sum(-1).abs().cpu()


# ------------------------------------------------------------------------------------- rules that read no model


def usual_distances(task: Graph, demonstrations: int = DEMONSTRATIONS) -> Counter[int]:
    """How many true sources lie at each distance before their token, in demonstrations of the task."""
    counts: Counter[int] = Counter()
    for question, text in task.demonstrations(demonstrations, "edges"):
        problem = tasks.Problem(id="edges", question=question, gold=None)
        for position, sources in task.sources(problem, text).items():
            counts.update(position - source for source in sources)
    return counts


def dumb_scores(response: Response, targets: Sequence[int], usual: Mapping[int, int]) -> dict[str, Floats]:
    """The scores (n, T) that each of `DUMB` gives the positions for n targets."""
    length = len(response.ids)
    positions, ids = np.arange(length), np.array(response.ids)
    key = seeds.key("edges", response.problem.id, response.number)
    generator = np.random.Generator(np.random.Philox(key=int(key, 16)))
    distance = np.array([usual.get(gap, 0) for gap in range(length)], dtype=np.float64)
    return {
        "nearest": np.tile(positions.astype(np.float64), (len(targets), 1)),
        "same token": np.stack([(ids == ids[target]).astype(np.float64) for target in targets]),
        "same text": np.stack([_behind_same_text(response.ids, target) for target in targets]),
        "usual distance": np.stack([distance[np.abs(target - positions)] for target in targets]),
        "random": generator.random((len(targets), length)),
    }


def _behind_same_text(ids: Sequence[int], target: int) -> Floats:
    """Scores (T,): equal tokens first, then the longer the text shared before both, then the nearest."""
    scores = np.zeros(len(ids))
    for place in range(target):
        shared = 0
        while shared < place and ids[place - 1 - shared] == ids[target - 1 - shared]:
            shared += 1
        scores[place] = 2 * len(ids) * (ids[place] == ids[target]) + shared + place / len(ids)
    return scores


# ------------------------------------------------------------------------------------- all maps on one response


def scores_of(
    model: Any, response: Response, targets: Sequence[int], usual: Mapping[int, int]
) -> dict[str, Floats]:
    """Name -> scores (n, T) of the positions for n targets, by every map and rule."""
    maps = layer_maps(model, response.ids)
    rolled = rollout_of(maps)
    scores: dict[str, Tensor] = {}
    for rows in ROWS:
        shift = 1 if rows == EMITTING else 0
        read = [target - shift for target in targets]
        sinks = [place - shift for place in response.answer]
        for layers in LAYERS:
            capacity = maps[traced_layers(layers, len(maps))].mean(0)
            scores[f"edge_flow, {layers}, {rows}"] = edge_flows(capacity, response.prompt, sinks)[read]
            scores[f"flow to the token, {layers}, {rows}"] = flows_to(capacity, response.prompt, read)
            scores[f"one hop, {layers}, {rows}"] = capacity[read]
        scores[f"last layer, {rows}"] = maps[-1][read]
        scores[f"rollout, {rows}"] = rolled[read]
    scores["gradient"] = gradients_of(model, response.ids, targets)
    return {
        **{name: values.double().numpy() for name, values in scores.items()},
        **dumb_scores(response, targets, usual),
    }


def areas_of(response: Response, targets: Sequence[int], scores: Floats) -> list[float]:
    """The area under the ROC curve of each target's true sources among the positions before its emitting one."""
    areas = []
    for target, values in zip(targets, scores, strict=True):
        true = np.zeros(target - 1, dtype=bool)
        true[response.sources[target]] = True
        areas.append(roc_auc(values[: target - 1], true))
    return areas


def among_equals(response: Response, targets: Sequence[int], scores: Floats) -> list[float]:
    """For each definition and operand: the area among the positions before that hold the same token as the target.

    NaN where the source holds another token (a slip of the mechanics), and where no other position holds it.
    """
    ids, areas = np.array(response.ids), []
    for target, values in zip(targets, scores, strict=True):
        if response.roles[target] in ("definition", "operand"):
            equal = np.flatnonzero(ids[: target - 1] == ids[target])
            areas.append(roc_auc(values[equal], np.isin(equal, response.sources[target])))
    return areas


def rankings(
    policy: Policy,
    task: Graph,
    responses: Sequence[Response],
    progress: Progress = lambda done, total: None,
) -> list[Ranking]:
    """Every map and every rule, on all responses."""
    usual = usual_distances(task)
    collected: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for done, response in enumerate(responses, start=1):
        targets = sorted(response.sources)
        if targets:
            for name, scores in scores_of(policy.model, response, targets, usual).items():
                of_map = collected.setdefault(name, {role: [] for role in (ALL, EQUALS, *ROLES)})
                _collect(of_map, response, targets, areas_of(response, targets, scores))
                equals = [area for area in among_equals(response, targets, scores) if not np.isnan(area)]
                if equals:
                    of_map[EQUALS].append((response.problem.id, float(np.mean(equals))))
        progress(done, len(responses))
    means = {
        name: {role: problem_means(pairs) for role, pairs in of_map.items()}
        for name, of_map in collected.items()
    }
    return [_ranking(name, of_map, means[DEFAULT]) for name, of_map in means.items()]


def _collect(
    of_map: Mapping[str, list[tuple[str, float]]],
    response: Response,
    targets: Sequence[int],
    areas: Sequence[float],
) -> None:
    """Adds one response's mean area of each role. A role that it does not have counts nowhere."""
    by_role: dict[str, list[float]] = {ALL: list(areas)}
    for target, area in zip(targets, areas, strict=True):
        by_role.setdefault(response.roles[target], []).append(area)
    for role, values in by_role.items():
        of_map[role].append((response.problem.id, float(np.mean(values))))


def _ranking(
    name: str, of_map: Mapping[str, Mapping[str, float]], published: Mapping[str, Mapping[str, float]]
) -> Ranking:
    differences = {
        role: [value - published[role][problem] for problem, value in means.items()]
        for role, means in of_map.items()
    }
    return Ranking(
        name=name,
        areas={role: mean_level(means.values()) for role, means in of_map.items()},
        minus_published={}
        if name == DEFAULT
        else {role: mean_level(values) for role, values in differences.items()},
    )


# ------------------------------------------------------------------------------------- in words


#: Written down before a policy was read.
FORETOLD = (
    "foretold before any policy was read: emitting rows rank sources better than own rows; within a row edge_flow is "
    "attention times what passes a position, so it stays within 0.05 of one hop; same token finds copied tokens better "
    "than edge_flow and computed ones not at all"
)
ADDED = (
    "added after a first look at 8 responses, in which rules that read no model found nearly every source: the column "
    "among equals; and after its table was seen, the rule same text, which finds sources there, too"
)
LIMITS = (
    "An edge in a map is not a cause: nothing was hidden or changed in the policy.",
    "Sources are those of the text. The policy may take a value from a token that only repeats it, and a map that "
    "shows this is counted as wrong.",
    "A map is a mean over heads and layers; single heads may do better, and none was looked for.",
    "One policy of less than a million parameters, warm-started on one generated format, one token a character.",
    "Nothing is said of training: a map that finds the sources need not give the better credit.",
)


def facts(policy_name: str, task: Graph, responses: Sequence[Response], asked: int) -> list[str]:
    """Facts about the responses that maps or methods are read on."""
    steps = [step for response in responses for step in task.steps(response.problem, response.sample.text)]
    right = [step.right for step in steps if step.workable]
    correct = sum(response.verdict == "correct" for response in responses)
    return [
        f"policy {policy_name}; {len(responses)} of {asked} responses keep the format, to "
        f"{len({response.problem.id for response in responses})} problems; {correct / asked:.1%} correct",
        f"{len(steps)} steps; {len(right) / max(len(steps), 1):.1%} have all operands worked out, and "
        f"{sum(right) / max(len(right), 1):.1%} of these state the right value",
    ]


def page(rankings: Sequence[Ranking], facts: Sequence[str], command: str) -> Page:
    """The study's page."""

    def of_rows(rows: str) -> list[Ranking]:
        chosen = [ranking for ranking in rankings if ranking.name.endswith(f", {rows}")]
        return [
            *chosen,
            *(ranking for ranking in rankings if ranking.name == "gradient" and rows == EMITTING),
        ]

    note = (
        "The chance that a true source outranks another position, ties half; 0.5 is chance. Means over problems, 95% "
        "intervals over problems. among equals: of definitions and operands, among the positions that hold the same "
        "token. definition: copied from the prompt; restated: copied from the step's definition; "
        "operand: looked up in an earlier step; result: computed; answer: copied from the last step."
    )
    return Page(
        title="Does the flow find where tokens come from?",
        question="Each copied or computed token of a response has true sources. Which map ranks them above the other "
        "positions before the token: the flow along edges, or something simpler?",
        facts=[
            *facts,
            f"our default (middle layers, own rows), which the others are compared with: {DEFAULT}",
            FORETOLD,
            ADDED,
        ],
        rules=sheet("Rules that read no model", [ranking for ranking in rankings if ranking.name in DUMB]),
        sheets=[
            sheet("Rows of the tokens themselves", of_rows(OWN)),
            sheet("Rows that emit the tokens", of_rows(EMITTING), note),
        ],
        limits=LIMITS,
        command=command,
    )


def sheet(title: str, chosen: Sequence[Ranking], note: str = "") -> Sheet:
    """Rankings as one table, in the given order."""
    return Sheet(
        title,
        ("positions ranked by", EQUALS, "minus our default", ALL, *ROLES),
        tuple(
            (
                ranking.name,
                _words(ranking.areas.get(EQUALS)),
                _words(ranking.minus_published.get(EQUALS), "+"),
                _words(ranking.areas.get(ALL)),
                *(_words(ranking.areas.get(role)) for role in ROLES),
            )
            for ranking in chosen
        ),
        note,
    )


def _words(value: Level, sign: str = "") -> str:
    return level(None, None) if value is None else level(*value, sign=sign)
