"""Bytes at random, most of them nearly a request: afterwards the gateway is as it was, and nobody else was asked."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from urllib.parse import parse_qsl, unquote

import pytest
from harness import PATIENCE, VENDOR_KEY, Play, Process, parse_metrics, playing, spawn, until
from holding_vendor import HoldingVendor
from wire import answers, request, until_closed

DESCRIPTORS = Path("/proc/self/fd")
PLACES = 4
LAST = request(b"Connection: close")
SEEDS = [
    request(), request(method=b"HEAD"), request(path=b"/v0/aois/a1/assets?offset=3&limit=7"), request(path=b"/healthz"),
    request(b"If-None-Match: *", b"Accept-Encoding: gzip"), request(b"Authorization: Bearer x", b"X-API-Key: y"),
    request(path=b"http://localhost/v0/aois/a2/assets"), request(path=b"/v0/aois/%61%33/assets?%6fffset=%31"),
    request(version=b"HTTP/1.0", host=None), request(b"Connection: upgrade", b"Upgrade: websocket"), request(path=b"/"),
    request(b"Content-Length: 14", method=b"POST", path=b"/admin/purge", body=b'{"aoi_id":"x"}'),
    request(b"Transfer-Encoding: chunked", method=b"POST", body=b"5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n"),
    request(b"Content-Type: application/json", b"Content-Length: 12", method=b"POST", path=b"/admin/purge")
    + b'{"all":true}',
    request(b"Content-Length: 63", method=b"POST", body=request(path=b"/v0/aois/hidden/assets")),
    request(b"Expect: 100-continue", b"Content-Length: 5", method=b"PUT", body=b"hello"), request(method=b"OPTIONS"),
    request(path=b"/v0/aois/a4/assets?limit=x"), request(method=b"CONNECT", path=b"evil.example:443"), LAST,
]  # fmt: skip
ODD = [
    b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b"\x0b", b"\xff", b"%00", b"%2e%2e%2f", b":", b"/", b"?",
    b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: evil.example\r\n",
    b"HTTP/1.1", b"HTTP/2.0", b"GET ", b"0\r\n\r\n", b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"X: " + b"y" * 9000, b"x" * 70_000, b"X: y\r\n" * 300, b"\xef\xbb\xbf", b"Connection: close\r\n", b"\x81\x05hello",
]  # fmt: skip


def spoilt(chance: Random) -> bytes:
    """Some requests in a row, cut, spliced, repeated, flipped, or stuffed; now and then nothing but noise."""
    if chance.random() < 0.03:
        return chance.randbytes(chance.randrange(3000))
    data = b"".join(chance.choices(SEEDS, k=chance.choice((1, 1, 2, 3, 40))))
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        here, there = sorted(chance.choices(range(len(data) + 1), k=2))
        match chance.randrange(7):
            case 0:
                data = data[:here]
            case 1:
                data = data[:here] + data[there:]
            case 2:
                data = data[:there] + data[here:]
            case 3:
                data = data[:here] + bytes([chance.randrange(256)]) + data[here + 1 :]
            case 4:
                other = chance.choice(SEEDS)
                data = data[:here] + other[chance.randrange(len(other)) :] + data[there:]
            case _:
                data = data[:here] + chance.choice(ODD) + data[here + chance.randrange(2) :]
    return data


# A whole head with nothing odd in it, and a target of ours; what else a request must be does not matter here.
_HEAD = re.compile(rb"(?:\r\n)*([A-Z-]+) ([!-~]+) HTTP/1\.[01]\r\n((?:[!-9;-~]+:[\t -~\x80-\xff]*\r\n)*)\r\n")
_PAGE = re.compile(r"(?:https?://[^/?]*)?/v0/aois/([^/?]*)/assets(?:\?(.*))?", re.IGNORECASE)
_BODY = re.compile(rb"(?im)^(?:transfer-encoding|content-length:[ \t]*[^0 \t\r])")


def asked_for(data: bytes) -> Iterator[str]:
    """The vendor's targets that these bytes may lead to, read by a rule much simpler than the gateway's."""
    start = 0
    while head := _HEAD.match(data, start):
        method, target, fields = head.groups()
        page = _PAGE.fullmatch(target.decode())
        if method in (b"GET", b"HEAD") and page:
            window = {"offset": "0", "limit": "10", **dict(parse_qsl(page[2] or ""))}
            yield f"/v0/aois/{unquote(page[1])}/assets?offset={window['offset']}&limit={window['limit']}"
        if _BODY.search(fields):
            return  # nothing that stands behind a body is a request
        start = head.end()


async def throw(port: int, data: bytes, chance: Random) -> None:
    """Send it in pieces; then hang up at once, or let the gateway say what it has to say."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    rude, size = chance.random() < 0.3, chance.choice((1 << 20, 1000, 37))
    try:  # the gateway may have closed, or cut, the connection at any point
        with suppress(OSError):
            for start in range(0, min(len(data), 50 * size), size):
                writer.write(data[start : start + size])
                await asyncio.sleep(0)
            if rude:
                writer.transport.abort()
                return
            writer.write_eof()
            async with asyncio.timeout(PATIENCE):
                while await reader.read(65_536):
                    pass
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def attack(port: int, vendor: HoldingVendor, cached: set[str], *, seed: int, seconds: float) -> int:
    """Throw for so long, and tell how often; the vendor is asked for nothing that no whole request asked for.

    `cached` are the targets of pages that are cached already: one is refreshed if a window that is cut from it is asked
    for while it is in grace.
    """
    chance, thrown, ends = Random(seed), 0, time.monotonic() + seconds
    wanted = set(cached)  # what a client that left had asked for may come later
    while time.monotonic() < ends or thrown < 100:
        batch = [spoilt(chance) for _ in range(20)]
        await asyncio.gather(*(throw(port, data, chance) for data in batch))
        wanted.update(target for data in batch for target in asked_for(data))
        assert {recorded.target for recorded in vendor.requests} <= wanted
        assert {recorded.method for recorded in vendor.requests} <= {"GET"}
        assert {dict(recorded.headers)["Authorization"] for recorded in vendor.requests} <= {VENDOR_KEY}
        vendor.requests.clear()
        thrown += len(batch)
    return thrown


