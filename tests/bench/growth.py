"""Does a hit cost the same however much there is? By pages in memory, and by teams, as CPU beside the smallest.

Pages are asked for in two ways: the same hundred whatever else there is, which tells of look-ups and tables; and all in
turn, which tells of the processor's caches as well, as soon as pages are more than those hold. Teams take turns with
their tokens. Everything runs at the same time, and is measured in turns.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import wrk
from cases import FILLED, SMALL
from contenders import Place, Server, exit_on_sigterm, gateway, load_tools

PAGES = (100, 1000, 10_000, 100_000)
# With each team's token a page is another request: what is asked for has to be known before it is measured.
MOST_IN_TURN = 10_000
TEAMS, PAGES_OF_TEAMS = (1, 200), 10
ROUNDS, SECONDS = 3, 2
FEW = 100


@dataclass(frozen=True)
class Row:
    """One measurement: who is asked, for how many pages, as how many teams."""

    name: str
    server: Server
    pages: int
    teams: int = 1


def main() -> None:
    load_tools()
    exit_on_sigterm()
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = Place(cores[:1], directory, "http://127.0.0.1:9", "")
        rows: list[Row] = []
        for pages in PAGES:
            server = stack.enter_context(gateway(place, filled=pages))
            rows.append(Row(f"{FEW} of {pages:,} pages", server, FEW))
            if FEW < pages <= MOST_IN_TURN:
                rows.append(Row(f"all of {pages:,} pages in turn", server, pages))
        for teams in TEAMS:
            server = stack.enter_context(gateway(place, filled=FEW, teams=teams))
            rows.append(Row(f"{PAGES_OF_TEAMS} pages, {teams} teams in turn", server, PAGES_OF_TEAMS, teams))
        for row in rows:
            wrk.warm(row.server.port, paths(row), headers={}, core=cores[-1:])
        costs: dict[Row, list[float]] = {row: [] for row in rows}
        for number in range(ROUNDS):
            for row in rows if number % 2 == 0 else rows[::-1]:
                costs[row].append(cost(row, cores[-1:]))
    print(f"hits of 8.8 KB; medians of {ROUNDS} rounds of {SECONDS} s")
    print("| asked for | CPU per request | beside the first |")
    print("|---|---|---|")
    for row in rows:
        base = costs[rows[0] if row.teams == 1 and "team" not in row.name else rows[-len(TEAMS)]]
        ratio = statistics.median(mine / its for mine, its in zip(costs[row], base, strict=True))
        print(f"| {row.name} | {statistics.median(costs[row]) * 1e6:.1f} µs | {ratio:.2f} |")


def paths(row: Row) -> wrk.Paths:
    """What is asked for in a row."""
    return wrk.Paths(f"/v0/aois/{FILLED}/assets?{SMALL}", count=row.pages, teams=row.teams)


def cost(row: Row, load_core: list[int]) -> float:
    """CPU seconds of one answer. Raises SystemExit when something else than hits was measured."""
    before = row.server.cpu()
    seen = wrk.drive(row.server.port, paths(row), connections=32, seconds=SECONDS, headers={}, core=load_core)
    if seen.refused or seen.broken:
        sys.exit(f"{row.name}: {seen.refused + seen.broken} of {seen.requests} answers were none")
    return (row.server.cpu() - before) / seen.requests


if __name__ == "__main__":
    main()
