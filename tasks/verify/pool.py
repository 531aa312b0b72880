"""Symbolic comparisons in processes that can be killed: each has a memory limit, a processor limit and a
deadline.

math-verify's own time-outs use a signal, in the main thread only, in whole seconds, and some inputs run on
past them. Here the caller's clock starts when a worker says that it has begun, and what is not done at the
deadline is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from tasks.verdict import TaskError
from tasks.verify import worker as protocol

#: Seconds an answer's comparisons may take in all, from their start.
DEADLINE = 8.0
#: Seconds of processor time for one of them: what a verdict should depend on, on a machine that is busy too.
PROCESSOR = 3
#: Seconds for a worker to begin; only a machine out of breath needs more.
PATIENCE = 120.0
MEMORY = 2 * 1024**3
WORKERS = 2
#: A worker is replaced after so many comparisons: sympy's caches only grow.
LIFETIME = 2000
#: Seconds that comparisons of one answer may take in this context, where its caller wants less than DEADLINE.
_ALLOWED: ContextVar[float] = ContextVar("allowed", default=DEADLINE)
TIMEOUT, DIED, EXHAUSTED = "timeout", "died", "exhausted"
_REMEMBERED = 20_000


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """In this context an answer gets at most so many seconds of comparisons; with 0 it waits for none."""
    token = _ALLOWED.set(seconds)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


class _Worker:
    """One worker process and the socket to it."""

    def __init__(self, channel: socket.socket, process: int) -> None:
        self.channel = channel
        self.process = process
        self.served = 0


class Pool:
    """Up to `workers` worker processes, started when they are needed. Safe to use from several threads."""

    def __init__(self, workers: int = WORKERS, deadline: float = DEADLINE, memory: int = MEMORY) -> None:
        self._deadline = deadline
        self._memory = memory
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._workers: set[_Worker] = set()
        self._lock = threading.Lock()
        self._template: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._known: OrderedDict[tuple[object, ...], str] = OrderedDict()

    @property
    def deadline(self) -> float:
        """Seconds that the comparisons of one answer may take in all, in the caller's context."""
        return min(self._deadline, _ALLOWED.get())

    def compare(
        self, kind: str, gold: str, answer: str, rename: dict[str, str], seconds: float
    ) -> tuple[str, float]:
        """The word of `symbolic.compare` and the seconds that it took from a worker's start.

        The word is "timeout" if it is not known after `seconds`, or exhausts the limits. A worker that dies
        is replaced and asked once more: it may have been killed from outside.
        """
        key = (kind, gold, answer, *sorted(rename.items()))
        with self._lock:
            if key in self._known:
                return self._known[key], 0.0
        spent = 0.0
        for _ in range(2):
            outcome, took = self._ask([kind, gold, answer, rename], seconds - spent)
            spent += took
            if outcome != DIED:
                break
        if outcome in (DIED, EXHAUSTED):
            return TIMEOUT, spent
        if outcome != TIMEOUT:
            with self._lock:
                self._known[key] = outcome
                if len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return outcome, spent

    def _ask(self, request: list[object], seconds: float) -> tuple[str, float]:
        if seconds <= 0:
            return TIMEOUT, 0.0
        worker = self._idle.get()
        started = None
        try:
            if worker is None:
                worker = self._start_worker()
            try:
                worker.channel.settimeout(PATIENCE)
                protocol.send(worker.channel, request)
                protocol.receive(worker.channel)
                started = time.monotonic()
                worker.channel.settimeout(seconds)
                outcome = str(protocol.receive(worker.channel))
                worker.served += 1
            except TimeoutError:
                outcome = TIMEOUT
            except (EOFError, OSError):
                outcome = DIED
            if outcome in (TIMEOUT, DIED, EXHAUSTED) or worker.served >= LIFETIME:
                if self._end_worker(worker) == signal.SIGXCPU:
                    outcome = TIMEOUT
                worker = None
            return outcome, 0.0 if started is None else time.monotonic() - started
        finally:
            self._idle.put(worker)

    def _start_worker(self) -> _Worker:
        with self._lock:
            for attempt in range(2):
                ours, theirs = socket.socketpair()
                try:
                    control = self._start_template()
                    socket.send_fds(control, [b"fork\0\0\0\0"], [theirs.fileno()])
                    process = int(str(protocol.receive(control)))
                except (EOFError, OSError, TimeoutError) as error:
                    ours.close()
                    self._stop_template()
                    if attempt:
                        raise TaskError(
                            f"the verifier's processes do not start ({error!r}); see its stderr"
                        ) from None
                    continue
                finally:
                    theirs.close()
                worker = _Worker(ours, process)
                self._workers.add(worker)
                return worker
        raise AssertionError("unreachable")

    def _end_worker(self, worker: _Worker) -> int:
        """Ends a worker and says which signal ended it, 0 if that is not known."""
        worker.channel.close()
        with self._lock:
            known = worker in self._workers
            self._workers.discard(worker)
            if known and self._control is not None:
                try:
                    self._control.sendall(struct.pack("<q", worker.process))
                    return int(protocol.receive(self._control))
                except (EOFError, OSError, TimeoutError):
                    self._stop_template()
        return 0

    def _start_template(self) -> socket.socket:
        if self._control is not None:
            return self._control
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        start = f"import sys; sys.path.insert(0, {root!r}); from tasks.verify import worker; worker.main()"
        arguments = [str(theirs.fileno()), str(self._memory), str(PROCESSOR)]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._template = subprocess.Popen(
            # -P: nothing is imported from the current folder, where a user's random.py may lie.
            [sys.executable, "-P", "-c", start, *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        ours.settimeout(PATIENCE)
        self._control = ours
        protocol.receive(ours)
        return ours

    def _stop_template(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._template is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._template.wait(timeout=2)
            if self._template.poll() is None:
                self._template.kill()
                self._template.wait()
            self._template = None

    def processes(self) -> list[int]:
        """Process ids of the template and of the workers that are alive."""
        with self._lock:
            template = [] if self._template is None else [self._template.pid]
            return template + [worker.process for worker in self._workers]

    def abandon(self) -> None:
        """Closes this process's copies of the sockets and leaves the processes to the one that started
        them.
        """
        if self._control is not None:
            self._control.close()
        for worker in self._workers:
            worker.channel.close()
        if self._template is not None:
            self._template.returncode = 0  # not ours to wait for

    def close(self) -> None:
        """Ends all processes. The pool may be used again: it starts new ones."""
        with self._lock:
            for worker in self._workers:
                worker.channel.close()
            self._stop_template()
            self._workers.clear()


_shared: Pool | None = None
_shared_lock = threading.Lock()


def shared() -> Pool:
    """The pool of this process, closed when it ends."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Pool()
            atexit.register(_shared.close)
        return _shared


def _forget_in_fork() -> None:
    """A forked process must not talk through its parent's sockets: it starts its own pool when it needs
    one.
    """
    global _shared, _shared_lock
    if _shared is not None:
        atexit.unregister(_shared.close)
        _shared.abandon()
    _shared, _shared_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_in_fork)
