"""FlowTracer: attention to graph, graph to flow, flow to credit, credit to a GRPO trainer (arXiv 2606.10646)."""

from typing import TYPE_CHECKING, Any

from flowtracer import versions

versions.check()  # before the imports that another version would break

from flowtracer import credit
from flowtracer.attention import AttentionTap, traced_layers
from flowtracer.errors import CreditError
from flowtracer.flow import Flow, solve_flow
from flowtracer.multihead import tap_multihead
from flowtracer.readings import capacity_from_qk
from flowtracer.tracing import Trace, trace
from flowtracer.weighing import Weighed, weigh

if TYPE_CHECKING:
    from flowtracer.trainer import CreditGRPOTrainer

__all__ = [
    "AttentionTap",
    "CreditError",
    "CreditGRPOTrainer",
    "Flow",
    "Trace",
    "Weighed",
    "capacity_from_qk",
    "credit",
    "solve_flow",
    "tap_multihead",
    "trace",
    "traced_layers",
    "weigh",
]


def __getattr__(name: str) -> Any:
    # TRL takes seconds to import; who only inspects a model does not pay for it.
    if name == "CreditGRPOTrainer":
        from flowtracer.trainer import CreditGRPOTrainer

        return CreditGRPOTrainer
    raise AttributeError(f"module 'flowtracer' has no attribute {name!r}")
