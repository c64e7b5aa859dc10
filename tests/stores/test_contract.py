"""What holds of every Store: one suite over memory, fakeredis and a real server, each alone and in tiers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import NamedTuple

import fakeredis
import pytest
from entries import entry
from harness import SteeredClock
from real_redis import RealRedis

from gateway.stores.base import Store
from gateway.stores.memory import MemoryStore
from gateway.stores.redis import RedisStore
from gateway.stores.redis_client import Client, connect
from gateway.stores.tiered import TieredStore


def ignore(_: NamedTuple) -> None:
    """No sink."""


def over(client: Client, clock: SteeredClock) -> RedisStore:
    return RedisStore(client, prefix="test", timeout=1.0, clock=clock, observe=ignore)


@pytest.fixture
def clock() -> SteeredClock:
    return SteeredClock()


@pytest.fixture(params=["memory", "fakeredis", "redis", "tiered fakeredis", "tiered redis"])
async def store(request: pytest.FixtureRequest, clock: SteeredClock) -> AsyncIterator[Store]:
    kind: str = request.param
    if kind.endswith("fakeredis"):
        far = over(fakeredis.FakeAsyncRedis(), clock)
    elif kind.endswith("redis"):
        server: RealRedis = request.getfixturevalue("real_redis")
        far = over(connect(server.url, 1.0), clock)
    made: Store
    if kind.startswith("tiered"):
        made = TieredStore(MemoryStore(1_000_000, clock, ignore), far, clock)
    elif kind == "memory":
        made = MemoryStore(1_000_000, clock, ignore)
    else:
        made = far
    yield made
    await made.close()


async def test_what_was_put_is_got(store: Store, clock: SteeredClock) -> None:
    kept = entry(now=clock.now())
    await store.put(kept)
    assert await store.get(kept.key) == kept


async def test_nothing_is_nothing(store: Store) -> None:
    assert await store.get("{a1}:s:offset=0&limit=10") is None


async def test_an_expired_entry_is_still_there_while_it_is_kept(store: Store, clock: SteeredClock) -> None:
    kept = entry(now=clock.now() - 25)
    await store.put(kept)
    assert await store.get(kept.key) == kept


async def test_an_entry_past_its_last_use_is_not_kept(store: Store, clock: SteeredClock) -> None:
    past = entry(now=clock.now() - 31)
    await store.put(past)
    assert await store.get(past.key) is None


async def test_a_later_fetch_replaces_an_earlier_one(store: Store, clock: SteeredClock) -> None:
    await store.put(entry(now=clock.now(), body=b"old"))
    new = entry(now=clock.now(), started=1, body=b"new")
    await store.put(new)
    assert await store.get(new.key) == new


async def test_keys_do_not_mix(store: Store, clock: SteeredClock) -> None:
    one = entry("{a1}:s:offset=0&limit=10", now=clock.now(), body=b"one")
    two = entry("{a1}:s:offset=10&limit=10", now=clock.now(), body=b"two")
    await store.put(one)
    await store.put(two)
    assert await store.get(one.key) == one
    assert await store.get(two.key) == two


async def test_an_entry_without_gzip_and_a_404_come_back_as_they_were(store: Store, clock: SteeredClock) -> None:
    now = clock.now()
    bare = replace(entry(now=now), status=404, gzipped=None, generation="", grace_until=now + 10, keep_until=now + 10)
    await store.put(bare)
    assert await store.get(bare.key) == bare


async def test_it_answers_a_ping(store: Store) -> None:
    await store.ping()
