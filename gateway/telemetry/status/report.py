"""From a snapshot to what people and programs want to read: sums over the last while, shares, quantiles, a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from gateway.telemetry.status import snapshot as columns
from gateway.telemetry.status.document import (
    BusyAoi,
    Instance,
    Latency,
    Memory,
    Process,
    Redis,
    Report,
    Requests,
    Series,
    TeamUse,
    Vendor,
)
from gateway.telemetry.status.health import Vitals, verdict
from gateway.telemetry.status.latency import BUCKETS, quantiles
from gateway.telemetry.status.rolling import added, total
from gateway.telemetry.status.snapshot import Counts, Snapshot

RECENT_SECONDS = 300
_RECENT = int(RECENT_SECONDS / columns.STEP_SECONDS)
_MINUTE = int(60 / columns.STEP_SECONDS)
# A refused key that no accepted one followed is tried once in 10 s while anybody asks.
_KEY_SECONDS = 60.0
_FEWEST_LAGS = 20
_TEAMS = 50
_AOIS = 10


def report(snapshot: Snapshot, name: str, version: str) -> Report:
    """The document of an instance of this name and version."""
    state, counts = snapshot.state, snapshot.counts
    newest = int(snapshot.taken / columns.STEP_SECONDS)
    recent, minute = _since(counts, newest - _RECENT), _since(counts, newest - _MINUTE)
    ever = added(counts.past, total(counts.rows.values(), columns.WIDTH))
    return Report(
        format=1,
        verdict=verdict(_vitals(snapshot, recent, minute)),
        instance=Instance(name, version, snapshot.workers, state.life, snapshot.now, snapshot.started),
        recent_seconds=RECENT_SECONDS,
        requests=_requests(recent, min(RECENT_SECONDS, snapshot.now - snapshot.started)),
        requests_total=_requests(ever, snapshot.now - snapshot.started),
        hits=_latency(recent, columns.HIT_TIMES),
        misses=_latency(recent, columns.MISS_TIMES),
        vendor=_vendor(snapshot, recent, ever),
        redis=_redis(snapshot, recent),
        memory=Memory(
            state.entries, state.size, state.most_size, ever[columns.EVICTIONS], recent[columns.EVICTIONS]
        ),
        process=Process(
            _latency(recent, columns.LAG_TIMES), recent[columns.AUTH_FAILED], ever[columns.LOG_DROPPED]
        ),
        teams=_teams(snapshot),
        busiest_aois=[BusyAoi(one.key, one.count, one.over) for one in snapshot.busiest.keys[:_AOIS]],
        errors=snapshot.errors,
        configuration=snapshot.configuration,
        series=_series(snapshot, newest),
    )  # fmt: skip


def _since(counts: Counts, slot: int) -> list[int]:
    """The sum of the rows from this slot on."""
    return total((row for number, row in counts.rows.items() if number >= slot), columns.WIDTH)


def _outcomes(row: Sequence[int]) -> dict[str, int]:
    return dict(zip(columns.OUTCOMES, row, strict=False))


def _without_vendor(row: Sequence[int]) -> int:
    return sum(row[: len(columns.WITHOUT_VENDOR)])


def _answered(row: Sequence[int]) -> int:
    """Requests that had a page as their answer, or an error that is not the client's."""
    return sum(row[: columns.OUTCOMES.index("refused")])


def _requests(row: Sequence[int], seconds: float) -> Requests:
    outcomes, answered = _outcomes(row), _answered(row)
    count = sum(outcomes.values())
    return Requests(
        count,
        round(count / max(seconds, 1.0), 2),
        round(_without_vendor(row) / answered, 4) if answered else None,
        outcomes,
        row[columns.BODY_BYTES],
    )


def _latency(row: Sequence[int], first: int) -> Latency:
    counts = row[first : first + BUCKETS]
    return Latency(sum(counts), *_quantiles(counts, (0.5, 0.9, 0.99)))


def _quantiles(counts: Sequence[int], shares: Sequence[float]) -> list[float | None]:
    return [None if found is None else round(found, 6) for found in quantiles(counts, shares)]


def _vendor(snapshot: Snapshot, recent: Sequence[int], ever: Sequence[int]) -> Vendor:
    state, now = snapshot.state, snapshot.now
    return Vendor(
        calls=_calls(ever),
        calls_recent=_calls(recent),
        calls_failed_recent=recent[columns.CALLS_FAILED],
        calls_saved=_saved(ever),
        calls_saved_recent=_saved(recent),
        retries_recent=recent[columns.RETRIES],
        breaker=state.breaker,
        in_flight=state.calls_in_flight,
        most_in_flight=state.most_in_flight,
        queued=state.calls_queued,
        most_queued=state.most_queued,
        paused_for=_paused(snapshot),
        key_age=None if state.key_loaded_at is None else round(max(0.0, now - state.key_loaded_at), 1),
        key_refusals_recent=recent[columns.KEY_REFUSALS],
        last_failure=state.failure,
        latency=_latency(recent, columns.CALL_TIMES),
        connections_recent={
            kind: recent[column] for kind, column in zip(columns.CONNECTION_KINDS, columns.CONNECTIONS, strict=True)
        },
    )


