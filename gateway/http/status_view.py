"""The words of the status page: every figure as the text that is shown, and every table as rows of texts.

The page is rendered from this, and the event stream sends it, so that a figure reads the same before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from gateway.telemetry.status.document import Latency, Report, Series
from gateway.telemetry.status.health import Finding, Level

_NOTHING = "-"
_OUTCOMES = {
    "hit": "from the cache", "window": "cut from cached pages", "stale": "from the cache, being refreshed",
    "negative": "a cached 404", "miss": "fetched from the vendor", "coalesced": "shared somebody else's fetch",
    "refresh": "fetched because a client said so", "bypass": "fetched, not kept",
    "stale_if_error": "an old page, as the vendor failed", "failed": "an error (5xx)", "refused": "refused (4xx)",
    "left": "the client went away",
}  # fmt: skip
_BREAKER = {"closed": "closed (all is well)", "open": "open (left alone)", "half_open": "half open (being tried)"}
_LIFE = {"starting": "starting", "ready": "ready", "leaving": "going away", "draining": "draining"}

Rows = list[list[str]]


class StatusView(msgspec.Struct, frozen=True):
    """Texts by the id of their element, and tables' rows by the id of theirs."""

    level: Level
    verdict: str
    findings: list[Finding]
    texts: dict[str, str]
    rows: dict[str, Rows]


def view_of(told: Report) -> StatusView:
    """Put a report into words."""
    return StatusView(
        level=told.verdict.level,
        verdict=told.verdict.sentence,
        findings=told.verdict.findings,
        texts=_instance(told) | _requests(told) | _vendor(told) | _stores(told) | _configuration(told),
        rows={
            "outcomes": _outcomes(told),
            "latencies": _latencies(told),
            "teams": _teams(told),
            "aois": [[one.aoi_id, _count(one.requests), _count(one.over)] for one in told.busiest_aois],
            "errors": _errors(told),
            "minutes": _minutes(told.series),
        },
    )


def _instance(told: Report) -> dict[str, str]:
    instance = told.instance
    workers = "" if instance.workers == 1 else f", {instance.workers} workers"
    return {
        "instance": f"{instance.name} ({instance.version}{workers})",
        "life": _LIFE[instance.life],
        "uptime": _duration(instance.time - instance.started_at),
        "time": _clock(instance.time),
    }


def _requests(told: Report) -> dict[str, str]:
    return {
        "requests": f"{_count(told.requests.count)} ({told.requests.per_second:,.1f} per second)",
        "requests-total": _count(told.requests_total.count),
        "without-vendor": _share(told.requests.without_vendor),
        "bytes": _bytes(told.requests.body_bytes),
        "saved": _count(told.vendor.calls_saved_recent),
        "saved-total": f"{_count(told.vendor.calls_saved)} (with {_count(told.vendor.calls)} calls made)",
        "hits-p99": _seconds(told.hits.p99),
        "misses-p99": _seconds(told.misses.p99),
    }


def _vendor(told: Report) -> dict[str, str]:
    vendor = told.vendor
    failure = vendor.last_failure
    return {
        "calls": f"{_count(vendor.calls_recent)}, of which {_count(vendor.calls_failed_recent)} failed",
        "connections": ", ".join(f"{_count(number)} {kind}" for kind, number in vendor.connections_recent.items()),
        "retries": _count(vendor.retries_recent),
        "breaker": _BREAKER[vendor.breaker],
        "queue": f"{_count(vendor.in_flight)} of {_count(vendor.most_in_flight)} calls under way, "
        f"{_count(vendor.queued)} of {_count(vendor.most_queued)} waiting",
        "pause": "none" if vendor.paused_for is None else f"{vendor.paused_for:.0f} more seconds",
        "key-age": _NOTHING if vendor.key_age is None else f"loaded {_duration(vendor.key_age)} ago",
        "key-refusals": _count(vendor.key_refusals_recent),
        "failure": "none" if failure is None else f"{_clock(failure.at)}: {failure.message} ({failure.error})",
    }


