"""The picture of `/status` in the README: a quarter of an hour of load, with an outage and a pause, and a photograph.

`python tests/bench/screenshot.py [--minutes 15] [--out deploy/status.png]` needs Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import math
import random
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from browser import browsing
from harness import VENDOR_KEY, Play, playing

from gateway.mock_vendor.server import MockVendor

WIDTH, HEIGHT = 1200, 1640
# Teams with their share of the requests.
TEAMS = {"mapping": 0.6, "analytics": 0.3, "nightly-export": 0.1}
PER_SECOND = 60.0


def flags(vendor: MockVendor) -> Mapping[str, Any]:
    digests = {f"teams.{name}.token_sha256": [hashlib.sha256(name.encode()).hexdigest()] for name in TEAMS}
    lifetimes = {"cache.lifetimes.settled": 60, "cache.lifetimes.in_progress": 5, "cache.lifetimes.grace": 5}
    limits = {"teams.nightly-export.rate": 8, "teams.mapping.scopes": ["admin"]}
    return {"upstream.base_url": vendor.url, "ops.port": 0, "log.access": False, **digests, **lifetimes, **limits}


async def ask(play: Play, vendor: MockVendor, chance: random.Random) -> None:
    [team] = chance.choices(list(TEAMS), list(TEAMS.values()))
    aoi_id = vendor.aoi_ids[min(int(chance.paretovariate(0.9)) - 1, len(vendor.aoi_ids) - 1)]
    offset = 10 * min(int(chance.paretovariate(1.5)) - 1, 5)
    path = f"{play.url}/v0/aois/{aoi_id}/assets?offset={offset}&limit=10"
    async with play.session.get(path, headers={"Authorization": f"Bearer {team}"}) as reply:
        await reply.read()


async def load(play: Play, vendor: MockVendor, seconds: float) -> None:
    """Requests at random times, as many as by day and night; the vendor fails for a while, and then throttles."""
    chance, began = random.Random(8), time.monotonic()
    asked: set[asyncio.Task[None]] = set()
    trouble: list[tuple[float, dict[str, Any]]] = [
        (0.0, {"delay": 0.12}),
        (0.35, {"status": 503, "delay": 0.3}),
        (0.43, {"delay": 0.12}),
        (0.62, {"status": 429, "retry_after": "20", "times": 1}),
        (0.64, {"delay": 0.12}),
    ]
    while (passed := time.monotonic() - began) < seconds:
        if trouble and passed >= trouble[0][0] * seconds:
            vendor.set_behaviour(**trouble.pop(0)[1])
        task = asyncio.create_task(ask(play, vendor, chance))
        asked.add(task)
        task.add_done_callback(asked.discard)
        rate = PER_SECOND * (1 + 0.6 * math.sin(passed / 60))
        await asyncio.sleep(chance.expovariate(rate))
    await asyncio.gather(*asked)


def photograph(url: str, out: Path) -> None:
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        raise SystemExit("chromium and chromium-driver are needed")
    with browsing(*map(str, programs)) as browser:
        browser.tell(
            "Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False
        )
        browser.tell("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(url + "/status")
        browser.awaits(lambda: browser.text("link") == "and moving")
        out.write_bytes(base64.b64decode(browser.tell("Page.captureScreenshot")["data"]))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "deploy" / "status.png")
    arguments = parser.parse_args()
    vendor = MockVendor(key=VENDOR_KEY)
    await vendor.start()
    async with playing(flags(vendor)) as play:
        play.gateway._status_pages._name = "gateway-1"  # not that of whoever takes the picture
        await load(play, vendor, arguments.minutes * 60)
        loading = asyncio.create_task(load(play, vendor, 20))
        await asyncio.to_thread(photograph, play.ops_url, arguments.out)
        await loading
    await vendor.stop()
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    asyncio.run(main())
