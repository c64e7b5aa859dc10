"""Purge epochs in Redis: one token for each AOI, one for everything; an entry is of an epoch that both together name.

Tokens are random and never counters, so that one which Redis has lost is made anew and fits nothing: misses, and never
an old page. The token of everything is kept under the name of the server's run. A server that restarts from a dump, or
takes over from another, may have forgotten the latest purges, and so begins with an epoch of its own; which run answers
is asked again whenever a connection was made.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, cast

from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from gateway.core.errors import StoreDown
from gateway.stores.lookups import Lookups, Names, Values
from gateway.stores.redis_calls import RedisCalls
from gateway.stores.redis_client import Connections

# An epoch outlives everything that is kept under it; while it is in use it is renewed by every page that is kept.
EPOCH_SECONDS = 172_800
# As often something is done anew because the server may have become another one meanwhile.
_TRIES = 8

_MINT = """
local known = redis.pcall('GET', KEYS[1])
if type(known) == 'string' then return known end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return ARGV[1]
"""


class Epochs:
    """The epochs of one Redis; `prefix` starts every key."""

    def __init__(self, calls: RedisCalls, connections: Connections, lookups: Lookups, prefix: str) -> None:
        self._calls = calls
        self._connections = connections
        self._lookups = lookups
        self._prefix = prefix
        self._everything: str | None = None
        self._run_id = ""
        self._run_known_at = -1
        self._learning: dict[str, asyncio.Task[str]] = {}

    def name(self, aoi_id: str) -> str:
        """The key of an AOI's token."""
        return f"{self._prefix}{{{aoi_id}}}:epoch"

    def is_current(self, epoch: str) -> bool:
        """Whether an epoch is of the token of everything that is known now."""
        return epoch.startswith(f"{self._everything}/")

    async def read(self, aoi_id: str, names: Names) -> tuple[str, Values]:
        """The values of these names of an AOI, and the epoch at which they were read. Raises StoreDown."""
        for _ in range(_TRIES):
            name = await self._everything_name()
            mine = self.name(aoi_id)
            everything, (token, *values) = await self._lookups.get_beside(name, (mine, *names))
            if self._knows_run():
                self._everything = await self._token(name, everything)
                return f"{self._everything}/{await self._token(mine, token)}", values
        raise StoreDown("connections come and go")

    async def begin(self, aoi_id: str | None) -> str:
        """Begin a new epoch of an AOI, or (None) of everything, and give its token. Raises StoreDown."""
        token = ""
        everything_name = await self._everything_name()
        name = everything_name if aoi_id is None else self.name(aoi_id)

        async def set_token(client: Any) -> Any:
            # Another token if it is sent again: under the first one pages may be stored by then, and purged.
            nonlocal token
            token = secrets.token_hex(8)
            return await client.set(name, token, ex=EPOCH_SECONDS)

        await self._calls.run("set", set_token)
        # What is confirmed has been read back, from the same server: anything may say OK.
        if await self._lookups.get((name,)) != [token.encode()] or await self._everything_name() != everything_name:
            raise StoreDown("the new epoch is not there")
        if aoi_id is None:
            self._everything = token
        return token

    def note(self, everything: str) -> None:
        """Take in a token of everything that another replica made."""
        self._everything = everything

    async def beat(self) -> str:
        """Learn the token of everything, and keep it from expiring. Raises StoreDown."""
        name = await self._everything_name()
        token = await self._calls.run("getex", lambda client: client.getex(name, ex=EPOCH_SECONDS))
        self._everything = await self._token(name, cast("bytes | None", token))
        return self._everything

    async def _everything_name(self) -> str:
        if not self._knows_run():
            await self._once("run", self._learn_run)
        return f"{self._prefix}epoch:{self._run_id}"

    def _knows_run(self) -> bool:
        """Whether no connection was made since the server told which run it is."""
        return self._run_known_at == self._connections.made

    async def _learn_run(self, _: str) -> str:
        for _try in range(_TRIES):
            made = self._connections.made
            self._run_id = await self._calls.run("info", _run_id)
            if made == self._connections.made:
                self._run_known_at = made
                return self._run_id
        raise StoreDown("connections come and go")

    async def _token(self, name: str, found: bytes | None) -> str:
        """The token that was found, or a new one, if nobody was quicker."""
        return await self._once(name, self._mint) if found is None else found.decode("latin-1")

    async def _mint(self, name: str) -> str:
        mine = secrets.token_hex(8)
        token = await self._calls.run("mint", lambda client: client.eval(_MINT, 1, name, mine, EPOCH_SECONDS))
        if not isinstance(token, bytes):
            raise StoreDown("this is no answer of Redis")
        return token.decode("latin-1")

    async def _once(self, name: str, learn: Callable[[str], Coroutine[Any, Any, str]]) -> str:
        """Learn something once for all who ask at the same time: a herd has a thousand of them."""
        learning = self._learning.get(name)
        if learning is None:
            learning = self._learning[name] = asyncio.create_task(learn(name))
            learning.add_done_callback(lambda done: self._learnt(name, done))
        return await asyncio.shield(learning)

    def _learnt(self, name: str, done: asyncio.Task[str]) -> None:
        del self._learning[name]
        if not done.cancelled():
            done.exception()  # whoever asked may have left


async def _run_id(client: Any) -> str:
    """The server's name for its own run, new with every start; empty where it does not tell, and in a Cluster."""
    if isinstance(client, RedisCluster):
        return ""
    try:
        told = await client.info("server")
    except ResponseError:
        return ""
    return str(told.get("run_id", ""))
