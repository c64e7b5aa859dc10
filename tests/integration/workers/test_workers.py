"""Several workers are one gateway: in what they count, in what they forget, and in how they end."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from harness import until
from real_redis import RealRedis
from worker_group import Connection, Group, working

from gateway.mock_vendor.server import MockVendor

PAGE = "/v0/aois/shown/assets"
ANSWERED = 'gateway_http_requests_total{code="200",method="GET",route="assets",team="anonymous"}'
ENDED = "a worker has ended"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="on Windows one process serves")


@pytest.fixture
def environ(vendor: MockVendor) -> dict[str, str]:
    vendor.set_assets("shown", [{"id": "before", "status": "success"}])
    return {"GATEWAY_UPSTREAM__BASE_URL": vendor.url}


async def replaced(group: Group, pid: int, workers: int) -> None:
    """Wait until this worker has gone, and there are as many as before."""
    await until(lambda: pid not in (pids := group.pids()) and len(pids) == workers, seconds=20)


def counted(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.split("{")[0].endswith(("_total", "_count"))}


async def test_whichever_worker_is_asked_it_tells_what_all_have_counted(environ: dict[str, str]) -> None:
    async with working(3, **environ) as group:
        connections = await group.connect_to_all()
        for times, connection in enumerate(connections.values(), start=1):
            for _ in range(times):
                assert (await connection.get(PAGE)).status == 200
        first = [await connection.metrics() for connection in connections.values()]
        for metrics in first:
            assert metrics[ANSWERED] == 6
            assert metrics["gateway_upstream_request_duration_seconds_count"] == 3
            assert metrics["gateway_cache_entries"] == 3
            assert metrics["gateway_redis_up"] == 0
            assert [metrics[name] for name in metrics if name.startswith("gateway_build_info")] == [1]
            assert metrics["process_resident_memory_bytes"] > 3e7
        earlier = [counted(metrics) for metrics in first]
        for before, now in itertools.pairwise(earlier):
            assert {name for name, value in before.items() if now[name] < value} == set()

        [killed, stopped, asked] = connections
        os.kill(killed, signal.SIGKILL)
        await replaced(group, killed, 3)
        await until(lambda: group.told(ENDED) != [])
        [line] = group.told(ENDED)
        assert (line["pid"], line["why"]) == (killed, "SIGKILL")
        os.kill(stopped, signal.SIGSTOP)
        began = time.monotonic()
        after = await connections[asked].metrics()
        assert 0.2 <= time.monotonic() - began < 1.5
        os.kill(stopped, signal.SIGCONT)
        assert {name: value for name, value in earlier[-1].items() if after[name] < value} == {}
        assert after[ANSWERED] == 6
        assert after["gateway_cache_entries"] == 2  # what the killed one kept has gone with it


async def test_a_purge_ends_what_every_worker_keeps(environ: dict[str, str], vendor: MockVendor) -> None:
    async with working(3, **environ) as group:
        assert len(group.told("each worker keeps its own cache")) == 1
        kept = await group.connect_to_all()
        connections = list(kept.values())
        assert [await cached(connection) for connection in connections] == ["fwd=miss"] * 3
        assert [await cached(connection) for connection in connections] == ["hit"] * 3
        stopped, awake, _ = group.pids()
        assert (await (await group.connect_to(awake)).purge("shown")).status == 200
        assert [await cached(connection) for connection in connections] == ["fwd=miss"] * 3
        assert (await connections[0].metrics())['gateway_cache_purges_total{scope="aoi"}'] == 1

        connection = await group.connect_to(awake)
        os.kill(stopped, signal.SIGSTOP)
        refused = await connection.purge("shown")
        assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
        os.kill(stopped, signal.SIGCONT)
        # It was not confirmed, but it is done as soon as it can be.
        assert [await cached(connection) for connection in connections] == ["fwd=miss"] * 3

        connection = await group.connect_to(awake)
        os.kill(stopped, signal.SIGSTOP)
        dying = asyncio.create_task(connection.purge("shown"))
        while await cached(kept[awake]) == "hit":
            pass  # it has not come to ask the others either
        os.kill(stopped, signal.SIGKILL)
        assert (await dying).status == 200  # what it kept has gone with it


async def cached(connection: Connection) -> str:
    answer = await connection.get(PAGE)
    assert answer.status == 200
    return answer.headers["Cache-Status"].split("; ")[1]


async def test_with_redis_it_is_redis_that_tells_all_workers(
    environ: dict[str, str], vendor: MockVendor, real_redis: RealRedis
) -> None:
    async with working(2, **environ, GATEWAY_CACHE__URL=real_redis.url) as group:
        assert group.told("each worker keeps its own cache") == []
        (purging, one), (_, other) = (await group.connect_to_all()).items()
        assert b"before" in (await one.get(PAGE)).body
        assert b"before" in (await other.get(PAGE)).body
        assert len(vendor.requests) == 1
        vendor.set_assets("shown", [{"id": "after", "status": "success"}])
        assert (await (await group.connect_to(purging)).purge("shown")).status == 200
        confirmed = time.monotonic()
        while b"after" not in (await other.get(PAGE)).body:
            assert time.monotonic() - confirmed < 1.0
        assert b"after" in (await one.get(PAGE)).body
        assert len(vendor.requests) == 2


async def test_a_worker_that_is_told_to_end_finishes_and_is_replaced(
    environ: dict[str, str], vendor: MockVendor
) -> None:
    async with working(2, **environ) as group:
        leaving, _ = group.pids()
        connection = await group.connect_to(leaving)
        vendor.set_behaviour(delay=1.0)
        slow = asyncio.create_task(connection.get(PAGE))
        await until(lambda: len(vendor.requests) == 1)
        idle = await group.connect_to(leaving)
        os.kill(leaving, signal.SIGTERM)
        closing: dict[str, str] = {}
        while "Connection" not in closing:
            answer = await idle.get("/readyz")
            assert answer.status == 200  # the gateway as a whole is as ready as it was
            closing = answer.headers
        assert (await slow).status == 200
        await replaced(group, leaving, 2)
        await until(lambda: group.told(ENDED) != [])
        [line] = group.told(ENDED)
        assert (line["pid"], line["why"], line["after"]) == (leaving, "exit code 0", 0)
        assert (await (await group.connect()).metrics())[ANSWERED] == 1


# Workers that serve and fall dead at once, or that never come to serve.
FALLING = """
import logging, sys
from gateway.app.workers.log_pipe import LogPipe
from gateway.app.workers.messages import Started, encode
from gateway.app.workers.supervisor import Supervisor
from gateway.telemetry.log_writer import configure

