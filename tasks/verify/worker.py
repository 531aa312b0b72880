"""The process that forks workers, and the workers. Started by pool.py; never imported by the rest.

One template process loads sympy and math-verify once and stays single-threaded; each worker is a fork of it,
ready in a few milliseconds. It is not multiprocessing's fork server, because that runs the caller's main
module again in every worker, which an unguarded script does not survive.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any

_HEADER = struct.Struct("<I")
_PR_SET_PDEATHSIG = 1


def send(channel: socket.socket, message: object) -> None:
    """Sends one message, JSON with its length in front."""
    data = json.dumps(message).encode()
    channel.sendall(_HEADER.pack(len(data)) + data)


def receive(channel: socket.socket) -> Any:
    """The next message; EOFError when the other side is gone."""
    (length,) = _HEADER.unpack(_exactly(channel, _HEADER.size))
    return json.loads(_exactly(channel, length))


def _exactly(channel: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = channel.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _die_with_parent(parent: int) -> None:
    with contextlib.suppress(
        OSError, AttributeError
    ):  # Linux only; elsewhere the template still kills its workers
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def template(control: socket.socket, memory: int, seconds: int) -> None:
    """Forks a worker for each socket that arrives on `control`, kills those named there, ends with the
    caller.
    """
    from tasks.verify import symbolic

    symbolic.compare("value", "\\frac{x}{2}", "x/2", {})  # the first parse builds the grammar's tables
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    workers: set[int] = set()
    try:
        send(control, "ready")
        while True:
            data, descriptors, _, _ = socket.recv_fds(control, 8, 1)
            if not data:
                break
            if descriptors:
                parent = os.getpid()
                worker = os.fork()
                if worker == 0:
                    control.close()
                    _die_with_parent(parent)
                    _serve(socket.socket(fileno=descriptors[0]), memory, seconds)
                os.close(descriptors[0])
                workers.add(worker)
                send(control, worker)
            else:
                (worker,) = struct.unpack("<q", data + _exactly(control, 8 - len(data)))
                workers.discard(worker)
                send(control, _kill(worker))
    except (EOFError, OSError):
        pass
    finally:
        for worker in workers:
            _kill(worker)


def _kill(worker: int) -> int:
    """Ends a child and says which signal ended it, perhaps before; 0 if none did, or it was no child."""
    try:
        ended, status = os.waitpid(worker, os.WNOHANG)
        if ended == 0:
            os.kill(worker, signal.SIGKILL)
            ended, status = os.waitpid(worker, 0)
    except ChildProcessError:
        return 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _serve(channel: socket.socket, memory: int, seconds: int) -> None:
    """Answers one request at a time until the caller is gone. Never returns."""
    from tasks.verify import symbolic

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(2000)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(100_000)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        while True:
            request = receive(channel)
            used = resource.getrusage(resource.RUSAGE_SELF)
            limit = int(used.ru_utime + used.ru_stime) + seconds + 1
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
            send(channel, "started")
            try:
                outcome = symbolic.compare(*request)
            except (RecursionError, MemoryError):
                outcome = "exhausted"
            except Exception as error:
                outcome = f"failed: {type(error).__name__}"
            send(channel, outcome)
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)


def main() -> None:
    """Entry point of the template: its arguments are the socket's number, bytes of memory, seconds of
    processor time.
    """
    template(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))
