"""Protects credit by entropy: the rules of TRL and of the published form."""

import math

import pytest
import torch
from trl import GRPOTrainer

from flowtracer import CreditError, credit
from tests.flowtracer.credit.cases import BONUS_ENTROPIES, make, ten


def test_entropy_mask_is_trl_s_rule_over_the_batch():
    method, context = make("entropy_mask")

    class Alone:
        accelerator = type(
            "", (), {"pad_across_processes": lambda self, x, **_: x, "gather": lambda self, x: x}
        )()

    expected = GRPOTrainer.get_high_entropy_mask(Alone(), context.entropies, context.response, 0.8)
    got = method(context)
    assert torch.equal(got.bool() & context.response, expected)
    assert 0.15 < float(got[context.response].mean()) < 0.25


@pytest.mark.parametrize("length", [1, 3, 5, 6, 12, 16, 40])
def test_entropy_mask_selects_the_tokens_of_its_authors_code(length):
    """get_global_entropy_top_mask: the ceil(ratio n) highest; with mean_one a mean over them, as its loss is."""
    method, context = make("entropy_mask", responses=(length, 2), prompts=(3, 5))
    entropies = context.entropies[context.response]
    expected = torch.zeros_like(entropies)
    expected[entropies.topk(math.ceil(len(entropies) / 5)).indices] = 1
    assert torch.equal(method(context)[context.response], expected)
    scaled = credit.get("entropy_mask", mean_one=True)(context)[context.response]
    values = torch.arange(len(entropies), dtype=torch.float32)
    assert float((scaled * values).mean()) == pytest.approx(float(values[expected.bool()].mean()), rel=1e-5)


def test_entropy_advantage_of_a_negative_advantage_and_of_none():
    method = credit.get("entropy_advantage")
    fields = {"entropies": BONUS_ENTROPIES}
    down = method(ten("entropy_advantage", advantage=torch.tensor([-1.0]), **fields))[0, 1:]
    assert down.tolist() == pytest.approx([1, 0.5, 0.96, 0.6, 0.8, 1, 0.6, 1, 0.5, 0.9])
    assert (method(ten("entropy_advantage", advantage=torch.tensor([0.0]), **fields)) == 1).all()
    # A' = A + min(alpha H, |A| / kappa), the form in which it was published.
    advantage = torch.tensor([-0.3])
    context = ten("entropy_advantage", advantage=advantage, **fields)
    bonus = (0.4 * torch.tensor(BONUS_ENTROPIES)).clamp(max=0.15)
    assert torch.allclose(method(context)[0, 1:] * advantage, advantage + bonus)
    with pytest.raises(CreditError, match="kappa"):
        credit.get("entropy_advantage", kappa=0.5)


SURPRISALS = [0.0, -1.0, -2.0, 0.0, -0.5, 0.0, -1.0, -3.0, 0.0, -1.0]


def test_hard_delight_takes_the_surprising_of_a_success_and_the_expected_of_a_failure():
    method = credit.get("delight", shape="hard")
    for advantage, expected in {
        1.0: [0, 0, 1, 0, 0, 0, 0, 1, 0, 0], -1.0: [1, 0, 0, 1, 0, 0, 0, 0, 0, 0], 0.0: [1] * 10
    }.items():  # fmt: skip
        context = ten("delight", advantage=torch.tensor([advantage]), logprobs=SURPRISALS)
        assert method(context)[0, 1:].tolist() == expected


def test_an_entropy_share_of_nothing_is_the_mean():
    assert (credit.get("gtpo")(ten("gtpo", entropies=[0.0] * 10)) == 1).all()
    steep = credit.get("gtpo", beta=2.0)(ten("gtpo", entropies=[0.0] * 5 + [2.0] * 5))[0, 1:]
    assert steep.tolist() == [0.0] * 5 + [3.0] * 5, "no weight below 0"


@pytest.mark.parametrize(("name", "options"), [("delight", {"shape": "firm"}), ("delight", {"eta": 0.0}),
                                           ("gtpo", {"beta": -1}), ("low_probability", {"threshold": 2})])  # fmt: skip
def test_bad_options_are_named(name, options):
    with pytest.raises(CreditError, match=f"credit {name}: {next(iter(options))}"):
        credit.get(name, **options)
