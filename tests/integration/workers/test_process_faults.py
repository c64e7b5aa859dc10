"""What happens to the process itself: signals, clocks, stalls, and resources that run out."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from harness import PATIENCE, VENDOR_KEY, Play, Process, Reply, parse_metrics, playing, spawn, until
from holding_vendor import HoldingVendor
from invariants import aftermath, descriptors, holds_key, memory
from load import loading
from raw_client import Line, asks
from raw_vendor import listing, raw_vendor, saying, whole
from real_redis import RealRedis
from wire import request, until_closed

pytestmark = pytest.mark.usefixtures("nothing_left")

AOI = "a1"


@pytest.fixture(autouse=True)
def _a_long_listing(vendor: HoldingVendor) -> None:
    vendor.set_assets(AOI, [{"id": f"n{number}", "status": "success"} for number in range(2000)])


@dataclass
class Spawned:
    """A gateway process, and a client of it."""

    process: Process
    port: int
    session: aiohttp.ClientSession

    @property
    def pid(self) -> int:
        return self.process.process.pid

    async def get(self, path: str) -> Reply:
        async with self.session.get(f"http://127.0.0.1:{self.port}{path}") as response:
            return Reply(response.status, response.headers.copy(), await response.read())

    async def page(self, number: int) -> Reply:
        return await self.get(f"/v0/aois/{AOI}/assets?offset={number}&limit=1")

    async def metrics(self) -> dict[str, float]:
        return parse_metrics((await self.get("/metrics")).body.decode())

    async def end(self) -> str:
        """End it by SIGTERM, which it must do well; what it said."""
        assert await asyncio.to_thread(self.process.end) == 0
        said = "".join(self.process.lines)
        assert not holds_key(said.encode(), VENDOR_KEY)
        assert "Traceback" not in said
        return said


@asynccontextmanager
async def spawned(url: str, *, before: tuple[str, ...] = (), **environ: str) -> AsyncIterator[Spawned]:
    settings = {"GATEWAY_UPSTREAM__BASE_URL": url, "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY, **environ}
    process = spawn("serve", "--port", "0", environ={"GATEWAY_CACHE__PREFETCH": "0", **settings}, before=before)
    try:
        port = await asyncio.to_thread(process.port)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            yield Spawned(process, port, session)
    finally:
        process.process.kill()
        process.process.wait()
        if process.process.stdout is not None:
            process.process.stdout.close()


async def test_sigterm_loses_no_request(vendor: HoldingVendor) -> None:
    """Clients on connections that are open, and those that come back while the gateway drains."""
    async with spawned(vendor.url, GATEWAY_SERVER__DRAIN="1.5") as gateway:
        vendor.set_behaviour(aoi_id="slow", delay=3.0)
        vendor.set_assets("slow", [])
        slow = asyncio.create_task(gateway.get("/v0/aois/slow/assets"))
        told: list[float] = []
        counted = {"sent": 0, "lost": 0, "told to close": 0}

        async def client() -> None:
            """Send one request after the other, over a new connection whenever told so, for half of the drain."""
            while not told or time.monotonic() - told[0] < 0.7:
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                closes = False
                while not closes:
                    counted["sent"] += 1
                    writer.write(request(path=b"/v0/aois/a1/assets?limit=1"))
                    head = b""
                    with suppress(ConnectionError, asyncio.IncompleteReadError):
                        head = await reader.readuntil(b"\r\n\r\n")
                        await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
                    counted["lost"] += not head.startswith(b"HTTP/1.1 200")
                    closes = b"Connection: close" in head or not head
                    counted["told to close"] += closes
                    await asyncio.sleep(0.002)
                writer.close()

        clients = [asyncio.create_task(client()) for _ in range(20)]
        await until(lambda: counted["sent"] > 200 and any(b"slow" in r.target.encode() for r in vendor.requests))
        gateway.process.process.send_signal(signal.SIGTERM)
        told.append(time.monotonic())
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*clients)
        assert counted["lost"] == 0
        assert counted["told to close"] >= 20
        assert (await slow).status == 200
        assert await asyncio.to_thread(gateway.process.process.wait, PATIENCE) == 0
        # The drain, and the longest request; what is idle is not waited for.
        assert time.monotonic() - told[0] < 1.5 + 3.0 + 5.0
        assert len(vendor.requests) == 2


async def test_nobody_reads_the_log(vendor: HoldingVendor) -> None:
    asked = request(path=b"/healthz") * 2000 + request(b"Connection: close", path=b"/healthz")
    async with spawned(vendor.url) as gateway:
        dropped = 0.0
        for _ in range(20):
            received = await until_closed(gateway.port, asked, seconds=60)
            assert received.count(b"HTTP/1.1 200 OK") == 2001
            if dropped := (await gateway.metrics())["gateway_log_dropped_total"]:
                break
        assert dropped > 0
        assert (await gateway.page(0)).status == 200
        assert (await gateway.page(0)).headers["Cache-Status"].startswith("pixxel-gateway; hit")
        gateway.process.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(gateway.process.process.wait, PATIENCE) == 0


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_the_clock_jumps(play: Play, vendor: HoldingVendor, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    first = await play.page(AOI)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    again = await play.page(AOI)
    assert (again.body, again.cache[:3]) == (first.body, "hit")
    assert 0 <= int(again.headers["Age"]) < 100
    play.clock.skip(1000)
    assert int((await play.page(AOI)).headers["Age"]) < 100  # what is old by our own count is fetched anew
    assert len(vendor.requests) == 2
    async with playing({"upstream.base_url": vendor.url, "upstream.deadline": 0.6}) as late:
        vendor.set_behaviour(hang=True)
        began = time.monotonic()
        assert (await late.page(AOI)).status == 504
        assert 0.55 < time.monotonic() - began < 10
        await aftermath(late)
    await aftermath(play)


async def test_the_loop_stalls(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    flags = {"upstream.base_url": vendor.url, "cache.url": real_redis.url, "cache.prefetch": 0}
    async with playing({**flags, "cache.redis_timeout": 0.5}) as play:
        await until(lambda: play.gateway._store._validity.is_live)  # type: ignore[attr-defined]
        calls = play.gateway._store._remote._calls  # type: ignore[attr-defined]
        asking = [asyncio.create_task(play.page(AOI, f"?offset={number}&limit=1")) for number in range(50)]
        under_way = [asyncio.create_task(calls.run("get", lambda client: client.get("x"))) for _ in range(10)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert not any(task.done() for task in under_way)
        time.sleep(2)  # noqa: ASYNC251 - which is the fault
        assert await asyncio.gather(*under_way) == [None] * 10
        replies = await asyncio.gather(*asking)
        assert {reply.status for reply in replies} == {200}
        await play.reaches("gateway_event_loop_lag_seconds_sum", 1.0)
        assert calls._failures == 0
        metrics = await aftermath(play, vendor, real_redis)
        lags = "gateway_event_loop_lag_seconds_"
        assert metrics[lags + "count"] - metrics[lags + 'bucket{le="1.0"}'] == 1
        assert metrics["gateway_redis_up"] == 1
        assert not [name for name, value in metrics.items() if 'result="timeout"' in name and value]
        assert len(vendor.requests) == 50


class TwoKeys(HoldingVendor):
    """A vendor that takes an old and a new key, as vendors do while customers rotate theirs."""

    def _knows_key(self, request: web.BaseRequest) -> bool:
        return request.headers.get("Authorization") in {VENDOR_KEY, "new-" + VENDOR_KEY}


async def test_the_key_changes_under_load(tmp_path: Path) -> None:
    vendor = TwoKeys(key=VENDOR_KEY)
    await vendor.start()
    vendor.set_assets(AOI, [{"id": f"n{number}", "status": "success"} for number in range(2000)])
    file, aside = tmp_path / "key", tmp_path / "aside"
    file.write_text(VENDOR_KEY)
    settings = {"upstream.api_key": None, "upstream.api_key_file": str(file)}
    async with playing({"upstream.base_url": vendor.url, "cache.prefetch": 0, **settings}) as play:

        async def ask(number: int) -> Reply:
            return await play.page(AOI, f"?offset={number if number % 2 else 0}&limit=1")

        def sent() -> list[str]:
            return [dict(recorded.headers)["Authorization"] for recorded in vendor.requests]

        async with loading(ask, clients=4, pause=0.005) as load:
            await load.more(50)
            aside.write_text("new-" + VENDOR_KEY)
            aside.replace(file)
            began = time.monotonic()
            await until(lambda: sent()[-1] != VENDOR_KEY)
            assert time.monotonic() - began < 2.0 + 4.0
            await load.more(50)
        keys = sent()
        changed = keys.index("new-" + VENDOR_KEY)
        assert VENDOR_KEY not in keys[changed + load_width(load.clients) :]
        assert load.statuses == {200: len(load.replies)}
        assert len(keys) == len({reply.body for reply in load.replies})  # what was cached was not fetched again
        metrics = await aftermath(play, vendor)
        assert metrics["gateway_upstream_key_refusals_total"] == 0
    await vendor.stop()


def load_width(clients: list[Any]) -> int:
    """So many requests may be under way with the old key when the first goes out with the new one."""
    return len(clients)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
async def test_few_descriptors_and_many_connections(vendor: HoldingVendor) -> None:
    limited = ("sh", "-c", 'ulimit -n 64 && exec "$@"', "sh")
    async with spawned(vendor.url, before=limited, GATEWAY_LOG__ACCESS="false") as gateway, AsyncExitStack() as stack:
        usual = descriptors(gateway.pid)
        served: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        for number in range(120):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            stack.callback(writer.close)
            head = b""
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                writer.write(request(path=b"/v0/aois/a1/assets?offset=%d&limit=1" % number))
                async with asyncio.timeout(PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
            if head:
                assert head.startswith(b"HTTP/1.1 200 OK")
                served.append((reader, writer))
            assert descriptors(gateway.pid) < 64
        assert len(served) == 40  # of which each could reach the vendor
        at_once = await asyncio.gather(*(until_closed(gateway.port, b"") for _ in range(200)), return_exceptions=True)
        assert len(at_once) == 200  # nobody is kept waiting
        assert len(vendor.requests) == 40
        for _, writer in served:
            writer.close()
        await until(lambda: descriptors(gateway.pid) <= usual + 1)
        assert (await gateway.page(1000)).status == 200
        said = await gateway.end()
        assert len(said.splitlines()) < 10


BIG = listing(*(f"{number:x}" + "y" * 1000 for number in range(20_000)))


def never_reading(port: int, stack: AsyncExitStack) -> None:
    """Ask for the big page, and take nothing of it."""
    client = socket.socket()
    stack.callback(client.close)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(request(b"Accept-Encoding: identity", path=b"/v0/aois/a1/assets"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
async def test_clients_that_never_read_take_no_memory() -> None:
    async with raw_vendor(saying(whole(BIG))) as vendor, AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(spawned(vendor.url, GATEWAY_UPSTREAM__MAX_BODY_BYTES=str(len(BIG))))
        whole_page = await gateway.get(f"/v0/aois/{AOI}/assets")
        assert whole_page.body == BIG
        before = memory(gateway.pid, "VmRSS")
        for _ in range(20):
            never_reading(gateway.port, stack)
        hits = 'gateway_cache_requests_total{result="hit"}'
        async with asyncio.timeout(PATIENCE):
            while (await gateway.metrics())[hits] < 20:
                pass  # each look is a request, and so a turn of the loop
        assert memory(gateway.pid, "VmRSS") - before < 2 * len(BIG)
        assert (await gateway.get(f"/v0/aois/{AOI}/assets")).body == BIG
        assert len(vendor.requests) == 1


async def test_clients_that_never_read_are_cut_off() -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("only Linux bounds this")
    async with raw_vendor(saying(whole(BIG))) as vendor, AsyncExitStack() as stack:
        flags = {"upstream.base_url": vendor.url, "upstream.max_body_bytes": len(BIG)}
        play = await stack.enter_async_context(playing(flags))
        listener = play.gateway._listeners[0]
        listener._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000)  # half a minute is too long here
        for _ in range(20):
            never_reading(play.port, stack)
        await until(lambda: len(listener._server.connections) >= 20)
        await until(lambda: not listener._server.connections)
        assert (await play.page(AOI)).body == BIG
        await aftermath(play, vendor)


async def test_who_reads_slowly_gets_the_whole_answer_of_a_gateway_that_ends(vendor: HoldingVendor) -> None:
    """Of an answer by the short cut no handler is left that would be waited for."""
    vendor.set_assets(
        "large", [{"id": f"n{number}", "status": "success", "path": "p" * 390_000} for number in range(20)]
    )
    asking = asks("/v0/aois/large/assets?limit=20")
    async with spawned(vendor.url, GATEWAY_SERVER__DRAIN="0") as gateway:
        async with Line(gateway.port) as line:
            pages = [await line.ask(asking) for _ in range(4)]
        loop = asyncio.get_running_loop()
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            await loop.sock_connect(slow, ("127.0.0.1", gateway.port))
            await loop.sock_sendall(slow, asking)
            got = await loop.sock_recv(slow, 1)
            gateway.process.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):  # which is how long it would take if nobody were waited for
                await asyncio.to_thread(gateway.process.process.wait, 1.0)
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            async with asyncio.timeout(PATIENCE):
                with suppress(ConnectionError):
                    while piece := await loop.sock_recv(slow, 65_536):
                        got += piece
        assert got.partition(b"\r\n\r\n")[2] == pages[-1].body
        await asyncio.to_thread(gateway.process.process.wait)
        assert gateway.process.process.returncode == 0
