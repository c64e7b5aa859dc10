"""A vendor with one page, which it sends with whatever headers it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

PAGE = b'{"assets":[{"id":"x","status":"success"}],"pagination":{"total":1,"offset":0,"limit":10}}'


class TellingVendor:
    """Answers with one page and these headers, after `delay` seconds."""

    def __init__(self) -> None:
        self.headers: Mapping[str, str] = {}
        self.status = 200
        self.body = PAGE
        self.calls = 0
        self.delay = 0.0
        self.url = ""

    async def answer(self, _: web.BaseRequest) -> web.Response:
        self.calls += 1
        await asyncio.sleep(self.delay)
        return web.Response(status=self.status, body=self.body, headers=self.headers)


@asynccontextmanager
async def a_telling_vendor() -> AsyncIterator[TellingVendor]:
    """Start one that listens on loopback; close it also when the test fails."""
    vendor = TellingVendor()
    runner = web.ServerRunner(web.Server(vendor.answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    vendor.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield vendor
    finally:  # a listener that a failed test leaves open fails a later one
        await runner.cleanup()
