"""Any window from what is cached, byte for byte what the vendor would have sent, and never a mixture of listings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness import PATIENCE, Play, Reply, hit, playing, until
from real_redis import RealRedis
from redis.asyncio import Redis

from gateway.mock_vendor.server import MockVendor

AOI = "a1"
TOTAL = 150


def assets(count: int = TOTAL, *, first: str = "asset", status: str = "success") -> list[dict[str, Any]]:
    return [{"id": f"{first}-{number:04}", "status": status, "name": "Köln & <x>"} for number in range(count)]


@pytest.fixture
def vendor(vendor: MockVendor) -> MockVendor:
    vendor.set_assets(AOI, assets())
    return vendor


async def has(play: Play, vendor: MockVendor, offset: int, limit: int) -> Reply:
    """Ask for a window, which must be what the vendor would say now."""
    reply = await play.page(AOI, f"?offset={offset}&limit={limit}")
    assert (reply.status, reply.body) == (200, vendor.listing(AOI, offset, limit))
    return reply


def asked(vendor: MockVendor) -> list[str]:
    """What the vendor was asked for, as `offset+limit`."""
    return [
        request.target.partition("?")[2].replace("offset=", "").replace("&limit=", "+") for request in vendor.requests
    ]


@pytest.mark.parametrize(
    ("offset", "limit"),
    [(0, 10), (0, 99), (1, 1), (37, 50), (50, 50), (99, 1), (0, 100)],
)
async def test_a_window_is_cut_from_a_page(play: Play, vendor: MockVendor, offset: int, limit: int) -> None:
    whole = await has(play, vendor, 0, 100)
    assert whole.cache == "fwd=miss; fwd-status=200; stored"
    play.clock.skip(7)
    window = await has(play, vendor, offset, limit)
    detail = "" if (offset, limit) == (0, 100) else "; detail=window"
    assert hit(window.cache, 292, window=bool(detail))
    assert 7 <= int(window.headers["Age"]) < 27
    assert window.headers["X-Listing-Generation"] == whole.headers["X-Listing-Generation"]
    assert asked(vendor) == ["0+100"]
    result = "window" if detail else "hit"
    assert (await play.metrics())[f'gateway_cache_requests_total{{result="{result}"}}'] == 1


async def test_windows_at_the_end_of_the_listing(play: Play, vendor: MockVendor) -> None:
    await has(play, vendor, 0, 100)  # a page at the end shows nothing of the vendor's limits
    await has(play, vendor, 100, 100)
    assert (await has(play, vendor, 140, 60)).cache.endswith("detail=window")
    assert (await has(play, vendor, 149, 2)).cache.endswith("detail=window")
    # A vendor may clamp an offset past the end, or refuse it.
    assert (await has(play, vendor, 150, 10)).cache == "fwd=miss; fwd-status=200; stored"
    assert (await has(play, vendor, 1000, 7)).cache == "fwd=miss; fwd-status=200; stored"
    assert asked(vendor) == ["0+100", "100+100", "150+10", "1000+7"]


async def test_the_etag_of_a_window_does_not_depend_on_how_it_came_about(play: Play, vendor: MockVendor) -> None:
    exact = await has(play, vendor, 10, 20)
    async with play.session.post(play.ops_url + "/admin/purge", json={"all": True}) as response:
        assert response.status == 200
    await has(play, vendor, 0, 100)
    window = await has(play, vendor, 10, 20)
    assert window.cache.endswith("detail=window")
    assert window.headers["ETag"] == exact.headers["ETag"]
    path = f"/v0/aois/{AOI}/assets?offset=10&limit=20"
    assert (await play.get(path, headers={"If-None-Match": exact.headers["ETag"]})).status == 304
    head = await play.get(path, method="HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(exact.body)))
    zipped = await play.get(path, headers={"Accept-Encoding": "gzip"})
    assert zipped.headers["ETag"] == exact.headers["ETag"][:-1] + '-gzip"'


async def test_pages_are_joined_where_they_share_an_asset(play: Play, vendor: MockVendor) -> None:
    await has(play, vendor, 0, 60)
    await has(play, vendor, 59, 60)
    await has(play, vendor, 118, 60)
    assert (await has(play, vendor, 30, 60)).cache.endswith("detail=window")
    assert (await has(play, vendor, 100, 60)).cache.endswith("detail=window")
    assert len(vendor.requests) == 3


async def test_neighbours_that_share_nothing_are_not_joined(play: Play, vendor: MockVendor) -> None:
    await has(play, vendor, 0, 60)
    await has(play, vendor, 60, 60)
    assert (await has(play, vendor, 30, 60)).cache == "fwd=miss; fwd-status=200; stored"


async def test_assets_without_ids_prove_nothing(play: Play, vendor: MockVendor) -> None:
    vendor.set_assets(AOI, [{"id": number, "status": "success"} for number in range(100)])
    await has(play, vendor, 0, 50)
    await has(play, vendor, 40, 50)
    assert (await has(play, vendor, 10, 30)).cache.endswith("detail=window")  # out of one page
    assert (await has(play, vendor, 20, 50)).cache == "fwd=miss; fwd-status=200; stored"


async def test_the_weakest_page_gives_lifetime_and_age(play: Play, vendor: MockVendor) -> None:
    listed = assets()
    for number in range(60, TOTAL):
        listed[number]["status"] = "started"
    vendor.set_assets(AOI, listed)
    await has(play, vendor, 0, 50)
    play.clock.skip(20)
    await has(play, vendor, 49, 50)
    window = await has(play, vendor, 30, 40)
    assert hit(window.cache, 9)
    assert 20 <= int(window.headers["Age"]) < 30


async def test_a_window_in_grace_refreshes_its_pages(play: Play, vendor: MockVendor) -> None:
    await has(play, vendor, 0, 60)
    await has(play, vendor, 59, 60)
    play.clock.skip(310)
    window = await has(play, vendor, 30, 60)
    assert window.cache.startswith("hit; ttl=-")
    assert window.cache.endswith("; detail=window")
    assert (await play.metrics())['gateway_cache_requests_total{result="stale"}'] == 1
    await until(lambda: len(vendor.requests) == 4)
    await until(lambda: not play.gateway._cache._fetcher._flights._under_way)
    assert sorted(asked(vendor)[2:]) == ["0+60", "59+60"]
    assert hit((await has(play, vendor, 30, 60)).cache, 299)


async def test_a_fresh_window_goes_before_an_exact_page_in_grace(play: Play, vendor: MockVendor) -> None:
    await has(play, vendor, 10, 10)
    play.clock.skip(310)
    await has(play, vendor, 0, 100)
    assert hit((await has(play, vendor, 10, 10)).cache, 299)
    play.clock.skip(310)  # both are in grace or worse now, and the exact page is past it
    assert "detail=window" in (await has(play, vendor, 10, 10)).cache


async def test_a_kept_window_serves_if_the_vendor_fails(play: Play, vendor: MockVendor) -> None:
    whole = await has(play, vendor, 0, 100)
    play.clock.skip(1000)
    vendor.set_behaviour(status=501)
    window = await has(play, vendor, 20, 30)
    assert window.cache == "fwd=stale; fwd-status=501; detail=stale-if-error"
    assert window.headers["X-Listing-Generation"] == whole.headers["X-Listing-Generation"]
    assert (await play.page(AOI, "?offset=120&limit=10")).status == 502


async def test_only_if_cached_takes_a_window(play: Play, vendor: MockVendor) -> None:
    await has(play, vendor, 0, 100)
    reply = await play.page(AOI, "?offset=5&limit=5", Cache_Control="only-if-cached")
    assert reply.cache.endswith("detail=window")
    assert (await play.page(AOI, "?offset=95&limit=10", Cache_Control="only-if-cached")).code == "not_cached"


async def test_limits_are_learned_and_not_guessed(play: Play, vendor: MockVendor) -> None:
    vendor.set_behaviour(max_limit=50)
    page = await play.page(AOI, "?limit=100")
    assert (page.json["pagination"]["limit"], len(page.json["assets"])) == (50, 50)
    # That 100 becomes 50 says nothing of 20.
    assert (await play.page(AOI, "?offset=10&limit=20")).body == vendor.listing(AOI, 10, 20)
    assert asked(vendor) == ["0+100", "10+20"]
    # That 20 was honoured says that 15 is.
    assert (await play.page(AOI, "?offset=3&limit=15")).cache.endswith("detail=window")
    # And 100 is known to be 50, wherever it begins.
    await play.page(AOI, "?offset=49&limit=100")
    window = await play.page(AOI, "?offset=30&limit=100")
    assert window.cache.endswith("detail=window")
    assert window.body == vendor.listing(AOI, 30, 50)
    assert len(vendor.requests) == 3


async def test_a_contradiction_forgets_what_was_learned_of_limits(play: Play, vendor: MockVendor) -> None:
    await has(play, vendor, 0, 100)
    assert (await has(play, vendor, 0, 30)).cache.endswith("detail=window")
    vendor.set_behaviour(max_limit=20)
    await play.page(vendor.aoi_ids[0], "?limit=40")
    vendor.reset()
    assert (await has(play, vendor, 0, 31)).cache == "fwd=miss; fwd-status=200; stored"


FRAMES = {
    "a field more": lambda page: page.replace(b'{"assets"', b'{"took":3,"assets"'),
    "a field more in the pagination": lambda page: page.replace(b'"total"', b'"next":null,"total"'),
    "null": lambda page: page.replace(page[page.index(b"[") : page.rindex(b"]") + 1], b"null"),
    "more than told": lambda page: page.replace(b'"total":150', b'"total":149'),
    "uneven separators": lambda page: page.replace(b"},{", b"}, {", 1),
    "another offset": lambda page: page.replace(b'"offset":50', b'"offset":49'),
    "a figure twice": lambda page: page.replace(b'"total":150', b'"total":150,"total":150'),
    "an escaped name": lambda page: page.replace(b'"assets"', rb'"\u0061ssets"'),
}


@pytest.mark.parametrize("frame", FRAMES)
async def test_a_page_out_of_the_mould_serves_as_it_is(play: Play, vendor: MockVendor, frame: str) -> None:
    page = vendor.listing(AOI, 50, 100)
    assert page is not None
    odd = FRAMES[frame](page)
    assert odd != page
    vendor.set_behaviour(garbage=odd.decode(), times=1)
    assert (await play.page(AOI, "?offset=50&limit=100")).body == odd
    await has(play, vendor, 60, 10)
    assert len(vendor.requests) == 2


PRINTS = {
    "pretty": b"""{
  "assets": [
    {"id": "a"},
    {"id": "b"},
    {"id": "c"}
  ],
  "pagination": {
    "limit": 3,
    "offset": 0,
    "total": 3
  }
}
""",
    "pagination first": (
        b'{"pagination":{"total":3, "offset":0, "limit":3} ,"assets": [ {"id": "a"} , {"id": "b"} , {"id": "c"} ]}'
    ),
}


@pytest.mark.parametrize("prints", PRINTS)
async def test_other_moulds(play: Play, vendor: MockVendor, prints: str) -> None:
    page = PRINTS[prints]
    vendor.set_assets("another", [{"id": str(number)} for number in range(20)])
    await play.page("another")  # which shows that the vendor honours limits up to ten
    vendor.set_behaviour(garbage=page.decode())
    assert (await play.page(AOI, "?limit=3")).body == page
    window = await play.page(AOI, "?offset=1&limit=2")
    assert window.cache.endswith("detail=window")
    expected = page.replace(b'"offset": 0', b'"offset": 1').replace(b'"offset":0', b'"offset":1')
    expected = expected.replace(b'"limit": 3', b'"limit": 2').replace(b'"limit":3', b'"limit":2')
    for first in (b'{"id": "a"},\n    ', b'{"id": "a"} , '):
        expected = expected.replace(first, b"")
    assert window.body == expected


async def test_no_window_mixes_two_listings(play: Play, vendor: MockVendor) -> None:
    await has(play, vendor, 0, 60)
    vendor.set_assets(AOI, assets(first="other"))
    changed = await has(play, vendor, 59, 60)
    assert (await play.metrics())["gateway_cache_generation_changes_total"] == 1
    window = await has(play, vendor, 0, 10)
    assert window.cache == "fwd=miss; fwd-status=200; stored"
    assert window.headers["X-Listing-Generation"] == changed.headers["X-Listing-Generation"]


async def test_an_asset_that_moved_is_not_shown_twice(play: Play, vendor: MockVendor) -> None:
    listed = assets(10)
    vendor.set_assets(AOI, listed)
    await has(play, vendor, 0, 5)
    moved = [listed[8], *listed[1:8], listed[0], listed[9]]  # the first goes to the back, and index 4 stays
    vendor.set_assets(AOI, moved)
    await has(play, vendor, 4, 6)
    reply = await play.page(AOI, "?offset=0&limit=6")
    assert len({asset["id"] for asset in reply.json["assets"]}) == 6


@pytest.fixture
async def replicas(vendor: MockVendor, real_redis: RealRedis) -> AsyncIterator[list[Play]]:
    flags = {"upstream.base_url": vendor.url, "cache.url": real_redis.url}
    async with playing(flags) as one, playing(flags) as two:
        for play in (one, two):
            await until(lambda play=play: play.gateway._store._validity.is_live)  # type: ignore[misc]
        yield [one, two]


async def redis_reads(play: Play) -> float:
    found = await play.metrics()
    return sum(value for name, value in found.items() if 'command="mget"' in name and "commands_total" in name)


async def test_redis_is_asked_at_most_twice_for_a_window(replicas: list[Play], vendor: MockVendor) -> None:
    one, two = replicas
    await has(one, vendor, 0, 60)
    await has(one, vendor, 59, 60)
    await two.page("another")  # whatever is learned once
    before = await redis_reads(two)
    assert (await has(two, vendor, 30, 60)).cache.endswith("detail=window")
    assert await redis_reads(two) - before <= 2
    # Now memory holds its pages, and Redis is asked no more.
    before = await redis_reads(two)
    assert (await has(two, vendor, 30, 60)).cache.endswith("detail=window")
    assert (await has(two, vendor, 5, 60)).cache.endswith("detail=window")
    assert await redis_reads(two) == before
    assert len([request for request in vendor.requests if AOI in request.target]) == 2


async def test_a_window_goes_with_the_page_that_it_was_cut_from(replicas: list[Play], vendor: MockVendor) -> None:
    one, two = replicas
    for play in replicas:
        await has(play, vendor, 0, 100)
        await has(play, vendor, 10, 10)
    vendor.set_assets(AOI, [{**asset, "name": "new"} for asset in assets()])
    one.clock.skip(400)  # for this one the page has expired
    await has(one, vendor, 0, 100)
    async with asyncio.timeout(PATIENCE):
        while (await two.page(AOI, "?offset=10&limit=10")).body != vendor.listing(AOI, 10, 10):
            pass


async def test_a_directory_that_is_lost_brings_no_ended_generation_back(
    replicas: list[Play], vendor: MockVendor, real_redis: RealRedis
) -> None:
    one, two = replicas
    await has(one, vendor, 0, 10)
    vendor.set_assets(AOI, assets(first="other"))
    await has(one, vendor, 100, 10)
    await has(one, vendor, 105, 10)  # which shows the same total, and other ids nowhere
    async with Redis.from_url(real_redis.url) as client:
        (name,) = [key async for key in client.scan_iter("*:list:*")]
        await client.delete(name)
    await has(two, vendor, 50, 10)
    assert (await has(two, vendor, 0, 10)).cache.startswith("fwd=stale")


async def test_a_404_that_was_forgotten_brings_nothing_back_either(play: Play, vendor: MockVendor) -> None:
    before = (await has(play, vendor, 0, 10)).headers["X-Listing-Generation"]
    vendor.set_behaviour(status=404, times=1)
    assert (await play.page(AOI, "?offset=20")).status == 404
    vendor.set_assets(AOI, assets(first="other"))
    play.clock.skip(35)
    after = await has(play, vendor, 50, 10)
    assert after.headers["X-Listing-Generation"] != before
    assert (await has(play, vendor, 0, 10)).cache == "fwd=stale; fwd-status=200; stored"


async def test_a_purge_ends_windows_everywhere(replicas: list[Play], vendor: MockVendor) -> None:
    one, two = replicas
    for play in replicas:
        await has(play, vendor, 0, 100)
        assert (await has(play, vendor, 10, 10)).cache.endswith("detail=window")
    async with one.session.post(one.ops_url + "/admin/purge", json={"aoi_id": AOI}) as response:
        assert response.status == 200
    assert (await has(one, vendor, 10, 10)).cache == "fwd=miss; fwd-status=200; stored"
    async with asyncio.timeout(PATIENCE):
        while "detail=window" in (await has(two, vendor, 20, 10)).cache:
            pass
