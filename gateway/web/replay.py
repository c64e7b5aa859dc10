"""The short cut for a request whose exact bytes were answered before.

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
from collections.abc import Callable
from typing import Protocol

from aiohttp import EMPTY_PAYLOAD, HttpVersion11, web

from gateway.cache import Cache
from gateway.clock import Clock
from gateway.core.entry import Entry
from gateway.core.facts import Observe, PagesReplayed, RequestServed
from gateway.core.seals import Seal, Seals
from gateway.web.access_log import AccessLog
from gateway.web.exchange import ClientNames, RequestIds
from gateway.web.ready import Origin, Ready, template_of
from gateway.web.tally import Tallies

# A request that is longer than this is answered the long way: it is not what programs send again and again.
_MOST_REQUEST_BYTES = 4096
# What is remembered of a request besides its bytes, as the operating system sees it (tests/bench/memory.py).
_OVERHEAD = 2200
# So many requests are known to have been seen once, and as many from before.
_MOST_SEEN = 16_384
# More of a body than this is not copied next to its head.
_COPIED_BYTES = 65_536
# How often the pages that were asked for are told to the store and the statistics, and how many of them at once.
_TELL_SECONDS = 1.0
_TOLD_AT_ONCE = 256
# A page that was looked ahead from is not looked ahead from again for so long, in seconds.
_AHEAD_SECONDS = 1.0

_HEAD_END = b"\r\n\r\n"
_STARTS = (b"GET /v0/aois/", b"HEAD /v0/aois/")
# A request with one of these is judged anew each time.
_NEVER = (
    "Cache-Control", "Pragma", "Connection", "X-Explain", "Expect", "Content-Length", "Transfer-Encoding", "Upgrade",
)  # fmt: skip


class Connection(Protocol):
    """What is needed of a connection: where to write, and the address of the peer."""

    transport: asyncio.Transport | None

    @property
    def client(self) -> str: ...  # noqa: D102 - as the class says


class Replays:
    """What one listener remembers, within `max_bytes`.

    `taker` gives what takes of a team's budget, None where requests are not counted.
    """

    def __init__(
        self,
        cache: Cache,
        seals: Seals,
        *,
        max_bytes: int,
        taker: Callable[[str], Callable[[], float | None] | None],
        clients: ClientNames,
        log: AccessLog | None,
        clock: Clock,
        observe: Observe,
    ) -> None:
        self._cache = cache
        self._prefetch = cache.prefetch
        self._seals = seals
        self._max_bytes = max_bytes
        self._taker = taker
        self._clients = clients
        self._log = log
        self._clock = clock
        self._observe = observe
        self._ready: dict[bytes, Ready] = {}
        self._size = 0
        self._seen: set[int] = set()
        self._seen_before: set[int] = set()
        self._tallies = Tallies()
        self._touched: list[Ready] = []
        self._ids = RequestIds()
        self._open = True
        self.turn = 0
        """Another one after each `forget`: what was asked before that is not remembered after it."""

    def answer(self, request: bytes, connection: Connection) -> bool:
        """Answer a request that came on a connection which stands between two requests; False if that takes longer.

        Bytes are compared as they are: who has them all has the token in them, and how long a look into a table of
        keyed hashes takes tells nothing of a token to who has not.
        """
        ready = self._ready.get(request)
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
        if ready.take is not None and ready.take() is not None:
            return False  # the long way will find the same, and tell the client
        request_id = ready.request_id or self._ids.next()
        if ready.part == "nothing":
            transport.write(b"".join((ready.before, request_id, ready.after)))
        else:
            body = entry.body if ready.part == "body" else entry.gzipped or b""
            if len(body) <= _COPIED_BYTES:
                transport.write(b"".join((ready.before, request_id, ready.after, body)))
            else:
                transport.writelines((ready.before, request_id, ready.after, body))
        self._note(ready, request_id, connection, began)
        return True

    @staticmethod
    def may_remember(request: bytes) -> bool:
        """Whether these bytes, received between two requests, are one complete request that is worth a look."""
        return (
            len(request) <= _MOST_REQUEST_BYTES
            and request.startswith(_STARTS)
            and request.find(_HEAD_END) == len(request) - len(_HEAD_END)
        )

    def offer(
        self, received: bytes, turn: int, request: web.BaseRequest, response: web.Response, origin: Origin
    ) -> None:
        """Remember how a request was answered, if it was seen before and may be answered so again."""
        if not self._open or turn != self.turn:
            return
        message = request._message  # noqa: SLF001 - BaseRequest does not tell whether it closes the connection
        if message.version != HttpVersion11 or message.should_close or request.content is not EMPTY_PAYLOAD:
            return
        if any(name in request.headers for name in _NEVER) or not self._seen_again(received):
            return
        if origin.answer.result not in ("hit", "window"):
            return
        if request.secure and _body_bytes(origin) > _COPIED_BYTES:
            return  # TLS encrypts what is written at once, whole, and does not tell how much of it was not sent yet
        seal = self._seals.take(origin.query.aoi_id)
        if self._cache.at_hand(origin.query) is origin.answer.entry:
            self._remember(self._made(received, seal, request, response, origin))

    def forget(self) -> None:
        """Teams, budgets or tokens are others now."""
        self.turn += 1
        self._ready.clear()
        self._size = 0

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

    def _made(
        self, received: bytes, seal: Seal, request: web.BaseRequest, response: web.Response, origin: Origin
    ) -> Ready:
        query, team, entry, result = origin.query, origin.team, origin.answer.entry, origin.answer.result
        body_bytes = _body_bytes(origin)
        request_id = response.headers["X-Request-Id"]
        served = RequestServed(
            request_id, "assets", request.method, team, "", query.aoi_id, response.status, result, body_bytes, 0.0, None
        )
        return Ready(
            request=received,
            query=query,
            entry=weakref.ref(entry),
            part=origin.part,
            body_bytes=body_bytes,
            template=template_of(response),
            request_id=request_id.encode() if request.headers.get("X-Request-Id") == request_id else None,
            forwarded=self._clients.forwarded(request),
            seal=seal,
            take=self._taker(team),
            names=self._cache.names(query, entry),
            trail=self._prefetch.trail(query, team),
            tally=self._tallies.of(request.method, team, response.status, result),
            line=None if self._log is None else self._log.repeated(served),
        )

    def _seen_again(self, received: bytes) -> bool:
        """Whether it was seen before: ids that clients make up for each request must not flush the table."""
        seen = hash(received)
        if seen in self._seen or seen in self._seen_before:
            return True
        if len(self._seen) >= _MOST_SEEN:
            self._seen_before, self._seen = self._seen, set()
        self._seen.add(seen)
        return False

    def _remember(self, ready: Ready) -> None:
        """Hold it, and let go of those that were not used of late (CLOCK, as it is told of virtual memory)."""
        if self._ready.pop(ready.request, None) is None:
            self._size += len(ready.request) + _OVERHEAD
        self._ready[ready.request] = ready
        while self._size > self._max_bytes:
            oldest, candidate = next(iter(self._ready.items()))
            del self._ready[oldest]
            if candidate.used:
                candidate.used = False
                self._ready[oldest] = candidate
            else:
                self._size -= len(oldest) + _OVERHEAD


def _body_bytes(origin: Origin) -> int:
    entry = origin.answer.entry
    return {"body": len(entry.body), "gzipped": len(entry.gzipped or b""), "nothing": 0}[origin.part]
