"""One call out: key, attempts, deadline, places, and the vendor's answer read to its end.

This file owns the conversation with the vendor. What an answer means is `core.vendor_answer`, what is worth another
attempt `core.retry`; what becomes of the result is the cache's business.

aiohttp's own conveniences are switched off one by one, because each would do something with our key that nobody asked
for: redirects carry it along, the cookie jar replays cookies, a request whose connection was cut is sent again (see
`sending`), a reused connection may hold an answer to somebody else's question (so every call has its own), bodies are
inflated without a bound.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, NamedTuple

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from gateway import __version__
from gateway.bodies import CutShort, read_body
from gateway.clock import Clock
from gateway.core.admission import Fetched
from gateway.core.cache_control import VendorCaching, vendor_caching
from gateway.core.errors import (
    LimitReached,
    UpstreamBroken,
    UpstreamCircuitOpen,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
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
from gateway.core.vendor_answer import read_answer, wished_pause
from gateway.gate import Gate
from gateway.keys import KeyRing, VendorKey
from gateway.resolver import Resolver
from gateway.sending import MAX_HEADERS, MAX_LINE_BYTES, NoConnection, NoTls, send_once, unreachable
from gateway.upstream_tls import upstream_tls

# What the gate says instead of asking.
_NOT_ASKED = (UpstreamCircuitOpen, UpstreamOverloaded, UpstreamRateLimited, UpstreamRefusedKey)


def client_session(options: UpstreamOptions, resolver: Resolver) -> aiohttp.ClientSession:
    """A session to talk to the vendor with. Raises OSError or ssl.SSLError when `upstream.ca_file` cannot be read."""
    tls = upstream_tls(options.ca_file)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=resolver, ssl=tls),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        middlewares=(send_once,),
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
        max_headers=MAX_HEADERS,
        timeout=aiohttp.ClientTimeout(total=None, connect=options.connect_timeout),
    )


def request_headers(key: VendorKey, scheme: Literal["raw", "bearer"], request_id: str) -> dict[str, str]:
    """Every header of a request, and nothing that a client sent but its request's id."""
    return {
        "Authorization": f"Bearer {key.reveal()}" if scheme == "bearer" else key.reveal(),
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "User-Agent": f"pixxel-gateway/{__version__}",
        "X-Request-Id": request_id,
    }


