"""Sessions with Redis: the pub/sub connection on which invalidation messages arrive, and whether it still works.

A session begins when the connection is subscribed, answers PING, and is known to be to the same run of the server as
commands are. It ends with the connection, with a PING that is not answered in time, and with a command that reaches
another run. What is valid during a session and after it is decided by `storage.validity`.

Redis also lends its clock: lifetimes are written down by one replica and read by another.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.core.clock import Clock
from gateway.core.errors import StoreDown
from gateway.storage.redis.commands import RedisCommands, is_connect_refusal
from gateway.storage.redis.store import RedisStore
from gateway.storage.time_limit import forget
from gateway.storage.validity import Validity

_BEAT_SECONDS = 0.5
_BEATS_PER_CLOCK = 20
_SUBSCRIBE_SECONDS = 1.0
_CONNECTIONS_AHEAD = 4
# What redis-py says when a connection was read to its end, and no error came before that.
_END_OF_FILE = "Connection closed by server."

_log = logging.getLogger("gateway")


class _OtherRun(Exception):
    """Commands reach another run of the server than the pub/sub connection."""


class InvalidationSubscriber:
    """Keeps the pub/sub connection; `run` is a task of its own.

    `single` tells that `cache.url` names one server, so that one which refuses us refuses everybody.
    """

    def __init__(
        self, calls: RedisCommands, store: RedisStore, validity: Validity, clock: Clock, *, single: bool = True
    ) -> None:
        self._calls = calls
        self._store = store
        self._clock = clock
        self._single = single
        self.validity = validity
        self._troubles = 0
        # The run of the session, None while there is none.
        self._run: str | None = None
        # When the PINGs were sent that are not answered yet.
        self._pinged: list[float] = []
        store.on_run = self._meet_run
        store.on_clock_step = validity.validity_tokens.invalidate_all

    async def run(
        self,
        listeners: Mapping[str, Callable[[bytes], None]],
        upset: Callable[[], None],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        """Listen, and connect again when that ends, until cancelled.

        `listeners` take messages, by channel. `upset` is called when everything may have changed, and `look`, which may
        raise StoreDown, with every beat, for what may have been published while nobody listened.
        """
        while True:
            sessions = self.validity.session
            try:
                await self._connect()
                await self._listen(listeners, upset, look)
            except StoreDown:
                pass  # `RedisCommands` has logged it
            except Exception as error:  # noqa: BLE001 - whatever the peer did: without messages, copies could not be trusted
                self._troubles += 1
                # The first may be the end of Redis, which `RedisCommands` logs.
                if self._troubles == 2 and self._calls.up:
                    why = type(error).__name__
                    _log.warning("no word comes from redis; copies in memory are checked often", extra={"why": why})
                self._end()
                # A connection on which no session has begun proves nothing: a purge may have come before it listened.
                if self._single and self.validity.session > sessions and _was_read_to_its_end(error):
                    self.validity.down_for_all = await self._is_refused()
            self._end()
            await self._clock.sleep(_BEAT_SECONDS)

    async def _connect(self) -> None:
        """Attempt a connection. Raises StoreDown.

        Redis stays down for everybody only while every attempt is refused.
        """
        if self.validity.down_for_all:
            self.validity.down_for_all = await self._is_refused()
        await self._calls.ping()
        self.validity.down_for_all = False
        # Connections made ahead: making one takes several round trips, and a herd has no time for them.
        await asyncio.gather(*(self._calls.ping() for _ in range(_CONNECTIONS_AHEAD)))

    async def _is_refused(self) -> bool:
        """Attempt a connection outside the pool, whose connections may be dead. Tell whether nobody can use Redis."""
        pool: Any = self._calls.client.connection_pool  # type: ignore[union-attr]
        connection = pool.make_connection()
        try:
            async with asyncio.timeout(_SUBSCRIBE_SECONDS):
                await connection.connect()
                await connection.send_command("PING")
                await connection.read_response()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no refusal
            return isinstance(error, BusyLoadingError) or is_connect_refusal(error)
        finally:
            with suppress(RedisError, OSError):
                await connection.disconnect()
        return False

    async def _listen(
        self,
        listeners: Mapping[str, Callable[[bytes], None]],
        upset: Callable[[], None],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._pinged.clear()
        async with self._calls.client.pubsub() as subscription:
            async with asyncio.timeout(_SUBSCRIBE_SECONDS):
                run = await self._run_of(subscription)
                await subscription.subscribe(*listeners)
                for _ in listeners:
                    await subscription.get_message(timeout=_SUBSCRIBE_SECONDS)
                pinged = self._clock.monotonic()
                await subscription.ping()
                while True:
                    message = await subscription.get_message(timeout=_SUBSCRIBE_SECONDS)
                    if message is not None and message["type"] == "pong":
                        break
            everything = await self._store.epochs.beat()
            await self._store.read_clock()
            await look()
            if run != self._store.epochs.run_id:
                raise _OtherRun
            self._run = run
            self.validity.begin_session(pinged)
            self._troubles = 0
            beats = asyncio.create_task(self._beat(everything, upset, look))
            pinged = -math.inf
            try:
                while not beats.done():
                    # Only this task uses the connection: redis-py reconnects where it finds it lost, and of two
                    # attempts at the same time one connection would stay open.
                    if (now := self._clock.monotonic()) - pinged >= _BEAT_SECONDS:
                        pinged = now
                        # Answered on the pub/sub connection, after every message that was published before.
                        self._pinged.append(now)
                        await subscription.ping()
                    await self._hear(subscription, listeners)
                    if self._run is None:
                        raise _OtherRun
                    if not self.validity.is_live:
                        raise TimeoutError("the pub/sub connection does not answer")
                await beats  # which tells why it ended
            finally:
                beats.cancel()
                beats.add_done_callback(forget)  # it may have tripped over the same connection
                self._end()

    async def _run_of(self, subscription: Any) -> str:
        """The run of the server that the pub/sub connection is to; empty in a Cluster."""
        if not isinstance(self._calls.client, Redis):
            return ""
        await subscription.connect()
        connection = subscription.connection
        try:
            await connection.send_command("INFO", "server")
            told = await connection.read_response()
        except RedisConnectionError:  # the pool's connection was dead
            await connection.disconnect()
            await connection.connect()
            await connection.send_command("INFO", "server")
            told = await connection.read_response()
        except ResponseError:
            return ""  # as `Epochs` says of a server that does not tell
        text = told.decode("latin-1") if isinstance(told, bytes) else str(told)
        return next((line.partition(":")[2] for line in text.splitlines() if line.startswith("run_id:")), "")

    async def _hear(self, subscription: Any, listeners: Mapping[str, Callable[[bytes], None]]) -> None:
        message = await subscription.get_message(ignore_subscribe_messages=True, timeout=_BEAT_SECONDS)
        if message is None:
            return
        if message["type"] == "pong" and self._pinged:
            self.validity.answered(self._pinged.pop(0))
        elif message["type"] == "message":
            listeners[message["channel"].decode()](message["data"])

    def _meet_run(self, run: str) -> None:
        """End the session if commands reach another run of the server."""
        if self._run is not None and run != self._run:
            self._end()

    def _end(self) -> None:
        self._run = None
        self.validity.end_session()

    async def _beat(self, everything: str, upset: Callable[[], None], look: Callable[[], Awaitable[None]]) -> None:
        for beat in itertools.count(1):
            await self._clock.sleep(_BEAT_SECONDS)
            try:
                if beat % _BEATS_PER_CLOCK == 0:
                    await self._store.read_clock()
                await look()
                if (now := await self._store.epochs.beat()) != everything:
                    everything = now
                    upset()
            except StoreDown:  # which does not end the session: messages may still arrive
                with suppress(StoreDown):
                    await self._calls.ping()


def _was_read_to_its_end(error: BaseException | None) -> bool:
    """Tell whether the pub/sub connection ended with an end of file, before which every message was read.

    redis-py connects again before it passes an error on, and so the error of that attempt may be the one that is seen.
    """
    while error is not None:
        if isinstance(error, RedisConnectionError) and str(error) == _END_OF_FILE:
            return True
        error = error.__context__
    return False
