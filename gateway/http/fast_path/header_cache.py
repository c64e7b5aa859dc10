"""Remember what accepted header lines mean, so that only the request line has to be read.

A program sends the same header lines with each request. Bytes that the real parser accepted as the header lines of a
complete page request of an authenticated team mean the same with any other target. If a request with such lines arrives
as a whole at a clean boundary of a connection, it is not parsed: its target is matched against a simple pattern, and
everything after that is as for any other request (`Router.answer_cached_headers`): rate, query, permissions, cache. A
request that does not match takes the normal path.

The values of ids that clients generate for each request are ignored, but not their presence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from aiohttp import EMPTY_PAYLOAD, HttpVersion11, web

from gateway.http.fast_path.byte_cache import ByteCache, Key
from gateway.http.framing import Target
from gateway.http.page_request import PageRequest
from gateway.http.request_context import ClientNames, request_id_of

# A request that is longer than this is answered the long way: it is not what programs send again and again.
MOST_REQUEST_BYTES = 4096
# What is remembered of header lines besides their bytes.
_OVERHEAD = 600

# One segment for the AOI, and a query that has nothing to be taken in two ways.
_LINE = re.compile(rb"(GET|HEAD) (/v0/aois/[A-Za-z0-9_%-]+/assets)(?:\?([A-Za-z0-9_.~%=&+,:-]*))? HTTP/1\.1", re.ASCII)
# These differ from request to request, and say nothing about the page.
_IDS = re.compile(rb"\n([xX]-[rR]equest-[iI][dD]|[tT]race[pP]arent):[ \t]*([A-Za-z0-9._-]{1,64})[ \t]*\r", re.ASCII)
_NO_IDS: list[bytes] = []
_STARTS = (b"GET /v0/aois/", b"HEAD /v0/aois/")
_LINE_END, HEAD_END = b"\r\n", b"\r\n\r\n"
# Lines with one of these are judged anew each time.
_NEVER = (
    "Cache-Control", "Pragma", "Connection", "X-Explain", "Expect", "Content-Length", "Transfer-Encoding", "Upgrade",
)  # fmt: skip


@dataclass(slots=True)
class AcceptedHeaders:
    """What the header lines of a request say, whichever page it is for, and the method that it came with.

    `names_itself` tells that the request's id is the client's own; `forwarded` is what trusted proxies say of the
    client, `origin` the Origin header. `secure` tells that they came over TLS.
    """

    request: PageRequest
    has_request_id: bool
    forwarded: str | None
    origin: str
    secure: bool
    used: bool = False


class CachedHeaders(NamedTuple):
    """A request that was read: which page, what the header lines say, and its id, None where it gets a new one."""

    accepted: AcceptedHeaders
    target: Target
    request_id: str | None


class HeaderCache:
    """The header lines that one listener has met, within `max_bytes`."""

    def __init__(self, max_bytes: int, clients: ClientNames) -> None:
        self._clients = clients
        self._known: ByteCache[AcceptedHeaders] = ByteCache(max_bytes, _OVERHEAD)

    def read(self, request: bytes) -> CachedHeaders | None:
        """Read a request that came on a connection which stands between two requests; None if that takes parsing."""
        lines, ids = without_ids(_lines(request))
        accepted = self._known.get(lines)
        if accepted is None:
            return None
        match = _LINE.fullmatch(request, 0, request.find(_LINE_END))
        if match is None or len(request) > MOST_REQUEST_BYTES:
            return None
        accepted.used = True
        target = Target(match[2].decode(), (match[3] or b"").decode())
        return CachedHeaders(accepted, target, ids[0].decode() if accepted.has_request_id else None)

    def learn(self, received: bytes, request: web.BaseRequest, page_request: PageRequest) -> AcceptedHeaders | None:
        """What is to be remembered of the header lines of a request that was let in; None if that is nothing."""
        message = request._message  # noqa: SLF001 - BaseRequest does not tell whether it closes the connection
        if message.version != HttpVersion11 or message.should_close or request.content is not EMPTY_PAYLOAD:
            return None
        if any(name in request.headers for name in _NEVER):
            return None
        lines, ids = without_ids(_lines(received))
        own = request_id_of(request)
        names_itself = request.headers.get("X-Request-Id") == own
        if names_itself and ids != [own.encode()]:
            return None  # it is there, but not as it is looked for
        accepted = AcceptedHeaders(
            page_request,
            names_itself,
            self._clients.forwarded(request),
            request.headers.get("Origin", ""),
            request.secure,
        )
        if self._known.seen_again(lines):
            self._known.put(lines, accepted)
        return accepted

    def forget(self) -> None:
        """Teams, budgets or tokens are others now."""
        self._known.clear()


def _lines(request: bytes) -> bytes:
    """The method and the header lines; of what has neither, something that is known to nobody, for want of an end."""
    return request[: request.find(b" ")] + request[request.find(_LINE_END) :]


def without_ids(request: bytes) -> tuple[Key, list[bytes]]:
    """A request, or its header lines, without the values of ids that stand in it; and those that are request ids.

    Where there are ids, these are the pieces before, between and behind them, and so nothing that can be sent.
    """
    if b"equest-" not in request and b"arent:" not in request:  # which is quicker than to look for all of it
        return request, _NO_IDS
    found = list(_IDS.finditer(request))
    if not found:
        return request, _NO_IDS
    ends = [0, *(match.end(2) for match in found)]
    starts = [*(match.start(2) for match in found), len(request)]
    pieces = tuple(request[end:start] for end, start in zip(ends, starts, strict=True))
    return pieces, [match[2] for match in found if match[1][:1] in b"xX"]


def is_whole(request: bytes) -> bool:
    """Whether bytes that were received between two requests are one complete request, and worth a look."""
    return (
        len(request) <= MOST_REQUEST_BYTES
        and request.startswith(_STARTS)
        and request.find(HEAD_END) == len(request) - len(HEAD_END)
    )
