"""Graph to flow: reachability, conditioning and throughput of an attention map (FlowTracer, arXiv 2606.10646).

Pure tensor functions, no model in sight. Positions 0..T-1 are the nodes of a directed acyclic graph; information
flows from position i to a later position k that attends to it, with capacity `W[k, i]`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from flowtracer.errors import CreditError

#: A position whose reachability potential lies below this counts as cut off from the answer. Potentials down to
#: 3e-17 were measured on real models; the bound g <= 1/h keeps everything above it finite in float32.
UNREACHABLE = 1e-30

#: Positions that are solved at once. Between blocks there are only products of the map with a vector, which read it
#: where it stands: beyond the map, a solve needs one block of it.
BLOCK = 512


class BlockedMap(Protocol):
    """A map (B, T, T), or (T, T), that is never whole in memory: `blocked.BlockedCapacity` is one."""

    @property
    def shape(self) -> torch.Size:
        """That of the whole map."""

    @property
    def dtype(self) -> torch.dtype:
        """That of its tiles."""

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Entries (B, n, m), or (n, m), of these rows and columns; 0 above the diagonal."""


Capacity = Tensor | BlockedMap


@dataclass(frozen=True)
class Flow:
    """The flow that runs from the source tokens to the answer tokens, for one sequence (T,) or a batch (B, T).

    potential: reachability h, the influence of a position on the answer along all paths of attention; 1 on the answer,
        at most the number of answer tokens anywhere.
    flow: f, the share of the unit of flow that passes through a position, between 0 and 1.
    throughput: tau = flow in + flow out, the edge to the virtual sink counted, so 2 f everywhere.
    reaching_sources: how many source tokens can carry flow at all; () or (B,) integers. 0 means that nothing of the
        source reaches the answer: then flow and throughput are 0 everywhere.
    """

    potential: Tensor
    flow: Tensor
    throughput: Tensor
    reaching_sources: Tensor
    _capacity: Capacity
    _answer: Tensor

    def cpu(self) -> Flow:
        """The same with its vectors on the CPU. A blocked capacity stays where its queries and keys are."""
        vectors = (self.potential, self.flow, self.throughput, self.reaching_sources, self._answer)
        potential, flow, throughput, count, answer = (part.cpu() for part in vectors)
        return Flow(potential, flow, throughput, count, self._capacity, answer)

    def transition(self, rows: slice | None = None) -> Tensor:
        """The conditioned transition P (T, T) or (B, T, T): `P[k, i]`, the chance that flow at i moves on to k.

        A Doob h-transform of the capacity: columns of positions that reach the answer sum to 1, columns of answer
        tokens (whose whole flow goes to the sink) and of unreachable positions are 0. rows: only these k, (n, T) or
        (B, n, T); a blocked capacity, whose map is too large to hold, asks for them.
        """
        length = self.flow.shape[-1]
        if rows is None and not isinstance(self._capacity, Tensor):
            raise CreditError(
                f"the edges of {length} tokens do not fit in memory at once: ask for some rows, slice(start, stop)"
            )
        start, stop, _ = (slice(None) if rows is None else rows).indices(length)
        carries = (self.potential >= UNREACHABLE) & ~self._answer
        scale = torch.where(carries, 1.0 / self.potential.clamp(min=UNREACHABLE), 0.0)
        strip = _strip(self._capacity, slice(start, stop)).tril(start - 1).to(scale.device)
        strip = strip * self.potential[..., start:stop].unsqueeze(-1) * scale[..., :stop].unsqueeze(-2)
        return torch.nn.functional.pad(strip, (0, length - stop)) if stop < length else strip

    def edge_flow(self, rows: slice | None = None) -> Tensor:
        """Flow along each edge, (T, T) or (B, T, T): entry [k, i] is what position i sends on to position k.

        rows: only these k, as in `transition`.
        """
        return self.transition(rows) * self.flow.unsqueeze(-2)

    def backbone(self, paths: int, source: Tensor) -> list[tuple[float, list[int]]]:
        """The `paths` most probable paths from a source token to an answer token, as (probability, positions).

        source: (T,) boolean. The first step, the choice of a source token, counts in the probability: each source
        token that can carry flow is equally likely. Exact: the k best partial paths into every node are kept, which
        suffices in an acyclic graph. One sequence only.
        """
        if self.flow.ndim != 1:
            raise CreditError("backbone takes the flow of one sequence (T,), not of a batch")
        if paths < 1:
            raise CreditError(f"backbone needs at least 1 path, not {paths}")
        reaching = (source.cpu() & (self.potential.cpu() >= UNREACHABLE)).tolist()
        start = 1.0 / max(int(self.reaching_sources), 1)
        length = len(reaching)
        # Column k: the probabilities of the best partial paths into k, and for each the entry (rank, position) of
        # `best` that it extends; -1 where it starts at k.
        best = torch.zeros(paths, length, dtype=torch.float64)
        previous = torch.full((paths, length), -1)
        for rows in blocks(length):
            transition = self.transition(rows).cpu()
            for k in range(rows.start, rows.stop):
                candidates = (best[:, :k] * transition[k - rows.start, :k]).flatten()
                if reaching[k]:
                    candidates = torch.cat((candidates, candidates.new_tensor([start])))
                top = candidates.topk(min(paths, len(candidates)))
                best[: len(top.values), k] = top.values
                previous[: len(top.values), k] = torch.where(top.indices < paths * k, top.indices, -1)
        ends = self._answer.cpu().nonzero().flatten().tolist()
        entries = [
            (float(best[rank, k]), k, rank) for k in ends for rank in range(paths) if best[rank, k] > 0
        ]

        def walk(k: int, rank: int) -> list[int]:
            positions = [k]
            while (entry := int(previous[rank, k])) >= 0:
                rank, k = divmod(entry, k)
                positions.append(k)
            return positions[::-1]

        return [(probability, walk(k, rank)) for probability, k, rank in heapq.nlargest(paths, entries)]


