"""Answer a request whose exact bytes were answered before (`server.replay`).

The bytes of a complete request that the real parser accepted, and that the real handlers answered with a fresh hit from
memory, mean the same when they arrive again at a clean boundary of a connection. They are not parsed: the same
response is sent, with current values of Age, Date, ttl and X-Request-Id. Ids that a client generates for each request
are ignored.

Not the page is remembered but how to answer with it. Whatever could change the response ends the memory. After an
invalidation of its token (`core.validity_token`) the page is looked up again, and if another one is found, the request
takes the normal path; so does one whose page is not fresh any more or whose team has no budget, and every request after
`forget` (a reload) and `close` (a drain). Nothing is awaited here, so nothing can change in the middle of a response.

From outside, both paths are indistinguishable: `tests/integration/fast_path/test_equivalence.py` compares them.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from aiohttp import web

from gateway.cache.handler import CacheHandler
from gateway.core.clock import Clock
from gateway.core.events import CacheResult, Emit, PagesReplayed, RequestServed, RequestsReplayed
from gateway.core.validity_token import ValidityToken, ValidityTokens
from gateway.http.fast_path.byte_cache import ByteCache
from gateway.http.fast_path.header_cache import AcceptedHeaders, HeaderCache, without_ids
from gateway.http.fast_path.prepared_response import PreparedResponse, template_of
from gateway.http.request_context import ClientNames, RequestIds
from gateway.http.responses import PIECE, PageResponse, PageSource
from gateway.storage.entry import Entry
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.aggregates import Aggregates

# What is remembered of a request besides its bytes, as the operating system sees it (tests/bench/memory.py).
_OVERHEAD = 2200
# Of the bytes that requests may take, those for header lines: a program sends the same ones for all its requests.
_HEADERS_SHARE = 1 / 4
_NO_IDS: list[bytes] = []
# How often the pages that were asked for are told to the store and the statistics, and how many of them at once.
_TELL_SECONDS = 1.0
_TOLD_AT_ONCE = 256
# A page that was looked ahead from is not looked ahead from again for so long, in seconds.
_AHEAD_SECONDS = 1.0


class Connection(Protocol):
    """What is needed of a connection: where to write, and the address of the peer."""

    transport: asyncio.Transport | None

    @property
    def client(self) -> str: ...  # noqa: D102 - as the class says


class ResponseCache:
    """What one listener remembers, within `max_bytes`.

    `taker` returns what counts a request of a team, None where requests are not counted.
    """

    def __init__(
        self,
        cache: CacheHandler,
        validity_tokens: ValidityTokens,
        *,
        max_bytes: int,
        taker: Callable[[str], Callable[[], bool] | None],
        clients: ClientNames,
        log: AccessLog | None,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._cache = cache
        self._prefetch = cache.prefetch
        self._validity_tokens = validity_tokens
        self._taker = taker
        self._clients = clients
        self._log = log
        self._clock = clock
        self._emit = emit
        self._ready: ByteCache[PreparedResponse] = ByteCache(int(max_bytes * (1 - _HEADERS_SHARE)), _OVERHEAD)
        self._tallies = ResponseCounters()
        self._touched: list[PreparedResponse] = []
        self._ids = RequestIds()
        self.headers = HeaderCache(int(max_bytes * _HEADERS_SHARE), clients)
        self._open = True
        self.turn = 0
        """Another one after each `forget`: what was asked before that is not remembered after it."""

    def answer(self, request: bytes, connection: Connection) -> bool:
        """Answer a request that came on a connection which stands between two requests; False if that takes longer."""
        prepared, ids = self._ready.get(request), _NO_IDS
        if prepared is None:
            alike, ids = without_ids(request)
            prepared = None if alike is request else self._ready.get(alike)
            if prepared is None:
                return False
        began, now, transport = self._clock.monotonic(), self._clock.now(), connection.transport
        entry = prepared.entry()
        if entry is None or transport is None or began > self._validity_tokens.until:
            return False
        if prepared.validity.broken and not self._still(prepared, entry):
            return False
        if not prepared.valid_from <= now < prepared.valid_until and not prepared.update_head(entry, now):
            return False
        if prepared.take_from_budget is not None and not prepared.take_from_budget():
            return False  # the long way waits for Redis, or refuses
        request_id = ids[0] if prepared.has_request_id else self._ids.next()
        if prepared.part == "nothing":
            transport.write(b"".join((prepared.before, request_id, prepared.after)))
        else:
            body = entry.body if prepared.part == "body" else entry.gzipped or b""
            if len(body) <= PIECE:
                transport.write(b"".join((prepared.before, request_id, prepared.after, body)))
            else:
                # Not writelines: that of asyncio in CPython before 3.12.9 and 3.13.2 never pauses writing
                # (CVE-2024-12254), so a slow client would not hold up what is written next.
                transport.write(b"".join((prepared.before, request_id, prepared.after)))
                transport.write(body)
        self._note(prepared, request_id, connection, began)
        return True

    def learn(self, received: bytes, turn: int, request: web.BaseRequest, reply: PageResponse) -> None:
        """Learn from a request that was parsed and answered with a page."""
        if self._open and turn == self.turn:
            self.offer(received, turn, self.headers.learn(received, request, reply.request), reply)

    def offer(self, received: bytes, turn: int, accepted: AcceptedHeaders | None, reply: PageResponse) -> None:
        """Remember how a request was answered, if it was seen before and may be answered so again."""
        alike, _ = without_ids(received)
        if not self._open or turn != self.turn or not self._ready.seen_again(alike) or accepted is None:
            return
        origin = reply.source
        if origin is None or origin.answer.result not in ("hit", "window") or origin.answer.tier != "memory":
            return  # a page that had to be brought from Redis may be one of more than memory has room for
        if accepted.secure and len(reply.payload) > PIECE:
            return  # TLS encrypts what is written at once, whole, and does not tell how much of it was not sent yet
        validity = self._validity_tokens.issue(origin.query.aoi_id)
        if self._cache.peek(origin.query) is origin.answer.entry:
            self._ready.put(alike, self._made(validity, accepted, reply, origin))

    def forget(self) -> None:
        """Teams, budgets or tokens are others now."""
        self.turn += 1
        self._ready.clear()
        self.headers.forget()

    def close(self) -> None:
        """Answer nothing any more."""
        self._open = False
        self.forget()

    def flush(self) -> None:
        """Tell how many requests were answered since this was called last."""
        for fact in self._tallies.drain():
            self._emit(fact)

    async def run(self) -> None:
        """Tell what was answered, and count the uses of its pages, until cancelled."""
        while True:
            await self._clock.sleep(_TELL_SECONDS)
            self.flush()
            touched, self._touched = self._touched, []
            for start in range(0, len(touched), _TOLD_AT_ONCE):
                by_aoi: Counter[str] = Counter()
                for prepared in touched[start : start + _TOLD_AT_ONCE]:
                    by_aoi[prepared.query.aoi_id] += prepared.requests
                    prepared.requests = 0
                    self._cache.touch(prepared.names)
                self._emit(PagesReplayed(by_aoi))
                await asyncio.sleep(0)  # requests come first

    def _still(self, prepared: PreparedResponse, entry: Entry) -> bool:
        """Whether the page would be answered with the same entry, now that something has changed."""
        validity = self._validity_tokens.issue(prepared.query.aoi_id)
        if self._cache.peek(prepared.query) is not entry:
            return False
        prepared.validity = validity
        return True

    def _note(self, prepared: PreparedResponse, request_id: bytes, connection: Connection, began: float) -> None:
        """Count, follow and log, as the long way does."""
        prepared.used = True
        if not prepared.requests:
            self._touched.append(prepared)
        prepared.requests += 1
        if self._prefetch.follow(prepared.trail) and began - prepared.prefetched_at >= _AHEAD_SECONDS:
            prepared.prefetched_at = began
            self._prefetch.prefetch(prepared.query, request_id.decode(), prepared.trail)
        duration = self._clock.monotonic() - began
        prepared.aggregates.add(prepared.body_bytes, duration)
        if prepared.line is not None:
            client = connection.client
            if prepared.forwarded is not None:
                client = self._clients.behind(client, prepared.forwarded)
            prepared.line.write(request_id, client, duration)

    def _made(
        self, validity: ValidityToken, accepted: AcceptedHeaders, reply: PageResponse, origin: PageSource
    ) -> PreparedResponse:
        query, entry, result = origin.query, origin.answer.entry, origin.answer.result
        team, method, body_bytes = accepted.request.team.name, accepted.request.method, len(reply.payload)
        served = RequestServed(
            "", "assets", method, team, "", query.aoi_id, reply.status, result, body_bytes, 0.0, None
        )
        return PreparedResponse(
            query=query,
            entry=weakref.ref(entry),
            part=origin.part,
            body_bytes=body_bytes,
            template=template_of(reply),
            has_request_id=accepted.has_request_id,
            forwarded=accepted.forwarded,
            validity=validity,
            take_from_budget=self._taker(team),
            names=self._cache.names(query, entry),
            trail=self._prefetch.trail(query, team),
            aggregates=self._tallies.of(method, team, reply.status, result),
            line=None if self._log is None else self._log.repeated(served),
        )


class ResponseCounters:
    """What one listener answered: by method, team, status and result, none of which a client makes up."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int, CacheResult], Aggregates] = {}

    def of(self, method: str, team: str, status: int, cache: CacheResult) -> Aggregates:
        """Where answers of this kind are counted, for good."""
        return self._tallies.setdefault((method, team, status, cache), Aggregates())

    def drain(self) -> Iterator[RequestsReplayed]:
        """What was counted since this was called last."""
        for kind, sums in self._tallies.items():
            body_bytes, seconds, buckets = sums.drain()
            if requests := sum(buckets):
                yield RequestsReplayed(*kind, requests, body_bytes, seconds, buckets)
