"""Call the vendor: key, attempts, deadline, concurrency, and the response read to its end.

`classification` says what a response means, and `retry` whether another attempt is made.

Several conveniences of aiohttp's client are switched off because of the key: redirects would carry it along, the cookie
jar would replay cookies, and bodies would be decompressed without a limit. `exchange` sends a request again only where
that is safe, and `connection_pool` reuses a connection only where no other response can be on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, NamedTuple

import aiohttp

from gateway import __version__
from gateway.config.options import UpstreamOptions
from gateway.core.cache_control import VendorCaching, vendor_caching
from gateway.core.clock import Clock
from gateway.core.errors import (
    LimitReached,
    UpstreamCircuitOpen,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefusedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.core.events import Emit, KeyRefused, UpstreamRetried
from gateway.core.query import AssetsQuery
from gateway.upstream.body import TruncatedBody
from gateway.upstream.classification import FetchedPage, classify, requested_pause
from gateway.upstream.connection_pool import VendorConnector
from gateway.upstream.exchange import (
    MAX_HEADERS,
    MAX_LINE_BYTES,
    UpstreamExchange,
    UpstreamResponse,
    code_of,
    send_once,
)
from gateway.upstream.guard import UpstreamGuard
from gateway.upstream.keys import KeyRing, VendorKey
from gateway.upstream.resolver import Resolver
from gateway.upstream.retry import RETRYABLE_STATUS, RetryBudget, backoff
from gateway.upstream.tls import upstream_tls

# What the guard says instead of asking.
_NOT_ASKED = (UpstreamCircuitOpen, UpstreamOverloaded, UpstreamRateLimited, UpstreamRefusedKey)


def client_session(
    options: UpstreamOptions, resolver: Resolver, connector: aiohttp.TCPConnector | None = None
) -> aiohttp.ClientSession:
    """Make a session to talk to the vendor with; without a connector each request has a connection of its own.

    Raises OSError or ssl.SSLError when `upstream.ca_file` cannot be read.
    """
    if connector is None:
        tls = upstream_tls(options.ca_file)
        connector = aiohttp.TCPConnector(limit=0, force_close=True, resolver=resolver, ssl=tls)
    return aiohttp.ClientSession(
        connector=connector,
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


class UpstreamClient:
    """The vendor. `open` before the first fetch, `close` after the last. `charge` charges retries (`Budgets.miss`)."""

    def __init__(
        self,
        options: UpstreamOptions,
        keys: KeyRing,
        guard: UpstreamGuard,
        *,
        clock: Clock,
        charge: Callable[[str], Awaitable[None]],
        chance: Callable[[], float],
        emit: Emit,
    ) -> None:
        self._charge = charge
        self._options = options
        self._keys = keys
        self._clock = clock
        self._chance = chance
        self._emit = emit
        self._budget = RetryBudget(options.retry_ratio)
        self._guard = guard
        self._session: aiohttp.ClientSession | None = None
        self._sender: UpstreamExchange | None = None
        self._resolver: Resolver | None = None

    async def open(self) -> None:
        """Make the client session. Raises OSError or ssl.SSLError when `upstream.ca_file` cannot be read."""
        options, clock, emit = self._options, self._clock, self._emit
        self._resolver = Resolver()
        connector = VendorConnector(
            options,
            tls=upstream_tls(options.ca_file),
            resolver=self._resolver,
            monotonic=clock.monotonic,
            emit=emit,
        )
        self._session = client_session(options, self._resolver, connector)
        self._sender = UpstreamExchange(self._session, connector, options, clock=clock, emit=emit)

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    def abandon_lookups(self) -> None:
        """End DNS look-ups that hang: the requests that wait for them must not delay the end of the gateway."""
        if self._resolver is not None:
            self._resolver.abandon_lookups()

    def check(self, query: AssetsQuery) -> None:
        """Raise the UpstreamError that is certain to come of a fetch now, because the vendor may not be asked."""
        self._guard.check(query.aoi_id, self._keys.in_order())

    async def fetch(self, query: AssetsQuery, request_id: str, deadline: float, team: str) -> FetchedPage:
        """Fetch one page from the vendor for a team that has paid for one request; `deadline` is monotonic time.

        Raises UpstreamError when the vendor failed, UpstreamRefusal when it refused the query.
        """
        started = self._clock.now()
        answer = await self._with_either_key(query, request_id, deadline, team)
        arrived = self._clock.now()
        try:
            body, listing = classify(
                answer.status, answer.headers, answer.body,
                aoi_id=query.aoi_id, now=arrived, holds_key=self._keys.is_in,
                redact=self._keys.redact_json,
            )  # fmt: skip
        except UpstreamError as error:
            del answer
            raise _bare(error) from None
        respected = self._options.cache_control == "respect"
        caching = vendor_caching(answer.headers, arrived)
        return FetchedPage(
            status=answer.status,
            body=body,
            listing=listing,
            caching=caching if respected else VendorCaching(age=caching.age),
            started=started,
            arrived=arrived,
        )

    async def _with_either_key(
        self, query: AssetsQuery, request_id: str, deadline: float, team: str
    ) -> UpstreamResponse:
        """Ask with the current key and, if that one is refused, once with the previous one."""
        keys = self._keys.in_order()
        begun = self._guard.begin(query.aoi_id, keys)
        statuses: tuple[int, ...] = ()
        for key in keys:
            if statuses:  # without the previous key every page would fail, whatever budget is left
                with suppress(LimitReached):
                    await self._charge(team)
            fetch = _Fetch(query, request_id, deadline, team, keys, begun)
            answer = await self._with_retries(fetch, key)
            if answer.status not in (401, 403):
                self._guard.key_accepted(query.aoi_id, keys)
                return answer
            self._emit(KeyRefused(answer.status))
            statuses += (answer.status,)
        self._guard.key_rejected(query.aoi_id, keys, statuses)
        if self._keys.in_order() != keys:  # they were replaced while the vendor was asked
            return await self._with_either_key(query, request_id, deadline, team)
        raise UpstreamRefusedKey("the vendor refused our key", status=statuses[-1])

    async def _with_retries(self, fetch: _Fetch, key: VendorKey) -> UpstreamResponse:
        attempt = 1
        outcome = await self._outcome(fetch, key, after=None)
        while attempt < self._options.max_attempts and (reason := _worth_another(outcome)) is not None:
            left = fetch.deadline - self._clock.monotonic()
            if left <= 0 or not self._budget.take() or not await self._may_ask_again(fetch):
                break
            await self._clock.sleep(min(backoff(attempt, self._chance()), left))
            again = await self._outcome(fetch, key, after=reason)
            if isinstance(again, _NOT_ASKED):
                break  # what the vendor said tells more
            self._emit(UpstreamRetried(reason))
            outcome = again
            attempt += 1
        if isinstance(outcome, UpstreamError):
            raise outcome
        return outcome

    async def _may_ask_again(self, fetch: _Fetch) -> bool:
        """Whether another request may be sent; it is charged to the team if so."""
        try:
            self._guard.check(fetch.query.aoi_id, fetch.keys)
            await self._charge(fetch.team)
        except (UpstreamError, LimitReached):
            return False
        return True

    async def _outcome(self, fetch: _Fetch, key: VendorKey, *, after: str | None) -> UpstreamResponse | UpstreamError:
        try:
            return await self._attempt(fetch, key, after=after)
        except UpstreamError as error:
            return _bare(error)

    async def _attempt(self, fetch: _Fetch, key: VendorKey, *, after: str | None) -> UpstreamResponse:
        left = fetch.deadline - self._clock.monotonic()
        async with self._guard.admit(fetch.query.aoi_id, fetch.keys, fetch.begun, left, fetch.team) as call:
            if after is None:
                self._budget.called()
            assert self._sender is not None, "open() comes first"  # noqa: S101 - a mistake of ours, not of the vendor
            limit = min(fetch.deadline - self._clock.monotonic(), self._options.attempt_timeout)
            headers = request_headers(key, self._options.auth_scheme, fetch.request_id)
            # Where one connection failed, the others that are kept may be dead, too.
            fresh = after in ("timeout", "reset")
            try:
                answer = await self._sender.send(fetch.query, headers, limit, fetch.team, fresh=fresh)
                call.pause = requested_pause(answer.status, answer.headers, self._clock.now())
                call.succeeded = call.pause is not None or answer.status not in RETRYABLE_STATUS
            except UpstreamError as error:
                # Nonsense in time is an answer; silence, and answers that are cut, are none.
                call.succeeded = not isinstance(error, UpstreamTimeout | UpstreamUnreachable | TruncatedBody)
                raise
        return answer


class _Fetch(NamedTuple):
    """One fetch: query, deadline, request id, team and keys, and the result of `UpstreamGuard.begin`."""

    query: AssetsQuery
    request_id: str
    deadline: float
    team: str
    keys: tuple[VendorKey, ...]
    begun: int


def _bare(error: UpstreamError) -> UpstreamError:
    """The error without the frames that it came through, which hold the body until the garbage collector comes."""
    error.__context__ = None
    return error.with_traceback(None)


def _worth_another(outcome: UpstreamResponse | UpstreamError) -> str | None:
    """Why another attempt may fare better, as a label; None when it would not."""
    match outcome:
        case UpstreamTimeout() | UpstreamUnreachable() | TruncatedBody():
            return code_of(outcome)
        # A 503 that names a time is a wish for a pause, not for another attempt.
        case UpstreamResponse() if outcome.status in RETRYABLE_STATUS and "Retry-After" not in outcome.headers:
            return str(outcome.status)
        case _:
            return None
