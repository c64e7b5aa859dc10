"""A way from the gateway to a server behind it, on which bytes can be watched, stopped and cut."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

# Redis' reply to TIME: Unix time in seconds, and microseconds.
_TIME = re.compile(rb"(?<=\*2\r\n\$10\r\n)\d{10}(?=\r\n\$\d\r\n\d{1,6}\r\n)")


@dataclass
class Carried:
    """One connection: what has gone in by now, and the way back."""

    writer: asyncio.StreamWriter
    sent: bytes = b""


@dataclass
class Relay:
    """Carries bytes. Those of connections that have sent `marked` are stalled (`stall`), cut (`cut`) or held (`hold`).

    `holding` counts what is held back now. `delay`, in seconds, is added to every answer. `time_ahead`, in seconds, is
    added to Redis' clock.
    """

    port: int = 0
    marked: bytes = b""
    stalls: bool = False
    delay: float = 0.0
    time_ahead: int = 0
    cuts: bool = False
    connections: list[Carried] = field(default_factory=list)
    holding: int = 0
    _let_go: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _holds: bool = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def stall(self, marked: bytes) -> None:
        """From now on nothing comes back on such a connection."""
        self.marked, self.stalls = marked, True

    def cut(self, marked: bytes = b"") -> None:
        """Cut such connections, those that are made later too."""
        self.marked, self.cuts = marked, True
        for carried in self.connections:
            if marked in carried.sent:
                carried.writer.transport.abort()

    def end(self, marked: bytes = b"") -> None:
        """End such connections in order, as a server does that closes them."""
        for carried in self.connections:
            if marked in carried.sent:
                carried.writer.close()

    def refuse(self) -> None:
        """Refuse connections from now on, and end those that there are, as when the server's process ends."""
        assert self._server is not None
        self._server.close()
        self.end()

    def hold(self, marked: bytes) -> asyncio.Event:
        """What comes back on such a connection from now on waits for this event."""
        self.marked, self._holds, self._let_go = marked, True, asyncio.Event()
        return self._let_go

    async def held(self, carried: Carried) -> None:
        """Wait, if it is to be held."""
        if self._holds and self.marked in carried.sent:
            self.holding += 1
            await self._let_go.wait()
            self.holding -= 1

    def mend(self) -> None:
        self.stalls = self.cuts = False


@asynccontextmanager
async def relaying(port: int) -> AsyncIterator[Relay]:
    """A way to this port."""
    relay = Relay()
    tasks: set[asyncio.Task[None]] = set()

    async def there(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, carried: Carried) -> None:
        try:
            while data := await reader.read(65_536):
                carried.sent += data
                if relay.cuts and relay.marked in carried.sent:
                    carried.writer.transport.abort()
                    return
                writer.write(data)
        finally:
            writer.close()

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, carried: Carried) -> None:
        try:
            while data := await reader.read(65_536):
                await asyncio.sleep(relay.delay)
                if relay.time_ahead:
                    data = _TIME.sub(lambda found: b"%d" % (int(found[0]) + relay.time_ahead), data)
                await relay.held(carried)
                if not (relay.stalls and relay.marked in carried.sent):
                    writer.write(data)
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried = Carried(writer)
        relay.connections.append(carried)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        for work in (there(reader, far_writer, carried), back(far_reader, writer, carried)):
            task = asyncio.create_task(_quietly(work))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    relay._server = server
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _quietly(work: object) -> None:
    with suppress(ConnectionError):
        await work  # type: ignore[misc]
