"""Protects the sums of a generation batch: credit that trains nothing is said."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from flowtracer import credit
from tests.flowtracer.test_trainer import train


@dataclass(frozen=True)
class Threshold(credit.CreditMethod):
    """A user's mask: 1 from a position on. Nothing is that far where the threshold is wrong."""

    name: ClassVar[str] = "threshold"
    start: int = 99

    def weights(self, context):
        places = context.response.cumsum(1)
        return torch.where(context.response, (places > self.start).float(), 1.0)


@pytest.mark.parametrize("loss", [{}, {"steps_per_generation": 2, "per_device_train_batch_size": 4}])
def test_weights_of_nothing_but_zeros_are_said_once(tokenizer, tmp_path, loss):
    """A mask that is empty trains nothing, abstains from nothing, and was never said."""
    with pytest.warns(UserWarning, match="weight 0") as said:
        trainer = train(tokenizer, tmp_path, credit=Threshold(), steps=4, **loss)
    assert [str(warning.message) for warning in said if "credit" in str(warning.message)] == [
        "credit 'threshold' gives every token of a generation batch weight 0: nothing is trained"
    ]
    assert trainer.state.global_step == 4


def test_weights_with_a_token_that_counts_need_no_warning(tokenizer, tmp_path, recwarn):
    trainer = train(tokenizer, tmp_path, credit=Threshold(9), steps=1)
    inside = [
        row[: len(ids)]
        for row, ids in zip(trainer.rollouts.weights, trainer.rollouts.response_ids, strict=True)
    ]
    assert 0 < sum(int(row.sum()) for row in inside) <= 8
    assert not [each for each in recwarn if "weight 0" in str(each.message)]
