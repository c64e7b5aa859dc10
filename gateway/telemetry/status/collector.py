"""The status page's sink: facts in, counts by slots of time, what stands now, and the last errors.

It counts for every request whether somebody looks or not, so it costs about a microsecond: integers in rows that are
there already. Everything that takes longer is done when somebody looks, on a snapshot. Memory is bounded by the
configuration (teams) and by constants (all else).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.core import events
from gateway.core.clock import Clock
from gateway.core.events import LATENCY_BOUNDS
from gateway.telemetry.status import snapshot as columns
from gateway.telemetry.status.rolling import Rolling
from gateway.telemetry.status.snapshot import (
    Configuration,
    Counts,
    ErrorSeen,
    LifecycleState,
    Snapshot,
    State,
    VendorFailure,
)
from gateway.telemetry.status.space_saving import SpaceSaving, Summary, merge

_COLUMN = {name: column for column, name in enumerate(columns.OUTCOMES)}
_FAILED, _REFUSED, _LEFT = _COLUMN["failed"], _COLUMN["refused"], _COLUMN["left"]
_REQUESTS, _WITHOUT_VENDOR, _FETCHED, _TEAM_LIMITED, _TEAM_REFUSED, _TEAM_FAILED, _TEAM_BYTES = range(
    columns.TEAM_WIDTH
)
# For each way to be answered: its column, that of the team's row, and the first one of its latencies.
_ANSWERED = {
    **{name: (_COLUMN[name], _WITHOUT_VENDOR, columns.HIT_TIMES) for name in columns.WITHOUT_VENDOR},
    **{name: (_COLUMN[name], _FETCHED, columns.MISS_TIMES) for name in columns.FETCHED},
}
_CONNECTIONS = dict(zip(columns.CONNECTION_KINDS, columns.CONNECTIONS, strict=True))
_CLIENT_LEFT = 499  # as in `http.router`
_NO_ANSWER = frozenset(("401", "403", "407", "408", "429"))
_SLOTS_PER_TEAM_SLOT = int(columns.TEAM_STEP_SECONDS / columns.STEP_SECONDS)
# The busiest AOIs are those of one such time that is over, and of the one that runs.
_HALF_SLOTS = 60
_NOBODY = Summary([], 0)


class _Team:
    """A team's counts, and the row of them that is counted in now."""

    __slots__ = ("rolling", "row")

    def __init__(self, slot: int) -> None:
        self.rolling = Rolling(columns.TEAM_SLOTS, columns.TEAM_WIDTH)
        self.row = self.rolling.at(slot)


