"""Why this answer? Every way of answering says so in X-Explain, to those who may know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import http_sf
import pytest
from harness import Play, Reply, playing, until
from holding_vendor import HoldingVendor
from real_redis import RealRedis
from telling_vendor import a_telling_vendor

from gateway.teams.tokens import new_token

AOI = "a1"
DONE = {"status": "success"}


@pytest.fixture
def vendor(vendor: HoldingVendor) -> HoldingVendor:
    vendor.set_assets(AOI, [{"id": f"asset-{number}", **DONE} for number in range(30)])
    return vendor


async def ask(play: Play, query: str = "", *, method: str = "GET", aoi_id: str = AOI, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await play.get(f"/v0/aois/{aoi_id}/assets{query}", method=method, headers={"X-Explain": "1", **named})


def told(reply: Reply) -> dict[str, Any]:
    """The members of X-Explain; a parameter stands beside them as `member;name`, of a list's first item too."""
    parsed: Any = http_sf.parse(reply.headers["X-Explain"].encode(), tltype="dictionary")
    members: dict[str, Any] = {}
    for name, (value, parameters) in parsed.items():
        members[name] = [_plain(item) for item, _ in value] if isinstance(value, list) else _plain(value)
        first: Mapping[str, Any] = value[0][1] if isinstance(value, list) and value else {}
        members |= {f"{name};{key}": _plain(one) for key, one in {**first, **parameters}.items()}
    return members


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool) else str(value) if isinstance(value, str | http_sf.Token) else float(value)


async def why(play: Play, query: str = "", **headers: str) -> dict[str, Any]:
    return told(await ask(play, query, **headers))


def has(said: dict[str, Any], **wanted: Any) -> None:
    """All of this is said, where __ stands for a semicolon; None is for what must not be."""
    asked = {name.replace("__", ";"): value for name, value in wanted.items()}
    assert {name: said.get(name) for name in asked} == asked


async def test_a_miss_and_the_hits_after_it(play: Play, vendor: HoldingVendor) -> None:
    play.clock.stop()
    now = play.clock.now()
    has(await why(play), decision="miss", why="absent", tier="vendor", stored=True, ttl=300.0, rule="settled")
    play.clock.skip(20.5)
    page = await ask(play)
    said = told(page)
    has(said, decision="hit", tier="memory", ttl=279.5, grace=339.5, keep=86_679.5, rule="settled", rule__seconds=300.0,
        lifetime=300.0, lifetime__jitter=0.0, cap=[], why=None, stored=None, reason=None, refresh=None)  # fmt: skip
    assert "from" not in said
    assert said["generation"] == page.headers["X-Listing-Generation"]
    assert said["fetched"] == time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
    for same in (
        await ask(play, method="HEAD"),
        await ask(play, If_None_Match=page.headers["ETag"]),
        await ask(play, Accept_Encoding="gzip"),
    ):
        assert told(same) == said
    assert len(vendor.requests) == 1


async def test_in_grace_and_after_it(play: Play, vendor: HoldingVendor) -> None:
    await ask(play)
    play.clock.skip(310)
    let_go = vendor.hold()
    said = await why(play)
    has(said, decision="stale", tier="memory", why="grace", rule="settled")
    assert said["ttl"] < 0 < said["grace"]
    let_go.set()
    await play.settled()
    play.clock.skip(1000)
    has(await why(play), decision="miss", why="expired", tier="vendor", stored=True)


