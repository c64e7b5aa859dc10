"""An answer that is ready to be given again, but for the figures in its head that go with time.

The head is kept as it was sent, with names where Age, Date, ttl and X-Request-Id stood. The page itself is the store's:
what is ready does not keep it alive.
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
from gateway.core.validity_token import Seal
from gateway.http.responses import Part, Reply
from gateway.storage.entry import Entry
from gateway.telemetry.access_log import RepeatedLine
from gateway.telemetry.aggregates import Sums

_TTL = re.compile(r"(?<=; ttl=)-?[0-9]+")


@dataclass(slots=True)
class Ready:
    """How to answer one request again.

    `seal` tells whether the entry would still be found, `take` takes of the team's budget, `names` are those of what is
    used, `trail` is where the team is. `names_itself` tells that the request's id is the client's own;
    `forwarded` is what trusted proxies say of the client. `before` and `after` are the head around the request id, as
    it is from `shown_from` to `shown_until` (Unix time). `requests` are those that nobody was told of yet.
    """

    query: AssetsQuery
    entry: weakref.ref[Entry]
    part: Part
    body_bytes: int
    template: bytes
    names_itself: bool
    forwarded: str | None
    seal: Seal
    take: Callable[[], bool] | None
    names: tuple[str, str]
    trail: Trail
    tally: Sums
    line: RepeatedLine | None
    before: bytes = b""
    after: bytes = b""
    shown_from: float = math.inf
    shown_until: float = -math.inf
    requests: int = 0
    used: bool = False
    ahead_at: float = -math.inf

    def show(self, entry: Entry, now: float) -> bool:
        """Bring the head up to date, unless the page is not fresh any more."""
        if now >= entry.fresh_until:
            return False
        age, ttl, second = entry.age(now), math.floor(entry.fresh_until - now), int(now)
        shown = self.template % {b"age": age, b"ttl": ttl, b"date": http_date(second).encode(), b"id": b"\0"}
        self.before, _, self.after = shown.partition(b"\0")
        # Age and ttl change with the page's seconds, Date with everybody's.
        self.shown_from, self.shown_until = now, min(entry.born + age + 1, entry.fresh_until - ttl, second + 1)
        return True


def template_of(reply: Reply) -> bytes:
    """The head of an answer, to be filled in by % with `age`, `date`, `id` and `ttl`."""
    headers = {name: value.replace("%", "%%") for name, value in reply.headers.items()}
    headers |= {"Age": "%(age)d", "Date": "%(date)b", "X-Request-Id": "%(id)b"}
    headers["Cache-Status"] = _TTL.sub("%(ttl)d", headers["Cache-Status"])
    return reply.head(headers)
