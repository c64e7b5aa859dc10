"""One fetch per page over all replicas.

Whoever sets the lease of a page fetches it; the others wait until they are told that it landed, or until the lease runs
out because its holder died. A lease is a key with the owner's token that expires after three seconds and is renewed
every second, so a live holder keeps it however slow the vendor is (Redis documentation, "Distributed locks with Redis":
one instance is enough here, for two holders cost a vendor call and not correctness; the stores order what they keep).

With Redis down there are no leases, and each replica fetches for itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from gateway.core import errors
from gateway.core.clock import Clock
from gateway.core.errors import StoreDown, UpstreamError, UpstreamRefusal
from gateway.core.listing import parse_envelope, render_envelope

LEASE_SECONDS = 3.0
_LEASE_MS = int(LEASE_SECONDS * 1000)
_RENEW_SECONDS = 1.0
# A message may be lost with its connection. Polling is the net under it, and no more.
_POLL_SECONDS = 1.0

_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_END = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
"""


class FetchOutcome(msgspec.Struct, frozen=True, array_like=True):
    """What the holder of a lease tells the others: which page landed and, if it failed, the error they share."""

    page: str
    error: str = ""
    status: int | None = None
    retry_after: float | None = None
    envelope: bytes = b""


Failure = UpstreamError | UpstreamRefusal


@dataclass
class Lease:
    """Whose turn it was to fetch a page. The one who fetches leaves its `failure` here for the others."""

    acquired: bool
    failure: Failure | None = None


class FetchLeases(Protocol):
    """Agreement on who fetches."""

    def acquire(self, page: str) -> AbstractAsyncContextManager[Lease]:
        """Have one's turn, in which to fetch; or, not `mine`, have waited for the end of somebody else's."""
        ...

    async def claim(self, name: str, seconds: float) -> bool:
        """Whether nobody has asked this of the same name within so many seconds."""
        ...


class LocalLeases:
    """Nobody to agree with."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked: dict[str, float] = {}

    @asynccontextmanager
    async def acquire(self, page: str) -> AsyncIterator[Lease]:  # noqa: ARG002 - as Turns says
        """It is always this process's turn."""
        yield Lease(acquired=True)

    async def claim(self, name: str, seconds: float) -> bool:
        """Whether nobody in this process has asked of late."""
        now = self._clock.now()
        self._asked = {known: until for known, until in self._asked.items() if until > now}
        if name in self._asked:
            return False
        self._asked[name] = now + seconds
        return True


# Send a command: its name for metrics, and what to do with the client. Raises StoreDown.
Run = Callable[[str, Callable[[Any], Awaitable[Any]]], Awaitable[Any]]


class RedisLeases:
    """Turns by leases in Redis; `prefix` starts every key, `channel` is where landings are told."""

    def __init__(self, run: Run, *, prefix: str, clock: Clock) -> None:
        self._run = run
        self._prefix = f"{prefix}lease:"
        self.channel = f"{prefix}landed"
        self._clock = clock
        self._waiting: dict[str, asyncio.Future[FetchOutcome]] = {}
        self._local = LocalLeases(clock)

    @asynccontextmanager
    async def acquire(self, page: str) -> AsyncIterator[Lease]:
        """Take the lease, or wait for its end."""
        name, owner = self._prefix + page, secrets.token_hex(8)
        try:
            turn = await self._acquire_or_wait(page, name, owner)
        except StoreDown:
            yield Lease(acquired=True)
            return
        if not turn.acquired:
            yield turn
            return
        renewing = asyncio.create_task(self._renew(name, owner))
        try:
            yield turn
        finally:
            renewing.cancel()
            with suppress(StoreDown):
                landing = msgspec.msgpack.encode(_outcome(page, turn.failure))
                await self._run("release", lambda client: client.eval(_END, 1, name, owner, self.channel, landing))

    async def claim(self, name: str, seconds: float) -> bool:
        """Whether no replica has asked of late; with Redis down, this one."""
        try:
            owner, milliseconds = secrets.token_hex(8), int(seconds * 1000)
            answer = await self._run("lease", lambda client: _claimed(client, self._prefix + name, owner, milliseconds))
        except StoreDown:
            return await self._local.claim(name, seconds)
        return bool(answer)

    def receive(self, data: bytes) -> None:
        """Wake those who wait for the page that landed."""
        with suppress(msgspec.MsgspecError):
            landing = msgspec.msgpack.decode(data, type=FetchOutcome)
            waiting = self._waiting.get(landing.page)
            if waiting is not None and not waiting.done():
                waiting.set_result(landing)

    async def _acquire_or_wait(self, page: str, name: str, owner: str) -> Lease:
        # Listen before asking for the lease: its holder may land in between.
        landed = self._waiting.get(page)
        if landed is None:
            landed = self._waiting[page] = asyncio.get_running_loop().create_future()
        try:
            while True:
                if await self._run("lease", lambda client: _claimed(client, name, owner, _LEASE_MS)):
                    return Lease(acquired=True)
                left = await self._run("pttl", lambda client: client.pttl(name))
                try:
                    async with asyncio.timeout(min(_POLL_SECONDS, max(0.001, left / 1000 + 0.001))):
                        landing = await asyncio.shield(landed)
                except TimeoutError:
                    continue  # the holder is slow, or dead and its lease has run out, or its word was lost
                return Lease(acquired=False, failure=_failure(landing))
        finally:
            self._waiting.pop(page, None)

    async def _renew(self, name: str, owner: str) -> None:
        while True:
            await self._clock.sleep(_RENEW_SECONDS)
            with suppress(StoreDown):
                await self._run("renew", lambda client: client.eval(_RENEW, 1, name, owner, _LEASE_MS))


async def _claimed(client: Any, name: str, owner: str, milliseconds: int) -> bool:
    """Whether the key was free, and has this owner now. It may be sent again after the first reply was lost."""
    if await client.set(name, owner, px=milliseconds, nx=True):
        return True
    return bool(await client.get(name) == owner.encode())


def _outcome(page: str, failure: Failure | None) -> FetchOutcome:
    match failure:
        case None:
            return FetchOutcome(page)
        case UpstreamRefusal():
            return FetchOutcome(page, UpstreamRefusal.__name__, failure.status, None, render_envelope(failure.envelope))
        case _:
            # A private refinement of `upstream` is told by the name that `core.errors` has for it.
            name = next(kind.__name__ for kind in type(failure).__mro__ if kind.__module__ == errors.__name__)
            return FetchOutcome(page, name, failure.status, failure.retry_after)


def _failure(landing: FetchOutcome) -> Failure | None:
    if not landing.error:
        return None
    if landing.error == UpstreamRefusal.__name__ and landing.status is not None:
        envelope = parse_envelope(landing.envelope)
        return None if envelope is None else UpstreamRefusal(landing.status, envelope)
    kind = getattr(errors, landing.error, UpstreamError)
    if not (isinstance(kind, type) and issubclass(kind, UpstreamError)):
        kind = UpstreamError
    return kind("as another replica was told", status=landing.status, retry_after=landing.retry_after)
