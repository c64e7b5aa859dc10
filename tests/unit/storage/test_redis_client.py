"""Connections to Redis: what one costs, and that none stays open or is reused half set up."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from contextlib import suppress
from typing import Any

import pytest
from entries import Facts
from faulty_relay import FaultyRelay
from harness import SteeredClock, until
from real_redis import RealRedis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.config.store_url import parse
from gateway.core.errors import StoreDown
from gateway.storage.redis.client import close, connect
from gateway.storage.redis.commands import RedisCommands
from gateway.storage.redis.credentials import StoreCredentials
from gateway.storage.redis.permissions import code


@pytest.mark.parametrize("leases", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_closing_while_connections_are_opened_leaves_none_open(real_redis: RealRedis, leases: int) -> None:
    calls = RedisCommands(connect(real_redis.url, 1.0), timeout=1.0, clock=SteeredClock(), emit=Facts())

    async def get(name: str, calls: RedisCommands = calls) -> None:
        with suppress(StoreDown):
            await calls.run("get", lambda client: client.get(name))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        commands = [asyncio.create_task(get(f"k{number}")) for number in range(40)]
        for _ in range(leases):
            await asyncio.sleep(0)
        await calls.close()
        await asyncio.gather(*commands)
        for _ in range(5):
            await asyncio.sleep(0)  # a transport closes its socket in the next turn of the loop
        del calls, commands, get
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_command_is_sent_again_when_its_idle_connection_was_reset_on_uvloop(real_redis: RealRedis) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def scenario() -> list[int]:
        relay = FaultyRelay(real_redis.port)
        await relay.start()
        client: Any = connect(f"redis://127.0.0.1:{relay.port}/0", 5.0)
        calls = RedisCommands(client, timeout=5.0, clock=SteeredClock(), emit=Facts())
        try:
            await calls.ping()  # which waits for the check of what Redis permits
            idle = client.connection_pool._available_connections
            relay.cut("all", reset=True)
            await until(lambda: all(one._writer.transport.is_closing() for one in idle if one.is_connected))
            exists = [calls.run("exists", lambda client: client.exists("no such key")) for _ in idle]
            return list(await asyncio.gather(*exists))
        finally:
            await calls.close()
            await relay.close()

    assert set(uvloop.run(scenario())) == {0}


async def test_new_connection_sends_only_the_command(real_redis: RealRedis) -> None:
    async with Redis.from_url(real_redis.url) as admin:
        await admin.config_resetstat()
        client = connect(real_redis.url, 1.0)
        await client.get("k")
        await close(client)
        commands, errors = await admin.info("commandstats"), await admin.info("errorstats")
    assert {name for name in commands if not name.startswith("cmdstat_config")} == {"cmdstat_get"}
    assert errors == {}  # Redis before 7.2 counts CLIENT SETINFO here


async def test_connection_that_was_cancelled_before_its_login_is_not_reused(real_redis: RealRedis) -> None:
    admin: Any = Redis.from_url(real_redis.url)
    async with admin:
        await admin.execute_command("ACL", "SETUSER", "u", "reset", "on", ">pw", "~*", "+@all")
        await admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">other")
        credentials = StoreCredentials(parse(real_redis.url.replace("://", "://u:pw@")))
        began, slow = asyncio.Event(), asyncio.Event()

        async def read_slowly() -> None:
            began.set()
            await slow.wait()

        credentials.refresh_with(read_slowly)
        client: Any = connect(real_redis.url, 1.0, None, credentials)
        command = asyncio.create_task(client.get("k"))
        await began.wait()
        command.cancel()
        await asyncio.wait([command])
        slow.set()
        assert await client.get("k") is None
        await close(client)


async def test_refusal_of_a_connection_is_named(real_redis: RealRedis) -> None:
    async with Redis.from_url(real_redis.url) as admin:
        await admin.config_set("maxclients", 1)
        client = connect(real_redis.url, 1.0)
        reasons = set()
        for _ in range(5):
            with pytest.raises(RedisConnectionError) as refused:
                await client.get("k")
            reasons.add(code(refused.value))
        assert "max number of clients reached" in reasons
        await close(client)