def work(channel):
    if {serves}:
        channel.sendall(encode(Started()))
    return 7

log_pipe = LogPipe(1, bytes)
configure(log_pipe, "json", "info")
sys.exit(Supervisor(2, work, [], log_pipe, longest=5, when_started=int, when_hung_up=int).run())
"""


def fallen(*, serves: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", FALLING.format(serves=serves)], stdout=subprocess.PIPE)


def test_one_that_dies_again_and_again_is_started_later_each_time() -> None:
    with fallen(serves=True) as process:
        assert process.stdout is not None
        delays: dict[float, int] = {}
        for line in process.stdout:
            told = json.loads(line)
            assert (told["event"], told["why"]) == (f"{ENDED}, another one takes its place", "exit code 7")
            delays.setdefault(round(told["after"]), 0)
            delays[round(told["after"])] += 1
            if sum(delays.values()) == 6:
                break
        assert delays == {0: 2, 1: 2, 2: 2}  # for each of the two places
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait() == 0


def test_when_the_first_one_cannot_serve_nobody_does() -> None:
    with fallen(serves=False) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.wait() == 7


@pytest.mark.parametrize("workers", [1, 3])
async def test_no_request_is_lost_when_all_end(environ: dict[str, str], workers: int) -> None:
    """Clients keep their connections, connect anew when they are told to close, and end when nobody listens."""
    async with working(workers, **environ) as group:
        kept = [await group.connect_to(pid) for pid in group.pids()] or [await group.connect()]
        lost: list[Exception] = []
        answered: Counter[int] = Counter()

        async def ask_on() -> None:
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", group.port)
                except ConnectionRefusedError:
                    return
                connection, closing = Connection(reader, writer), False
                try:
                    while not closing:
                        answer = await connection.get(PAGE)
                        answered[answer.status] += 1
                        closing = "Connection" in answer.headers
                except (OSError, EOFError) as error:
                    lost.append(error)
                finally:
                    writer.close()

        clients = [asyncio.create_task(ask_on()) for _ in range(60)]
        await until(lambda: answered[200] > 600)
        ending = asyncio.create_task(group.end())
        await until(lambda: group.told('"stopping"') != [])
        unready: set[int] = set()
        for connection in kept:
            while (answer := await connection.get("/readyz")).status == 200:
                assert "Connection" not in answer.headers
            assert (answer.error["code"], answer.headers["Connection"]) == ("draining", "close")
            unready.add(answer.status)
        assert await ending == 0
        await asyncio.gather(*clients)
        assert (lost, set(answered), unready) == ([], {200}, {503})
        assert [line["event"] for line in group.told("stopp")] == ["stopping", "stopped"]
        assert len(group.told('"route":"assets"')) == answered[200]  # and every line is whole, or it would be no JSON


async def test_nobody_outlives_the_parent(environ: dict[str, str], vendor: MockVendor) -> None:
    async with working(2, **environ) as group:
        pids = group.pids()
        connection = await group.connect()
        vendor.set_behaviour(delay=0.5)
        slow = asyncio.create_task(connection.get(PAGE))
        await until(lambda: len(vendor.requests) == 1)
        assert await group.end(signal.SIGKILL) == -signal.SIGKILL
        assert (await slow).status == 200
        await until(lambda: not any(alive(pid) for pid in pids))
        with pytest.raises(ConnectionRefusedError):
            await group.connect()


def alive(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


async def test_a_hangup_reaches_all_and_ctrl_c_counts_once(environ: dict[str, str]) -> None:
    async with working(2, **environ, GATEWAY_SERVER__DRAIN="30") as group:
        group.process.send_signal(signal.SIGHUP)
        await until(lambda: len(group.told("the configuration was reloaded")) == 2)
        killed, _ = group.pids()
        os.kill(killed, signal.SIGKILL)
        await replaced(group, killed, 2)
        await until(lambda: len(group.told("the configuration was reloaded")) == 3)  # its successor goes by that too
        began = time.monotonic()
        os.killpg(group.process.pid, signal.SIGINT)
        assert await group.end(None) == 0
        assert time.monotonic() - began < 10
        assert len(group.told(ENDED)) == 1
        assert [line["event"] for line in group.told("stopp")] == ["stopping", "stopped"]


async def test_a_signal_to_everybody_drains_and_a_second_one_to_the_parent_ends_it(environ: dict[str, str]) -> None:
    async with working(2, **environ, GATEWAY_SERVER__DRAIN="30") as group:
        pids = group.pids()
        kept = await group.connect()
        assert (await kept.get(PAGE)).status == 200
        os.killpg(group.process.pid, signal.SIGTERM)  # as a service manager may do
        await until(lambda: group.told('"stopping"') != [])
        async with asyncio.timeout(10):
            while (await (await group.connect()).get("/readyz")).status != 503:
                pass
        async with asyncio.timeout(10):  # each worker receives the signal in its own time
            while (await kept.get(PAGE)).headers.get("Connection") != "close":
                pass
        assert group.told(ENDED) == []
        assert await group.end(signal.SIGTERM) == 128 + signal.SIGTERM
        await until(lambda: not any(alive(pid) for pid in pids))
