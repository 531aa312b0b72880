"""Protects the arithmetic of the two levels: how many tokens, and which of equal ones."""

import pytest
import torch

from flowtracer.credit.levels import pool_size, top


@pytest.mark.parametrize("count", range(60))
def test_pool_size_is_exactly_two_fifths(count):
    """floor(0.4 n) in floating point is 1 for n = 5 in some orders of rounding; (2 n) // 5 never is."""
    assert int(pool_size(torch.tensor(count), 0.4)) == (2 * count) // 5


def test_ties_go_to_the_earliest_token():
    pool = torch.tensor([[False, True, True, True, True]])
    chosen = top(torch.tensor([[9.0, 1, 2, 2, 2]]), pool, torch.tensor([2]))
    assert chosen.tolist() == [[False, False, True, True, False]]
    large = top(torch.zeros(1, 3000), torch.ones(1, 3000, dtype=torch.bool), torch.tensor([1200]))
    assert large.nonzero()[:, 1].tolist() == list(range(1200))
