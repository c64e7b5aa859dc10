"""A relay to a port whose connections can be cut, reset, stalled and refused.

It works with protocols rather than streams, so that a load generator can carry the traffic of several servers.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Literal, cast

# An RST instead of a FIN: a linger time of zero.
_RESET = struct.pack("ii", 1, 0)

Which = Literal["all", "pubsub"]


class _End(asyncio.Protocol):
    """One end of a connection. What it receives is written to the other end."""

    def __init__(self, relay: FaultyRelay, other: _End | None = None) -> None:
        self.relay = relay
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.subscribed = False
        self._waiting: list[bytes] = []
        self._is_near = other is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._is_near:
            if self.relay.refuses:
                self.transport.abort()
                return
            self.relay.ends.add(self)
            self.relay.open(self)
        else:
            assert self.other is not None
            self.other.join(self)

    def join(self, other: _End) -> None:
        """Take the other end, and write to it what has been received already."""
        self.other = other
        if self.transport is None or self.transport.is_closing():
            other.close()
            return
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            other.write(data)

    def data_received(self, data: bytes) -> None:
        if self._is_near and not self.subscribed and b"SUBSCRIBE" in data:
            self.subscribed = True
        if self.other is None:
            self._waiting.append(data)
        else:
            self.other.write(data)

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.relay.ends.discard(self)
        if self.other is not None:
            self.other.close()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class FaultyRelay:
    """Relay connections to a port of loopback."""

    def __init__(self, to: int) -> None:
        self.port = 0
        self.ends: set[_End] = set()
        self.refuses = False
        """Whether new connections are closed at once."""
        self._to = to
        self._opening: set[asyncio.Task[object]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _End(self), "127.0.0.1", 0, backlog=256)
        self.port = self._server.sockets[0].getsockname()[1]

    def open(self, near: _End) -> None:
        """Connect to the server for a new connection."""
        task = asyncio.get_running_loop().create_task(self._open(near))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, near: _End) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _End(self, near), "127.0.0.1", self._to)
        except OSError:
            near.close()

    def cut(self, which: Which, *, reset: bool) -> None:
        """End connections with a FIN, or with an RST."""
        for near in self._chosen(which):
            assert near.transport is not None
            if reset:
                sock = near.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                near.transport.abort()
            else:
                near.transport.close()

    def stall(self, which: Which) -> list[_End]:
        """Stop both directions of these connections; what is sent waits in the sockets."""
        stalled = self._chosen(which)
        for near in stalled:
            for end in (near, near.other):
                if end is not None and end.transport is not None:
                    end.transport.pause_reading()
        return stalled

    def resume(self, stalled: list[_End]) -> None:
        """Let what waited through, in order."""
        for near in stalled:
            for end in (near, near.other):
                if end is not None and end.transport is not None and not end.transport.is_closing():
                    end.transport.resume_reading()

    def _chosen(self, which: Which) -> list[_End]:
        return [near for near in self.ends if which == "all" or near.subscribed]

    async def close(self) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        for near in list(self.ends):
            near.close()
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
