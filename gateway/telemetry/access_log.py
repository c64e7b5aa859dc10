"""One line per request, with the contract's fields."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Literal

import msgspec

from gateway.core.clock import Clock
from gateway.core.events import RequestServed
from gateway.telemetry.log_writer import LineWriter

# Stand for what is not known of a line before its request comes: nothing that is logged has such characters in it.
_TIMESTAMP, _REQUEST_ID, _CLIENT, _DURATION = "\x7ft", "\x7fi", "\x7fc", 987654321.125
_BLANKS = (
    (b"\x7ft", b"%(date)b.%(ms)03dZ"),
    (b"\x7fi", b"%(id)b"),
    (b"\x7fc", b"%(client)b"),
    (b"987654321125.0", b"%(took).3f"),
)


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
    """Writes JSON or text lines. Subscribe `served` to RequestServed facts."""

    def __init__(self, writer: LineWriter, form: Literal["text", "json"], clock: Clock) -> None:
        self._write = writer.write
        self._form = form
        self._clock = clock
        self._encode = msgspec.json.Encoder().encode
        self._second = -1
        self._date = b""

    def served(self, fact: RequestServed) -> None:
        """Write the line of an answered request."""
        line = self._line(fact, self._timestamp())
        self._write(self._encode(line) if self._form == "json" else self._text(line))

    def repeated(self, fact: RequestServed) -> RepeatedLine:
        """The line of requests that are served alike, but for their id, their client, when it was and how long."""
        alike = fact._replace(request_id=_REQUEST_ID, client=_CLIENT, duration=_DURATION)
        line = self._line(alike, _TIMESTAMP)
        text = (self._encode(line) if self._form == "json" else self._text(line)).replace(b"%", b"%%")
        for blank, directive in _BLANKS:
            text = text.replace(blank, directive)
        return RepeatedLine(self, text)

    def write_again(self, template: bytes, request_id: bytes, client: bytes, duration: float) -> None:
        """Write a line that was prepared."""
        fraction, whole = math.modf(self._clock.now())
        second, microseconds = (
            int(whole),
            round(fraction * 1e6),
        )  # as `datetime` rounds, or a line would tell them apart
        if microseconds == 1_000_000:
            second, microseconds = second + 1, 0
        if second != self._second:
            self._second = second
            self._date = datetime.fromtimestamp(second, UTC).isoformat()[:19].encode()
        told = {
            b"date": self._date, b"ms": microseconds // 1000, b"id": request_id, b"client": client,
            b"took": duration * 1000,
        }  # fmt: skip
        self._write(template % told)

    def _line(self, fact: RequestServed, ts: str) -> _Line:
        return _Line(
            ts=ts,
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

    @staticmethod
    def _text(line: _Line) -> bytes:
        waited = "" if line.upstream_ms is None else f" (vendor {line.upstream_ms} ms)"
        return (
            f"{line.ts} {line.status} {line.method} {line.route} {line.aoi_id or '-'} {line.cache or '-'} "
            f"{line.bytes} B {line.duration_ms} ms{waited} team={line.team} client={line.client} id={line.request_id}"
        ).encode()

    def _timestamp(self) -> str:
        return datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RepeatedLine:
    """A line that is written again and again."""

    __slots__ = ("_log", "_template")

    def __init__(self, log: AccessLog, template: bytes) -> None:
        self._log = log
        self._template = template

    def write(self, request_id: bytes, client: str, duration: float) -> None:
        """Write it once more; `duration` is in seconds."""
        self._log.write_again(self._template, request_id, client.encode(), duration)
