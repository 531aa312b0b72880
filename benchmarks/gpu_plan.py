"""The steps of a call on a GPU, by priority, and what may have become of each."""

from __future__ import annotations

from dataclasses import dataclass

DONE, FAILED, CUT, RUNNING, WAITING = "done", "failed", "cut", "running", "not started"


@dataclass(frozen=True)
class Step:
    """A step: its time box in seconds, with the least that is worth a start, and what it settles."""

    name: str
    seconds: int
    least: int
    settles: str


#: By priority. The boxes of all but the last add up to 8 minutes.
STEPS = (
    Step("kernels", 75, 30, "kernels and tap against float64 in bf16; the tests marked gpu"),
    Step(
        "credit",
        135,
        40,
        "credit inside a training forward of a 4B-shaped policy, beside eager and the update",
    ),
    Step("attention", 75, 20, "tap and solves on their own, to 128K tokens of an 8B-shaped attention; tiles"),
    Step("repeat", 60, 30, "two equal runs of decision, and where their hashes first differ"),
    Step("step", 90, 40, "seconds of a training step by phase: stock TRL, uniform, flow"),
    Step("small", 45, 20, "memory of an update of qwen3-0.6b against its plan"),
    Step("compile", 20, 10, "what the kernels take of an SM, as compiled here"),
    Step("replay", 240, 60, "SmolLM2-135M: token values and all methods on the same rollouts"),
)
