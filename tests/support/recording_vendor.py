"""A vendor whose lists and limits change, and which records every call with what was true when it was answered.

Calls are attributed to the client request that caused them by `X-Request-Id`, which the gateway passes on. Lists whose
AOI starts with `tagged-` show in every asset the number of the call; the others answer a repeated call with the same
bytes as before.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from raw_vendor import whole

PastEnd = Literal["empty", "clamp", "not_found", "refuse"]
Fault = Literal["", "error", "hang", "reset", "pause"]

_TARGET = re.compile(rb"GET /v0/aois/([^/]+)/assets(?:\?(\S*))? HTTP/1\.1\r\n")
_REQUEST_ID = re.compile(rb"\r\nX-Request-Id: *([^\r]+)\r\n", re.IGNORECASE)
_CHANGES = ["front", "end", "shrink", "slip", "edit"] * 2 + ["reorder", "settle", "remove", "gone"]
# Calls are remembered for so many seconds: longer than any page may be served.
REMEMBERED = 40.0


class Asset(NamedTuple):
    """One asset; `edits` counts changes of fields that do not concern the order of the list."""

    id: str
    status: str
    edits: int


@dataclass
class Call:
    """One call that was answered with 200, or with 404 (`total` None). Times are monotonic.

    `looked` is the moment whose state it shows, `received` when the request had arrived. `shown` has the assets from
    `printed_offset` on.
    """

    number: int
    request_id: str
    aoi: str
    offset: int
    limit: int
    received: float
    looked: float
    printed_offset: int
    printed: int
    total: int | None
    shown: tuple[Asset, ...]
    body: bytes
    sent: float | None = None

    @property
    def end(self) -> int:
        """The index after the last asset that it shows."""
        return self.printed_offset + len(self.shown)

    @property
    def is_moved(self) -> bool:
        """Whether the vendor moved it to another offset, so that it contradicts its own figures."""
        return self.printed_offset != self.offset

    def at(self, index: int) -> Asset | None:
        """The asset at an index of the list, if it is shown."""
        return self.shown[index - self.printed_offset] if self.printed_offset <= index < self.end else None


class RecordingVendor:
    """The vendor. Change it through its methods, so that `limits` and the calls stay true."""

    def __init__(self, rng: random.Random, aois: list[str]) -> None:
        self._rng = rng
        self._named = 0
        self.lists: dict[str, list[Asset] | None] = {}
        for aoi in aois:
            self.lists[aoi] = [self._new() for _ in range(rng.randrange(45))]
        self.calls: dict[str, deque[Call]] = defaultdict(deque)
        self.of_request: dict[str, list[Call]] = defaultdict(list)
        self.limits: list[tuple[float, int]] = [(time.monotonic(), 1000)]
        """Each largest limit, and since when."""
        self.past_end: PastEnd = "empty"
        self.faults: dict[str, Fault] = {}
        self.slow = 0.0
        self.numbers = 0

    def change_limits(self, most: int, past_end: PastEnd) -> None:
        """Set the largest limit, and what is answered past the end of a list."""
        self.limits.append((time.monotonic(), most))
        self.past_end = past_end

    def change(self, aoi: str) -> str:
        """Change a list at random. Returns how."""
        rng, assets = self._rng, self.lists[aoi]
        if assets is None:
            self.lists[aoi] = [self._new() for _ in range(rng.randrange(45))]
            return "return"
        how = rng.choice(_CHANGES)
        assets = list(assets)
        place = rng.randrange(len(assets)) if assets else 0
        if how == "front":
            assets.insert(0, self._new())
        elif how == "end" or not assets:
            assets += [self._new() for _ in range(rng.randrange(1, 4))]
        elif how == "shrink":
            del assets[-rng.randrange(1, 4) :]
        elif how == "slip":  # the total stays as it is
            assets = [self._new(), *assets[:-1]]
        elif how == "reorder":
            other = rng.randrange(len(assets))
            assets[place], assets[other] = assets[other], assets[place]
        elif how == "edit":
            assets[place] = assets[place]._replace(edits=assets[place].edits + 1)
        elif how == "settle":
            assets = [asset._replace(status="success") for asset in assets]
        elif how == "remove":
            del assets[place]
        else:
            self.lists[aoi] = None
            return how
        self.lists[aoi] = assets
        return how

    def _new(self) -> Asset:
        self._named += 1
        return Asset(f"asset-{self._named}", "success" if self._rng.random() < 0.98 else "started", 0)

    async def answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        """Answer one request (an `Answer` of raw_vendor)."""
        received = time.monotonic()
        found, request_id = _TARGET.match(head), _REQUEST_ID.search(head)
        assert found is not None, head
        assert request_id is not None, head
        aoi = found[1].decode()
        values = dict(pair.split(b"=") for pair in (found[2] or b"").split(b"&") if pair)
        fault = self.faults.get(aoi) or self.faults.get("*") or ""
        await asyncio.sleep(self._rng.random() * (0.01 + self.slow))
        if fault == "hang":
            await asyncio.sleep(3)
            writer.close()
        elif fault == "reset":
            writer.transport.abort()
        elif fault == "error":
            writer.write(_error(503, "unavailable"))
        elif fault == "pause":
            writer.write(_error(429, "too_many_requests", b"Retry-After: 1"))
        else:
            call, data = self._look(
                request_id[1].decode(), received, aoi, int(values.get(b"offset", 0)), int(values.get(b"limit", 10))
            )
            await asyncio.sleep(self._rng.random() * (0.01 + self.slow))
            if call is not None:
                call.sent = time.monotonic()
            writer.write(data)

    def _look(self, request_id: str, received: float, aoi: str, offset: int, limit: int) -> tuple[Call | None, bytes]:
        """What is true now, as an answer."""
        assets, printed_offset, printed = self.lists[aoi], offset, min(limit, self.limits[-1][1])
        self.numbers += 1
        number = self.numbers
        missing = assets is None
        if assets is not None and offset and offset >= len(assets):
            if self.past_end == "refuse":
                return None, _error(400, "invalid_offset")
            missing = self.past_end == "not_found"
            if self.past_end == "clamp":
                printed_offset = max(0, len(assets) - printed)
        looked = time.monotonic()
        if missing or assets is None:
            body = error_body("not_found", f"call {number}" if is_tagged(aoi) else "no such AOI")
            shown: tuple[Asset, ...] = ()
            data, total = _error(404, "", body=body), None
        else:
            shown, total = tuple(assets[printed_offset : printed_offset + printed]), len(assets)
            numbers = [number] * len(shown)
            body = page_body(aoi, shown, numbers, total=total, offset=printed_offset, limit=printed)
            data = whole(body)
        call = Call(
            number, request_id, aoi, offset, limit, received, looked, printed_offset, printed, total, shown, body
        )
        calls = self.calls[aoi]
        calls.append(call)
        self.of_request[request_id].append(call)
        while calls and calls[0].looked < looked - REMEMBERED:
            self.of_request.pop(calls.popleft().request_id, None)
        return call, data


def is_tagged(aoi: str) -> bool:
    """Whether assets of this AOI show the number of the call."""
    return aoi.startswith("tagged-")


def page_body(aoi: str, assets: tuple[Asset, ...], numbers: list[int], *, total: int, offset: int, limit: int) -> bytes:
    """A page as the vendor prints it. Each AOI has a style of its own."""
    shown: list[dict[str, Any]] | None = [
        {"id": asset.id, "aoi_id": aoi, "status": asset.status, "edits": asset.edits}
        | ({"call": number} if is_tagged(aoi) else {})
        | {"note": "x" * (len(asset.id) * 7 % 90)}
        for asset, number in zip(assets, numbers, strict=True)
    ]
    style = ord(aoi[-1]) % 4
    if not shown and style == 3:  # as a service in Go does
        shown = None
    figures = {"total": total, "offset": offset, "limit": limit}
    document = {"pagination": figures, "assets": shown} if style == 1 else {"assets": shown, "pagination": figures}
    if style == 2:
        return json.dumps(document, indent=2).encode() + b"\n"
    return json.dumps(document, separators=(",", ":") if style != 1 else None).encode()


def error_body(code: str, message: str) -> bytes:
    """The vendor's error envelope."""
    return json.dumps({"error": {"code": code, "message": message, "details": {}}}, separators=(",", ":")).encode()


def _error(status: int, code: str, *lines: bytes, body: bytes = b"") -> bytes:
    data = whole(body or error_body(code, "as the test wants it"), *lines)
    return data.replace(b" 200 OK", b" %d X" % status, 1)
