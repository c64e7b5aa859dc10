"""`/status`, `/status.json` and `/status/events`: the same figures for people and programs, and as they change.

`telemetry.status.report` computes the figures, and `status_view` formats them. Each event of the stream is the
document of `/status.json`; an event of the type `page` follows with the text that the page shows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path

import msgspec
from aiohttp import web
from markupsafe import Markup

from gateway import __version__
from gateway.core.clock import Clock
from gateway.http.pages import JINJA, TEMPLATES, page_headers
from gateway.http.router import Route
from gateway.http.server_sent_events import Broadcast, EventStream
from gateway.http.status_view import view_of
from gateway.telemetry.status.document import Report
from gateway.telemetry.status.report import report
from gateway.telemetry.status.snapshot import Snapshot

# Each costs a connection and some kilobytes a second, and the figures are made once for all.
_MOST_VIEWERS = 20
_UPLOT = Path(__file__).with_name("uplot")


class StatusPages:
    """`gather` gives the snapshot of this instance, whose `name` stands on the page. `close` ends the event streams."""

    def __init__(self, gather: Callable[[], Awaitable[Snapshot]], name: str, clock: Clock) -> None:
        self._gather = gather
        self._name = name
        self._broadcast = Broadcast(self._events, clock, _MOST_VIEWERS)
        self.close = self._broadcast.close

    def routes(self, *, guarded: bool) -> dict[str, Route]:
        """By path. Where they are not `guarded`, whoever reaches the listener may look."""
        return {
            "/status": Route("status", self._page, admin=guarded, browser=guarded),
            "/status.json": Route("status_json", self._json, admin=guarded, browser=guarded),
            "/status/events": Route("status_events", self._stream, admin=guarded, browser=guarded),
        }

    async def _report(self) -> Report:
        return report(await self._gather(), self._name, __version__)

    async def _json(self, _: web.BaseRequest) -> web.Response:
        body = msgspec.json.encode(await self._report())
        return web.Response(body=body, headers={"Content-Type": "application/json", "Cache-Control": "no-store"})

    async def _stream(self, _: web.BaseRequest) -> EventStream:
        return self._broadcast.stream()

    async def _events(self) -> bytes:
        told = await self._report()
        document, page = msgspec.json.encode(told), msgspec.json.encode(view_of(told))
        return b"data: %b\n\nevent: page\ndata: %b\n\n" % (document, page)  # JSON of msgspec's is one line

    async def _page(self, _: web.BaseRequest) -> web.Response:
        told = await self._report()
        html = JINJA.get_template("status.html").render(
            version=__version__,
            view=view_of(told),
            # What stands in a script element ends with the first "</script", whatever it means there.
            series=Markup(msgspec.json.encode(told.series).decode().replace("<", "\\u003c")),  # noqa: S704 - numbers
            style=self._style,
            scripts=self._scripts,
        )
        return web.Response(body=html.encode(), headers=self._headers)

    @cached_property
    def _scripts(self) -> tuple[str, str]:
        return (
            (_UPLOT / "uPlot.iife.min.js").read_text(encoding="utf-8"),
            (TEMPLATES / "status.js").read_text(encoding="utf-8"),
        )

    @cached_property
    def _style(self) -> str:
        files = (TEMPLATES / "style.css", TEMPLATES / "status.css", _UPLOT / "uPlot.min.css")
        return "\n".join(file.read_text(encoding="utf-8") for file in files)

    @cached_property
    def _headers(self) -> dict[str, str]:
        return {**page_headers(self._scripts, self._style, "connect-src 'self'"), "Cache-Control": "no-store"}
