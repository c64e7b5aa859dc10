"""One line per request, with the contract's fields."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec

from gateway.clock import Clock
from gateway.core.facts import RequestServed
from gateway.logs import LineWriter


class _Line(msgspec.Struct):
    ts: str
    event: str
    request_id: str
    team: str
    client: str
    method: str
    route: str
    aoi_id: str | None
    status: int
    cache: str
    bytes: int
    duration_ms: float
    upstream_ms: float | None


class AccessLog:
    """A sink for RequestServed facts that writes JSON or text lines."""

    def __init__(self, writer: LineWriter, form: Literal["text", "json"], clock: Clock) -> None:
        self._write = writer.write
        self._form = form
        self._clock = clock
        self._encode = msgspec.json.Encoder().encode

    def observe(self, fact: NamedTuple) -> None:
        """Write the line of an answered request."""
        if isinstance(fact, RequestServed):
            self._write(self._encode(self._line(fact)) if self._form == "json" else self._text(fact))

    def _line(self, fact: RequestServed) -> _Line:
        return _Line(
            ts=self._timestamp(),
            event="request",
            request_id=fact.request_id,
            team=fact.team,
            client=fact.client,
            method=fact.method,
            route=fact.route,
            aoi_id=fact.aoi_id,
            status=fact.status,
            cache=fact.cache,
            bytes=fact.body_bytes,
            duration_ms=round(fact.duration * 1000, 3),
            upstream_ms=None if fact.upstream is None else round(fact.upstream * 1000, 3),
        )

    def _text(self, fact: RequestServed) -> bytes:
        line = self._line(fact)
        waited = "" if line.upstream_ms is None else f" (vendor {line.upstream_ms} ms)"
        return (
            f"{line.ts} {line.status} {line.method} {line.route} {line.aoi_id or '-'} {line.cache or '-'} "
            f"{line.bytes} B {line.duration_ms} ms{waited} team={line.team} client={line.client} id={line.request_id}"
        ).encode()

    def _timestamp(self) -> str:
        return datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
