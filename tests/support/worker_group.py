"""Several workers as one running gateway, and connections that are known to be to this worker or that."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from harness import VENDOR_KEY, clean_environment, command, parse_metrics, until
from wire import Answer, answers, request


class Connection:
    """One connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def get(self, path: str, *lines: bytes) -> Answer:
        return await self.send(request(*lines, path=path.encode()))

    async def purge(self, aoi_id: str) -> Answer:
        """Purge; it is the last that this connection is good for."""
        body = json.dumps({"aoi_id": aoi_id}).encode()
        lines = (b"Content-Type: application/json", b"Content-Length: %d" % len(body))
        return await self.send(request(*lines, method=b"POST", path=b"/admin/purge", body=body))

    async def metrics(self) -> dict[str, float]:
        return parse_metrics((await self.get("/metrics")).body.decode())

    async def send(self, data: bytes) -> Answer:
        self.writer.write(data)
        async with asyncio.timeout(20):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            [answer] = answers(head + await self._reader.readexactly(int(length[1]) if length else 0))
        return answer


class Group:
    """A parent and its workers. What they write is read all the time, into `lines`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.port = 0
        self._connections: list[Connection] = []
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.decode())

    def told(self, text: str) -> list[dict[str, Any]]:
        """The lines so far in which this stands."""
        return [json.loads(line) for line in list(self.lines) if text in line]

    def pids(self) -> list[int]:
        """The workers that live."""
        shown = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid=,stat="], text=True)
        rows = [line.split() for line in shown.splitlines()]
        return [int(row[0]) for row in rows if int(row[1]) == self.process.pid and not row[2].startswith("Z")]

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self._connections.append(connection)
        return connection

    async def hang_up(self) -> None:
        for connection in self._connections:
            connection.writer.close()
            with suppress(ConnectionError):
                await connection.writer.wait_closed()

    async def connect_to(self, pid: int) -> Connection:
        """Connect while all other workers are stopped, so that this one takes it."""
        others = [other for other in self.pids() if other != pid]
        for other in others:
            os.kill(other, signal.SIGSTOP)
        try:
            connection = await self.connect()
            assert (await connection.get("/healthz")).status == 200
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)
        return connection

    async def connect_to_all(self) -> dict[int, Connection]:
        return {pid: await self.connect_to(pid) for pid in self.pids()}

    async def end(self, number: signal.Signals | None = signal.SIGTERM) -> int:
        """Send a signal, and give the exit code when the last of them has closed standard output."""
        if number is not None:
            self.process.send_signal(number)
        await asyncio.wait_for(asyncio.to_thread(self.process.wait), 20)
        await asyncio.to_thread(self._reading.join, 20)
        return self.process.returncode

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads a session of its own
        self.process.wait()
        self._reading.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@asynccontextmanager
async def working(workers: int, **environ: str) -> AsyncIterator[Group]:
    """Start so many workers, and wait until all serve."""
    process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time to be waited for
        command("serve", "--port", "0", "--workers", str(workers)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=clean_environment({"GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY, "GATEWAY_SERVER__DRAIN": "0.3", **environ}),
        start_new_session=True,
    )
    group = Group(process)
    try:
        await until(lambda: group.told('"listening"') != [] or group.process.poll() is not None, seconds=20)
        [listening] = group.told('"listening"')
        group.port = int(listening["url"].rpartition(":")[2])
        yield group
    finally:
        await group.hang_up()
        await asyncio.to_thread(group.kill)
