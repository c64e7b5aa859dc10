"""What one process knows for the status page at a moment, as a value; and several of them as one.

Slots are steps of the monotonic clock, which all processes of a machine share. So rows of the same slot add up over
workers, whatever each of them takes the time of day to be.
"""

from __future__ import annotations

from functools import reduce
from typing import Literal, get_args

import msgspec

from gateway.core.events import BreakerState, ConnectionKind
from gateway.telemetry.status import rolling, space_saving
from gateway.telemetry.status.latency import BUCKETS
from gateway.telemetry.status.space_saving import Summary

STEP_SECONDS = 5.0
SLOTS = 181
"""A quarter of an hour, and the slot that has just begun."""
TEAM_STEP_SECONDS = 60.0
TEAM_SLOTS = 6
"""Five minutes, and the one that has just begun."""
BUSIEST = 200
"""AOIs that are counted at once, for each of the two halves of the time that is looked at."""
ERRORS = 20

# The columns of a row. First how page requests ended: as contract section 7 has it, or with an error that is the
# vendor's or ours (failed), with one that is the client's (refused), or because the client went away (left).
OUTCOMES = (
    "hit", "window", "stale", "negative", "miss", "coalesced", "refresh", "bypass", "stale_if_error",
    "failed", "refused", "left",
)  # fmt: skip
WITHOUT_VENDOR = OUTCOMES[:4]
CONNECTION_KINDS: tuple[ConnectionKind, ...] = get_args(ConnectionKind)
FETCHED = OUTCOMES[4:9]
(
    BODY_BYTES, CALLS_ANSWERED, CALLS_FAILED, KEY_REFUSALS, RETRIES, EVICTIONS,
    REDIS_ANSWERED, REDIS_FAILED, REDIS_HITS, REDIS_MISSES, AUTH_FAILED, LOG_DROPPED,
) = range(len(OUTCOMES), len(OUTCOMES) + 12)  # fmt: skip
CONNECTIONS = range(len(OUTCOMES) + 12, len(OUTCOMES) + 12 + len(CONNECTION_KINDS))
HIT_TIMES, MISS_TIMES, CALL_TIMES, REDIS_TIMES, LAG_TIMES = range(
    CONNECTIONS.stop, CONNECTIONS.stop + 5 * BUCKETS, BUCKETS
)
WIDTH = LAG_TIMES + BUCKETS

# The columns of a team's row.
TEAM_COLUMNS = ("requests", "without_vendor", "fetched", "limited", "refused", "failed", "bytes")
TEAM_WIDTH = len(TEAM_COLUMNS)

LifecycleState = Literal["starting", "ready", "leaving", "draining"]
"""Where in its life a process is; `leaving` if it goes alone, while others serve on."""

_SEVERITY: dict[BreakerState, int] = {"closed": 0, "half_open": 1, "open": 2}
# Of one worker that goes alone, or has just come, the others know nothing; all drain together.
_LIFE: tuple[LifecycleState, ...] = ("draining", "ready", "starting", "leaving")


class Counts(msgspec.Struct, array_like=True, frozen=True):
    """Rows by slot, and the sum of those that are older."""

    rows: rolling.Rows
    past: list[int]


class ErrorSeen(msgspec.Struct, frozen=True):
    """A page request that ended with a 5xx, at `at` (Unix time)."""

    at: float
    status: int
    code: str
    team: str
    aoi_id: str | None
    request_id: str


class VendorFailure(msgspec.Struct, frozen=True):
    """A fetch that failed for good, at `at` (Unix time); `message` is free of vendor bytes."""

    at: float
    error: str
    message: str


class Reload(msgspec.Struct, frozen=True):
    """How the last reload ended, at `at` (Unix time); `why` says in words why it was refused."""

    at: float
    successful: bool
    why: str | None = None


class Configuration(msgspec.Struct, frozen=True):
    """Which configuration is live, and since when (Unix time).

    `file` is its path, or says that there is none. `digest` is a SHA-256 over all settings in effect but secrets.
    """

    file: str
    loaded_at: float
    digest: str
    last_reload: Reload | None = None
    workers_agree: bool = True


class State(msgspec.Struct, frozen=True):
    """How things stand. Times are Unix time in seconds; None is not known, or has not happened."""

    life: LifecycleState = "ready"
    breaker: BreakerState = "closed"
    calls_in_flight: int = 0
    calls_queued: int = 0
    most_in_flight: int = 0
    most_queued: int = 0
    paused_until: float | None = None
    key_loaded_at: float | None = None
    key_refused_at: float | None = None
    key_accepted_at: float | None = None
    failure: VendorFailure | None = None
    redis: bool = False
    redis_up: bool | None = None
    redis_turned_at: float | None = None
    redis_reason: str = ""
    entries: int = 0
    size: int = 0
    most_size: int = 0


