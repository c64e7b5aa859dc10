"""Replicas around one Redis never answer with what a purge, a later fetch or a lifetime has ended.

Each test drives gateways as a client does, over a real Redis, and injects its faults outside the gateway: connections
that are cut or held, a Redis that stops or dies, clocks that are wrong, a vendor that changes its mind.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import pytest
from harness import PATIENCE, Play, Reply, SteeredClock, playing, until
from holding_vendor import HoldingVendor
from raw_vendor import RawVendor, raw_vendor, whole
from real_redis import RealRedis
from relay import Relay, relaying

AOI = "a1"
HOUR = 3600
ORDERS = pytest.mark.parametrize("order", [{"aoi_id": AOI}, {"all": True}], ids=["aoi", "all"])


def assets(count: int, version: str = "v0", *, ids: str = "id") -> list[dict[str, Any]]:
    return [{"id": f"{ids}-{number}", "name": version, "status": "success"} for number in range(count)]


async def hears(play: Play) -> None:
    """Wait until the replica has a session with Redis."""
    await until(lambda: play.gateway._store._validity.is_live)  # type: ignore[attr-defined]


async def loses_redis(play: Play) -> None:
    """Wait until the replica has no session with Redis."""
    await until(lambda: not play.gateway._store._validity.is_live)  # type: ignore[attr-defined]


async def purge(play: Play, order: dict[str, Any]) -> None:
    async with asyncio.timeout(PATIENCE), play.session.post(play.ops_url + "/admin/purge", json=order) as response:
        assert response.status == 200


def total(reply: Reply) -> int:
    return int(reply.json["pagination"]["total"])


def generation(reply: Reply) -> str:
    return reply.headers["X-Listing-Generation"]


def ttl(reply: Reply) -> int | None:
    """How long a hit is fresh, in seconds; None for an answer that is no hit."""
    found = re.match(r"hit; ttl=(-?\d+)", reply.cache)
    return None if found is None else int(found[1])


async def missed_purge(one: Play, two: Play, relay: Relay, vendor: HoldingVendor, order: dict[str, Any]) -> None:
    """Purge on one replica while the pub/sub connection of the other, which has three pages, is cut; restore it."""
    vendor.set_assets(AOI, assets(30))
    for query in ("", "?offset=10", "?offset=20"):
        assert (await one.page(AOI, query)).status == 200
        assert (await two.page(AOI, query)).status == 200
    relay.cut(b"SUBSCRIBE")
    await loses_redis(two)
    await purge(one, order)
    vendor.set_assets(AOI, assets(30, "v1"))
    relay.mend()
    await hears(two)


@asynccontextmanager
async def pair(vendor: HoldingVendor, redis: RealRedis, **flags: Any) -> AsyncIterator[tuple[Play, Play, Relay]]:
    """Two replicas that hear each other; the second reaches Redis through a relay."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relaying(redis.port))
        shared = {"upstream.base_url": vendor.url, "cache.prefetch": 0, **flags}
        one, two = [
            await stack.enter_async_context(playing({**shared, "cache.url": url})) for url in (redis.url, relay.url)
        ]
        for play in (one, two):
            await hears(play)
        yield one, two, relay


# 1. A purge that was missed


@ORDERS
async def test_a_purge_missed_by_a_cut_subscription_holds_when_redis_dies_later(
    vendor: HoldingVendor, real_redis: RealRedis, order: dict[str, Any]
) -> None:
    async with pair(vendor, real_redis) as (one, two, relay):
        await missed_purge(one, two, relay, vendor, order)
        real_redis.kill()
        relay.cut()
        await loses_redis(two)
        vendor.set_behaviour(status=501)  # so that it is seen what would be a fallback, too
        for query in ("", "?offset=10", "?offset=20", "?offset=3&limit=4"):
            assert (await two.page(AOI, query)).status == 502
        vendor.reset()
        for query in ("", "?offset=10", "?offset=20"):
            assert b'"v0"' not in (await two.page(AOI, query)).body


