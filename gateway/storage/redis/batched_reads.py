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
from gateway.storage.redis.commands import RedisCommands

Names = tuple[str, ...]
Values = list[bytes | None]
# The value of the name that was asked for beside others, and theirs.
Found = tuple[bytes | None, Values]

# So many look-ups make one command; more would hold up whoever else talks to Redis.
_MOST = 128
_VALUE = (bytes, type(None))

# Who waits for a look-up, which is a name beside others (empty where there is none), and those others.
_Wanted = dict[tuple[str, Names], list[asyncio.Future[Found]]]


class BatchedReads:
    """Collects look-ups. The names of one look-up have one hash tag, so that a Cluster takes them together."""

    def __init__(self, calls: RedisCommands) -> None:
        self._calls = calls
        self._wanted: _Wanted = {}
        self._sender: asyncio.Task[None] | None = None

    async def get(self, names: Names) -> Values:
        """The values of these names, as they are after this call. Raises StoreDown."""
        return (await self._found(names, ""))[1]

    async def get_beside(self, beside: str, names: Names) -> Found:
        """The same, and the value of a name without their tag, as it is when theirs are read. Raises StoreDown."""
        return await self._found(names, beside)

    async def close(self) -> None:
        """Wait for what is on its way."""
        if self._sender is not None:
            await asyncio.wait([self._sender])

    def _found(self, names: Names, beside: str) -> asyncio.Future[Found]:
        found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault((beside, names), []).append(found)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return found

    async def _send_all(self) -> None:
        try:
            while self._wanted:
                batch = dict(islice(self._wanted.items(), _MOST))
                for look_up in batch:
                    del self._wanted[look_up]
                try:
                    if isinstance(self._calls.client, RedisCluster):
                        await asyncio.gather(*(self._send_apart(*one) for one in batch.items()))
                    else:
                        await self._send(batch)
                finally:
                    given_up = StoreDown("the look-up was given up")  # nobody waits for ever, whatever has happened
                    for wanted in batch.values():
                        _fail(wanted, given_up)
        finally:
            self._sender = None

    async def _send(self, batch: _Wanted) -> None:
        besides = list({beside for beside, _ in batch if beside})
        try:
            values = await self._values([*besides, *(name for _, names in batch for name in names)])
        except StoreDown as error:
            for wanted in batch.values():
                _fail(wanted, error)
            return
        place = len(besides)
        told: dict[str, bytes | None] = dict(zip(besides, values[:place], strict=True))
        for (beside, names), wanted in batch.items():
            end = place + len(names)
            _tell(wanted, (told.get(beside), values[place:end]))
            place = end

    async def _send_apart(self, look_up: tuple[str, Names], wanted: list[asyncio.Future[Found]]) -> None:
        """Names of two tags are two commands to a Cluster, at the same time."""
        beside, names = look_up
        try:
            told, values = await asyncio.gather(self._values([beside] if beside else []), self._values(list(names)))
        except StoreDown as error:
            _fail(wanted, error)
            return
        _tell(wanted, (told[0] if told else None, values))

    async def _values(self, names: list[str]) -> Values:
        if not names:
            return []
        return _checked(await self._calls.run("mget", lambda client: client.mget(names)), len(names))


def _tell(wanted: list[asyncio.Future[Found]], found: Found) -> None:
    for one in wanted:
        if not one.done():
            one.set_result(found)


def _fail(wanted: list[asyncio.Future[Found]], error: StoreDown) -> None:
    for one in wanted:
        if not one.done():
            one.set_exception(error)
            one.exception()  # who wanted it may have left


def _checked(answer: Any, count: int) -> Values:
    if not isinstance(answer, list) or len(answer) != count or not all(isinstance(item, _VALUE) for item in answer):
        raise StoreDown("this is no answer of Redis")
    return answer
