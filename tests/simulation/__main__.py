"""Run schedules: `python -m simulation --seeds 0-999`, or one that was printed: `--seeds 17 --keep 0,4,9`."""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from simulation.oracle import DECISIONS
from simulation.schedule import Schedule, schedule
from simulation.world import Result, simulate

# So many runs are enough for every pair of `FAULTS` and `DECISIONS` to meet.
ENOUGH = 360
FAULTS = (
    "change", "clock", "cut", "emptied", "evicted", "failover", "full", "half-open", "hang", "kill", "leave", "limits",
    "partition", "purge", "restart", "soft purge", "spikes", "vendor error", "vendor hang", "vendor pause",
    "vendor reset",
)  # fmt: skip
# Pairs that cannot meet, but for an accident. A page is in grace three seconds after its fetch at the earliest. These
# faults leave no copies to a replica, and are over for the oracle when what was fetched after them is so old.
EXCLUDED = {(fault, "grace") for fault in ("cut", "emptied", "evicted", "failover", "restart")}

Numbers = tuple[Counter[tuple[str, str]], Counter[str], int]


def with_events(plan: Schedule, kept: Iterable[int]) -> Schedule:
    """The schedule with these of its events alone."""
    wanted = set(kept)
    return dataclasses.replace(
        plan, events=tuple(event for number, event in enumerate(plan.events) if number in wanted)
    )


def shrink(plan: Schedule, invariant: str) -> list[int]:
    """The numbers of as few events as still violate the invariant."""
    kept = list(range(len(plan.events)))
    size = max(1, len(kept) // 2)
    while True:
        start = 0
        while start < len(kept):
            fewer = kept[:start] + kept[start + size :]
            found = simulate(with_events(plan, fewer)).violation
            if found is not None and found.invariant == invariant:
                kept = fewer
            else:
                start += size
        if size == 1:
            return kept
        size = max(1, size // 2)


def report(result: Result) -> str:
    """A failing run as text: its shrunk schedule, what was answered, and how to see it again."""
    assert result.violation is not None
    plan = result.plan
    kept = shrink(plan, result.violation.invariant)
    small = with_events(plan, kept)
    last = simulate(small)
    again = f"python -m simulation --seeds {plan.seed} --keep {','.join(map(str, kept))}"
    return "\n".join(
        [
            f"seed {plan.seed}: {result.violation}",
            f"clocks are off by {plan.skews}, Redis' by {plan.redis_skew}",
            f"{len(kept)} of {len(plan.events)} events remain:",
            *(f"  {event}" for event in small.events),
            "answers:",
            *(f"  {line}" for line in last.trace),
            f"  -> {last.violation}",
            f"again (in tests/): {again}",
        ]
    )


def numbers_of(result: Result) -> Numbers:
    """How often what met what."""
    return result.oracle.met, result.oracle.decisions, result.oracle.replayed


def table(met: Counter[tuple[str, str]], decisions: Counter[str]) -> str:
    """How often each kind of fault met each kind of decision."""
    width = max(map(len, FAULTS)) + 2
    head = " " * width + "".join(f"{kind:>12}" for kind in DECISIONS)
    rows = [f"{fault:<{width}}" + "".join(f"{met[fault, kind]:>12}" for kind in DECISIONS) for fault in FAULTS]
    total = f"{'all':<{width}}" + "".join(f"{decisions[kind]:>12}" for kind in DECISIONS)
    return "\n".join([head, *rows, total])


def never_met(met: Counter[tuple[str, str]]) -> list[str]:
    """Pairs of a kind of fault and a kind of decision that did not meet once, and should have."""
    return [
        f"{fault} / {kind}" for fault in FAULTS for kind in DECISIONS
        if not met[fault, kind] and (fault, kind) not in EXCLUDED
    ]  # fmt: skip


def _run(seed: int) -> tuple[int, str | None, Numbers]:
    result = simulate(schedule(seed))
    return seed, None if result.violation is None else str(result.violation), numbers_of(result)


def run(seeds: Sequence[int], processes: int) -> tuple[list[tuple[int, str]], Numbers]:
    """Run these seeds; what failed, and the sums of what met what."""
    failed: list[tuple[int, str]] = []
    met: Counter[tuple[str, str]] = Counter()
    decisions: Counter[str] = Counter()
    replayed = 0
    context = multiprocessing.get_context("fork")
    with context.Pool(processes, maxtasksperchild=100) as pool:
        for seed, violation, numbers in pool.imap_unordered(_run, seeds, chunksize=4):
            met += numbers[0]
            decisions += numbers[1]
            replayed += numbers[2]
            if violation is not None:
                failed.append((seed, violation))
                print(f"seed {seed}: {violation}", flush=True)
    return sorted(failed), (met, decisions, replayed)


def parse_seeds(text: str) -> list[int]:
    """`3`, `0-99` or `1,5,20-29`."""
    seeds: list[int] = []
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", default="0-999", help="seeds, such as 7 or 0-999")
    parser.add_argument("--keep", help="keep only these events of one seed, by number")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    seeds = parse_seeds(arguments.seeds)
    if len(seeds) == 1:
        plan = schedule(seeds[0])
        if arguments.keep is not None:
            plan = with_events(plan, map(int, filter(None, arguments.keep.split(","))))
        result = simulate(plan)
        if result.violation is not None:
            print(report(result))
            return 1
        print("\n".join(result.trace))
        return 0
    began = time.monotonic()
    failed, (met, decisions, replayed) = run(seeds, arguments.processes)
    print(table(met, decisions))
    took = time.monotonic() - began
    print(f"{len(seeds)} runs in {took:.0f} s; {replayed} answers by the fast path; {len(failed)} failed")
    for seed, _ in failed[:3]:
        print(report(simulate(schedule(seed))))
    missing = never_met(met) if len(seeds) >= ENOUGH else []
    if missing:
        print("never met: " + ", ".join(missing))
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
