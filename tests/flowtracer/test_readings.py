"""Protects what is kept of attention: maps, rollouts and sums for each head, tile by tile, within memory."""

import pytest
import torch

from flowtracer import AttentionTap, CreditError, capacity_from_qk, readings
from flowtracer.readings import HeadReading, MeanMap, Rollout
from tests.flowtracer.conftest import LargestTensors, batch, tiny_model


def test_tiles_do_not_change_the_map(monkeypatch):
    """Row by row and three queries at a time: the same map as in one piece."""
    ids, mask = batch()
    model = tiny_model("llama")
    maps = []
    for elements in (16 * 1024 * 1024, 4 * 3 * 24):
        monkeypatch.setattr(readings, "TILE_ELEMENTS", elements)
        with torch.no_grad(), AttentionTap(model, "all").open(mask) as capture:
            model(input_ids=ids, attention_mask=mask)
        maps.append(capture.capacity)
    torch.testing.assert_close(*maps, rtol=0, atol=1e-6)


def test_a_map_that_does_not_fit_in_memory_is_refused_before_it_is_made():
    """A million tokens are 4 TB: no machine is asked for them, and the line says what to do."""
    token = torch.ones(1, 2**20, dtype=torch.bool)
    with pytest.raises(
        CreditError, match="1 x 1048576 tokens takes 4398.0 GB, .* dense_tokens below 1048576"
    ):
        MeanMap(dense_tokens=2**20).begin(token, layers=1)
    MeanMap().begin(token, layers=1)


def test_scores_are_held_a_few_rows_at_a_time():
    """The map and 4 MB, however many heads there are: not a map a head."""
    query = torch.randn(1, 16, 1024, 8)
    with LargestTensors() as made:
        capacity_from_qk(query, query[:, :4], scale=0.3)
    assert made.sizes[0] == 4 * 1024 * 1024 and made.sizes[1] <= 2 * 1024 * 1024


def eager_layers(ids, mask):
    """Attentions of all layers, (L, B, H, T, T) float64; pads zeroed."""
    eager = tiny_model("llama", attention="eager")
    with torch.no_grad():
        attentions = eager(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    return torch.stack(attentions).double() * (mask[:, :, None] * mask[:, None, :]).unsqueeze(1)


def padded_on_both_sides():
    ids, mask = batch(left_pads=(0, 5, 11))
    ids[1, -4:], mask[1, -4:] = 0, 0
    return ids, mask


@pytest.mark.parametrize("elements", [16 * 1024 * 1024, 4 * 5 * 24])
def test_rollout_is_the_product_over_layers(monkeypatch, elements):
    monkeypatch.setattr(readings, "TILE_ELEMENTS", elements)
    ids, mask = padded_on_both_sides()
    model = tiny_model("llama")
    with torch.no_grad(), AttentionTap(model, "all").open(mask, Rollout()) as capture:
        model(input_ids=ids, attention_mask=mask)
    expected = torch.eye(24, dtype=torch.float64).expand(3, 24, 24)
    for layer in eager_layers(ids, mask).mean(2):
        expected = (0.5 * layer + 0.5 * torch.eye(24)) @ expected
    expected = expected * mask[:, :, None] * mask[:, None, :]
    torch.testing.assert_close(capture.fields["rollout"].double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("elements", [16 * 1024 * 1024, 4 * 5 * 24])
def test_head_vectors_follow_their_definitions(monkeypatch, elements):
    """Against loops over an eager model's per-head maps: tiles, grouped heads and pads on both sides."""
    monkeypatch.setattr(readings, "TILE_ELEMENTS", elements)
    ids, mask = padded_on_both_sides()
    model = tiny_model("llama")
    with (
        torch.no_grad(),
        AttentionTap(model, "all").open(mask, HeadReading(clip=4, near=2, far=6)) as capture,
    ):
        model(input_ids=ids, attention_mask=mask)
    got = capture.fields["head_vectors"]
    maps = eager_layers(ids, mask).transpose(0, 1).flatten(1, 2)
    reach, distance, influence = (torch.zeros(3, 12, 24, dtype=torch.float64) for _ in range(3))
    for row in range(3):
        own = mask[row].nonzero().flatten().tolist()
        for t in own:
            for s in own:
                if s <= t:
                    reach[row, :, t] += maps[row, :, t, s] * min(t - s, 4)
                    distance[row, :, t] += maps[row, :, t, s] * (t - s)
            future = [k for k in own if t + 2 <= k <= t + 6]
            if future:
                influence[row, :, t] = maps[row, :, future, t].mean(1)
    for name, expected in (("reach", reach), ("distance", distance), ("influence", influence)):
        torch.testing.assert_close(getattr(got, name).double(), expected, rtol=0, atol=2e-5, msg=name)


def test_capacity_from_qk_is_causal_softmax():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 9, 8, generator=generator), torch.randn(2, 2, 9, 8, generator=generator)
    scores = query.double() @ key.double().repeat_interleave(2, 1).transpose(-1, -2) * 0.3
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    expected = scores.masked_fill(hidden, float("-inf")).softmax(-1).mean(1)
    got = capacity_from_qk(query, key, scale=0.3)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-6)
