"""Entries in Redis, where every replica sees them and a restart does not lose them.

An outage becomes StoreDown, quickly: every command is bounded by `cache.redis_timeout`, none is tried twice, and after
five failures in a row nothing is sent until a ping succeeds, so that a server which hangs costs the first few requests
a little and the others nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar, cast

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.clock import Clock
from gateway.core.entry import FORMAT_VERSION, CorruptEntry, Entry, ForeignVersion
from gateway.core.errors import StoreDown
from gateway.core.facts import CorruptValue, Observe, RedisCommand, RedisWent, TierLookup
from gateway.stores.redis_client import Client

_FAILURES_THAT_OPEN = 5
# A ping may set up a connection, TLS included, and nobody waits for it.
_PING_TIMEOUT = 1.0

T = TypeVar("T")


class RedisStore:
    """A Store in Redis. Keys are `{prefix}:{format version}:{key}`; each expires with its entry's last use."""

    def __init__(self, client: Client, *, prefix: str, timeout: float, clock: Clock, observe: Observe) -> None:
        self._client = client
        self._prefix = f"{prefix}:{FORMAT_VERSION}:"
        self._timeout = timeout
        self._clock = clock
        self._observe = observe
        self._failures = 0
        self._up: bool | None = None  # not known before the first command

    async def get(self, key: str) -> Entry | None:
        """The entry of this key; one that cannot be read is a miss. Raises StoreDown."""
        try:
            data: bytes | None = await self._run(
                "get", cast("Awaitable[bytes | None]", self._client.get(self._prefix + key))
            )
        except _WrongTypeError:
            data = b""
        except StoreDown:
            self._observe(TierLookup("redis", "error"))
            raise
        entry = None
        if data is not None:
            try:
                entry = Entry.decode(data, key)
            except CorruptEntry as error:
                self._observe(CorruptValue(str(error)))
            except ForeignVersion:
                pass  # somebody else's, and the name under which it stands is not ours to judge
        self._observe(TierLookup("redis", "miss" if entry is None else "hit"))
        return entry

    async def put(self, entry: Entry) -> None:
        """Keep the entry until its last use. Raises StoreDown."""
        lives = entry.last_use - self._clock.now()
        if lives > 0:
            milliseconds = max(1, int(lives * 1000))
            await self._run("set", self._client.set(self._prefix + entry.key, entry.encode(), px=milliseconds))

    async def ping(self) -> None:
        """See whether Redis answers, and let commands through again if it does. Raises StoreDown."""
        await self._run("ping", self._client.ping(), timeout=max(_PING_TIMEOUT, self._timeout), probe=True)

    async def close(self) -> None:
        """Close the connections."""
        with suppress(RedisError, OSError):  # it is going away either way
            await self._client.aclose()

    async def _run(self, command: str, answer: Awaitable[T], *, timeout: float | None = None, probe: bool = False) -> T:
        if self._failures >= _FAILURES_THAT_OPEN and not probe:
            _discard(answer)
            raise StoreDown("Redis is left alone until it answers a ping")
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._timeout if timeout is None else timeout):
                result = await answer
        except (TimeoutError, RedisTimeoutError):
            self._observe(RedisCommand(command, "timeout", self._clock.monotonic() - began))
            self._failed("timeout")
            raise StoreDown("timeout") from None
        except (RedisError, OSError, UnicodeDecodeError) as error:
            self._observe(RedisCommand(command, "error", self._clock.monotonic() - began))
            if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
                self._answered()
                raise _WrongTypeError from None
            # Redis answered, but not with what was asked for (OOM, READONLY): up, and this one command failed.
            if isinstance(error, ResponseError) and not isinstance(error, RedisConnectionError):
                self._answered()
            else:
                self._failed(type(error).__name__)
            raise StoreDown(type(error).__name__) from None
        self._observe(RedisCommand(command, "ok", self._clock.monotonic() - began))
        self._answered()
        return result

    def _answered(self) -> None:
        self._failures = 0
        if self._up is not True:
            self._up = True
            self._observe(RedisWent(up=True, reason=""))

    def _failed(self, reason: str) -> None:
        self._failures += 1
        if self._up is not False:
            self._up = False
            self._observe(RedisWent(up=False, reason=reason))


class _WrongTypeError(Exception):
    """The key holds something that is no string."""


def _discard(answer: Awaitable[object]) -> None:
    """Drop a command that is not sent; a coroutine that is never awaited would complain."""
    close = getattr(answer, "close", None)
    if close is not None:
        close()
