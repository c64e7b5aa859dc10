"""A connection that is kept, with requests as bytes on it, and answers as they came."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from harness import PATIENCE


@dataclass(frozen=True)
class Raw:
    """One answer: its head line by line, and its body."""

    head: list[str]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head[0].split()[1])

    def __getitem__(self, name: str) -> str:
        (value,) = [line.partition(": ")[2] for line in self.head[1:] if line.startswith(f"{name}: ")]
        return value

    @property
    def cache(self) -> str:
        return self["Cache-Status"].removeprefix("pixxel-gateway; ")


def asks(path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/{version}", "Host: localhost", *lines, "", "")).encode()


class Line:
    """One connection, with TLS if need be; `async with` opens and closes it."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._tls = tls

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._tls, server_hostname="localhost" if self._tls else None
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()

    async def ask(self, request: bytes) -> Raw:
        self.writer.write(request)
        return await self.answer(has_body=not request.startswith(b"HEAD "))

    async def answer(self, *, has_body: bool = True) -> Raw:
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            lengths = [int(line.partition(": ")[2]) for line in head if line.startswith("Content-Length: ")]
            body = await self.reader.readexactly(lengths[0]) if lengths and has_body else b""
        return Raw(head, body)

    @property
    def over(self) -> bool:
        return self.reader.at_eof()
