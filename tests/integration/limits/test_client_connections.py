"""One connection and its life: requests in a row, clients that are slow, that flood, that ask for another protocol."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from harness import VENDOR_KEY, Play, playing, spawn, until
from wire import answers, request, until_closed

from gateway.mock_vendor.server import MockVendor

HIDDEN = request(path=b"/v0/aois/hidden/assets")
LAST = request(b"Connection: close")
CHUNKED = request(b"Transfer-Encoding: chunked", method=b"POST")


@pytest.fixture(autouse=True)
def _two_listings(vendor: MockVendor) -> None:
    for aoi_id in ("shown", "hidden"):
        vendor.set_assets(aoi_id, [])


def named(number: int, *lines: bytes) -> bytes:
    return request(b"X-Request-Id: r%d" % number, *lines)


async def test_five_thousand_requests_at_once_are_answered_in_order(play: Play, vendor: MockVendor) -> None:
    await play.page("shown")
    sent = b"".join(named(number) for number in range(4999)) + named(4999, b"Connection: close")
    received = answers(await until_closed(play.port, sent, seconds=120))
    assert [answer.status for answer in received] == [200] * 5000
    assert [answer.headers["X-Request-Id"] for answer in received] == [f"r{number}" for number in range(5000)]
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("bad", [b"nonsense\r\n\r\n", request(b"X: \0"), request(b"Content-Length: 3", body=b"abc")])
@pytest.mark.parametrize("good", [1, 2, 31, 32, 33, 100])
async def test_good_requests_before_a_bad_one_are_answered(
    play: Play, vendor: MockVendor, good: int, bad: bytes
) -> None:
    sent = b"".join(named(number) for number in range(good)) + bad + HIDDEN
    received = answers(await until_closed(play.port, sent))
    assert [answer.status for answer in received] == [200] * good + [400]
    assert received[-1].headers["Connection"] == "close"
    assert [recorded.target.split("?")[0] for recorded in vendor.requests] == ["/v0/aois/shown/assets"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
async def test_it_does_not_matter_how_the_bytes_are_cut(play: Play, size: int) -> None:
    sent = named(0) + named(1) + b"\r\n" + named(2) + request(method=b"get") + HIDDEN
    pieces = (sent[start : start + size] for start in range(0, len(sent), size))
    received = answers(await until_closed(play.port, pieces))
    assert [(answer.status, answer.headers["X-Request-Id"]) for answer in received[:3]] == [
        (200, "r0"), (200, "r1"), (200, "r2"),
    ]  # fmt: skip
    assert [answer.status for answer in received[3:]] == [400]


@pytest.mark.parametrize(
    "data",
    [
        request(b"Content-Length: %d" % len(HIDDEN), method=b"POST", body=HIDDEN),
        request(b"Content-Length: %d" % len(HIDDEN), method=b"POST", body=HIDDEN[:-1]) + b"!",
        request(b"Content-Length: 0", method=b"POST"),
        CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
        CHUNKED + b"0\r\nX-API-Key: a trailer that becomes a header of the next request\r\n\r\n",
        CHUNKED + b"3;name=value\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"3;" + HIDDEN + b"abc\r\n0\r\n\r\n",
        request(b"Content-Length: 5", method=b"DELETE", path=b"/nowhere", body=b"hello"),
    ],
)
async def test_what_stands_in_a_body_or_behind_it_is_no_request(play: Play, vendor: MockVendor, data: bytes) -> None:
    received = answers(await until_closed(play.port, data + HIDDEN + request(b"Connection: close", path=b"/healthz")))
    refused, *others = received
    assert refused.status in (400, 404, 405)
    if b"Content-Length: 0" in data:  # there is no body, so there may be a next request
        assert [answer.status for answer in others] == [200, 200]
    else:
        assert refused.headers["Connection"] == "close"
        assert others == []
        assert vendor.requests == []


@pytest.mark.parametrize(
    "lines",
    [
        (b"Connection: upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
        (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAAAA=="),
        (b"Connection: upgrade", b"Upgrade: TLS/1.0"),
        (b"Upgrade: websocket",),
    ],
)
async def test_no_other_protocol_is_spoken(play: Play, lines: tuple[bytes, ...]) -> None:
    for pieces in ([request(*lines) + LAST], [request(*lines), LAST]):
        received = answers(await until_closed(play.port, pieces))
        assert [answer.status for answer in received] == [200, 200]
        assert all("Upgrade" not in answer.headers for answer in received)
    refused = answers(await until_closed(play.port, request(*lines) + b"\x81\x05hello"))
    assert [answer.status for answer in refused] == [200, 400]


async def test_a_client_that_has_said_all_it_will_say_gets_its_answers(play: Play, vendor: MockVendor) -> None:
    vendor.set_behaviour(delay=0.2)
    for count in (1, 3, 50):
        reader, writer = await asyncio.open_connection("127.0.0.1", play.port)
        writer.write(b"".join(named(number) for number in range(count)))
        writer.write_eof()
        async with asyncio.timeout(10):
            received = answers(await reader.read())
        writer.close()
        assert [answer.headers["X-Request-Id"] for answer in received] == [f"r{number}" for number in range(count)]


async def test_whenever_a_client_has_said_all_it_will_say_its_connection_ends(play: Play) -> None:
    """At every turn of the loop that gateway and client share, also while an answer is being finished."""

    async def after(leases: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", play.port)
        writer.write(request(path=b"/healthz"))
        for _ in range(turns):
            await asyncio.sleep(0)
        writer.write_eof()
        try:
            async with asyncio.timeout(10):  # less than an idle connection may stay
                return await reader.read()
        finally:
            writer.close()

    for turns in range(30):
        [answer] = answers(await after(turns))
        assert answer.status == 200


async def test_a_refusal_reaches_a_client_that_goes_on_sending(play: Play) -> None:
    """Over bytes that nobody read, closing is a reset, and the reset overtakes the answer."""
    flood = itertools.chain([request(b"X: y")[:-2]], itertools.repeat(b"X: " + b"y" * 65_000 + b"\r\n", 300))
    [answer] = answers(await until_closed(play.port, flood))
    assert (answer.status, answer.error["code"]) == (431, "headers_too_large")


async def test_a_client_that_leaves_before_its_refusal_is_no_fault_of_ours(play: Play) -> None:
    """What is sent to it comes back as a reset, and then the other half cannot be closed either."""
    bad = [b"nonsense\r\n\r\n", request(b"Content-Length: 9", method=b"POST", body=b"abc"), request(b"X: \0")]
    for data in bad:
        with socket.create_connection(("127.0.0.1", play.port)) as client:
            client.sendall(data)
    await until(lambda: play.log.getvalue().count(b'"event":"request"') == len(bad))
    await until(lambda: not play.gateway._listeners[0]._server.connections)
    assert (await play.page("shown")).status == 200
    assert "a connection ended by OSError" not in {line["event"] for line in play.log_lines()}


async def test_a_long_list_of_tags_is_looked_through_quickly(play: Play) -> None:
    tag = (await play.page("shown")).headers["ETag"].encode()
    for tags in (b'"x",' * 2000, b"W/" * 4000, b'"' * 8000):
        began = time.thread_time()  # of work, whatever else the machine does
        asked = request(*[b"If-None-Match: " + tags] * 7, b"Connection: close")
        received = answers(await until_closed(play.port, asked))
        assert received[0].status == 200
        assert time.thread_time() - began < 0.5
    found = request(*[b"If-None-Match: " + b'"x",' * 2000] * 7, b"If-None-Match: " + tag, b"Connection: close")
    assert answers(await until_closed(play.port, found))[0].status == 304


def largest(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


FLOODS = [
    (CHUNKED + b"1;a=", b"x" * 65_536, 1024),
    (CHUNKED + b"0\r\n", b"X-Trailer: y\r\n" * 100, 200),
    (CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n", 1024),
    (request(b"Content-Length: 999999999", method=b"POST"), b"x" * 65_536, 1024),
    (request(b"Content-Length: 999999999"), b"x" * 65_536, 1024),
    (request()[:-2], b"X: y\r\n" * 1000, 1000),
    (b"GET /", b"x" * 65_536, 1024),
    (b"", b"\r\n" * 30_000, 1000),
]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
async def test_a_flood_takes_no_memory(vendor: MockVendor) -> None:
    gateway = spawn(
        "serve", "--port", "0",
        environ={"GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY},
    )  # fmt: skip
    try:
        port = await asyncio.to_thread(gateway.port)
        await until_closed(port, LAST)
        before = largest(gateway.process.pid)
        for begun, more, times in FLOODS:
            received = answers(await until_closed(port, [begun, *itertools.repeat(more, times), HIDDEN]))
            assert [answer.status // 100 for answer in received] == [4]
            assert largest(gateway.process.pid) - before < 8 << 20
            assert answers(await until_closed(port, LAST))[0].status == 200
        assert [recorded.target.split("?")[0] for recorded in vendor.requests] == ["/v0/aois/shown/assets"]
    finally:
        await asyncio.to_thread(gateway.end)


async def test_an_answer_that_nobody_takes_does_not_stay(play: Play) -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("only Linux bounds this")
    _, writer = await asyncio.open_connection("127.0.0.1", play.port)
    await play.page("shown")
    transports = [connection.transport for connection in play.gateway._listeners[0]._server.connections]
    writer.close()
    accepted = [transport.get_extra_info("socket") for transport in transports if transport is not None]
    assert [sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for sock in accepted] == [30_000, 30_000]


async def seconds_until_closed(port: int, begun: bytes, drip: bytes = b"") -> float:
    """How long the gateway bears with a client that sends a byte a second, and that does not close when it is told to.

    A client is told at the end of what it reads; that nobody listens any more, it learns from what it sends.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    writer.write(begun)

    async def dripping() -> None:
        for byte in drip:
            await asyncio.sleep(1)
            writer.write(bytes([byte]))

    sending = asyncio.create_task(dripping())
    try:
        async with asyncio.timeout(40):
            with suppress(ConnectionError):
                while await reader.read(65_536):
                    pass
            while not writer.is_closing():
                writer.write(b"x")
                await asyncio.sleep(0.1)
        gone = time.monotonic()
    finally:
        sending.cancel()
        writer.close()
    return gone - began


