"""What a vendor may send besides an answer: cut, swollen, late, and what is no HTTP at all."""

from __future__ import annotations

import asyncio
import gc
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from certificates import certificate_of_a_lenient_authority
from harness import VENDOR_KEY, Play, playing, spawn, until
from holding_vendor import HoldingVendor
from invariants import aftermath, calls, memory
from raw_vendor import Answer, listing, raw_vendor, saying, whole
from relay import relaying

pytestmark = pytest.mark.usefixtures("nothing_left")

GOOD = listing("a", "b")
PACKED = gzip.compress(GOOD)
GZIP = b"Content-Encoding: gzip"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
OPEN_END = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(GOOD), GOOD)
SHORT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "code", "times", "counted"),
    [
        (saying(), "upstream_unreachable", 2, "reset"),
        (saying(SHORT + GOOD), "upstream_invalid", 2, "reset"),
        (saying(CHUNKED + CHUNK[:-30]), "upstream_invalid", 2, "reset"),
        (saying(CHUNKED + CHUNK), "upstream_invalid", 2, "reset"),
        (saying(whole(PACKED[:-20], GZIP)), "upstream_invalid", 2, "reset"),
        (saying(whole(PACKED[:-4], GZIP)), "upstream_invalid", 2, "reset"),
        (saying(whole(PACKED[:-8] + bytes(8), GZIP)), "upstream_invalid", 2, "reset"),
        (saying(OPEN_END + GOOD[:-9]), "upstream_invalid", 1, "200"),  # only the JSON tells
        (saying(OPEN_END), "upstream_invalid", 1, "200"),
        (saying(whole(PACKED + b"junk", GZIP)), "upstream_invalid", 1, "invalid"),
        (saying(whole(GOOD, b"Content-Encoding: br")), "upstream_invalid", 1, "invalid"),
        (saying(whole(GOOD, *(b"X-%d: y" % number for number in range(5000)))), "upstream_invalid", 1, "invalid"),
        (saying(whole(GOOD, b"X: " + b"y" * 1_000_000)), "upstream_invalid", 1, "invalid"),
        (saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "upstream_invalid", 1, "invalid"),
        (saying(b"HTTP/1.1 200\r\nContent-Length: -5\r\n\r\n"), "upstream_invalid", 1, "invalid"),
        (saying(whole(GOOD), pause=60, closes=False), "", 1, "200"),  # it need not close to have answered
        (saying(*(bytes([byte]) for byte in whole(GOOD)), pause=1), "upstream_timeout", 2, "timeout"),
    ],
    ids=[
        "nothing", "short", "cut chunk", "no last chunk", "cut gzip", "gzip without length", "wrong checksum",
        "cut open end", "empty open end", "junk after gzip", "another coding", "5000 headers", "a megabyte of header",
        "another protocol", "negative length", "left open", "a byte a second",
    ],
)  # fmt: skip
async def test_bytes_that_are_no_answer(answer: Answer, code: str, times: int, counted: str) -> None:
    bad = True

    async def first_bad_then_good(head: bytes, writer: asyncio.StreamWriter) -> None:
        await (answer if bad else saying(whole(GOOD)))(head, writer)

    async with raw_vendor(first_bad_then_good) as vendor:
        flags = {"upstream.base_url": vendor.url, "upstream.attempt_timeout": 1.5, "cache.prefetch": 0}
        async with playing(flags) as play:
            reply = await play.page("a1")
            if code:
                assert (reply.status, reply.code) == (504 if counted == "timeout" else 502, code)
                assert "Retry-After" not in reply.headers
            assert len(vendor.requests) == times
            metrics = await aftermath(play, vendor)
            assert metrics[f'gateway_upstream_requests_total{{code="{counted}"}}'] == times
            assert metrics["gateway_cache_entries"] == (0 if code else 1)
            bad = False
            again = await play.page("a1")
            assert (again.cache == "fwd=miss; fwd-status=200; stored") == bool(code)
            assert again.body == GOOD


