"""What is particular to Redis: how it fails, what it refuses to read, and how keys look."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator

import pytest
from entries import Facts, entry
from harness import SteeredClock
from real_redis import RealRedis
from redis.asyncio import Redis

from gateway.core.errors import StoreDown
from gateway.core.facts import CorruptValue, RedisCommand, RedisWent
from gateway.stores.redis import RedisStore
from gateway.stores.redis_client import BadStoreUrl, connect

KEY = "{a1}:s:offset=0&limit=10"
NAME = f"test:1:{KEY}"


@pytest.fixture
def facts() -> Facts:
    return Facts()


@pytest.fixture
def clock() -> SteeredClock:
    return SteeredClock()


@pytest.fixture
async def raw(real_redis: RealRedis) -> AsyncIterator[Redis]:
    client = Redis.from_url(real_redis.url)
    yield client
    await client.aclose()


@pytest.fixture
async def store(real_redis: RealRedis, clock: SteeredClock, facts: Facts) -> AsyncIterator[RedisStore]:
    made = RedisStore(connect(real_redis.url, 0.05), prefix="test", timeout=0.05, clock=clock, observe=facts)
    await made.ping()
    yield made
    await made.close()


async def test_keys_start_with_prefix_and_version_hold_the_aoi_in_a_hash_tag_and_expire(
    store: RedisStore, raw: Redis, clock: SteeredClock
) -> None:
    await store.put(entry(KEY, now=clock.now()))
    assert await raw.keys() == [NAME.encode()]
    assert 29_000 < await raw.pttl(NAME) <= 30_000


@pytest.mark.parametrize("data", [b"", b"x", b"\x80\x04K\x01.", b"pxgw", b"pxgw\x01" + b"\0" * 40])
async def test_a_value_from_elsewhere_is_a_miss_and_counted(
    store: RedisStore, raw: Redis, facts: Facts, data: bytes
) -> None:
    await raw.set(NAME, data)
    assert await store.get(KEY) is None
    assert any(isinstance(fact, CorruptValue) for fact in facts)


async def test_every_flipped_bit_and_every_cut_is_a_miss(store: RedisStore, raw: Redis, clock: SteeredClock) -> None:
    whole = entry(KEY, now=clock.now()).encode()
    for place in range(len(whole)):
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for spoilt in (flipped, whole[:place]):
            await raw.set(NAME, spoilt)
            assert await store.get(KEY) is None


async def test_another_pages_value_is_a_miss(store: RedisStore, raw: Redis, clock: SteeredClock) -> None:
    await raw.set(NAME, entry("{a2}:s:offset=0&limit=10", now=clock.now()).encode())
    assert await store.get(KEY) is None


async def test_a_value_of_another_type_is_a_miss_and_overwritten(
    store: RedisStore, raw: Redis, clock: SteeredClock, facts: Facts
) -> None:
    await raw.lpush(NAME, "x")
    assert await store.get(KEY) is None
    assert CorruptValue("not an entry") in facts
    kept = entry(KEY, now=clock.now())
    await store.put(kept)
    assert await store.get(KEY) == kept


async def test_a_stopped_server_costs_one_timeout_and_after_five_nothing(
    store: RedisStore, real_redis: RealRedis, facts: Facts
) -> None:
    real_redis.signal(signal.SIGSTOP)
    try:
        for _ in range(5):
            began = time.monotonic()
            with pytest.raises(StoreDown):
                await store.get(KEY)
            assert time.monotonic() - began < 0.5  # a promise of 60 ms, on a machine that others use as well
        sent = len([fact for fact in facts if isinstance(fact, RedisCommand)])
        with pytest.raises(StoreDown):
            await store.get(KEY)
        assert len([fact for fact in facts if isinstance(fact, RedisCommand)]) == sent
    finally:
        real_redis.signal(signal.SIGCONT)
    await store.ping()
    assert await store.get(KEY) is None
    assert [fact.up for fact in facts if isinstance(fact, RedisWent)] == [True, False, True]


async def test_a_killed_server_is_down_and_used_again_when_it_is_back(
    store: RedisStore, real_redis: RealRedis, clock: SteeredClock
) -> None:
    real_redis.kill()
    with pytest.raises(StoreDown):
        await store.put(entry(KEY, now=clock.now()))
    real_redis.start()
    await store.ping()
    kept = entry(KEY, now=clock.now())
    await store.put(kept)
    assert await store.get(KEY) == kept


async def test_a_full_server_still_reads(store: RedisStore, raw: Redis, clock: SteeredClock, facts: Facts) -> None:
    kept = entry(KEY, now=clock.now())
    await store.put(kept)
    await raw.config_set("maxmemory", "1")
    with pytest.raises(StoreDown):
        await store.put(entry("{a2}:x", now=clock.now()))
    assert await store.get(KEY) == kept
    assert facts[-2].result == "ok"  # type: ignore[attr-defined]
    assert [fact.up for fact in facts if isinstance(fact, RedisWent)] == [True]


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
