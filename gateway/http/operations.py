"""For those who run it: is it alive, is it ready, and what does it count."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.http.errors import Problem
from gateway.http.router import Lifecycle, Route

# Renders the metrics for an Accept header: body and content type.
Scrape = Callable[[str], Awaitable[tuple[bytes, str]]]


class Operations:
    """`/healthz`, `/readyz` and `/metrics`."""

    def __init__(self, lifecycle: Lifecycle, scrape: Scrape) -> None:
        self._lifecycle = lifecycle
        self._scrape = scrape

    def routes(self) -> dict[str, Route]:
        """By path."""
        return {
            "/healthz": Route("healthz", self._healthz),
            "/readyz": Route("readyz", self._readyz),
            "/metrics": Route("metrics", self._metrics),
        }

    async def _healthz(self, _: web.BaseRequest) -> web.Response:
        """The process is alive, and its loop turns."""
        return _told(b'{"status":"ok"}')

    async def _readyz(self, _: web.BaseRequest) -> web.Response:
        """Whether to send requests here: never a matter of Redis or the vendor, whom every replica shares."""
        match self._lifecycle.state:
            # A worker that goes alone is not news: the others are here, and so will be its successor.
            case "ready" | "leaving":
                return _told(b'{"status":"ready"}')
            case "starting":
                raise Problem(503, "starting", "the gateway is starting", headers={"Retry-After": "1"})
            case "draining":
                raise Problem(503, "draining", "the gateway is going away", headers={"Retry-After": "1"})

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        body, content_type = await self._scrape(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


def _told(body: bytes) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": "application/json", "Cache-Control": "no-store"})
