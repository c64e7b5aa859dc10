"""A simulated vendor: lists that grow, shrink, slip and reorder, and limits that change.

Every asset carries the number of the call that it was sent with, so that an answer of the gateway names the very calls
that it was made of. `calls` remembers what was true when each was answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from dataclasses import dataclass
from typing import Any, Literal

from simulation.virtual import OWNER, VirtualLoop

PastEnd = Literal["empty", "clamp", "refuse"]
Fault = Literal["", "hang", "error", "pause", "reset"]
_TARGET = re.compile(rb"GET /v0/aois/([^/]+)/assets(?:\?(\S*))? HTTP/1\.1\r\n")


@dataclass(frozen=True)
class Call:
    """One call: from which replica, when it was sent and when it was answered, and what was true then.

    `ids` is None where the vendor said 404. `printed` is the limit in the answer.
    """

    number: int
    replica: str
    began: float
    answered: float
    aoi_id: str
    offset: int
    limit: int
    printed_offset: int
    printed: int
    ids: tuple[str, ...] | None
    settled: bool
    status: int

    @property
    def page(self) -> dict[int, str]:
        """The assets that it showed, by index."""
        assert self.ids is not None
        end = self.printed_offset + self.printed
        return dict(enumerate(self.ids[self.printed_offset : end], start=self.printed_offset))

    def asset(self, index: int) -> dict[str, Any]:
        """The asset at an index, as it was sent."""
        assert self.ids is not None
        return {"id": self.ids[index], "status": "success" if self.settled else "started", "call": self.number}


class SimulatedVendor:
    """The vendor."""

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        self.loop = loop
        self.rng = rng
        self.lists: dict[str, tuple[str, ...] | None] = {}
        self.settled: dict[str, bool] = {}
        self.max_limit = 1000
        self.past_end: PastEnd = "empty"
        self.prints_what_is_left = False
        """Whether it prints no larger limit than there are assets from the offset on."""
        self.fault: Fault = ""
        self.fault_until = 0.0
        self.retry_after = 2
        self.slow = 0.0
        self.calls: list[Call] = []
        self.asked: list[float] = []
        self.paused: list[float] = []
        """When it asked for a pause."""
        self._named = 0

    def accept(self) -> asyncio.BaseProtocol:
        """A new connection."""
        return _Connection(self)

    def new_id(self) -> str:
        """An id that no asset had before."""
        self._named += 1
        return f"asset-{self._named}"

    def change(self, aoi_id: str, how: str) -> None:
        """Change a list."""
        known, rng = self.lists[aoi_id], self.rng
        if known is None or how == "gone":
            self.lists[aoi_id] = tuple(self.new_id() for _ in range(12)) if known is None else None
            return
        assets = list(known)
        match how:
            case "grow":
                assets.append(self.new_id())
            case "grow in front":
                assets.insert(0, self.new_id())
            case "shrink" if assets:
                assets.pop()
            case "slip" if assets:
                assets = [self.new_id(), *assets[:-1]]
            case "reorder" if len(assets) > 1:
                place = rng.randrange(len(assets) - 1)
                assets[place], assets[place + 1] = assets[place + 1], assets[place]
            case "settle":
                self.settled[aoi_id] = not self.settled[aoi_id]
        self.lists[aoi_id] = tuple(assets)

    def answer(self, replica: str, began: float, aoi_id: str, offset: int, limit: int) -> tuple[Call, bytes]:
        """What is true now, as an answer."""
        ids = self.lists.get(aoi_id)
        printed, printed_offset = min(limit, self.max_limit), offset
        if self.prints_what_is_left and ids is not None and offset < len(ids):
            printed = min(printed, len(ids) - offset)
        status = 200
        if ids is None:
            status = 404
        elif offset >= len(ids) and offset > 0:
            if self.past_end == "clamp":
                printed_offset = max(0, len(ids) - printed)
            elif self.past_end == "refuse":
                status = 400
        number = len(self.calls)
        call = Call(
            number, replica, began, self.loop.time(), aoi_id, offset, limit, printed_offset, printed, ids,
            self.settled.get(aoi_id, True), status,
        )  # fmt: skip
        self.calls.append(call)
        if status != 200:
            body = {"error": {"code": "not_found", "message": f"call {number}", "details": {}}}
            return call, json.dumps(body).encode()
        return call, page_body(len(ids or ()), printed_offset, printed, [call.asset(index) for index in call.page])


def page_body(total: int, offset: int, limit: int, assets: list[dict[str, Any]]) -> bytes:
    """A page as the vendor prints it."""
    document = {"assets": assets, "pagination": {"total": total, "offset": offset, "limit": limit}}
    return json.dumps(document, separators=(",", ":")).encode()


class _Connection(asyncio.Protocol):
    """One connection of a replica."""

    def __init__(self, vendor: SimulatedVendor) -> None:
        self._vendor = vendor
        self._received = b""
        self._transport: Any = None
        self._replica = ""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._replica = transport.link.owner

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            found = _TARGET.match(head + b"\r\n")
            assert found is not None, head
            values = dict(pair.split(b"=") for pair in (found[2] or b"").split(b"&") if pair)
            vendor = self._vendor
            vendor.asked.append(vendor.loop.time())
            first = vendor.rng.uniform(0.0, 0.03) + vendor.slow * vendor.rng.random()
            where = (found[1].decode(), int(values.get(b"offset", 0)), int(values.get(b"limit", 10)))
            vendor.loop.call_later(first, self._look, self._transport.sent_at, where)

    def _look(self, began: float, where: tuple[str, int, int]) -> None:
        """Answer with what is true now; the answer may take its time."""
        vendor = self._vendor
        fault: Fault = vendor.fault if vendor.loop.time() < vendor.fault_until else ""
        if fault == "hang":
            return
        if fault == "reset":
            self._transport.close()
            return
        if fault == "error":
            self._send(503, b'{"error":{"code":"unavailable","message":"no","details":{}}}', "")
            return
        if fault == "pause":
            vendor.paused.append(vendor.loop.time())
            body = b'{"error":{"code":"too_many_requests","message":"no","details":{}}}'
            self._send(429, body, f"Retry-After: {vendor.retry_after}\r\n")
            return
        call, body = vendor.answer(self._replica, began, *where)
        after = vendor.rng.uniform(0.0, 0.03) + vendor.slow * vendor.rng.random()
        vendor.loop.call_later(after, self._send, call.status, body, "")

    def _send(self, status: int, body: bytes, headers: str) -> None:
        if not self._transport.is_closing():
            head = (
                f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
            )
            self._transport.write(head.encode() + body)


__all__ = ["OWNER", "Call", "SimulatedVendor", "page_body"]
