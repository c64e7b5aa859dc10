"""The short cut: what ends it, and what it owes to everybody else. That it answers alike is a property's business."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness import PATIENCE, VENDOR_KEY, Play, playing, until
from holding_vendor import HoldingVendor
from raw_client import Line, Raw, asks
from real_redis import RealRedis
from relay import relaying

from gateway.config.loading import load
from gateway.core.events import RequestsReplayed
from gateway.core.query import AssetsQuery
from gateway.teams.tokens import new_token

AOI = "a1"
PAGE = asks(f"/v0/aois/{AOI}/assets")
SMALL = asks(f"/v0/aois/{AOI}/assets?limit=5")
TOKEN, DIGEST = new_token()


def assets(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"asset-{number:04}", "status": "success"} for number in range(first, first + count)]


@pytest.fixture
def vendor(vendor: HoldingVendor) -> HoldingVendor:
    vendor.set_assets(AOI, assets(55))
    return vendor


class Ways:
    """A connection, and how its requests were answered: `short` counts those that took the short cut."""

    def __init__(self, play: Play, line: Line) -> None:
        self.play = play
        self.line = line
        self.short = 0
        play.gateway._dispatcher.subscribe({RequestsReplayed: self._count})

    def _count(self, fact: RequestsReplayed) -> None:
        self.short += fact.requests

    async def ask(self, request: bytes = PAGE) -> tuple[Raw, bool]:
        """An answer, and whether it was the short cut's."""
        self.play.gateway._response_cache.flush()
        before = self.short
        answer = await self.line.ask(request)
        self.play.gateway._response_cache.flush()
        return answer, self.short > before

    async def learn(self, request: bytes = PAGE) -> Raw:
        """Ask until it is remembered: a miss, seen once, seen again, and then for sure."""
        for _ in range(6):
            answer, short = await self.ask(request)
            if short:
                return answer
        raise AssertionError(f"never remembered: {answer}")


@pytest.fixture
async def ways(play: Play) -> AsyncIterator[Ways]:
    async with Line(play.port) as line:
        yield Ways(play, line)


async def test_remembered_at_second_sight(ways: Ways) -> None:
    told = [await ways.ask() for _ in range(5)]
    assert [short for _, short in told] == [False, False, True, True, True]
    assert [answer.cache.split(";")[0] for answer, _ in told] == ["fwd=miss"] + ["hit"] * 4
    assert len({answer.body for answer, _ in told}) == 1
    assert len({answer["X-Request-Id"] for answer, _ in told}) == 5


async def test_figures_go_with_time(vendor: HoldingVendor) -> None:
    async with playing({"upstream.base_url": vendor.url}) as play, Line(play.port) as line:
        play.clock.stop()
        ways = Ways(play, line)
        assert (await ways.learn())["Age"] == "0"
        play.clock.skip(100.0)
        answer, short = await ways.ask()
        assert short
        assert (answer["Age"], answer.cache) == ("100", "hit; ttl=200")
        # It is fresh to the last fraction of a second, and not beyond.
        play.clock.skip(199.9)
        answer, short = await ways.ask()
        assert short
        assert (answer["Age"], answer.cache) == ("299", "hit; ttl=0")
        play.clock.skip(0.1)
        answer, short = await ways.ask()
        assert not short
        assert answer.cache == "hit; ttl=0"  # in grace, by a hair
        await play.settled()
        assert len(vendor.requests) == 2


@pytest.mark.parametrize("fraction", [0.123, 0.9999997, 0.0004999])
async def test_lines_of_the_log_round_alike(fraction: float, ways: Ways) -> None:
    ways.play.clock.stop()
    ways.play.clock.skip(1_800_000_000 + fraction - ways.play.clock.now())
    for _ in range(5):
        await ways.ask()
    told = [line["ts"] for line in ways.play.log_lines() if line["event"] == "request"]
    assert len(told) == 5
    assert len(set(told)) == 1


