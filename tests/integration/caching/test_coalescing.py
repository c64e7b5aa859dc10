"""Three gateway processes around a real Redis: one vendor call, whatever happens to whom."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from harness import REDIS_ENVIRON, VENDOR_KEY, Process, Reply, spawn, until
from real_redis import RealRedis
from redis.asyncio import Redis

from gateway.mock_vendor.server import MockVendor


class Fleet:
    """Gateway processes and a client of them all."""

    def __init__(self, vendor: MockVendor, redis: RealRedis) -> None:
        self.environ = {
            **REDIS_ENVIRON,
            "GATEWAY_UPSTREAM__BASE_URL": vendor.url,
            "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY,
            "GATEWAY_CACHE__URL": redis.url,
            "GATEWAY_LOG__ACCESS": "false",
        }
        self.processes: list[Process] = []
        self.ports: list[int] = []
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def start(self, count: int) -> None:
        started = [spawn("serve", "--port", "0", environ=self.environ) for _ in range(count)]
        self.processes += started
        for process in started:
            self.ports.append(await asyncio.to_thread(process.port))

    async def get(self, replica: int, path: str) -> Reply:
        async with self.session.get(f"http://127.0.0.1:{self.ports[replica]}{path}") as response:
            return Reply(response.status, response.headers.copy(), await response.read())

    async def stop(self) -> None:
        await self.session.close()
        for process in self.processes:
            process.process.kill()
            process.process.wait()
            if process.process.stdout is not None:
                process.process.stdout.close()


@pytest.fixture
async def fleet(vendor: MockVendor, real_redis: RealRedis) -> AsyncIterator[Fleet]:
    started = Fleet(vendor, real_redis)
    await started.start(3)
    yield started
    await started.stop()


@pytest.mark.parametrize(("aoi", "status"), [(2, 200), (None, 404)])
async def test_a_thousand_concurrent_misses_are_one_vendor_request(
    fleet: Fleet, vendor: MockVendor, aoi: int | None, status: int
) -> None:
    vendor.set_behaviour(delay=0.5)
    path = f"/v0/aois/{'nobody' if aoi is None else vendor.aoi_ids[aoi]}/assets"
    replies = await asyncio.gather(*(fleet.get(number % 3, path) for number in range(1000)))
    assert {reply.status for reply in replies} == {status}
    assert len(vendor.requests) == 1
    if status == 200:
        assert len({reply.body for reply in replies}) == 1
        assert len({reply.headers["X-Listing-Generation"] for reply in replies}) == 1


async def holder(fleet: Fleet, vendor: MockVendor, path: str) -> tuple[int, asyncio.Task[Any]]:
    """Let one replica hold the lease of a page: its number, and the request that waits for it."""
    leader = asyncio.create_task(fleet.get(0, path))
    await until(lambda: len(vendor.requests) == 1)
    return 0, leader


async def test_followers_survive_the_death_of_the_lease_holder(fleet: Fleet, vendor: MockVendor) -> None:
    path = f"/v0/aois/{vendor.aoi_ids[2]}/assets"
    vendor.set_behaviour(hang=True, times=1)
    replica, leader = await holder(fleet, vendor, path)
    followers = [asyncio.create_task(fleet.get(number, path)) for number in (1, 2) for _ in range(10)]
    await asyncio.sleep(0.5)  # they wait for the lease by now; were they later, they would find it just the same
    began = time.monotonic()
    fleet.processes[replica].process.send_signal(signal.SIGKILL)
    replies = await asyncio.gather(*followers)
    assert {reply.status for reply in replies} == {200}
    # The lease, and a machine that takes its time; who is told by nobody gives up at the deadline, after fifteen.
    assert time.monotonic() - began < 3.0 + 6.0
    assert len(vendor.requests) == 2
    leader.cancel()
    await asyncio.gather(leader, return_exceptions=True)


async def test_a_leader_that_outlives_its_lease_overwrites_nothing(
    fleet: Fleet, vendor: MockVendor, real_redis: RealRedis
) -> None:
    path = "/v0/aois/a1/assets"
    vendor.set_assets("a1", [{"id": "old", "status": "success"}])
    listing = vendor.listing("a1", 0, 10)
    assert listing is not None
    vendor.set_behaviour(garbage=listing.decode(), delay=1.0, times=1)
    replica, leader = await holder(fleet, vendor, path)
    frozen = fleet.processes[replica].process.pid
    os.kill(frozen, signal.SIGSTOP)  # it stands still in the middle of its fetch, and renews nothing
    try:
        vendor.set_assets("a1", [{"id": "new", "status": "success"}])
        reply = await fleet.get(1, path)  # waits for the lease to run out, and fetches
        assert b'"new"' in reply.body
        assert len(vendor.requests) == 2
    finally:
        os.kill(frozen, signal.SIGCONT)
    late = await leader
    assert late.status == 200
    assert b'"old"' in late.body  # its waiters get it
    for number in range(3):
        again = await fleet.get(number, path)
        assert b'"new"' in again.body
        assert again.cache.startswith("hit")
    assert len(vendor.requests) == 2


async def test_a_restart_starts_warm_and_leaves_other_versions_alone(
    fleet: Fleet, vendor: MockVendor, real_redis: RealRedis
) -> None:
    path = f"/v0/aois/{vendor.aoi_ids[2]}/assets"
    async with Redis.from_url(real_redis.url) as raw:
        await raw.set("pixxel-gateway:999:something", "newer")
        first = await fleet.get(0, path)
        await fleet.start(1)
        second = await fleet.get(3, path)
        assert (second.body, second.cache[:3]) == (first.body, "hit")
        assert len(vendor.requests) == 1
        value: Any = await raw.get("pixxel-gateway:999:something")
        assert value == b"newer"