def _calls(row: Sequence[int]) -> int:
    return row[columns.CALLS_ANSWERED] + row[columns.CALLS_FAILED]


def _saved(row: Sequence[int]) -> int:
    """Without the gateway each of these requests would have been a call; pages fetched ahead may make it less."""
    return max(0, _answered(row) - row[columns.OUTCOMES.index("failed")] - _calls(row))


def _paused(snapshot: Snapshot) -> float | None:
    until = snapshot.state.paused_until
    return None if until is None or until <= snapshot.now else round(until - snapshot.now, 1)


def _redis(snapshot: Snapshot, recent: Sequence[int]) -> Redis:
    state = snapshot.state
    return Redis(
        configured=state.redis,
        up=state.redis_up,
        since=state.redis_turned_at,
        reason=state.redis_reason,
        commands_recent=recent[columns.REDIS_ANSWERED] + recent[columns.REDIS_FAILED],
        commands_failed_recent=recent[columns.REDIS_FAILED],
        hits_recent=recent[columns.REDIS_HITS],
        misses_recent=recent[columns.REDIS_MISSES],
        latency=_latency(recent, columns.REDIS_TIMES),
    )


def _teams(snapshot: Snapshot) -> list[TeamUse]:
    """Those who asked most of late, or ever."""
    found = []
    for name, counts in snapshot.teams.items():
        recent = total(counts.rows.values(), columns.TEAM_WIDTH)
        ever = added(counts.past, recent)
        found.append((-recent[0], -ever[0], name, recent, ever))
    return [_use(name, recent, ever) for _, _, name, recent, ever in sorted(found)[:_TEAMS]]


def _use(name: str, recent: list[int], ever: list[int]) -> TeamUse:
    requests, without_vendor, fetched, limited, refused, failed, body_bytes = recent
    return TeamUse(
        name, requests, without_vendor, fetched, limited, refused, failed, body_bytes,
        requests_total=ever[0], limited_total=ever[columns.TEAM_COLUMNS.index("limited")],
    )  # fmt: skip


def _series(snapshot: Snapshot, newest: int) -> Series:
    """The slots that are over: the one that has begun would seem to be a fall."""
    rows = snapshot.counts.rows
    slots = range(newest - columns.SLOTS + 1, newest)
    nothing = [0] * columns.WIDTH
    shown = [rows.get(slot, nothing) for slot in slots]
    hits, misses = (
        [_quantiles(row[first : first + BUCKETS], (0.5, 0.99)) for row in shown]
        for first in (columns.HIT_TIMES, columns.MISS_TIMES)
    )
    return Series(
        start=round(snapshot.now - (snapshot.taken - slots[0] * columns.STEP_SECONDS), 3),
        step=columns.STEP_SECONDS,
        requests=[sum(row[: len(columns.OUTCOMES)]) for row in shown],
        without_vendor=[_without_vendor(row) for row in shown],
        failed=[row[columns.OUTCOMES.index("failed")] for row in shown],
        hits_p50=[p50 for p50, _ in hits],
        hits_p99=[p99 for _, p99 in hits],
        misses_p50=[p50 for p50, _ in misses],
        misses_p99=[p99 for _, p99 in misses],
    )


def _vitals(snapshot: Snapshot, recent: Sequence[int], minute: Sequence[int]) -> Vitals:
    state, configuration = snapshot.state, snapshot.configuration
    outcomes = _outcomes(minute)
    codes = Counter(error.code for error in snapshot.errors if snapshot.now - error.at <= 60)
    last = configuration.last_reload
    return Vitals(
        recent=_answered(recent),
        without_vendor=_without_vendor(recent),
        requests=_answered(minute),
        failed=outcomes["failed"],
        code=codes.most_common(1)[0][0] if codes else "",
        served_old=outcomes["stale_if_error"],
        draining=state.life == "draining",
        key=_key(snapshot),
        breaker_open=state.breaker != "closed",
        paused_for=_paused(snapshot),
        in_flight=state.calls_in_flight,
        queued=state.calls_queued,
        redis_down=state.redis and state.redis_up is False,
        reload_refused=last.why or "see the log" if last is not None and not last.successful else None,
        workers_agree=configuration.workers_agree,
        lag=_lag(minute),
        log_dropped=minute[columns.LOG_DROPPED],
    )


def _lag(minute: Sequence[int]) -> float | None:
    """How late a tenth of the timers were: a single one that was late tells of a hiccup, and not of too much work."""
    lags = _latency(minute, columns.LAG_TIMES)
    return lags.p90 if lags.count >= _FEWEST_LAGS else None


def _key(snapshot: Snapshot) -> Literal["fine", "refused", "sometimes refused"]:
    refused, accepted = snapshot.state.key_refused_at, snapshot.state.key_accepted_at
    if refused is None or snapshot.now - refused > _KEY_SECONDS:
        return "fine"
    if snapshot.state.key_loaded_at is not None and snapshot.state.key_loaded_at > refused:
        return "fine"  # another key is there, and was not refused yet
    return "refused" if accepted is None or accepted < refused else "sometimes refused"
