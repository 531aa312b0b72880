"""Protects the study of steps: the truth, the rules and the areas are what a hand computes."""

import math

import numpy as np
import pytest

import tasks
from flowtracer import credit
from harness import ExperimentError
from harness.studies import edges, steps
from tests.harness.studies.graphs import RIGHT, WRONG, response, untrained


@pytest.fixture(scope="module")
def policy():
    return untrained()


@pytest.fixture(scope="module")
def task():
    return edges.graph_task(tasks.get("graph"))


@pytest.fixture(scope="module")
def both(policy, task):
    return [response(policy, task, RIGHT), response(policy, task, WRONG, number=1)]


def test_the_truth_about_steps(task, both):
    right, wrong = (steps.known(task, one) for one in both)
    # a b e c d, and a e c d: d is asked for, e is useless, c guesses.
    assert right.useful == [True, True, False, True, None] and right.first is None
    assert wrong.useful == [True, False, True, None] and wrong.first == 2
    assert right.compares and wrong.compares and not right.mistaken and wrong.mistaken


def test_areas_by_hand():
    assert steps.of_needed([3, 1, 2, 2, 9], [True, True, False, True, None]) == pytest.approx(
        (1 + 0 + 0.5) / 3
    )
    assert math.isnan(steps.of_needed([1, 2], [True, None]))
    assert steps.of_first([1, 5, 3, 7], 1) == pytest.approx(2 / 3)
    assert math.isnan(steps.of_first([1, 5], None)) and math.isnan(steps.of_first([1], 0))


def test_rules_by_hand(task, both):
    scores = steps.rule_scores(task, steps.known(task, both[1]))
    assert scores["late"] == [0, 4, 16, 28] == [-score for score in scores["early"]]
    assert scores["long"] == [3, 11, 11, 11] == [-score for score in scores["short"]]
    assert scores["named later"] == [1, 0, 1, 0]
    assert scores["reads what none stated"] == [0, 0, 1, 0]


def test_matched_pairs_by_hand(task, both):
    """a is short; of the three long steps e is useless and c wanted, which stands last: one pair."""
    one = steps.known(task, both[1])
    (pair,) = steps.pairs_of(one.steps, [9, 3, 4, 9], one.useful)
    assert pair == steps.Pair(first=False, win=1.0)
    assert steps.pairs_of(one.steps, [9, 4, 4, 9], one.useful)[0].win == 0.5
    assert steps.pairs_of(one.steps, [9, 5, 4, 9], one.useful)[0].win == 0.0


def test_matched_gives_both_orders_the_same_weight():
    first, last = steps.Pair(True, 1.0), steps.Pair(False, 0.0)
    # Three pairs in which a rule of position is right, one in which it is wrong.
    pairs = [("p", first), ("q", first), ("r", first), ("s", last)]
    assert steps.matched(pairs) == (0.5, None)
    value, interval = steps.matched([*pairs, ("t", steps.Pair(False, 1.0)), ("t", last)])
    assert value == pytest.approx((1 + (0 + 0.5) / 2) / 2)
    assert interval is not None and interval[0] < value < interval[1]
    assert steps.matched(pairs[:3]) is None and steps.matched([]) is None


def test_advantages_are_those_of_a_group(both):
    rewards, advantages, groups = steps.advantages_of(both)
    assert rewards == [1.0, 0.0] and groups == [0, 0]
    assert advantages == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], abs=1e-3)
    assert steps.advantages_of(both[:1])[1] == [0.0]


def test_a_steps_credit_is_its_tokens_mean(task, both):
    one = steps.known(task, both[1])
    values = np.zeros(len(one.response.sample.ids))
    values[16:27] = 2.0
    values[27] = 50.0  # the semicolon belongs to no step
    assert steps.step_means(one, values) == [0.0, 0.0, 2.0, 0.0]


def test_every_method_has_a_row_or_a_reason(policy, task, both):
    methods = steps.methods_of(None)
    study = steps.study(policy, task, both, methods)
    rows = {row.name: row for row in study.rows}
    assert set(rows) | set(study.left_out) == {*methods, *steps.DUMB, *steps.READERS}
    assert {"uniform", "random", "flow", "flow-all-emitting", "entropy", "gradient"} <= set(rows)
    assert (study.compared, study.mistaken) == (2, 1)
    assert rows["uniform"].needed == rows["uniform"].wrong == (0.5, None)
    # RIGHT: a, b and c are named later, and e is not. WRONG: so are a and c.
    assert rows["named later"].needed == (1.0, None)
    assert rows["reads what none stated"].wrong == (1.0, None)
    assert rows["long"].wrong == (pytest.approx(2 / 3), None)
    # oracle up-weights the letter that opens a step, so that the shortest step has the highest mean.
    assert rows["oracle"].wrong == (pytest.approx(1 / 3), None)
    assert {row.name for row in study.carried} == {"flow", *steps.VARIANTS}
    for row in study.carried:
        assert row.difference[0] == pytest.approx(row.needed[0] - row.useless[0])
    page = steps.page(study, [], "flowtracer steps graph graph").to_markdown()
    assert page.index("| late |") < page.index("| flow-late |") < page.index("## What it cannot say")


def test_throughput_is_the_flows_own(policy, task, both):
    """The mean throughput of a, b and c, by `weigh`'s scores."""
    from flowtracer import weigh

    one = both[0]
    (weighed,) = weigh(
        policy.model, policy.tokenizer, [one.ids[: one.prompt]], [one.sample.ids], "flow", task=task
    )
    of_steps = steps.step_means(steps.known(task, one), weighed.scores.double().numpy())
    study = steps.study(policy, task, [one], {"flow": credit.get("flow")})
    assert study.carried[0].needed[0] == pytest.approx(
        np.mean([of_steps[0], of_steps[1], of_steps[3]]), rel=1e-5
    )
    assert study.carried[0].useless[0] == pytest.approx(of_steps[2], rel=1e-5)


def test_mistakes_are_named(policy, task):
    with pytest.raises(
        ExperimentError, match=r"unknown credit method 'flaw'; did you mean 'flow'[^,]*\?; `flow"
    ):
        steps.methods_of(["flaw"])
    assert list(steps.methods_of(["random"])) == ["flow", "random"]
    plain = response(policy, task, "a=4;b=a+3=4+3=7;c=b+a=7+4=1;d=c*2=1*2=2#2")
    with pytest.raises(ExperimentError, match="more problems"):
        steps.study(policy, task, [plain], {})
