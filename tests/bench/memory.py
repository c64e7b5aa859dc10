"""Is memory bounded as the operating system sees it? Fills the in-process store three times over, by page size.

Prints what the process grew by, as a share of the bound that it was given.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from entries import address, candidate
from msgspec import structs

from gateway.core.clock import SystemClock
from gateway.storage.memory import MemoryStore

BOUND = 64 << 20
SIZES = (100, 1000, 8800, 59_000, 400_000)


def resident() -> int:
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


def ignore(_: NamedTuple) -> None:
    """No sink."""


async def fill(size: int) -> float:
    clock = SystemClock()
    store = MemoryStore(BOUND, clock, ignore)
    before = resident()
    for number in range(3 * BOUND // (size + 2000)):
        where = address(f"e9767554-550e-4464-a677-{number:012}")
        fetched = candidate(where, now=clock.now() + number / 1000, shows="abcdefghij", body=os.urandom(size))
        gzipped = os.urandom(size // 4) if size > 1024 else None
        fetched = replace(fetched, entry=structs.replace(fetched.entry, gzipped=gzipped, etag=os.urandom(16).hex()))
        await store.put(where, fetched, (await store.get(where)).epoch)
    return (resident() - before) / BOUND


def main() -> None:
    if len(sys.argv) > 1:
        print(f"{asyncio.run(fill(int(sys.argv[1]))):.2f}")
        return
    print(f"{'page bytes':>12}  {'grown by / bound':>16}")
    for size in SIZES:  # each in a process of its own: memory that was freed is not always given back
        told = subprocess.run([sys.executable, __file__, str(size)], capture_output=True, text=True, check=True)
        print(f"{size:>12}  {told.stdout.strip():>16}")


if __name__ == "__main__":
    main()
