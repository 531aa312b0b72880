"""Graph to flow: reachability, conditioning and throughput of an attention map (FlowTracer, arXiv 2606.10646).

Pure tensor functions, no model in sight. Positions 0..T-1 are the nodes of a directed acyclic graph; information
flows from position i to a later position k that attends to it, with capacity `W[k, i]`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import torch
from torch import Tensor

from flowtracer.errors import CreditError

#: A position whose reachability potential lies below this counts as cut off from the answer. Potentials down to
#: 3e-17 were measured on real models; the bound g <= 1/h keeps everything above it finite in float32.
UNREACHABLE = 1e-30


@dataclass(frozen=True)
class Flow:
    """The flow that runs from the source tokens to the answer tokens, for one sequence (T,) or a batch (B, T).

    potential: reachability h, the influence of a position that ever reaches the answer; 1 on the answer, at most
        the number of answer tokens anywhere.
    flow: f, the share of the unit of flow that passes through a position, between 0 and 1.
    throughput: tau = flow in + flow out, the edge to the virtual sink counted, so 2 f everywhere.
    reaching_sources: how many source tokens can carry flow at all; () or (B,) integers. 0 means that nothing of the
        source reaches the answer: then flow and throughput are 0 everywhere.
    """

    potential: Tensor
    flow: Tensor
    throughput: Tensor
    reaching_sources: Tensor
    _capacity: Tensor | None
    _answer: Tensor

    def transition(self) -> Tensor:
        """The conditioned transition P (T, T) or (B, T, T): `P[k, i]`, the chance that flow at i moves on to k.

        A Doob h-transform of the capacity: columns of positions that reach the answer sum to 1, columns of answer
        tokens (whose whole flow goes to the sink) and of unreachable positions are 0.
        """
        if self._capacity is None:
            raise CreditError("this flow was solved with overwrite=True, which gave its capacity map away")
        carries = (self.potential >= UNREACHABLE) & ~self._answer
        scale = torch.where(carries, 1.0 / self.potential.clamp(min=UNREACHABLE), 0.0)
        return self._capacity.tril(-1) * self.potential.unsqueeze(-1) * scale.unsqueeze(-2)

    def edge_flow(self) -> Tensor:
        """Flow along each edge, (T, T) or (B, T, T): entry [k, i] is what position i sends on to position k."""
        return self.transition() * self.flow.unsqueeze(-2)

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
        transition = self.transition().cpu()
        reaching = (source.cpu() & (self.potential.cpu() >= UNREACHABLE)).tolist()
        start = 1.0 / max(int(self.reaching_sources), 1)
        length = len(reaching)
        # Column k: the probabilities of the best partial paths into k, and for each the entry (rank, position) of
        # `best` that it extends; -1 where it starts at k.
        best = torch.zeros(paths, length, dtype=torch.float64)
        previous = torch.full((paths, length), -1)
        for k in range(length):
            candidates = (best[:, :k] * transition[k, :k]).flatten()
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


def solve_flow(capacity: Tensor, source: Tensor, answer: Tensor, *, overwrite: bool = False) -> Flow:
    """The flow from the source tokens to the answer tokens over an attention map.

    capacity: (T, T) or (B, T, T) floating point; `capacity[k, i]` is the attention of query k to key i. Only the
        strictly lower triangle is used: the diagonal is dropped and nothing is renormalised. Entries must be finite
        and not negative; rows and columns of pads must be 0.
    source, answer: boolean, (T,) or (B, T). The unit of flow is shared equally by the source tokens that can reach
        the answer.
    overwrite: let the solve destroy `capacity` instead of copying it, which saves one map of memory; `edge_flow`
        and `backbone` are then not available.

    With D = diag(not in answer), the reachability potential solves (I - D W^T) h = 1_A and the flow is f = h g with
    (I - W D) g = source / h: two unit-triangular systems over one stored map (arXiv 2606.10646, section 3). Both
    only add non-negative terms, so float32 is enough; TF32 is not, and is switched off here.

    Raises CreditError for shapes that do not fit and for capacities that are negative or not finite. A sequence
    without answer or source tokens is no error: its flow is 0 everywhere and `reaching_sources` says so.
    """
    if capacity.ndim not in (2, 3) or capacity.shape[-1] != capacity.shape[-2]:
        raise CreditError(f"capacity must be (T, T) or (B, T, T), not {tuple(capacity.shape)}")
    if not capacity.is_floating_point() or capacity.dtype in (torch.float16, torch.bfloat16):
        raise CreditError(
            f"capacity must be float32 or float64, not {capacity.dtype}: half precision loses flow"
        )
    for name, mask in (("source", source), ("answer", answer)):
        if mask.dtype != torch.bool or mask.shape != capacity.shape[:-1]:
            raise CreditError(
                f"{name} must be a boolean mask of shape {tuple(capacity.shape[:-1])}, "
                f"not {mask.dtype} of shape {tuple(mask.shape)}"
            )
    if capacity.numel() and not bool(
        torch.isfinite(low := capacity.amin()) & torch.isfinite(capacity.amax())
    ):
        raise CreditError("capacity holds NaN or infinite entries: are the rows of pads zeroed?")
    if capacity.numel() and low < 0:
        raise CreditError("capacity holds negative entries: attention probabilities are needed, not scores")

    zero = capacity.new_zeros(())
    matrix = capacity if overwrite else capacity.clone()
    # M = -W D: the columns of the answer tokens are absorbing. The solver never reads the diagonal or above.
    matrix.masked_fill_(answer.unsqueeze(-2), 0.0).neg_()
    with full_float32():
        sink = answer.to(matrix.dtype).unsqueeze(-1)
        potential = torch.linalg.solve_triangular(matrix.mT, sink, upper=True, unitriangular=True).squeeze(-1)
        reaches = source & (potential >= UNREACHABLE)
        count = reaches.sum(-1)
        shared = potential.clamp(min=UNREACHABLE) * count.clamp(min=1).unsqueeze(-1)
        entering = torch.where(reaches, 1.0 / shared, zero)
        visits = torch.linalg.solve_triangular(
            matrix, entering.unsqueeze(-1), upper=False, unitriangular=True
        )
    flow = potential * visits.squeeze(-1)
    return Flow(potential, flow, 2.0 * flow, count, None if overwrite else capacity, answer)


class full_float32:
    """Context in which float32 products on a GPU are not rounded to TF32, whatever the program chose globally."""

    def __enter__(self) -> None:
        self.before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False

    def __exit__(self, *exception: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self.before
