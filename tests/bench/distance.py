"""What a miss costs when the vendor is far away: this gateway and nginx with `keepalive`, in one run.

The vendor speaks TLS, behind a relay that delays each direction by 25 ms: a call on a new connection takes three round
trips, one on a kept connection takes one. Misses are requested one after the other, and forty at once, twice. Servers
run on the first core; load, vendor and relay on the last. `--target` exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import trustme

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from contenders import TOKEN, Place, Server, canned_vendor, exit_on_sigterm, free_port, gateway, nginx, program

HERE = Path(__file__).parent
BURST = 40
# More than the longest time for which a connection must be quiet, and less than it is kept.
PAUSE = 1.0
MOST_TIME = 1.1
MOST_NEW = 12


@dataclass
class Measured:
    """Misses of one kind: seconds of each, seconds of all in each round, connections of the rounds, CPU seconds."""

    each: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)
    cpu: float = 0.0

    def row(self, name: str, kind: str, base: Measured) -> str:
        """A line of the table; the ratio is of the time that a round takes to that of `base`."""
        p99 = statistics.quantiles(self.each, n=100, method="inclusive")[98]
        ratio = statistics.median(self.rounds) / statistics.median(base.rounds)
        return (
            f"| {kind} | {name} | {statistics.median(self.each) * 1e3:.1f} ms | {p99 * 1e3:.1f} ms | {ratio:.2f} "
            f"| {statistics.median(self.connections):.0f} | {self.cpu / len(self.each) * 1e6:,.0f} µs |"
        )


class Relayed:
    """The way to the vendor."""

    def __init__(self, stack: ExitStack, core: list[int], vendor: Server, delay: float, directory: Path) -> None:
        self._counter_port, port = free_port(), free_port()
        command = [
            sys.executable, str(HERE / "delaying_relay.py"), "--port", str(port), "--to", str(vendor.port),
            "--delay", str(delay), "--counter-port", str(self._counter_port),
        ]  # fmt: skip
        stack.enter_context(Server(command, port, core, directory / "relay.log"))
        self.port = port

    def connections(self) -> int:
        """Return how many have been made so far."""
        with socket.create_connection(("127.0.0.1", self._counter_port)) as counter:
            return int(counter.recv(32))


class Bench:
    """Requests pages that were never requested before."""

    def __init__(self, relay: Relayed) -> None:
        self._relay = relay
        self._number = 0

    async def sequential(self, server: Server, count: int, into: Measured) -> None:
        """Request one page after the other."""
        await self._measure(server, into, count, at_once=1)

    async def burst(self, server: Server, into: Measured) -> None:
        """Request forty pages at once."""
        await self._measure(server, into, BURST, at_once=BURST)

    async def _measure(self, server: Server, into: Measured, count: int, at_once: int) -> None:
        before, cpu = self._relay.connections(), server.cpu()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}", connector=connector) as session:
            began = time.perf_counter()
            for _ in range(count // at_once):
                into.each += await asyncio.gather(*(self._miss(session) for _ in range(at_once)))
            into.rounds.append(time.perf_counter() - began)
        into.connections.append(self._relay.connections() - before)
        into.cpu += server.cpu() - cpu

    async def _miss(self, session: aiohttp.ClientSession) -> float:
        self._number += 1
        aoi_id = f"far-{self._number}"
        began = time.perf_counter()
        path = f"/v0/aois/{aoi_id}/assets?offset=0&limit=10"
        async with session.get(path, headers={"Authorization": f"Bearer {TOKEN}"}) as response:
            body = await response.read()
            assert response.status == 200, body
            assert f'"{aoi_id}"'.encode() in body
        return time.perf_counter() - began


async def run(rounds: int, count: int, delay: float) -> bool:
    """Measure and print; return whether the targets were met."""
    cores = sorted(os.sched_getaffinity(0))
    load_core = cores[-1:]
    os.sched_setaffinity(0, load_core)
    starts: dict[str, Callable[[Place], Server]] = {"gateway": gateway, "nginx": nginx}
    kinds = ("one after the other", "forty at once", "forty more a second later")
    found = {(name, kind): Measured() for name in starts for kind in kinds}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o711)  # noqa: ASYNC240 - nothing else goes on; nginx's workers are another user
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "vendor.pem"))
        vendor = stack.enter_context(canned_vendor(load_core, directory, directory / "vendor.pem"))
        relay = Relayed(stack, load_core, vendor, delay, directory)
        bench = Bench(relay)
        place = Place(cores[:1], directory, f"https://127.0.0.1:{relay.port}", "", ca=directory / "ca.pem")
        for number in range(rounds):
            for name in list(starts) if number % 2 == 0 else list(starts)[::-1]:
                with starts[name](place) as server:  # each round begins without a connection
                    await bench.sequential(server, count, found[name, kinds[0]])
                    await asyncio.sleep(PAUSE)
                    await bench.burst(server, found[name, kinds[1]])
                    await asyncio.sleep(PAUSE)
                    await bench.burst(server, found[name, kinds[2]])
    print(f"{count} misses one after the other, then twice {BURST} at once; medians of {rounds} rounds.\n")
    print(
        "| misses | server | median | p99 | time : nginx | connections | CPU per miss |\n|---|---|---|---|---|---|---|"
    )
    for kind in kinds:
        for name in starts:
            print(found[name, kind].row(name, kind, found["nginx", kind]))
    sequential = [statistics.median(found[name, kinds[0]].rounds) for name in ("gateway", "nginx")]
    new = max(found["gateway", kinds[2]].connections)
    met = sequential[0] <= MOST_TIME * sequential[1] and new <= MOST_NEW
    print(
        f"\nTargets: {sequential[0] / sequential[1]:.3f} of nginx's time (at most {MOST_TIME}), "
        f"{new} new connections for forty more (at most {MOST_NEW}): {'met' if met else 'missed'}."
    )
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=100, help="misses one after the other in each round")
    parser.add_argument("--delay", type=float, default=0.025, help="seconds for each direction")
    parser.add_argument("--target", action="store_true", help="exit with 1 where a target is missed")
    given = parser.parse_args()
    if not sys.platform.startswith("linux") or program("nginx") is None:
        sys.exit("this needs Linux, whose /proc tells CPU time, and nginx: apt-get install nginx-light")
    exit_on_sigterm()
    met = asyncio.run(run(given.rounds, given.count, given.delay))
    if given.target and not met:
        sys.exit(1)


if __name__ == "__main__":
    main()
