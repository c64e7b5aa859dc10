"""Connections to the vendor: kept and used again, and never an answer that belongs to another request."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import connector as aiohttp_connector
from harness import Play, playing, until
from invariants import aftermath, calls
from proxy import Proxy, proxying
from raw_vendor import Answer, RawVendor, raw_vendor, whole
from relay import relaying

from gateway.upstream import connection
from gateway.upstream.connection import VendorConnection
from gateway.upstream.connection_pool import VendorConnector
from gateway.upstream.transport_state import bytes_received

pytestmark = pytest.mark.usefixtures("nothing_left")

WAYS = ("plain", "tls", "plain through a proxy", "tls through a proxy")
# For what does not depend on how the bytes travel.
two_ways = pytest.mark.parametrize("way", ["plain", "tls through a proxy"], indirect=True)
SUSPENDED = "for ten minutes each call to the vendor uses a connection of its own"


def page(aoi_id: str, offset: int = 0) -> bytes:
    """A page that says which request it answers."""
    assets = [{"id": f"{aoi_id}-{offset}", "aoi_id": aoi_id, "status": "success"}]
    return json.dumps({"assets": assets, "pagination": {"total": 99, "offset": offset, "limit": 10}}).encode()


EMPTY = b'{"assets":[],"pagination":{"total":0,"offset":0,"limit":10}}'
NOT_FOUND = b'{"error":{"code":"not_found","message":"no such AOI","details":null}}'
STRAY = whole(page("stray"))


def asked(head: bytes) -> tuple[str, int]:
    """The AOI and the offset of a request."""
    aoi_id = head.split(b"/v0/aois/")[1].split(b"/")[0].decode()
    return aoi_id, int(head.split(b"offset=")[1].split(b"&")[0])


async def right(head: bytes, writer: asyncio.StreamWriter) -> None:
    """Answer as a vendor should."""
    writer.write(whole(page(*asked(head))))


def nth(number: int, special: Answer, usual: Answer = right) -> Answer:
    """Answer the request of this number, from 1 on, in another way."""
    seen = 0

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        await (special if seen == number else usual)(head, writer)

    return answer


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


Staged = Callable[..., AbstractAsyncContextManager["Stage"]]
ENDS: dict[str, Callable[[asyncio.StreamWriter], None]] = {"FIN": asyncio.StreamWriter.close, "RST": reset}


@dataclass
class Stage:
    """A gateway, the vendor behind it, and the proxy between them, if there is one."""

    play: Play
    vendor: RawVendor
    proxy: Proxy | None

    @property
    def connector(self) -> VendorConnector:
        session = self.play.gateway._upstream._session
        assert session is not None
        assert isinstance(session.connector, VendorConnector)
        return session.connector

    @property
    def idle(self) -> list[VendorConnection]:
        """The connections in the pool."""
        every = [one for idle in self.connector._conns.values() for one, _ in idle if one.is_connected()]
        return [one for one in every if isinstance(one, VendorConnection)]

    async def quiet(self, count: int = 1) -> None:
        """Wait until so many kept connections may be used."""
        await until(lambda: sum(one.is_ready() for one in self.idle) >= count)

    async def get(self, aoi_id: str, offset: int = 0) -> None:
        """Request a page, which has to be the right one."""
        reply = await self.play.page(aoi_id, f"?offset={offset}")
        assert (reply.status, reply.body) == (200, page(aoi_id, offset)), reply

    async def connections(self, **expected: int) -> None:
        """Compare what was counted, and see that every request was."""
        metrics = await aftermath(self.play, self.vendor)
        counted = {
            kind: int(metrics[f'gateway_upstream_connections_total{{kind="{kind}"}}'])
            for kind in ("new", "reused", "replaced", "dirty")
        }
        assert counted == {"new": 0, "reused": 0, "replaced": 0, "dirty": 0, **expected}
        assert counted["new"] + counted["reused"] == calls(metrics)
        assert metrics['gateway_upstream_breaker_state{state="closed"}'] == 1

    async def counted(self, kind: str, number: int) -> None:
        await self.play.reaches(f'gateway_upstream_connections_total{{kind="{kind}"}}', number)


@pytest.fixture(scope="session")
def _authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def staged(way: str, _authority: trustme.CA, tmp_path: Path) -> Staged:
    """Start a gateway with a vendor that answers in this way."""

    @asynccontextmanager
    async def start(answer: Answer, **flags: object) -> AsyncIterator[Stage]:
        tls = None
        settings: dict[str, object] = {"cache.prefetch": 0}
        if way.startswith("tls"):
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            _authority.issue_cert("127.0.0.1").configure_cert(tls)
            _authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
            settings["upstream.ca_file"] = str(tmp_path / "ca.pem")
        async with AsyncExitStack() as stack:
            vendor = await stack.enter_async_context(raw_vendor(answer, tls))
            settings["upstream.base_url"] = vendor.url
            proxy = None
            if way.endswith("proxy"):
                proxy = await stack.enter_async_context(proxying())
                settings["upstream.proxy"] = proxy.url
            named = {name.replace("__", "."): value for name, value in flags.items()}
            play = await stack.enter_async_context(playing(settings | named))
            yield Stage(play, vendor, proxy)

    return start


async def test_sequential_calls_share_a_connection(staged: Staged) -> None:
    async def with_interim(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n")
        await writer.drain()
        await right(head, writer)

    async with staged(with_interim) as stage:
        for number in range(5):
            await stage.get(f"a{number}")
            await stage.quiet()
        await stage.connections(new=1, reused=4)
        assert stage.vendor.connections == 1
        if stage.proxy is not None:
            assert len(stage.proxy.asked) == 1


async def test_a_second_burst_of_forty_makes_no_new_connection(staged: Staged) -> None:
    async with staged(right) as stage:
        for burst in "ab":
            await asyncio.gather(*(stage.get(f"{burst}{number}") for number in range(40)))
            await stage.quiet(stage.vendor.connections)
        assert stage.vendor.connections <= 40
        metrics = await aftermath(stage.play, stage.vendor)
        assert metrics['gateway_upstream_connections_total{kind="reused"}'] >= 40


@two_ways
async def test_calls_in_a_row_without_a_pause_share_a_few_connections(staged: Staged) -> None:
    async with staged(right) as stage:
        for number in range(30):
            await stage.get(f"a{number}")
        metrics = await aftermath(stage.play, stage.vendor)
        # A connection rests for 5 ms after each answer, in a tunnel for up to 100 ms.
        assert metrics['gateway_upstream_connections_total{kind="reused"}'] >= 5


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.05, 0.15])
async def test_surplus_bytes_after_an_answer_end_the_connection(staged: Staged, delay: float) -> None:
    async def with_surplus(head: bytes, writer: asyncio.StreamWriter) -> None:
        answer = whole(page(*asked(head)))
        if not delay:
            writer.write(answer + STRAY)
            return
        writer.write(answer)
        await asyncio.sleep(delay)
        writer.write(STRAY)

    async with staged(with_surplus) as stage:
        for number in (1, 2):
            await stage.get(f"a{number}")
            await stage.counted("dirty", number)
            assert stage.idle == []
        # Twice in ten minutes: from now on each call has a connection of its own.
        await asyncio.gather(*(stage.get(f"b{number}") for number in range(5)))
        await stage.get("c")
        await stage.connections(new=8, dirty=2)
        assert stage.vendor.connections == 8
        lines = [line for line in stage.play.log_lines() if line["event"] == SUSPENDED]
        assert [line["level"] for line in lines] == ["warning"]


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.05])
async def test_surplus_bytes_never_answer_calls_that_do_not_wait(staged: Staged, delay: float) -> None:
    async def with_surplus(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(page(*asked(head))))
        if delay:
            await asyncio.sleep(delay)
        writer.write(STRAY[:50])
        await writer.drain()
        writer.write(STRAY[50:])

    async with staged(with_surplus) as stage:
        for number in range(10):
            await stage.get(f"a{number}")
        await asyncio.gather(*(stage.get(f"b{number}") for number in range(10)))
        await aftermath(stage.play, stage.vendor)


@pytest.mark.parametrize(
    "stray",
    [
        STRAY,
        whole(page("a2", offset=20)),
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ],
    ids=["another AOI", "another offset", "no HTTP", "bad framing", "408"],
)
async def test_what_arrives_between_checkout_and_answer_is_not_the_answer(staged: Staged, stray: bytes) -> None:
    async def late(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(stray)
        await writer.drain()
        if b"408" in stray:  # which announces that the connection is closed
            writer.close()
        else:
            await right(head, writer)

    async with staged(nth(2, late)) as stage:
        await stage.get("a1")
        await stage.quiet()
        await stage.get("a2")
        assert len(stage.vendor.requests) == 3
        kind = "replaced" if b"408" in stray else "dirty"
        await stage.connections(new=2, reused=1, **{kind: 1})


@pytest.mark.parametrize(
    "stray",
    [whole(EMPTY), whole(NOT_FOUND).replace(b"200 OK", b"404 Not Found"), whole(b"<html>")],
    ids=["an empty page", "404", "HTML"],
)
async def test_an_answer_that_proves_nothing_and_is_not_alone_is_not_served(staged: Staged, stray: bytes) -> None:
    async def with_another(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(stray + whole(page(*asked(head))))

    async with staged(nth(2, with_another)) as stage:
        await stage.get("a1")
        await stage.quiet()
        await stage.get("a2")
        await stage.connections(new=2, reused=1, dirty=1)


@two_ways
async def test_a_mismatch_that_a_new_connection_confirms_is_the_vendors_way(staged: Staged) -> None:
    async def clamping(head: bytes, writer: asyncio.StreamWriter) -> None:
        aoi_id, offset = asked(head)
        writer.write(whole(page(aoi_id, min(offset, 40))))

    async def clamped(stage: Stage, offset: int) -> None:
        reply = await stage.play.page("a1", f"?offset={offset}&limit=7")
        assert (reply.status, reply.body) == (200, page("a1", 40))
        await stage.quiet()

    async with staged(clamping) as stage:
        await stage.get("a1")
        await stage.quiet()
        await clamped(stage, 50)
        assert len(stage.vendor.requests) == 3
        for offset in (60, 70):
            await clamped(stage, offset)
        assert len(stage.vendor.requests) == 5
        stage.play.clock.pass_by(601)
        await clamped(stage, 80)  # on a new connection: the kept one has been idle for too long
        await clamped(stage, 90)
        await stage.connections(new=4, reused=4)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("when", ["before", "when asked", "after the first byte"])
async def test_a_kept_connection_that_ends(staged: Staged, end: str, when: str) -> None:
    async def ending(head: bytes, writer: asyncio.StreamWriter) -> None:
        if when == "after the first byte":
            writer.write(b"HTTP/1.1 2")
            await writer.drain()
            await asyncio.sleep(0.02)
        ENDS[end](writer)

    async with staged(right if when == "before" else nth(2, ending)) as stage:
        await stage.get("a1")
        await stage.quiet()
        if when == "before":
            ENDS[end](stage.vendor.writers[0])
            await until(lambda: not stage.idle)
        await stage.get("a2")
        await stage.quiet()
        await stage.get("a3")
        match when:
            case "before":
                expected = {"new": 2, "reused": 1}
            case "when asked":
                expected = {"new": 2, "reused": 2, "replaced": 1}
            case _:
                expected = {"new": 2, "reused": 2}
        await stage.connections(**expected)
        metrics = await stage.play.metrics()
        # Once the answer has begun it is a failure like any other, and takes a retry.
        retried = metrics['gateway_upstream_retries_total{reason="reset"}']
        assert retried == (1 if when == "after the first byte" else 0)


@two_ways
async def test_a_lost_connection_is_replaced_once_and_needs_no_retry(staged: Staged) -> None:
    lost = False

    async def dying(head: bytes, writer: asyncio.StreamWriter) -> None:
        if lost:
            writer.close()
        else:
            await right(head, writer)

    flags = {"upstream__max_attempts": 1, "upstream__retry_ratio": 0.0, "upstream__breaker__failures": 2}
    async with staged(dying, **flags) as stage:
        await stage.get("a1")
        await stage.quiet()
        lost = True
        reply = await stage.play.page("a2")
        assert (reply.status, reply.code) == (502, "upstream_unreachable")
        lost = False
        # Of the two requests one counts for the breaker.
        await stage.get("a3")
        await stage.connections(new=3, reused=1, replaced=1)


@two_ways
async def test_many_lost_connections_suspend_reuse_for_ten_minutes(staged: Staged) -> None:
    used: set[asyncio.StreamWriter] = set()

    async def once(head: bytes, writer: asyncio.StreamWriter) -> None:
        if writer in used:
            writer.close()
            return
        used.add(writer)
        await right(head, writer)

    async with staged(once) as stage:
        for number in range(6):
            await stage.get(f"a{number}")
            if number < 5:
                await stage.quiet()
        await stage.get("b1")
        await stage.get("b2")
        await stage.connections(new=8, reused=5, replaced=5)
        stage.play.clock.pass_by(601)
        await stage.get("c1")
        await stage.quiet()
        await stage.get("c2")
        await stage.connections(new=10, reused=6, replaced=6)


@two_ways
@pytest.mark.parametrize("flag", ["upstream__keepalive_connections", "upstream__keepalive_timeout"])
async def test_with_zero_each_call_has_a_connection_of_its_own(staged: Staged, flag: str) -> None:
    async with staged(right, **{flag: 0}) as stage:
        for number in range(3):
            await stage.get(f"a{number}")
        assert stage.idle == []
        await stage.connections(new=3)
        assert stage.vendor.connections == 3


@two_ways
async def test_the_connection_that_has_been_idle_longest_is_used_first(staged: Staged) -> None:
    asked_on: list[tuple[str, asyncio.StreamWriter]] = []
    go = {name: asyncio.Event() for name in ("a", "b", "c")}

    async def in_turn(head: bytes, writer: asyncio.StreamWriter) -> None:
        name = asked(head)[0]
        asked_on.append((name, writer))
        if name in go:
            await go[name].wait()
        await right(head, writer)

    async with staged(in_turn) as stage:
        calls = {name: asyncio.create_task(stage.get(name)) for name in go}
        await until(lambda: len(asked_on) == 3)
        for name in ("b", "c", "a"):
            go[name].set()
            await calls[name]
        await stage.quiet(3)
        by_name = dict(asked_on)
        for name in ("b", "c", "a"):
            await stage.get(f"{name}2")
            assert asked_on[-1] == (f"{name}2", by_name[name])


@two_ways
async def test_a_kept_connection_is_used_when_no_new_one_can_be_made(staged: Staged) -> None:
    async with staged(right) as stage:
        await stage.get("a1")
        assert stage.vendor.server is not None
        stage.vendor.server.close()
        await stage.get("a2")  # at once: the kept one is not quiet yet
        await stage.connections(new=1, reused=1)


@two_ways
async def test_no_more_idle_connections_are_kept_than_configured(staged: Staged) -> None:
    async with staged(right, upstream__keepalive_connections=2) as stage:
        await asyncio.gather(*(stage.get(f"a{number}") for number in range(8)))
        await stage.quiet(2)
        assert len(stage.idle) == 2


@two_ways
async def test_an_idle_connection_is_closed_after_its_time(staged: Staged) -> None:
    async with staged(right, upstream__keepalive_timeout=0.2) as stage:
        await stage.get("a1")
        await until(lambda: len(stage.idle) == 1)
        await until(lambda: not stage.idle)
        await stage.get("a2")
        await stage.connections(new=2)


@two_ways
async def test_a_connection_is_closed_after_its_last_request(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection._MOST_REQUESTS == 1000
    monkeypatch.setattr(connection, "_MOST_REQUESTS", 3)
    async with staged(right) as stage:
        for number in range(4):
            await stage.get(f"a{number}")
            await until(lambda: stage.idle == [] or stage.idle[0].is_ready())
        await stage.connections(new=2, reused=2)


CLOSING = {
    "close": (200, whole(page("a1"), b"Connection: close")),
    "HTTP/1.0": (200, whole(page("a1")).replace(b"HTTP/1.1", b"HTTP/1.0")),
    "HTTP/1.0, keep-alive": (200, whole(page("a1"), b"Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")),
    "two framings": (
        502, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "204": (502, b"HTTP/1.1 204 No Content\r\n\r\n"),
    "too large": (502, whole(b" " * 4000)),
}  # fmt: skip


@two_ways
@pytest.mark.parametrize("kind", CLOSING)
async def test_a_connection_whose_state_is_in_doubt_is_not_kept(staged: Staged, kind: str) -> None:
    status, data = CLOSING[kind]

    async def closing(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data[:-1])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(data[-1:])

    async with staged(nth(1, closing), upstream__max_body_bytes=2000) as stage:
        assert (await stage.play.page("a1")).status == status
        assert stage.idle == []
        await stage.get("a2")
        await stage.quiet()
        await stage.get("a3")
        await stage.connections(new=2, reused=1)


@two_ways
async def test_an_attempt_that_times_out_on_a_kept_connection_is_retried_on_a_new_one(staged: Staged) -> None:
    silent: set[asyncio.StreamWriter] = set()

    async def going_silent(head: bytes, writer: asyncio.StreamWriter) -> None:
        if writer not in silent:
            await right(head, writer)

    # Long enough for a TLS handshake through a proxy on a busy machine.
    async with staged(going_silent, upstream__attempt_timeout=1.5) as stage:
        await asyncio.gather(*(stage.get(f"a{number}") for number in range(3)))
        await stage.quiet(2)
        silent.update(stage.vendor.writers)  # as behind a firewall that has forgotten them
        await stage.get("b")
        metrics = await aftermath(stage.play, stage.vendor)
        assert metrics['gateway_upstream_requests_total{code="timeout"}'] == 1


async def test_unread_bytes_make_a_connection_unusable_before_the_loop_has_read_them(staged: Staged) -> None:
    async with staged(right) as stage:
        await stage.get("a1")
        await stage.quiet()
        [kept] = stage.idle
        if stage.proxy is None:
            stage.vendor.writers[0].write(b"HTTP")  # sent at once, and the gateway shares this loop
            assert not kept.is_ready()
        else:
            stage.vendor.writers[0].write(b"HTTP")
        await stage.counted("dirty", 1)
        await stage.get("a2")
        await stage.connections(new=2, dirty=1)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Addresses of names, which the operating system is told to know."""
    known: dict[str, str] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *arguments: int, **named: int) -> list[Any]:
        return real(known.get(host, host), port, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has all of 127.0.0.0/8")
async def test_new_connections_follow_the_vendors_address(
    names: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = 0.0
    monkeypatch.setattr(aiohttp_connector, "monotonic", lambda: time.monotonic() + passed)  # of aiohttp's DNS cache
    async with raw_vendor(right) as old:
        port = int(old.url.rpartition(":")[2])
        names["vendor.test"] = "127.0.0.1"
        flags = {"upstream.base_url": f"http://vendor.test:{port}", "cache.prefetch": 0}
        async with raw_vendor(right, address=("127.0.0.2", port)) as new, playing(flags) as play:
            stage = Stage(play, old, None)
            await stage.get("a1")
            await stage.quiet()
            names["vendor.test"] = "127.0.0.2"
            passed = 30.0
            await stage.get("a2")  # the kept connection is as good as it was
            [kept] = stage.idle
            kept.close()
            await stage.get("a3")
            assert (len(old.requests), len(new.requests)) == (2, 1)


@two_ways
async def test_a_key_belongs_to_a_request_and_not_to_its_connection(staged: Staged) -> None:
    async with staged(right) as stage:
        await stage.get("a1")
        await stage.quiet()
        assert stage.play.gateway._keys.replace("current", "another-key-0123456789")
        await stage.get("a2")
        sent = [head.split(b"Authorization: ")[1].split(b"\r\n")[0] for head in stage.vendor.requests]
        assert sent[0] != sent[1] == b"another-key-0123456789"
        await stage.connections(new=1, reused=1)


@two_ways
async def test_a_call_that_is_given_up_takes_its_connection_along(staged: Staged) -> None:
    held = asyncio.Event()

    async def slow(head: bytes, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        await right(head, writer)

    async with staged(nth(2, slow), upstream__deadline=0.3, upstream__max_attempts=1) as stage:
        await stage.get("a1")
        await stage.quiet()
        reply = await stage.play.page("a2")
        assert (reply.status, reply.code) == (504, "upstream_timeout")
        assert stage.idle == []
        held.set()  # what comes now finds nobody
        await stage.get("a3")
        await stage.connections(new=2, reused=1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells how many bytes have arrived")
@pytest.mark.parametrize("way", ["tls"], indirect=True)
async def test_half_a_tls_record_makes_a_connection_unusable(staged: Staged) -> None:
    async with staged(right) as direct, relaying(int(direct.vendor.url.rpartition(":")[2])) as relay:
        flags = {
            "upstream.base_url": f"https://127.0.0.1:{relay.port}", "cache.prefetch": 0,
            "upstream.ca_file": direct.play.gateway._settings.upstream.ca_file,
        }  # fmt: skip
        async with playing(flags) as play:
            stage = Stage(play, direct.vendor, None)
            await stage.get("a1")
            await stage.quiet()
            [kept] = stage.idle
            assert kept.transport is not None
            before = bytes_received(kept.transport)
            relay.connections[0].writer.write(b"\x17\x03\x03\x00\x40half a record")
            await until(lambda: kept.transport is not None and bytes_received(kept.transport) != before)
            await stage.get("a2")
            metrics = await play.metrics()
            assert metrics['gateway_upstream_connections_total{kind="new"}'] == 2
            assert metrics['gateway_upstream_connections_total{kind="reused"}'] == 0


@two_ways
async def test_a_connection_that_is_not_quiet_yet_is_not_used(staged: Staged) -> None:
    async with staged(right) as stage:
        await stage.get("a1")
        await until(lambda: len(stage.idle) == 1)
        [kept] = stage.idle
        kept._quiet_seconds = 1000.0
        await stage.get("a2")
        assert stage.vendor.connections == 2
        stage.play.clock.pass_by(10.0)  # less than it is kept
        await stage.get("a3")
        assert kept.requests == 1
