"""Several gateways around one Redis tell the same truth, and ask the vendor once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from harness import Play, playing, until
from real_redis import RealRedis
from redis.asyncio import Redis

from gateway.mock_vendor import MockVendor

AOI = "a1"


def assets(*names: str, status: str = "success") -> list[dict[str, Any]]:
    return [{"id": name, "status": status} for name in names]


@pytest.fixture
async def replicas(vendor: MockVendor, real_redis: RealRedis) -> AsyncIterator[list[Play]]:
    """Two gateways that hear each other."""
    vendor.set_assets(AOI, assets(*"abcdefghijklmno"))
    flags = {"upstream.base_url": vendor.url, "cache.url": real_redis.url}
    async with AsyncExitStack() as stack:
        plays = [await stack.enter_async_context(playing(flags)) for _ in range(2)]
        for play in plays:
            await hears(play)
        yield plays


async def hears(play: Play) -> None:
    await until(lambda: play.gateway._store._word.heard)  # type: ignore[attr-defined]


async def same_pages(plays: list[Play], query: str = "") -> None:
    """Every replica has the page in its memory, and answers from there."""
    for play in plays:
        assert (await play.page(AOI, query)).status == 200
        before = (await play.metrics())['gateway_cache_tier_lookups_total{result="hit",tier="memory"}']
        assert (await play.page(AOI, query)).cache.startswith("hit")
        after = (await play.metrics())['gateway_cache_tier_lookups_total{result="hit",tier="memory"}']
        assert after == before + 1


async def purge(play: Play, **order: Any) -> tuple[int, Any]:
    async with play.session.post(play.ops_url + "/admin/purge", json=order or {"all": True}) as response:
        return response.status, await response.json(content_type=None)


async def test_what_one_fetched_the_other_has(replicas: list[Play], vendor: MockVendor) -> None:
    one, two = replicas
    first = await one.page(AOI)
    second = await two.page(AOI)
    assert second.cache.startswith("hit")
    assert (second.body, second.headers["ETag"]) == (first.body, first.headers["ETag"])
    assert second.headers["X-Listing-Generation"] == first.headers["X-Listing-Generation"]
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("order", [{"aoi_id": AOI}, {"all": True}])
async def test_a_purge_is_seen_by_the_other_within_a_second(
    replicas: list[Play], vendor: MockVendor, order: dict[str, Any]
) -> None:
    one, two = replicas
    await same_pages(replicas)
    assert await purge(one, **order) == (200, {"purged": order})
    began = time.monotonic()
    while (reply := await two.page(AOI)).cache.startswith("hit"):
        assert time.monotonic() - began < 1.0
    assert reply.cache == "fwd=miss; fwd-status=200; stored"
    assert len(vendor.requests) == 2
    scope = "aoi" if "aoi_id" in order else "all"
    assert (await one.metrics())[f'gateway_cache_purges_total{{scope="{scope}"}}'] == 1


async def test_a_purge_leaves_other_aois_alone(replicas: list[Play], vendor: MockVendor) -> None:
    one, two = replicas
    await same_pages(replicas)
    assert (await purge(one, aoi_id="another"))[0] == 200
    await asyncio.sleep(0.3)  # time for a wrong word to arrive
    assert (await two.page(AOI)).cache.startswith("hit")


async def test_a_newer_page_replaces_the_others_copy(replicas: list[Play], vendor: MockVendor) -> None:
    vendor.set_assets(AOI, assets("a", "b", status="started"))
    await same_pages(replicas)
    one, two = replicas
    vendor.set_assets(AOI, assets("a", "b", status="success"))
    one.clock.skip(25)  # for this one the page is past its grace
    fresh = await one.page(AOI)
    assert b"success" in fresh.body
    async with asyncio.timeout(1):
        while (reply := await two.page(AOI)).body != fresh.body:
            pass
    assert reply.cache.startswith("hit")
    assert len(vendor.requests) == 2


async def test_a_new_generation_ends_the_others_pages(replicas: list[Play], vendor: MockVendor) -> None:
    one, two = replicas
    await same_pages(replicas)
    old = (await two.page(AOI)).headers["X-Listing-Generation"]
    vendor.set_assets(AOI, assets(*"abcdefghijklmnop"))
    changed = await one.page(AOI, "?offset=10")
    assert changed.headers["X-Listing-Generation"] != old
    assert (await one.metrics())["gateway_cache_generation_changes_total"] == 1
    async with asyncio.timeout(1):
        while (reply := await two.page(AOI)).headers["X-Listing-Generation"] == old:
            assert reply.cache.startswith("hit")
    assert reply.cache == "fwd=stale; fwd-status=200; stored"
    assert reply.headers["X-Listing-Generation"] == changed.headers["X-Listing-Generation"]
    assert (await two.page(AOI, "?offset=10")).cache.startswith("hit")


async def test_a_page_of_an_ended_generation_serves_only_if_the_vendor_fails(
    replicas: list[Play], vendor: MockVendor
) -> None:
    one, _ = replicas
    first = await one.page(AOI)
    vendor.set_assets(AOI, assets(*"abcdefghijklmnop"))
    await one.page(AOI, "?offset=10")
    vendor.set_behaviour(status=501)
    old = await one.page(AOI)
    assert (old.status, old.body) == (200, first.body)
    assert old.cache == "fwd=stale; fwd-status=501; detail=stale-if-error"
    vendor.reset()
    assert (await one.page(AOI)).cache == "fwd=stale; fwd-status=200; stored"


async def test_a_404_ends_the_generation(replicas: list[Play], vendor: MockVendor) -> None:
    one, _ = replicas
    await one.page(AOI)
    vendor.set_behaviour(status=404)
    assert (await one.page(AOI, "?offset=10")).status == 404
    assert (await one.page(AOI)).status == 404
    one.clock.skip(31)
    vendor.reset()
    assert (await one.page(AOI)).status == 200


async def test_a_purge_against_a_fetch_in_flight(replicas: list[Play], vendor: MockVendor) -> None:
    one, two = replicas
    vendor.set_behaviour(delay=0.6, times=1)
    waiting = asyncio.create_task(one.page(AOI))
    await until(lambda: len(vendor.requests) == 1)
    assert (await purge(two, aoi_id=AOI))[0] == 200
    await asyncio.sleep(0.1)  # until the word is heard
    # Nobody joins the flight from before the purge, on either side.
    assert (await two.page(AOI)).cache == "fwd=miss; fwd-status=200; stored"
    assert (await one.page(AOI)).cache.startswith("hit")
    assert len(vendor.requests) == 2
    reply = await waiting
    assert (reply.status, reply.cache) == (200, "fwd=miss; fwd-status=200")  # its waiters get it, nobody else
    assert (await one.page(AOI)).cache.startswith("hit")
    assert len(vendor.requests) == 2


async def test_two_fetches_that_straddle_a_change(replicas: list[Play], vendor: MockVendor) -> None:
    one, two = replicas
    vendor.set_behaviour(garbage=vendor.listing(AOI, 0, 10).decode(), delay=0.5, times=1)  # type: ignore[union-attr]
    early = asyncio.create_task(one.page(AOI))  # sees the list as it is now, and lands late
    await until(lambda: len(vendor.requests) == 1)
    vendor.set_assets(AOI, assets(*"abcdefghijklmnop"))
    late = await two.page(AOI, "?offset=10")  # sees it as it is then, and lands first
    assert late.cache == "fwd=miss; fwd-status=200; stored"
    reply = await early
    assert (reply.json["pagination"]["total"], reply.cache) == (15, "fwd=miss; fwd-status=200")
    assert reply.headers["X-Listing-Generation"] != late.headers["X-Listing-Generation"]
    again = await one.page(AOI)
    assert (again.json["pagination"]["total"], again.cache) == (16, "fwd=miss; fwd-status=200; stored")
    assert again.headers["X-Listing-Generation"] == late.headers["X-Listing-Generation"]
    assert (await two.page(AOI, "?offset=10")).cache.startswith("hit")


async def test_a_refresh_in_grace_against_a_newer_generation(replicas: list[Play], vendor: MockVendor) -> None:
    one, two = replicas
    await same_pages(replicas)
    one.clock.skip(310)
    vendor.set_behaviour(garbage=vendor.listing(AOI, 0, 10).decode(), delay=0.5, times=1)  # type: ignore[union-attr]
    assert (await one.page(AOI)).cache.startswith("hit; ttl=-")  # which begins a refresh that sees the old list
    await until(lambda: len(vendor.requests) == 2)
    two.clock.skip(311)
    vendor.set_assets(AOI, assets(*"abcdefghijklmnop"))
    new = await two.page(AOI, "?offset=10")
    await until(lambda: not one.gateway._cache._errands._flights._under_way)
    after = await one.page(AOI)  # the late refresh has not brought the old generation back
    assert after.headers["X-Listing-Generation"] == new.headers["X-Listing-Generation"]
    assert after.json["pagination"]["total"] == 16


async def test_one_refresh_in_grace_over_all_replicas(replicas: list[Play], vendor: MockVendor) -> None:
    await same_pages(replicas)
    vendor.set_behaviour(delay=0.3)
    for play in replicas:
        play.clock.skip(310)
    replies = await asyncio.gather(*(play.page(AOI) for play in replicas for _ in range(20)))
    assert {reply.cache[:9] for reply in replies} == {"hit; ttl="}
    for play in replicas:
        await until(lambda play=play: not play.gateway._cache._errands._flights._under_way)  # type: ignore[misc]
        assert (await play.page(AOI)).headers["Age"] == "0"
    assert len(vendor.requests) == 2


async def test_misses_on_both_are_one_call_and_share_a_failure(replicas: list[Play], vendor: MockVendor) -> None:
    vendor.set_behaviour(delay=0.4)
    replies = await asyncio.gather(*(play.page(AOI) for play in replicas for _ in range(30)))
    assert {reply.status for reply in replies} == {200}
    assert sum(reply.cache == "fwd=miss; fwd-status=200; stored" for reply in replies) == 1
    assert len(vendor.requests) == 1
    vendor.set_behaviour(delay=0.4, status=429, retry_after=7)
    replies = await asyncio.gather(*(play.page("a2") for play in replicas for _ in range(30)))
    assert {(reply.status, reply.code) for reply in replies} == {(503, "upstream_rate_limited")}
    assert {reply.headers["Retry-After"] for reply in replies} == {"7"}
    assert len(vendor.requests) == 2


async def test_pages_of_an_outage_are_told_afterwards_and_the_later_fetch_wins(
    vendor: MockVendor, real_redis: RealRedis
) -> None:
    vendor.set_assets(AOI, assets("a", status="started"))
    flags = {"upstream.base_url": vendor.url, "cache.url": real_redis.url}
    async with playing(flags) as one, playing(flags) as two:
        for play in (one, two):
            await hears(play)
        await same_pages([one, two])  # fresh for ten seconds in Redis, and in both memories
        real_redis.signal(signal.SIGSTOP)
        try:
            await until(lambda: not one.gateway._store._word.heard)  # type: ignore[attr-defined]
            vendor.set_assets(AOI, assets("a", "b"))
            one.clock.skip(15)
            one.gateway._store._max_age = 60  # type: ignore[attr-defined]
            assert (await one.page(AOI)).status == 200  # in grace; the refresh lands in memory alone
            await until(lambda: not one.gateway._cache._errands._flights._under_way)
            during = await one.page(AOI)
            assert during.json["pagination"]["total"] == 2
        finally:
            real_redis.signal(signal.SIGCONT)
        await hears(one)
        await hears(two)
        after = await one.page(AOI)
        assert (after.body, after.cache[:3]) == (during.body, "hit")
        async with asyncio.timeout(2):
            while (reply := await two.page(AOI)).body != during.body:
                pass
        assert reply.headers["X-Listing-Generation"] == after.headers["X-Listing-Generation"]
        assert len(vendor.requests) == 2


async def test_a_purge_while_redis_is_down_is_503_and_clears_memory(
    replicas: list[Play], real_redis: RealRedis
) -> None:
    one, _ = replicas
    await same_pages(replicas)
    real_redis.kill()
    status, body = await purge(one, aoi_id=AOI)
    assert (status, body["error"]["code"]) == (503, "store_unavailable")
    assert (await one.page(AOI)).cache.startswith("fwd=miss; fwd-status=200")
    assert (await one.page(AOI)).cache.startswith("hit")  # memory goes on by itself


async def test_copies_live_on_while_redis_is_gone(
    replicas: list[Play], vendor: MockVendor, real_redis: RealRedis
) -> None:
    one, _ = replicas
    await same_pages(replicas)
    real_redis.kill()
    await until(lambda: not one.gateway._store._word.heard)  # type: ignore[attr-defined]
    one.gateway._store._max_age = 0  # type: ignore[attr-defined]
    for _ in range(3):
        assert (await one.page(AOI)).cache.startswith("hit")
    assert len(vendor.requests) == 1


async def test_copies_end_when_redis_is_silent_for_long(
    replicas: list[Play], vendor: MockVendor, real_redis: RealRedis
) -> None:
    one, _ = replicas
    await same_pages(replicas)
    real_redis.signal(signal.SIGSTOP)
    try:
        await until(lambda: not one.gateway._store._word.heard)  # type: ignore[attr-defined]
        assert (await one.page(AOI)).cache.startswith("hit")
        one.gateway._store._max_age = 0  # type: ignore[attr-defined]
        assert (await one.page(AOI)).cache.startswith("fwd=miss")
        assert len(vendor.requests) == 2
    finally:
        real_redis.signal(signal.SIGCONT)


async def test_a_lost_subscription_ends_copies_within_their_age(
    replicas: list[Play], vendor: MockVendor, real_redis: RealRedis
) -> None:
    one, two = replicas
    await same_pages(replicas)
    two.gateway._tasks[0].cancel()  # nobody listens on this side any more, while commands work
    await until(lambda: not two.gateway._store._word.heard)  # type: ignore[attr-defined]
    two.gateway._store._max_age = 0.3  # type: ignore[attr-defined]
    assert (await purge(one, aoi_id=AOI))[0] == 200
    began = time.monotonic()
    while (await two.page(AOI)).cache.startswith("hit"):
        assert time.monotonic() - began < 1.0
    assert len(vendor.requests) == 2


async def test_redis_that_comes_back_empty_is_a_miss(
    replicas: list[Play], vendor: MockVendor, real_redis: RealRedis
) -> None:
    one, two = replicas
    await same_pages(replicas)
    real_redis.kill()
    await until(lambda: not one.gateway._store._word.heard)  # type: ignore[attr-defined]
    real_redis.start()
    for play in replicas:
        await hears(play)
    assert (await one.page(AOI)).cache.startswith("fwd=")
    assert (await two.page(AOI)).cache.startswith("hit")
    assert len(vendor.requests) == 2


async def test_a_clock_that_jumps_expires_nothing_at_once(replicas: list[Play], vendor: MockVendor) -> None:
    one, _ = replicas
    await one.page(AOI)
    one.clock.skip(-3600)
    reply = await one.page(AOI)
    assert (reply.headers["Age"], reply.cache[:3]) == ("0", "hit")
    one.clock.skip(3600)
    assert (await one.page(AOI)).cache.startswith("hit")
    assert len(vendor.requests) == 1


async def test_a_cluster_serves_as_well(vendor: MockVendor, real_cluster: RealRedis) -> None:
    vendor.set_assets(AOI, assets(*"abc"))
    flags = {"upstream.base_url": vendor.url, "cache.url": real_cluster.url}
    async with playing(flags) as one, playing(flags) as two:
        for play in (one, two):
            await hears(play)
        vendor.set_behaviour(delay=0.3)
        replies = await asyncio.gather(*(play.page(AOI) for play in (one, two) for _ in range(10)))
        assert {reply.status for reply in replies} == {200}
        assert len(vendor.requests) == 1
        assert await purge(two, aoi_id=AOI) == (200, {"purged": {"aoi_id": AOI}})
        async with asyncio.timeout(1):
            while (await one.page(AOI)).cache.startswith("hit"):
                pass
        assert len(vendor.requests) == 2


async def test_waiters_take_what_was_fetched_for_them_however_short_it_lives(
    vendor: MockVendor, real_redis: RealRedis
) -> None:
    vendor.set_assets(AOI, assets("a", status="started"))
    flags = {"upstream.base_url": vendor.url, "cache.url": real_redis.url, "cache.lifetimes.in_progress": 0}
    async with playing(flags) as one, playing(flags) as two:
        for play in (one, two):
            await hears(play)
        vendor.set_behaviour(delay=0.4)
        replies = await asyncio.gather(*(play.page(AOI) for play in (one, two) for _ in range(10)))
        assert {reply.status for reply in replies} == {200}
        assert len(vendor.requests) == 1
        await one.page(AOI)  # and nobody after them
        assert len(vendor.requests) == 2


async def test_a_full_redis_leaves_memory_to_cache_new_aois(
    replicas: list[Play], vendor: MockVendor, real_redis: RealRedis
) -> None:
    one, _ = replicas
    async with Redis.from_url(real_redis.url) as raw:
        await raw.config_set("maxmemory", "1")
    for _ in range(3):
        assert (await one.page(AOI)).status == 200
    assert len(vendor.requests) == 1


async def test_a_newer_format_version_is_left_alone_and_memory_serves(
    replicas: list[Play], vendor: MockVendor, real_redis: RealRedis
) -> None:
    one, _ = replicas
    async with Redis.from_url(real_redis.url) as raw:
        await one.page(AOI)
        names: list[Any] = await raw.keys()
        name = next(name for name in names if b":page:" in name)
        newer = b"pxgw\xff newer than we know"
        await raw.set(name, newer)
        assert (await purge(one, aoi_id=AOI))[0] == 200
        for _ in range(3):
            assert (await one.page(AOI)).status == 200
        value: Any = await raw.get(name)
        assert value == newer
    assert len(vendor.requests) == 2


async def test_a_subscription_that_is_cut_in_silence_is_noticed(vendor: MockVendor, real_redis: RealRedis) -> None:
    """Bytes stop on the listening connection alone: it neither brings word nor closes."""
    vendor.set_assets(AOI, assets("a"))
    async with stalling(real_redis.port) as (port, stall):
        flags = {"upstream.base_url": vendor.url, "cache.memory_max_age": 0.5}
        async with (
            playing({**flags, "cache.url": real_redis.url}) as one,
            playing({**flags, "cache.url": f"redis://127.0.0.1:{port}/0"}) as two,
        ):
            for play in (one, two):
                await hears(play)
            await same_pages([one, two])
            stall()
            assert (await purge(one, aoi_id=AOI))[0] == 200
            began = time.monotonic()
            while (await two.page(AOI)).cache.startswith("hit"):
                assert time.monotonic() - began < 5
            assert len(vendor.requests) == 2


@asynccontextmanager
async def stalling(port: int) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """A way to Redis on which connections that subscribed can be stalled, from Redis to us."""
    stalled = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes], back: bool) -> None:
        try:
            while data := await reader.read(65_536):
                if not back:
                    seen.append(data)
                elif stalled.is_set() and any(b"SUBSCRIBE" in piece for piece in seen):
                    continue
                writer.write(data)
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        seen: list[bytes] = []
        for work in (carry(reader, back, seen, False), carry(there, writer, seen, True)):
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], stalled.set
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_answer_that_word_has_overtaken_is_not_trusted(replicas: list[Play], vendor: MockVendor) -> None:
    """A look-up of Redis is answered, then another replica files a change, and its word arrives first."""
    one, two = replicas
    assert (await one.page(AOI)).status == 200
    store = two.gateway._store
    look_up, may_go, asked = store._far.look_up, asyncio.Event(), asyncio.Event()  # type: ignore[attr-defined]

    async def held_up(address: Any) -> Any:
        shelf = await look_up(address)
        asked.set()
        await may_go.wait()
        return shelf

    store._far.look_up = held_up  # type: ignore[attr-defined]
    late = asyncio.create_task(two.page(AOI))
    await asked.wait()
    vendor.set_assets(AOI, assets(*"abcdefghijklmnop"))
    changed = await one.page(AOI, "?offset=10")
    await until(lambda: bool(store._told))  # type: ignore[attr-defined]
    store._far.look_up = look_up  # type: ignore[attr-defined]
    may_go.set()
    assert (await late).status == 200
    after = await two.page(AOI)
    assert after.headers["X-Listing-Generation"] == changed.headers["X-Listing-Generation"]


async def test_a_refusal_of_the_query_is_shared_too(replicas: list[Play], vendor: MockVendor) -> None:
    vendor.set_behaviour(delay=0.4, status=422)
    replies = await asyncio.gather(*(play.page("a2") for play in replicas for _ in range(10)))
    assert {reply.status for reply in replies} == {422}
    assert len(vendor.requests) == 1
