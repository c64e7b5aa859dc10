"""A page response as it will be sent, by aiohttp or by `protocol` itself."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal

import msgspec
from aiohttp import web

from gateway.cache.handler import CacheAnswer
from gateway.core.query import AssetsQuery
from gateway.http.page_request import PageRequest

# Which bytes of an entry are an answer's body.
Part = Literal["body", "gzipped", "nothing"]

# More of a body than this is sent in pieces, as fast as its client takes it, and not copied whole for each.
PIECE = 65_536

# A vendor's 4xx is passed on whether it has a name or not.
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class PageSource(msgspec.Struct, frozen=True):
    """What an answer with a page was made of."""

    query: AssetsQuery
    answer: CacheAnswer
    part: Part


class PageResponse(msgspec.Struct):
    """A page, or that the client has it already (304, without a body).

    `origin` tells how to answer so again, None where that takes more than writing it.
    """

    request: PageRequest
    status: int
    headers: dict[str, str]
    body: bytes
    source: PageSource | None = None

    @property
    def payload(self) -> bytes:
        """What goes out behind the head."""
        return b"" if self.request.method == "HEAD" else self.body

    def head(self, headers: Mapping[str, str], *, closes: bool = False) -> bytes:
        """The head with these headers, as aiohttp writes it; `closes` tells that the connection ends with it."""
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        if self.status != 304:
            lines.append(f"Content-Length: {len(self.body)}\r\n")
        if closes:
            lines.append("Connection: close\r\n")
        return f"HTTP/1.1 {self.status} {_REASONS.get(self.status, '')}\r\n{''.join(lines)}\r\n".encode()


def page_response(asking: PageRequest, response: web.Response) -> PageResponse:
    """Convert an aiohttp response that is not a page."""
    body = response.body
    return PageResponse(asking, response.status, dict(response.headers), body if isinstance(body, bytes) else b"")


class AiohttpPageResponse(web.Response):
    """A page response for aiohttp to send."""

    def __init__(self, reply: PageResponse) -> None:
        if reply.status == 304:
            super().__init__(status=304, headers=reply.headers)
        else:
            super().__init__(status=reply.status, body=reply.body, headers=reply.headers)
        self.reply = reply

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body, and end."""
        body, writer = self.body, self._payload_writer
        if isinstance(body, bytes) and len(body) > PIECE and writer is not None and not self._must_be_empty_body:
            whole = memoryview(body)
            for start in range(0, len(body), PIECE):
                await writer.write(whole[start : start + PIECE])
            await web.StreamResponse.write_eof(self)
        else:
            await super().write_eof(data)
