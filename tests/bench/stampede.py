"""Vendor calls per page and lifetime, when everybody asks at once: three gateways, one Redis, herds of clients.

The vendor takes 300 ms an answer. Each round begins when every page has expired, and sends a herd for each page, spread
over the gateways. 1.00 is what there is to reach; a cache without coalescing has a call for each client of a herd.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from harness import VENDOR_KEY, Process, spawn
from real_redis import RealRedis

from gateway.mock_vendor.server import MockVendor

GATEWAYS = 3
PAGES = 5
HERD = 150  # clients for each page
ROUNDS = 6
LIFETIME = 3.0


async def herd(session: aiohttp.ClientSession, ports: list[int], paths: list[str]) -> int:
    """Ask for each page with each client at once; how many did not get 200."""

    async def ask(number: int, path: str) -> int:
        async with session.get(f"http://127.0.0.1:{ports[number % GATEWAYS]}{path}") as response:
            await response.read()
            return response.status

    statuses = await asyncio.gather(*(ask(number, path) for number in range(HERD) for path in paths))
    return sum(status != 200 for status in statuses)


async def measure(redis: RealRedis, processes: list[Process]) -> None:
    vendor = MockVendor(key=VENDOR_KEY)
    await vendor.start()
    vendor.set_behaviour(delay=0.3)
    environ = {
        "GATEWAY_UPSTREAM__BASE_URL": vendor.url,
        "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY,
        "GATEWAY_CACHE__URL": redis.url,
        "GATEWAY_CACHE__LIFETIMES__SETTLED": str(LIFETIME),
        "GATEWAY_CACHE__LIFETIMES__GRACE": "0",
        "GATEWAY_CACHE__LIFETIMES__JITTER": "0",
        "GATEWAY_LOG__ACCESS": "false",
    }
    ports = []
    for _ in range(GATEWAYS):
        processes.append(spawn("serve", "--port", "0", environ=environ))
        found = await asyncio.to_thread(processes[-1].wait_for, r"listening.*http://127\.0\.0\.1:(\d+)")
        ports.append(int(found[1]))
    paths = [f"/v0/aois/{vendor.aoi_ids[2]}/assets?offset={number}" for number in range(PAGES)]
    print(f"{'round':>6}  {'requests':>8}  {'failed':>6}  {'vendor calls':>12}  {'per page and lifetime':>21}")
    total = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for number in range(ROUNDS):
            vendor.requests.clear()
            failed = await herd(session, ports, paths)
            calls = len(vendor.requests)
            total += calls
            print(f"{number + 1:>6}  {HERD * PAGES:>8}  {failed:>6}  {calls:>12}  {calls / PAGES:>21.2f}", flush=True)
            await asyncio.sleep(LIFETIME + 0.5)
    print(f"{'all':>6}  {HERD * PAGES * ROUNDS:>8}  {'':>6}  {total:>12}  {total / PAGES / ROUNDS:>21.2f}")
    await vendor.stop()


def main() -> None:
    processes: list[Process] = []
    with tempfile.TemporaryDirectory() as directory:
        redis = RealRedis(Path(directory))
        redis.start()
        try:
            asyncio.run(measure(redis, processes))
        finally:
            for process in processes:
                process.process.kill()
                process.process.wait()
            redis.kill()


if __name__ == "__main__":
    main()