async def test_a_window_names_its_pages(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_behaviour(delay=0.02)  # the times in the answer are in milliseconds
    await ask(play, "?offset=0&limit=20")
    play.clock.skip(100)
    await ask(play, "?offset=15&limit=15")
    vendor.reset()
    window = await why(play, "?offset=5&limit=20")
    has(window, decision="window", tier="memory", rule="settled", why=None)
    assert window["from"] == ["offset=0&limit=20", "offset=15&limit=15"]
    assert window["from;began"] < window["fetched"]
    assert window["ttl"] <= 200
    play.clock.skip(230)
    let_go = vendor.hold()
    has(await why(play, "?offset=5&limit=20"), decision="stale", why="grace", **{"from": window["from"]})
    let_go.set()
    await play.settled()


async def test_a_window_of_stretches_names_them(vendor: HoldingVendor) -> None:
    async with playing({"upstream.base_url": vendor.url, "cache.chunk": 10, "cache.prefetch": 0}) as play:
        await ask(play, "?offset=25&limit=1")
        said = await why(play, "?offset=5&limit=10")
        has(said, decision="miss", tier="vendor", stored=True, **{"from": ["offset=0&limit=11", "offset=10&limit=11"]})


async def test_who_waits_for_a_fetch_is_told_so(play: Play, vendor: HoldingVendor) -> None:
    let_go = vendor.hold()
    first = asyncio.create_task(ask(play))
    await until(lambda: vendor.inside == 1)
    second = asyncio.create_task(ask(play))
    await play.reaches("gateway_http_requests_in_flight", 3)
    let_go.set()
    has(told(await first), decision="miss", tier="vendor")
    has(told(await second), decision="coalesced", tier="vendor", why="absent", stored=True)


async def test_an_old_page_names_what_failed(vendor: HoldingVendor) -> None:
    flags = {"upstream.base_url": vendor.url, "upstream.patience": 0.1, "upstream.breaker.failures": 2}
    async with playing(flags) as play:
        await ask(play)
        play.clock.skip(1000)
        let_go = vendor.hold()
        has(await why(play), decision="stale_if_error", tier="memory", why="expired", reason="patience",
            reason__status=None)  # fmt: skip
        let_go.set()
        await play.settled()
        play.clock.skip(1000)
        vendor.set_behaviour(status=503)
        said = await why(play)
        has(said, decision="stale_if_error", why="expired", reason="upstream_error", reason__status=503.0, stored=None)
        assert said["grace"] < 0 < said["keep"]
        has(await why(play), decision="stale_if_error", reason="upstream_circuit_open")
        has(await why(play, "?offset=20"), decision="error", why="absent", reason="upstream_circuit_open", ttl=None)


async def test_a_page_of_an_ended_generation_is_superseded(play: Play, vendor: HoldingVendor) -> None:
    await ask(play)
    vendor.set_assets(AOI, [{"id": f"other-{number}", **DONE} for number in range(31)])
    await ask(play, "?offset=10")
    vendor.set_behaviour(status=500)
    said = await why(play)
    has(said, decision="stale_if_error", why="superseded", reason="upstream_error")
    assert said["ttl"] > 200


async def test_a_cached_404_and_the_one_before_it(play: Play) -> None:
    play.clock.stop()
    has(told(await ask(play, aoi_id="nobody")), decision="miss", tier="vendor", rule="not_found", ttl=30.0)
    again = await ask(play, aoi_id="nobody")
    assert again.status == 404
    has(told(again), decision="negative", tier="memory", rule="not_found", rule__seconds=30.0, why=None)


async def test_what_became_of_a_wish_for_a_refresh(vendor: HoldingVendor) -> None:
    flags: dict[str, Any] = {"upstream.base_url": vendor.url, "teams.may-not.miss_rate": 0.001}
    tokens: dict[str, str] = {}
    for name, scopes in (("may", ["admin", "refresh"]), ("may-not", ["admin"]), ("nosy", ["refresh"])):
        tokens[name], digest = new_token()
        flags |= {f"teams.{name}.token_sha256": [digest], f"teams.{name}.scopes": scopes}
    async with playing(flags) as play:
        forced = {"Authorization": tokens["may"], "Cache_Control": "no-cache"}
        has(await why(play, **forced), decision="refresh", why="requested", tier="vendor", stored=True, refresh=None)
        has(await why(play, **forced), decision="hit", tier="memory", refresh="too-soon")
        denied = {"Authorization": tokens["may-not"]}
        has(await why(play, **denied, Pragma="no-cache"), decision="hit", refresh="not-allowed")
        has(await why(play, **denied), decision="hit", refresh=None)
        has(await why(play, "?offset=10", **denied), decision="miss")
        has(await why(play, "?offset=20", **denied), decision="error", reason="rate_limited", why="absent", ttl=None)
        secret = await ask(play, Authorization=tokens["nosy"])
        assert (secret.status, secret.cache.split(";")[0]) == (200, "hit")
        assert "X-Explain" not in secret.headers
        failed = await ask(play, "?offset=5", Authorization=tokens["nosy"], Cache_Control="only-if-cached")
        assert failed.code == "not_cached"
        assert "X-Explain" not in failed.headers


@pytest.mark.parametrize("value", ["0", "", "true", "01", "1;x", "1, 1", "2"])
async def test_any_other_value_is_as_if_absent(play: Play, value: str) -> None:
    assert "X-Explain" not in (await play.page(AOI, X_Explain=value)).headers


async def test_given_twice_is_as_if_absent(play: Play) -> None:
    head = f"GET /v0/aois/{AOI}/assets HTTP/1.1\r\nHost: 127.0.0.1:{play.port}\r\nConnection: close\r\n"
    assert b"\r\nX-Explain: decision=" in await play.raw(f"{head}X-Explain: 1\r\n\r\n".encode())
    assert b"X-Explain" not in await play.raw(f"{head}X-Explain: 1\r\nX-Explain: 1\r\n\r\n".encode())


async def test_errors_say_what_there_was(play: Play, vendor: HoldingVendor) -> None:
    asked = {"Cache_Control": "only-if-cached"}
    has(await why(play, **asked), decision="error", reason="not_cached", why="absent", rule=None)
    await ask(play)
    play.clock.skip(1000)
    said = await why(play, **asked)
    has(said, decision="error", reason="not_cached", why="expired", tier="memory", rule="settled")
    assert said["grace"] < 0 < said["keep"]
    vendor.set_behaviour(status=500)
    failed = await ask(play, "?offset=10")
    assert (failed.status, failed.code) == (500, "upstream_error")
    has(told(failed), decision="error", reason="upstream_error", reason__status=500.0, why="absent")
    vendor.set_behaviour(status=409)
    refused = await ask(play, "?offset=10")
    assert refused.status == 409
    has(told(refused), decision="error", reason="vendor_refused", reason__status=409.0, why="absent")
    # What is refused before the cache is asked has nothing to explain.
    assert "X-Explain" not in (await ask(play, "?limit=0")).headers


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, {"rule": "settled", "cap": []}),
        ({"Cache-Control": "max-age=90"}, {"rule": "max-age", "rule;seconds": 90.0, "cap": []}),
        ({"Cache-Control": "max-age=90, s-maxage=50", "Age": "9"}, {"rule": "s-maxage", "rule;seconds": 41.0}),
        ({"Expires": "Thu, 01 Jan 2099 00:00:00 GMT"}, {"rule": "expires", "lifetime": 86_400.0, "cap": ["one-day"]}),
        ({"Cache-Control": "must-revalidate, max-age=50"}, {"lifetime": 50.0, "cap": ["no-stale"]}),
    ],
)
async def test_the_rule_is_the_one_that_decided(headers: dict[str, str], wanted: dict[str, Any]) -> None:
    async with a_telling_vendor() as telling, playing({"upstream.base_url": telling.url}) as play:
        telling.headers = headers
        first = await why(play)
        has(first, decision="miss", stored=True, **wanted)
        has(await why(play), decision="hit", **wanted)
        if "no-stale" in first["cap"]:
            assert first["keep"] == pytest.approx(first["ttl"], abs=0.2)


