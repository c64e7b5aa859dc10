"""Several gateways around one Redis tell the same truth, and ask the vendor once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from harness import PATIENCE, Play, Reply, playing, until
from holding_vendor import HoldingVendor
from real_redis import RealRedis
from redis.asyncio import Redis
from relay import relaying

from gateway.core.query import AssetsQuery

AOI = "a1"
# What a Redis that hangs costs in plays of one. It is long, because the plays begin with one that is well.
HANGING = {"cache.redis_timeout": 2}


def assets(*names: str, status: str = "success") -> list[dict[str, Any]]:
    return [{"id": name, "status": status} for name in names]


@pytest.fixture
async def replicas(vendor: HoldingVendor, real_redis: RealRedis) -> AsyncIterator[list[Play]]:
    """Two gateways that hear each other."""
    vendor.set_assets(AOI, assets(*"abcdefghijklmno"))
    # A page with unfinished assets, too, outlives a test that takes long.
    flags = {"upstream.base_url": vendor.url, "cache.url": real_redis.url, "cache.lifetimes.in_progress": 100}
    async with AsyncExitStack() as stack:
        plays = [await stack.enter_async_context(playing(flags)) for _ in range(2)]
        for play in plays:
            await hears(play)
        yield plays


async def hears(play: Play) -> None:
    await until(lambda: play.gateway._store._validity.is_live)  # type: ignore[attr-defined]


async def lookups(play: Play, result: str, tier: str) -> float:
    return (await play.metrics())[f'gateway_cache_tier_lookups_total{{result="{result}",tier="{tier}"}}']


async def same_pages(plays: list[Play], query: str = "") -> None:
    """Every replica has the page in its memory, and answers from there."""
    for play in plays:
        assert (await play.page(AOI, query)).status == 200
        before = await lookups(play, "hit", "memory")
        async with asyncio.timeout(PATIENCE):
            while await lookups(play, "hit", "memory") == before:  # as it is while a busy machine lets no word through
                assert (await play.page(AOI, query)).cache.startswith("hit")


async def at_once(plays: list[Play], vendor: HoldingVendor, aoi_id: str, each: int) -> list[Reply]:
    """The replies to so many requests on each replica, all of which are there before the vendor answers."""
    before = sum([await lookups(play, "miss", "redis") for play in plays])
    let_go = vendor.hold()
    asking = [asyncio.create_task(play.page(aoi_id)) for play in plays for _ in range(each)]
    async with asyncio.timeout(PATIENCE):
        # Each has looked in vain, and who asks the vendor has done so twice.
        while sum([await lookups(play, "miss", "redis") for play in plays]) < before + len(asking) + 1:
            pass
    let_go.set()
    return await asyncio.gather(*asking)


async def soon(condition: Callable[[], Awaitable[bool]]) -> float:
    """Ask again until it is so; how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            pass
    return time.monotonic() - began


async def purge(play: Play, **order: Any) -> tuple[int, Any]:
    async with play.session.post(play.ops_url + "/admin/purge", json=order or {"all": True}) as response:
        return response.status, await response.json(content_type=None)


async def is_no_hit(play: Play) -> bool:
    return not (await play.page(AOI)).cache.startswith("hit")


async def test_what_one_fetched_the_other_has(replicas: list[Play], vendor: HoldingVendor) -> None:
    one, two = replicas
    first = await one.page(AOI)
    second = await two.page(AOI)
    assert second.cache.startswith("hit")
    assert (second.body, second.headers["ETag"]) == (first.body, first.headers["ETag"])
    assert second.headers["X-Listing-Generation"] == first.headers["X-Listing-Generation"]
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("order", [{"aoi_id": AOI}, {"all": True}])
async def test_a_purge_is_seen_by_the_other_within_a_second(
    replicas: list[Play], vendor: HoldingVendor, order: dict[str, Any]
) -> None:
    one, two = replicas

    async def seen_by_two() -> bool:
        reply = await two.page(AOI)
        assert reply.cache.startswith("hit") or reply.cache == "fwd=miss; fwd-status=200; stored"
        return not reply.cache.startswith("hit")

    took: list[float] = []
    while not took or (took[-1] >= 1.0 and len(took) < 4):  # a machine that stalls may keep word for longer
        await same_pages(replicas)
        assert await purge(one, **order) == (200, {"purged": order})
        took.append(await soon(seen_by_two))
        assert len(vendor.requests) == 1 + len(took)
    assert took[-1] < 1.0
    scope = "aoi" if "aoi_id" in order else "all"
    assert (await one.metrics())[f'gateway_cache_purges_total{{scope="{scope}"}}'] == len(took)


