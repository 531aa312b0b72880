"""Protects the study of edges: every map is what it is called, and areas are what a hand computes."""

import numpy as np
import pytest
import torch

import tasks
from flowtracer import credit
from flowtracer.attention import AttentionTap, traced_layers
from flowtracer.weighing import read_responses
from harness import ExperimentError
from harness.studies import edges
from tests.harness.studies.graphs import QUESTION, RIGHT, WRONG, response, untrained


@pytest.fixture(scope="module")
def policy():
    return untrained()


@pytest.fixture(scope="module")
def task():
    return edges.graph_task(tasks.get("graph"))


def test_flow_along_edges_of_three_tokens():
    """Half of the flow goes straight to the answer, half by the token between."""
    capacity = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0.5, 0.5, 0]])
    flows = edges.edge_flows(capacity, 1, [2])
    assert torch.allclose(flows, torch.tensor([[0, 0, 0], [0.5, 0, 0], [0.5, 0.5, 0]]))
    throughputs = edges.flows_to(capacity, 1, [1, 2])
    assert torch.allclose(throughputs, torch.tensor([[2.0, 2, 0], [2, 1, 2]]))


def test_rollout_of_two_layers():
    first = torch.tensor([[1.0, 0], [1.0, 0]])
    second = torch.tensor([[1.0, 0], [0.5, 0.5]])
    # (A + I) / 2: rows (1, 0), (0.5, 0.5) and (1, 0), (0.25, 0.75); the later one stands left.
    assert torch.allclose(
        edges.rollout_of(torch.stack([first, second])), torch.tensor([[1.0, 0], [0.625, 0.375]])
    )


def test_layer_maps_have_the_traced_mean(policy, task):
    one = response(policy, task, RIGHT)
    maps = edges.layer_maps(policy.model, one.ids)
    assert maps.shape == (3, len(one.ids), len(one.ids))
    inputs = torch.tensor([one.ids])
    for layers in edges.LAYERS:
        with torch.no_grad(), AttentionTap(policy.model, layers).open(torch.ones_like(inputs)) as capture:
            policy.model(input_ids=inputs)
        assert torch.allclose(maps[traced_layers(layers, 3)].mean(0), capture.capacity[0], atol=1e-6)


def test_the_answers_gradient_is_that_of_credit(policy, task):
    one = response(policy, task, RIGHT)
    saliency = read_responses(
        policy.model,
        policy.tokenizer,
        [one.ids[: one.prompt]],
        [one.sample.ids],
        credit.get("gradient"),
        task=task,
    ).context.saliency
    gradients = edges.gradients_of(policy.model, one.ids, [20, *one.answer])
    assert torch.allclose(gradients[1], saliency[0], atol=1e-6)
    assert not torch.allclose(gradients[0], gradients[1], atol=1e-6)


def test_areas_by_hand(policy, task):
    one = response(policy, task, RIGHT)
    target = len(QUESTION) + len("a=")
    (source,) = one.sources[target]
    scores = np.zeros((3, len(one.ids)))
    scores[0, source] = 1.0
    scores[1, source] = -1.0
    # The position that emits the token, and those from the token on, are no candidates.
    scores[:, target - 1 :] = 2.0
    assert edges.areas_of(one, [target] * 3, scores) == [1.0, 0.0, 0.5]


def test_among_equals_only_the_same_token_counts(policy, task):
    one = response(policy, task, RIGHT)
    whole, start = QUESTION + RIGHT, len(QUESTION)
    target = start + len("a=")
    (source,) = one.sources[target]
    equal = [at for at in range(target - 1) if whole[at] == "4"]
    assert equal == [source]  # no other 4 before: nothing to rank
    later = start + RIGHT.index("4*7")
    equal = [at for at in range(later - 1) if whole[at] == "4"]
    scores = np.full((2, len(one.ids)), 5.0)
    scores[0, equal] = np.arange(len(equal))
    scores[1, equal] = 1.0
    (source,) = one.sources[later]
    expected = equal.index(source) / (len(equal) - 1)
    assert edges.among_equals(one, [later, later], scores) == [pytest.approx(expected), 0.5]
    assert np.isnan(edges.among_equals(one, [target], scores[:1])).all()
    # A result is no copy.
    assert edges.among_equals(one, [start + RIGHT.index("=7;") + 1], scores[:1]) == []


