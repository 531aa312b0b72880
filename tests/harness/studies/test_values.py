"""Protects the study of values: on `decision`, where one known token settles the verdict, it says so; what was stopped
goes on; and what cannot be measured is one line.
"""

import dataclasses
import json
import math

import numpy as np
import pytest

from harness import ExperimentError
from harness import experiment as experiments
from harness.engines.base import Sampling
from harness.engines.keyed import Keyed
from harness.experiment import task_of
from harness.runs import run
from harness.studies import rollouts, value_page, values
from tests.harness import tiny

SHORT = 24


@pytest.fixture(scope="module")
def policy():
    return run.policy_of(experiments.from_table(tiny.table(), "tiny"))


@pytest.fixture(scope="module")
def asked():
    built = experiments.from_table(tiny.table(), "tiny")
    task = task_of(built.task)
    return values.Asked(task, task.problems("train", 6), 8, built.training.sampling, continuations=16)


@pytest.fixture(scope="module")
def rows(policy, asked):
    return values.rollouts(policy, Keyed(policy, 64), asked, values.journal_in())


CONTEXT = 64


def some(chosen, right=1, wrong=2):
    """A few responses of one problem that has both kinds."""
    of_first = [row for row in chosen if row["problem_id"] == chosen[0]["problem_id"]]
    good = [row for row in of_first if row["reward"] == 1][:right]
    bad = [row for row in of_first if row["verdict"] == "wrong"][:wrong]
    return good + bad


def test_the_deciding_token_has_the_change(policy, asked, rows):
    """The letter at the named place settles the verdict: no other token changes the value. The oracle follows it."""
    chosen = some(values.with_signal(rows))
    journal = values.journal_in()
    changes, continuations = values.measure(policy, Keyed(policy, 256), CONTEXT, asked, chosen, journal)
    assert continuations == 16 and len(chosen) == 3
    for row, one in zip(chosen, changes, strict=True):
        ((at, _),) = asked.task.decisive(row["text"])
        assert one.places == values.cuts_of(row, 48) and at in one.places
        index = one.places.index(at)
        if row["reward"]:  # a wrong response had little to lose
            assert np.abs(one.change).argmax() == index
        assert one.change.sum() == pytest.approx(row["reward"] - one.values[0])
        assert one.values[index + 1 :] == pytest.approx(row["reward"], abs=0.2)
        assert one.direction == (1.0 if row["reward"] else -1.0)
        assert one.fall is None or (not row["reward"] and one.fall <= index)
    methods = {
        name: method for name, method in values.methods_of(["oracle", "uniform"]).items() if name != "flow"
    }
    weights = values.weigh(policy, asked, chosen, methods, journal)
    found = values.study(policy, asked, rows, chosen, changes, continuations, weights, journal)
    by_name = {row.name: row for row in found.methods if row.reading == values.READINGS[0]}
    assert by_name["oracle"].size[0] > 0 and by_name["uniform"].size is None
    assert by_name["oracle"].by_halves[0] > 0 and by_name["oracle"].signed[0] > 0
    assert found.falls == sum(one.fall is not None for one in changes)
    assert by_name["(the other half)"].by_halves is None
    assert {"vine", "spo"} <= set(found.left_out) and found.ranked == 3
    assert {row.name for row in found.rules} >= {
        "first",
        "last",
        "unlikely",
        "long",
        "digit",
        "drawn",
        "entropy",
    }
    page = value_page.page("decision", "decision", asked, found, "flowtracer values tiny").to_markdown()
    order = ("# Values", "## Rules", "| oracle |", "## What it cannot say", "## The command")
    assert sorted(order, key=page.index) == list(order)


def test_what_was_stopped_goes_on(policy, asked, rows, tmp_path):
    """After a stop and a cut line, only that response is sampled again, and the outcome is the same."""
    few = dataclasses.replace(asked, cuts=2)
    chosen = some(values.with_signal(rows))

    def measured(path, stop=None):
        journal = values.journal_in(path, {"study": "values"})

        def progress(done, total):
            if done == stop:
                raise KeyboardInterrupt

        try:
            return values.measure(policy, Keyed(policy, 64), CONTEXT, few, chosen, journal, progress)
        finally:
            journal.close()

    def lines(path):
        return [
            {name: value for name, value in json.loads(line).items() if name != "seconds"}
            for line in path.read_text().splitlines()
        ]

    whole, _ = measured(tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        measured(cut, 2)
    assert len(lines(cut)) == 1 + 2
    cut.write_bytes(cut.read_bytes()[:-20])
    again, _ = measured(cut)
    assert lines(cut) == lines(tmp_path / "whole")
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one.halves, other.halves)