class StatusCollector:
    """Subscribe `handlers` to facts; `snapshot` is what they came to. `state` holds what is fixed at start."""

    def __init__(self, clock: Clock, state: State) -> None:
        self._clock = clock
        self._monotonic = clock.monotonic
        self._started = clock.now()
        self._state = state
        self._rolling = Rolling(columns.SLOTS, columns.WIDTH)
        self._until = -1.0
        self._team_slot = 0
        self._row: list[int] = []
        self._teams: dict[str, _Team] = {}
        self._aois = SpaceSaving(columns.BUSIEST)
        self._aois_before = _NOBODY
        self._half = 0
        self._errors: deque[ErrorSeen] = deque(maxlen=columns.ERRORS)
        self.handlers: dict[type, Callable[[Any], None]] = {
            events.RequestServed: self._served,
            events.RequestsReplayed: self._replayed,
            events.PagesReplayed: self._pages_replayed,
            events.TierLookup: self._looked_up,
            events.MemoryTierSize: lambda fact: self._stands(entries=fact.entries, size=fact.size),
            events.Evicted: lambda fact: self._count(columns.EVICTIONS, fact.entries),
            events.UpstreamQueue: lambda fact: self._stands(calls_in_flight=fact.in_flight, calls_queued=fact.queued),
            events.UpstreamCalled: self._called,
            events.UpstreamConnection: lambda fact: self._count(_CONNECTIONS[fact.kind]),
            events.UpstreamRetried: lambda _: self._count(columns.RETRIES),
            events.FetchFailed: self._fell_short,
            events.BreakerChanged: lambda fact: self._stands(breaker=fact.state),
            events.VendorPaused: lambda fact: self._stands(paused_until=fact.until),
            events.VendorResumed: lambda _: self._stands(paused_until=None),
            events.KeyLoaded: lambda fact: self._stands(key_loaded_at=fact.at),
            events.KeyRefused: self._key_refused,
            events.RedisCommand: self._redis_answered,
            events.RedisAvailabilityChanged: lambda fact: self._stands(
                redis_up=fact.up, redis_reason=fact.reason, redis_turned_at=clock.now()
            ),
            events.AuthFailed: lambda _: self._count(columns.AUTH_FAILED),
            events.LoopLag: lambda fact: self._time(columns.LAG_TIMES, fact.seconds),
            events.LogDropped: lambda fact: self._count(columns.LOG_DROPPED, fact.lines),
        }
        self._turn()

    def snapshot(self, configuration: Configuration, life: LifecycleState) -> Snapshot:
        """What was counted so far, and how things stand."""
        self._now()
        busiest = self._aois.summary()
        return Snapshot(
            taken=self._clock.monotonic(),
            now=self._clock.now(),
            started=self._started,
            counts=Counts(self._rolling.rows(), self._rolling.past),
            teams={name: Counts(team.rolling.rows(), team.rolling.past) for name, team in self._teams.items()},
            busiest=merge(busiest, self._aois_before, columns.BUSIEST),
            errors=list(reversed(self._errors)),
            state=msgspec.structs.replace(self._state, life=life),
            configuration=configuration,
        )

    def _now(self) -> list[int]:
        """The row that is counted in."""
        if self._monotonic() >= self._until:
            self._turn()
        return self._row

    def _turn(self) -> None:
        slot = int(self._monotonic() / columns.STEP_SECONDS)
        self._until = (slot + 1) * columns.STEP_SECONDS
        self._row = self._rolling.at(slot)
        self._team_slot = slot // _SLOTS_PER_TEAM_SLOT
        for team in self._teams.values():
            team.row = team.rolling.at(self._team_slot)
        half = slot // _HALF_SLOTS
        if half > self._half:
            self._aois_before = self._aois.summary() if half == self._half + 1 else _NOBODY
            self._aois = SpaceSaving(columns.BUSIEST)
            self._half = half

    def _add(self, n: int, column: int, theirs: int, team: str, body_bytes: int) -> None:
        if self._monotonic() >= self._until:
            self._turn()
        row = self._row
        row[column] += n
        row[columns.BODY_BYTES] += body_bytes
        known = self._teams.get(team)
        if known is None:
            known = self._teams[team] = _Team(self._team_slot)
        row = known.row
        row[_REQUESTS] += n
        row[theirs] += n
        row[_TEAM_BYTES] += body_bytes

    def _count(self, column: int, n: int = 1) -> None:
        self._now()[column] += n

    def _time(self, first: int, seconds: float) -> None:
        self._now()[first + bisect_left(LATENCY_BOUNDS, seconds)] += 1

    def _stands(self, **changed: Any) -> None:
        self._state = msgspec.structs.replace(self._state, **changed)

    def _served(self, fact: events.RequestServed) -> None:
        if fact.route != "assets":
            return
        cache = fact.cache
        if cache:
            column, theirs, first = _ANSWERED[cache]
            self._add(1, column, theirs, fact.team, fact.body_bytes)
            self._row[first + bisect_left(LATENCY_BOUNDS, fact.duration)] += 1
            if fact.aoi_id is not None:
                self._aois.add(fact.aoi_id)
        elif fact.status >= 500:
            self._add(1, _FAILED, _TEAM_FAILED, fact.team, fact.body_bytes)
            self._errors.append(
                ErrorSeen(self._clock.now(), fact.status, fact.problem, fact.team, fact.aoi_id, fact.request_id)
            )
        elif fact.status >= 400:  # a preflight is no request for a page
            theirs = _TEAM_LIMITED if fact.status == 429 else _TEAM_REFUSED
            self._add(1, _LEFT if fact.status == _CLIENT_LEFT else _REFUSED, theirs, fact.team, fact.body_bytes)

    def _replayed(self, fact: events.RequestsReplayed) -> None:
        column, theirs, first = _ANSWERED[fact.cache]
        self._add(fact.requests, column, theirs, fact.team, fact.body_bytes)
        for index, count in enumerate(fact.buckets, start=first):
            self._row[index] += count

    def _pages_replayed(self, fact: events.PagesReplayed) -> None:
        self._now()
        for aoi_id, requests in fact.by_aoi.items():
            self._aois.add(aoi_id, requests)

    def _looked_up(self, fact: events.TierLookup) -> None:
        if fact.tier == "redis":
            self._count(columns.REDIS_HITS if fact.result == "hit" else columns.REDIS_MISSES)

    def _called(self, fact: events.UpstreamCalled) -> None:
        if fact.lost:
            return
        answered = fact.code.isdecimal() and int(fact.code) < 500 and fact.code not in _NO_ANSWER
        self._count(columns.CALLS_ANSWERED if answered else columns.CALLS_FAILED)
        self._time(columns.CALL_TIMES, fact.duration)
        if answered:
            self._stands(key_accepted_at=self._clock.now())

    def _fell_short(self, fact: events.FetchFailed) -> None:
        self._stands(failure=VendorFailure(self._clock.now(), fact.error, fact.message))

    def _key_refused(self, _: events.KeyRefused) -> None:
        self._count(columns.KEY_REFUSALS)
        self._stands(key_refused_at=self._clock.now())

    def _redis_answered(self, fact: events.RedisCommand) -> None:
        self._count(columns.REDIS_ANSWERED if fact.result == "ok" else columns.REDIS_FAILED)
        self._time(columns.REDIS_TIMES, fact.duration)
