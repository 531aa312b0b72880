"""Protects the masking test: what is hidden is really hidden, and what is not changes nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tasks
from flowtracer import credit
from flowtracer.credit import CreditContext
from harness import ExperimentError, cli, seeds
from harness.engines.base import Sampling
from harness.engines.keyed import sample
from harness.policy import load_policy
from harness.studies import intervene


@pytest.fixture(scope="module")
def policy():
    return load_policy("decision")


@pytest.fixture(scope="module")
def task():
    return tasks.get("decision", contexts=4)


def test_hidden_positions_are_as_if_they_held_anything(policy):
    """Another token in a hidden place changes no probability; in a visible place it does."""
    ids = policy.encode("cab3?") + policy.tokenizer("ca3jbkela").input_ids
    other = list(ids)
    other[9] = policy.tokenizer("d").input_ids[0]
    key = [seeds.key("x", 0)]

    def asked(prompt, hidden):
        return sample(policy.model, policy.tokenizer, [prompt], key, Sampling(2), hidden=[hidden])[0]

    assert ids[9] != other[9]
    assert asked(ids, [9]).logprobs == pytest.approx(asked(other, [9]).logprobs, abs=1e-6)
    assert asked(ids, []).logprobs != pytest.approx(asked(other, []).logprobs, abs=1e-4)


def test_hiding_nothing_is_plain_sampling_and_padding_does_not_matter(policy):
    prompts = [policy.encode("cab3?"), policy.encode("cab3?") + policy.tokenizer("ca3jbkel").input_ids]
    keys = [seeds.key("x", number) for number in range(2)]
    plain = sample(policy.model, policy.tokenizer, prompts, keys, Sampling(4))
    hidden = sample(policy.model, policy.tokenizer, prompts, keys, Sampling(4), hidden=[[], []])
    assert [one.ids for one in plain] == [one.ids for one in hidden]
    both = sample(policy.model, policy.tokenizer, prompts, keys, Sampling(4), hidden=[[], [6]])
    alone = sample(policy.model, policy.tokenizer, prompts[1:], keys[1:], Sampling(4), hidden=[[6]])
    assert both[0].ids == plain[0].ids
    assert both[1].logprobs == pytest.approx(alone[0].logprobs, abs=1e-5)


def context(throughput):
    """One response of ten tokens with this throughput."""
    everything = torch.ones(1, len(throughput), dtype=torch.bool)
    answer = torch.zeros_like(everything)
    answer[0, 8] = True
    return CreditContext(
        token_ids=torch.zeros(1, len(throughput), dtype=torch.long),
        prompt=~everything,
        response=everything,
        source=~everything,
        answer=answer,
        scores=torch.tensor([throughput]),
    )


def test_a_two_level_method_ranks_by_who_is_up_weighted_first():
    throughput = [0.2, 0.9, 0.1, 0.8, 0.3, 0.5, 0.4, 0.7, 2.0, 0.6]
    scores = intervene.ranking(credit.get("flow"), context(throughput))[0].numpy()
    assert np.argsort(-scores)[:9].tolist() == np.argsort(-np.array(throughput))[:9].tolist()
    reverse = intervene.ranking(credit.get("bottom_flow"), context(throughput))[0].numpy()
    assert reverse.argmax() == 2


def test_other_methods_rank_by_weight():
    scores = intervene.ranking(credit.get("position"), context([1.0] * 10))[0]
    assert scores.diff().min() > 0


def test_a_fifth_is_taken_and_ties_stand_in_the_given_order():
    order = np.array([3, 0, 1, 2, 4, 5, 6, 7, 8, 9])
    assert intervene._highest(np.array([0, 0, 9, 0, 0, 0, 0, 0, 0, 0.0]), order) == [2, 3]
    assert intervene._highest(np.zeros(10), order) == [0, 3]
    assert intervene._highest(np.zeros(4), np.arange(4)) == []


def test_a_greedy_answer_stays_when_nothing_is_hidden_and_goes_with_its_decision(policy, task):
    """Hiding the decision letter takes away what the answer copies; hiding what matters least does not."""
    methods = {name: credit.get(name) for name in ("oracle", "flow")}
    problems = task.problems("test", 24)
    with pytest.raises(ExperimentError, match="duplicates"):
        intervene.intervene(policy, task, problems, methods, Sampling(8, temperature=0.0), samples=2)
    found = intervene.intervene(policy, task, problems, methods, Sampling(32, temperature=0.0), samples=1)
    arms = {arm.name: arm for arm in found.arms}
    assert list(arms) == [
        "none",
        "random",
        "oracle, highest",
        "oracle, lowest",
        "flow, highest",
        "flow, lowest",
    ]
    assert found.responses + sum(found.left_out.values()) == 24
    assert arms["none"].changed[0] == arms["none"].flipped[0] == arms["none"].hidden == 0
    assert arms["oracle, highest"].changed[0] > 0.6
    assert arms["oracle, highest"].changed[0] > arms["oracle, lowest"].changed[0] + 0.3
    assert 0.1 < arms["random"].hidden <= 0.2
    for arm in found.arms:
        low, high = arm.changed[1]
        assert 0 <= low <= arm.changed[0] <= high <= 1
        assert arm.flipped[0] == pytest.approx(arm.lost + arm.gained)
        assert arm.flipped[0] <= arm.changed[0]
    again = intervene.intervene(
        policy, task, problems, methods, Sampling(32, temperature=0.0), samples=1, batch_size=7
    )
    assert again == found, "the batch size changes nothing"


def test_deletion_takes_the_tokens_out(policy, task, monkeypatch):
    """The policy goes on from what is left of a response, in which no place is masked."""
    asked = []

    def watched(model, tokenizer, prompts, keys, sampling, hidden=None):
        asked.append((prompts, hidden))
        return sample(model, tokenizer, prompts, keys, sampling, hidden=hidden)

    monkeypatch.setattr(intervene, "sample", watched)
    methods = {"oracle": credit.get("oracle")}
    problems = task.problems("test", 4)
    intervene.intervene(policy, task, problems, methods, Sampling(32), samples=1, masking="deletion")
    whole, random, highest, lowest = (prompts for prompts, hidden in asked[1:] if hidden is None)
    for before, *after in zip(whole, random, highest, lowest, strict=True):
        (text,) = policy.tokenizer.batch_decode([before])
        decisive = len("cab3?") + task.named(text[len("cab3?") :])[0]
        without = [*before[:decisive], *before[decisive + 1 :]]
        for left, origin in zip(after, (before, without, before), strict=True):
            assert len(left) == len(before) - (len(before) - len("cab3?")) // 5
            rest = iter(origin)
            assert all(token in rest for token in left), "what is left stands in its order"
        assert after[1] != after[2]


def test_noise_is_shared_by_arms(policy, task):
    """Where a method hides what the random arm hides, its outcome is the random arm's, response by response."""
    found = intervene.intervene(
        policy,
        task,
        task.problems("test", 6),
        {"uniform": credit.get("uniform")},
        Sampling(32),
        samples=2,
    )
    arms = {arm.name: arm for arm in found.arms}
    same = replace(
        arms["uniform, highest"], name="random", changed_over_random=None, flipped_over_random=None
    )
    assert same == arms["random"]
    assert arms["uniform, highest"].changed_over_random[0] == 0