async def test_figures_are_those_of_the_long_way(vendor: HoldingVendor) -> None:
    """Age, ttl and Date each change at a fraction of a second of their own."""
    flags = {"upstream.base_url": vendor.url, "cache.lifetimes.settled": 300.4}
    async with playing(flags) as play, Line(play.port) as line:
        play.clock.stop()
        play.clock.skip(0.77 - play.clock.now() % 1.0)
        ways = Ways(play, line)
        await ways.learn()
        for _ in range(30):
            play.clock.skip(0.13)
            ours, short = await ways.ask()
            theirs, never = await ways.ask(asks(f"/v0/aois/{AOI}/assets", "Cache-Control: max-age=0", method="HEAD"))
            assert (short, never) == (True, False)
            for name in ("Age", "Cache-Status", "Date"):
                assert ours[name] == theirs[name]


@pytest.mark.parametrize(
    "asking",
    [
        asks(f"/v0/aois/{AOI}/assets", "Connection: keep-alive", version="1.0"),
        asks(f"/v0/aois/{AOI}/assets", "Connection: keep-alive"),
        asks(f"/v0/aois/{AOI}/assets", "Cache-Control: no-cache"),
        asks(f"/v0/aois/{AOI}/assets", "Pragma: no-cache"),
        asks(f"/v0/aois/{AOI}/assets", "X-Explain: 1"),
        asks(f"/v0/aois/{AOI}/assets", "Content-Length: 0"),
        asks(f"/v0/aois/{AOI}/assets", "Upgrade: h2c"),
        asks(f"/v0/aois/{AOI}/assets", f"Cookie: {'x' * 4096}"),
        b"\r\n" + PAGE,
        asks(f"http://localhost/v0/aois/{AOI}/assets"),
        asks("/v0/aois/nobody/assets"),
        asks("/healthz"),
    ],
    ids=lambda request: request[:90].decode(),
)
async def test_what_is_never_remembered(asking: bytes, ways: Ways) -> None:
    for _ in range(5):
        assert not (await ways.ask(asking))[1]
    assert not ways.play.gateway._response_cache._ready


async def test_who_speaks_an_older_version_is_not_kept(play: Play) -> None:
    for _ in range(5):
        async with Line(play.port) as line:
            assert (await line.ask(asks(f"/v0/aois/{AOI}/assets", version="1.0"))).status == 200
            assert await line.reader.read() == b""


@pytest.mark.parametrize("what", ["newer", "list", "purge", "purge all", "evicted", "back"])
async def test_what_ends_it(what: str, ways: Ways, vendor: HoldingVendor) -> None:
    before = await ways.learn()
    play = ways.play
    match what:
        case "newer":
            vendor.set_assets(AOI, [{**asset, "name": "new"} for asset in assets(55)])
            assert (await play.page(AOI, Cache_Control="no-cache")).status == 200
            play.clock.skip(1.0)
        case "list":  # another page tells that the list has changed
            vendor.set_assets(AOI, assets(56, first=1))
            assert (await play.page(AOI, "?offset=40")).status == 200
        case "purge":
            await play.gateway._cache.purge(AOI)
        case "purge all":
            await play.gateway._cache.purge(None)
        case "evicted":
            play.gateway._store._pages.clear()  # type: ignore[attr-defined]
            await ways.ask(asks("/healthz"))  # or this connection's last answer would still have the page
        case "back":
            play.clock.skip(-1000.0)
    answer, short = await ways.ask()
    if what == "newer":  # open mode has no scope for a refresh: nothing is newer
        assert short
        return
    if what == "back":
        assert answer.cache.startswith("hit; ttl=1")
        assert answer["Age"] == "0"
        return
    assert not short
    assert answer.cache.startswith("fwd=")
    assert (answer.body == before.body) == (what != "list")


async def test_a_page_of_its_own_listing_is_no_reason_to_ask_again(ways: Ways, vendor: HoldingVendor) -> None:
    """A seal that breaks has the page looked up again, and found."""
    await ways.learn()
    assert (await ways.play.page(AOI, "?offset=50")).status == 200
    assert (await ways.ask())[1]
    assert len(vendor.requests) == 2


