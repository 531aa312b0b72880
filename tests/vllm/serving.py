"""A vLLM server of a small policy, started by our command."""

import os
import signal
import socket
import subprocess
import sys


class Serving:
    """A server of the policy `name`, ready when this is made. options: further ones of `flowtracer serve`."""

    def __init__(self, name: str, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        command = [sys.executable, "-m", "harness.cli", "serve", name, "--port", port, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout is not None
        self.address = next(line for line in self.process.stdout if "is served at" in line).split()[-1]

    def kill(self) -> None:
        """Ends it and its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
