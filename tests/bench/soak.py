"""Minutes of random faults with a fixed seed: are all bodies right, all errors explained, memory and descriptors flat?

Two gateways around one Redis, clients that never stop asking, and one fault after the other: the vendor fails, hangs,
cuts, trickles, lies, asks for a pause or refuses the key; Redis is stopped, killed or emptied; lists change, AOIs are
purged. Between two faults everything is well for a while.

Every asset tells in its id of which state of its list it is, so a body that is none of the vendor's, or that mixes two
states, is found out. An error is explained when a fault of the vendor's is on, or was a moment ago. `SOAK_SECONDS` and
`SOAK_SEED` change the length and the faults.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from harness import VENDOR_KEY, Process, spawn
from real_redis import RealRedis

from gateway.mock_vendor.server import MockVendor

SECONDS = float(os.environ.get("SOAK_SECONDS", "180"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
CLIENTS = 24
AOIS = 12
FAULT_SECONDS = 4.0
WELL_SECONDS = 4.0
# So long after a fault of the vendor an error may still be its: the deadline, the cooldown, a pause or a held key.
AFTERMATH = 11.0
DEADLINE = 4.0
EXPLAINED = frozenset(
    {
        "upstream_error", "upstream_timeout", "upstream_unreachable", "upstream_invalid", "upstream_rate_limited",
        "upstream_circuit_open", "upstream_auth", "overloaded", "not_found", "upstream_too_large",
    }
)  # fmt: skip


@dataclass
class Findings:
    """What went wrong, and what was seen."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    resident: list[tuple[int, ...]] = field(default_factory=list)
    descriptors: list[tuple[int, ...]] = field(default_factory=list)


class Soak:
    """The cast, and what it does."""

    def __init__(self, redis: RealRedis, vendor: MockVendor, ports: list[int], processes: list[Process]) -> None:
        self.redis = redis
        self.vendor = vendor
        self.ports = ports
        self.processes = processes
        self.chance = random.Random(SEED)
        self.states: dict[str, list[list[dict[str, Any]]]] = {}
        self.aois = [f"aoi-{number}" for number in range(AOIS)]
        self.findings = Findings()
        self.excused_until = 0.0
        self.over = False

    def change(self, aoi: str) -> None:
        """Another state of the list: every asset is another one."""
        states = self.states.setdefault(aoi, [])
        count = self.chance.randrange(0, 60)
        status = self.chance.choice(["success", "started"])
        states.append([{"id": f"{aoi}-{len(states)}-{number}", "status": status} for number in range(count)])
        self.vendor.set_assets(aoi, states[-1])

    async def client(self, session: aiohttp.ClientSession, number: int) -> None:
        chance = random.Random(f"{SEED}/{number}")
        while not self.over:
            aoi, port = chance.choice(self.aois), chance.choice(self.ports)
            offset, limit = chance.choice([0, 0, 10, 20, chance.randrange(60)]), chance.choice([10, 10, 20, 7])
            url = f"http://127.0.0.1:{port}/v0/aois/{aoi}/assets?offset={offset}&limit={limit}"
            began = time.monotonic()
            try:
                async with session.get(url) as response:
                    body, status = await response.read(), response.status
                    told = response.headers.get("Cache-Status", "")
            except aiohttp.ClientError as error:
                self.findings.unexplained.append(f"{type(error).__name__} from the gateway itself")
                continue
            self.findings.seconds.append(time.monotonic() - began)
            if status == 200:
                self.judge(aoi, offset, limit, body, told)
            else:
                self.judge_error(status, body, began)
            await asyncio.sleep(chance.random() * 0.02)

    def judge(self, aoi: str, offset: int, limit: int, body: bytes, told: str) -> None:
        self.findings.answers[told.partition("; ")[2].partition("ttl=")[0] or "?"] += 1
        page = json.loads(body)
        pagination, ids = page["pagination"], [asset["id"] for asset in page["assets"]]
        states = self.states[aoi]
        # The id of any asset names the state; an empty page fits all states that end before it.
        fitting = [states[int(ids[0].split("-")[2])]] if ids else states
        if not any(
            pagination == {"total": len(state), "offset": offset, "limit": limit}
            and ids == [asset["id"] for asset in state[offset : offset + limit]]
            for state in fitting
        ):
            self.findings.wrong.append(f"{aoi} {offset}+{limit}: {body[:200]!r} ({told})")

    def judge_error(self, status: int, body: bytes, began: float) -> None:
        code = json.loads(body)["error"]["code"]
        self.findings.answers[f"{status} {code}"] += 1
        if code not in EXPLAINED or began > self.excused_until:
            self.findings.unexplained.append(f"{status} {code} at {time.monotonic():.1f}")

    async def trouble(self) -> None:
        """One fault after the other, and what must hold between them."""
        faults: list[Any] = [self.vendor_fault] * 5 + [self.redis_fault] * 3 + [self.news] * 2
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            name = await self.chance.choice(faults)()
            print(f"  {SECONDS - (end - time.monotonic()):6.1f} s  {name}", flush=True)
            await asyncio.sleep(WELL_SECONDS)
            self.measure()
        self.over = True

    async def vendor_fault(self) -> str:
        behaviour: dict[str, Any] = self.chance.choice(
            [
                {"status": 500}, {"status": 503}, {"status": 503, "retry_after": 2}, {"status": 429, "retry_after": 2},
                {"hang": True}, {"delay": 1.5}, {"reset_after_bytes": 50}, {"truncate": True}, {"garbage": True},
                {"trickle": True}, {"status": 401}, {"status": 403}, {"gzip_bomb": True}, {"content_type": "text/html"},
                {"status": 302, "redirect_to": "http://127.0.0.1:9/"},
            ]
        )  # fmt: skip
        self.excused_until = time.monotonic() + FAULT_SECONDS + AFTERMATH
        self.vendor.set_behaviour(**behaviour)
        await asyncio.sleep(FAULT_SECONDS)
        self.vendor.reset()
        return f"vendor: {behaviour}"

    async def redis_fault(self) -> str:
        fault = self.chance.choice(["stopped", "killed", "emptied"])
        if fault == "stopped":
            self.redis.signal(signal.SIGSTOP)
            await asyncio.sleep(FAULT_SECONDS)
            self.redis.signal(signal.SIGCONT)
        elif fault == "killed":
            self.redis.kill()
            await asyncio.sleep(FAULT_SECONDS)
            await asyncio.to_thread(self.redis.start)
        else:
            self.redis.flush()
        return f"redis: {fault}"

    async def news(self) -> str:
        aoi = self.chance.choice(self.aois)
        self.change(aoi)
        if self.chance.random() < 0.5:
            return f"another list: {aoi}"
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{self.ports[0]}/admin/purge"
            async with session.post(url, json={"aoi_id": aoi}) as response:
                return f"another list, and a purge ({response.status}): {aoi}"

    def measure(self) -> None:
        pids = [process.process.pid for process in self.processes]
        self.findings.resident.append(tuple(_resident(pid) for pid in pids))
        self.findings.descriptors.append(tuple(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()) for pid in pids))


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


