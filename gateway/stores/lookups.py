"""Look-ups that wait together are sent together.

While one MGET is on its way, whoever else wants something from Redis is collected for the next one, as databases do
with commits. A herd thus costs two round trips and one connection, not a thousand, and asks for each name once.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

from redis.asyncio import RedisCluster

from gateway.core.errors import StoreDown
from gateway.stores.redis_calls import RedisCalls

Names = tuple[str, ...]
Values = list[bytes | None]

# So many look-ups make one command; more would hold up whoever else talks to Redis.
_MOST = 128
_VALUE = (bytes, type(None))


class Lookups:
    """Collects look-ups. The names of one look-up have one hash tag, so that a Cluster takes them together."""

    def __init__(self, calls: RedisCalls) -> None:
        self._calls = calls
        self._wanted: dict[Names, asyncio.Future[Values]] = {}
        self._sender: asyncio.Task[None] | None = None

    async def get(self, names: Names) -> Values:
        """The values of these names, as they are after this call. Raises StoreDown."""
        wanted = self._wanted.get(names)
        if wanted is None:
            wanted = self._wanted[names] = asyncio.get_running_loop().create_future()
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return await asyncio.shield(wanted)

    async def close(self) -> None:
        """Wait for what is on its way."""
        if self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send_all(self) -> None:
        try:
            while self._wanted:
                batch = dict(islice(self._wanted.items(), _MOST))
                for names in batch:
                    del self._wanted[names]
                if isinstance(self._calls.client, RedisCluster):
                    await asyncio.gather(*(self._send({names: wanted}) for names, wanted in batch.items()))
                else:
                    await self._send(batch)
        finally:
            self._sender = None

    async def _send(self, batch: dict[Names, asyncio.Future[Values]]) -> None:
        every = [name for names in batch for name in names]
        try:
            values = _checked(await self._calls.run("mget", lambda client: client.mget(every)), len(every))
        except StoreDown as error:
            for wanted in batch.values():
                if not wanted.done():
                    wanted.set_exception(error)
                    wanted.exception()  # who wanted it may have left
            return
        place = 0
        for names, wanted in batch.items():
            if not wanted.done():
                wanted.set_result(values[place : place + len(names)])
            place += len(names)


def _checked(answer: Any, count: int) -> Values:
    if not isinstance(answer, list) or len(answer) != count or not all(isinstance(item, _VALUE) for item in answer):
        raise StoreDown("this is no answer of Redis")
    return answer