@pytest.mark.xdist_group("slow")
async def test_slow_clients_are_gone_after_fifteen_seconds(play: Play, vendor: MockVendor, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    tls = {"server.tls_cert_file": str(tmp_path / "server.pem"), "server.tls_key_file": str(tmp_path / "server.pem")}
    head = request(b"X-Long: " + b"y" * 60)
    async with playing({"upstream.base_url": vendor.url, **tls}) as encrypted:
        took = await asyncio.gather(
            seconds_until_closed(play.port, b""),
            seconds_until_closed(play.port, b"G"),
            seconds_until_closed(play.port, head[:-2]),
            seconds_until_closed(play.port, b"", drip=head),
            seconds_until_closed(play.port, b"", drip=b"\r\n" * 20),
            seconds_until_closed(play.port, request()),
            seconds_until_closed(play.port, request(), drip=head),
            seconds_until_closed(play.port, request(b"Content-Length: 60", method=b"POST"), drip=head),
            seconds_until_closed(play.port, CHUNKED, drip=head),
            seconds_until_closed(play.port, request(b"\0"), drip=head),
            seconds_until_closed(encrypted.port, b""),
            seconds_until_closed(encrypted.port, b"\x16\x03"),
        )
    assert max(took) < 15 + 5  # for the machine; a client that is borne with as long as it sends would take a minute
    assert answers(await until_closed(play.port, LAST))[0].status == 200