class Snapshot(msgspec.Struct, frozen=True):
    """What one process, or `workers` of them, had counted when the monotonic clock showed `taken`."""

    taken: float
    now: float
    started: float
    counts: Counts
    teams: dict[str, Counts]
    busiest: Summary
    errors: list[ErrorSeen]
    state: State
    configuration: Configuration
    workers: int = 1


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    """As bytes, for another process of the same version."""
    return _ENCODER.encode(snapshot)


def decode(data: bytes) -> Snapshot:
    """What `encode` made bytes of."""
    return _DECODER.decode(data)


def totals(snapshot: Snapshot) -> Snapshot:
    """What remains of a process that has ended: what it counted, and no state."""
    return msgspec.structs.replace(snapshot, state=State(), workers=0)


def merge(one: Snapshot, other: Snapshot) -> Snapshot:
    """Those of two processes as one."""
    newer, older = (one, other) if one.taken >= other.taken else (other, one)
    # Of a process that has ended nothing stands any more.
    living = [each for each in (newer, older) if each.workers] or [newer]
    return Snapshot(
        taken=newer.taken,
        now=newer.now,
        started=min(each.started for each in living),
        counts=_counts(one.counts, other.counts, int(newer.taken / STEP_SECONDS) - SLOTS + 1),
        teams=_teams(one.teams, other.teams, int(newer.taken / TEAM_STEP_SECONDS) - TEAM_SLOTS + 1),
        busiest=space_saving.merge(one.busiest, other.busiest, BUSIEST),
        errors=sorted((*one.errors, *other.errors), key=lambda error: -error.at)[:ERRORS],
        state=reduce(_states, (each.state for each in living)),
        configuration=reduce(_configurations, (each.configuration for each in living)),
        workers=one.workers + other.workers,
    )


def _counts(one: Counts, other: Counts, oldest: int) -> Counts:
    return Counts(*rolling.merge((one.rows, one.past), (other.rows, other.past), oldest))


def _teams(one: dict[str, Counts], other: dict[str, Counts], oldest: int) -> dict[str, Counts]:
    nothing = Counts({}, [0] * TEAM_WIDTH)
    return {
        name: _counts(one.get(name, nothing), other.get(name, nothing), oldest) for name in (one.keys() | other.keys())
    }


def _states(one: State, other: State) -> State:
    """Amounts add up; of what differs, the worse is told."""
    turned = max((one, other), key=lambda state: (state.redis_up is False, state.redis_turned_at or 0.0))
    return State(
        life=min(one.life, other.life, key=_LIFE.index),
        breaker=max(one.breaker, other.breaker, key=_SEVERITY.__getitem__),
        calls_in_flight=one.calls_in_flight + other.calls_in_flight,
        calls_queued=one.calls_queued + other.calls_queued,
        most_in_flight=one.most_in_flight + other.most_in_flight,
        most_queued=one.most_queued + other.most_queued,
        paused_until=_latest(one.paused_until, other.paused_until),
        key_loaded_at=min(filter(None, (one.key_loaded_at, other.key_loaded_at)), default=None),
        key_refused_at=_latest(one.key_refused_at, other.key_refused_at),
        key_accepted_at=_latest(one.key_accepted_at, other.key_accepted_at),
        failure=max(filter(None, (one.failure, other.failure)), key=lambda failure: failure.at, default=None),
        redis=one.redis or other.redis,
        redis_up=turned.redis_up,
        redis_turned_at=turned.redis_turned_at,
        redis_reason=turned.redis_reason,
        entries=one.entries + other.entries,
        size=one.size + other.size,
        most_size=one.most_size + other.most_size,
    )


def _latest(*moments: float | None) -> float | None:
    return max(filter(None, moments), default=None)


def _configurations(one: Configuration, other: Configuration) -> Configuration:
    """The one that was loaded last, and the outcome that was told last: all workers are told to reload at once."""
    newer = max(one, other, key=lambda configuration: configuration.loaded_at)
    told = [each.last_reload for each in (one, other) if each.last_reload is not None]
    agree = one.workers_agree and other.workers_agree and one.digest == other.digest
    last = min(told, key=lambda reload: (reload.successful, -reload.at), default=None)
    return msgspec.structs.replace(newer, last_reload=last, workers_agree=agree)
