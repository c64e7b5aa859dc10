"""Word from Redis: what other replicas tell, and whether we hear them at all.

Replicas tell each other of pages that they kept and of purges (`stores.redis.Word`). Whoever listens may answer from
its own copies without asking, as long as it hears: a connection that is subscribed, and a heartbeat twice a second that
shows Redis alive and brings the epoch of everything. Each time that the connection is made anew a new *session* begins,
and what was learned in an earlier one has to be checked once, because word may have been missed in between.

Redis also lends its clock: lifetimes are written down by one replica and read by another.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.clock import Clock
from gateway.core.errors import StoreDown
from gateway.core.seals import Seals
from gateway.stores.redis import RedisStore
from gateway.stores.redis_calls import RedisCalls
from gateway.stores.time_limit import forget

_BEAT_SECONDS = 0.5
_BEATS_PER_CLOCK = 20
_SUBSCRIBE_SECONDS = 1.0
# Two beats, and a little for a machine that is busy. A purge is to be seen within a second while we hear.
_DEAF_SECONDS = 1.2
_CONNECTIONS_AHEAD = 4


_log = logging.getLogger("gateway")


class WordOfRedis:
    """Whether word comes; `run` is a task of its own."""

    def __init__(self, calls: RedisCalls, store: RedisStore, clock: Clock) -> None:
        self._calls = calls
        self._store = store
        self._clock = clock
        self.session = 0
        self.stopped = clock.monotonic()
        """When something was last heard, on the monotonic clock."""
        self._listening = False
        self._troubles = 0
        self.seals = Seals()
        self.seals.until = -math.inf

    @property
    def heard(self) -> bool:
        """Whether word comes: the listening connection itself has brought something of late."""
        return self._listening and self._clock.monotonic() - self.stopped <= _DEAF_SECONDS

    @property
    def unreachable(self) -> bool:
        """Whether Redis is gone for everybody, as far as can be told (see `RedisCalls.gone`)."""
        return not self.heard and self._calls.gone

    async def run(
        self,
        listeners: Mapping[str, Callable[[bytes], None]],
        upset: Callable[[], None],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        """Listen, and connect again when that ends, until cancelled.

        `listeners` take what is told, by channel; `upset` is called when everything may have changed, and `look`, which
        may raise StoreDown, with every beat, for what may have been told while nobody listened.
        """
        while True:
            try:
                await self._calls.ping()
                # Connections made ahead: making one takes several round trips, and a herd has no time for them.
                await asyncio.gather(*(self._calls.ping() for _ in range(_CONNECTIONS_AHEAD)))
                await self._listen(listeners, upset, look)
            except StoreDown:
                pass  # `RedisCalls` has told of it
            except Exception as error:  # noqa: BLE001 - whatever the peer did: without word, copies would never be trusted
                self._troubles += 1
                # The first may be the end of Redis, of which `RedisCalls` tells.
                if self._troubles == 2 and self._calls.up:
                    why = type(error).__name__
                    _log.warning("no word comes from redis; copies in memory are checked often", extra={"why": why})
            self._fall_silent()
            await self._clock.sleep(_BEAT_SECONDS)

    async def _listen(
        self,
        listeners: Mapping[str, Callable[[bytes], None]],
        upset: Callable[[], None],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        async with self._calls.client.pubsub() as subscription:
            async with asyncio.timeout(_SUBSCRIBE_SECONDS):
                await subscription.subscribe(*listeners)
                for _ in listeners:
                    await subscription.get_message(timeout=_SUBSCRIBE_SECONDS)
            everything = await self._store.epochs.beat()
            self._clock.correct(await self._store.time())
            await look()
            self.session += 1
            self._listening = True
            self.seals.break_all()  # word may have been missed
            self._note_word()
            self._troubles = 0
            beats = asyncio.create_task(self._beat(everything, upset, look))
            pinged = -math.inf
            try:
                while not beats.done():
                    # Only this task uses the connection: redis-py reconnects where it finds it lost, and of two
                    # attempts at the same time one connection would stay open.
                    if (now := self._clock.monotonic()) - pinged >= _BEAT_SECONDS:
                        pinged = now
                        await subscription.ping()  # answered on the connection that brings the messages
                    await self._hear(subscription, listeners)
                    if not self.heard:
                        raise TimeoutError("the listening connection is deaf")
                await beats  # which tells why it ended
            finally:
                beats.cancel()
                beats.add_done_callback(forget)  # it may have tripped over the same connection as we did
                self._fall_silent()

    async def _hear(self, subscription: Any, listeners: Mapping[str, Callable[[bytes], None]]) -> None:
        message = await subscription.get_message(ignore_subscribe_messages=True, timeout=_BEAT_SECONDS)
        if message is None:
            return
        self._note_word()
        if message["type"] == "message":
            listeners[message["channel"].decode()](message["data"])

    def _note_word(self) -> None:
        self.stopped = self._clock.monotonic()
        self.seals.until = self.stopped + _DEAF_SECONDS

    def _fall_silent(self) -> None:
        self._listening = False
        self.seals.until = -math.inf

    async def _beat(self, everything: str, upset: Callable[[], None], look: Callable[[], Awaitable[None]]) -> None:
        for beat in itertools.count(1):
            await self._clock.sleep(_BEAT_SECONDS)
            if beat % _BEATS_PER_CLOCK == 0:
                self._clock.correct(await self._store.time())
            await look()
            if (now := await self._store.epochs.beat()) != everything:
                everything = now
                upset()