async def test_a_window_whose_limit_is_known_no_more(vendor: HoldingVendor) -> None:
    """How the vendor treats limits is learned from any AOI, and a contradiction ends the windows of all of them."""
    vendor.set_assets("b1", assets(80))
    asking = f"/v0/aois/{AOI}/assets?offset=3&limit=20"
    async with playing({"upstream.base_url": vendor.url, "cache.prefetch": 0}) as play, Line(play.port) as line:
        ways = Ways(play, line)
        assert (await play.page(AOI, "?limit=50")).status == 200
        assert "detail=window" in (await ways.learn(asks(asking))).cache
        async with play.session.post(f"{vendor.url}/_mock/behaviour", json={"max_limit": 10}) as told:
            assert told.status < 300
        assert len((await play.page("b1", "?limit=30")).json["assets"]) == 10
        answer, short = await ways.ask(asks(asking))
        assert not short
        assert answer.cache.startswith("fwd=miss")


async def test_a_token_that_is_revoked(vendor: HoldingVendor) -> None:
    key = "another-key"  # which the configuration that is reloaded has to have as well
    flags = {"upstream.base_url": vendor.url, "upstream.api_key": key, "teams.a.token_sha256": [DIGEST]}
    async with playing(flags) as play, Line(play.port) as line:
        ways, asking = Ways(play, line), asks(f"/v0/aois/{AOI}/assets", f"Authorization: {TOKEN}")
        vendor.set_assets(AOI, assets(3))
        play.gateway._keys.replace("current", play.vendor_key)
        await ways.learn(asking)
        # What is being answered while the teams change is not remembered after it.
        vendor.set_assets("a2", [{"id": "x", "status": "success", "path": "p" * 7_000_000}])
        large = asks("/v0/aois/a2/assets", f"Authorization: {TOKEN}")
        async with Line(play.port) as other:
            for _ in range(2):
                await other.ask(large)
            other.writer.write(large)
            await until(lambda: any(one._paused for one in connections(play)))
            changed = load(environ={}, flags={**flags, "teams.a.token_sha256": []}, use_file=False)
            play.gateway.reloads.reload(lambda: changed)
            assert (await other.answer()).status == 200
            assert (await other.ask(large)).status == 401
        answer, short = await ways.ask(asking)
        assert (answer.status, short) == (401, False)


async def test_a_team_may_not_ask_more_often_than_otherwise(vendor: HoldingVendor) -> None:
    team = {"teams.a.token_sha256": [DIGEST], "teams.a.rate": 0.001, "teams.a.burst": 8}
    async with playing({"upstream.base_url": vendor.url, **team}) as play, Line(play.port) as line:
        ways, asking = Ways(play, line), asks(f"/v0/aois/{AOI}/assets", f"Authorization: {TOKEN}")
        told = [await ways.ask(asking) for _ in range(10)]
        assert [answer.status for answer, _ in told] == [200] * 8 + [429] * 2
        assert sum(short for _, short in told) == 6
        counted = await play.metrics()
        assert counted['gateway_rate_limited_total{scope="requests",team="a"}'] == 2
        assert counted['gateway_http_requests_total{code="200",method="GET",route="assets",team="a"}'] == 8
        assert counted['gateway_cache_requests_total{result="hit"}'] == 7
        assert counted['gateway_http_request_duration_seconds_count{cache="hit",route="assets"}'] == 7
        assert counted["gateway_http_requests_in_flight"] == 1  # which is this scrape


async def test_it_uses_the_page_as_much_as_anybody(ways: Ways) -> None:
    """Or the hottest page of all, and its listing, would be the first to go for want of room."""
    await ways.learn()
    held = ways.play.gateway._store._pages._held  # type: ignore[attr-defined]
    nodes = [*held._small.values(), *held._main.values()]
    assert len(nodes) == 2
    for node in nodes:
        node.uses = 0
    await ways.ask()
    await until(lambda: all(node.uses for node in nodes))


