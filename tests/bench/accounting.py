"""CPU time as the kernel accounts for it: /proc/PID/stat of a process with all its threads, and of its children."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for found in Path("/proc").glob("[0-9]*/stat"):
        if (fields := _fields(found)) is not None:
            parents.setdefault(int(fields[1]), []).append(int(found.parent.name))
    pids = [pid]
    for one in pids:  # which grows on the way
        pids += parents.get(one, [])
    return pids


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of these processes so far, in seconds; those that have ended count as nothing."""
    told = (_fields(Path(f"/proc/{pid}/stat")) for pid in pids)
    return sum(int(fields[11]) + int(fields[12]) for fields in told if fields is not None) / _TICKS


def _fields(stat: Path) -> list[str] | None:
    """What follows the command's name, which may hold blanks and brackets (proc_pid_stat(5)): state, ppid, …"""
    try:
        return stat.read_text(encoding="ascii", errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None
