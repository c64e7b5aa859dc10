"""What an answer costs: this gateway, nginx, Varnish and a handler of an afternoon, measured in turns on one core.

Servers run on the first core; load, vendor and Redis on the last. Each case is measured in rounds, in which one
contender follows the other, and the medians are told. CPU is what the kernel says of the server's processes, divided by
the answers; a ratio is the median of the rounds' own ratios, which other work on the machine moves least. The table is
Markdown. `--list` tells the cases.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import wrk
from accounting import cpu_seconds
from canned_vendor import Canned
from cases import CASES, Case, Contender
from contenders import TOKEN, Place, Server, canned_vendor, exit_on_sigterm, load_tools, program
from real_redis import RealRedis
from report import HEAD, Run, added_to_the_vendor, machine, table

# What is cached beforehand is asked for twice: some things are done from the second time on only.
_PRIMED_TIMES = 2
_PRIMED_AT_ONCE = 16
# Never asked for again, though wrk counts only what was answered.
_IN_FLIGHT = 1000


class Bench:
    """The servers that run so far, and what is behind them."""

    def __init__(self, stack: ExitStack, place: Place, vendor: Server, redis: RealRedis, load_core: list[int]) -> None:
        self._stack = stack
        self._place = place
        self._vendor = vendor
        self._redis = redis
        self._load_core = load_core
        self._running: dict[tuple[str, bool, int], Server] = {}
        self._primed: set[tuple[int, wrk.Paths, str]] = set()
        self._next: defaultdict[str, int] = defaultdict(int)
        self._canned = Canned()

    async def measure(self, case: Case, who: list[Contender], rounds: int, seconds: float) -> dict[str, list[Run]]:
        """What each contender did in each round, by name."""
        runs: dict[str, list[Run]] = {contender.name: [] for contender in who}
        if case.vendor:
            runs["vendor"] = []
        headers = {}
        for contender in who:
            server = self._server(contender, case)
            headers[contender.name] = await self._prime(case, server)
            # With several workers each has its own memory, and it takes many connections to come to all.
            wrk.warm(server.port, case.paths, headers=headers[contender.name], core=self._load_core)
        for number in range(rounds):
            # There and back again: what drifts during a round hits the last and the first alike.
            for contender in who if number % 2 == 0 else who[::-1]:
                server = self._server(contender, case)
                redis = self._redis if contender.redis else None
                runs[contender.name].append(self._run(case, server, headers[contender.name], seconds, redis))
            if case.vendor:
                runs["vendor"].append(self._run(case, self._vendor, {}, seconds, None))
        return runs

    def _server(self, contender: Contender, case: Case) -> Server:
        key = (contender.name, case.log, case.workers)
        if key not in self._running:
            place = replace(self._place, log=case.log, workers=case.workers)
            self._running[key] = self._stack.enter_context(contender.start(place))
        return self._running[key]

    async def _prime(self, case: Case, server: Server) -> dict[str, str]:
        """Have everything cached that will be asked for, see that the answer is right, and give the headers to ask."""
        wanted, headers = case.primed or case.paths, case.all_headers
        good = headers | {"Authorization": f"Bearer {TOKEN}"}
        key = (server.port, wanted, str(headers.get("Accept-Encoding")))
        connector = aiohttp.TCPConnector(limit=_PRIMED_AT_ONCE)
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{server.port}", connector=connector, skip_auto_headers=["Accept-Encoding"]
        ) as session:

            async def ask(numbers: range, asking: dict[str, str]) -> None:
                for number in numbers:
                    async with session.get(wanted.path(number), headers=asking) as response:
                        await response.read()

            if key not in self._primed and wanted.count:
                self._primed.add(key)
                for _ in range(_PRIMED_TIMES):
                    shares = [range(start, wanted.count, _PRIMED_AT_ONCE) for start in range(_PRIMED_AT_ONCE)]
                    await asyncio.gather(*(ask(share, good) for share in shares))
            path = case.paths.path(self._fresh(case, 1))
            if case.etag:
                async with session.get(path, headers=headers) as response:
                    headers["If-None-Match"] = response.headers["ETag"]
            async with session.get(path, headers=headers) as response:
                told, body = response.status, await response.read()
                coding = response.headers.get("Content-Encoding", "identity")
        assert told == case.status, f"{case.name}: {told} instead of {case.status}"
        assert coding == ("gzip" if "Accept-Encoding" in headers and told == 200 else "identity"), (
            f"{case.name}: {coding}"
        )
        if told == 200:
            aoi, query = path.removeprefix("/v0/aois/").split("/assets?")
            offset, limit = (int(part.partition("=")[2]) for part in query.split("&"))
            assert body == self._canned.page(aoi.encode(), offset, limit), f"{case.name}: another body"
        return headers

    def _fresh(self, case: Case, count: int) -> int:
        """The number of the first path of so many that have not been asked for; 0 where they are to be repeated."""
        if case.paths.count:
            return 0
        first = self._next[case.paths.pattern]
        self._next[case.paths.pattern] += count
        return first

    def _run(self, case: Case, server: Server, headers: dict[str, str], seconds: float, redis: RealRedis | None) -> Run:
        def redis_cpu() -> float:
            return cpu_seconds([redis.pid]) if redis is not None else 0.0

        paths = replace_first(case.paths, self._fresh(case, 0))
        asked, cpu, behind = self._asked(), server.cpu(), redis_cpu()
        measured = wrk.drive(
            server.port, paths, connections=case.connections, seconds=seconds, headers=headers, core=self._load_core
        )
        cpu, behind = server.cpu() - cpu, redis_cpu() - behind
        self._fresh(case, measured.requests + _IN_FLIGHT)
        wrong = measured.broken + (measured.refused if case.status < 400 else measured.requests - measured.refused)
        if not case.vendor:
            wrong += self._asked() - asked  # what was to be a hit and was none
        answers = measured.requests or 1
        return Run(cpu / answers, behind / answers, measured, wrong)

    def _asked(self) -> int:
        """How many pages the vendor was asked for."""
        with urlopen(f"http://127.0.0.1:{self._vendor.port}/asked") as answer:
            return int(answer.read())


def replace_first(paths: wrk.Paths, first: int) -> wrk.Paths:
    """The same paths, from another number on."""
    return wrk.Paths(paths.pattern, paths.count, first, paths.across, paths.teams)


def present(contenders: tuple[Contender, ...], missing: set[str]) -> list[Contender]:
    """Those that can take part; of the others it is told once what they need."""
    there = []
    for contender in contenders:
        if not contender.needs or program(contender.needs):
            there.append(contender)
        elif contender.name not in missing:
            missing.add(contender.name)
            print(f"{contender.name} is left out: apt-get install {contender.package}", flush=True)
    return there


async def run(cases: list[Case], rounds: int, seconds: float) -> None:
    cores = sorted(os.sched_getaffinity(0))
    load_core = cores[-1:]
    os.sched_setaffinity(0, load_core)  # which Redis inherits
    missing: set[str] = set()
    with ExitStack() as stack:
        # Not below a directory that is closed to others: nginx's workers are somebody else.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o711)  # noqa: ASYNC240 - nothing else goes on
        redis = RealRedis(directory)
        redis.start()
        stack.callback(redis.kill)
        vendor = stack.enter_context(canned_vendor(load_core, directory))
        place = Place(cores[:1], directory, f"http://127.0.0.1:{vendor.port}", redis.url)
        bench = Bench(stack, place, vendor, redis, load_core)
        print(machine(seconds, rounds), flush=True)
        print(HEAD, flush=True)
        notes: list[str] = []
        for case in cases:
            who = present(case.who, missing)
            runs = await bench.measure(case, who, rounds, seconds)
            print("\n".join(table(case, runs, base=who[0].name)), flush=True)
            if case.vendor:
                notes += added_to_the_vendor(runs)
    print("\n".join(["", *notes]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each contender in each round")
    parser.add_argument("--list", action="store_true", help="tell the cases")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{case.name:<16}{case.title}" for case in CASES))
        return
    load_tools()
    exit_on_sigterm()
    try:
        asyncio.run(
            run([case for case in CASES if case.name in (given.case or [case.name])], given.rounds, given.seconds)
        )
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
