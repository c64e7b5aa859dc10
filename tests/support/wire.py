"""Requests as bytes on a socket, and what came back, for what no client library would send."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One response, taken apart by hand."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


def request(
    *lines: bytes, method: bytes = b"GET", path: bytes = b"/v0/aois/shown/assets", version: bytes = b"HTTP/1.1",
    host: bytes | None = b"localhost", body: bytes = b"",
) -> bytes:  # fmt: skip
    """Put a request together without judging any part of it."""
    head = [b" ".join((method, path, version))]
    if host is not None:
        head.append(b"Host: " + host)
    return b"\r\n".join((*head, *lines, b"", b"")) + body


async def until_closed(port: int, pieces: bytes | Iterable[bytes], *, seconds: float = 10.0) -> bytes:
    """Send, and read until the other side closes, which it must do without a reset, and before it has to as idle."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    # Read all the while: once the answer is there and ended, what is still sent may well be reset.
    reading = asyncio.create_task(reader.read())
    try:
        for piece in (pieces,) if isinstance(pieces, bytes) else pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        async with asyncio.timeout(seconds):
            return await reading
    finally:
        reading.cancel()
        writer.close()


def answers(received: bytes) -> list[Answer]:
    """Every response in what was received; all of ours but those to HEAD say how long they are."""
    found, start = [], 0
    while start < len(received):
        end = received.index(b"\r\n\r\n", start)
        line, *fields = received[start:end].decode("ascii").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.[01] ([0-9]{3}) [A-Za-z -]+", line)
        assert match, line
        headers = dict(field.split(": ", 1) for field in fields)
        assert len(headers) == len(fields), "a header stands twice"
        length = int(headers.get("Content-Length", 0))
        body = received[end + 4 : end + 4 + length]
        assert len(body) in (0, length), "a body is cut"
        found.append(Answer(int(match[1]), headers, body))
        start = end + 4 + len(body)
    return found
