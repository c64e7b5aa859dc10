"""The next page is fetched ahead of a client that crawls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness import Play, playing, until
from holding_vendor import HoldingVendor

AOI = "a1"


@pytest.fixture
def vendor(vendor: HoldingVendor) -> HoldingVendor:
    listed: list[dict[str, Any]] = [{"id": f"asset-{number:04}", "status": "success"} for number in range(55)]
    vendor.set_assets(AOI, listed)
    return vendor


async def crawl(play: Play, *offsets: int, limit: int = 10) -> list[str]:
    """Ask for one page after the other; how each came about."""
    return [(await play.page(AOI, f"?offset={offset}&limit={limit}")).cache for offset in offsets]


def asked(vendor: HoldingVendor) -> list[int]:
    """The offsets that the vendor was asked for."""
    return [int(request.target.partition("offset=")[2].partition("&")[0]) for request in vendor.requests]


async def settled(play: Play) -> None:
    """Until nothing is fetched behind anybody's back."""
    await until(lambda: not play.gateway._cache.prefetch._under_way)


MISS = "fwd=miss; fwd-status=200; stored"


async def test_from_the_third_page_on_the_next_one_is_there(play: Play, vendor: HoldingVendor) -> None:
    assert await crawl(play, 0, 10) == [MISS, MISS]
    await settled(play)
    assert asked(vendor) == [0, 10]
    assert await crawl(play, 20) == [MISS]
    await until(lambda: len(vendor.requests) == 4)
    await settled(play)
    assert (await crawl(play, 30))[0].startswith("hit")
    await until(lambda: len(vendor.requests) == 5)
    await settled(play)
    assert (await crawl(play, 40))[0].startswith("hit")
    await until(lambda: len(vendor.requests) == 6)
    await settled(play)
    assert (await crawl(play, 50))[0].startswith("hit")
    await settled(play)
    assert asked(vendor) == [0, 10, 20, 30, 40, 50]  # and never past the end


async def test_what_is_no_crawl(play: Play, vendor: HoldingVendor) -> None:
    await crawl(play, 0, 10, 30, 40, 0, 0, 0)
    await crawl(play, 50, limit=5)
    await settled(play)
    assert asked(vendor) == [0, 10, 30, 40, 50]


async def test_a_client_that_comes_too_soon_joins_the_fetch(play: Play, vendor: HoldingVendor) -> None:
    await crawl(play, 0, 10)
    let_go = vendor.hold()
    early = asyncio.create_task(crawl(play, 20))
    await until(lambda: len(vendor.requests) == 3)
    let_go.set()
    let_go = vendor.hold()
    await early
    await until(lambda: len(vendor.requests) == 4)
    soon = asyncio.create_task(crawl(play, 30))
    await play.reaches("gateway_http_requests_in_flight", 1 + 1)
    let_go.set()
    assert await soon == [MISS + "; collapsed"]
    await settled(play)
    assert asked(vendor)[:4] == [0, 10, 20, 30]


async def test_nothing_is_fetched_ahead_while_the_vendor_is_busy(play: Play, vendor: HoldingVendor) -> None:
    await crawl(play, 0, 10)
    let_go = vendor.hold(times=1)
    other = asyncio.create_task(play.page("busy"))
    await until(lambda: len(vendor.requests) == 3)
    await crawl(play, 20)
    await settled(play)
    assert len(vendor.requests) == 4
    let_go.set()
    await other


@pytest.fixture
async def eager(vendor: HoldingVendor) -> AsyncIterator[Play]:
    async with playing({"upstream.base_url": vendor.url, "cache.prefetch": 2}) as running:
        yield running


async def test_more_than_one_page_ahead(eager: Play, vendor: HoldingVendor) -> None:
    await crawl(eager, 0, 10, 20)
    await until(lambda: len(vendor.requests) == 5)
    await settled(eager)
    assert asked(vendor) == [0, 10, 20, 30, 40]


async def test_it_can_be_switched_off(vendor: HoldingVendor) -> None:
    async with playing({"upstream.base_url": vendor.url, "cache.prefetch": 0}) as play:
        await crawl(play, 0, 10, 20)
        await settled(play)
    assert asked(vendor) == [0, 10, 20]


async def test_a_vendor_that_reduces_the_limit_is_crawled_by_what_it_sends(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_behaviour(max_limit=10)
    await crawl(play, 0, 10, 20, limit=100)
    await until(lambda: len(vendor.requests) == 4)
    await settled(play)
    assert asked(vendor) == [0, 10, 20, 30]


async def test_a_failure_ahead_is_nobodys(play: Play, vendor: HoldingVendor) -> None:
    await crawl(play, 0, 10, 20)
    await settled(play)
    vendor.set_behaviour(status=501)
    assert (await crawl(play, 30))[0].startswith("hit")
    await settled(play)
    assert asked(vendor) == [0, 10, 20, 30, 40]
    vendor.reset()
    assert await crawl(play, 40) == [MISS]


async def test_no_page_is_fetched_ahead_while_the_vendor_fails(play: Play, vendor: HoldingVendor) -> None:
    await crawl(play, 0, 10, 20, 30)
    await settled(play)
    play.clock.skip(1000)
    vendor.reset()
    vendor.set_behaviour(status=501)
    assert all("stale-if-error" in told for told in await crawl(play, 0, 10, 20, 30))
    await settled(play)
    assert asked(vendor) == [0, 10, 20, 30]


async def test_nor_for_who_wants_nothing_of_the_vendor(play: Play, vendor: HoldingVendor) -> None:
    await crawl(play, 0, 10)
    await play.page(AOI, "?offset=20")
    await until(lambda: len(vendor.requests) == 4)
    await settled(play)
    await play.page(AOI, "?offset=30", Cache_Control="only-if-cached")
    await settled(play)
    assert asked(vendor) == [0, 10, 20, 30]


@pytest.mark.parametrize("pages", [0, 1, 2])
async def test_a_crawl_does_not_empty_memory_of_what_is_asked_for_often(vendor: HoldingVendor, pages: int) -> None:
    flags = {"upstream.base_url": vendor.url, "cache.prefetch": pages, "cache.memory_max_bytes": 300_000}
    async with playing(flags) as play:
        hot = [f"hot-{number}" for number in range(20)]
        for aoi in hot:
            vendor.set_assets(aoi, [{"id": aoi, "status": "success"}])
            for _ in range(3):
                await play.page(aoi)
        listed: list[dict[str, Any]] = [{"id": f"asset-{number:04}", "status": "success"} for number in range(2000)]
        vendor.set_assets(AOI, listed)
        await crawl(play, *range(0, 2000, 10))
        await settled(play)
        vendor.reset()
        for aoi in hot:
            await play.page(aoi)
        assert len(vendor.requests) <= 2
