"""One call out: key, attempts, deadline, places, and the vendor's answer read to its end.

This file owns the conversation with the vendor. What an answer means is `core.vendor_answer`, what is worth another
attempt `core.retry`; what becomes of the result is the cache's business.

aiohttp's own conveniences are switched off one by one, because each would do something with our key that nobody asked
for: redirects carry it along, the cookie jar replays cookies, reused connections are re-sent on silently and may hold
an answer to somebody else's question (so every call has its own connection), bodies are inflated without a bound.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Callable
from typing import NamedTuple

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from gateway import __version__
from gateway.clock import Clock
from gateway.core.admission import Fetched
from gateway.core.cache_control import VendorCaching, vendor_caching
from gateway.core.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamRefusedKey,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnreachable,
)
from gateway.core.facts import KeyRefused, Observe, UpstreamCalled, UpstreamRetried
from gateway.core.listing import MAX_ENVELOPE_BYTES
from gateway.core.options import UpstreamOptions
from gateway.core.query import AssetsQuery
from gateway.core.retry import RETRYABLE_STATUS, RetryBudget, backoff
from gateway.core.vendor_answer import read_answer
from gateway.keys import KeyRing, VendorKey
from gateway.places import Places

_PIECE = 65_536


class Upstream:
    """The vendor. `open` before the first fetch, `close` after the last."""

    def __init__(
        self, options: UpstreamOptions, keys: KeyRing, *, clock: Clock, chance: Callable[[], float], observe: Observe
    ) -> None:
        self._options = options
        self._keys = keys
        self._clock = clock
        self._chance = chance
        self._observe = observe
        self._budget = RetryBudget(options.retry_ratio)
        self._places = Places(options.max_concurrency, options.max_queue, observe)
        self._proxy = None if options.proxy is None else options.proxy.get_secret_value()
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the client session. Raises OSError or ssl.SSLError when `upstream.ca_file` cannot be read."""
        tls = ssl.create_default_context(cafile=self._options.ca_file)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=aiohttp.ThreadedResolver(), ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._options.connect_timeout),
        )

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    @property
    def idle(self) -> bool:
        """Whether no call is in flight and none waits."""
        return self._places.idle

    async def fetch(self, query: AssetsQuery, request_id: str, deadline: float) -> Fetched:
        """Ask the vendor for one page, until `deadline` on the monotonic clock at the latest.

        Raises UpstreamError when the vendor failed, UpstreamRefusal when it refused the query.
        """
        started = self._clock.now()
        answer = await self._with_either_key(query, request_id, deadline)
        arrived = self._clock.now()
        body, listing = read_answer(
            answer.status, answer.headers, answer.body,
            aoi_id=query.aoi_id, now=arrived, holds_key=self._keys.stands_in,
        )  # fmt: skip
        respected = self._options.cache_control == "respect"
        caching = vendor_caching(answer.headers, arrived)
        return Fetched(
            status=answer.status,
            body=body,
            listing=listing,
            caching=caching if respected else VendorCaching(age=caching.age),
            started=started,
            arrived=arrived,
        )

    async def _with_either_key(self, query: AssetsQuery, request_id: str, deadline: float) -> _Answer:
        """Ask with the current key and, if that one is refused, once with the previous one."""
        for key in self._keys.in_order():
            answer = await self._with_retries(query, request_id, key, deadline)
            if answer.status not in (401, 403):
                return answer
            self._observe(KeyRefused(answer.status))
        raise UpstreamRefusedKey("the vendor refused our key", status=answer.status)

    async def _with_retries(self, query: AssetsQuery, request_id: str, key: VendorKey, deadline: float) -> _Answer:
        self._budget.called()
        attempt = 1
        while True:
            outcome = await self._outcome(query, request_id, key, deadline)
            reason = _worth_another(outcome)
            if reason is None or attempt == self._options.max_attempts or not self._may_retry(deadline):
                if isinstance(outcome, UpstreamError):
                    raise outcome
                return outcome
            self._observe(UpstreamRetried(reason))
            left = deadline - self._clock.monotonic()
            await self._clock.sleep(min(backoff(attempt, self._chance()), max(0.0, left)))
            attempt += 1

    async def _outcome(
        self, query: AssetsQuery, request_id: str, key: VendorKey, deadline: float
    ) -> _Answer | UpstreamError:
        try:
            return await self._attempt(query, request_id, key, deadline)
        except UpstreamError as error:
            return error

    def _may_retry(self, deadline: float) -> bool:
        return self._clock.monotonic() < deadline and self._budget.take()

    async def _attempt(self, query: AssetsQuery, request_id: str, key: VendorKey, deadline: float) -> _Answer:
        left = deadline - self._clock.monotonic()
        async with self._places.take(left):
            left = deadline - self._clock.monotonic()
            began = self._clock.monotonic()
            code = "reset"
            try:
                answer = await self._call(query, request_id, key, min(left, self._options.attempt_timeout))
                code = str(answer.status) if 100 <= answer.status <= 599 else "invalid"
            except UpstreamError as error:
                code = _code_of(error)
                raise
            finally:
                self._observe(UpstreamCalled(code, self._clock.monotonic() - began))
        return answer

    async def _call(self, query: AssetsQuery, request_id: str, key: VendorKey, timeout: float) -> _Answer:
        """Send one request and read its answer to the end, translating every way in which that can fail."""
        assert self._session is not None, "open() comes first"  # noqa: S101 - a mistake of ours, not of the vendor
        options = self._options
        headers = {
            "Authorization": f"Bearer {key.reveal()}" if options.auth_scheme == "bearer" else key.reveal(),
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "User-Agent": f"pixxel-gateway/{__version__}",
            "X-Request-Id": request_id,
        }
        url = URL(options.base_url + query.target, encoded=True)
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.get(url, headers=headers, allow_redirects=False, proxy=self._proxy) as response,
            ):
                limit = options.max_body_bytes if response.status == 200 else MAX_ENVELOPE_BYTES
                body = await _read(response, limit)
                return _Answer(response.status, response.headers, body)
        except aiohttp.ConnectionTimeoutError:
            raise _NoConnection("no connection in time") from None
        except TimeoutError:
            raise UpstreamTimeout("no complete answer in time") from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError, ssl.SSLError) as error:
            raise _NoTls(f"TLS failed: {type(error).__name__}") from None
        except (aiohttp.ClientConnectorError, aiohttp.ClientProxyConnectionError) as error:
            raise _NoConnection(f"no connection: {type(error).__name__}") from None
        except (aiohttp.ClientPayloadError, zlib.error) as error:
            raise _CutShort(f"the body is not whole: {type(error).__name__}", status=response.status) from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError) as error:
            raise UpstreamUnreachable(f"the connection was cut: {type(error).__name__}") from None
        except (aiohttp.ClientError, ValueError) as error:
            # repr() of aiohttp's errors holds the request's headers, our key among them: only the class is told.
            raise UpstreamBroken(f"not HTTP as we know it: {type(error).__name__}") from None


