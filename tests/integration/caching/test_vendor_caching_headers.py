"""What the vendor says of caching, from its headers to the client's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from harness import playing
from multidict import CIMultiDict
from real_redis import RealRedis
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
        ({"Cache-Control": 'no-cache="Set-Cookie"'}, 300, 0),
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


@pytest.mark.parametrize(
    "strict", ["must-revalidate", "proxy-revalidate", "s-maxage=30", 'no-cache="Age"; must-revalidate']
)
async def test_neither_grace_nor_keep_where_the_vendor_forbids_old_pages(telling: TellingVendor, strict: str) -> None:
    telling.headers = {"Cache-Control": f"{strict}, max-age=30"}
    async with playing({"upstream.base_url": telling.url}) as play:
        await play.page("a1")
        assert (await play.page("a1")).cache.startswith("hit")
        play.clock.skip(31)
        telling.status, telling.body = 501, b""
        assert (await play.page("a1")).status == 502


@pytest.mark.parametrize("second", ["no-store", "private", "no-store; max-age=0"])
async def test_a_page_is_not_stored_if_any_cache_control_line_forbids_it(telling: TellingVendor, second: str) -> None:
    telling.headers = CIMultiDict([("Cache-Control", "max-age=40"), ("Cache-Control", second)])
    async with playing({"upstream.base_url": telling.url}) as play:
        assert [(await play.page("a1")).cache for _ in range(2)] == ["fwd=miss; fwd-status=200"] * 2
        assert telling.calls == 2


@pytest.mark.parametrize(
    "lines", [("no-cache",), ("max-age=40", "no-cache"), ("max-age=40", "s-maxage=0"), ("must-revalidate, max-age=0",)]
)
async def test_a_page_without_a_lifetime_is_fetched_for_each_request_and_coalesced(
    telling: TellingVendor, lines: tuple[str, ...]
) -> None:
    telling.headers = CIMultiDict(("Cache-Control", line) for line in lines)
    async with playing({"upstream.base_url": telling.url}) as play:
        replies = [await play.page("a1") for _ in range(2)]
        assert [reply.cache.partition("=")[0] for reply in replies] == ["fwd", "fwd"]
        assert not any("stored" in reply.cache for reply in replies)
        assert telling.calls == 2
        together = await asyncio.gather(*(play.page("a1") for _ in range(10)))
        assert {reply.status for reply in together} == {200}
        assert telling.calls < 12
        assert any("collapsed" in reply.cache for reply in together)
        reasons = (await play.page("a1", X_Explain="1")).headers["X-Explain"]
        assert "stored=?0;why=no-lifetime" in reasons
        telling.status = 503
        assert (await play.page("a1")).status == 503  # nor is it kept for the time when the vendor fails


async def test_a_page_without_a_lifetime_is_coalesced_over_replicas_and_reported_as_not_stored(
    telling: TellingVendor, real_redis: RealRedis
) -> None:
    telling.headers = {"Cache-Control": "no-cache"}
    flags = {"upstream.base_url": telling.url, "cache.url": real_redis.url}
    async with playing(flags) as first, playing(flags) as second:
        for play in (first, second):
            await play.page("a1")
        telling.calls, telling.delay = 0, 0.1
        replies = await asyncio.gather(*(play.page("a1") for play in (first, second) * 5))
        assert telling.calls < 10
        assert {reply.cache.replace("; collapsed", "") for reply in replies} == {"fwd=miss; fwd-status=200"}
        assert sum("collapsed" in reply.cache for reply in replies) == 10 - telling.calls


async def test_the_vendors_headers_can_be_overruled(telling: TellingVendor) -> None:
    telling.headers = CIMultiDict([("Cache-Control", "no-store"), ("Cache-Control", "no-cache"), ("Expires", "0")])
    async with playing({"upstream.base_url": telling.url, "upstream.cache_control": "ignore"}) as play:
        play.clock.stop()
        assert (await play.page("a1")).cache == "fwd=miss; fwd-status=200; stored"
        play.clock.skip(0.5)
        assert (await play.page("a1")).cache == "hit; ttl=299"


@pytest.mark.parametrize(
    "template",
    [
        "https://s/x?Expires=%d\\u0026Signature=y",
        "https://s/x?Expires\\u003d%d\\u0026Signature\\u003Dy",
        "https:\\/\\/s\\/x\\u003fExpires\\u003D%d",
        "https://s/x?%%45xpires=%d",
        "https://s/x?\\u002545xpires=%d",
    ],
)
async def test_no_page_outlives_its_links(telling: TellingVendor, template: str) -> None:
    async with playing({"upstream.base_url": telling.url}) as play:
        play.clock.stop()
        ends = int(play.clock.now()) + 200
        link = template % ends
        telling.body = PAGE.replace(b'"status"', f'"path":"{link}","status"'.encode())
        reply = await play.page("a1")
        assert (await play.page("a1")).cache == "hit; ttl=139"
        play.clock.skip(141)
        telling.status = 503
        assert (await play.page("a1")).status == 503  # not even though the vendor fails
        assert reply.body == telling.body


async def test_each_response_that_is_not_cached_has_a_generation_name_of_its_own(telling: TellingVendor) -> None:
    async with playing({"upstream.base_url": telling.url}) as play:
        cached = await play.page("a1")
        telling.headers = {"Cache-Control": "no-store"}
        replies = [await play.page("a1", f"?offset={offset}") for offset in (10, 10, 20)]
        play.clock.skip(1000)
        replies.append(await play.page("a1"))
        assert ["stored" in reply.cache for reply in (cached, *replies)] == [True, False, False, False, False]
        names = [reply.headers["X-Listing-Generation"] for reply in (cached, *replies)]
        assert all(names)
        assert len(set(names)) == len(names)


async def test_a_vendor_that_sets_cookies_gets_none_back(telling: TellingVendor) -> None:
    telling.headers = {"Set-Cookie": "a=b"}
    async with playing({"upstream.base_url": telling.url}) as play:
        reply = await play.page("a1")
        assert "Set-Cookie" not in reply.headers
