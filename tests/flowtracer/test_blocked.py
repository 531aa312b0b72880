"""Protects the map that is never whole: its tiles, the flow over them, and that memory grows with T, not T squared."""

import io

import pytest
import torch
from rich.console import Console

import flowtracer.blocked
import flowtracer.flow
from flowtracer import AttentionTap, CreditError, credit, solve_flow, trace
from flowtracer.blocked import BlockedCapacity, BlockedRollout, TracedLayer, row_normalizers
from flowtracer.credit import CreditContext
from flowtracer.readings import MeanMap, Rollout
from tests.flowtracer.conftest import LargestTensors, tiny_model


def both(tokens=70, left_pads=(0, 9), right_pads=3, train=False, reading=MeanMap):
    """What is read of the same forward's batch, dense and blocked, and its mask."""
    ids = torch.randint(2, 32, (len(left_pads), tokens), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, pads in enumerate(left_pads):
        mask[row, :pads] = 0
    if any(left_pads):
        mask[-1, tokens - right_pads :] = 0
    model = tiny_model("qwen3").train(train)
    maps = []
    for dense_tokens in (tokens, tokens - 1):
        with (
            torch.set_grad_enabled(train),
            AttentionTap(model, "all").open(mask, reading(dense_tokens)) as seen,
        ):
            model(input_ids=ids, attention_mask=mask)
        maps += seen.fields.values()
    dense, blocked = maps
    assert isinstance(dense, torch.Tensor) and isinstance(blocked, BlockedCapacity | BlockedRollout)
    return dense, blocked, mask.bool()


@pytest.fixture
def small(monkeypatch):
    """Blocks and tiles so small that a short sequence has many."""
    monkeypatch.setattr(flowtracer.flow, "BLOCK", 16)
    monkeypatch.setattr(flowtracer.blocked, "TILE_ELEMENTS", 4 * 16 * 20)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("left_pads", [(0,), (0, 0), (0, 9)])
def test_tiles_are_those_of_the_dense_map(small, left_pads, train):
    dense, blocked, _ = both(left_pads=left_pads, train=train)
    assert blocked.shape == dense.shape
    everything = slice(0, 70)
    torch.testing.assert_close(blocked.tile(everything, everything), dense, rtol=0, atol=2e-6)
    for rows, columns in (
        (slice(5, 40), slice(0, 40)),
        (slice(50, 70), slice(20, 33)),
        (slice(0, 1), slice(0, 1)),
    ):
        torch.testing.assert_close(blocked.tile(rows, columns), dense[:, rows, columns], rtol=0, atol=2e-6)
    last = len(left_pads) - 1
    torch.testing.assert_close(blocked[last].tile(everything, everything), dense[last], rtol=0, atol=2e-6)


def test_normalisers_of_the_attention_op_are_those_that_are_computed():
    """The op's own, seen on its way, against a pass over the scores."""
    _, blocked, mask = both()
    for layer in blocked._layers:
        computed = row_normalizers(layer.query, layer.key, layer.scale, layer.mask)
        real = mask.unsqueeze(1).expand_as(computed)
        torch.testing.assert_close(layer.normalizers[real], computed[real], rtol=1e-5, atol=1e-5)


def test_an_op_without_normalisers_gives_the_same_map(monkeypatch):
    _, blocked, _ = both()
    monkeypatch.setattr(flowtracer.attention._Normalizers, "_RETURN_IT", ())
    _, computed, _ = both()
    everything = slice(0, 70)
    torch.testing.assert_close(
        blocked.tile(everything, everything), computed.tile(everything, everything), rtol=0, atol=2e-6
    )


def test_flow_over_tiles_is_the_flow_over_the_map(small):
    dense, blocked, mask = both()
    position = torch.arange(70)
    source, answer = mask & (position < 25), mask & (position >= 55) & (position < 60)
    expected, got = solve_flow(dense, source, answer), solve_flow(blocked, source, answer)
    torch.testing.assert_close(got.potential, expected.potential, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(got.flow, expected.flow, rtol=1e-4, atol=1e-7)
    assert torch.equal(got.throughput.argsort(), expected.throughput.argsort())
    some = slice(30, 41)
    torch.testing.assert_close(got.edge_flow(some), expected.edge_flow()[:, some], rtol=1e-4, atol=1e-6)
    with pytest.raises(CreditError, match="do not fit in memory at once: ask for some rows"):
        got.edge_flow()
    one = solve_flow(blocked[1], source[1], answer[1])
    torch.testing.assert_close(one.flow, expected.flow[1], rtol=1e-4, atol=1e-7)
    paths = solve_flow(dense[1], source[1], answer[1]).backbone(3, source[1])
    assert [path for _, path in one.backbone(3, source[1])] == [path for _, path in paths]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("left_pads", [(0,), (0, 0), (0, 9)])
def test_a_rollout_in_tiles_sums_the_rows_of_the_whole_one(small, left_pads, train):
    dense, blocked, mask = both(left_pads=left_pads, train=train, reading=Rollout)
    position = torch.arange(70)
    for wanted in (mask & (position >= 55) & (position < 60), mask & (position == 0), mask, ~mask):
        expected = torch.einsum("bk,bki->bi", wanted.float(), dense)
        torch.testing.assert_close(blocked.sum_of_rows(wanted), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    "name",
    [
        "flow",
        "bottom_flow",
        "one_hop",
        "raw_flow",
        "answer_attention",
        "attention_rollout",
        "attention_entropy",
    ],
)
def test_credit_is_the_same_with_and_without_a_map(small, name):
    reading, field = (Rollout, "rollout") if name == "attention_rollout" else (MeanMap, "capacity")
    dense, blocked, mask = both(reading=reading)
    position = torch.arange(70)
    weights = []
    for read in (dense.clone(), blocked):
        context = CreditContext(
            torch.zeros_like(mask, dtype=torch.long),
            mask & (position < 25),
            mask & (position >= 25),
            mask & (position < 25),
            mask & (position >= 55) & (position < 60),
            **{field: read},
        )
        weights.append(credit.get(name)(context))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-4)
    assert len(weights[0].unique()) > 1


def test_what_needs_the_whole_map_says_so():
    _, blocked, mask = both()
    context = CreditContext(mask.long(), mask, mask, mask, mask, capacity=blocked)
    with pytest.raises(CreditError, match="first_token='drop' changes the whole attention map"):
        credit.get("flow", first_token="drop")(context)


def test_numbers_that_are_not_finite_are_found_over_tiles_too():
    _, blocked, mask = both(left_pads=(0,))
    blocked._layers[0].query[0, 0, 3, 0] = float("nan")
    position = torch.arange(70)
    with pytest.raises(CreditError, match="NaN or infinite"):
        solve_flow(blocked, mask & (position < 25), mask & (position >= 60))


def test_trace_of_a_long_response_holds_no_map(tokenizer, small):
    class Last:
        def extract(self, text):
            return len(text) - 2, len(text)

        def decisive(self, text):
            return None

    model = tiny_model("qwen3")
    texts = "abcd?efgh" * 3, "abcabcpo012#" * 3
    dense = trace(model, tokenizer, *texts, task=Last())
    blocked = trace(model, tokenizer, *texts, task=Last(), dense_tokens=20)
    assert isinstance(blocked.capacity, BlockedCapacity)
    torch.testing.assert_close(blocked.throughput, dense.throughput, rtol=1e-4, atol=1e-7)
    assert blocked.top() == dense.top()
    assert [path for _, path in blocked.backbone(2)] == [path for _, path in dense.backbone(2)]
    with pytest.raises(CreditError, match="do not fit in memory"):
        blocked.to_html()
    seen = []
    for traced in (dense, blocked):
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(traced.to_terminal())
        seen.append(console.export_text())
    assert seen[0] == seen[1] and "largest inflow" in seen[0]


def test_memory_grows_with_the_length_and_not_its_square(monkeypatch):
    """The largest tensor that the solves make; a strip of rows, which lives no longer than its block."""
    monkeypatch.setattr(flowtracer.flow, "BLOCK", 32)
    monkeypatch.setattr(flowtracer.blocked, "TILE_ELEMENTS", 2 * 16 * 64)
    largest = {}
    for tokens in (128, 256, 512):
        query, key = (torch.randn(1, heads, tokens, 8) for heads in (2, 1))
        layer = TracedLayer(query, key, row_normalizers(query, key, 0.3, None), 0.3, None)
        parts = torch.ones(1, tokens, dtype=torch.bool), [layer] * 2
        position = torch.arange(tokens).unsqueeze(0)
        with LargestTensors() as made:
            solve_flow(BlockedCapacity(*parts), position < tokens // 4, position >= tokens - 3)
        with LargestTensors() as rolled:
            BlockedRollout(*parts).sum_of_rows(position >= tokens - 3)
        largest[tokens] = made.sizes[0], rolled.sizes[0]
    assert largest == {tokens: (4 * 32 * tokens,) * 2 for tokens in largest}
