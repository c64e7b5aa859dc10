"""A vendor that answers with bytes as they stand, for what no server library would send."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RawVendor:
    """Where it listens, and the head of every request that came, in order."""

    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    server: asyncio.Server | None = None


# Answer one request, of this head.
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_vendor(
    answer: Answer, tls: ssl.SSLContext | None = None, address: tuple[str, int] = ("127.0.0.1", 0)
) -> AsyncIterator[RawVendor]:
    """A vendor that is asked again on the same connection as long as neither side closes it."""
    vendor = RawVendor()
    serving: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        vendor.connections += 1
        vendor.writers.append(writer)
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        task.add_done_callback(serving.discard)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                vendor.requests.append(head)
                await answer(head, writer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, *address, ssl=tls)
    vendor.url = f"{'http' if tls is None else 'https'}://{address[0]}:{server.sockets[0].getsockname()[1]}"
    vendor.server = server
    try:
        yield vendor
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def saying(*pieces: bytes, pause: float = 0.0, closes: bool = True) -> Answer:
    """Answer with these bytes, so many seconds apart, and close."""

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)
        if closes:
            writer.close()

    return answer


def listing(*names: str) -> bytes:
    """A page of assets that do not tell whose they are."""
    assets = [{"id": name, "status": "success"} for name in names]
    return json.dumps({"assets": assets, "pagination": {"total": len(assets), "offset": 0, "limit": 10}}).encode()


def whole(body: bytes, *lines: bytes) -> bytes:
    """An answer with nothing wrong about it but what stands in `lines` or `body`."""
    head = b"\r\n".join(
        (b"HTTP/1.1 200 OK", b"Content-Type: application/json", b"Content-Length: %d" % len(body), *lines)
    )
    return head + b"\r\n\r\n" + body