def solve_flow(capacity: Capacity, source: Tensor, answer: Tensor) -> Flow:
    """The flow from the source tokens to the answer tokens over an attention map.

    capacity: (T, T) or (B, T, T) floating point; `capacity[k, i]` is the attention of query k to key i. Only the
        strictly lower triangle is used: the diagonal is dropped and nothing is renormalised. Entries must be finite
        and not negative; rows and columns of pads must be 0. Or a blocked map, whose tiles are computed twice and
        never kept.
    source, answer: boolean, (T,) or (B, T). The unit of flow is shared equally by the source tokens that can reach
        the answer.

    With D = diag(not in answer), the reachability potential solves (I - D W^T) h = 1_A and the flow is f = h g with
    (I - W D) g = source / h: two unit-triangular systems over one stored map (arXiv 2606.10646, section 3), which is
    neither changed nor copied: both are solved a block of rows at a time. They only add non-negative terms, so
    float32 is enough; TF32 is not, and is switched off here.

    Raises CreditError for shapes that do not fit and for capacities that are negative or not finite. A sequence
    without answer or source tokens is no error: its flow is 0 everywhere and `reaching_sources` says so.
    """
    shape = tuple(capacity.shape)
    if len(shape) not in (2, 3) or shape[-1] != shape[-2]:
        raise CreditError(f"capacity must be (T, T) or (B, T, T), not {shape}")
    if capacity.dtype not in (torch.float32, torch.float64):
        raise CreditError(
            f"capacity must be float32 or float64, not {capacity.dtype}: half precision loses flow"
        )
    for name, mask in (("source", source), ("answer", answer)):
        if mask.dtype != torch.bool or mask.shape != shape[:-1]:
            raise CreditError(
                f"{name} must be a boolean mask of shape {shape[:-1]}, "
                f"not {mask.dtype} of shape {tuple(mask.shape)}"
            )
    if isinstance(capacity, Tensor) and capacity.numel():
        low, high = capacity.amin(), capacity.amax()
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise CreditError("capacity holds NaN or infinite entries: are the rows of pads zeroed?")
        if low < 0:
            raise CreditError(
                "capacity holds negative entries: attention probabilities are needed, not scores"
            )

    potential = _potential(capacity, answer)
    reaches = source & (potential >= UNREACHABLE)
    count = reaches.sum(-1)
    shared = potential.clamp(min=UNREACHABLE) * count.clamp(min=1).unsqueeze(-1)
    entering = torch.where(reaches, 1.0 / shared, potential.new_zeros(()))
    flow = potential * forward_visits(capacity, entering, answer)
    # Tiles that were never whole could not be looked at beforehand.
    if not isinstance(capacity, Tensor) and not bool(torch.isfinite(potential + flow).all()):
        raise CreditError("capacity holds NaN or infinite entries: does the forward give finite logits?")
    return Flow(potential, flow, 2.0 * flow, count, capacity, answer)


