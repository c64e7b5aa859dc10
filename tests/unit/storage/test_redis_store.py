"""What is particular to Redis: how it fails, what it refuses to read, and how keys look."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from entries import Facts, address, candidate
from harness import REDIS_TIMEOUT, SteeredClock
from real_redis import RealRedis
from redis.asyncio import Redis

from gateway.core.errors import StoreDown
from gateway.core.events import CorruptValue, RedisAvailabilityChanged, RedisCommand
from gateway.storage.base import PutResult
from gateway.storage.redis.client import BadStoreUrl, Connections, connect
from gateway.storage.redis.commands import RedisCommands
from gateway.storage.redis.store import RedisStore

HERE = address()
NAME = f"test:1:{HERE.page}"


@pytest.fixture
def facts() -> Facts:
    return Facts()


@pytest.fixture
def clock() -> SteeredClock:
    return SteeredClock()


@pytest.fixture
def connections() -> Connections:
    return Connections()


@pytest.fixture
async def raw(real_redis: RealRedis) -> AsyncIterator[Any]:
    client = Redis.from_url(real_redis.url)
    yield client
    await client.aclose()


@pytest.fixture
async def calls(
    real_redis: RealRedis, connections: Connections, clock: SteeredClock, facts: Facts
) -> AsyncIterator[RedisCommands]:
    client = connect(real_redis.url, REDIS_TIMEOUT, connections)
    made = RedisCommands(client, timeout=REDIS_TIMEOUT, clock=clock, emit=facts)
    await made.ping()
    yield made
    await made.close()


@pytest.fixture
async def store(calls: RedisCommands, connections: Connections, clock: SteeredClock, facts: Facts) -> RedisStore:
    made = RedisStore(calls, connections, prefix="test", clock=clock, emit=facts)
    await made.get(HERE)
    return made


async def everything(raw: Any) -> str:
    """The name of the epoch of everything."""
    return f"test:1:epoch:{(await raw.info('server'))['run_id']}"


async def keep(store: RedisStore, clock: SteeredClock, **shown: Any) -> PutResult:
    epoch = (await store.get(HERE)).epoch
    return await store.put(HERE, candidate(HERE, now=clock.now(), **shown), epoch)


async def test_keys_start_with_prefix_and_version_hold_the_aoi_in_a_hash_tag_and_expire(
    store: RedisStore, raw: Any, clock: SteeredClock
) -> None:
    await keep(store, clock)
    names = sorted(name.decode() for name in await raw.keys())
    assert names == [await everything(raw), "test:1:{a1}:epoch", "test:1:{a1}:list:s:all", NAME]
    for name in names:
        assert await raw.pttl(name) > 0
    assert 20_000 < await raw.pttl(NAME) <= 30_000


async def test_a_purge_writes_one_key_whatever_there_is(store: RedisStore, raw: Any, clock: SteeredClock) -> None:
    await keep(store, clock)
    before = {name: await raw.get(name) for name in await raw.keys()}
    await store.purge("a1")
    after = {name: await raw.get(name) for name in await raw.keys()}
    assert [name for name in after if after[name] != before.get(name)] == [b"test:1:{a1}:epoch"]


@pytest.mark.parametrize("lost", ["test:1:{a1}:epoch", "", "test:1:{a1}:list:s:all"])
async def test_an_epoch_that_redis_lost_is_a_miss_and_a_lost_directory_no_answer(
    store: RedisStore, raw: Any, clock: SteeredClock, lost: str
) -> None:
    await keep(store, clock)
    await raw.delete(lost or await everything(raw))
    shelf = await store.get(HERE)
    assert not shelf.is_current
    assert (shelf.entry is None) == (not lost.endswith("all"))
    assert (await keep(store, clock, started=1)).outcome == "kept"
    assert (await store.get(HERE)).is_current


@pytest.mark.parametrize("data", [b"", b"x", b"\x80\x04K\x01.", b"pxgw", b"pxgw\x01" + b"\0" * 40])
async def test_a_value_from_elsewhere_is_a_miss_and_counted(
    store: RedisStore, raw: Any, facts: Facts, data: bytes
) -> None:
    for name in (NAME, "test:1:{a1}:list:s:all"):
        facts.clear()
        await raw.set(name, data)
        shelf = await store.get(HERE)
        assert (shelf.entry, shelf.listing_index) == (None, None)
        assert any(isinstance(fact, CorruptValue) for fact in facts)
    assert (await keep(store, SteeredClock())).outcome == "kept"  # and overwritten


async def test_a_value_of_another_format_version_is_left_alone_until_it_is_overwritten(
    store: RedisStore, raw: Any, facts: Facts
) -> None:
    await raw.set(NAME, b"pxgw\x02 something newer")
    assert (await store.get(HERE)).entry is None
    assert not [fact for fact in facts if isinstance(fact, CorruptValue)]


async def test_every_flipped_bit_and_every_cut_is_a_miss(store: RedisStore, raw: Any, clock: SteeredClock) -> None:
    await keep(store, clock)
    whole = await raw.get(NAME)
    for place in range(len(whole)):
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for spoilt in (flipped, whole[:place]):
            await raw.set(NAME, spoilt)
            assert (await store.get(HERE)).entry is None


async def test_another_pages_value_is_a_miss(store: RedisStore, raw: Any, clock: SteeredClock) -> None:
    await keep(store, clock)
    there = address(offset=10)
    await raw.set(f"test:1:{there.page}", await raw.get(NAME))
    assert (await store.get(there)).entry is None


async def test_a_value_of_another_type_is_a_miss_counted_and_overwritten(
    store: RedisStore, raw: Any, clock: SteeredClock, facts: Facts
) -> None:
    await raw.lpush(NAME, "x")
    await raw.lpush("test:1:{a1}:list:s:all", "x")
    assert (await store.get(HERE)).entry is None
    kept = await keep(store, clock)
    assert CorruptValue("not a string") in facts
    assert (await store.get(HERE)).entry == kept.entry


async def test_a_stopped_server_costs_one_timeout_and_after_five_nothing(
    store: RedisStore, calls: RedisCommands, real_redis: RealRedis, facts: Facts
) -> None:
    async def seconds_for_nothing() -> float | None:
        """What a look-up in vain costs; None if nothing was sent."""
        sent = facts.count_of(RedisCommand)
        began = time.monotonic()
        with pytest.raises(StoreDown):
            await store.get(HERE)
        return time.monotonic() - began if facts.count_of(RedisCommand) > sent else None

    real_redis.signal(signal.SIGSTOP)
    calls._timeout = 0.05  # the default, now that the server was there for all the rest
    try:
        took: list[float] = []
        free = 0
        while len(took) < 5:
            if (seconds := await seconds_for_nothing()) is not None:
                took.append(seconds)
            else:
                free += 1
            await asyncio.sleep(0.01)
        assert min(took) < 1.0  # a promise of 60 ms, on a machine that others use as well
        assert free > 0  # what follows at once does not pay again
        assert not calls.gone  # it may be there for others
        await asyncio.sleep(0.3)
        assert await seconds_for_nothing() is None
    finally:
        real_redis.signal(signal.SIGCONT)
    calls._timeout = REDIS_TIMEOUT
    await calls.ping()
    assert (await store.get(HERE)).entry is None
    assert [fact.up for fact in facts if isinstance(fact, RedisAvailabilityChanged)] == [True, False, True]


async def test_a_killed_server_is_down_and_used_again_when_it_is_back(
    store: RedisStore, calls: RedisCommands, real_redis: RealRedis, clock: SteeredClock
) -> None:
    epoch = (await store.get(HERE)).epoch
    real_redis.kill()
    with pytest.raises(StoreDown):
        await store.put(HERE, candidate(HERE, now=clock.now()), epoch)
    with pytest.raises(StoreDown):
        await store.purge(None)
    assert calls.gone  # its port refuses
    real_redis.start()
    await calls.ping()
    await store.epochs.beat()
    kept = await keep(store, clock)
    assert (await store.get(HERE)).entry == kept.entry


async def test_a_value_of_a_newer_format_version_is_not_overwritten(
    store: RedisStore, raw: Any, clock: SteeredClock
) -> None:
    await raw.set(NAME, b"pxgw\x02 something newer")
    with pytest.raises(StoreDown):
        await keep(store, clock)
    assert await raw.get(NAME) == b"pxgw\x02 something newer"


async def test_a_server_that_restarts_from_an_old_dump_brings_nothing_back(
    store: RedisStore, raw: Any, real_redis: RealRedis, calls: RedisCommands, clock: SteeredClock
) -> None:
    await keep(store, clock)
    await raw.save()
    await store.purge("a1")
    assert (await store.get(HERE)).entry is None
    real_redis.kill()
    real_redis.start()  # with what it knew before the purge
    await calls.ping()  # the connection that broke is replaced
    assert (await store.get(HERE)).entry is None
    kept = await keep(store, clock, started=1)
    assert (await store.get(HERE)).entry == kept.entry


@pytest.mark.parametrize("name", ["", "test:1:{a1}:epoch"])
async def test_an_epoch_of_another_type_is_made_anew(
    store: RedisStore, raw: Any, clock: SteeredClock, name: str
) -> None:
    name = name or await everything(raw)
    await raw.delete(name)
    await raw.lpush(name, "x")
    kept = await keep(store, clock)
    assert (await store.get(HERE)).entry == kept.entry


@pytest.mark.parametrize(
    "reply", [b"+OK\r\n", b":1\r\n", b"*0\r\n", b"$3\r\nabc\r\n", b":abc\r\n", b"HTTP/1.1 400\r\n\r\n"]
)
async def test_a_peer_that_is_no_redis_is_down(clock: SteeredClock, facts: Facts, reply: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(reply)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        calls = RedisCommands(connect(f"redis://127.0.0.1:{port}", 0.05), timeout=0.05, clock=clock, emit=facts)
        store = RedisStore(calls, Connections(), prefix="test", clock=clock, emit=facts)
        for _ in range(3):
            with pytest.raises(StoreDown):
                await store.get(HERE)
            with pytest.raises(StoreDown):
                await store.purge(None)
        assert not calls.gone
        await store.close()


async def test_a_full_server_still_reads(store: RedisStore, raw: Any, clock: SteeredClock, facts: Facts) -> None:
    kept = await keep(store, clock)
    await raw.config_set("maxmemory", "1")
    with pytest.raises(StoreDown):
        await keep(store, clock, started=1)
    assert (await store.get(HERE)).entry == kept.entry
    assert [fact.up for fact in facts if isinstance(fact, RedisAvailabilityChanged)] == [True]


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://h1,h2", "redis+sentinel://h1/service/db", "redis+sentinel:///service", "redis+cluster://h1/0",
        "redis+cluster://", "redis://host:port", "redis+sentinel://h1:x/service",
    ],
)  # fmt: skip
def test_a_url_that_makes_no_sense_is_told_without_its_password(url: str) -> None:
    with pytest.raises(BadStoreUrl) as told:
        connect(url.replace("://", "://user:s3cret@"), 0.05)
    assert "s3cret" not in str(told.value)


async def test_sentinel_and_cluster_urls_make_clients() -> None:
    for url in ("redis+sentinel://u:p@h1:1,h2/service/3", "redis+cluster://h1,h2:7000", "rediss://u:p@h/1"):
        client = connect(url, 0.05)
        await client.aclose()
