"""Tries for real what the configuration names: Redis, the way to the vendor, its key, the clocks, and this machine.

Each examination writes its own sheet, and they run side by side: one that waits for somebody who hangs holds nobody up,
and has an end of its own. What is needed for the sake of a later check and failed makes that one be skipped.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

from gateway.app.event_loop import run as run_to_end
from gateway.app.run import key_ring
from gateway.config.loading import Loaded, Settings
from gateway.core.clock import Clock, SystemClock
from gateway.doctor import clocks, redis, route, vendor
from gateway.doctor.machine import examine_machine
from gateway.doctor.report import Finding, Sheet, exit_code, show
from gateway.upstream.keys import KeyRing

# Of each examination as a whole; every wait in it is shorter.
_LONGEST = 22.0
_NTP = "let NTP set this machine's clock (chronyc tracking, timedatectl); on a virtual machine its host's too"
_NTP_REDIS = "let NTP set both clocks, this machine's and that of Redis, whose time lifetimes go by"


def run(loaded: Loaded, aoi_id: str | None) -> int:
    """Examine what was loaded, print what was found, and give the exit code."""
    configuration = Sheet()
    configuration.ok("configuration", f"{loaded.source} can be used")
    for warning in loaded.warnings:
        configuration.warn("configuration", warning, "")
    show(configuration.findings, sys.stdout)
    found = run_to_end(examine(loaded.settings, key_ring(loaded.settings), clock=SystemClock(), aoi_id=aoi_id))
    show(found, sys.stdout)
    return exit_code(found)


async def examine(settings: Settings, keys: KeyRing, *, clock: Clock, aoi_id: str | None = None) -> list[Finding]:
    """Every finding, in the order in which they are read. It takes half a minute at most, whoever hangs.

    The key is tried with a page of `aoi_id`, or else of an AOI that no vendor has.
    """
    whose = "vendor" if settings.upstream.proxy is None else "proxy"
    previous = (vendor.PREVIOUS,) if len(keys.in_order()) > 1 else ()
    beyond = Sheet(f"{whose} DNS", f"{whose} connect", route.TLS, vendor.KEY, *previous)
    inquiry = vendor.Inquiry(beyond, settings.upstream, keys, aoi_id, clock)
    url = settings.cache_url.get_secret_value()
    store = redis.Examination(Sheet(*redis.planned(url)), settings.cache, url, clock)
    here, time = Sheet("listener"), Sheet("clock")

    async def ask_vendor() -> None:
        if await route.examine_way(beyond, settings.upstream, clock):
            await inquiry.run()
        beyond.skip_rest()

    examinations = [
        _bounded(beyond, ask_vendor()),
        _bounded(here, examine_machine(here, settings.server, settings.ops)),
    ]
    if settings.uses_redis:
        examinations.append(_bounded(store.sheet, store.run()))
    await asyncio.gather(*examinations)
    clocks.compare(time, "clock", "the vendor", inquiry.reading, _NTP)
    if settings.uses_redis:
        clocks.compare(time, "clock and Redis", "Redis", store.reading, _NTP_REDIS)
    else:
        store.sheet.skip("redis", "cache.url is memory://")
    findings = [*time.findings, *store.sheet.findings, *beyond.findings, *here.findings]
    return [_withheld(finding, keys) for finding in findings]


async def _bounded(sheet: Sheet, examination: Coroutine[Any, Any, None]) -> None:
    try:
        async with asyncio.timeout(_LONGEST):
            await examination
    except TimeoutError:
        mend = "whoever is asked answers too slowly; see the lines above"
        sheet.fail(sheet.next(), f"not done within {_LONGEST:g} s", mend)
        sheet.skip_rest()


def _withheld(finding: Finding, keys: KeyRing) -> Finding:
    """Nothing that is quoted should hold the key, and this makes sure: it may stand in a host's name, by mistake."""
    found, mend = (keys.withhold(text.encode()).decode() for text in (finding.found, finding.mend))
    return finding._replace(found=found, mend=mend)