async def test_who_crawls_is_fetched_ahead_for(ways: Ways, vendor: HoldingVendor) -> None:
    pages = [asks(f"/v0/aois/{AOI}/assets?offset={offset}&limit=5") for offset in (0, 5, 10)]
    cache = ways.play.gateway._cache
    cache.prefetch._pages = 0
    for page in pages:
        await ways.learn(page)
    before, cache.prefetch._pages = len(vendor.requests), 1
    for page in pages:
        assert (await ways.ask(page))[1]
    await until(lambda: len(vendor.requests) == before + 1)
    assert "offset=15&" in vendor.requests[-1].target


def connections(play: Play) -> list[Any]:
    served: list[Any] = play.gateway._listeners[0]._server.connections
    return served


async def test_a_connection_that_asks_is_not_idle(ways: Ways) -> None:
    await ways.learn()
    async with Line(ways.play.port) as line:
        await until(lambda: any(one._waiter is not None and not one.has_asked for one in connections(ways.play)))
        (connection,) = [one for one in connections(ways.play) if not one.has_asked]
        before = connection._next_keepalive_close_time
        await until(lambda: connection._loop.time() > before - 14.0)
        assert (await Ways(ways.play, line).ask())[1]
        assert connection._next_keepalive_close_time > before
        assert connection.has_asked


async def test_a_gateway_that_drains_says_so(ways: Ways) -> None:
    await ways.learn()
    ways.play.gateway.unready()
    answer, short = await ways.ask()
    assert (answer["Connection"], short) == ("close", False)


async def test_what_stands_in_a_body_is_no_request(ways: Ways) -> None:
    """The rest of a POST that was refused looks like a request that is known."""
    await ways.learn()
    answer, _ = await ways.ask(asks("/v0/aois/a1/assets", f"Content-Length: {len(PAGE)}", method="POST"))
    assert answer.status == 405
    ways.line.writer.write(PAGE)
    async with asyncio.timeout(PATIENCE):
        assert await ways.line.reader.read() == b""
    assert (await ways.play.metrics())['gateway_cache_requests_total{result="hit"}'] == 2


async def test_what_stands_in_a_header_is_no_request(ways: Ways) -> None:
    """What is known comes whole, in a segment of its own, in the middle of another request."""
    await ways.learn()
    ways.line.writer.write(b"GET /healthz HTTP/1.1\r\nX-Header: ")
    await until(lambda: any(one._strict._head for one in connections(ways.play)))
    ways.line.writer.write(PAGE)
    answer = await ways.line.answer()
    assert (answer.status, answer["Content-Type"]) == (200, "application/json")
    assert answer.body == b'{"status":"ok"}'


async def test_order_is_kept(ways: Ways, vendor: HoldingVendor) -> None:
    """A request that is known waits for the one before it, whose answer takes its time."""
    known = await ways.learn()
    let_go = vendor.hold()
    ways.line.writer.write(asks("/v0/aois/a2/assets"))
    await until(lambda: vendor.inside == 1)
    ways.line.writer.write(PAGE)
    ways.line.writer.write(PAGE)
    let_go.set()
    assert [(await ways.line.answer()).status for _ in range(3)] == [404, 200, 200]
    # And one that comes in pieces is put together first.
    ways.line.writer.write(PAGE[:20])
    await ways.play.metrics()
    ways.line.writer.write(PAGE[20:] + SMALL + PAGE)
    bodies = [(await ways.line.answer()).body for _ in range(3)]
    assert bodies[0] == bodies[2] == known.body != bodies[1]


async def test_a_client_that_does_not_read_is_not_written_for(vendor: HoldingVendor) -> None:
    """Answers do not pile up: the gateway reads no further than it has been read from."""
    vendor.set_assets(AOI, [{**asset, "path": "p" * 10_000} for asset in assets(20)])
    async with playing({"upstream.base_url": vendor.url}) as play, Line(play.port) as line:
        ways, asking = Ways(play, line), asks(f"/v0/aois/{AOI}/assets?limit=20")
        page = await ways.learn(asking)
        (connection,) = connections(play)
        asked = connection._request_count
        for number in range(1, 41):
            line.writer.write(asking)
            await until(lambda number=number: connection._request_count == asked + min(number, 33))  # type: ignore[misc]
        assert connection.transport.get_write_buffer_size() < 3 * len(page.body)
        assert {(await line.answer()).body for _ in range(40)} == {page.body}


