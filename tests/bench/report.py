"""What was measured, as a table in Markdown."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cases import Case
from contenders import program
from real_redis import binary
from wrk import Measured

_TENTH_MICRO = 1e-7

HEAD = """
| case | server | CPU per request | gateway : this | requests/s | p50 | p99 |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Run:
    """One round of one contender: CPU seconds by request, its own and Redis', and what wrk saw."""

    cpu: float
    redis: float
    seen: Measured
    wrong: int


def table(case: Case, runs: dict[str, list[Run]], *, base: str) -> list[str]:
    """The rows of a case; ratios are of the CPU of `base` to that of each other."""
    rows, title = [], case.title
    for name, those in runs.items():
        cpu = f"{_micro(those, lambda run: run.cpu)} µs"
        if _median(those, lambda run: run.redis) >= _TENTH_MICRO:
            cpu += f" + {_micro(those, lambda run: run.redis)} µs in Redis"
        ratio = "" if name == base else f"{_ratio(runs[base], those):.2f}"
        rate = _median(those, lambda run: run.seen.requests / run.seen.seconds)
        p50, p99 = (_time(_median(those, pick)) for pick in (lambda run: run.seen.p50, lambda run: run.seen.p99))
        wrong = sum(run.wrong for run in those)
        note = f" ({wrong} wrong)" if wrong else ""
        rows.append(f"| {title} | {name}{note} | {cpu} | {ratio} | {rate:,.0f} | {p50} | {p99} |")
        title = ""
    return rows


def added_to_the_vendor(runs: dict[str, list[Run]]) -> list[str]:
    """What each adds to the vendor's own time."""
    alone = _median(runs["vendor"], lambda run: run.seen.p50)
    return [
        f"Added to the vendor's own time at p50 ({_time(alone)}) by a miss: "
        + ", ".join(
            f"{name} {_time(_median(those, lambda run: run.seen.p50) - alone)}"
            for name, those in runs.items()
            if name != "vendor"
        )
        + "."
    ]


def machine(seconds: float, rounds: int) -> str:
    """What it ran on, in one line."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    cores = re.findall(r"^processor", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    versions = [
        f"Python {platform.python_version()}",
        *(f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "uvloop", "redis")),
        *(_version(name, flag) for name, flag in (("nginx", "-v"), ("varnishd", "-V"), ("wrk", "-v"))),
        _version(binary(), "--version"),
    ]
    return (
        f"{len(cores)} cores of {model[1] if model else platform.machine()}, Linux {platform.release()}, "
        f"{', '.join(version for version in versions if version)}; medians of {rounds} rounds of {seconds:.0f} s."
    )


def _version(name: str, flag: str) -> str:
    if (path := program(name)) is None:
        return ""
    told = subprocess.run([path, flag], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\d.]*", told.stdout + told.stderr)
    return f"{Path(path).name} {found[0] if found else '?'}"


def _median(runs: list[Run], pick: Callable[[Run], float]) -> float:
    return statistics.median(map(pick, runs))


def _ratio(base: list[Run], others: list[Run]) -> float:
    return statistics.median(one.cpu / other.cpu for one, other in zip(base, others, strict=True))


def _micro(runs: list[Run], pick: Callable[[Run], float]) -> str:
    return f"{_median(runs, pick) * 1e6:.1f}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
