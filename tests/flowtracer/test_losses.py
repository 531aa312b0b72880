"""Protects token weights in each of TRL's losses: none drops them, averages them away, or scales by them twice."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from transformers import TrainerCallback

from flowtracer import CreditGRPOTrainer, credit
from tests.flowtracer.test_trainer import SEAMS, train


@dataclass(frozen=True)
class Half(credit.CreditMethod):
    """1.5 on every other token of a response, 0.5 on the rest: twice by 0 and 1 would look like once."""

    name: ClassVar[str] = "half"
    odd: bool = False

    def weights(self, context):
        return torch.where(context.response.cumsum(1) % 2 == self.odd, 1.5, 0.5)


class Kept(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **_):
        self.gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double()


def gradient_of(tokenizer, folder, method, **changes):
    kept = Kept()

    class Watched(CreditGRPOTrainer):
        def __init__(self, *args, **keywords):
            super().__init__(*args, **keywords)
            self.add_callback(kept)

    train(tokenizer, folder, cls=Watched, credit=method, steps=1, max_grad_norm=0.0, **changes)
    return kept.gradient


LOSSES = ["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"]
OPTIONS = [
    {"scale_rewards": "none"},
    {"scale_rewards": "batch"},
    {"mask_truncated_completions": True},
    {"top_entropy_quantile": 0.5},
    {"delta": 1.5},
    {"off_policy_mask_threshold": 0.5},
    {**SEAMS["accumulated"]},
    {"num_iterations": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 1},
]


@pytest.mark.parametrize("changes", [*({"loss_type": name} for name in LOSSES), *OPTIONS], ids=str)
def test_the_gradients_of_two_halves_are_twice_that_of_the_whole(tokenizer, tmp_path, changes):
    whole, *halves = (
        gradient_of(tokenizer, tmp_path, method, **changes) for method in ("uniform", Half(), Half(odd=True))
    )
    torch.testing.assert_close(sum(halves), 2 * whole, rtol=1e-4, atol=1e-6 * float(whole.abs().max()))
    assert all(float((half - whole).norm()) > 0.1 * float(whole.norm()) for half in halves)
