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