def test_rounds_end_where_the_halves_agree(policy, asked, rows):
    """The second round is other noise: it does not repeat the first."""
    chosen = some(values.with_signal(rows), 1, 1)
    journal, engine = values.journal_in(), Keyed(policy, 64)
    easy = dataclasses.replace(asked, cuts=3, continuations=32, agreement=0.001)
    hard = dataclasses.replace(easy, agreement=1.0)
    first = values.measure(policy, engine, CONTEXT, easy, chosen, journal)
    reached = values.agreement([one for one in first[0] if one is not None])
    assert first[1] == (16 if reached and reached[0] >= 0.001 else 32)
    assert values.measure(policy, engine, CONTEXT, hard, chosen, journal)[1] == 32
    of_rounds = [
        [journal.rows["values", row["problem_id"], row["sample"], part]["rewards"] for row in chosen]
        for part in (0, 1)
    ]
    assert of_rounds[0] != of_rounds[1]


def test_cuts_by_hand():
    row = {"sampler_logprobs": [math.log(p) for p in (0.5, 0.95, 0.89, 0.9, 0.1)], "key": "0" * 32}
    assert values.cuts_of(row, 48) == [0, 2, 4]
    drawn = {tuple(values.cuts_of({**row, "key": f"{number:032x}"}, 2)) for number in range(40)}
    assert drawn == {(0, 2), (0, 4), (2, 4)}
    assert values.cuts_of({**row, "sampler_logprobs": [0.0, 0.0]}, 48) == []


def test_bands_keep_to_the_room():
    assert values.bands([0, 3, 4, 9], 4) == [[0, 3, 4], [9]]
    assert values.bands([0, 3, 4], 0) == [[0], [3], [4]] and values.bands([], 3) == []


def test_halves_by_hand():
    row = {"problem_id": "p", "response_ids": [5] * 9, "reward": 1.0}
    first = np.concatenate([np.ones(8), np.zeros(8), np.zeros(8), np.ones(8)])
    one = values.changes_of(row, [2, 5], np.stack([first, np.ones(32)]), 1.0)
    assert one.values.tolist() == [0.5, 1.0, 1.0]
    assert one.halves.tolist() == [[0.5, 1.0, 1.0], [0.5, 1.0, 1.0]]
    one = values.changes_of(row, [2], first[None, :16], 1.0)
    assert one.halves.tolist() == [[1.0, 1.0], [0.0, 1.0]] and one.length == 9
    first[:8] = math.nan
    assert values.changes_of(row, [2], first[None, :16], 1.0) is None, "a half that nothing could judge"
    assert values.changes_of(row, [2], first[None], 1.0).values.tolist() == [8 / 24, 1.0]


def test_what_cannot_be_valued_is_one_line(policy, asked):
    def row(reward, problem="p", logprob=-1.0):
        return {
            "problem_id": problem, "reward": reward, "sampler_logprobs": [logprob], "key": "0" * 32, "verdict": "x"
        }  # fmt: skip

    for rows in ([row(1.0), row(1.0)], [row(0.0), row(None)], [row(1.0), row(0.0, "q")]):
        with pytest.raises(ExperimentError, match="no problem has right and wrong responses"):
            values.with_signal(rows)
    sure = [row(1.0, logprob=0.0), row(0.0, logprob=0.0)]
    changes, _ = values.measure(policy, Keyed(policy, 4), CONTEXT, asked, sure, values.journal_in())
    assert changes == [None, None]
    with pytest.raises(ExperimentError, match="there is nothing to cut"):
        values.study(policy, asked, sure, sure, changes, 16, ({}, {}), values.journal_in())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling": Sampling(9, 0.0)}, "--temperature 0"),
        ({"samples": 1}, "--samples 1"),
        ({"cuts": 0}, "--cuts 0"),
        ({"continuations": 24}, "rounds of 16"),
        ({"continuations": 0}, "rounds of 16"),
        ({"agreement": 0.0}, "--agreement 0"),
    ],
)
def test_settings_without_meaning(asked, change, named):
    with pytest.raises(ExperimentError, match=named):
        dataclasses.replace(asked, **change)


def test_continuations_drawn_at_once_are_those_drawn_apart(policy, asked, rows):
    """A response that went on for longer than it had tokens left is cut off there, as if drawn with that limit."""
    row = next(row for row in rows if len(row["response_ids"]) > 8)
    problems = {problem.id: problem for problem in asked.problems}
    engine, limits = Keyed(policy, 64), []

    def draw(prompts, keys, tokens):
        limits.append(tokens)
        return engine.sample(prompts, keys, dataclasses.replace(asked.sampling, max_new_tokens=tokens))

    def drawn(places):
        return rollouts.continued(draw, policy.tokenizer, asked.task, problems, places, SHORT)

    places = [(row, spent, number) for spent in (1, 4, 7) for number in range(24)]
    together = drawn(places)
    assert limits == [SHORT - 1]
    apart = [reward for part in (places[:24], places[24:48], places[48:]) for reward in drawn(part)]
    assert together == apart and limits[1:] == [SHORT - 1, SHORT - 4, SHORT - 7]
    assert drawn([]) == []