@pytest.mark.parametrize("order", [{"aoi_id": AOI, "soft": True}, {"all": True, "soft": True}])
async def test_a_soft_purge_ends_freshness_on_every_replica_and_leaves_a_fallback(
    replicas: list[Play], vendor: HoldingVendor, order: dict[str, Any]
) -> None:
    one, two = replicas
    await same_pages(replicas)
    assert await purge(one, **order) == (200, {"purged": order})
    vendor.set_behaviour(status=501)
    await soon(partial(is_no_hit, two))
    for play in replicas:
        assert (await play.page(AOI)).cache == "fwd=stale; fwd-status=501; detail=stale-if-error"
    vendor.reset()
    assert (await two.page(AOI)).cache == "fwd=stale; fwd-status=200; stored"
    assert (await one.page(AOI)).cache.startswith("hit")
    scope = "aoi_soft" if "aoi_id" in order else "all_soft"
    assert (await one.metrics())[f'gateway_cache_purges_total{{scope="{scope}"}}'] == 1


@pytest.mark.parametrize("order", [{"aoi_id": AOI}, {"all": True}])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_purge_that_a_cut_subscription_missed_holds_when_redis_ends(
    vendor: HoldingVendor, real_redis: RealRedis, order: dict[str, Any], end: signal.Signals
) -> None:
    vendor.set_assets(AOI, assets(*"abcdefghijklmnopqrstuvwxyz"))
    flags = {"upstream.base_url": vendor.url, "cache.url": real_redis.url, "cache.memory_max_age": 1.0}
    async with playing(flags) as one, playing(flags) as two, Redis.from_url(real_redis.url) as raw:
        for play in (one, two):
            await hears(play)
        await same_pages([one, two])
        await same_pages([one, two], "?offset=10")
        session = two.gateway._store._validity.session  # type: ignore[attr-defined]
        await raw.client_kill_filter(_type="pubsub")
        assert (await purge(one, **order))[0] == 200
        await until(lambda: two.gateway._store._validity.session > session)  # type: ignore[attr-defined]
        await hears(two)
        real_redis.signal(end)
        try:
            await until(lambda: not two.gateway._store._validity.is_live)  # type: ignore[attr-defined]
            two.clock.pass_by(2)
            assert (await two.page(AOI, "?offset=20")).cache.startswith("fwd=miss")  # which proves this page alone
            for query in ("", "?offset=10"):
                assert (await two.page(AOI, query)).cache.startswith("fwd=miss")
        finally:
            real_redis.signal(signal.SIGCONT)


async def test_a_purge_leaves_other_aois_alone(replicas: list[Play], vendor: HoldingVendor) -> None:
    one, two = replicas
    await same_pages(replicas)
    session = two.gateway._store._validity.session  # type: ignore[attr-defined]
    assert (await purge(one, aoi_id="another"))[0] == 200
    store = two.gateway._store
    await until(lambda: "another" in store._validity._purged._aois or store._validity.session > session)  # type: ignore[attr-defined]
    assert (await two.page(AOI)).cache.startswith("hit")
    assert len(vendor.requests) == 1