def test_responses_without_answers_are_counted_and_refused_where_there_are_no_others(policy, task):
    with pytest.raises(ExperimentError, match="4 with no answer"):
        intervene.intervene(
            policy, task, task.problems("test", 4), {}, Sampling(3, temperature=0.0), samples=1
        )


class Early(type(tasks.get("decision"))):
    """Takes the third letter of any text for its answer."""

    def extract(self, text):
        return 2, 3


def test_responses_that_answer_at_once_are_left_out(policy):
    """A fifth of fewer than five tokens is nothing to hide; such responses are counted with their reason."""
    task = Early(contexts=4)
    usable, left_out = intervene.originals(policy, task, task.problems("test", 6), 1, Sampling(32), 8)
    assert usable == [] and left_out == {"fewer than five tokens before the answer": 6}


def test_responses_with_room_before_the_answer_are_used():
    policy, task = load_policy("arithmetic"), tasks.get("arithmetic")
    usable, left_out = intervene.originals(policy, task, task.problems("test", 6), 1, Sampling(40, 0.0), 8)
    assert usable and len(usable) + sum(left_out.values()) == 6
    assert all(original.prefix >= 5 for original in usable)


def test_methods_that_need_groups_are_refused(policy, task):
    for name in ("ktae", "entropy_advantage", "entropy_mask"):
        with pytest.raises(ExperimentError, match=f"credit {name} judges groups"):
            intervene.intervene(
                policy, task, task.problems("test", 2), {name: credit.get(name)}, Sampling(32)
            )


def test_shares_and_differences_by_hand():
    problems = ["a", "a", "b", "b"]
    mean, interval = intervene.share([True, True, True, False], problems)
    assert mean == 0.75 and 0 <= interval[0] < 0.75 < interval[1] <= 1
    assert intervene.share([True, False, True], ["a", "b", "c"])[1] == pytest.approx(
        (0.2077, 0.9385), abs=1e-4
    )
    mean, interval = intervene.difference([True, True, True, False], [False, False, True, False], problems)
    assert mean == 0.5 and interval[0] == pytest.approx(0.5 - 12.7062 * 0.5, abs=1e-3)
    assert intervene.share([True], ["a"]) == (1.0, None)


def test_the_command_prints_and_exports(tmp_path, capsys):
    page, data = tmp_path / "intervene.md", tmp_path / "intervene.json"
    wanted = ["intervene", "decision", "decision:contexts=4", "--problems", "4", "--samples", "2"]
    wanted += ["--max-response-tokens", "32", "--methods", "flow"]
    assert cli.main([*wanted, "--export", str(page), "--export", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "flow, highest" in printed and max(map(len, printed.splitlines())) <= 100
    text = page.read_text()
    places = [text.index(words) for words in ("| random |", "| flow, highest |", "## What it cannot say")]
    assert places == sorted(places), "rules first, then methods, then limits"
    line = json.loads(data.read_text())["command"]
    assert (
        line.startswith("flowtracer intervene decision decision:contexts=4 --methods flow")
        and line in page.read_text()
    )
    assert [arm["name"] for arm in json.loads(data.read_text())["arms"]][:2] == ["none", "random"]


def test_without_a_limit_a_response_leaves_room_to_be_continued(capsys):
    """What is kept of one stands before as many tokens again, and both must fit the policy's context of 64."""
    wanted = ["intervene", "decision", "decision:contexts=4", "--problems", "4", "--samples", "2"]
    assert cli.main(wanted) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["decision", "decision", "--masking", "noise"], "unknown masking 'noise'"),
        (["decision", "decision", "--samples", "0"], "--samples 0"),
        (["decision", "decision", "--temperature", "0"], "duplicates"),
        (["decision", "decision", "--methods", "folw"], "folw"),
        (["decision", "decison"], "decison"),
        (["/nowhere", "decision"], "/nowhere"),
        (["decision", "decision", "--export", "x.txt"], ".json, .md"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, capsys):
    assert cli.main(["intervene", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
