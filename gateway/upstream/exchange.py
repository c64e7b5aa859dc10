"""Send a request to the vendor and read its answer, on a kept connection if there is one.

A kept connection may be closed by the vendor at any time, and may hold an answer to another request. So a second
request, on a new connection, follows where the first one was lost before the first byte of an answer, or where its
answer is in doubt: it is no HTTP, it names another AOI or offset, or other bytes came along with it and it proves
nothing. None of that is a failure of the vendor. An answer that came on a new connection is never in doubt.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from gateway.config.options import UpstreamOptions
from gateway.core.clock import Clock
from gateway.core.errors import UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamTooLarge, UpstreamUnreachable
from gateway.core.events import Emit, UpstreamCalled
from gateway.core.listing import MAX_ENVELOPE_BYTES
from gateway.core.query import AssetsQuery
from gateway.upstream.body import TruncatedBody, read_body
from gateway.upstream.connection_pool import Checkout, VendorConnector
from gateway.upstream.page_identity import Identity, Mismatch, page_identity

# For so long a mismatch that a new connection has confirmed is taken for the vendor's normal behaviour.
_CONFIRMED_SECONDS = 600.0

# The longest line in the head of a response, and the most header lines. Some vendors send cookies or policies of many
# kilobytes; the limits keep a head from filling the memory.
MAX_LINE_BYTES = 131_072
MAX_HEADERS = 512


class ConnectionFailed(UpstreamUnreachable):
    """Nobody took the connection."""


class TlsFailed(UpstreamUnreachable):
    """The connection was not safe."""


class NotHttpResponse(UpstreamBroken):
    """The answer could not be parsed."""


class _KeptConnectionLost(UpstreamUnreachable):
    """A kept connection ended before the first byte of an answer."""


class UpstreamResponse(NamedTuple):
    """A complete answer of the vendor, its body decoded."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class UpstreamExchange:
    """Sends requests with one session and its pool of connections."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        connector: VendorConnector,
        options: UpstreamOptions,
        *,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._session = session
        self._connector = connector
        self._options = options
        self._proxy = None if options.proxy is None else options.proxy.get_secret_value()
        self._clock = clock
        self._emit = emit
        self._confirmed: dict[str, float] = {}

    async def send(
        self, query: AssetsQuery, headers: Mapping[str, str], seconds: float, team: str, *, fresh: bool
    ) -> UpstreamResponse:
        """Request a page, for so many seconds in all; `fresh` forbids kept connections. Raises UpstreamError."""
        ends = self._clock.monotonic() + seconds
        identity: Identity = "unknown"
        with self._connector.checkout(fresh=fresh) as checkout:
            kept = checkout
            try:
                answer = await self._send(query, headers, seconds, team, checkout)
                identity = page_identity(answer.status, answer.body, query) if checkout.kept else "proven"
                if not self._is_in_doubt(identity, checkout):
                    return answer
                checkout.close()
            except _KeptConnectionLost:
                self._connector.replaced()
            except NotHttpResponse:
                if not checkout.kept:
                    raise
                checkout.end_dirty()
        with self._connector.checkout(fresh=True) as checkout:
            answer = await self._send(query, headers, ends - self._clock.monotonic(), team, checkout)
        if isinstance(identity, Mismatch):
            if page_identity(answer.status, answer.body, query) == identity:
                self._confirmed[identity.field] = self._clock.monotonic()
            else:
                kept.end_dirty()
        return answer

    def _is_in_doubt(self, identity: Identity, checkout: Checkout) -> bool:
        if isinstance(identity, Mismatch):
            confirmed = self._confirmed.get(identity.field)
            return confirmed is None or self._clock.monotonic() - confirmed >= _CONFIRMED_SECONDS
        return identity == "unknown" and checkout.has_surplus

    async def _send(
        self, query: AssetsQuery, headers: Mapping[str, str], seconds: float, team: str, checkout: Checkout
    ) -> UpstreamResponse:
        """Send one request and count it."""
        began = self._clock.monotonic()
        code, lost = "reset", False
        try:
            answer = await self._exchange(query, headers, seconds)
            code = str(answer.status) if 100 <= answer.status <= 599 else "invalid"
            # With a 408 servers announce that they close an idle connection (RFC 9110, section 15.5.9).
            lost = checkout.kept and answer.status == 408
        except UpstreamError as error:
            code = code_of(error)
            checkout.close()
            lost = checkout.kept and isinstance(error, UpstreamUnreachable) and not checkout.is_answered
            if not lost:
                raise
        finally:
            self._emit(UpstreamCalled(code, self._clock.monotonic() - began, team, lost))
        if lost:
            raise _KeptConnectionLost("the vendor closed an idle connection")
        return answer

    async def _exchange(self, query: AssetsQuery, headers: Mapping[str, str], seconds: float) -> UpstreamResponse:
        """Read the answer to one request to its end, translating every way in which that can fail."""
        options = self._options
        url = URL(options.base_url + query.target, encoded=True)
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.get(url, headers=headers, allow_redirects=False, proxy=self._proxy) as response,
            ):
                limit = options.max_body_bytes if response.status == 200 else MAX_ENVELOPE_BYTES
                body = await read_body(response, limit)
                return UpstreamResponse(response.status, response.headers, body)
        except aiohttp.ConnectionTimeoutError:
            raise ConnectionFailed("no connection in time") from None
        except TimeoutError:
            raise UpstreamTimeout("no complete answer in time") from None
        except (aiohttp.ClientPayloadError, zlib.error) as error:
            raise TruncatedBody(f"the body is not whole: {type(error).__name__}", status=response.status) from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError, ssl.SSLError) as error:
            raise unreachable(error) from None
        except (aiohttp.ClientError, ValueError) as error:
            # repr() of aiohttp's errors holds the request's headers, our key among them: only the class is told.
            raise NotHttpResponse(f"not HTTP as we know it: {type(error).__name__}") from None


async def send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request, and give it up when its connection fails: aiohttp would send it again, uncounted."""
    try:
        return await handler(request)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise unreachable(error) from None


def unreachable(error: Exception) -> UpstreamUnreachable:
    """What a failure of the connection is called here."""
    name = type(error).__name__
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return TlsFailed(f"TLS failed: {name}")
        case aiohttp.ClientConnectorError() | aiohttp.ClientProxyConnectionError():
            return ConnectionFailed(f"no connection: {name}")
        case _:
            return UpstreamUnreachable(f"the connection was cut: {name}")


def code_of(error: UpstreamError) -> str:
    """Return the `code` label of `gateway_upstream_requests_total` for a failed request."""
    match error:
        case UpstreamTimeout():
            return "timeout"
        case ConnectionFailed():
            return "connect"
        case TlsFailed():
            return "tls"
        case UpstreamUnreachable() | TruncatedBody():
            return "reset"
        case UpstreamTooLarge():
            return "too_large"
        case _:
            return "invalid"