async def soak(redis: RealRedis, processes: list[Process]) -> Findings:
    vendor = MockVendor(key=VENDOR_KEY, aois=0)
    await vendor.start()
    environ = {
        "GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY,
        "GATEWAY_UPSTREAM__DEADLINE": str(DEADLINE), "GATEWAY_UPSTREAM__ATTEMPT_TIMEOUT": "2",
        "GATEWAY_CACHE__URL": redis.url, "GATEWAY_CACHE__LIFETIMES__SETTLED": "3",
        "GATEWAY_CACHE__LIFETIMES__IN_PROGRESS": "1", "GATEWAY_CACHE__LIFETIMES__EMPTY": "1",
        "GATEWAY_CACHE__LIFETIMES__KEEP": "20", "GATEWAY_CACHE__MEMORY_MAX_BYTES": "1000000",
    }  # fmt: skip
    ports = []
    for _ in range(2):
        processes.append(spawn("serve", "--port", "0", environ=environ))
        found = await asyncio.to_thread(processes[-1].wait_for, r"listening.*http://127\.0\.0\.1:(\d+)")
        ports.append(int(found[1]))
        drain_output(processes[-1])
    this = Soak(redis, vendor, ports, processes)
    for aoi in this.aois:
        this.change(aoi)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        clients = [asyncio.create_task(this.client(session, number)) for number in range(CLIENTS)]
        await this.trouble()
        await asyncio.gather(*clients)
    await vendor.stop()
    return this.findings


def drain_output(process: Process) -> None:
    """Read what the process writes, so that it is never held up, and keep nothing of it but tracebacks."""
    stream = process.process.stdout
    assert stream is not None

    def drain() -> None:
        for line in stream:
            if b"Traceback" in line or b"unexpected" in line:
                print(line.decode(), flush=True)

    threading.Thread(target=drain, daemon=True).start()


def report(findings: Findings) -> int:
    """Print what was found; how many things were wrong."""
    print(f"\n{sum(findings.answers.values())} answers")
    for told, count in findings.answers.most_common():
        print(f"{count:>8}  {told}")
    ordered = sorted(findings.seconds)
    print(f"p50 {ordered[len(ordered) // 2] * 1000:.1f} ms, p99 {ordered[len(ordered) * 99 // 100] * 1000:.0f} ms")
    faults = len(findings.wrong) + len(findings.unexplained)
    for what in ("wrong", "unexplained"):
        found = getattr(findings, what)
        print(f"{what}: {len(found)}", *found[:10], sep="\n    ")
    third = max(1, len(findings.resident) // 3)
    for what, scale in (("resident", 1 << 20), ("descriptors", 1)):
        seen = [sum(each) / scale for each in getattr(findings, what)]
        early, late = statistics.median(seen[third : 2 * third]), statistics.median(seen[-third:])
        grown = late / early
        print(f"{what}: {early:.0f} in the second third, {late:.0f} in the last: {grown:.2f}")
        faults += grown > 1.15
    return faults


def main() -> int:
    print(f"{SECONDS:.0f} seconds of faults, seed {SEED}")
    processes: list[Process] = []
    with tempfile.TemporaryDirectory() as directory:
        redis = RealRedis(Path(directory))
        redis.start()
        try:
            findings = asyncio.run(soak(redis, processes))
        finally:
            for process in processes:
                process.process.kill()
                process.process.wait()
            redis.kill()
    return 1 if report(findings) else 0


if __name__ == "__main__":
    sys.exit(main())
