"""What must hold at the end of every play, whatever was done to the gateway in it.

The vendor key is nowhere, whatever its form; what is not a page is an envelope that nobody stores; Redis holds nothing
but pages and 404s that were looked at; every request that the vendor saw is counted, and nothing is under way any more.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, quote_plus

from redis.asyncio import Redis

from gateway.core.listing import parse_envelope, parse_listing
from gateway.storage.entry import Entry

if TYPE_CHECKING:
    from harness import Play, Reply
    from real_redis import RealRedis

PREFIX = b"pixxel-gateway:1:"


class Asked(Protocol):
    """A stand-in vendor that remembers what it was asked."""

    @property
    def requests(self) -> list[Any]: ...


def forms(key: str) -> list[bytes]:
    """The ways in which a secret may stand in a text: as it is, in a URL, in JSON, and in base64 at any place of it."""
    raw = key.encode()
    found = {raw, quote(key, safe="").encode(), quote_plus(key).encode(), json.dumps(key)[1:-1].encode()}
    for before in range(3):
        # Characters at the ends depend on the neighbours as well.
        whole = base64.b64encode(b"\0" * before + raw)[math.ceil(before * 8 / 6) :].rstrip(b"=")[:-1]
        found |= {whole, whole.translate(bytes.maketrans(b"+/", b"-_"))}
    return sorted(found)


def holds_key(text: bytes, key: str) -> bool:
    return any(form in text for form in forms(key))


def judge(reply: Reply, key: str, *, method: str = "GET") -> None:
    """What holds of every answer."""
    assert not holds_key(b"%b %b" % (str(reply.headers).encode(), reply.body), key), "the key is in an answer"
    if 200 <= reply.status < 300 or reply.status == 304:
        return
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Content-Type"] == "application/json"
    if method != "HEAD":
        assert set(reply.json) == {"error"}
        assert set(reply.json["error"]) == {"code", "message", "details"}
        assert reply.details["request_id"] == reply.headers["X-Request-Id"]


async def aftermath(play: Play, vendor: Asked | None = None, redis: RealRedis | None = None) -> dict[str, float]:
    """Check all that; gives the metrics at the end. `vendor` is the one behind this gateway alone."""
    await play.settled()
    async with play.session.get(play.ops_url + "/metrics") as response:
        text = await response.read()
    assert not holds_key(text, play.vendor_key), "the key is in a metric"
    metrics = await play.metrics()
    assert metrics["gateway_http_requests_in_flight"] == 1  # the scrape itself
    if vendor is not None:
        assert calls(metrics) == len(vendor.requests)
    if redis is not None:
        await _only_good_pages(redis, play.vendor_key)
    said = await play.said()
    assert not holds_key(said, play.vendor_key), "the key is in the log"
    assert b"Traceback" not in said, said.decode()
    assert b'"level":"error"' not in said
    return metrics


def calls(metrics: dict[str, float]) -> float:
    """How many requests left for the vendor."""
    return sum(value for series, value in metrics.items() if series.startswith("gateway_upstream_requests_total{"))


async def _only_good_pages(redis: RealRedis, key: str) -> None:
    async with Redis.from_url(redis.url) as raw:
        names: list[Any] = await raw.keys()
        for name in names:
            assert name.startswith(PREFIX)
            assert not holds_key(name, key)
            value: Any = await raw.get(name)
            if value is None:
                continue  # its time was over
            assert not holds_key(value, key), "the key is in Redis"
            if re.match(rb"{[^}]+}:page:", name[len(PREFIX) :]):
                entry = Entry.decode(value, name[len(PREFIX) :].decode())
                assert not holds_key(entry.body, key)
                if entry.status == 404:
                    assert parse_envelope(entry.body) is not None
                else:
                    assert entry.status == 200
                    parse_listing(entry.body, name.split(b"{")[1].split(b"}")[0].decode())


def descriptors(pid: int | None = None) -> int:
    """How many are open; none are known where there is no /proc."""
    where = Path(f"/proc/{pid or os.getpid()}/fd")
    return len(list(where.iterdir())) if where.exists() else 0


def memory(pid: int, line: str = "VmHWM") -> int:
    """The most memory that a process has had (or, `VmRSS`, has now), in bytes."""
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{line}:")[1].split()[0]) * 1024


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Descriptors and tasks are, in the end, what they were."""
    tasks, files = others(), descriptors()
    yield
    for _ in range(1000):
        if others() <= tasks and descriptors() <= files:
            break
        await asyncio.sleep(0.01)  # what was closed goes within a few turns
    assert others() <= tasks
    assert descriptors() <= files


def others() -> set[asyncio.Task[Any]]:
    """The tasks of this loop besides the one that asks."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
