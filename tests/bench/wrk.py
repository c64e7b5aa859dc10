"""Load by wrk, from a core of its own, and what it measured."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

_SCRIPT = Path(__file__).with_name("wrk.lua")


class Measured(msgspec.Struct, frozen=True):
    """One run: times in seconds; `refused` counts answers of 400 and above, `broken` those that never came."""

    requests: int
    seconds: float
    p50: float
    p99: float
    longest: float
    broken: int
    refused: int


class Paths(msgspec.Struct, frozen=True):
    """The paths to ask for in turn: `pattern` with the numbers from `first` on; a `count` of 0 never repeats one.

    With `across`, a pattern has two places: the number's rest by it, and how often it goes into the number. With
    `teams`, each request has the token of the next one.
    """

    pattern: str
    count: int
    first: int = 0
    across: int = 0
    teams: int = 0

    def path(self, number: int) -> str:
        """One of them."""
        return self.pattern % ((number % self.across, number // self.across) if self.across else number)


# A request that repeats is known to everybody after so many times.
_KNOWN_AFTER = 3
_WARM_SECONDS, _MOST_WARMED = 2, 20


def warm(port: int, paths: Paths, *, headers: Mapping[str, str], core: Sequence[int]) -> None:
    """Ask for each path a few times with these very bytes, unless they never repeat, or that takes too long."""
    left = _KNOWN_AFTER * paths.count * max(1, paths.teams)
    for _ in range(_MOST_WARMED):
        if left <= 0:
            return
        left -= drive(port, paths, connections=32, seconds=_WARM_SECONDS, headers=headers, core=core).requests


def drive(
    port: int,
    paths: Paths,
    *,
    connections: int,
    seconds: float,
    headers: Mapping[str, str],
    core: Sequence[int],
) -> Measured:
    """Keep so many connections busy for so long. Raises CalledProcessError when wrk fails."""
    told = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    one = paths.count == 1 and not paths.teams
    many = [] if one else ["--", paths.pattern, *map(str, (paths.count, paths.first, paths.across, paths.teams))]
    command = [
        "taskset", "-c", ",".join(map(str, core)), "wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds:.0f}s",
        "-s", str(_SCRIPT), *told, f"http://127.0.0.1:{port}{paths.path(paths.first) if one else '/'}", *many,
    ]  # fmt: skip
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    return msgspec.json.decode(out.rpartition("JSON ")[2], type=Measured)
