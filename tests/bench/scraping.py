"""Do scrapes of /metrics stall requests? The longest answer on the hit path, without scrapes and between them.

200 teams are configured, and each has asked for something. Pages are asked for on one connection, one after the other;
scrapes, on another, as fast as they are answered. Both by wrk, whose own pauses are short. Of the rounds' longest
answers the shortest is told: what scrapes do is in every round, what else the machine does is not.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import wrk
from cases import FILLED, SMALL
from contenders import Place, exit_on_sigterm, gateway, load_tools

TEAMS = 200
ROUNDS, SECONDS = 7, 2
_METRICS = wrk.Paths("/metrics?%d", count=1)


def main() -> None:
    load_tools()
    exit_on_sigterm()
    cores = sorted(os.sched_getaffinity(0))
    core = cores[-1:]
    paths = wrk.Paths(f"/v0/aois/{FILLED}/assets?{SMALL}", count=100, teams=TEAMS)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(
            gateway(Place(cores[:1], directory, "http://127.0.0.1:9", ""), teams=TEAMS, filled=100)
        )

        def ask(*, scraped: bool) -> tuple[wrk.Measured, int]:
            scrapes: list[wrk.Measured] = []

            def scrape() -> None:
                scrapes.append(wrk.drive(server.port, _METRICS, connections=1, seconds=SECONDS, headers={}, core=core))

            scraper = threading.Thread(target=scrape)
            if scraped:
                scraper.start()
            seen = wrk.drive(server.port, paths, connections=1, seconds=SECONDS, headers={}, core=core)
            if scraped:
                scraper.join()
            assert not seen.refused
            assert not any(one.refused for one in scrapes)
            return seen, sum(one.requests for one in scrapes)

        ask(scraped=False)  # so that every team has its series
        with urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
            size = len(answer.read())
        rounds = [(ask(scraped=False), ask(scraped=True)) for _ in range(ROUNDS)]
    print(f"{TEAMS} teams, a scrape has {size / 1000:.0f} KB; {ROUNDS} rounds of {SECONDS} s")
    print("| | requests | p50 | p99 | shortest longest |")
    print("|---|---|---|---|---|")
    without, scraped = zip(*rounds, strict=True)
    scrapes = statistics.median(count for _, count in scraped)
    longest = []
    for name, column in (("no scrapes", without), (f"{scrapes / SECONDS:.0f} scrapes per second", scraped)):
        seen = [one for one, _ in column]
        p50, p99 = statistics.median(one.p50 for one in seen), statistics.median(one.p99 for one in seen)
        longest.append(min(one.longest for one in seen))
        times = " | ".join(f"{seconds * 1e3:.2f} ms" for seconds in (p50, p99, longest[-1]))
        print(f"| {name} | {statistics.median(one.requests for one in seen):.0f} | {times} |")
    print(f"the longest answer between scrapes takes {(longest[1] - longest[0]) * 1e3:.1f} ms more")


if __name__ == "__main__":
    main()