class Upstream:
    """The vendor. `open` before the first fetch, `close` after the last. `charge` charges retries (`Budgets.miss`)."""

    def __init__(
        self,
        options: UpstreamOptions,
        keys: KeyRing,
        gate: Gate,
        *,
        clock: Clock,
        charge: Callable[[str], Awaitable[None]],
        chance: Callable[[], float],
        observe: Observe,
    ) -> None:
        self._charge = charge
        self._options = options
        self._keys = keys
        self._clock = clock
        self._chance = chance
        self._observe = observe
        self._budget = RetryBudget(options.retry_ratio)
        self._gate = gate
        self._proxy = None if options.proxy is None else options.proxy.get_secret_value()
        self._session: aiohttp.ClientSession | None = None
        self._resolver: Resolver | None = None

    async def open(self) -> None:
        """Make the client session. Raises OSError or ssl.SSLError when `upstream.ca_file` cannot be read."""
        self._resolver = Resolver()
        self._session = client_session(self._options, self._resolver)

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    def give_up_look_ups(self) -> None:
        """End DNS look-ups that hang: the requests that wait for them must not delay the end of the gateway."""
        if self._resolver is not None:
            self._resolver.give_up_soon()

    def check(self, query: AssetsQuery) -> None:
        """Raise the UpstreamError that is certain to come of a fetch now, because the vendor may not be asked."""
        self._gate.check(query.aoi_id, self._keys.in_order())

    async def fetch(self, query: AssetsQuery, request_id: str, deadline: float, team: str) -> Fetched:
        """Fetch one page from the vendor for a team that has paid for one request; `deadline` is monotonic time.

        Raises UpstreamError when the vendor failed, UpstreamRefusal when it refused the query.
        """
        started = self._clock.now()
        answer = await self._with_either_key(query, request_id, deadline, team)
        arrived = self._clock.now()
        try:
            body, listing = read_answer(
                answer.status, answer.headers, answer.body,
                aoi_id=query.aoi_id, now=arrived, holds_key=self._keys.stands_in,
                redact=self._keys.redact,
            )  # fmt: skip
        except UpstreamError as error:
            del answer
            raise _bare(error) from None
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

    async def _with_either_key(self, query: AssetsQuery, request_id: str, deadline: float, team: str) -> _Answer:
        """Ask with the current key and, if that one is refused, once with the previous one."""
        keys = self._keys.in_order()
        begun = self._gate.begin(query.aoi_id, keys)
        statuses: tuple[int, ...] = ()
        for key in keys:
            if statuses:  # without the previous key every page would fail, whatever budget is left
                with suppress(LimitReached):
                    await self._charge(team)
            fetch = _Fetch(query, request_id, deadline, team, keys, begun)
            answer = await self._with_retries(fetch, key)
            if answer.status not in (401, 403):
                self._gate.accepted(query.aoi_id, keys)
                return answer
            self._observe(KeyRefused(answer.status))
            statuses += (answer.status,)
        self._gate.refused(query.aoi_id, keys, statuses)
        if self._keys.in_order() != keys:  # they were replaced while the vendor was asked
            return await self._with_either_key(query, request_id, deadline, team)
        raise UpstreamRefusedKey("the vendor refused our key", status=statuses[-1])

    async def _with_retries(self, fetch: _Fetch, key: VendorKey) -> _Answer:
        attempt = 1
        outcome = await self._outcome(fetch, key, again=False)
        while attempt < self._options.max_attempts and (reason := _worth_another(outcome)) is not None:
            left = fetch.deadline - self._clock.monotonic()
            if left <= 0 or not self._budget.take() or not await self._may_ask_again(fetch):
                break
            await self._clock.sleep(min(backoff(attempt, self._chance()), left))
            again = await self._outcome(fetch, key, again=True)
            if isinstance(again, _NOT_ASKED):
                break  # what the vendor said tells more
            self._observe(UpstreamRetried(reason))
            outcome = again
            attempt += 1
        if isinstance(outcome, UpstreamError):
            raise outcome
        return outcome

    async def _may_ask_again(self, fetch: _Fetch) -> bool:
        """Whether another request may be sent; it is charged to the team if so."""
        try:
            self._gate.check(fetch.query.aoi_id, fetch.keys)
            await self._charge(fetch.team)
        except (UpstreamError, LimitReached):
            return False
        return True

    async def _outcome(self, fetch: _Fetch, key: VendorKey, *, again: bool) -> _Answer | UpstreamError:
        try:
            return await self._attempt(fetch, key, again=again)
        except UpstreamError as error:
            return _bare(error)

    async def _attempt(self, fetch: _Fetch, key: VendorKey, *, again: bool) -> _Answer:
        left = fetch.deadline - self._clock.monotonic()
        async with self._gate.enter(fetch.query.aoi_id, fetch.keys, fetch.begun, left, fetch.team) as call:
            if not again:
                self._budget.called()
            began = self._clock.monotonic()
            code = "reset"
            try:
                limit = min(fetch.deadline - began, self._options.attempt_timeout)
                answer = await self._call(fetch.query, fetch.request_id, key, limit)
                code = str(answer.status) if 100 <= answer.status <= 599 else "invalid"
                call.pause = wished_pause(answer.status, answer.headers, self._clock.now())
                call.well = call.pause is not None or answer.status not in RETRYABLE_STATUS
            except UpstreamError as error:
                code = _code_of(error)
                # Nonsense in time is an answer; silence, and answers that are cut, are none.
                call.well = not isinstance(error, UpstreamTimeout | UpstreamUnreachable | CutShort)
                raise
            finally:
                self._observe(UpstreamCalled(code, self._clock.monotonic() - began, fetch.team))
        return answer

    async def _call(self, query: AssetsQuery, request_id: str, key: VendorKey, timeout: float) -> _Answer:
        """Send one request and read its answer to the end, translating every way in which that can fail."""
        assert self._session is not None, "open() comes first"  # noqa: S101 - a mistake of ours, not of the vendor
        options = self._options
        headers = request_headers(key, options.auth_scheme, request_id)
        url = URL(options.base_url + query.target, encoded=True)
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.get(url, headers=headers, allow_redirects=False, proxy=self._proxy) as response,
            ):
                limit = options.max_body_bytes if response.status == 200 else MAX_ENVELOPE_BYTES
                body = await read_body(response, limit)
                return _Answer(response.status, response.headers, body)
        except aiohttp.ConnectionTimeoutError:
            raise NoConnection("no connection in time") from None
        except TimeoutError:
            raise UpstreamTimeout("no complete answer in time") from None
        except (aiohttp.ClientPayloadError, zlib.error) as error:
            raise CutShort(f"the body is not whole: {type(error).__name__}", status=response.status) from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError, ssl.SSLError) as error:
            raise unreachable(error) from None
        except (aiohttp.ClientError, ValueError) as error:
            # repr() of aiohttp's errors holds the request's headers, our key among them: only the class is told.
            raise UpstreamBroken(f"not HTTP as we know it: {type(error).__name__}") from None


class _Fetch(NamedTuple):
    """One fetch: what is asked for, until when, for whom, with which keys, and under what `Gate.begin` gave."""

    query: AssetsQuery
    request_id: str
    deadline: float
    team: str
    keys: tuple[VendorKey, ...]
    begun: int


class _Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


def _bare(error: UpstreamError) -> UpstreamError:
    """The error without the frames that it came through, which hold the body until the garbage collector comes."""
    error.__context__ = None
    return error.with_traceback(None)


def _worth_another(outcome: _Answer | UpstreamError) -> str | None:
    """Why another attempt may fare better, as a label; None when it would not."""
    match outcome:
        case UpstreamTimeout() | UpstreamUnreachable() | CutShort():
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
        case NoConnection():
            return "connect"
        case NoTls():
            return "tls"
        case UpstreamUnreachable() | CutShort():
            return "reset"
        case UpstreamTooLarge():
            return "too_large"
        case _:
            return "invalid"
