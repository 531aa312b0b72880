"""Shared by the benchmarks: processes of their own, a clock, peak memory, and the spread of repeats."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

Result = TypeVar("Result")

#: Bytes of `ru_maxrss`'s unit.
_MAXRSS = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Settings:
    """The command line's options. smoke: the smallest sizes, to see that a benchmark works; no figures to keep.

    processor_time: count the processor's seconds and not the clock's, in one thread, where other work runs beside.
    """

    repeats: int = 5
    max_tokens: int = 2048
    smoke: bool = False
    processor_time: bool = False


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


#: The device to measure on where it is neither the GPU nor the CPU: the tests' stand-in for a GPU.
stand_in: str | None = None


def device() -> str:
    """ "cuda" where torch can use a GPU, else "cpu"; or the stand-in."""
    return stand_in or ("cuda" if torch.cuda.is_available() else "cpu")


def progress(line: str) -> None:
    """Says on standard error what is being measured."""
    print(line, file=sys.stderr, flush=True)


def fresh(function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)` in a process of its own, which inherits no memory, cache, thread or affinity.

    Raises MemoryError when the process was killed, as systems do that run out of memory.
    """
    # A fork server has the libraries loaded already; but what forks after a look at CUDA cannot use CUDA.
    context = multiprocessing.get_context("spawn" if device() == "cuda" else "forkserver")
    context.set_forkserver_preload(["flowtracer", "harness.policy", "math_verify"])
    with ProcessPoolExecutor(1, mp_context=context) as process:
        try:
            return process.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise MemoryError("its process was killed, most likely for memory") from None


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)`, its memory counted apart from what ran before it.

    On a CPU in a process of its own. On a GPU in this one, which starts no libraries anew: torch counts its memory from
    any moment on, and gives back what the last one left.
    """
    if device() == "cpu":
        return fresh(function, *arguments)
    try:
        return function(*arguments)
    finally:
        gc.collect()
        if device() == "cuda":
            torch.cuda.empty_cache()


def clock(function: Callable[[], Any], processor_time: bool = False) -> float:
    """Seconds that `function()` takes, the GPU's work included; or those that the processor works for this process."""
    now = time.process_time if processor_time else time.perf_counter
    _synchronize()
    begin = now()
    function()
    _synchronize()
    return now() - begin


def _synchronize() -> None:
    if device() == "cuda":
        torch.cuda.synchronize()


def restart_peak() -> float:
    """Forgets the peak of memory so far; MB (10^6 bytes) held now, by the GPU's tensors or else by this process."""
    if device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux only: elsewhere a process keeps the peak that loading left
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """The most MB held at once since `restart_peak`."""
    if device() == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS / 1e6


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """The median, and the quartiles as its spread."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}
