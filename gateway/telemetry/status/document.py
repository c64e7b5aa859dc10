"""The shape of `/status.json`.

It is a promise: fields are added, never renamed or taken away while `format` is 1. Times are Unix time, durations
seconds, sizes bytes, shares between 0 and 1; null is "nothing to tell". `recent` is the last five minutes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.core.events import BreakerState
from gateway.telemetry.status.health import Verdict
from gateway.telemetry.status.snapshot import Configuration, ErrorSeen, LifecycleState, VendorFailure


class Instance(msgspec.Struct, frozen=True):
    """Who speaks: this instance, with all its workers, and no other replica."""

    name: str
    version: str
    workers: int
    life: LifecycleState
    time: float
    started_at: float


class Requests(msgspec.Struct, frozen=True):
    """Page requests by how they ended (`outcomes`), with the share that was answered without the vendor."""

    count: int
    per_second: float
    without_vendor: float | None
    outcomes: dict[str, int]
    body_bytes: int


class Latency(msgspec.Struct, frozen=True):
    """Quantiles in seconds, out of so many."""

    count: int
    p50: float | None
    p90: float | None
    p99: float | None


class Vendor(msgspec.Struct, frozen=True):
    """The vendor, as this instance sees it. `calls_saved`: pages answered less calls made, since the start.

    `connections_recent`: calls that began on a `new` or on a `reused` connection; kept connections that were `replaced`
    because they had been lost, and those that were `dirty`, as unsolicited bytes arrived on them.
    """

    calls: int
    calls_recent: int
    calls_failed_recent: int
    calls_saved: int
    calls_saved_recent: int
    retries_recent: int
    breaker: BreakerState
    in_flight: int
    most_in_flight: int
    queued: int
    most_queued: int
    paused_for: float | None
    key_age: float | None
    key_refusals_recent: int
    last_failure: VendorFailure | None
    latency: Latency
    connections_recent: dict[str, int]


class Redis(msgspec.Struct, frozen=True):
    """Redis, if there is one; `up` is null until it was asked for the first time."""

    configured: bool
    up: bool | None
    since: float | None
    reason: str
    commands_recent: int
    commands_failed_recent: int
    hits_recent: int
    misses_recent: int
    latency: Latency


class Memory(msgspec.Struct, frozen=True):
    """The in-process tier."""

    entries: int
    bytes: int
    max_bytes: int
    evictions: int
    evictions_recent: int


class Process(msgspec.Struct, frozen=True):
    """The processes themselves: how late their loops are for a timer, and what they refused and dropped."""

    loop_lag: Latency
    credentials_refused_recent: int
    log_lines_dropped: int


class TeamUse(msgspec.Struct, frozen=True):
    """What one team did of late, and since the start.

    `limited` are its 429s, `refused` all other 4xx and those who went away before they had an answer.
    """

    name: str
    requests: int
    without_vendor: int
    fetched: int
    limited: int
    refused: int
    failed: int
    bytes: int
    requests_total: int
    limited_total: int


class BusyAoi(msgspec.Struct, frozen=True):
    """An AOI and its requests in the last five to ten minutes, of which `over` may be too many."""

    aoi_id: str
    requests: int
    over: int


class Series(msgspec.Struct, frozen=True):
    """The last quarter of an hour by steps of time, the first of which began at `start`. Latencies are seconds."""

    start: float
    step: float
    requests: list[int]
    without_vendor: list[int]
    failed: list[int]
    hits_p50: list[float | None]
    hits_p99: list[float | None]
    misses_p50: list[float | None]
    misses_p99: list[float | None]


class Report(msgspec.Struct, frozen=True):
    """All of it."""

    format: Literal[1]
    verdict: Verdict
    instance: Instance
    recent_seconds: int
    requests: Requests
    requests_total: Requests
    hits: Latency
    misses: Latency
    vendor: Vendor
    redis: Redis
    memory: Memory
    process: Process
    teams: list[TeamUse]
    busiest_aois: list[BusyAoi]
    errors: list[ErrorSeen]
    configuration: Configuration
    series: Series
