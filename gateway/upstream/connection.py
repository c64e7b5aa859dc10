"""One connection to the vendor, and whether another request may be sent on it.

HTTP/1.1 has no request ids: whatever arrives next on a connection is taken for the answer to the next request. So a
connection is used again only after a time without a byte, with nothing left to read, and one on which a byte arrives
that no request asked for is closed. The rules are those of nginx, pingora and httpcore, and stricter.

Together with `connections` this is the adapter to internals of aiohttp's client (3.14.5). Here they are those of
`ResponseHandler`, the protocol of a connection: `data_received`, `feed_data`, `set_response_params`, `pause_reading`
and `should_close` see every byte and every request, while aiohttp's own parser keeps the framing; `_loop` is the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader

from gateway.upstream.connection_reuse import quiet_seconds
from gateway.upstream.transport_state import bytes_received, has_unread, tcp_round_trip

# nginx's default for keepalive_requests.
_MOST_REQUESTS = 1000


class VendorConnection(ResponseHandler):
    """One connection to the vendor, which knows whether another request may be sent on it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, monotonic: Callable[[], float], dirty: Callable[[], None]
    ) -> None:
        super().__init__(loop)
        self._monotonic = monotonic
        self._report_dirty = dirty
        self._began = monotonic()
        self._handshake = 0.0
        self._quiet_seconds = quiet_seconds(None)
        self._last_byte = float("-inf")
        self._received: int | None = None
        self._idle_until: float | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None
        self._certain = True
        self._is_dirty = False
        self.requests = 0
        """Requests that were sent on it."""
        self.keep = True
        """Whether it may be kept after the answer."""
        self.kept = False
        """Whether it has been idle in the pool."""
        self.answering = False
        """Whether a byte has arrived since the last request was sent."""
        self.surplus = False
        """Whether bytes have arrived that no request asked for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Measure how far away the other end is."""
        super().connection_made(transport)
        self._handshake = self._monotonic() - self._began
        self._quiet_seconds = quiet_seconds(tcp_round_trip(transport))

    def measure_tunnel(self) -> None:
        """Go by the TLS handshake: the TCP handshake of a tunnel ends at the proxy, and the vendor is farther away."""
        self._quiet_seconds = max(self._quiet_seconds, quiet_seconds(self._handshake))

    def set_response_params(self, **params: Any) -> None:
        """Expect the answer to a request that is about to be sent."""
        self._cancel_expiry()
        self._body, self._certain, self.answering = None, True, False
        self.requests += 1
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take the head of an answer; interim ones (1xx) precede it (RFC 9110, section 15.2)."""
        message, body = data
        if self._body is not None:
            return  # the head of a second answer in the same bytes: `data_received` sees that they are surplus
        if message.code >= 200 or message.upgrade:
            self._body = body
            self._certain = self._certain and not message.should_close and _ends_for_certain(message)
        super().feed_data(data, size)

    def pause_reading(self) -> None:
        """Stop reading while the body waits to be read. What the parser holds back then hides where the answer ends."""
        self._certain = False
        super().pause_reading()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer that is awaited; anything else makes the connection unusable.

        The last byte is parsed on its own: an answer that is complete without it is followed by surplus bytes. That
        holds for every kind of framing, and needs no second parser.
        """
        if not data:  # aiohttp resumes its parser
            super().data_received(data)
            return
        self._last_byte = self._monotonic()
        if self._is_answered() or self._idle_until is not None:
            self._take_surplus()
            return
        self.answering = True
        if len(data) > 1:
            # Not a copy: large bodies would leave the heap fragmented.
            super().data_received(memoryview(data)[:-1])  # type: ignore[arg-type] # the parser takes any buffer
            if self._is_answered():
                self._take_surplus()
                return
            if self.exception() is not None:
                return
        super().data_received(data[-1:])

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the time at which it would have been closed, and the body, which refers to this connection too.

        What was received of an abandoned body is freed at once, not with the next garbage collection.
        """
        self._cancel_expiry()
        super().connection_lost(exc)
        self._body = None

    @property
    def should_close(self) -> bool:
        """Whether no other request may be sent on it."""
        return super().should_close or self.surplus or not self._would_be_kept

    @property
    def ready_at(self) -> float:
        """When it will have been quiet long enough, on the monotonic clock."""
        return self._last_byte + self._quiet_seconds

    def is_ready(self) -> bool:
        """Return whether a request may be sent on it now: connected, quiet, and nothing to be read."""
        now = self._monotonic()
        transport = self.transport
        if transport is None or not self.is_connected() or not transport.is_reading():
            return False
        if now < self.ready_at or (self._idle_until is not None and now >= self._idle_until):
            return False
        return not has_unread(transport) and not self._has_hidden(transport)

    def wait_in_pool(self, seconds: float) -> None:
        """Be idle, for so many seconds at most."""
        self.kept = True
        self._idle_until = self._monotonic() + seconds
        self._received = None if self.transport is None else bytes_received(self.transport)
        self._expiry = self._loop.call_later(seconds, self.close)

    def _has_hidden(self, transport: asyncio.Transport) -> bool:
        """Return whether bytes have arrived in the pool that the TLS layer keeps to itself.

        That may be a part of a record, which would become the beginning of the next answer, so the connection is
        closed. Before the first request they are session tickets (RFC 8446, section 4.6.1): it has to be quiet again.
        """
        received = bytes_received(transport)
        if received == self._received:
            return False
        self._received, self._last_byte = received, self._monotonic()
        if self.requests:
            self.close()
        return True

    def end_dirty(self) -> None:
        """Close it, and count it once: bytes have arrived that no request asked for."""
        self.abort()
        if not self._is_dirty:
            self._is_dirty = True
            self._report_dirty()

    def _cancel_expiry(self) -> None:
        self._idle_until = None
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _is_answered(self) -> bool:
        return self._body is not None and self._body.is_eof()

    @property
    def _would_be_kept(self) -> bool:
        return self.keep and self._certain and self.requests < _MOST_REQUESTS

    def _take_surplus(self) -> None:
        self.surplus = True
        if self._would_be_kept:
            self.end_dirty()
        self.abort()


def _ends_for_certain(message: RawResponseMessage) -> bool:
    """Return whether the end of an answer is beyond doubt: HTTP/1.1, and one framing that says where it is.

    An answer with a length and a transfer coding is a sign of request smuggling (RFC 9112, section 6.3), and one
    without either ends with its connection.
    """
    if message.version < aiohttp.HttpVersion11 or message.code < 200 or message.code in (204, 304):
        return False
    lengths = message.headers.getall("Content-Length", [])
    codings = message.headers.getall("Transfer-Encoding", [])
    if codings:
        return not lengths and [coding.lower() for coding in codings] == ["chunked"]
    return len(lengths) == 1 and not message.upgrade