async def is_well(port: int, vendor: HoldingVendor) -> None:
    for path in (b"/healthz", b"/readyz", b"/v0/aois/well/assets"):
        [answer] = answers(await until_closed(port, request(b"Connection: close", path=path)))
        assert answer.status == 200
    assert answer.body == vendor.listing("well", 0, 10)


async def fill_the_pool(port: int, vendor: HoldingVendor, aoi_id: bytes) -> set[str]:
    """Have every connection to the vendor open, so that what is counted afterwards is not these.

    Returns the targets that the vendor was asked for.
    """
    vendor.requests.clear()
    let_go = vendor.hold()
    sent = [
        request(b"Connection: close", path=b"/v0/aois/%b/assets?offset=%d" % (aoi_id, number * 100))
        for number in range(PLACES)
    ]
    asking = [asyncio.create_task(until_closed(port, data)) for data in sent]
    await until(lambda: len(vendor.requests) == PLACES)
    let_go.set()
    vendor.hold(times=0)
    await asyncio.gather(*asking)
    targets = {recorded.target for recorded in vendor.requests}
    vendor.requests.clear()
    return targets


def flags(vendor: HoldingVendor) -> dict[str, object]:
    return {
        "upstream.base_url": vendor.url, "upstream.max_concurrency": PLACES, "cache.prefetch": 0,
        "cache.lifetimes.settled": 0.2, "cache.lifetimes.empty": 0.2, "cache.lifetimes.not_found": 0.2,
        "cache.lifetimes.in_progress": 0.2,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _listings(vendor: HoldingVendor) -> None:
    for aoi_id in ("shown", "a1", "hidden", "well"):
        vendor.set_assets(aoi_id, [{"status": "success"}] * 12)


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="descriptors are counted in /proc")
async def test_nothing_stays_of_bytes_at_random(vendor: HoldingVendor, caplog: pytest.LogCaptureFixture) -> None:
    async with playing(flags(vendor)) as play:
        await is_well(play.port, vendor)
        cached = await fill_the_pool(play.port, vendor, b"a1")
        await until(lambda: not connections(play))
        descriptors, tasks = len(os.listdir(DESCRIPTORS)), len(asyncio.all_tasks())  # noqa: PTH208 - counted, not used
        assert await attack(play.port, vendor, cached, seed=6, seconds=5) >= 100
        await is_well(play.port, vendor)
        await until(lambda: not connections(play))
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        await until(lambda: len(os.listdir(DESCRIPTORS)) <= descriptors)  # noqa: PTH208
        metrics = parse_metrics(answers(await until_closed(play.port, scrape()))[0].body.decode())
        assert metrics["gateway_http_requests_in_flight"] == 1  # the scrape itself
        assert metrics["gateway_upstream_in_flight"] == metrics["gateway_upstream_queued"] == 0
        assert not [series for series, value in metrics.items() if 'code="500"' in series and value]
    said = play.log.getvalue()
    assert b"Traceback" not in said
    assert b'"level":"error"' not in said
    assert caplog.records == []


def scrape() -> bytes:
    return request(b"Connection: close", path=b"/metrics")


def connections(play: Play) -> list[object]:
    return list(play.gateway._listeners[0]._server.connections)


def descriptors_of(gateway: Process) -> int:
    return len(os.listdir(f"/proc/{gateway.process.pid}/fd"))  # noqa: PTH208 - counted, not used


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="descriptors are counted in /proc")
async def test_the_same_holds_of_a_process_on_its_own_loop(vendor: HoldingVendor) -> None:
    named = {f"GATEWAY_{name.upper().replace('.', '__')}": str(value) for name, value in flags(vendor).items()}
    named |= {"GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY, "GATEWAY_LOG__ACCESS": "false"}
    gateway = spawn("serve", "--port", "0", environ=named)
    try:
        port = await asyncio.to_thread(gateway.port)
        await is_well(port, vendor)
        cached = await fill_the_pool(port, vendor, b"a1")
        before = descriptors_of(gateway)
        assert await attack(port, vendor, cached, seed=7, seconds=3) >= 100
        await is_well(port, vendor)
        await until(lambda: descriptors_of(gateway) <= before)
    finally:
        await asyncio.to_thread(gateway.end)
    said = "".join(gateway.lines)
    assert "Traceback" not in said
    assert '"level":"error"' not in said
