"""Fills the cache of a running gateway: a client that pages through the listings it is given.

This file owns the way through a listing, the pace, and what counts as a failure. It refuses to know where ids and token
come from (`cli`) and what a person sees meanwhile (`progress`).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote

import aiohttp
from yarl import URL

from gateway import __version__
from gateway.app.admin_client import GatewayUnreachable, reason
from gateway.core.clock import Clock
from gateway.core.listing import InvalidListing, Listing, parse_listing
from gateway.upstream.classification import parse_retry_after

_REQUEST_TIMEOUT = 60.0
_CONNECT_TIMEOUT = 10.0
_MOST_BYTES = 64 * 1024 * 1024
_WAITS = 5
_RESTARTS = 3
_MOST_PAGES = 10_000  # of one listing: whatever total the vendor claims, this ends
# Of a comment that follows an id; "a#b" is no comment but a bad id, and must not be taken for "a".
_COMMENT = re.compile(r"(?:^|\s)#.*")


@dataclass
class WarmSummary:
    """What has been done so far. `failures` has a reason for each AOI that failed."""

    aois: int
    done: int = 0
    pages: int = 0
    hits: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


Watch = Callable[[WarmSummary], None]


class Pace:
    """Evenly spaced turns: slots of a timetable, which a pause moves on for everybody."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._interval = 1.0 / rate
        self._clock = clock
        self._next = clock.monotonic()

    async def turn(self) -> None:
        """Wait for the next free slot. One that nobody took is lost, so that a lull is followed by no burst."""
        now = self._clock.monotonic()
        slot = max(self._next, now)
        self._next = slot + self._interval
        if slot > now:
            await self._clock.sleep(slot - now)

    def pause(self, seconds: float) -> None:
        """Hand out no slot for so long."""
        self._next = max(self._next, self._clock.monotonic() + seconds)


async def warm(
    url: str,
    aoi_ids: Iterable[str],
    *,
    clock: Clock,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    limit: int = 100,
    concurrency: int = 4,
    rate: float = 20.0,
    watch: Watch = lambda _: None,
) -> WarmSummary:
    """Ask the gateway at `url` for every page of these AOIs, each once, in windows of `limit`.

    At most `concurrency` requests are in flight and `rate` start in a second. `watch` is called whenever something was
    done. Raises NotReached when no gateway answers at all.
    """
    unique = list(dict.fromkeys(aoi_ids))
    headers = {"Accept-Encoding": "gzip", "User-Agent": f"pixxel-gateway-warm/{__version__}"}
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, resolver=aiohttp.ThreadedResolver(), ssl=True if tls is None else tls),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers | ({} if token is None else {"Authorization": f"Bearer {token}"}),
        timeout=aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT, sock_connect=_CONNECT_TIMEOUT),
        trust_env=False,
    )
    async with session:
        this = _Round(
            session, url.rstrip("/"), limit=limit, pace=Pace(rate, clock), clock=clock, tally=WarmSummary(len(unique)),
            watch=watch,
        )  # fmt: skip
        return await this.run(unique, concurrency)


def ids_in(text: str) -> Iterator[str]:
    """The ids in a list of one per line. Blank lines and `#` comments are none."""
    for line in text.split("\n"):
        if kept := _COMMENT.sub("", line).strip():
            yield kept


class _Failed(Exception):
    """This AOI is not warm; the message says why."""


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class _Page(NamedTuple):
    listing: Listing
    generation: str
    hit: bool


