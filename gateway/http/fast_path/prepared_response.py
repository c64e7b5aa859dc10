"""A response that can be sent again, with a head in which time-dependent values are updated.

The head is stored as it was sent, with placeholders for Age, Date, ttl and X-Request-Id. The page belongs to the
store: a prepared response does not keep it alive.
"""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from gateway.cache.prefetch import Trail
from gateway.core.http_fields import http_date
from gateway.core.query import AssetsQuery
from gateway.core.validity_token import ValidityToken
from gateway.http.responses import PageResponse, Part
from gateway.storage.entry import Entry
from gateway.telemetry.access_log import RepeatedLine
from gateway.telemetry.aggregates import Aggregates

_TTL = re.compile(r"(?<=; ttl=)-?[0-9]+")


@dataclass(slots=True)
class PreparedResponse:
    """How to answer one request again.

    `validity` becomes invalid with the entry, `take_from_budget` takes a token of the team's budget and returns whether
    there was one. `names` are the names of what a use counts for, `trail` is the team's position in a crawl.
    `has_request_id` says that the client sent a request id of its own; `forwarded` is what trusted proxies say of the
    client. `before` and `after` are the parts of the head around the request id; they are current from `valid_from` to
    `valid_until` (Unix time). `requests` counts the uses since the last flush.
    """

    query: AssetsQuery
    entry: weakref.ref[Entry]
    part: Part
    body_bytes: int
    template: bytes
    has_request_id: bool
    forwarded: str | None
    validity: ValidityToken
    take_from_budget: Callable[[], bool] | None
    names: tuple[str, str]
    trail: Trail
    aggregates: Aggregates
    line: RepeatedLine | None
    before: bytes = b""
    after: bytes = b""
    valid_from: float = math.inf
    valid_until: float = -math.inf
    requests: int = 0
    used: bool = False
    prefetched_at: float = -math.inf

    def update_head(self, entry: Entry, now: float) -> bool:
        """Bring the head up to date, unless the page is not fresh any more."""
        if now >= entry.fresh_until:
            return False
        age, ttl, second = entry.age(now), math.floor(entry.fresh_until - now), int(now)
        shown = self.template % {b"age": age, b"ttl": ttl, b"date": http_date(second).encode(), b"id": b"\0"}
        self.before, _, self.after = shown.partition(b"\0")
        # Age and ttl change with the page's seconds, Date with everybody's.
        self.valid_from, self.valid_until = now, min(entry.born + age + 1, entry.fresh_until - ttl, second + 1)
        return True


def template_of(reply: PageResponse) -> bytes:
    """The head of an answer, to be filled in by % with `age`, `date`, `id` and `ttl`."""
    headers = {name: value.replace("%", "%%") for name, value in reply.headers.items()}
    headers |= {"Age": "%(age)d", "Date": "%(date)b", "X-Request-Id": "%(id)b"}
    headers["Cache-Status"] = _TTL.sub("%(ttl)d", headers["Cache-Status"])
    return reply.head(headers)