class _Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class _NoConnection(UpstreamUnreachable):
    """Nobody took the connection."""


class _NoTls(UpstreamUnreachable):
    """The connection was not safe."""


class _CutShort(UpstreamBroken):
    """The answer began and did not end, which may be chance."""


def _worth_another(outcome: _Answer | UpstreamError) -> str | None:
    """Why another attempt may fare better, as a label; None when it would not."""
    match outcome:
        case UpstreamTimeout() | UpstreamUnreachable() | _CutShort():
            return _code_of(outcome)
        # A 503 that names a time is a wish for a pause, not for another attempt.
        case _Answer() if outcome.status in RETRYABLE_STATUS and "Retry-After" not in outcome.headers:
            return str(outcome.status)
        case _:
            return None


def _code_of(error: UpstreamError) -> str:
    """The `code` label of `gateway_upstream_requests_total` for a failed attempt."""
    match error:
        case UpstreamTimeout():
            return "timeout"
        case _NoConnection():
            return "connect"
        case _NoTls():
            return "tls"
        case UpstreamUnreachable() | _CutShort():
            return "reset"
        case UpstreamTooLarge():
            return "too_large"
        case _:
            return "invalid"


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read and decode the body in bounded pieces, so that a small answer cannot become a large one unseen."""
    coding = ",".join(response.headers.getall("Content-Encoding", [])).strip().lower()
    if coding not in ("", "identity", "gzip"):
        raise UpstreamBroken("a content coding that we did not ask for", status=response.status)
    inflate = zlib.decompressobj(wbits=31) if coding == "gzip" else None
    pieces: list[bytes] = []
    size = 0
    async for raw in response.content.iter_chunked(_PIECE):
        data = raw
        while data:
            piece = data if inflate is None else inflate.decompress(data, _PIECE)
            data = b"" if inflate is None else inflate.unconsumed_tail
            if inflate is not None and inflate.unused_data:
                raise UpstreamBroken("bytes after the end of the gzip body", status=response.status)
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise UpstreamTooLarge(f"more than {limit} bytes", status=response.status)
    if inflate is not None and not inflate.eof:
        raise _CutShort("the gzip body has no end", status=response.status)
    return b"".join(pieces)
