"""What teams may use, over all replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from harness import Play, Reply, playing, until
from holding_vendor import HoldingVendor
from real_redis import RealRedis
from relay import relaying

from gateway.teams.tokens import new_token

ALPHA, ALPHA_DIGEST = new_token()
BETA, BETA_DIGEST = new_token()


def flags(vendor: HoldingVendor, **more: Any) -> dict[str, Any]:
    return {
        "upstream.base_url": vendor.url,
        "cache.prefetch": 0,
        "teams.alpha.token_sha256": [ALPHA_DIGEST],
        "teams.alpha.scopes": ["refresh"],
        "teams.beta.token_sha256": [BETA_DIGEST],
        **{name.replace("__", "."): value for name, value in more.items()},
    }


async def ask(play: Play, number: int, token: str = ALPHA, **headers: str) -> Reply:
    """A page that no other number has."""
    return await play.page("a1", f"?offset={number * 2}&limit=1", Authorization=token, **headers)


def statuses(replies: list[Reply]) -> list[int]:
    return [reply.status for reply in replies]


async def test_a_rate_of_requests(vendor: HoldingVendor) -> None:
    async with playing(flags(vendor, teams__alpha__rate=0.01, teams__alpha__burst=3)) as play:
        replies = [await ask(play, 0) for _ in range(5)]
        assert statuses(replies) == [404, 404, 404, 429, 429]
        refused = replies[-1]
        assert (refused.code, refused.details["budget"]) == ("rate_limited", "requests")
        assert refused.headers["RateLimit-Limit"] == "3"
        assert refused.headers["RateLimit-Remaining"] == "0"
        assert refused.headers["Retry-After"] == refused.headers["RateLimit-Reset"]
        assert 90 <= int(refused.headers["Retry-After"]) <= 100
        assert refused.headers["Cache-Control"] == "no-store"
        # It is judged before the query, and after the token; and it is this team's alone.
        assert (await play.page("a1", "?limit=x", Authorization=ALPHA)).status == 429
        assert (await play.page("a1", "?limit=x", Authorization="nobody")).status == 401
        assert (await ask(play, 0, BETA)).status == 404
        play.clock.pass_by(100)
        assert (await ask(play, 0)).status == 404
        counted = await play.metrics()
        assert counted['gateway_rate_limited_total{scope="requests",team="alpha"}'] == 3
        assert counted['gateway_rate_limited_total{scope="misses",team="beta"}'] == 0


async def test_hits_cost_no_misses(vendor: HoldingVendor) -> None:
    vendor.set_assets("a1", [{"id": str(number), "status": "success"} for number in range(100)])
    async with playing(flags(vendor, teams__alpha__miss_rate=0.01, teams__alpha__miss_burst=2)) as play:
        replies = [await ask(play, number) for number in (0, 0, 0, 1, 1, 2, 0, 3, 1)]
        assert statuses(replies) == [200, 200, 200, 200, 200, 429, 200, 429, 200]
        assert replies[5].details["budget"] == "misses"
        assert len(vendor.requests) == 2
        # A page that has expired is no answer to a team that has used up its budget; in grace it is.
        play.clock.skip(320)
        assert (await ask(play, 0)).cache.startswith("hit; ttl=-")
        play.clock.skip(1000)
        assert (await ask(play, 1)).status == 429
        assert (await ask(play, 1, BETA)).status == 200


async def test_a_refresh_that_a_client_wants_is_paid(vendor: HoldingVendor) -> None:
    vendor.set_assets("a1", [{"id": str(number), "status": "success"} for number in range(100)])
    async with playing(flags(vendor, teams__alpha__miss_rate=0.01, teams__alpha__miss_burst=1)) as play:
        assert (await ask(play, 0)).status == 200
        assert (await ask(play, 0, Cache_Control="no-cache")).code == "rate_limited"


async def test_a_fetch_that_many_wait_for_is_paid_once_by_who_began_it(vendor: HoldingVendor) -> None:
    vendor.set_assets("a1", [{"id": str(number), "status": "success"} for number in range(100)])
    async with playing(flags(vendor, teams__alpha__miss_rate=0.01, teams__alpha__miss_burst=2)) as play:
        let_go = vendor.hold(times=1)
        herd = [asyncio.create_task(ask(play, 0)) for _ in range(20)]
        await play.reaches("gateway_http_requests_in_flight", 20 + 1)
        let_go.set()
        assert statuses([await one for one in herd]) == [200] * 20
        assert statuses([await ask(play, number) for number in (1, 2)]) == [200, 429]
        assert len(vendor.requests) == 2


async def test_who_can_pay_is_not_refused_with_who_cannot(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    vendor.set_assets("a1", [{"id": str(number), "status": "success"} for number in range(100)])
    more = {"teams__alpha__miss_rate": 0.01, "teams__alpha__miss_burst": 1, "cache__url": real_redis.url}
    async with playing(flags(vendor, **more)) as play:
        assert (await ask(play, 0)).status == 200
        for number in range(1, 6):
            replies = await asyncio.gather(ask(play, number), ask(play, number, BETA))
            assert replies[1].status == 200
            assert replies[0].status in (200, 429)  # whether it joined what the other paid for
        assert len(vendor.requests) == 6


@pytest.fixture
async def replicas(vendor: HoldingVendor, real_redis: RealRedis) -> AsyncIterator[list[Play]]:
    vendor.set_assets("a1", [{"id": str(number), "status": "success"} for number in range(200)])
    more = {
        "cache__url": real_redis.url,
        "teams__alpha__miss_rate": 0.01, "teams__alpha__miss_burst": 6,
        "teams__beta__rate": 0.01, "teams__beta__burst": 8,
    }  # fmt: skip
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(playing(flags(vendor, **more))) for _ in range(2)]


async def test_misses_are_counted_exactly_over_replicas(replicas: list[Play], vendor: HoldingVendor) -> None:
    asking = [ask(replicas[number % 2], number) for number in range(20)]
    replies = await asyncio.gather(*asking)
    assert statuses(replies).count(200) == 6
    assert {reply.status for reply in replies} == {200, 429}
    assert len(vendor.requests) == 6


async def test_requests_of_a_low_rate_are_counted_exactly_over_replicas(replicas: list[Play]) -> None:
    for play in replicas:
        await ask(play, 0)  # so that what follows are hits
    replies = [await ask(replicas[number % 2], 0, BETA) for number in range(30)]
    assert statuses(replies).count(200) == 8
    assert statuses(replies[-10:]) == [429] * 10
    assert replies[-1].details["budget"] == "requests"


async def test_without_redis_each_process_counts_for_itself(
    replicas: list[Play], vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    for play in replicas:
        await ask(play, 0)
    real_redis.kill()
    for play in replicas:
        replies = [await ask(play, 0, BETA) for _ in range(30)]
        assert statuses(replies) == [200] * 8 + [429] * 22
    # The first replica has paid for the page that both know, and a lost Redis does not make good for that.
    assert statuses([await ask(replicas[0], number) for number in range(1, 12)]).count(200) == 5
    assert statuses([await ask(replicas[1], number) for number in range(12, 22)]).count(200) == 6


SPENT = 'gateway_team_upstream_requests_total{team="alpha"}'
LISTED: list[dict[str, Any]] = [{"id": f"asset-{number:04}", "status": "success"} for number in range(600)]


async def settled(play: Play, vendor: HoldingVendor) -> None:
    """Wait until nothing is fetched in the background."""
    await until(lambda: not vendor.inside and not play.gateway._cache.prefetch.under_way)
    await until(lambda: not play.gateway._fetcher._flights._under_way)


@pytest.mark.parametrize("chunk", [0, 50])
async def test_a_crawl_is_charged_for_every_page_that_is_prefetched(
    vendor: HoldingVendor, real_redis: RealRedis, chunk: int
) -> None:
    vendor.set_assets("a1", LISTED)
    more = {
        "teams__alpha__miss_rate": 0.01, "teams__alpha__miss_burst": 8, "cache__prefetch": 2, "cache__chunk": chunk,
        "cache__url": real_redis.url,
    }  # fmt: skip
    async with playing(flags(vendor, **more)) as play:
        replies = []
        for number in range(60):
            replies.append(await play.page("a1", f"?offset={number * 10}&limit=10", Authorization=ALPHA))
            await settled(play, vendor)
        refused = statuses(replies).index(429)
        assert set(statuses(replies[refused:])) == {429}
        assert len(vendor.requests) == 8
        assert (await play.metrics())[SPENT] == 8


async def test_a_refresh_in_grace_is_charged_and_not_made_when_the_budget_is_exhausted(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    vendor.set_assets("a1", LISTED)
    more = {
        "teams__alpha__miss_rate": 0.01, "teams__alpha__miss_burst": 3, "cache__url": real_redis.url,
        "cache__lifetimes__keep": 86400,
    }  # fmt: skip
    async with playing(flags(vendor, **more)) as play:
        assert (await ask(play, 0)).status == 200
        for passed, fetched in ((320, 2), (320, 3), (320, 3), (1, 3), (1, 3)):
            play.clock.skip(passed)
            assert (await ask(play, 0)).cache.startswith("hit; ttl=-")
            await settled(play, vendor)
            assert len(vendor.requests) == fetched
        assert len(vendor.requests) == 3
        counted = await play.metrics()
        assert counted[SPENT] == 3
        # Another team refreshes the page at its own expense. What was not fetched is no answer with 429.
        assert counted['gateway_rate_limited_total{scope="misses",team="alpha"}'] == 0
        assert (await ask(play, 0, BETA)).cache.startswith("hit; ttl=-")
        await until(lambda: len(vendor.requests) == 4)
        await settled(play, vendor)
        assert (await play.metrics())[SPENT.replace("alpha", "beta")] == 1


async def test_every_request_that_a_miss_causes_is_counted_and_charged(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    vendor.set_assets("a1", LISTED)
    more = {"teams__alpha__miss_rate": 0.01, "teams__alpha__miss_burst": 3, "cache__url": real_redis.url}
    async with playing(flags(vendor, **more)) as play:
        assert (await play.metrics())[SPENT] == 0
        vendor.set_behaviour(status=502, times=1)
        assert (await ask(play, 0)).status == 200
        assert len(vendor.requests) == 2
        vendor.set_behaviour(status=502)
        assert (await ask(play, 1)).status == 502  # the retry would be the fourth request
        assert (await ask(play, 2)).status == 429
        assert len(vendor.requests) == 3
        assert (await play.metrics())[SPENT] == 3


async def test_a_page_that_was_not_asked_for_is_not_paid(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    vendor.set_assets("a1", LISTED)
    more = {
        "teams__alpha__miss_rate": 0.01, "teams__alpha__miss_burst": 3, "cache__url": real_redis.url,
        "upstream__max_concurrency": 1, "upstream__max_queue": 0,
    }  # fmt: skip
    async with playing(flags(vendor, **more)) as play:
        let_go = vendor.hold(times=1)
        other = asyncio.create_task(ask(play, 0, BETA))
        await until(lambda: vendor.inside == 1)
        assert {(await ask(play, number)).code for number in range(1, 6)} == {"overloaded"}
        let_go.set()
        assert (await other).status == 200
        replies = [await ask(play, number) for number in range(1, 6)]
        assert statuses(replies) == [200, 200, 200, 429, 429]


async def test_the_first_request_after_a_quiet_period_is_admitted(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    more = {"teams__alpha__rate": 20, "teams__alpha__burst": 20, "cache__url": real_redis.url}
    async with relaying(real_redis.port) as relay:
        more["cache__url"] = relay.url
        async with AsyncExitStack() as stack:
            plays = [await stack.enter_async_context(playing(flags(vendor, **more))) for _ in range(3)]
            for play in plays:
                await ask(play, 0, BETA)
            relay.delay = 0.03
            replies = await asyncio.gather(*(ask(plays[number % 3], 0) for number in range(120)))
            assert 20 <= statuses(replies).count(404) <= 30
            await asyncio.sleep(0.1)  # two tokens
            assert (await ask(plays[0], 0)).status == 404
            assert (await ask(plays[1], 0)).status == 404


async def test_one_request_a_second_on_each_of_three_replicas_is_never_refused(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    more = {"teams__alpha__rate": 3, "teams__alpha__burst": 3, "cache__url": real_redis.url}
    async with AsyncExitStack() as stack:
        plays = [await stack.enter_async_context(playing(flags(vendor, **more))) for _ in range(3)]
        for _ in range(3):
            assert statuses(await asyncio.gather(*(ask(play, 0) for play in plays))) == [404] * 3
            await asyncio.sleep(1.0)


@pytest.mark.parametrize(
    ("replicas", "rate", "burst", "delay"), [(1, 50, 50, 0.04), (3, 50, 50, 0.04), (3, 10, 1, 0.045), (3, 50, 50, 0.08)]
)
async def test_a_far_redis_gives_a_team_its_rate(
    vendor: HoldingVendor, real_redis: RealRedis, replicas: int, rate: int, burst: int, delay: float
) -> None:
    """With the default timeout of a command, which is shorter than the last of these round trips."""
    more: dict[str, Any] = {"teams__alpha__rate": rate, "teams__alpha__burst": burst, "cache__redis_timeout": 0.05}
    vendor.set_assets("a1", LISTED)
    async with relaying(real_redis.port) as relay:
        more["cache__url"] = relay.url
        async with AsyncExitStack() as stack:
            plays = [await stack.enter_async_context(playing(flags(vendor, **more))) for _ in range(replicas)]
            for play in plays:
                await ask(play, 0, BETA)
            relay.delay = delay
            loop = asyncio.get_running_loop()
            tasks: list[asyncio.Task[Reply]] = []
            began = last = loop.time()
            stalled = 0.0
            while last < began + 2.5:
                tasks.append(asyncio.create_task(ask(plays[len(tasks) % replicas], 0)))
                await asyncio.sleep(0.4 / rate)
                now = loop.time()
                # A machine that is held up this long answers late, and Redis' replies count as late.
                stalled, last = stalled + (now - last if now - last > 0.4 / rate + 0.02 else 0.0), now
            took = last - began
            admitted = statuses(await asyncio.gather(*tasks)).count(200)
            exact = min(len(tasks), burst + rate * took)
            # A tenth of ten seconds may be admitted at once.
            assert 0.95 * exact - 2 - rate * stalled <= admitted <= exact + rate


async def test_hits_of_a_team_within_its_rate_do_not_wait_for_a_far_redis(
    vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    vendor.set_assets("a1", LISTED)
    async with relaying(real_redis.port) as relay:
        more = {"teams__alpha__rate": 200, "cache__url": relay.url}
        async with playing(flags(vendor, **more)) as play:
            for _ in range(3):
                await ask(play, 0)
            let_go = relay.hold(b"budget:")  # answers to other commands may come
            replies = [await ask(play, 0) for _ in range(10)]
            let_go.set()
            assert statuses(replies) == [200] * 10
