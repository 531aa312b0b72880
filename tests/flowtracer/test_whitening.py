"""Protects whitening over tokens: its numbers by hand, where the weight enters, and several processes."""

import pytest
import torch

from flowtracer import CreditError
from flowtracer.whitening import AFTER, BEFORE, Whitening

#: Two responses, of three tokens and of one.
IN_LOSS = torch.tensor([[True, True, True], [True, False, False]])


def test_a_response_counts_once_for_each_of_its_tokens():
    """Advantages 1 1 1 -1 over the tokens: mean 0.5, unbiased variance (3 x 0.25 + 2.25) / 3 = 1."""
    whitened = Whitening(BEFORE)(torch.tensor([1.0, -1.0]), IN_LOSS)
    assert torch.allclose(whitened, torch.tensor([0.5, -1.5]))
    tokens = Whitening(AFTER)(torch.tensor([[1.0, 1, 1], [-1, 9, 9]]), IN_LOSS)
    assert torch.allclose(tokens[IN_LOSS], torch.tensor([0.5, 0.5, 0.5, -1.5]))


def test_behind_the_weights_a_constant_factor_is_gone():
    advantages = torch.tensor([[1.0, 1, 1], [-1, -1, -1]])
    after = Whitening(AFTER)
    assert torch.allclose(after(1.2 * advantages, IN_LOSS), after(advantages, IN_LOSS), atol=1e-6)


def test_the_clamp_stands_last():
    assert Whitening(BEFORE, 1.0)(torch.tensor([1.0, -1.0]), IN_LOSS).tolist() == pytest.approx([0.5, -1.0])
    assert Whitening(None, 0.5)(torch.tensor([1.0, -1.0]), IN_LOSS).tolist() == [0.5, -0.5]
    assert not Whitening().acts(BEFORE) and not Whitening().acts(AFTER)
    assert Whitening(None, 2.0).acts(AFTER) and not Whitening(None, 2.0).acts(BEFORE)


def test_two_processes_whiten_as_one():
    advantages = torch.tensor([[1.0, 0.5, 2], [-1, 9, 9]])
    whole = Whitening(AFTER)(advantages, IN_LOSS)
    sums = []
    # What each process adds up, in the order in which it asks: first counts and totals, then squares.
    totals = [
        torch.stack([IN_LOSS[row].double().sum(), (advantages * IN_LOSS)[row].double().sum()])
        for row in (0, 1)
    ]
    mean = (totals[0] + totals[1])[1] / 4
    squares = [((advantages[row].double() - mean).square() * IN_LOSS[row]).sum() for row in (0, 1)]
    for row in (0, 1):
        answers = iter([totals[0] + totals[1], squares[0] + squares[1]])
        sums.append(
            Whitening(AFTER)(advantages[row : row + 1], IN_LOSS[row : row + 1], lambda _, a=answers: next(a))
        )
    assert torch.allclose(torch.cat(sums)[IN_LOSS], whole[IN_LOSS])


def test_degenerate_batches_are_finite():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert Whitening(BEFORE)(torch.tensor([1.0, -1.0]), nothing).tolist() == [1.0, -1.0]
    assert Whitening(BEFORE)(torch.tensor([1.0, 1.0]), IN_LOSS).abs().max() < 1e-3  # no spread: no advantage


@pytest.mark.parametrize(("place", "clip"), [("behind", 0.0), ("before", -1.0), ("before", float("nan"))])
def test_mistakes_are_refused(place, clip):
    with pytest.raises(CreditError, match="must"):
        Whitening(place, clip)
