"""What each fault costs the clients: p50, p99, errors and vendor calls, in a table that can be pasted.

One gateway with Redis, 20 pages that are cached and then expire, 16 clients that ask for them all the time; or that
ask for pages which nobody has. Each fault is on for the whole of its row; between rows the gateway has time to be well.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from harness import VENDOR_KEY, Process, spawn
from real_redis import RealRedis

from gateway.mock_vendor.server import MockVendor

SECONDS = 6.0
WELL_SECONDS = 12.0
CLIENTS = 16
PAGES = 20
LIFETIME = 2.0
KEEP = 60.0


class Row(NamedTuple):
    """One fault, how it is brought on, and how it ends. `cold` rows ask for pages that nobody has."""

    name: str
    begin: Callable[[], None]
    end: Callable[[], None]
    cold: bool = False


class Bench:
    """The gateway, what is behind it, and who asks."""

    def __init__(self, vendor: MockVendor, redis: RealRedis, port: int) -> None:
        self.vendor = vendor
        self.redis = redis
        known, large = vendor.aoi_ids[0], vendor.aoi_ids[3]
        vendor.set_assets(known, [{"id": str(number), "status": "success"} for number in range(PAGES)])
        vendor._catalogue.set_count(large, 1_000_000)
        self.url = f"http://127.0.0.1:{port}/v0/aois/{known}/assets"
        self.cold_url = f"http://127.0.0.1:{port}/v0/aois/{large}/assets"
        self._next = 0

    def rows(self) -> list[Row]:
        def vendor(name: str, *, cold: bool = False, **behaviour: Any) -> Row:
            return Row(name, lambda: self.vendor.set_behaviour(**behaviour), self.vendor.reset, cold)

        def redis(name: str, begin: Callable[[], None], end: Callable[[], None]) -> Row:
            return Row(name, begin, end)

        def nothing() -> None:
            """All is well."""

        return [
            Row("none", nothing, nothing),
            Row("none, pages that nobody has", nothing, nothing, cold=True),
            vendor("vendor answers 500", status=500),
            vendor("vendor answers 500, pages that nobody has", cold=True, status=500),
            vendor("vendor hangs", hang=True),
            vendor("vendor hangs, pages that nobody has", cold=True, hang=True),
            vendor("vendor takes 500 ms", delay=0.5),
            vendor("vendor cuts its answers", reset_after_bytes=100),
            vendor("vendor sends HTML", garbage="<html>"),
            vendor("vendor answers 429, Retry-After: 2", status=429, retry_after=2),
            vendor("vendor refuses the key", status=401),
            redis(
                "Redis stopped",
                lambda: self.redis.signal(signal.SIGSTOP),
                lambda: self.redis.signal(signal.SIGCONT),
            ),
            redis("Redis killed", self.redis.kill, self.redis.start),
            redis("Redis emptied", self.redis.flush, nothing),
        ]

    async def ask(self, session: aiohttp.ClientSession, number: int, *, cold: bool) -> tuple[float, str]:
        url = self.url
        if cold:
            self._next += 2
            url, number = self.cold_url, self._next
        began = time.monotonic()
        async with session.get(f"{url}?offset={number}&limit=1") as response:
            await response.read()
            told = "200" if response.status == 200 else f"{response.status}"
        return time.monotonic() - began, told

    async def run(self, session: aiohttp.ClientSession, row: Row) -> str:
        until = time.monotonic() + SECONDS
        seconds: list[float] = []
        statuses: Counter[str] = Counter()

        async def client(first: int) -> None:
            number = first
            while time.monotonic() < until:
                number += 1
                took, status = await self.ask(session, number % PAGES, cold=row.cold)
                seconds.append(took)
                statuses[status] += 1
                await asyncio.sleep(0.02)

        self.vendor.requests.clear()
        await asyncio.to_thread(row.begin)
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
        calls = len(self.vendor.requests)
        await asyncio.to_thread(row.end)
        ordered = sorted(seconds)
        p50, p99 = (ordered[len(ordered) * share // 100] * 1000 for share in (50, 99))
        errors = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()) if status != "200") or "0"
        return f"| {row.name} | {len(seconds)} | {p50:.1f} ms | {p99:.0f} ms | {errors} | {calls} |"

    async def recover(self, session: aiohttp.ClientSession) -> None:
        """Until each page is answered again, after whatever the vendor or the breaker wanted first."""
        await asyncio.sleep(1.0)
        until = time.monotonic() + WELL_SECONDS
        well = 0
        while well < PAGES and time.monotonic() < until:
            cold = (await self.ask(session, 0, cold=True))[1]
            warm = (await self.ask(session, well, cold=False))[1]
            well = well + 1 if cold == warm == "200" else 0
            await asyncio.sleep(0 if well else 0.2)


async def measure(redis: RealRedis, processes: list[Process]) -> None:
    vendor = MockVendor(key=VENDOR_KEY)
    await vendor.start()
    environ = {
        "GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY,
        "GATEWAY_CACHE__URL": redis.url, "GATEWAY_CACHE__LIFETIMES__SETTLED": str(LIFETIME),
        "GATEWAY_CACHE__LIFETIMES__EMPTY": str(LIFETIME), "GATEWAY_CACHE__LIFETIMES__GRACE": "0",
        "GATEWAY_CACHE__LIFETIMES__KEEP": str(KEEP), "GATEWAY_CACHE__PREFETCH": "0",
        "GATEWAY_UPSTREAM__ATTEMPT_TIMEOUT": "1", "GATEWAY_UPSTREAM__DEADLINE": "2.5",
        "GATEWAY_UPSTREAM__PATIENCE": "0.5", "GATEWAY_LOG__ACCESS": "false",
    }  # fmt: skip
    processes.append(spawn("serve", "--port", "0", environ=environ))
    found = await asyncio.to_thread(processes[0].wait_for, r"listening.*http://127\.0\.0\.1:(\d+)")
    bench = Bench(vendor, redis, int(found[1]))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await bench.recover(session)
        print(f"{CLIENTS} clients, {SECONDS:.0f} s each; pages live {LIFETIME:.0f} s")
        print("an attempt may take 1 s, patience is 0.5 s, the deadline 2.5 s")
        print("| fault | requests | p50 | p99 | errors | vendor calls |")
        print("|---|---|---|---|---|---|")
        for row in bench.rows():
            print(await bench.run(session, row), flush=True)
            await bench.recover(session)
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
