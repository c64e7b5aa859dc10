"""Events: what happened, emitted once. Metrics and logs are sinks that subscribe to them in `app.build`.

Tuples rather than dataclasses, because several are created for every request. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

CacheResult = Literal[
    "hit", "window", "stale", "miss", "coalesced", "stale_if_error", "negative", "refresh", "bypass"
]  # fmt: skip


Tier = Literal["memory", "redis"]

BreakerState = Literal["closed", "open", "half_open"]

ConnectionKind = Literal["new", "reused", "replaced", "dirty"]

# Upper bounds in seconds of the classes that durations of requests are counted in; one more has all beyond.
LATENCY_BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip


class RequestBegan(NamedTuple):
    """A request was read from a connection."""


class RequestServed(NamedTuple):
    """A request was answered; `cache` is empty where no page was asked for. `None` is what the log does not tell.

    `problem` is the code of what went wrong. A `streamed` answer took as long as its client listened.
    """

    request_id: str
    route: str
    method: str
    team: str
    client: str
    aoi_id: str | None
    status: int
    cache: str
    body_bytes: int
    duration: float
    upstream: float | None
    problem: str = ""
    streamed: bool = False


class RequestsReplayed(NamedTuple):
    """So many page requests were answered from memory without being parsed, and nobody was told of each.

    `body_bytes` and `seconds` are sums; `buckets` are the requests by LATENCY_BOUNDS.
    """

    method: str
    team: str
    status: int
    cache: CacheResult
    requests: int
    body_bytes: int
    seconds: float
    buckets: tuple[int, ...]


class PagesReplayed(NamedTuple):
    """So many of those requests were for pages of these AOIs."""

    by_aoi: Mapping[str, int]


class CacheAnswered(NamedTuple):
    """A page request was decided."""

    result: CacheResult


class TierLookup(NamedTuple):
    """One tier was asked for an entry."""

    tier: Tier
    result: Literal["hit", "miss", "error"]


class MemoryTierSize(NamedTuple):
    """The in-process tier holds this much now."""

    entries: int
    size: int


class Evicted(NamedTuple):
    """The in-process tier dropped so many entries to stay within its bytes."""

    entries: int


class CorruptValue(NamedTuple):
    """A stored value could not be used; `reason` never quotes it."""

    reason: str


PurgeScope = Literal["aoi", "all", "aoi_soft", "all_soft"]


def purge_scope(aoi_id: str | None, *, soft: bool) -> PurgeScope:
    """Name the scope of a purge of an AOI, or (None) of everything, as metrics do."""
    if aoi_id is None:
        return "all_soft" if soft else "all"
    return "aoi_soft" if soft else "aoi"


class Purged(NamedTuple):
    """Everything kept of an AOI, or of all, was ended, and confirmed."""

    scope: PurgeScope


class GenerationEnded(NamedTuple):
    """A fetched page showed another state of its listing than the pages before."""


class UpstreamQueue(NamedTuple):
    """Calls in flight, and calls waiting for a place."""

    in_flight: int
    queued: int


class UpstreamCalled(NamedTuple):
    """One request was sent to the vendor, caused by a team.

    `code` is a status, or timeout, connect, tls, reset, invalid, too_large. `lost`: on a kept connection that ended
    before an answer, which says nothing about the vendor.
    """

    code: str
    duration: float
    team: str
    lost: bool = False


class UpstreamConnection(NamedTuple):
    """A call began with a `new` or a `reused` connection, or something happened to a kept one.

    `replaced`: it was lost before the first byte of an answer. `dirty`: bytes arrived that no request had asked for.
    """

    kind: ConnectionKind


class ConnectionReuseSuspended(NamedTuple):
    """For ten minutes each call to the vendor (`host`) has a connection of its own; `reason` says why."""

    reason: str
    host: str


class UpstreamRetried(NamedTuple):
    """A further attempt is made because of `reason`, a code of the attempt before."""

    reason: str


class BreakerChanged(NamedTuple):
    """The vendor's circuit breaker is in another state."""

    state: BreakerState


class VendorPaused(NamedTuple):
    """The vendor asked to be left alone, here or at another replica, until then (Unix time)."""

    until: float


class VendorResumed(NamedTuple):
    """The vendor answers again after a pause."""


class FetchFailed(NamedTuple):
    """A fetch failed for good; `error` is the class of the exception, `message` is free of vendor bytes."""

    error: str
    message: str


class VendorForbidsStoring(NamedTuple):
    """The vendor's headers forbid to store what was fetched."""


class KeyLoaded(NamedTuple):
    """The vendor key was read, at `at` (Unix time)."""

    at: float


class KeyRefused(NamedTuple):
    """The vendor refused a key with this status."""

    status: int


class RedisCommand(NamedTuple):
    """One command was sent to Redis."""

    command: str
    result: Literal["ok", "error", "timeout"]
    duration: float


class RedisAvailabilityChanged(NamedTuple):
    """Redis became usable, or not; `reason` is free of secrets. It `refuses` if it answers, and permits too little."""

    up: bool
    reason: str
    refuses: bool = False


class AuthFailed(NamedTuple):
    """Credentials were refused: missing, unknown or conflicting."""

    reason: str


class RateLimited(NamedTuple):
    """A request was answered with 429, because the team's budget of this scope is exhausted."""

    team: str
    scope: Literal["requests", "misses"]


class Reloaded(NamedTuple):
    """The configuration was read anew, and taken over if it was `fine`."""

    fine: bool


class LoopLag(NamedTuple):
    """The event loop was this late for a timer."""

    seconds: float


class LogDropped(NamedTuple):
    """This many log lines were dropped: the output blocked for too long, or could not be written."""

    lines: int


class UnhandledError(NamedTuple):
    """Something unexpected happened while answering; the exception's class, and where it was raised."""

    error: str
    where: str
    request_id: str


Emit = Callable[[NamedTuple], None]
