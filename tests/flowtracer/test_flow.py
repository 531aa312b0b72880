"""Protects the flow itself: the solves against a float64 loop that reads like the paper, and its laws."""

import pytest
import torch

import flowtracer.flow
from flowtracer import CreditError, solve_flow


def reference(capacity, source, answer):
    """FlowTracer's definitions, one position at a time in float64; written for reading, not for speed."""
    length = len(source)
    weights = capacity.double().tril(-1)
    potential = torch.zeros(length, dtype=torch.float64)
    for i in reversed(range(length)):
        potential[i] = 1.0 if answer[i] else sum(weights[k, i] * potential[k] for k in range(i + 1, length))
    transition = torch.zeros(length, length, dtype=torch.float64)
    for i in range(length):
        if not answer[i] and potential[i] > 0:
            for k in range(i + 1, length):
                transition[k, i] = weights[k, i] * potential[k] / potential[i]
    reaching = [i for i in range(length) if source[i] and potential[i] > 0]
    flow = torch.zeros(length, dtype=torch.float64)
    for k in range(length):
        entering = 1.0 / len(reaching) if k in reaching else 0.0
        flow[k] = entering + sum(flow[i] * transition[k, i] for i in range(k))
    outflow = torch.tensor(
        [float(flow[i]) if answer[i] else float((flow[i] * transition[:, i]).sum()) for i in range(length)]
    )
    return potential, transition, flow, flow + outflow


