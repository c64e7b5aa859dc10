"""Requests of which only the first line is read: what may happen while they are answered, and what never is one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
from harness import PATIENCE, VENDOR_KEY, Play, playing, until
from holding_vendor import HoldingVendor
from raw_client import Line, asks

from gateway.config.loading import load
from gateway.http.protocol import GatewayServer, Protocol
from gateway.teams.tokens import new_token

AOI = "a1"
TOKEN, DIGEST = new_token()
LINES = (f"Authorization: Bearer {TOKEN}", "Accept: */*")


def page(number: int, *, aoi_id: str = AOI, method: str = "GET") -> bytes:
    """A request for one of many pages, with the same header lines."""
    return asks(f"/v0/aois/{aoi_id}/assets?offset={number}&limit=1", *LINES, method=method)


def flags(vendor: HoldingVendor, **more: object) -> dict[str, object]:
    team = {"teams.alpha.token_sha256": [DIGEST], "auth.mode": "tokens"}
    return {"upstream.base_url": vendor.url, "upstream.api_key": VENDOR_KEY, "cache.prefetch": 0, **team, **more}


@pytest.fixture
def vendor(vendor: HoldingVendor) -> HoldingVendor:
    vendor.set_assets(AOI, [{"id": f"asset-{number:04}", "status": "success"} for number in range(900)])
    return vendor


@pytest.fixture
async def play(vendor: HoldingVendor) -> AsyncIterator[Play]:
    async with playing(flags(vendor)) as running:
        yield running


@pytest.fixture
async def line(play: Play) -> AsyncIterator[Line]:
    """A connection whose header lines are familiar."""
    async with Line(play.port) as opened:
        for number in (800, 801):
            await opened.ask(page(number))
        yield opened


def server(play: Play) -> GatewayServer:
    return play.gateway._listeners[0]._server


def parsed(play: Play) -> int:
    """How many requests were parsed."""
    return server(play).requests_count


def connection(play: Play) -> Protocol:
    (only,) = server(play).connections
    assert isinstance(only, Protocol)
    return only


async def test_header_lines_are_familiar_from_second_sight_on(play: Play) -> None:
    async with Line(play.port) as line:
        for number, expected in enumerate((1, 2, 2, 2)):
            assert (await line.ask(page(number))).status == 200
            assert parsed(play) == expected
    # And for whoever sends them; another method is another matter.
    async with Line(play.port) as another:
        assert (await another.ask(page(7))).cache == "fwd=miss; fwd-status=200; stored"
        for expected in (3, 4, 4):
            assert (await another.ask(page(7, method="HEAD"))).cache.startswith("hit")
            assert parsed(play) == expected


async def test_ids_that_are_made_up_for_each_request_are_as_familiar(play: Play) -> None:
    def asking(number: int) -> bytes:
        ids = (f"x-request-id: mine-{number}", f"traceparent: 00-{number:032x}-{number:016x}-01")
        return asks(f"/v0/aois/{AOI}/assets?limit=1", ids[0], *LINES, ids[1])

    async with Line(play.port) as line:
        for number, expected in enumerate((1, 2, 2, 2, 2)):
            assert (await line.ask(asking(number)))["X-Request-Id"] == f"mine-{number}"
            assert parsed(play) == expected
        # What is no id, is none that counts, or stands elsewhere, is another matter.
        for other in (
            asking(9).replace(b"mine-9", b"not mine"),
            asking(9).replace(b"mine-9", b"x" * 65),
            asking(9).replace(b"\r\nAccept", b"\r\nx-request-id: mine-8\r\nAccept"),
            asking(9).replace(b"x-request-id: mine-9\r\n", b""),
            asking(9).replace(b"mine-9", b""),
        ):
            before = parsed(play)
            told = [(await line.ask(other))["X-Request-Id"] for _ in range(4)]
            assert len(set(told)) == 4
            assert not [name for name in told if name.startswith(("mine", "x" * 64))]
            assert parsed(play) == before + 2
        assert (await line.ask(asking(10)))["X-Request-Id"] == "mine-10"


@pytest.mark.parametrize(
    "request_",
    [
        asks("/healthz", *LINES),
        asks(f"http://localhost/v0/aois/{AOI}/assets", *LINES),
        asks(f"/v0/aois/{AOI}/assets?limit=5", *LINES, version="1.0"),
        asks(f"/v0/aois/{AOI}/assets?limit=5", *LINES, "Connection: keep-alive"),
        asks(f"/v0/aois/{AOI}/assets?limit=5", *LINES, "Cache-Control: no-cache"),
        asks(f"/v0/aois/{AOI}/assets?limit=5", *LINES, "X-Explain: 1"),
        asks(f"/v0/aois/{AOI}/assets?limit=5", *LINES, "Content-Length: 0"),
        asks(f"/v0/aois/{AOI}/assets/more", *LINES),
        asks(f"/v0/aois/{AOI}/assets?limit=5#x", *LINES),
        asks(f"/v0/aois/{AOI}/assets?limit=\x7f", *LINES),
        asks(f"/v0/aois/{AOI}/assets?limit=5", *LINES, method="POST"),
        asks(f"/v0/aois/{AOI}/assets?limit=5", *LINES, method="G ET"),
        asks(f"/v0/aois/{AOI}/assets?{'limit=5&' * 600}", *LINES),
        page(5).replace(b"\r\n", b"\n", 1),
        page(5).replace(b"GET ", b"GET  "),
        b"\r\n" + page(5),
    ],
    ids=lambda request: request[:60].decode("latin-1"),
)
async def test_what_is_parsed_behind_whatever_lines(request_: bytes, play: Play, line: Line) -> None:
    before = parsed(play)
    for number in range(1, 4):
        answer = await line.ask(request_)
        assert parsed(play) == before + number
        if "Connection: close" in answer.head or b"HTTP/1.0" in request_:
            break


async def test_order_is_kept_while_an_answer_is_awaited(play: Play, line: Line, vendor: HoldingVendor) -> None:
    let_go = vendor.hold()
    line.writer.write(page(1))
    await until(lambda: vendor.inside == 1)
    line.writer.write(page(800) + page(2)[:30])
    await until(lambda: len(connection(play)._held) == len(page(800)) + 30)
    line.writer.write(page(2)[30:])
    let_go.set()
    bodies = [(await line.answer()).body for _ in range(3)]
    assert [b"asset-%04d" % number in body for number, body in zip((1, 800, 2), bodies, strict=True)] == [True] * 3
    assert (await line.ask(page(801))).cache.startswith("hit")


async def test_what_comes_before_its_turn_is_bounded(play: Play, line: Line, vendor: HoldingVendor) -> None:
    let_go = vendor.hold()
    line.writer.write(page(1))
    await until(lambda: vendor.inside == 1)
    asked = 2000
    line.writer.write(page(800) * asked)
    await until(lambda: connection(play)._held != b"" and not connection(play).transport.is_reading())  # type: ignore[union-attr]
    assert len(connection(play)._held) < 2 * 65_536 + 262_144  # and what one read brought
    let_go.set()
    assert b"asset-0001" in (await line.answer()).body
    assert {(await line.answer()).status for _ in range(asked)} == {200}


async def test_a_client_that_has_said_all_it_will_say(play: Play, line: Line, vendor: HoldingVendor) -> None:
    let_go = vendor.hold()
    line.writer.write(page(1))
    await until(lambda: vendor.inside == 1)
    line.writer.write_eof()
    await until(lambda: connection(play)._half_closed)
    let_go.set()
    answer = await line.answer()
    assert (answer.status, answer["Connection"]) == (200, "close")
    async with asyncio.timeout(PATIENCE):
        assert await line.reader.read() == b""


@pytest.mark.parametrize("tail", [b"\r\n", b"\r\n\r\n", b"GET /v0", page(800)[:-2], page(800)])
async def test_a_client_that_has_not_said_all_it_began_to_say(
    tail: bytes, play: Play, line: Line, vendor: HoldingVendor
) -> None:
    let_go = vendor.hold()
    line.writer.write(page(1))
    await until(lambda: vendor.inside == 1)
    line.writer.write(tail)
    line.writer.write_eof()
    await until(lambda: connection(play)._half_closed)
    let_go.set()
    answers = [await line.answer() for _ in range(2 if tail == page(800) else 1)]
    assert [answer.status for answer in answers] == [200] * len(answers)
    assert ["Connection: close" in answer.head for answer in answers] == [False, True][-len(answers) :]
    async with asyncio.timeout(5.0):  # and not when it has been idle for long
        assert await line.reader.read() == b""


async def test_a_client_that_says_nothing_more_while_the_gateway_ends(
    play: Play, line: Line, vendor: HoldingVendor
) -> None:
    let_go = vendor.hold()
    line.writer.write(page(1))
    await until(lambda: vendor.inside == 1)
    stopping = asyncio.create_task(play.gateway.stop())
    await until(lambda: connection(play)._close)
    line.writer.write_eof()
    await until(lambda: connection(play)._half_closed)
    let_go.set()
    assert (await line.answer()).status == 200
    await stopping
    play.gateway._listeners.clear()  # they were stopped, and will not be again


async def test_a_status_without_a_name_is_passed_on(play: Play, line: Line, vendor: HoldingVendor) -> None:
    before = parsed(play)
    vendor.set_behaviour(status=420)
    answer = await line.ask(page(1))
    assert answer.head[0] == "HTTP/1.1 420 "
    assert parsed(play) == before


async def test_a_request_that_comes_with_the_end_of_its_connection_is_nobodys(
    play: Play, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """aiohttp would begin it without a connection, and trip over that."""
    one = connection(play)
    await until(lambda: one._waiter is not None)
    assert one.transport is not None
    one.transport.abort()  # is told of in the next turn of the loop, before who waits for a request goes on
    one.data_received(asks("/healthz"))
    async with asyncio.timeout(PATIENCE):
        assert await line.reader.read() == b""
    await until(lambda: not server(play).connections)
    gc.collect()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_client_that_leaves_takes_nothing_along(play: Play, line: Line, vendor: HoldingVendor) -> None:
    let_go, one = vendor.hold(), connection(play)
    line.writer.write(page(1))
    await until(lambda: vendor.inside == 1)
    line.writer.transport.abort()
    let_go.set()
    await play.settled()
    await until(lambda: not server(play).connections or connection(play) is not one)
    async with Line(play.port) as another:
        assert (await another.ask(page(1))).cache.startswith("hit")
    metrics = await play.metrics()
    assert metrics['gateway_cache_requests_total{result="miss"}'] == 3
    assert not [line for line in play.log_lines() if line.get("level") == "error"]


async def test_a_gateway_that_ends_finishes_what_it_began(play: Play, line: Line, vendor: HoldingVendor) -> None:
    let_go = vendor.hold()
    line.writer.write(page(1))
    await until(lambda: vendor.inside == 1)
    stopping = asyncio.create_task(play.gateway.stop())
    await until(lambda: not play.gateway._listeners[0]._listening.is_serving())  # type: ignore[union-attr]
    await until(lambda: connection(play)._close)
    let_go.set()
    answer = await line.answer()
    assert (answer.status, answer["Connection"]) == (200, "close")
    async with asyncio.timeout(PATIENCE):
        assert await line.reader.read() == b""
        await stopping
    play.gateway._listeners.clear()  # they were stopped, and will not be again


async def test_a_gateway_that_drains_says_so(play: Play, line: Line, vendor: HoldingVendor) -> None:
    let_go = vendor.hold()
    line.writer.write(page(1))
    await until(lambda: vendor.inside == 1)
    play.gateway.unready()
    let_go.set()
    answer = await line.answer()
    assert (answer.status, answer["Connection"]) == (200, "close")
    async with asyncio.timeout(PATIENCE):
        assert await line.reader.read() == b""


async def test_a_connection_whose_answer_takes_long_is_not_idle(play: Play, line: Line, vendor: HoldingVendor) -> None:
    let_go = vendor.hold()
    line.writer.write(page(1))
    await until(lambda: vendor.inside == 1)
    one = connection(play)
    one._next_keepalive_close_time = 0.0
    one._process_keepalive()  # as the timer does when it is up
    assert one._keepalive_handle is not None
    let_go.set()
    assert (await line.answer()).status == 200
    one._next_keepalive_close_time = 0.0
    one._process_keepalive()
    async with asyncio.timeout(PATIENCE):
        assert await line.reader.read() == b""


def revoke(play: Play, vendor: HoldingVendor) -> None:
    """Read a configuration in which the team has another token."""
    other = load(environ={}, flags={**flags(vendor), "teams.alpha.token_sha256": [new_token()[1]]}, use_file=False)
    play.gateway.reloads.reload(lambda: other)


async def test_a_reload_ends_what_was_known_of_header_lines(play: Play, line: Line, vendor: HoldingVendor) -> None:
    let_go = vendor.hold()
    line.writer.write(page(1))
    await until(lambda: vendor.inside == 1)
    revoke(play, vendor)
    let_go.set()
    assert (await line.answer()).status == 200  # it was let in
    assert [(await line.ask(page(1))).status for _ in range(3)] == [401, 401, 401]


async def test_what_was_let_in_before_a_reload_is_not_learned_after_it(play: Play, vendor: HoldingVendor) -> None:
    async with Line(play.port) as line:
        await line.ask(page(800))
        let_go = vendor.hold()
        line.writer.write(page(1))  # parsed, and with lines that were seen before
        await until(lambda: vendor.inside == 1)
        revoke(play, vendor)
        let_go.set()
        assert (await line.answer()).status == 200
        assert (await line.ask(page(1))).status == 401


async def test_a_large_page_goes_out_as_fast_as_it_is_taken(vendor: HoldingVendor) -> None:
    vendor.set_assets("large", [{"id": f"{number}", "path": "p" * 40_000} for number in range(500)])
    async with playing(flags(vendor)) as play, Line(play.port) as line:
        for number in (800, 801):
            await line.ask(page(number))
        before = parsed(play)
        line.writer.write(asks("/v0/aois/large/assets?limit=200", *LINES))
        await until(lambda: connection(play)._paused)
        assert parsed(play) == before
        assert connection(play).transport.get_write_buffer_size() < 3 * 65_536  # type: ignore[union-attr]
        answer = await line.answer()
        assert len(answer.body) > 8_000_000 or answer.status == 502
        assert answer.status == 200
        assert (await line.ask(page(800))).cache.startswith("hit")


async def test_what_is_known_of_header_lines_is_bounded(vendor: HoldingVendor) -> None:
    async with playing(flags(vendor, **{"cache.memory_max_bytes": 65_536})) as play, Line(play.port) as line:
        for number in range(30):
            for _ in range(2):
                await line.ask(asks(f"/v0/aois/{AOI}/assets", *LINES, f"Cookie: {number}"))
        assert 0 < len(play.gateway._response_cache.headers._known) < 4