async def test_pages_from_before_a_missed_purge_are_not_revived_by_a_look_up_of_another_page(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    async with pair(vendor, real_redis) as (one, two, relay):
        await missed_purge(one, two, relay, vendor, {"aoi_id": AOI})
        assert b'"v1"' in (await two.page(AOI, "?offset=20")).body  # which brings the listing's state to memory
        real_redis.kill()
        relay.cut()
        await loses_redis(two)
        vendor.set_behaviour(status=501)
        for query in ("", "?offset=10", "?offset=3&limit=4"):
            assert (await two.page(AOI, query)).status == 502


async def test_the_end_of_a_connection_that_never_listened_is_no_proof_that_nobody_purges(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    """The subscription ends, a purge is confirmed, and Redis dies while the replica is about to subscribe again."""
    vendor.set_assets(AOI, assets(30))
    async with pair(vendor, real_redis) as (one, two, relay):
        for play in (one, two):
            assert (await play.page(AOI)).status == 200
        relay.hold(b"SUBSCRIBE")
        relay.end(b"SUBSCRIBE")
        await loses_redis(two)
        await purge(one, {"aoi_id": AOI})
        ended = len(relay.connections)

        def subscribes_again() -> bool:
            return any(b"SUBSCRIBE" in carried.sent for carried in relay.connections[ended:])

        await until(subscribes_again)
        real_redis.kill()
        relay.refuse()
        vendor.set_behaviour(status=501)
        two.clock.pass_by(6)  # more than `cache.memory_max_age`
        for query in ("", "?offset=3&limit=4"):
            assert (await two.page(AOI, query)).status == 502


# 2. Old pages that become valid again


@ORDERS
async def test_a_fetch_while_redis_hangs_proves_no_page_from_before_a_missed_purge(
    vendor: HoldingVendor, real_redis: RealRedis, order: dict[str, Any]
) -> None:
    async with pair(vendor, real_redis, **{"cache.memory_max_age": 0.2, "cache.redis_timeout": 1}) as (one, two, relay):
        await missed_purge(one, two, relay, vendor, order)
        real_redis.signal(signal.SIGSTOP)
        try:
            await loses_redis(two)
            two.clock.pass_by(1)
            fetched = await two.page(AOI, "?offset=20")
            assert b'"v1"' in fetched.body
            assert ttl(await two.page(AOI, "?offset=20")) is not None
            for query in ("", "?offset=10", "?offset=3&limit=4"):
                assert b'"v0"' not in (await two.page(AOI, query)).body
            vendor.set_behaviour(status=501)
            for query in ("?offset=7&limit=9", "?offset=1&limit=2"):
                assert b'"v0"' not in (await two.page(AOI, query)).body
        finally:
            real_redis.signal(signal.SIGCONT)


# 3. An old generation after a newer fetch


async def test_a_replica_serves_no_generation_that_its_own_fetch_has_ended_however_messages_cross(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    async with pair(vendor, real_redis) as (one, two, relay):
        for number in range(10):
            aoi_id = f"a{number}"
            vendor.set_assets(aoi_id, assets(30))
            for play in (one, two):
                assert total(await play.page(aoi_id)) == 30
            # What Redis sends to the second replica takes longer: the message of the first one's page arrives while the
            # second stores its own.
            relay.delay = 0.002 * number
            seen = len(vendor.requests)
            let_go = [vendor.hold(times=1)]
            early = asyncio.create_task(one.page(aoi_id, "?offset=10"))
            await until(lambda seen=seen: len(vendor.requests) == seen + 1)  # type: ignore[misc]
            vendor.set_assets(aoi_id, assets(31))
            let_go.append(vendor.hold(times=1))
            late = asyncio.create_task(two.page(aoi_id, "?offset=20"))
            await until(lambda seen=seen: len(vendor.requests) == seen + 2)  # type: ignore[misc]
            let_go[0].set()
            assert total(await early) == 30
            let_go[1].set()
            assert total(await late) == 31
            for query in ("", "?offset=3&limit=5", "?offset=10", "?offset=20"):
                reply = await two.page(aoi_id, query)
                assert total(reply) == 31, (number, query, reply.cache)


# 4. Clocks


def ahead() -> SteeredClock:
    """The clock of a machine whose wall clock is an hour ahead."""
    clock = SteeredClock()
    clock._offset += HOUR
    return clock


SHORT = {"cache.lifetimes.settled": 20, "cache.lifetimes.grace": 0, "cache.prefetch": 0}


async def lives_no_longer_than_its_lifetime(fetched_by: Play, others: list[Play], aoi_id: str) -> None:
    """Fetch a page on one replica, and see that it is fresh for 20 s at most on every one."""
    assert (await fetched_by.page(aoi_id)).status == 200
    for play in (fetched_by, *others):
        left = ttl(await play.page(aoi_id))
        assert left is None or left <= 20
        left = ttl(await play.page(aoi_id, "?offset=2&limit=3"))
        assert left is None or left <= 20


async def pauses_for_two_seconds(told: Play, others: list[Play], vendor: HoldingVendor) -> None:
    """Have the vendor ask one replica for a pause of 2 s, and see that none makes more of it."""
    vendor.set_behaviour(status=429, retry_after=2, times=1)
    assert (await told.page("paused")).code == "upstream_rate_limited"
    for number, play in enumerate((told, *others)):
        reply = await play.page(f"paused-{number}")
        assert reply.status == 200 or int(reply.headers["Retry-After"]) <= 2
        paused = (await play.metrics())["gateway_upstream_paused_until_timestamp_seconds"]
        assert paused - play.clock.now() <= 2.0
    for play in (told, *others):
        play.clock.pass_by(2.1)

    async def resumes(play: Play) -> None:
        while (await play.page("resumed")).status != 200:
            pass  # each look is a request, and so a turn of the loop

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(resumes(play) for play in (told, *others)))


@asynccontextmanager
async def replica(
    url: str, vendor: HoldingVendor, clock: SteeredClock | None = None, **flags: Any
) -> AsyncIterator[Play]:
    async with playing({"upstream.base_url": vendor.url, "cache.url": url, **SHORT, **flags}, clock=clock) as play:
        yield play


async def test_a_replica_with_a_wrong_clock_stores_no_page_and_tells_no_pause_by_it(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    for name in ("a1", "a2", "paused-0", "paused-1", "resumed"):
        vendor.set_assets(name, assets(30))
    async with replica(real_redis.url, vendor) as right, relaying(real_redis.port) as relay:
        await hears(right)
        let_go = relay.hold(b"SUBSCRIBE")
        async with replica(relay.url, vendor, ahead()) as wrong:
            # It serves before it has heard anything from Redis.
            await lives_no_longer_than_its_lifetime(wrong, [right], "a1")
            await lives_no_longer_than_its_lifetime(right, [wrong], "a2")
            await pauses_for_two_seconds(wrong, [right], vendor)
            let_go.set()


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_a_redis_that_takes_over_with_a_wrong_clock_prolongs_no_page_and_no_pause(
    vendor: HoldingVendor, real_redis: RealRedis, step: int
) -> None:
    for name in ("a1", "a2", "a3", "a4", "paused-0", "paused-1", "paused-2", "resumed"):
        vendor.set_assets(name, assets(30))
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relaying(real_redis.port))
        one, two = [await stack.enter_async_context(replica(relay.url, vendor)) for _ in range(2)]
        for play in (one, two):
            await hears(play)
        await lives_no_longer_than_its_lifetime(one, [two], "a1")
        real_redis.kill()
        for play in (one, two):
            await loses_redis(play)
        relay.time_ahead = step
        real_redis.start()
        three = await stack.enter_async_context(replica(relay.url, vendor))
        for play in (one, two, three):
            await hears(play)
        await lives_no_longer_than_its_lifetime(three, [one, two], "a2")
        await lives_no_longer_than_its_lifetime(one, [two, three], "a3")
        await lives_no_longer_than_its_lifetime(two, [one, three], "a1")
        await pauses_for_two_seconds(three, [one, two], vendor)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_a_clock_of_redis_that_is_set_while_it_runs_prolongs_no_page_and_no_pause(
    vendor: HoldingVendor, real_redis: RealRedis, step: int
) -> None:
    for name in ("a1", "a2", "paused-0", "paused-1", "resumed"):
        vendor.set_assets(name, assets(30))
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relaying(real_redis.port))
        before = await stack.enter_async_context(replica(relay.url, vendor))
        await hears(before)
        relay.time_ahead = step
        after = await stack.enter_async_context(replica(relay.url, vendor))
        await hears(after)
        await lives_no_longer_than_its_lifetime(before, [after], "a1")
        await lives_no_longer_than_its_lifetime(after, [before], "a2")
        await pauses_for_two_seconds(after, [before], vendor)


# 5. Windows


# What a vendor answers for an AOI, an offset and a limit: status and body.
Answers = Callable[[str, int, int], tuple[int, bytes]]


def page(aoi_id: str, offset: int, limit: int, count: int, printed: int) -> bytes:
    """A page of a list of `count` assets, with up to `limit` of them and this limit printed."""
    shown = [{"id": f"{aoi_id}-{number}", "status": "success"} for number in range(count)][offset : offset + limit]
    return json.dumps(
        {"assets": shown, "pagination": {"total": count, "offset": offset, "limit": printed}}, separators=(",", ":")
    ).encode()


@asynccontextmanager
async def before_vendor(answers: Answers) -> AsyncIterator[tuple[Play, RawVendor]]:
    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        path, _, query = head.split()[1].decode().partition("?")
        given = parse_qs(query)
        offset, limit = (int(given.get(name, [usual])[0]) for name, usual in (("offset", "0"), ("limit", "10")))
        status, body = answers(path.split("/")[3], offset, limit)
        writer.write(whole(body).replace(b"200 OK", b"%d X" % status))

    async with (
        raw_vendor(answer) as vendor,
        playing({"upstream.base_url": vendor.url, "cache.prefetch": 0}) as play,
    ):
        yield play, vendor


async def is_as_the_vendor_sends_it(play: Play, answers: Answers, aoi_id: str, offset: int, limit: int) -> Reply:
    status, body = answers(aoi_id, offset, limit)
    reply = await play.page(aoi_id, f"?offset={offset}&limit={limit}")
    assert reply.status == status, (offset, limit, reply.cache)
    if status == 200:
        assert reply.body == body, (offset, limit, reply.cache)
    return reply


async def test_no_limit_is_learned_from_a_page_that_ends_at_the_total() -> None:
    def prints_what_is_left(aoi_id: str, offset: int, limit: int) -> tuple[int, bytes]:
        return 200, page(aoi_id, offset, limit, 70, min(limit, 70 - offset))

    def prints_more_than_it_sends(aoi_id: str, offset: int, limit: int) -> tuple[int, bytes]:
        # Its largest page has 40 assets, which it says only where the list goes on.
        sent = min(limit, 40)
        return 200, page(aoi_id, offset, sent, 70, limit if offset + sent >= 70 else sent)

    for answers in (prints_what_is_left, prints_more_than_it_sends):
        async with before_vendor(answers) as (play, _):
            for offset, limit in ((40, 100), (0, 30), (0, 40), (35, 35), (0, 100), (10, 100), (5, 60), (20, 50)):
                await is_as_the_vendor_sends_it(play, answers, AOI, offset, limit)


@pytest.mark.parametrize("past", ["empty", "clamped", "refused"])
async def test_a_page_past_the_end_is_what_the_vendor_sends(past: str) -> None:
    def answers(aoi_id: str, offset: int, limit: int) -> tuple[int, bytes]:
        if offset <= 25 or past == "empty":
            return 200, page(aoi_id, offset, limit, 25, limit)
        if past == "refused":
            return 422, b'{"error":{"code":"bad_offset","message":"past the end","details":{}}}'
        first = 20
        shown = json.loads(page(aoi_id, first, limit, 25, limit))
        return 200, json.dumps(shown, separators=(",", ":")).encode()

    async with before_vendor(answers) as (play, _):
        for offset, limit in ((0, 10), (10, 10), (20, 10), (25, 10), (25, 5), (26, 10), (40, 10), (40, 5), (1000, 7)):
            await is_as_the_vendor_sends_it(play, answers, AOI, offset, limit)


async def test_a_fetch_that_began_earlier_does_not_correct_a_limit_learned_later(
    play: Play, vendor: HoldingVendor
) -> None:
    for name in ("a1", "a2", "a3"):
        vendor.set_assets(name, assets(200, ids=name))
    vendor.set_behaviour(max_limit=50)
    let_go = vendor.hold(times=1)
    early = asyncio.create_task(play.page("a1", "?limit=100"))
    await until(lambda: len(vendor.requests) == 1)
    vendor.set_behaviour()  # from now on the vendor honours the limit
    assert (await play.page("a2", "?limit=100")).json["pagination"]["limit"] == 100
    assert (await play.page("a3", "?limit=60")).json["pagination"]["limit"] == 60
    let_go.set()
    assert (await early).json["pagination"]["limit"] == 50
    for query, offset, limit in (("?limit=100", 0, 100), ("?offset=5&limit=40", 5, 40)):
        assert (await play.page("a3", query)).body == vendor.listing("a3", offset, limit)


async def test_a_window_is_not_cut_by_a_limit_that_is_corrected_while_redis_is_read(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    for name in ("a1", "a2"):
        vendor.set_assets(name, assets(200, ids=name))
    async with pair(vendor, real_redis) as (one, two, relay):
        vendor.set_behaviour(max_limit=50)
        for query in ("?limit=100", "?offset=30&limit=100"):
            await one.page("a1", query)
        assert (await two.page("a1", "?limit=100")).cache.startswith("hit")  # which shows the limit of 50
        vendor.set_behaviour()
        seen, let_vendor = len(vendor.requests), vendor.hold(times=1)
        correcting = asyncio.create_task(two.page("a2", "?limit=100"))
        await until(lambda: len(vendor.requests) > seen)
        let_redis = relay.hold(b"offset=30")
        asking = asyncio.create_task(two.page("a1", "?offset=10&limit=100"))
        await until(lambda: relay.holding > 0)
        let_vendor.set()
        await two.reaches('gateway_upstream_requests_total{code="200"}', 1)
        let_redis.set()
        assert (await correcting).json["pagination"]["limit"] == 100
        for reply in (await asking, await two.page("a1", "?offset=10&limit=100")):
            assert reply.body == vendor.listing("a1", 10, 100)


# 6. Generations


@ORDERS
@pytest.mark.parametrize("soft", [False, True], ids=["purge", "soft"])
async def test_an_answer_that_a_purge_overtakes_has_a_generation_name_that_is_used_once(
    vendor: HoldingVendor, real_redis: RealRedis, order: dict[str, Any], soft: bool
) -> None:
    vendor.set_assets(AOI, assets(30))
    async with pair(vendor, real_redis) as (one, two, _):
        names: list[str] = [generation(await one.page(AOI, "?offset=20"))]
        for play in (one, two):
            seen = len(vendor.requests)
            let_go = vendor.hold(times=2)
            waiting = [asyncio.create_task(play.page(AOI, query)) for query in ("", "?offset=10")]
            await until(lambda seen=seen: len(vendor.requests) == seen + 2)  # type: ignore[misc]
            await purge(two, {**order, "soft": True} if soft else order)
            let_go.set()
            for reply in await asyncio.gather(*waiting):
                assert reply.cache == "fwd=miss; fwd-status=200"
                names.append(generation(reply))
            after = await play.page(AOI, "?offset=20")
            assert after.cache.startswith("fwd=")
            names.append(generation(after))
            await purge(one, order)
        assert all(names)
        assert len(set(names)) == len(names)


async def test_replicas_that_see_different_states_while_redis_hangs_give_them_different_names(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    vendor.set_assets(AOI, assets(30))
    flags = {"cache.memory_max_age": 60, "cache.redis_timeout": 0.5}
    async with pair(vendor, real_redis, **flags) as (one, two, _):
        for play in (one, two):
            await play.page(AOI)
            await play.page(AOI, "?offset=10")
        real_redis.signal(signal.SIGSTOP)
        totals: dict[str, int] = {}
        ids: dict[tuple[str, int], str] = {}

        def check(reply: Reply) -> None:
            """Compare a page with those of the same generation: their totals, and the ids at the same indices."""
            name = generation(reply)
            assert name
            assert totals.setdefault(name, total(reply)) == total(reply)
            for index, asset in enumerate(reply.json["assets"], reply.json["pagination"]["offset"]):
                assert ids.setdefault((name, index), asset["id"]) == asset["id"]

        try:
            for play in (one, two):
                await loses_redis(play)
            for number, play in enumerate((one, two, one, two)):
                vendor.set_assets(AOI, assets(31, ids=f"v{number}"))
                play.clock.skip(400)
                check(await play.page(AOI))
                check(await play.page(AOI, "?offset=10"))
        finally:
            real_redis.signal(signal.SIGCONT)
        for play in (one, two):
            await hears(play)
            check(await play.page(AOI))
            check(await play.page(AOI, "?offset=10"))


async def test_each_of_the_answers_that_a_later_fetch_supersedes_has_a_name_of_its_own(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    async with pair(vendor, real_redis) as (one, two, _):
        vendor.set_assets(AOI, assets(30))
        names = [generation(await one.page(AOI, "?offset=20"))]
        early = []
        # Two states with the same total, neither of which is the one that is stored.
        for ids, query in (("x", ""), ("y", "?offset=10")):
            vendor.set_assets(AOI, assets(31, ids=ids))
            seen = len(vendor.requests)
            let_go = vendor.hold(times=1)
            early.append((asyncio.create_task(one.page(AOI, query)), let_go))
            await until(lambda seen=seen: len(vendor.requests) > seen)  # type: ignore[misc]
        vendor.set_assets(AOI, assets(32))
        names.append(generation(await two.page(AOI, "?offset=20&limit=5")))
        for task, let_go in early:
            let_go.set()
            names.append(generation(await task))
        vendor.set_assets(AOI, assets(31))
        two.clock.skip(1000)
        names.append(generation(await two.page(AOI, "?offset=20&limit=5")))
        assert math.prod(map(len, names)) > 0
        assert len(set(names)) == len(names)
