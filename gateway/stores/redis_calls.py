"""Commands to Redis: bounded in time, never tried twice, and not sent at all while Redis does not answer.

After one that took too long nothing is sent for a moment, so that a request pays for one such wait and not for each of
its commands; after five failures in a row nothing is sent until a ping succeeds, so that a server which hangs costs the
first few requests a little and the others nothing. Every error becomes StoreDown here.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.clock import Clock
from gateway.core.errors import StoreDown
from gateway.core.facts import Observe, RedisCommand, RedisWent
from gateway.stores.redis_client import Client
from gateway.stores.time_limit import within

_FAILURES_THAT_OPEN = 5
_REST_SECONDS = 0.25
# A ping may set up a connection, TLS included, and nobody waits for it.
_PING_TIMEOUT = 1.0


class RedisCalls:
    """One client's commands. `timeout` bounds each, in seconds."""

    def __init__(self, client: Client, *, timeout: float, clock: Clock, observe: Observe) -> None:
        self.client = client
        self._timeout = timeout
        self._clock = clock
        self._observe = observe
        self._failures = 0
        self._rests_until = 0.0
        self._up: bool | None = None  # not known before the first command
        self._gone = False

    @property
    def gone(self) -> bool:
        """Whether Redis was last seen to be gone: its machine refuses connections, so nobody talks to it.

        A Redis that is silent, or refuses us alone, may be there for others, who may purge what we still hold.
        """
        return self._gone

    async def run(self, command: str, send: Callable[[Any], Awaitable[Any]]) -> Any:
        """Send what `send` makes of the client; `command` names it in metrics. Raises StoreDown."""
        if self._failures >= _FAILURES_THAT_OPEN or self._clock.monotonic() < self._rests_until:
            raise StoreDown("Redis is left alone for now")
        return await self._send(command, send, self._timeout)

    async def ping(self) -> None:
        """See whether Redis answers, and let commands through again if it does. Raises StoreDown."""
        await self._send("ping", lambda client: client.ping(), max(_PING_TIMEOUT, self._timeout))

    async def close(self) -> None:
        """Close the connections."""
        with suppress(RedisError, OSError):  # it is going away either way
            await self.client.aclose()

    async def _send(self, command: str, send: Callable[[Any], Awaitable[Any]], timeout: float) -> Any:
        began = self._clock.monotonic()
        try:
            answer = await within(timeout, self._awaited(send))
        except (TimeoutError, RedisTimeoutError):
            self._observe(RedisCommand(command, "timeout", self._clock.monotonic() - began))
            self._rests_until = self._clock.monotonic() + _REST_SECONDS
            self._failed("timeout", gone=False)
            raise StoreDown("timeout") from None
        except Exception as error:  # noqa: BLE001 - a peer that is no Redis makes the client trip in any way there is
            self._observe(RedisCommand(command, "error", self._clock.monotonic() - began))
            # Redis answered, but not with what was asked for (OOM, READONLY): up, and this one command failed.
            if isinstance(error, ResponseError) and not isinstance(error, RedisConnectionError):
                self._answered()
            else:
                self._failed(type(error).__name__, gone=_is_refusal(error))
            raise StoreDown(type(error).__name__) from None
        self._observe(RedisCommand(command, "ok", self._clock.monotonic() - began))
        self._answered()
        return answer

    async def _awaited(self, send: Callable[[Any], Awaitable[Any]]) -> Any:
        return await send(self.client)

    def _answered(self) -> None:
        self._failures = 0
        self._rests_until = 0.0
        self._gone = False
        if self._up is not True:
            self._up = True
            self._observe(RedisWent(up=True, reason=""))

    def _failed(self, reason: str, *, gone: bool) -> None:
        self._failures += 1
        self._gone = gone
        if self._up is not False:
            self._up = False
            self._observe(RedisWent(up=False, reason=reason))


def _is_refusal(error: BaseException | None) -> bool:
    """Whether the machine was there and nobody listened."""
    while error is not None:
        if isinstance(error, OSError):
            told = str(error)  # of several addresses: "Multiple exceptions: [Errno 111] ..., [Errno 111] ..."
            refused = f"[Errno {errno.ECONNREFUSED}]"
            return error.errno == errno.ECONNREFUSED or 0 < told.count(refused) == told.count("[Errno ")
        error = error.__cause__ or error.__context__
    return False
