"""Purge epochs in Redis: one pair of tokens for each AOI, one for everything (see `storage.epoch`).

A pair that Redis has lost is made anew and fits nothing: misses, and never an old page. The pair of everything is kept
under the name of the server's run. A server that restarts from a dump, or takes over from another, may have forgotten
the latest purges, and so begins with an epoch of its own. Which run answers is asked again whenever a connection was
made, and its clock is read before anything is written to it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from redis.asyncio import RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ResponseError

from gateway.core.errors import StoreDown
from gateway.storage.redis.batched_reads import BatchedReads, Names, Values
from gateway.storage.redis.client import Connections
from gateway.storage.redis.commands import RedisCommands

# An epoch outlives everything that is kept under it; while it is in use it is renewed by every page that is kept.
EPOCH_SECONDS = 172_800
# How long a replica of the server may take to confirm a purge.
_WAIT_SECONDS = 1.0
# As often something is done anew because the server may have become another one meanwhile.
_TRIES = 8

_MINT = """
local known = redis.pcall('GET', KEYS[1])
if type(known) == 'string' then return known end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return ARGV[1]
"""
# Replace both tokens of a pair, or the second alone, and tell the replicas in the same step.
_PURGE = """
local pair = ARGV[1] .. '.' .. ARGV[2]
if ARGV[3] == 'soft' then
  local known = redis.pcall('GET', KEYS[1])
  if type(known) == 'string' then pair = string.match(known, '^[^.]*') .. '.' .. ARGV[2] end
end
redis.call('SET', KEYS[1], pair, 'EX', ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return pair
"""


class Epochs:
    """The epochs of one Redis; `prefix` starts every key."""

    def __init__(self, calls: RedisCommands, connections: Connections, lookups: BatchedReads, prefix: str) -> None:
        self._calls = calls
        self._connections = connections
        self._lookups = lookups
        self._prefix = prefix
        self._everything: str | None = None
        self.run_id: str | None = None
        """The run of the server that answered last; empty where it does not tell, and in a Cluster."""
        self.on_run: Callable[[str], Awaitable[None]] = _nothing
        """Called when another run answers, before anything is read from it or written to it."""
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
            name = await self.meet_run()
            mine = self.name(aoi_id)
            everything, (token, *values) = await self._lookups.get_beside(name, (mine, *names))
            if self._knows_run():
                self._everything = await self._token(name, everything)
                return f"{self._everything}/{await self._token(mine, token)}", values
        raise StoreDown("connections come and go")

    async def purge(self, aoi_id: str | None, *, soft: bool, channel: str, message: bytes) -> None:
        """Replace the tokens of an AOI, or (None) of everything, and publish the message. Raises StoreDown.

        Returns when Redis has confirmed it in a further round trip, which comes after the message has been sent to all
        who listen. Where the master has replicas, one of them has it, too.
        """
        everything_name = await self.meet_run()
        name = everything_name if aoi_id is None else self.name(aoi_id)

        def send(client: Any) -> Any:
            # Other tokens if it is sent again: under the first ones pages may be stored by then, and purged.
            tokens = (secrets.token_hex(8), secrets.token_hex(8))
            return client.eval(_PURGE, 1, name, *tokens, "soft" if soft else "", EPOCH_SECONDS, channel, message)

        pair = await self._calls.run("purge", send)
        # Anything may say OK: what is confirmed has been read back, from the same run.
        if not isinstance(pair, bytes) or await self._lookups.get((name,)) != [pair]:
            raise StoreDown("the new epoch is not there")
        if not await self._calls.run(
            "wait", lambda client: is_replicated(client, name), background_timeout=2 * _WAIT_SECONDS
        ):
            raise StoreDown("no replica of the server has confirmed the new epoch")
        if await self.meet_run() != everything_name:
            raise StoreDown("another server has taken over")
        if aoi_id is None:
            self._everything = pair.decode("latin-1")

    async def beat(self) -> str:
        """Learn the token of everything, and keep it from expiring. Raises StoreDown."""
        name = await self.meet_run()
        token = await self._calls.run("getex", lambda client: client.getex(name, ex=EPOCH_SECONDS))
        self._everything = await self._token(name, cast("bytes | None", token))
        return self._everything

    async def meet_run(self) -> str:
        """Make sure which run answers. Returns the key of the tokens of everything there. Raises StoreDown."""
        if not self._knows_run():
            await self._once("run", self._learn_run)
        return f"{self._prefix}epoch:{self.run_id}"

    def _knows_run(self) -> bool:
        """Whether no connection was made since the server told which run it is."""
        return self._run_known_at == self._connections.made

    async def _learn_run(self, _: str) -> str:
        for _try in range(_TRIES):
            made = self._connections.made
            run_id: str = await self._calls.run("info", _run_id)
            if run_id != self.run_id:
                await self.on_run(run_id)
            if made == self._connections.made:
                self.run_id, self._run_known_at = run_id, made
                return run_id
        raise StoreDown("connections come and go")

    async def _token(self, name: str, found: bytes | None) -> str:
        """The token that was found, or a new one, if nobody was quicker."""
        return await self._once(name, self._mint) if found is None else found.decode("latin-1")

    async def _mint(self, name: str) -> str:
        mine = f"{secrets.token_hex(8)}.{secrets.token_hex(8)}"
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


async def _nothing(_: str) -> None:
    """Nobody wants to know."""


async def _run_id(client: Any) -> str:
    """The server's name for its own run, new with every start; empty where it does not tell, and in a Cluster."""
    if isinstance(client, RedisCluster):
        return ""
    try:
        told = await client.info("server")
    except ResponseError:
        return ""
    return str(told.get("run_id", ""))


async def is_replicated(client: Any, name: str) -> bool:
    """Tell whether what was written to this key is on a replica of its server, if one could take over (WAIT).

    That is so with Sentinel and in a Cluster. WAIT speaks of what was written on its own connection, so something is
    written on it first.
    """
    wait = ("WAIT", 1, int(_WAIT_SECONDS * 1000))
    if isinstance(client, RedisCluster):
        node = client.get_node_from_key(name)
        if node is None or not _has_replicas(await client.info("replication", target_nodes=node)):
            return node is not None
        connection = node.acquire_connection()
        try:
            copies: Any = None
            for command in (("EXPIRE", name, EPOCH_SECONDS), wait):
                await connection.send_command(*command)
                copies = await connection.read_response()
        except BaseException:
            await connection.disconnect()  # an answer may still come on it
            raise
        finally:
            node.release(connection)
        return int(copies) > 0
    if not isinstance(client.connection_pool, SentinelConnectionPool) or not _has_replicas(
        await client.info("replication")
    ):
        return True
    pipeline = client.pipeline(transaction=False)
    pipeline.expire(name, EPOCH_SECONDS)
    pipeline.execute_command(*wait)
    return int((await pipeline.execute())[-1]) > 0


def _has_replicas(told: Any) -> bool:
    return int(told.get("connected_slaves", 0)) > 0
