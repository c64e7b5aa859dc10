"""Header lines that are familiar: what they say is remembered, so that of a request only its first line is read.

A program sends the same header lines with each request. Bytes that the real parser accepted as the header lines of a
complete request for a page, and whose team was let in, say the same behind any other target. So a request that comes
at once on a connection which stands between two requests, and has such lines, is not parsed: the target is matched
against the plainest of forms, and everything after that is as for any other request (`Router.answer_familiar`): rate,
query, rights, cache. What is not of that form takes the long way.

`replay` goes further, for requests that were answered before as a whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from aiohttp import EMPTY_PAYLOAD, HttpVersion11, web

from gateway.web.asking import Asking
from gateway.web.exchange import ClientNames, request_id_of
from gateway.web.framing import Target
from gateway.web.remembered import Remembered

# A request that is longer than this is answered the long way: it is not what programs send again and again.
MOST_REQUEST_BYTES = 4096
# What is remembered of header lines besides their bytes.
_OVERHEAD = 600

# One segment for the AOI, and a query that has nothing to be taken in two ways.
_LINE = re.compile(rb"(GET|HEAD) (/v0/aois/[A-Za-z0-9_%-]+/assets)(?:\?([A-Za-z0-9_.~%=&+,:-]*))? HTTP/1\.1", re.ASCII)
_STARTS = (b"GET /v0/aois/", b"HEAD /v0/aois/")
_LINE_END, _HEAD_END = b"\r\n", b"\r\n\r\n"
# Lines with one of these are judged anew each time.
_NEVER = (
    "Cache-Control", "Pragma", "Connection", "X-Explain", "Expect", "Content-Length", "Transfer-Encoding", "Upgrade",
)  # fmt: skip


@dataclass(slots=True)
class Familiar:
    """What the header lines of a request say, whichever page it is for, and the method that it came with.

    `request_id` is the client's own, None where each request gets a new one; `forwarded` is what trusted proxies say of
    the client, `origin` the Origin header. `secure` tells that they came over TLS.
    """

    asking: Asking
    request_id: str | None
    forwarded: str | None
    origin: str
    secure: bool
    used: bool = False


class Read(NamedTuple):
    """A request that was read: which page, and what the header lines say."""

    familiar: Familiar
    target: Target


class FamiliarHeaders:
    """The header lines that one listener has met, within `max_bytes`."""

    def __init__(self, max_bytes: int, clients: ClientNames) -> None:
        self._clients = clients
        self._known: Remembered[Familiar] = Remembered(max_bytes, _OVERHEAD)

    def read(self, request: bytes) -> Read | None:
        """Read a request that came on a connection which stands between two requests; None if that takes parsing."""
        line, _, rest = request.partition(_LINE_END)
        familiar = self._known.get(line[: line.find(b" ")] + rest)
        if familiar is None:
            return None
        match = _LINE.fullmatch(line)
        if match is None or len(request) > MOST_REQUEST_BYTES:
            return None
        familiar.used = True
        return Read(familiar, Target(match[2].decode(), (match[3] or b"").decode()))

    def learn(self, received: bytes, request: web.BaseRequest, asking: Asking) -> Familiar | None:
        """What is to be remembered of the header lines of a request that was let in; None if that is nothing."""
        message = request._message  # noqa: SLF001 - BaseRequest does not tell whether it closes the connection
        if message.version != HttpVersion11 or message.should_close or request.content is not EMPTY_PAYLOAD:
            return None
        if any(name in request.headers for name in _NEVER):
            return None
        request_id = request_id_of(request)
        familiar = Familiar(
            asking,
            request_id if request.headers.get("X-Request-Id") == request_id else None,
            self._clients.forwarded(request),
            request.headers.get("Origin", ""),
            request.secure,
        )
        line, _, rest = received.partition(_LINE_END)
        lines = line[: line.find(b" ")] + rest
        if self._known.seen_again(lines):
            self._known.put(lines, familiar)
        return familiar

    def forget(self) -> None:
        """Teams, budgets or tokens are others now."""
        self._known.clear()


def is_whole(request: bytes) -> bool:
    """Whether bytes that were received between two requests are one complete request, and worth a look."""
    return (
        len(request) <= MOST_REQUEST_BYTES
        and request.startswith(_STARTS)
        and request.find(_HEAD_END) == len(request) - len(_HEAD_END)
    )