async def test_a_late_second_answer_answers_nobody() -> None:
    """On a connection that is used again it would be the next answer: another AOI's page."""
    other = whole(listing("somebody", "elses"))
    open_ones: list[asyncio.StreamWriter] = []

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        name = head.split(b"/v0/aois/")[1].split(b"/")[0].decode()
        writer.write(whole(listing(name)))
        open_ones.append(writer)

    async with raw_vendor(answer) as vendor, playing({"upstream.base_url": vendor.url, "cache.prefetch": 0}) as play:
        for number in range(10):
            reply = await play.page(f"a{number}")
            assert reply.body == listing(f"a{number}")
            for writer in open_ones:
                writer.write(other)
            await play.metrics()  # by now it has arrived where anybody listens
        replies = await asyncio.gather(*(play.page(f"b{number}") for number in range(50)))
        assert [reply.body for reply in replies] == [listing(f"b{number}") for number in range(50)]
        await aftermath(play, vendor)
        assert vendor.connections == len(vendor.requests) == 60


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_other_host_of_a_redirect_sees_nobody(play: Play, vendor: HoldingVendor, status: int) -> None:
    async with raw_vendor(saying(whole(GOOD))) as other:
        location = f"{other.url}/v0/aois/a1/assets"
        async with (
            raw_vendor(
                saying(b"HTTP/1.1 %d Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, location.encode()))
            ) as moved,
            playing({"upstream.base_url": moved.url}) as sent_away,
        ):
            reply = await sent_away.page("a1")
            assert (reply.status, reply.code) == (502, "upstream_invalid")
            await aftermath(sent_away, moved)
        assert other.connections == 0


BOMB = 100_000_000


async def hundred_megabytes(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % BOMB)
    for _piece in range(BOMB // 65_536):
        writer.write(b" " * 65_536)
        await writer.drain()


async def hundred_megabytes_in_chunks(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(CHUNKED)
    for _piece in range(BOMB // 65_536):
        writer.write(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        await writer.drain()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
async def test_a_body_beyond_the_bound_takes_no_memory() -> None:
    limit = 8 << 20
    # How much each may take, in limits: nonsense within the bound has to be read whole before it is known for such.
    answers = {
        "gzip": (saying(whole(gzip.compress(b" " * BOMB + GOOD), GZIP)), 2),
        "long": (hundred_megabytes, 2),
        "chunked": (hundred_megabytes_in_chunks, 2),
        "nonsense": (saying(whole(b" " * limit)), 4),
    }

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        name = head.split(b"/v0/aois/")[1].split(b"-")[0].decode()
        await (answers[name][0] if name in answers else saying(whole(GOOD)))(head, writer)

    async with raw_vendor(answer) as vendor, AsyncExitStack() as stack:
        environ = {"GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY}
        gateway = spawn("serve", "--port", "0", environ=environ)
        stack.callback(gateway.end)
        url = f"http://127.0.0.1:{await asyncio.to_thread(gateway.port)}/v0/aois/"
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def status(name: str) -> int:
            async with session.get(f"{url}{name}/assets") as response:
                await response.read()
                return response.status

        assert await status("good-0") == 200
        before = memory(gateway.process.pid)
        for kind, (_, most) in answers.items():
            assert [await status(f"{kind}-{number}") for number in range(7)] == [502] * 7
            assert memory(gateway.process.pid) - before < most * limit
        assert len(vendor.requests) == 1 + 7 * len(answers)


async def test_an_abandoned_body_is_freed_without_garbage_collection() -> None:
    def large_bodies() -> list[aiohttp.StreamReader]:
        readers = [item for item in gc.get_objects() if isinstance(item, aiohttp.StreamReader)]
        return [reader for reader in readers if reader.total_bytes > 1 << 19]

    async with (
        raw_vendor(hundred_megabytes) as vendor,
        playing({"upstream.base_url": vendor.url, "upstream.max_body_bytes": 1 << 20}) as play,
    ):
        gc.disable()
        try:
            reply = await play.page("a1")
            assert (reply.status, reply.code) == (502, "upstream_too_large")
            await until(lambda: large_bodies() == [])
        finally:
            gc.enable()


@asynccontextmanager
async def behind_tls(context: ssl.SSLContext) -> AsyncIterator[tuple[int, list[str]]]:
    """Run a vendor with this context: its port, and the targets that it received."""
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.path)
        return web.Response(body=GOOD, content_type="application/json")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield runner.addresses[0][1], seen
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("name", "days", "fine"), [("127.0.0.1", 30, True), ("127.0.0.1", -1, False), ("other.example", 30, False)]
)
async def test_a_certificate_that_does_not_hold_is_502_and_never_plain_text(
    tmp_path: Path, name: str, days: int, fine: bool
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ends = datetime.now(UTC) + timedelta(days=days)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name, not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=ends).configure_cert(context)
    async with behind_tls(context) as (port, seen), relaying(port) as relay:
        flags = {"upstream.base_url": f"https://127.0.0.1:{relay.port}", "upstream.ca_file": str(tmp_path / "ca.pem")}
        async with playing(flags) as play:
            reply = await play.page("a1")
            assert (reply.status, "" if fine else reply.code) == ((200, "") if fine else (502, "upstream_unreachable"))
            metrics = await aftermath(play)
            assert calls(metrics) == metrics[f'gateway_upstream_requests_total{{code="{"200" if fine else "tls"}"}}']
            assert len(relay.connections) == calls(metrics) == (1 if fine else 2)
        assert seen == (["/v0/aois/a1/assets"] if fine else [])
        for carried in relay.connections:
            assert carried.sent[:2] == b"\x16\x03"  # the beginning of a handshake, and of nothing else
            assert b"GET" not in carried.sent
            assert VENDOR_KEY.encode() not in carried.sent


async def test_a_certificate_that_only_openssl_by_default_accepts_is_accepted(tmp_path: Path) -> None:
    authority, context = certificate_of_a_lenient_authority(tmp_path)
    async with behind_tls(context) as (port, _):
        flags = {"upstream.base_url": f"https://127.0.0.1:{port}", "upstream.ca_file": str(authority)}
        async with playing(flags) as play:
            assert (await play.page("a1")).status == 200