def blocks(length: int) -> list[slice]:
    """The rows of a map of `length` positions, `BLOCK` at a time."""
    return [slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _strip(capacity: Capacity, rows: slice) -> Tensor:
    """Rows of the map with the columns up to the last of them, (..., n, rows.stop)."""
    if isinstance(capacity, Tensor):
        return capacity[..., rows, : rows.stop]
    return capacity.tile(rows, slice(0, rows.stop))


def strips(capacity: Capacity, wanted: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """A map a strip of rows at a time: the rows, and their entries (..., n, rows.stop), diagonal included.

    wanted: boolean (T,); strips without such a row are left out.
    """
    for rows in blocks(capacity.shape[-1]):
        if wanted is None or bool(wanted[rows].any()):
            yield rows, _strip(capacity, rows)


def _system(strip: Tensor, absorbing: Tensor, rows: slice) -> Tensor:
    """-W D of the block on the diagonal: absorbing columns are 0. The solver never reads the diagonal or above."""
    block = strip[..., rows.start :].clone()
    return block.masked_fill_(absorbing[..., rows].unsqueeze(-2), 0.0).neg_()


def _potential(capacity: Capacity, answer: Tensor) -> Tensor:
    """h of (I - D W^T) h = 1_A, from the last block to the first."""
    potential = answer.to(capacity.dtype)
    passed = torch.zeros_like(potential)
    with full_float32():
        for rows in reversed(blocks(answer.shape[-1])):
            strip, start = _strip(capacity, rows), rows.start
            sink = potential[..., rows] + passed[..., rows].masked_fill(answer[..., rows], 0.0)
            solved = torch.linalg.solve_triangular(
                _system(strip, answer, rows).mT, sink.unsqueeze(-1), upper=True, unitriangular=True
            )
            potential[..., rows] = solved.squeeze(-1)
            if start:
                passed[..., :start] += torch.matmul(strip[..., :start].mT, solved).squeeze(-1)
    return potential


def forward_visits(capacity: Capacity, entering: Tensor, absorbing: Tensor) -> Tensor:
    """g of (I - W D) g = entering, (T,) or (B, T), with D = diag(not absorbing): what passes each position.

    capacity: as in `solve_flow`, not checked. entering: what enters from outside. absorbing: boolean, the positions
    that pass nothing on.
    """
    visits = torch.zeros_like(entering)
    passing = torch.zeros_like(entering)
    with full_float32():
        for rows, strip in strips(capacity):
            arriving, start = entering[..., rows].unsqueeze(-1), rows.start
            if start:
                arriving = arriving + torch.matmul(strip[..., :start], passing[..., :start].unsqueeze(-1))
            solved = torch.linalg.solve_triangular(
                _system(strip, absorbing, rows), arriving, upper=False, unitriangular=True
            )
            visits[..., rows] = solved.squeeze(-1)
            passing[..., rows] = visits[..., rows].masked_fill(absorbing[..., rows], 0.0)
    return visits


class full_float32:
    """Context in which float32 products are not rounded, by TF32, bf16 or autocast, whatever the program chose."""

    # By `fp32_precision`: reading the older `allow_tf32` raises where a program has used the newer switch, as
    # transformers does for `tf32=True`, while the newer one reads and keeps what either has set.
    _PRODUCTS: ClassVar[Any] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]

    def __enter__(self) -> None:
        self.before = [products.fp32_precision for products in self._PRODUCTS]
        for products in self._PRODUCTS:
            products.fp32_precision = "ieee"
        self.autocast = {device: torch.is_autocast_enabled(device) for device in ("cpu", "cuda")}
        for device in self.autocast:
            torch.set_autocast_enabled(device, False)

    def __exit__(self, *exception: object) -> None:
        for device, enabled in self.autocast.items():
            torch.set_autocast_enabled(device, enabled)
        for products, before in zip(self._PRODUCTS, self.before, strict=True):
            products.fp32_precision = before