def random_graph(length, seed, zero_share=0.0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(length, length, generator=generator)
    capacity = logits.masked_fill(
        torch.ones(length, length, dtype=torch.bool).triu(1), float("-inf")
    ).softmax(-1)
    if zero_share:
        capacity = capacity * (torch.rand(length, length, generator=generator) > zero_share)
    source = torch.zeros(length, dtype=torch.bool)
    source[: max(1, length // 3)] = True
    answer = torch.zeros(length, dtype=torch.bool)
    answer[length - 3 : length - 1] = True
    return capacity, source & ~answer, answer


@pytest.mark.parametrize("length", [4, 9, 40, 97])
@pytest.mark.parametrize("zero_share", [0.0, 0.7])
def test_solves_equal_the_loop_reference(length, zero_share):
    capacity, source, answer = random_graph(length, seed=length, zero_share=zero_share)
    potential, transition, flow, throughput = reference(capacity, source, answer)
    got = solve_flow(capacity, source, answer)
    torch.testing.assert_close(got.potential.double(), potential, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got.transition().double(), transition, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.flow.double(), flow, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got.throughput.double(), throughput, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got.edge_flow().double(), transition * flow, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_bounds_and_conservation(seed):
    """0 <= h <= |A|, 0 <= f <= 1, one unit arrives, nothing flows after the answer, P's columns sum to 1."""
    capacity, source, answer = random_graph(60, seed)
    got = solve_flow(capacity.double(), source, answer)
    assert (got.potential >= 0).all() and (got.potential <= answer.sum() + 1e-9).all()
    assert (got.flow >= 0).all() and (got.flow <= 1 + 1e-9).all()
    assert got.flow[answer].sum() == pytest.approx(1.0, abs=1e-9)
    assert (got.flow[int(answer.nonzero().max()) + 1 :] == 0).all()
    columns = got.transition().sum(0)
    carries = (got.potential > 0) & ~answer
    torch.testing.assert_close(columns[carries], torch.ones_like(columns[carries]))
    assert (columns[answer] == 0).all()
    # What flows into a position besides what enters there flows out of it again.
    entering = source.double() / int(got.reaching_sources)
    torch.testing.assert_close(got.edge_flow().sum(1) + entering, got.flow)


def test_diagonal_and_upper_triangle_are_not_read():
    capacity, source, answer = random_graph(20, 1)
    other = capacity + torch.rand(20, 20).triu(0)
    assert torch.equal(solve_flow(capacity, source, answer).flow, solve_flow(other, source, answer).flow)


def test_scaling_the_map_changes_the_ranking():
    """W -> c W weighs a path of n steps by c^n: renormalising rows is not harmless, a mean is not a sum."""
    capacity = torch.zeros(4, 4)
    capacity[1, 0], capacity[3, 1], capacity[3, 0], capacity[2, 0], capacity[3, 2] = 0.9, 0.5, 0.1, 0.3, 0.3
    source, answer = torch.tensor([1, 0, 0, 0]).bool(), torch.tensor([0, 0, 0, 1]).bool()
    once, half = solve_flow(capacity, source, answer), solve_flow(capacity * 0.5, source, answer)
    assert not torch.allclose(once.flow[1], half.flow[1])


def test_dropping_the_first_token_alone_changes_no_other_flow():
    capacity, source, answer = random_graph(30, 2)
    source[0] = False
    dropped = capacity.clone()
    dropped[:, 0] = 0
    torch.testing.assert_close(
        solve_flow(capacity, source, answer).flow[1:], solve_flow(dropped, source, answer).flow[1:]
    )


def test_batch_equals_rows_and_pads_carry_nothing():
    rows = [random_graph(20, seed) for seed in range(3)]
    capacity, source, answer = (torch.stack(parts) for parts in zip(*rows, strict=True))
    capacity[1, :5] = 0
    capacity[1, :, :5] = 0
    source[1, :5] = False
    got = solve_flow(capacity, source, answer)
    for row in range(3):
        alone = solve_flow(capacity[row], source[row], answer[row])
        torch.testing.assert_close(got.flow[row], alone.flow)
        assert got.reaching_sources[row] == alone.reaching_sources
    assert (got.flow[1, :5] == 0).all()


def test_sources_that_cannot_reach_the_answer_share_their_part():
    capacity = torch.zeros(4, 4)
    capacity[3, 1] = 0.5
    got = solve_flow(capacity, torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([0, 0, 0, 1]).bool())
    assert int(got.reaching_sources) == 1
    assert got.flow.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("empty", ["source", "answer", "unreachable"])
def test_nothing_to_trace_is_zero_flow_and_not_an_error(empty):
    capacity, source, answer = random_graph(12, 3)
    if empty == "source":
        source[:] = False
    elif empty == "answer":
        answer[:] = False
    else:
        capacity[:] = 0
    got = solve_flow(capacity, source, answer)
    assert int(got.reaching_sources) == 0
    assert (got.throughput == 0).all()


def test_one_token():
    got = solve_flow(torch.ones(1, 1), torch.tensor([True]), torch.tensor([True]))
    assert got.flow.tolist() == [1.0] and got.throughput.tolist() == [2.0]


def test_tiny_potentials_stay_finite():
    """A chain whose potential falls to 1e-36 must not overflow float32."""
    length = 40
    capacity = torch.zeros(length, length)
    for k in range(1, length):
        capacity[k, k - 1] = 0.12
    source, answer = torch.zeros(length).bool(), torch.zeros(length).bool()
    source[:2] = True
    answer[-1] = True
    got = solve_flow(capacity, source, answer)
    assert torch.isfinite(got.flow).all()
    assert int(got.reaching_sources) == 0  # 0.12^39 lies below 1e-30: reported, not rounded away in silence


@pytest.mark.parametrize("block", [1, 7, 512])
def test_blocks_do_not_change_the_flow(monkeypatch, block):
    """Solved a few positions at a time, in a batch with pads: the same flow, edges and paths, and an untouched map."""
    rows = [random_graph(40, seed) for seed in range(3)]
    capacity, source, answer = (torch.stack(parts) for parts in zip(*rows, strict=True))
    capacity[1, :5], capacity[1, :, :5], source[1, :5] = 0, 0, False
    answer[2, 17] = True
    before = capacity.clone()
    monkeypatch.setattr(flowtracer.flow, "BLOCK", block)
    got = solve_flow(capacity, source, answer)
    assert torch.equal(capacity, before)
    for row in range(3):
        potential, transition, flow, _ = reference(capacity[row], source[row], answer[row])
        torch.testing.assert_close(got.potential[row].double(), potential, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(got.flow[row].double(), flow, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(got.transition()[row].double(), transition, rtol=1e-5, atol=1e-6)
    some = slice(9, 23)
    assert torch.equal(got.transition(some), got.transition()[:, some])
    assert torch.equal(got.edge_flow(some), got.edge_flow()[:, some])
    alone = solve_flow(capacity[0], source[0], answer[0])
    monkeypatch.undo()
    whole = solve_flow(capacity[0], source[0], answer[0])
    assert [path for _, path in alone.backbone(4, source[0])] == [
        path for _, path in whole.backbone(4, source[0])
    ]


@pytest.mark.parametrize("switch", ["fp32_precision", "allow_tf32"])
def test_rounding_of_products_is_off_inside_and_as_it_was_outside(switch):
    """PyTorch has two switches for TF32, and reading the older one raises after the newer: `tf32=True` uses that."""
    products, chosen = torch.backends.cuda.matmul, {"fp32_precision": "tf32", "allow_tf32": True}[switch]
    before = getattr(products, switch)
    setattr(products, switch, chosen)
    try:
        capacity, source, answer = random_graph(9, 0)
        expected = reference(capacity, source, answer)[2]
        torch.testing.assert_close(solve_flow(capacity, source, answer).flow.double(), expected)
        with flowtracer.flow.full_float32():
            assert products.fp32_precision == "ieee"
        assert getattr(products, switch) == chosen
    finally:
        setattr(products, switch, before)


def test_backbone_finds_the_most_probable_paths():
    """Against every path of a small graph, enumerated."""
    capacity, source, answer = random_graph(9, 5)
    got = solve_flow(capacity.double(), source, answer)
    transition = got.transition()
    everything = []

    def walk(path, probability):
        last = path[-1]
        if answer[last]:
            everything.append((probability, path))
            return
        for k in range(last + 1, 9):
            if transition[k, last] > 0:
                walk([*path, k], probability * float(transition[k, last]))

    for i in source.nonzero().flatten().tolist():
        walk([i], 1.0 / int(got.reaching_sources))
    everything.sort(reverse=True)
    assert sum(probability for probability, _ in everything) == pytest.approx(1.0)
    best = got.backbone(6, source)
    assert [path for _, path in best] == [path for _, path in everything[:6]]
    assert [p for p, _ in best] == pytest.approx([p for p, _ in everything[:6]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, s, a: (c[:-1], s, a), "capacity must be"),
        (lambda c, s, a: (c, s[:-1], a), "source must be"),
        (lambda c, s, a: (c, s, a.float()), "answer must be"),
        (lambda c, s, a: (c.half(), s, a), "float32 or float64"),
        (lambda c, s, a: (c - 1, s, a), "negative"),
        (lambda c, s, a: (c * float("nan"), s, a), "NaN"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(CreditError, match=message):
        solve_flow(*change(*random_graph(8, 6)))
