"""Tries for real what the configuration names: Redis, the way to the vendor, its key, the clocks, and this machine.

The checks run concurrently, each with its own report and time limit, so a service that hangs delays no other check. A
check is skipped if one that it depends on has failed.
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
from gateway.doctor.machine import check_machine
from gateway.doctor.report import CheckReport, Finding, exit_code, show
from gateway.upstream.keys import KeyRing

# Of each examination as a whole; every wait in it is shorter.
_LONGEST = 22.0
_NTP = "let NTP set this machine's clock (chronyc tracking, timedatectl); on a virtual machine its host's too"
_NTP_REDIS = "let NTP set both clocks, this machine's and that of Redis, whose time lifetimes go by"


def run(loaded: Loaded, aoi_id: str | None) -> int:
    """Examine what was loaded, print what was found, and give the exit code."""
    configuration = CheckReport()
    configuration.ok("configuration", f"{loaded.source} can be used")
    for warning in loaded.warnings:
        configuration.warn("configuration", warning, "")
    show(configuration.findings, sys.stdout)
    found = run_to_end(check_services(loaded.settings, key_ring(loaded.settings), clock=SystemClock(), aoi_id=aoi_id))
    show(found, sys.stdout)
    return exit_code(found)


async def check_services(
    settings: Settings, keys: KeyRing, *, clock: Clock, aoi_id: str | None = None
) -> list[Finding]:
    """Every finding, in the order in which they are read. It takes half a minute at most, whoever hangs.

    The key is tried with a page of `aoi_id`, or else of an AOI that no vendor has.
    """
    whose = "vendor" if settings.upstream.proxy is None else "proxy"
    previous = (vendor.PREVIOUS,) if len(keys.in_order()) > 1 else ()
    beyond = CheckReport(f"{whose} DNS", f"{whose} connect", route.TLS, vendor.KEY, *previous)
    inquiry = vendor.VendorCheck(beyond, settings.upstream, keys, aoi_id, clock)
    url = settings.cache_url.get_secret_value()
    store = redis.RedisCheck(CheckReport(*redis.planned(url)), settings.cache, url, clock)
    here, time = CheckReport("listener"), CheckReport("clock")

    async def ask_vendor() -> None:
        if await route.check_route(beyond, settings.upstream, clock):
            await inquiry.run()
        beyond.skip_rest()

    examinations = [
        _bounded(beyond, ask_vendor()),
        _bounded(here, check_machine(here, settings.server, settings.ops)),
    ]
    if settings.uses_redis:
        examinations.append(_bounded(store.report, store.run()))
    await asyncio.gather(*examinations)
    clocks.compare(time, "clock", "the vendor", inquiry.reading, _NTP)
    if settings.uses_redis:
        clocks.compare(time, "clock and Redis", "Redis", store.reading, _NTP_REDIS)
    else:
        store.report.skip("redis", "cache.url is memory://")
    findings = [*time.findings, *store.report.findings, *beyond.findings, *here.findings]
    return [_withheld(finding, keys) for finding in findings]


async def _bounded(report: CheckReport, examination: Coroutine[Any, Any, None]) -> None:
    try:
        async with asyncio.timeout(_LONGEST):
            await examination
    except TimeoutError:
        hint = "whoever is asked answers too slowly; see the lines above"
        report.fail(report.next(), f"not done within {_LONGEST:g} s", hint)
        report.skip_rest()


def _withheld(finding: Finding, keys: KeyRing) -> Finding:
    """Nothing that is quoted should hold the key, and this makes sure: it may stand in a host's name, by mistake."""
    found, hint = (keys.redact(text.encode()).decode() for text in (finding.found, finding.hint))
    return finding._replace(found=found, hint=hint)
