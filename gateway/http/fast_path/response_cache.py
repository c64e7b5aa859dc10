"""The short cut for a request whose exact bytes, but for ids made up for each, were answered before.

The bytes of a complete request that the real parser accepted, and that the real handlers answered with a fresh hit from
memory, mean the same when they come again on a connection that stands between two requests. So they need no parsing:
the answer that was given is given again, with its Age, Date, ttl and X-Request-Id as they are now.

What is remembered is not the page but how to answer with it. Whatever could change the answer ends the memory: a broken
seal (`core.seals`) has the page looked up again, and what that does not find as it was takes the long way; so does what
is not fresh any more, what a team's rate refuses, and everything after `forget` (a reload) and `close` (the end of
serving). Nothing is awaited here, so that nothing changes in the middle of an answer.

The long way and this one must not be told apart from outside: `tests/test_replay_property.py` compares them.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from aiohttp import web

from gateway.cache.handler import Cache
from gateway.core.clock import Clock
from gateway.core.events import CacheResult, Observe, PagesReplayed, RequestServed, RequestsReplayed
from gateway.core.validity_token import Seal, Seals
from gateway.http.fast_path.byte_cache import Remembered
from gateway.http.fast_path.header_cache import Familiar, FamiliarHeaders, without_ids
from gateway.http.fast_path.prepared_response import Ready, template_of
from gateway.http.request_context import ClientNames, RequestIds
from gateway.http.responses import PIECE, Origin, Reply
from gateway.storage.entry import Entry
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.aggregates import Sums

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


class Replays:
    """What one listener remembers, within `max_bytes`.

    `taker` returns what counts a request of a team, None where requests are not counted.
    """

    def __init__(
        self,
        cache: Cache,
        seals: Seals,
        *,
        max_bytes: int,
        taker: Callable[[str], Callable[[], bool] | None],
        clients: ClientNames,
        log: AccessLog | None,
        clock: Clock,
        observe: Observe,
    ) -> None:
        self._cache = cache
        self._prefetch = cache.prefetch
        self._seals = seals
        self._taker = taker
        self._clients = clients
        self._log = log
        self._clock = clock
        self._observe = observe
        self._ready: Remembered[Ready] = Remembered(int(max_bytes * (1 - _HEADERS_SHARE)), _OVERHEAD)
        self._tallies = Tallies()
        self._touched: list[Ready] = []
        self._ids = RequestIds()
        self.headers = FamiliarHeaders(int(max_bytes * _HEADERS_SHARE), clients)
        self._open = True
        self.turn = 0
        """Another one after each `forget`: what was asked before that is not remembered after it."""

    def answer(self, request: bytes, connection: Connection) -> bool:
        """Answer a request that came on a connection which stands between two requests; False if that takes longer."""
        ready, ids = self._ready.get(request), _NO_IDS
        if ready is None:
            alike, ids = without_ids(request)
            ready = None if alike is request else self._ready.get(alike)
            if ready is None:
                return False
        began, now, transport = self._clock.monotonic(), self._clock.now(), connection.transport
        entry = ready.entry()
        if entry is None or transport is None or began > self._seals.until:
            return False
        if ready.seal.broken and not self._still(ready, entry):
            return False
        if not ready.shown_from <= now < ready.shown_until and not ready.show(entry, now):
            return False
        if ready.take is not None and not ready.take():
            return False  # the long way waits for Redis, or refuses
        request_id = ids[0] if ready.names_itself else self._ids.next()
        if ready.part == "nothing":
            transport.write(b"".join((ready.before, request_id, ready.after)))
        else:
            body = entry.body if ready.part == "body" else entry.gzipped or b""
            if len(body) <= PIECE:
                transport.write(b"".join((ready.before, request_id, ready.after, body)))
            else:
                # Not writelines: that of asyncio in CPython before 3.12.9 and 3.13.2 never pauses writing
                # (CVE-2024-12254), so a slow client would not hold up what is written next.
                transport.write(b"".join((ready.before, request_id, ready.after)))
                transport.write(body)
        self._note(ready, request_id, connection, began)
        return True

    def learn(self, received: bytes, turn: int, request: web.BaseRequest, reply: Reply) -> None:
        """Learn from a request that was parsed and answered with a page."""
        if self._open and turn == self.turn:
            self.offer(received, turn, self.headers.learn(received, request, reply.asking), reply)

    def offer(self, received: bytes, turn: int, familiar: Familiar | None, reply: Reply) -> None:
        """Remember how a request was answered, if it was seen before and may be answered so again."""
        alike, _ = without_ids(received)
        if not self._open or turn != self.turn or not self._ready.seen_again(alike) or familiar is None:
            return
        origin = reply.origin
        if origin is None or origin.answer.result not in ("hit", "window") or origin.answer.tier != "memory":
            return  # a page that had to be brought from Redis may be one of more than memory has room for
        if familiar.secure and len(reply.sent) > PIECE:
            return  # TLS encrypts what is written at once, whole, and does not tell how much of it was not sent yet
        seal = self._seals.take(origin.query.aoi_id)
        if self._cache.at_hand(origin.query) is origin.answer.entry:
            self._ready.put(alike, self._made(seal, familiar, reply, origin))

    def forget(self) -> None:
        """Teams, budgets or tokens are others now."""
        self.turn += 1
        self._ready.clear()
        self.headers.forget()

    def close(self) -> None:
        """Answer nothing any more."""
        self._open = False
        self.forget()

    def tell(self) -> None:
        """Tell how many requests were answered since this was called last."""
        for fact in self._tallies.told():
            self._observe(fact)

    async def run(self) -> None:
        """Tell what was answered, and count the uses of its pages, until cancelled."""
        while True:
            await self._clock.sleep(_TELL_SECONDS)
            self.tell()
            touched, self._touched = self._touched, []
            for start in range(0, len(touched), _TOLD_AT_ONCE):
                by_aoi: Counter[str] = Counter()
                for ready in touched[start : start + _TOLD_AT_ONCE]:
                    by_aoi[ready.query.aoi_id] += ready.requests
                    ready.requests = 0
                    self._cache.use(ready.names)
                self._observe(PagesReplayed(by_aoi))
                await asyncio.sleep(0)  # requests come first

    def _still(self, ready: Ready, entry: Entry) -> bool:
        """Whether the page would be answered with the same entry, now that something has changed."""
        seal = self._seals.take(ready.query.aoi_id)
        if self._cache.at_hand(ready.query) is not entry:
            return False
        ready.seal = seal
        return True

    def _note(self, ready: Ready, request_id: bytes, connection: Connection, began: float) -> None:
        """Count, follow and log, as the long way does."""
        ready.used = True
        if not ready.requests:
            self._touched.append(ready)
        ready.requests += 1
        if self._prefetch.follow(ready.trail) and began - ready.ahead_at >= _AHEAD_SECONDS:
            ready.ahead_at = began
            self._prefetch.look_ahead(ready.query, request_id.decode(), ready.trail)
        duration = self._clock.monotonic() - began
        ready.tally.count(ready.body_bytes, duration)
        if ready.line is not None:
            client = connection.client
            if ready.forwarded is not None:
                client = self._clients.behind(client, ready.forwarded)
            ready.line.write(request_id, client, duration)

    def _made(self, seal: Seal, familiar: Familiar, reply: Reply, origin: Origin) -> Ready:
        query, entry, result = origin.query, origin.answer.entry, origin.answer.result
        team, method, body_bytes = familiar.asking.team.name, familiar.asking.method, len(reply.sent)
        served = RequestServed(
            "", "assets", method, team, "", query.aoi_id, reply.status, result, body_bytes, 0.0, None
        )
        return Ready(
            query=query,
            entry=weakref.ref(entry),
            part=origin.part,
            body_bytes=body_bytes,
            template=template_of(reply),
            names_itself=familiar.names_itself,
            forwarded=familiar.forwarded,
            seal=seal,
            take=self._taker(team),
            names=self._cache.names(query, entry),
            trail=self._prefetch.trail(query, team),
            tally=self._tallies.of(method, team, reply.status, result),
            line=None if self._log is None else self._log.repeated(served),
        )


class Tallies:
    """What one listener answered: by method, team, status and result, none of which a client makes up."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int, CacheResult], Sums] = {}

    def of(self, method: str, team: str, status: int, cache: CacheResult) -> Sums:
        """Where answers of this kind are counted, for good."""
        return self._tallies.setdefault((method, team, status, cache), Sums())

    def told(self) -> Iterator[RequestsReplayed]:
        """What was counted since this was called last."""
        for kind, sums in self._tallies.items():
            body_bytes, seconds, buckets = sums.taken()
            if requests := sum(buckets):
                yield RequestsReplayed(*kind, requests, body_bytes, seconds, buckets)
