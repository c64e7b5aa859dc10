"""Carry connections to a port of loopback, and delay every byte in each direction by the same time.

A connection is made as over a network, too: bytes of a new connection wait for one more round trip, which is the TCP
handshake that loopback does not need. Delays overlap: a later piece waits for its own time, not for the earlier ones.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop


class _End(asyncio.Protocol):
    """One end of a connection; what it receives goes to the other one, later."""

    def __init__(self, relay: Relay, other: _End | None = None) -> None:
        self._relay = relay
        self._other = other
        self._transport: asyncio.Transport | None = None
        self._waiting: list[bytes] = []
        self._not_before = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._other is None:
            self._relay.connections += 1
            self._not_before = self._relay.loop.time() + 2 * self._relay.delay
            self._relay.open(self)
        else:
            self._other.join(self)

    def join(self, other: _End) -> None:
        """Take the other end, and give it what has waited for it."""
        self._other = other
        for data in self._waiting:
            self._later(data)
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._waiting.append(data)
        else:
            self._later(data)

    def _later(self, data: bytes) -> None:
        loop, other = self._relay.loop, self._other
        assert other is not None
        loop.call_at(max(loop.time(), self._not_before) + self._relay.delay, other.write, data)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._other is not None:
            self._relay.loop.call_later(2 * self._relay.delay, self._other.close)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Relay:
    """The way to a port, with a delay in seconds for each direction."""

    def __init__(self, port: int, delay: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.delay = delay
        self.connections = 0
        self._port = port
        self._opening: set[asyncio.Task[object]] = set()

    def open(self, near: _End) -> None:
        """Connect to the port for a new connection."""
        task = self.loop.create_task(self.loop.create_connection(lambda: _End(self, near), "127.0.0.1", self._port))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def near(self) -> _End:
        """Make the end of a connection that is accepted."""
        return _End(self)


async def serve(port: int, to: int, delay: float, counter_port: int) -> None:
    """Relay until the process is ended; another port gives the number of connections so far."""
    relay = Relay(to, delay)

    async def told(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % relay.connections)
        writer.close()

    loop = asyncio.get_running_loop()
    counter = await asyncio.start_server(told, "127.0.0.1", counter_port)
    server = await loop.create_server(relay.near, "127.0.0.1", port, backlog=1024)
    async with counter, server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True)
    parser.add_argument("--delay", type=float, required=True, help="seconds for each direction")
    parser.add_argument("--counter-port", type=int, required=True)
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.to, given.delay, given.counter_port))


if __name__ == "__main__":
    main()
