"""How long a start takes: from the command to the first page, and beside what it takes Python to import aiohttp.

The vendor is asked for that page, so this is the whole way. In leases, and the medians; the first round, in which byte
code and files are read for the first time, does not count.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import Request, urlopen

from cases import filled_aoi
from contenders import TOKEN, Place, canned_vendor, exit_on_sigterm, gateway

ROUNDS = 7


def start(place: Place) -> tuple[float, float]:
    """Seconds to the first page by the clock, and of CPU."""
    began = time.monotonic()
    with gateway(place) as server:
        url = f"http://127.0.0.1:{server.port}/v0/aois/{filled_aoi(0)}/assets"
        with urlopen(Request(url, headers={"Authorization": f"Bearer {TOKEN}"})) as answer:
            assert answer.status == 200
            answer.read()
        return time.monotonic() - began, server.cpu()


def import_aiohttp() -> float:
    """Seconds by the clock."""
    began = time.monotonic()
    subprocess.run(["taskset", "-c", "0", sys.executable, "-c", "import aiohttp"], check=True)
    return time.monotonic() - began


def main() -> None:
    exit_on_sigterm()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name, canned_vendor(cores[-1:], Path(name)) as vendor:
        place = Place(cores[:1], Path(name), f"http://127.0.0.1:{vendor.port}", "")
        took = [(*start(place), import_aiohttp()) for _ in range(ROUNDS)][1:]
    wall, cpu, aiohttp = (statistics.median(column) for column in zip(*took, strict=True))
    ratio = statistics.median(row[0] / row[2] for row in took)
    print("| | by the clock | CPU |")
    print("|---|---|---|")
    print(f"| `serve` to the first page | {wall:.2f} s | {cpu:.2f} s |")
    print(f"| `python -c 'import aiohttp'` | {aiohttp:.2f} s | |")
    print(f"ratio by the clock: {ratio:.2f}")


if __name__ == "__main__":
    main()