async def test_a_client_that_has_said_all_it_will_say(ways: Ways) -> None:
    page = await ways.learn()
    ways.line.writer.write(PAGE)
    ways.line.writer.write_eof()
    assert (await ways.line.answer()).body == page.body
    async with asyncio.timeout(PATIENCE):
        assert await ways.line.reader.read() == b""


@pytest.fixture
def tls(tmp_path: Path) -> tuple[dict[str, str], ssl.SSLContext]:
    """Settings of a listener with TLS, and a client's trust in it."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    files = {"cert_file": tmp_path / "cert.pem", "key_file": tmp_path / "key.pem"}
    return {f"server.tls_{name}": str(path) for name, path in files.items()}, trusting


async def test_a_large_page_is_not_encrypted_whole_for_who_does_not_read_it(
    vendor: HoldingVendor, tls: tuple[dict[str, str], ssl.SSLContext]
) -> None:
    """A transport of TLS says that nothing waits, and holds a copy of the page for each client."""
    vendor.set_assets("large", [{**asset, "path": "p" * 10_000} for asset in assets(20)])
    flags, trusting = {"upstream.base_url": vendor.url, **tls[0]}, tls[1]
    large = asks("/v0/aois/large/assets?limit=20")
    async with playing(flags, tls=trusting) as play, Line(play.port, trusting) as line:
        ways = Ways(play, line)
        await ways.learn()
        told = [await ways.ask(large) for _ in range(5)]
        assert {len(answer.body) > 200_000 for answer, _ in told} == {True}
        assert not any(short for _, short in told)
        await ways.learn(large.replace(b"GET", b"HEAD"))


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_pages_do_not_pile_up_behind_tls(tls: tuple[dict[str, str], ssl.SSLContext]) -> None:
    """On the loop that serves: its transport of TLS says that nothing waits, but has writing paused."""
    uvloop = pytest.importorskip("uvloop")
    uvloop.run(reading_nothing(*tls))


async def reading_nothing(flags: dict[str, str], trusting: ssl.SSLContext) -> None:
    vendor = HoldingVendor(key=VENDOR_KEY)
    await vendor.start()
    vendor.set_assets(AOI, [{**asset, "path": "p" * 5_000} for asset in assets(10)])
    flags = {"upstream.base_url": vendor.url, **flags}
    async with playing(flags, tls=trusting) as play, Line(play.port, trusting) as line:
        ways = Ways(play, line)
        page = await ways.learn()
        (connection,) = connections(play)
        asked = connection._request_count
        while not connection._paused:  # which is when the kernel takes no more, and that is some megabytes
            line.writer.write(PAGE)
            asked += 1
            await until(lambda asked=asked: connection._request_count == asked)  # type: ignore[misc]
        play.gateway._response_cache.flush()
        short = ways.short
        for _ in range(3):
            line.writer.write(PAGE)
            asked += 1
            await until(lambda asked=asked: connection._request_count == asked)  # type: ignore[misc]
        play.gateway._response_cache.flush()
        assert ways.short == short
        assert {(await line.answer()).body for _ in range(short - 1 + 3)} == {page.body}
    await vendor.stop()


async def test_what_is_remembered_is_bounded(vendor: HoldingVendor) -> None:
    flags = {"upstream.base_url": vendor.url, "cache.memory_max_bytes": 1 << 20}
    async with playing(flags) as play, Line(play.port) as line:
        ways = Ways(play, line)
        await ways.learn()
        for number in range(60):
            asking = asks(f"/v0/aois/{AOI}/assets", f"Cookie: {number}")
            for _ in range(2):
                await ways.ask(asking)
            assert (await ways.ask())[1]  # which is used all the while, and so stays
        ready, lines = play.gateway._response_cache._ready, play.gateway._response_cache.headers._known
        assert ready._size == sum(len(known) + 2200 for known in ready._values)
        assert lines._size == sum(len(known) + 600 for known in lines._values)
        assert 0 < ready._size + lines._size <= (1 << 20) / 8


async def test_replicas_tell_each_other(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    flags = {"upstream.base_url": vendor.url, "cache.url": real_redis.url, "cache.prefetch": 0}
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(playing(flags)) for _ in range(2)]
        for play in (one, other):
            await until(lambda play=play: play.gateway._store._validity.is_live)  # type: ignore[misc]
        ways = Ways(one, await stack.enter_async_context(Line(one.port)))
        await ways.learn()
        # A page of the same listing, fetched elsewhere, changes nothing about this one.
        assert (await other.page(AOI, "?offset=50")).status == 200
        await ways.learn()
        # A change of the list that another replica has seen does.
        vendor.set_assets(AOI, assets(54))
        assert (await other.page(AOI, "?offset=30")).status == 200
        async with asyncio.timeout(PATIENCE):
            while (await ways.ask())[0].cache.startswith("hit; ttl=29") and len(vendor.requests) < 4:
                pass
        assert b'"total":54' in (await ways.learn()).body
        # And so does one that it sees itself.
        vendor.set_assets(AOI, assets(52))
        assert (await one.page(AOI, "?offset=20")).status == 200
        assert b'"total":52' in (await ways.ask())[0].body
        vendor.set_assets(AOI, assets(54))
        assert (await one.page(AOI, "?offset=25")).status == 200
        assert b'"total":54' in (await ways.learn()).body
        vendor.set_assets(AOI, assets(53))
        await other.gateway._cache.purge(None)
        async with asyncio.timeout(PATIENCE):
            while b'"total":54' in (await ways.ask())[0].body:
                pass
        # While no word comes, every copy is looked at again.
        await ways.learn()
        real_redis.signal(signal.SIGSTOP)
        await until(lambda: not one.gateway._store._validity.is_live)  # type: ignore[attr-defined]
        assert not (await ways.ask())[1]
        real_redis.signal(signal.SIGCONT)
        await until(lambda: one.gateway._store._validity.is_live)  # type: ignore[attr-defined]
        await ways.learn()


async def test_what_memory_has_no_room_for_is_not_remembered(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    """It would drive out what is worth it."""
    flags = {"upstream.base_url": vendor.url, "cache.prefetch": 0, "cache.url": real_redis.url}
    async with playing(flags) as play, Line(play.port) as line:
        ways = Ways(play, line)
        where = play.gateway._cache._lookup.address(AssetsQuery(AOI))
        for _ in range(5):
            await ways.ask()
            play.gateway._store._local.drop(where.page)  # type: ignore[attr-defined]
        assert not len(play.gateway._response_cache._ready)
        await ways.learn()


async def test_what_was_told_while_nobody_heard(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    """A purge that a replica did not hear of holds for what it remembers as well."""
    flags = {"upstream.base_url": vendor.url, "cache.prefetch": 0}
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relaying(real_redis.port))
        one = await stack.enter_async_context(playing({**flags, "cache.url": relay.url}))
        other = await stack.enter_async_context(playing({**flags, "cache.url": real_redis.url}))
        await until(lambda: one.gateway._store._validity.is_live)  # type: ignore[attr-defined]
        ways = Ways(one, await stack.enter_async_context(Line(one.port)))
        await ways.learn()
        relay.cut()
        await until(lambda: not one.gateway._store._validity.is_live)  # type: ignore[attr-defined]
        vendor.set_assets(AOI, assets(54))
        await other.gateway._cache.purge(AOI)
        relay.mend()
        await until(lambda: one.gateway._store._validity.is_live)  # type: ignore[attr-defined]
        assert b'"total":54' in (await ways.ask())[0].body