def test_rules_by_hand(policy, task):
    one = response(policy, task, RIGHT)
    target = len(QUESTION) + len("a=")
    scores = edges.dumb_scores(one, [target], {5: 7})
    assert scores["nearest"][0].tolist() == list(range(len(one.ids)))
    whole = QUESTION + RIGHT
    assert [at for at in range(len(whole)) if scores["same token"][0, at]] == [
        at for at, character in enumerate(whole) if character == "4"
    ]
    assert scores["usual distance"][0, : target + 1].nonzero()[0].tolist() == [target - 5]
    assert scores["usual distance"][0, target - 5] == 7
    later = len(QUESTION) + RIGHT.index("e=a") + len("e=")
    behind = edges.dumb_scores(one, [later], {})["same text"][0]
    ranked = sorted(range(later), key=behind.__getitem__, reverse=True)
    # The a behind `;e=`, those behind `=`, the nearest first, and those behind other text; then other tokens.
    assert ranked[:6] == [24, 35, 2, 29, 20, 12] and one.sources[later] == [24]
    assert {whole[at] for at in ranked[:6]} == {"a"} and "a" not in {whole[at] for at in ranked[6:]}
    again = edges.dumb_scores(one, [target], {})
    assert (scores["random"] == again["random"]).all()
    other = edges.dumb_scores(response(policy, task, RIGHT, number=1), [target], {})
    assert (scores["random"] != other["random"]).any()


def test_usual_distances_count_every_source(task):
    counts = edges.usual_distances(task, 50)
    pairs = task.demonstrations(50, "edges")
    results = sum(text.count("=") - text.count(";") - 1 for _, text in pairs) // 2
    # A result's operands stand two and four tokens before it, the operation three; a restated number stands at four.
    assert counts[3] == results
    assert counts[4] >= 2 * results


def test_every_map_and_rule_ranks_every_role(policy, task):
    responses = [response(policy, task, RIGHT), response(policy, task, WRONG, number=1)]
    seen = []
    rankings = edges.rankings(policy, task, responses, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    by_name = {one.name: one for one in rankings}
    assert {edges.DEFAULT, "gradient", *edges.DUMB} <= set(by_name)
    assert by_name[edges.DEFAULT].minus_published == {}
    for one in rankings:
        assert set(one.areas) == {edges.ALL, edges.EQUALS, *edges.ROLES}
        assert all(0 <= level[0] <= 1 for level in one.areas.values())
    # One problem: a mean without an interval, over its two responses.
    single = [edges.rankings(policy, task, [one]) for one in responses]
    apart = [next(one for one in of_one if one.name == "nearest").areas["operand"][0] for of_one in single]
    assert by_name["nearest"].areas["operand"] == (pytest.approx(np.mean(apart)), None)
    assert by_name["same token"].areas[edges.EQUALS] == (0.5, None)
    published, nearest = by_name[edges.DEFAULT].areas["result"][0], by_name["nearest"].areas["result"][0]
    assert by_name["nearest"].minus_published["result"][0] == pytest.approx(nearest - published)
    page = edges.page(rankings, ["a fact"], "flowtracer edges graph graph").to_markdown()
    assert "our default (middle layers, own rows), which" in page and "published" not in page, (
        "the paper leaves the rows open: our choice is no one else's"
    )
    order = [
        "# Does the flow",
        "a fact",
        "## Rules that",
        "## Rows of",
        "## What it cannot say",
        "## The command",
    ]
    assert sorted(order, key=page.index) == order
    assert page.count("| gradient |") == 1


def test_mistakes_are_named(policy, task):
    with pytest.raises(ExperimentError, match="take graph"):
        edges.graph_task(tasks.get("arithmetic"))
    with pytest.raises(ExperimentError, match="none of 2 responses"):
        edges.responses_of(policy, task, task.problems("test", 2), 1, 1.0, 4)
