"""What the vendor says of caching, from its headers to the client's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from harness import playing
from telling_vendor import PAGE, TellingVendor, a_telling_vendor


@pytest.fixture
async def telling() -> AsyncIterator[TellingVendor]:
    async with a_telling_vendor() as vendor:
        yield vendor


@pytest.mark.parametrize("forbids", ["no-store", "private", "max-age=60, no-store", 'private="Set-Cookie"'])
async def test_what_may_not_be_stored_is_not_and_told_once(telling: TellingVendor, forbids: str) -> None:
    telling.headers = {"Cache-Control": forbids}
    async with playing({"upstream.base_url": telling.url}) as play:
        for _ in range(3):
            reply = await play.page("a1")
            assert (reply.status, reply.cache, reply.body) == (200, "fwd=miss; fwd-status=200", PAGE)
            assert reply.headers["X-Listing-Generation"]
        assert telling.calls == 3
        assert (await play.metrics())['gateway_cache_requests_total{result="bypass"}'] == 3
        assert len([line for line in play.log_lines() if "forbids" in line["event"]]) == 1


@pytest.mark.parametrize(
    ("headers", "ttl", "age"),
    [
        ({"Cache-Control": "max-age=100"}, 100, 0),
        ({"Cache-Control": "max-age=100, s-maxage=50"}, 50, 0),
        ({"Cache-Control": "max-age=100", "Age": "40"}, 60, 40),
        ({"Expires": "Thu, 01 Jan 2099 00:00:00 GMT"}, 86_400, 0),
        ({"Cache-Control": "public"}, 300, 0),
        ({"Age": "40"}, 300, 40),
    ],
)
async def test_the_vendors_lifetime_goes_before_ours(
    telling: TellingVendor, headers: dict[str, str], ttl: int, age: int
) -> None:
    telling.headers = headers
    async with playing({"upstream.base_url": telling.url}) as play:
        play.clock.stop()
        await play.page("a1")
        play.clock.skip(0.5)
        reply = await play.page("a1")
        assert (reply.cache, reply.headers["Age"]) == (f"hit; ttl={ttl - 1}", str(age))
        assert telling.calls == 1


@pytest.mark.parametrize("strict", ["must-revalidate", "no-cache"])
async def test_neither_grace_nor_keep_where_the_vendor_forbids_old_pages(telling: TellingVendor, strict: str) -> None:
    telling.headers = {"Cache-Control": f"{strict}, max-age=30"}
    async with playing({"upstream.base_url": telling.url}) as play:
        await play.page("a1")
        assert (await play.page("a1")).cache.startswith("hit")
        play.clock.skip(31)
        telling.status, telling.body = 501, b""
        assert (await play.page("a1")).status == 502


async def test_the_vendors_headers_can_be_overruled(telling: TellingVendor) -> None:
    telling.headers = {"Cache-Control": "no-store"}
    async with playing({"upstream.base_url": telling.url, "upstream.cache_control": "ignore"}) as play:
        play.clock.stop()
        assert (await play.page("a1")).cache == "fwd=miss; fwd-status=200; stored"
        play.clock.skip(0.5)
        assert (await play.page("a1")).cache == "hit; ttl=299"


async def test_no_page_outlives_its_links(telling: TellingVendor) -> None:
    async with playing({"upstream.base_url": telling.url}) as play:
        play.clock.stop()
        ends = int(play.clock.now()) + 200
        link = f"https://s/x?Expires={ends}\\u0026Signature=y"
        telling.body = PAGE.replace(b'"status"', f'"path":"{link}","status"'.encode())
        reply = await play.page("a1")
        assert (await play.page("a1")).cache == "hit; ttl=139"
        play.clock.skip(141)
        telling.status = 503
        assert (await play.page("a1")).status == 503  # not even though the vendor fails
        assert reply.body == telling.body


async def test_pages_that_are_not_kept_are_of_one_generation_all_the_same(telling: TellingVendor) -> None:
    telling.headers = {"Cache-Control": "no-store"}
    async with playing({"upstream.base_url": telling.url}) as play:
        replies = [await play.page("a1", f"?offset={offset}") for offset in (0, 0, 10)]
        assert len({reply.headers["X-Listing-Generation"] for reply in replies}) == 1


async def test_a_vendor_that_sets_cookies_gets_none_back(telling: TellingVendor) -> None:
    telling.headers = {"Set-Cookie": "a=b"}
    async with playing({"upstream.base_url": telling.url}) as play:
        reply = await play.page("a1")
        assert "Set-Cookie" not in reply.headers