async def test_a_page_that_memory_had_no_room_for_is_all_that_redis_is_asked_for(
    replicas: list[Play], vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    """A long listing's directory is larger than a page, and was told once."""
    one, _ = replicas
    await same_pages(replicas)
    where = one.gateway._cache._lookup.address(AssetsQuery(AOI))
    session, near = one.gateway._store._validity.session, one.gateway._store._local  # type: ignore[attr-defined]
    read: list[bytes] = []
    async with Redis.from_url(real_redis.url) as raw, raw.monitor() as monitor:

        async def listen() -> None:
            while True:
                read.append((await monitor.next_command())["command"].encode())

        listening = asyncio.create_task(listen())
        near.drop(where.page)
        reply = await one.page(AOI)
        assert reply.cache.startswith("hit")
        await until(lambda: any(command.startswith(b"MGET") for command in read))
        listening.cancel()
    assert one.gateway._store._validity.session > session or not any(  # type: ignore[attr-defined]
        command.startswith(b"MGET") and b":list:" in command for command in read
    )
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("left", [None, b"pxgw\x01 and nothing that makes sense"])
async def test_a_page_that_is_not_there_after_all_is_fetched(
    left: bytes | None, replicas: list[Play], vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    one, _ = replicas
    await same_pages(replicas)
    where = one.gateway._cache._lookup.address(AssetsQuery(AOI))
    async with Redis.from_url(real_redis.url) as raw:
        name = f"pixxel-gateway:1:{where.page}"
        assert await (raw.delete(name) if left is None else raw.set(name, left))
    one.gateway._store._local.drop(where.page)  # type: ignore[attr-defined]
    before = [await lookups(one, "miss", tier) for tier in ("memory", "redis")]
    assert (await one.page(AOI)).cache.startswith("fwd=miss")
    assert len(vendor.requests) == 2
    # For the page, for a window of others, and once more in the flight; asking for the page alone does not count.
    metrics = await one.metrics()
    memory, redis = [await lookups(one, "miss", tier) for tier in ("memory", "redis")]
    assert (memory - before[0], redis - before[1]) == (2, 3)
    assert metrics["gateway_cache_corrupt_total"] == (0 if left is None else 3)


async def test_a_page_of_a_generation_that_nobody_has_told_of_yet(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    vendor.set_assets(AOI, assets("a"))
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relaying(real_redis.port))
        flags = {"upstream.base_url": vendor.url, "cache.prefetch": 0}
        one = await stack.enter_async_context(playing({**flags, "cache.url": relay.url}))
        two = await stack.enter_async_context(playing({**flags, "cache.url": real_redis.url}))
        await hears(one)
        await same_pages([one, two])
        vendor.set_assets(AOI, assets("b", "a"))
        let_go = relay.hold(b"SUBSCRIBE")
        for play in (one, two):
            play.clock.skip(310.0)
        assert (await two.page(AOI)).cache.startswith("hit; ttl=-")
        await until(lambda: len(vendor.requests) == 2)
        await two.settled()
        one.gateway._store._local.drop(one.gateway._cache._lookup.address(AssetsQuery(AOI)).page)  # type: ignore[attr-defined]
        reply = await one.page(AOI)
        let_go.set()
        assert reply.cache.startswith("hit")
        assert b'"total":2' in reply.body
        assert len(vendor.requests) == 2


async def test_a_page_that_is_purged_while_redis_is_asked_for_it(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    vendor.set_assets(AOI, assets("a"))
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relaying(real_redis.port))
        flags = {"upstream.base_url": vendor.url, "cache.url": relay.url, "cache.prefetch": 0}
        one = await stack.enter_async_context(playing(flags))
        await hears(one)
        await same_pages([one])
        one.gateway._store._local.drop(one.gateway._cache._lookup.address(AssetsQuery(AOI)).page)  # type: ignore[attr-defined]
        let_go = relay.hold(b":page:")
        asking = asyncio.create_task(one.page(AOI))
        await until(lambda: relay.holding > 0)
        purging = asyncio.create_task(one.gateway._cache.purge(AOI))
        await asyncio.sleep(0)  # its own memory is purged at once
        let_go.set()
        await purging
        assert (await asking).cache.startswith("fwd=miss")
        assert len(vendor.requests) == 2


async def test_a_newer_page_replaces_the_others_copy(replicas: list[Play], vendor: HoldingVendor) -> None:
    vendor.set_assets(AOI, assets("a", "b", status="started"))
    await same_pages(replicas)
    one, two = replicas
    vendor.set_assets(AOI, assets("a", "b", status="success"))
    for play in replicas:
        play.clock.skip(105)
    assert b"started" in (await one.page(AOI)).body  # in grace; the refresh brings the new one
    await one.settled()
    fresh = await one.page(AOI)
    assert b"success" in fresh.body

    async def newer() -> bool:
        reply = await two.page(AOI)
        assert reply.cache.startswith("hit")
        return reply.body == fresh.body

    await soon(newer)
    assert len(vendor.requests) == 2


async def test_a_new_generation_ends_the_others_pages(replicas: list[Play], vendor: HoldingVendor) -> None:
    one, two = replicas
    await same_pages(replicas)
    old = (await two.page(AOI)).headers["X-Listing-Generation"]
    vendor.set_assets(AOI, assets(*"abcdefghijklmnop"))
    changed = await one.page(AOI, "?offset=10")
    assert changed.headers["X-Listing-Generation"] != old
    assert (await one.metrics())["gateway_cache_generation_changes_total"] == 1
    async with asyncio.timeout(PATIENCE):
        while (reply := await two.page(AOI)).headers["X-Listing-Generation"] == old:
            assert reply.cache.startswith("hit")
    assert reply.cache == "fwd=stale; fwd-status=200; stored"
    assert reply.headers["X-Listing-Generation"] == changed.headers["X-Listing-Generation"]
    assert (await two.page(AOI, "?offset=10")).cache.startswith("hit")


async def test_a_page_of_an_ended_generation_serves_only_if_the_vendor_fails(
    replicas: list[Play], vendor: HoldingVendor
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


async def test_a_404_ends_the_generation(replicas: list[Play], vendor: HoldingVendor) -> None:
    one, _ = replicas
    await one.page(AOI)
    vendor.set_behaviour(status=404)
    assert (await one.page(AOI, "?offset=10")).status == 404
    assert (await one.page(AOI)).status == 404
    one.clock.skip(31)
    vendor.reset()
    assert (await one.page(AOI)).status == 200


async def test_a_purge_against_a_fetch_in_flight(replicas: list[Play], vendor: HoldingVendor) -> None:
    one, two = replicas
    let_go = vendor.hold(times=1)
    waiting = asyncio.create_task(one.page(AOI))
    await until(lambda: len(vendor.requests) == 1)
    assert (await purge(two, aoi_id=AOI))[0] == 200
    # Nobody joins the flight from before the purge, on either side.
    assert (await two.page(AOI)).cache == "fwd=miss; fwd-status=200; stored"
    assert (await one.page(AOI)).cache.startswith("hit")
    assert len(vendor.requests) == 2
    let_go.set()
    reply = await waiting
    assert (reply.status, reply.cache) == (200, "fwd=miss; fwd-status=200")  # its waiters get it, nobody else
    assert (await one.page(AOI)).cache.startswith("hit")
    assert len(vendor.requests) == 2


async def test_two_fetches_that_straddle_a_change(replicas: list[Play], vendor: HoldingVendor) -> None:
    one, two = replicas
    let_go = vendor.hold(times=1)
    early = asyncio.create_task(one.page(AOI))  # sees the list as it is now, and lands late
    await until(lambda: len(vendor.requests) == 1)
    vendor.set_assets(AOI, assets(*"abcdefghijklmnop"))
    late = await two.page(AOI, "?offset=10")  # sees it as it is then, and lands first
    assert late.cache == "fwd=miss; fwd-status=200; stored"
    let_go.set()
    reply = await early
    assert (reply.json["pagination"]["total"], reply.cache) == (15, "fwd=miss; fwd-status=200")
    assert reply.headers["X-Listing-Generation"] != late.headers["X-Listing-Generation"]
    again = await one.page(AOI)
    assert (again.json["pagination"]["total"], again.cache) == (16, "fwd=miss; fwd-status=200; stored")
    assert again.headers["X-Listing-Generation"] == late.headers["X-Listing-Generation"]
    assert (await two.page(AOI, "?offset=10")).cache.startswith("hit")


async def test_a_refresh_in_grace_against_a_newer_generation(replicas: list[Play], vendor: HoldingVendor) -> None:
    one, two = replicas
    await same_pages(replicas)
    one.clock.skip(310)
    let_go = vendor.hold(times=1)
    assert (await one.page(AOI)).cache.startswith("hit; ttl=-")  # which begins a refresh that sees the old list
    await until(lambda: len(vendor.requests) == 2)
    two.clock.skip(311)
    vendor.set_assets(AOI, assets(*"abcdefghijklmnop"))
    new = await two.page(AOI, "?offset=10")
    let_go.set()
    await until(lambda: not one.gateway._cache._fetcher._flights._under_way)

    async def told() -> bool:
        after = await one.page(AOI)
        changed = after.headers["X-Listing-Generation"] == new.headers["X-Listing-Generation"]
        assert after.json["pagination"]["total"] == (16 if changed else 15)
        return changed

    await soon(told)
    # The late refresh has not brought the old generation back.
    for play, query in ((one, ""), (two, ""), (two, "?offset=10")):
        after = await play.page(AOI, query)
        assert after.headers["X-Listing-Generation"] == new.headers["X-Listing-Generation"]


async def test_one_refresh_in_grace_over_all_replicas(replicas: list[Play], vendor: HoldingVendor) -> None:
    await same_pages(replicas)
    let_go = vendor.hold()
    for play in replicas:
        play.clock.skip(310)
    replies = await asyncio.gather(*(play.page(AOI) for play in replicas for _ in range(20)))
    assert {reply.cache[:10] for reply in replies} == {"hit; ttl=-"}
    let_go.set()
    for play in replicas:
        await until(lambda play=play: not play.gateway._cache._fetcher._flights._under_way)  # type: ignore[misc]
        assert int((await play.page(AOI)).headers["Age"]) < 300
    assert len(vendor.requests) == 2


async def test_misses_on_both_are_one_call_and_share_a_failure(replicas: list[Play], vendor: HoldingVendor) -> None:
    replies = await at_once(replicas, vendor, AOI, 30)
    assert {reply.status for reply in replies} == {200}
    assert sum(reply.cache == "fwd=miss; fwd-status=200; stored" for reply in replies) == 1
    assert len(vendor.requests) == 1
    vendor.set_behaviour(status=429, retry_after=7)
    replies = await at_once(replicas, vendor, "a2", 30)
    assert {(reply.status, reply.code) for reply in replies} == {(503, "upstream_rate_limited")}
    assert {reply.headers["Retry-After"] for reply in replies} == {"7"}
    assert len(vendor.requests) == 2


async def test_pages_of_an_outage_are_told_afterwards_and_the_later_fetch_wins(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    vendor.set_assets(AOI, assets("a", status="started"))
    flags = {
        "upstream.base_url": vendor.url,
        "cache.url": real_redis.url,
        "cache.lifetimes.in_progress": 100,
        **HANGING,
    }
    async with playing(flags) as one, playing(flags) as two:
        for play in (one, two):
            await hears(play)
        await same_pages([one, two])  # fresh for a hundred seconds in Redis, and in both memories
        real_redis.signal(signal.SIGSTOP)
        try:
            await until(lambda: not one.gateway._store._validity.is_live)  # type: ignore[attr-defined]
            vendor.set_assets(AOI, assets("a", "b"))
            for play in (one, two):
                play.clock.skip(100)
            one.gateway._store._validity.max_age = 60  # type: ignore[attr-defined]
            assert (await one.page(AOI)).status == 200  # in grace; the refresh lands in memory alone
            await until(lambda: not one.gateway._cache._fetcher._flights._under_way)
            during = await one.page(AOI)
            assert during.json["pagination"]["total"] == 2
        finally:
            real_redis.signal(signal.SIGCONT)
        await hears(one)
        await hears(two)
        after = await one.page(AOI)
        assert (after.body, after.cache[:3]) == (during.body, "hit")
        async with asyncio.timeout(PATIENCE):
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
    replicas: list[Play], vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    one, _ = replicas
    await same_pages(replicas)
    real_redis.kill()
    await until(lambda: one.gateway._store._validity.down_for_all)  # type: ignore[attr-defined]
    one.gateway._store._validity.max_age = 0  # type: ignore[attr-defined]
    for _ in range(3):
        assert (await one.page(AOI)).cache.startswith("hit")
    assert len(vendor.requests) == 1


async def test_copies_end_when_redis_is_silent_for_long(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    vendor.set_assets(AOI, assets("a"))
    async with playing({"upstream.base_url": vendor.url, "cache.url": real_redis.url, **HANGING}) as one:
        await hears(one)
        await same_pages([one])
        one.gateway._store._validity.max_age = 60  # type: ignore[attr-defined]
        real_redis.signal(signal.SIGSTOP)
        try:
            await until(lambda: not one.gateway._store._validity.is_live)  # type: ignore[attr-defined]
            assert (await one.page(AOI)).cache.startswith("hit")
            one.gateway._store._validity.max_age = 0  # type: ignore[attr-defined]
            assert (await one.page(AOI)).cache.startswith("fwd=miss")
            assert len(vendor.requests) == 2
        finally:
            real_redis.signal(signal.SIGCONT)


async def test_a_lost_subscription_ends_copies_within_their_age(
    replicas: list[Play], vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    one, two = replicas
    await same_pages(replicas)
    two.gateway._background_tasks._tasks[0].cancel()  # nobody listens on this side any more, while commands work
    await until(lambda: not two.gateway._store._validity.is_live)  # type: ignore[attr-defined]
    two.gateway._store._validity.max_age = 0.3  # type: ignore[attr-defined]
    assert (await purge(one, aoi_id=AOI))[0] == 200
    assert await soon(partial(is_no_hit, two)) < 4.0  # less than the usual age, with time for a busy machine
    assert len(vendor.requests) == 2


async def test_redis_that_comes_back_empty_is_a_miss(
    replicas: list[Play], vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    one, two = replicas
    await same_pages(replicas)
    real_redis.kill()
    await until(lambda: not one.gateway._store._validity.is_live)  # type: ignore[attr-defined]
    real_redis.start()
    for play in replicas:
        await hears(play)
    assert (await one.page(AOI)).cache.startswith("fwd=")
    assert (await two.page(AOI)).cache.startswith("hit")
    assert len(vendor.requests) == 2


async def test_a_clock_that_jumps_expires_nothing_at_once(replicas: list[Play], vendor: HoldingVendor) -> None:
    one, _ = replicas
    await one.page(AOI)
    one.clock.skip(-3600)
    reply = await one.page(AOI)
    assert (reply.headers["Age"], reply.cache[:3]) == ("0", "hit")
    one.clock.skip(3600)
    assert (await one.page(AOI)).cache.startswith("hit")
    assert len(vendor.requests) == 1


async def test_a_cluster_serves_as_well(vendor: HoldingVendor, real_cluster: RealRedis) -> None:
    vendor.set_assets(AOI, assets(*"abc"))
    flags = {"upstream.base_url": vendor.url, "cache.url": real_cluster.url}
    async with playing(flags) as one, playing(flags) as two:
        for play in (one, two):
            await hears(play)
        replies = await at_once([one, two], vendor, AOI, 10)
        assert {reply.status for reply in replies} == {200}
        assert len(vendor.requests) == 1
        assert await purge(two, aoi_id=AOI) == (200, {"purged": {"aoi_id": AOI}})
        await soon(partial(is_no_hit, one))
        assert len(vendor.requests) == 2


async def test_waiters_take_what_was_fetched_for_them_however_short_it_lives(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    vendor.set_assets(AOI, assets("a", status="started"))
    flags = {"upstream.base_url": vendor.url, "cache.url": real_redis.url, "cache.lifetimes.in_progress": 0}
    async with playing(flags) as one, playing(flags) as two:
        for play in (one, two):
            await hears(play)
        replies = await at_once([one, two], vendor, AOI, 10)
        assert {reply.status for reply in replies} == {200}
        assert len(vendor.requests) == 1
        await one.page(AOI)  # and nobody after them
        assert len(vendor.requests) == 2


async def test_a_full_redis_leaves_memory_to_cache_new_aois(
    replicas: list[Play], vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    one, _ = replicas
    async with Redis.from_url(real_redis.url) as raw:
        await raw.config_set("maxmemory", "1")
    for _ in range(3):
        assert (await one.page(AOI)).status == 200
    assert len(vendor.requests) == 1


async def test_a_newer_format_version_is_left_alone_and_memory_serves(
    replicas: list[Play], vendor: HoldingVendor, real_redis: RealRedis
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


async def test_a_subscription_that_is_cut_in_silence_is_noticed(vendor: HoldingVendor, real_redis: RealRedis) -> None:
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
            await soon(partial(is_no_hit, two))
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


async def test_an_answer_that_word_has_overtaken_is_not_trusted(replicas: list[Play], vendor: HoldingVendor) -> None:
    """A look-up of Redis is answered, then another replica files a change, and its word arrives first."""
    one, two = replicas
    assert (await one.page(AOI)).status == 200
    store = two.gateway._store
    session = store._validity.session  # type: ignore[attr-defined]
    look_up, may_go, asked = store._remote.get, asyncio.Event(), asyncio.Event()  # type: ignore[attr-defined]

    async def held_up(address: Any) -> Any:
        shelf = await look_up(address)
        asked.set()
        await may_go.wait()
        return shelf

    store._remote.get = held_up  # type: ignore[attr-defined]
    late = asyncio.create_task(two.page(AOI))
    await asked.wait()
    vendor.set_assets(AOI, assets(*"abcdefghijklmnop"))
    changed = await one.page(AOI, "?offset=10")
    await until(lambda: bool(store._copies._messages._of) or store._validity.session > session)  # type: ignore[attr-defined]
    store._remote.get = look_up  # type: ignore[attr-defined]
    may_go.set()
    assert (await late).status == 200
    after = await two.page(AOI)
    assert after.headers["X-Listing-Generation"] == changed.headers["X-Listing-Generation"]


async def test_a_refusal_of_the_query_is_shared_too(replicas: list[Play], vendor: HoldingVendor) -> None:
    vendor.set_behaviour(status=422)
    replies = await at_once(replicas, vendor, "a2", 10)
    assert {reply.status for reply in replies} == {422}
    assert len(vendor.requests) == 1