class _Round:
    """One run of the command."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str,
        *, limit: int, pace: Pace, clock: Clock, tally: WarmSummary, watch: Watch,
    ) -> None:  # fmt: skip
        self._session = session
        self._url = url
        self._limit = limit
        self._pace = pace
        self._clock = clock
        self._tally = tally
        self._watch = watch
        self._began = clock.monotonic()
        self._reached = False

    async def run(self, aoi_ids: Sequence[str], concurrency: int) -> WarmSummary:
        waiting = iter(aoi_ids)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(aoi_ids))):
                    group.create_task(self._work(waiting))
        except ExceptionGroup as failed:  # one tells it as well as four
            raise failed.exceptions[0] from None
        self._tell()
        failures = self._tally.failures
        self._tally.failures = {aoi_id: failures[aoi_id] for aoi_id in aoi_ids if aoi_id in failures}
        return self._tally

    async def _work(self, waiting: Iterator[str]) -> None:
        """Take AOIs from the list that all workers share until there is none left."""
        for aoi_id in waiting:
            try:
                await self._aoi(aoi_id)
            except _Failed as failed:
                self._tally.failures[aoi_id] = str(failed)
            self._tally.done += 1
            self._tell()

    async def _aoi(self, aoi_id: str) -> None:
        for _ in range(1 + _RESTARTS):
            if await self._listing(aoi_id):
                return
        raise _Failed("the listing kept changing")

    async def _listing(self, aoi_id: str) -> bool:
        """Page through the listing; False when it changed on the way, so that the first pages are out of date."""
        offset = 0
        generation = None
        for _ in range(_MOST_PAGES):
            page = await self._page(aoi_id, offset)
            self._tally.pages += 1
            self._tally.hits += page.hit
            self._tell()
            if generation not in (None, page.generation):
                return False
            generation = page.generation
            # Not by what was asked for: the vendor may take a large limit for a smaller one.
            reached = offset + page.listing.limit
            if reached >= page.listing.total:
                return True
            if reached == offset or page.listing.count == 0:
                raise _Failed(f"the page at {offset} is empty, though the total is {page.listing.total}")
            offset = reached
        raise _Failed(f"the listing has more than {_MOST_PAGES} pages")

    async def _page(self, aoi_id: str, offset: int) -> _Page:
        # Dots are quoted too: what is between here and the gateway may take ".." for a way up.
        quoted = quote(aoi_id, safe="", errors="replace").replace(".", "%2E")
        target = f"/v0/aois/{quoted}/assets?offset={offset}&limit={self._limit}"
        for _ in range(1 + _WAITS):
            answer = await self._ask(target)
            if answer.status == 200:
                return _read(answer, aoi_id)
            wait = None
            if answer.status in (429, 503):
                wait = parse_retry_after(answer.headers.get("Retry-After", ""), self._clock.now())
            if wait is None:
                break
            self._pace.pause(wait)
        raise _Failed(reason(answer.status, answer.body))

    async def _ask(self, target: str) -> _Answer:
        await self._pace.turn()
        try:
            url = URL(self._url + target, encoded=True)
            async with self._session.get(url, allow_redirects=False) as response:
                self._reached = True
                return _Answer(response.status, response.headers, await _body(response))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Only the class is told: the words of some of aiohttp's errors hold the request's headers, token included.
            told = type(error).__name__
            if not self._reached:
                raise GatewayUnreachable(f"no gateway answers at {self._url}: {told}") from None
            raise _Failed(f"no whole answer: {told}") from None

    def _tell(self) -> None:
        self._tally.seconds = self._clock.monotonic() - self._began
        self._watch(self._tally)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _MOST_BYTES:
            raise _Failed(f"a page of more than {_MOST_BYTES} bytes")
    return bytes(body)


def _read(answer: _Answer, aoi_id: str) -> _Page:
    """Judge a 200. Raises _Failed when it leaves nothing in the cache that was not there before."""
    generation = answer.headers.get("X-Listing-Generation")
    # A list, to which caches on the way to here append themselves (RFC 9211, section 2).
    _, *told = answer.headers.get("Cache-Status", "").partition(",")[0].split("; ")
    if generation is None or not told:
        raise _Failed("200, and it does not look like this gateway")
    if "detail=stale-if-error" in told:
        raise _Failed("the vendor failed, and an old page was served (stale-if-error)")
    hit = told[0] == "hit"
    if not hit and "stored" not in told:
        raise _Failed(f"the gateway did not keep the page ({'; '.join(told)})")
    try:
        return _Page(parse_listing(answer.body, aoi_id), generation, hit)
    except InvalidListing as error:
        raise _Failed(f"not a page of a listing: {error}") from None