@pytest.mark.parametrize(
    ("value", "reason"),
    [("no-store", "no-store"), ("no-cache, max-age=50", "no-lifetime"), ("max-age=0, must-revalidate", "no-lifetime")],
)
async def test_a_page_that_is_not_stored_explains_why(value: str, reason: str) -> None:
    async with a_telling_vendor() as telling, playing({"upstream.base_url": telling.url}) as play:
        telling.headers = {"Cache-Control": value}
        for _ in range(2):
            has(await why(play), decision="bypass", tier="vendor", why="absent", stored=False, stored__why=reason)


@pytest.mark.parametrize(("seconds", "cap", "lifetime"), [(100, "signed-url", 50.0), (4000, "signed-url-keep", 300.0)])
async def test_links_that_end_are_the_cap(
    play: Play, vendor: HoldingVendor, seconds: int, cap: str, lifetime: float
) -> None:
    ends = int(play.clock.now()) + seconds
    vendor.set_assets(AOI, [{**DONE, "path": f"https://s.example/a?Expires={ends}&Signature=x"}])
    await ask(play)
    has(said := await why(play), decision="hit", rule="settled", rule__seconds=300.0, cap=[cap])
    assert said["lifetime"] == pytest.approx(lifetime, abs=1)


@pytest.fixture
async def replicas(vendor: HoldingVendor, real_redis: RealRedis) -> AsyncIterator[list[Play]]:
    flags = {"upstream.base_url": vendor.url, "cache.url": real_redis.url, "cache.lifetimes.keep": 1000}
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(playing(flags)) for _ in range(2)]


async def test_replicas_tell_whose_copy_it_is(replicas: list[Play], vendor: HoldingVendor) -> None:
    first, second = replicas
    has(await why(first, "?limit=20"), decision="miss", tier="vendor")
    has(
        hit := await why(second, "?limit=20"), decision="hit", tier="redis", rule="settled", rule__seconds=300.0, cap=[]
    )
    has(await why(second, "?offset=2&limit=5"), decision="window", tier="memory")
    assert hit["keep"] == pytest.approx(1300, abs=60)
    let_go = vendor.hold()
    fetching = asyncio.create_task(ask(first, "?offset=22"))
    await until(lambda: vendor.inside == 1)
    waiting = asyncio.create_task(ask(second, "?offset=22"))
    await second.reaches("gateway_http_requests_in_flight", 2)
    let_go.set()
    has(told(await fetching), decision="miss", tier="vendor")
    has(told(await waiting), decision="coalesced", tier="replica", why="absent", stored=True)


async def test_a_window_out_of_redis(replicas: list[Play]) -> None:
    first, second = replicas
    await ask(first, "?limit=20")
    said = await why(second, "?offset=2&limit=5")
    has(said, decision="window", tier="redis", **{"from": ["offset=0&limit=20"]})


async def test_a_page_that_a_purge_overtook_says_so(play: Play, vendor: HoldingVendor) -> None:
    let_go = vendor.hold()
    fetching = asyncio.create_task(ask(play))
    await until(lambda: vendor.inside == 1)
    await play.gateway._cache.purge(AOI)
    let_go.set()
    has(told(await fetching), decision="bypass", stored=False, stored__why="purged")
