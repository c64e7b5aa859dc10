"""With `cache.chunk` the vendor is asked for aligned chunks, whatever window a client wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness import Play, Reply, hit, playing, until
from holding_vendor import HoldingVendor
from real_redis import RealRedis

from gateway.teams.tokens import new_token

AOI = "a1"


def assets(count: int, *, first: str = "asset") -> list[dict[str, Any]]:
    return [{"id": f"{first}-{number:04}", "status": "success"} for number in range(count)]


@pytest.fixture
def vendor(vendor: HoldingVendor) -> HoldingVendor:
    vendor.set_assets(AOI, assets(47))
    return vendor


@pytest.fixture
async def play(vendor: HoldingVendor) -> AsyncIterator[Play]:
    async with playing({"upstream.base_url": vendor.url, "cache.chunk": 20, "cache.prefetch": 0}) as running:
        yield running


async def has(play: Play, vendor: HoldingVendor, offset: int, limit: int) -> Reply:
    """Ask for a window, which must be what the vendor would say now."""
    reply = await play.page(AOI, f"?offset={offset}&limit={limit}")
    assert (reply.status, reply.body) == (200, vendor.listing(AOI, offset, limit))
    return reply


def asked(vendor: HoldingVendor) -> list[str]:
    """What the vendor was asked for, as `offset+limit`."""
    return [
        request.target.partition("?")[2].replace("offset=", "").replace("&limit=", "+") for request in vendor.requests
    ]


async def test_one_crawl_pays_for_every_page_size(play: Play, vendor: HoldingVendor) -> None:
    for limit in (10, 7, 21, 13):
        for offset in range(0, 47, limit):
            await has(play, vendor, offset, limit)
    assert asked(vendor) == ["0+21", "20+21", "40+21"]
    counted = await play.metrics()
    assert counted['gateway_cache_requests_total{result="miss"}'] == 3


async def test_what_an_answer_says(play: Play, vendor: HoldingVendor) -> None:
    assert (await has(play, vendor, 3, 5)).cache == "fwd=miss; fwd-status=200; stored"
    assert hit((await has(play, vendor, 3, 5)).cache, 299)
    play.clock.skip(1000)
    assert (await has(play, vendor, 3, 5)).cache == "fwd=stale; fwd-status=200; stored"
    assert asked(vendor) == ["0+21", "0+21"]


async def test_a_window_over_two_stretches_asks_for_both_at_once_when_the_length_is_known(
    play: Play, vendor: HoldingVendor
) -> None:
    await has(play, vendor, 5, 10)
    assert asked(vendor) == ["0+21"]
    let_go = vendor.hold()
    waiting = asyncio.create_task(has(play, vendor, 25, 20))
    await until(lambda: len(vendor.requests) == 3)  # the second is asked for before the first has answered
    let_go.set()
    assert (await waiting).cache == "fwd=miss; fwd-status=200; stored"
    assert sorted(asked(vendor)) == ["0+21", "20+21", "40+21"]


async def test_windows_past_the_end_and_of_an_empty_listing(play: Play, vendor: HoldingVendor) -> None:
    await has(play, vendor, 60, 10)
    await has(play, vendor, 100, 3)
    assert asked(vendor) == ["60+21", "60+10", "100+3"]  # once it is known that this is past the end, as asked for
    vendor.set_assets("empty", [])
    assert (await play.page("empty")).body == vendor.listing("empty", 0, 10)
    assert (await play.page("empty", "?limit=5")).cache == "fwd=miss; fwd-status=200; stored"


async def test_a_404_is_a_404(play: Play, vendor: HoldingVendor) -> None:
    reply = await play.page("unheard-of")
    assert (reply.status, reply.code) == (404, "not_found")
    assert hit((await play.page("unheard-of", "?offset=3")).cache, 29, window=False)
    assert len(vendor.requests) == 1


async def test_herds_for_many_windows_share_a_stretch(play: Play, vendor: HoldingVendor) -> None:
    let_go = vendor.hold()
    herd = asyncio.gather(*(has(play, vendor, number, 5) for number in range(15)))
    await play.reaches("gateway_http_requests_in_flight", 15 + 1)
    let_go.set()
    replies = await herd
    assert asked(vendor) == ["0+21"]
    assert sum(reply.cache == "fwd=miss; fwd-status=200; stored; collapsed" for reply in replies) == 14


async def test_a_change_between_two_stretches(play: Play, vendor: HoldingVendor) -> None:
    await has(play, vendor, 0, 20)
    vendor.set_assets(AOI, assets(48, first="other"))
    reply = await has(play, vendor, 10, 20)  # both from after the change, or nothing
    assert asked(vendor) == ["0+21", "20+21", "0+21"]
    assert (await has(play, vendor, 0, 5)).headers["X-Listing-Generation"] == reply.headers["X-Listing-Generation"]


async def test_a_vendor_that_allows_less_is_asked_for_less(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_behaviour(max_limit=11)
    for offset in range(0, 47, 5):
        await has(play, vendor, offset, 5)
    assert asked(vendor) == ["0+21", "0+11", "10+11", "20+11", "30+11", "40+11"]


async def test_wide_windows_are_learned_first_and_joined_then(play: Play, vendor: HoldingVendor) -> None:
    await has(play, vendor, 0, 30)
    await has(play, vendor, 15, 30)
    assert sorted(asked(vendor)) == ["0+21", "0+30", "20+21", "40+21"]
    await has(play, vendor, 2, 30)
    assert len(vendor.requests) == 4


async def test_one_request_does_not_become_many(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_assets(AOI, assets(500))
    await has(play, vendor, 0, 200)
    await has(play, vendor, 210, 200)
    assert asked(vendor) == ["0+200", "210+200"]


@pytest.mark.parametrize("empty", [[], None])
async def test_the_end_of_a_listing_is_no_reason_to_give_up(
    play: Play, vendor: HoldingVendor, empty: list[Any] | None
) -> None:
    await has(play, vendor, 50, 5)  # nobody knows yet how long it is, and the stretch does not show an empty page
    assert asked(vendor) == ["40+21", "50+5"]
    await has(play, vendor, 0, 5)
    await has(play, vendor, 5, 5)
    assert asked(vendor)[2:] == ["0+21"]
    vendor.set_assets("none", empty)
    assert (await play.page("none", "?limit=5")).body == vendor.listing("none", 0, 5)
    vendor.set_assets("none", assets(30))
    play.clock.skip(1000)
    vendor.reset()
    for offset in (0, 5, 10):
        await play.page("none", f"?offset={offset}&limit=5")
    assert asked(vendor) == ["0+21"]


async def test_a_purge_meanwhile_is_no_reason_either(play: Play, vendor: HoldingVendor) -> None:
    let_go = vendor.hold(times=1)
    waiting = asyncio.create_task(has(play, vendor, 0, 5))
    await until(lambda: len(vendor.requests) == 1)
    async with play.session.post(play.ops_url + "/admin/purge", json={"all": True}) as response:
        assert response.status == 200
    let_go.set()
    await waiting
    await has(play, vendor, 5, 5)
    assert asked(vendor) == ["0+21", "0+21"]


async def test_a_vendor_that_will_not_send_so_much_is_asked_for_what_was_asked(
    play: Play, vendor: HoldingVendor
) -> None:
    vendor.set_behaviour(status=400, times=1)
    await has(play, vendor, 0, 5)
    await has(play, vendor, 5, 5)
    assert asked(vendor) == ["0+21", "0+5", "5+5"]
    play.clock.pass_by(61)
    await has(play, vendor, 10, 5)
    assert asked(vendor)[3:] == ["0+21"]


async def test_where_stretches_are_no_use_pages_are_fetched_as_they_are(play: Play, vendor: HoldingVendor) -> None:
    def took(query: str) -> str:
        page = json.dumps({"assets": assets(3), "pagination": {"total": 3, "offset": 0, "limit": 21}, "took": query})
        vendor.set_behaviour(garbage=page)
        return page

    for offset in range(3):
        took(str(offset))
        assert (await play.page(AOI, f"?offset={offset}&limit=5")).json["took"] == str(offset)
    # A page that names another offset is requested twice if it came on a kept connection.
    assert list(dict.fromkeys(asked(vendor))) == ["0+21", "0+5", "1+5", "2+5"]


async def test_a_client_that_refreshes_refreshes_the_stretch(vendor: HoldingVendor) -> None:
    token, digest = new_token()
    flags = {
        "upstream.base_url": vendor.url,
        "cache.chunk": 20,
        "teams.x.token_sha256": [digest],
        "teams.x.scopes": ["refresh"],
    }
    async with playing(flags) as play:
        await play.page(AOI, "?limit=5", Authorization=token)
        reply = await play.page(AOI, "?limit=5", Authorization=token, Cache_Control="no-cache")
        assert reply.cache == "fwd=request; fwd-status=200; stored"
        assert asked(vendor) == ["0+21", "0+21"]
        # Nor does another window of the same stretch have it fetched once more.
        again = await play.page(AOI, "?offset=5&limit=5", Authorization=token, Cache_Control="no-cache")
        assert again.cache.startswith("hit")
        # At most once in ten seconds, for the window; and so is its stretch fresh.
        again = await play.page(AOI, "?limit=5", Authorization=token, Cache_Control="no-cache")
        assert again.cache.startswith("hit")


async def test_a_refresh_shows_what_is_new_whatever_older_pages_are_fresh(vendor: HoldingVendor) -> None:
    token, digest = new_token()
    flags = {
        "upstream.base_url": vendor.url,
        "cache.chunk": 20,
        "teams.x.token_sha256": [digest],
        "teams.x.scopes": ["refresh"],
    }
    async with playing(flags) as play:
        for query in ("?limit=30", "?limit=15"):
            await play.page(AOI, query, Authorization=token)
        vendor.set_assets(AOI, [{**asset, "name": "new"} for asset in assets(47)])
        for query in ("?limit=30", "?limit=15"):
            reply = await play.page(AOI, query, Authorization=token, Cache_Control="no-cache")
            assert {asset["name"] for asset in reply.json["assets"]} == {"new"}


async def test_the_vendor_fails_and_old_stretches_serve(play: Play, vendor: HoldingVendor) -> None:
    await has(play, vendor, 0, 5)
    play.clock.skip(1000)
    vendor.set_behaviour(status=501)
    assert (await has(play, vendor, 8, 5)).cache == "fwd=stale; fwd-status=501; detail=stale-if-error"
    assert (await play.page(AOI, "?offset=30")).status == 502


async def test_replicas_share_stretches(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    flags = {
        "upstream.base_url": vendor.url,
        "cache.url": real_redis.url,
        "cache.chunk": 20,
        "cache.prefetch": 0,
    }
    async with playing(flags) as one, playing(flags) as two:
        let_go = vendor.hold()
        herd = asyncio.gather(*(has(play, vendor, offset, 6) for play in (one, two) for offset in range(12)))
        for play in (one, two):
            await play.reaches("gateway_http_requests_in_flight", 12 + 1)
        let_go.set()
        await herd
        assert asked(vendor) == ["0+21"]
        vendor.reset()
        for offset in range(0, 47, 6):
            await has((one, two)[offset % 4 // 2], vendor, offset, 6)
        assert asked(vendor) == ["20+21", "40+21"]