def _stores(told: Report) -> dict[str, str]:
    redis, memory, process = told.redis, told.memory, told.process
    asked = {None: "not asked yet", True: "answers", False: f"cannot be used: {redis.reason}"}[redis.up]
    since = "" if redis.since is None else f", since {_clock(redis.since)}"
    return {
        "redis": f"{asked}{since}" if redis.configured else "not configured: pages are kept in memory only",
        "redis-commands": f"{_count(redis.commands_recent)}, of which {_count(redis.commands_failed_recent)} failed",
        "redis-lookups": f"{_count(redis.hits_recent)} found, {_count(redis.misses_recent)} not",
        "entries": _count(memory.entries),
        "size": f"{_bytes(memory.bytes)} of {_bytes(memory.max_bytes)}",
        "evictions": f"{_count(memory.evictions_recent)} ({_count(memory.evictions)} since the start)",
        "lag": _seconds(process.loop_lag.p99),
        "credentials": _count(process.credentials_refused_recent),
        "dropped": _count(process.log_lines_dropped),
    }


def _configuration(told: Report) -> dict[str, str]:
    live = told.configuration
    last = live.last_reload
    if last is None:
        outcome = "none since the start"
    elif last.successful:
        outcome = f"taken over, {_clock(last.at)}"
    else:
        outcome = f"refused, {_clock(last.at)}: {last.why}"
    return {
        "file": live.file,
        "loaded": _clock(live.loaded_at),
        "digest": live.digest[:16] if live.workers_agree else f"{live.digest[:16]}, and other workers have others",
        "reload": outcome,
    }


def _outcomes(told: Report) -> Rows:
    recent, ever = told.requests.outcomes, told.requests_total.outcomes
    return [[_OUTCOMES[name], _count(recent[name]), _count(ever[name])] for name in _OUTCOMES if ever[name]]


def _latencies(told: Report) -> Rows:
    several = {"hits": told.hits, "misses": told.misses, "vendor calls": told.vendor.latency}
    if told.redis.configured:
        several["Redis commands"] = told.redis.latency
    return [[name, *_quantiles(latency)] for name, latency in several.items()]


def _quantiles(latency: Latency) -> Sequence[str]:
    return (_count(latency.count), *map(_seconds, (latency.p50, latency.p90, latency.p99)))


def _teams(told: Report) -> Rows:
    return [
        [
            team.name,
            *map(_count, (team.requests, team.without_vendor, team.fetched, team.limited, team.refused, team.failed)),
            _bytes(team.bytes),
            _count(team.requests_total),
        ]
        for team in told.teams
    ]  # fmt: skip


def _errors(told: Report) -> Rows:
    return [
        [_clock(one.at), f"{one.status} {one.code}".strip(), one.team, one.aoi_id or _NOTHING, one.request_id]
        for one in told.errors
    ]  # fmt: skip


def _minutes(series: Series) -> Rows:
    """The charts for those who do not see them: a row for each minute, the latest first."""
    per = round(60 / series.step)
    rows = []
    for first in range(0, len(series.requests), per):
        part = slice(first, first + per)
        requests, without = sum(series.requests[part]), sum(series.without_vendor[part])
        slowest = [
            _seconds(max(filter(None, quantiles[part]), default=None))
            for quantiles in (series.hits_p99, series.misses_p99)
        ]
        began = _clock(series.start + first * series.step)
        share = _share(without / requests if requests else None)
        rows.append([began, _count(requests), share, _count(sum(series.failed[part])), *slowest])
    return rows[::-1]


def _count(number: int) -> str:
    return f"{number:,}"


def _share(share: float | None) -> str:
    return _NOTHING if share is None else f"{share * 100:.1f} %"


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return _NOTHING
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def _duration(seconds: float) -> str:
    """The two largest units of it."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= length or (unit == "s" and not parts):
            parts.append(f"{left // length} {unit}")
            left %= length
    return " ".join(parts[:2])


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
