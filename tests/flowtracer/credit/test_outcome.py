"""Protects credit from the group's outcomes: the rule of KTAE's code, prefix values by hand, addends as addends."""

import math
import random

import pytest
import scipy.special
import scipy.stats
import torch

from flowtracer import CreditError
from flowtracer.credit.outcome import fisher_exact
from tests.flowtracer.credit.cases import make, rearranged


@pytest.mark.parametrize(("first", "second"), [(3, 5), (1, 1), (8, 8), (2, 14)])
def test_fisher_exact_equals_scipy(first, second):
    for a in range(first + 1):
        for b in range(second + 1):
            expected = scipy.stats.fisher_exact([[a, b], [first - a, second - b]]).pvalue
            numbers = [torch.tensor([value], dtype=torch.float64) for value in (a, b)]
            sizes = [torch.tensor(value, dtype=torch.float64) for value in (first, second)]
            assert float(fisher_exact(*numbers, *sizes)) == pytest.approx(expected, rel=1e-6)


def ktae_by_hand(responses, rewards, end, fisher=1.0, information=1.0, frequency=1.0, at_one=0.0):
    """delta of every token, in loops and double precision, after the authors' compute_key_tokens.py."""
    correct = [ids for ids, reward in zip(responses, rewards, strict=True) if reward > 0]
    wrong = [ids for ids, reward in zip(responses, rewards, strict=True) if reward <= 0]
    if not correct or not wrong:
        return [[0.0] * len(ids) for ids in responses]

    def entropy(*shares):
        return -sum(share * math.log2(share) for share in shares if share > 0)

    def frequency_of(token, texts):
        length, mean = sum(map(len, texts)), (sum(map(len, correct)) + sum(map(len, wrong))) / 2
        share = sum(ids.count(token) for ids in texts) / length
        return share * 3.0 / (share + 2.0 * (0.5 + 0.5 * length / mean))

    def delta(token):
        a, b = sum(token in ids for ids in correct), sum(token in ids for ids in wrong)
        c, d = len(correct) - a, len(wrong) - b
        n = a + b + c + d
        p = scipy.stats.fisher_exact([[a, b], [c, d]]).pvalue
        evidence = at_one if p > 1 - 1e-9 else math.exp(-2 * p)
        gain = entropy((a + c) / n, (b + d) / n)
        for one, other in ((a, b), (c, d)):
            if one + other:
                gain -= (one + other) / n * entropy(one / (one + other), other / (one + other))
        direction = math.asin(math.sqrt(a / (a + c))) - math.asin(math.sqrt(b / (b + d)))
        often, seldom = frequency_of(token, correct), frequency_of(token, wrong)
        direction += frequency * (often / (seldom + 1e-5) - seldom / (often + 1e-5))
        strength = (fisher * evidence + information * gain) / (fisher + information)
        return 2 * (scipy.special.expit(strength * direction) - 0.5)

    return [[0.0 if token == end else delta(token) for token in ids] for ids in responses]


def context_with(name, ids, rewards, **options):
    """A method and one group's context with these token ids."""
    rows = len(ids)
    method, context = make(
        name, responses=tuple(map(len, ids)), prompts=(2,) * rows, rewards=list(rewards), **options
    )
    context.group = torch.zeros(rows, dtype=torch.long)
    for row, own in enumerate(ids):
        context.token_ids[row, context.response[row]] = torch.tensor(own)
    return method, context


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "options", [{}, {"information": 2.0}, {"frequency": 0.0}, {"fisher": 0.0}, {"at_one": 0.1353}]
)
def test_ktae_is_the_rule_of_its_authors_code(seed, options):
    source = random.Random(seed)
    ids = [[source.randint(2, 9) for _ in range(source.randint(4, 12))] + [1] for _ in range(8)]
    rewards = [source.choice([0.0, 1.0, 0.5, -1.0]) for _ in ids]
    method, context = context_with("ktae", ids, rewards, **options)
    addend = method.assess(context).addend
    for row, expected in enumerate(ktae_by_hand(ids, rewards, 1, **options)):
        assert addend[row, context.response[row]].tolist() == pytest.approx(expected, abs=1e-6)


def test_ktae_of_a_token_on_one_side_only():
    """Its term frequency on the other side is 0, so that its direction saturates the sigmoid."""
    method, context = context_with("ktae", [[5, 2, 1], [5, 2, 1], [6, 2, 1], [6, 2, 1]], [1.0, 1.0, 0.0, 0.0])
    addend = method.assess(context).addend
    assert [addend[row, context.response[row]].tolist() for row in (0, 2)] == [[1, 0, 0], [-1, 0, 0]]


def tempo_by_hand(ids, rewards):
    """delta of each token, from prefixes as tuples."""

    def value(prefix):
        sharing = [
            r for other, r in zip(ids, rewards, strict=True) if tuple(other[: len(prefix)]) == tuple(prefix)
        ]
        return sum(sharing) / len(sharing)

    return [[value(own[: t + 1]) - value(own[:t]) for t in range(len(own))] for own in ids]


@pytest.mark.parametrize("graded", [False, True])
def test_tempo_equals_prefixes_by_hand(graded):
    source = random.Random(0)
    ids = [[source.randint(1, 2) for _ in range(source.randint(1, 7))] for _ in range(8)]
    ids[3] = ids[0][:2]
    rewards = [float(source.randint(0, 10)) / 10 if graded else float(source.randint(0, 1)) for _ in ids]
    method, context = context_with("tempo", ids, rewards)
    values = torch.tensor(rewards)
    context.advantage = (values - values.mean()) / (values.std() + 1e-4)
    addend = method.assess(context).addend
    for row, deltas in enumerate(tempo_by_hand(ids, rewards)):
        expected = [delta / (float(values.std()) + 1e-4) for delta in deltas]
        assert addend[row, context.response[row]].tolist() == pytest.approx(expected, abs=1e-5)


def test_tempo_refuses_advantages_of_another_making():
    """Two rewards that are normalised before they are summed: no change of the reward is a change of the advantage."""
    method, context = context_with("tempo", [[5, 7], [5, 8], [6, 7], [6, 8]], [1.0, 1.0, 1.1, 0.1])
    context.advantage = torch.tensor([0.7, 0.7, 0.9, -2.3])
    with pytest.raises(CreditError, match="multiple of the rewards .*sum_then_normalize"):
        method.assess(context)


def test_groups_do_not_mix():
    """Two groups side by side get what each gets alone."""
    for name in ("ktae", "tempo"):
        method, context = make(name, responses=(6,) * 8, prompts=(2,) * 8, rewards=[1.0, 0, 0, 1, 0, 0, 1, 0])
        context.reward[4:] = context.reward[4:] * 0.5
        context.advantage = context.reward - context.reward.view(2, 4).mean(1).repeat_interleave(4)
        together = method.assess(context).addend
        halves = [method.assess(rearranged(context, lambda value, part=part: value[part])).addend for part in
                  (slice(0, 4), slice(4, 8))]  # fmt: skip
        assert torch.allclose(together, torch.cat(halves))
