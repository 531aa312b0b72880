"""Protects credit by further rollouts: where it cuts, what it makes of the values, and what a trainer is asked for."""

import pytest
import torch

from flowtracer import CreditError, CreditGRPOTrainer, credit
from tests.flowtracer.credit.cases import SAMPLING, make, ten
from tests.flowtracer.test_trainer import Letters, train


def cuts(name, **fields):
    options = {key: fields.pop(key) for key in ("every", "interval", "boundary") if key in fields}
    return [
        place - 1
        for place in credit.get(name, **options).cuts(ten(name, **fields))[0].nonzero().flatten().tolist()
    ]


def test_vine_cuts_at_the_start_and_behind_each_boundary():
    pieces = [["", "\n", "a", ".\n\n", "b", "\n", "\n", "c", "d", "e", "\n"]]
    assert cuts("vine", pieces=pieces) == [0, 1, 3, 5, 6]
    assert cuts("vine", pieces=pieces, boundary="b") == [0, 4]
    assert cuts("vine", pieces=pieces, every=4) == [0, 4, 8]


def test_spo_cuts_before_every_unsure_token_or_every_few():
    logprobs = torch.tensor([0.95, 0.5, 0.5, 0.95, 0.5, 0.8, 0.5, 0.95, 0.5, 0.95]).log().tolist()
    assert cuts("spo", logprobs=logprobs, interval=1) == [1, 2, 4, 5, 6, 8]
    assert cuts("spo", logprobs=logprobs, interval=2) == [1, 4, 6]
    assert cuts("spo", logprobs=[0.0] * 10) == [], "the policy was sure throughout"


@pytest.mark.parametrize("name", sorted(SAMPLING))
def test_a_value_that_nobody_could_judge_is_an_abstention(name):
    method, context = make(name)
    context.values[1] = float("nan")
    judged = method.assess(context)
    assert judged.abstentions == {1: "no value"}
    assert (judged.addend[1] == 0).all(), "the response keeps its advantage"
    assert judged.addend[0, context.response[0]].abs().max() > 0


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"samples": 2.5}, {"every": -1}, {"boundary": ""}])
def test_no_continuations_and_other_bad_options_are_refused_in_one_line(wrong):
    with pytest.raises(CreditError, match=f"credit vine: {next(iter(wrong))} must be") as raised:
        credit.get("vine", **wrong)
    assert "\n" not in str(raised.value)


def test_a_trainer_that_cannot_sample_from_the_middle_is_refused(tokenizer, tmp_path):
    with pytest.raises(CreditError, match="credit 'vine' samples further responses .*flowtracer train"):
        train(tokenizer, tmp_path, credit="vine", task=Letters(), steps=1)


def test_the_trainer_asks_for_each_cut_and_takes_the_mean_of_what_was_judged(tokenizer, tmp_path):
    """Rewards by the place of the cut: the advantages are the changes of their means, whatever GRPO's were."""
    asked = []

    class Sampling(CreditGRPOTrainer):
        def continued(self, prefixes, count):
            asked.extend(prefixes)
            return [[float(spent), None, spent + 1.0] for _, spent in prefixes]

    method = credit.get("vine", every=4, samples=3)
    batch = train(tokenizer, tmp_path, cls=Sampling, credit=method, task=Letters(), steps=1).rollouts
    lengths = [len(ids) for ids in batch.response_ids]
    assert sorted(asked) == [(row, cut) for row, length in enumerate(lengths) for cut in range(0, length, 4)]
    for row, length in enumerate(lengths):
        values = [cut + 0.5 for cut in range(0, length, 4)] + [batch.rewards[row]]
        expected = [values[place // 4 + 1] - values[place // 4] for place in range(length)]
        applied = float(batch.advantages[row]) + batch.addends[row, :length]
        assert applied.tolist() == pytest.approx(expected, abs=1e-5)
