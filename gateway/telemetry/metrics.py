"""The Prometheus sink: facts in, series out, on a registry that is handed in.

This file owns names, labels and buckets (contract, section 7). Labels come from the program and the configuration,
never from a client. Children are kept, because looking one up costs four times what counting does; and the series that
are known beforehand start at 0, because a rate over a series that appears with its first error misses that error.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from gateway import __version__
from gateway.core import events
from gateway.core.events import BreakerState
from gateway.telemetry import exposition
from gateway.telemetry.aggregates import Aggregates

_UPSTREAM_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30)
_REDIS_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

_CACHE_RESULTS = ("hit", "window", "stale", "miss", "coalesced", "stale_if_error", "negative", "refresh", "bypass")
_REDIS_COMMANDS = (
    "mget", "file", "mint", "lease", "release", "renew", "pttl", "set", "get", "getex", "publish", "time", "info",
    "ping", "pause", "resume", "budget",
)  # fmt: skip
_UPSTREAM_CODES = (
    "200", "401", "403", "404", "429", "500", "502", "503", "504", "timeout", "connect", "tls", "reset", "invalid",
)  # fmt: skip


class _Kept:
    """A metric's children by their label values."""

    def __init__(self, metric: Counter | Histogram | Gauge) -> None:
        self._metric = metric
        self._children: dict[tuple[str, ...], Any] = {}

    def __call__(self, *labels: str) -> Any:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child


def _observe_all(histogram: Any, buckets: Iterable[int], seconds: float) -> None:
    """Count many durations at once, by bucket and in all: what `observe` does for one (prometheus_client 0.26)."""
    histogram._sum.inc(seconds)  # noqa: SLF001 - it has no public way for more than one
    for bucket, count in zip(histogram._buckets, buckets, strict=True):  # noqa: SLF001
        if count:
            bucket.inc(count)


class Metrics:
    """Subscribe `handlers` to facts; `numbers` is what was counted. `teams` are the configured names.

    What comes with every request is added up in plain numbers, and counted in series when somebody looks: a series has
    a lock, and costs as much as ten additions.
    """

    def __init__(self, registry: CollectorRegistry, teams: Iterable[str] = ()) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a series of its own for each child, which nobody reads
        self._registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Gauge("gateway_build_info", "Version", ["version", "python"], registry=registry).labels(
            __version__, platform.python_version()
        ).set(1)
        self.handlers: dict[type, Callable[[Any], None]] = {}
        self._added_up: list[Callable[[], None]] = []
        results, lookups = self._count_cache()
        self._count_requests(teams, results, lookups)
        self._count_upstream(teams)
        self._count_redis()
        self._count_process()
        self._count_reloads()

    async def collect(self) -> exposition.MetricFamilies:
        """What was counted so far."""
        for count in self._added_up:
            count()
        return await exposition.collect(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self._registry, buckets=buckets)

    def _count_requests(self, teams: Iterable[str], results: _Kept, lookups: _Kept) -> None:
        total = _Kept(
            self._counter("gateway_http_requests_total", "Requests answered", "route", "method", "code", "team")
        )
        duration = _Kept(
            self._histogram(
                "gateway_http_request_duration_seconds", "From a request's head to its answer", events.LATENCY_BOUNDS,
                "route", "cache",
            )
        )  # fmt: skip
        sent = _Kept(self._counter("gateway_http_response_bytes_total", "Bytes of answers' bodies", "route", "cache"))
        in_flight = self._gauge("gateway_http_requests_in_flight", "Requests being answered")
        for team in ("anonymous", "unknown", *teams):
            total("assets", "GET", "200", team)

        under_way = 0
        kinds: defaultdict[tuple[str, str, int, str, str], Aggregates] = defaultdict(Aggregates)

        def began(_: events.RequestBegan) -> None:
            nonlocal under_way
            under_way += 1

        def served(fact: events.RequestServed) -> None:
            nonlocal under_way
            under_way -= 1
            if fact.streamed:
                total(fact.route, fact.method, str(fact.status), fact.team).inc()
                sent(fact.route, fact.cache).inc(fact.body_bytes)
            else:
                kind = (fact.route, fact.method, fact.status, fact.team, fact.cache)
                kinds[kind].add(fact.body_bytes, fact.duration)

        def count() -> None:
            in_flight.set(under_way)
            for (route, method, status, team, cache), sums in kinds.items():
                body_bytes, seconds, buckets = sums.drain()
                total(route, method, str(status), team).inc(sum(buckets))
                _observe_all(duration(route, cache), buckets, seconds)
                sent(route, cache).inc(body_bytes)

        def replayed(fact: events.RequestsReplayed) -> None:
            total("assets", fact.method, str(fact.status), fact.team).inc(fact.requests)
            _observe_all(duration("assets", fact.cache), fact.buckets, fact.seconds)
            sent("assets", fact.cache).inc(fact.body_bytes)
            results(fact.cache).inc(fact.requests)
            lookups("memory", "hit").inc(fact.requests)

        self._added_up.append(count)
        self.handlers[events.RequestBegan] = began
        self.handlers[events.RequestServed] = served
        self.handlers[events.RequestsReplayed] = replayed
        limited = _Kept(
            self._counter("gateway_rate_limited_total", "Requests refused for want of budget", "team", "scope")
        )
        for team in teams:
            for scope in ("requests", "misses"):
                limited(team, scope)
        self.handlers[events.RateLimited] = lambda fact: limited(fact.team, fact.scope).inc()
        failures = _Kept(self._counter("gateway_auth_failures_total", "Credentials refused", "reason"))
        for reason in ("missing", "unknown", "conflicting"):
            failures(reason)
        self.handlers[events.AuthFailed] = lambda fact: failures(fact.reason).inc()

    def _count_cache(self) -> tuple[_Kept, _Kept]:
        """Page requests by result, and look-ups by tier and result, which hits that are replayed count in as well."""
        results = _Kept(
            self._counter("gateway_cache_requests_total", "Page requests by how they were answered", "result")
        )
        for result in _CACHE_RESULTS:
            results(result)
        lookups = _Kept(self._counter("gateway_cache_tier_lookups_total", "Look-ups by tier", "tier", "result"))
        for tier in ("memory", "redis"):
            for result in ("hit", "miss", "error"):
                lookups(tier, result)
        entries = self._gauge("gateway_cache_entries", "Entries in the in-process tier")
        size = self._gauge("gateway_cache_bytes", "Bytes in the in-process tier")
        evictions = self._counter("gateway_cache_evictions_total", "Entries dropped for want of room in the process")
        corrupt = self._counter("gateway_cache_corrupt_total", "Stored values that could not be read")

        purges = _Kept(self._counter("gateway_cache_purges_total", "Purges that were confirmed", "scope"))
        for scope in get_args(events.PurgeScope):
            purges(scope)
        generations = self._counter(
            "gateway_cache_generation_changes_total", "Listings that turned out to have changed"
        )

        def sized(fact: events.MemoryTierSize) -> None:
            entries.set(fact.entries)
            size.set(fact.size)

        answered: dict[tuple[str, ...], int] = defaultdict(int)
        looked_up: dict[tuple[str, ...], int] = defaultdict(int)

        def add(to: dict[tuple[str, ...], int], fact: tuple[str, ...]) -> None:
            to[fact] += 1

        def count() -> None:
            for children, added in ((results, answered), (lookups, looked_up)):
                for labels, number in added.items():
                    children(*labels).inc(number)
                added.clear()

        self._added_up.append(count)
        self.handlers[events.CacheAnswered] = partial(add, answered)
        self.handlers[events.TierLookup] = partial(add, looked_up)
        self.handlers[events.MemoryTierSize] = sized
        self.handlers[events.Evicted] = lambda fact: evictions.inc(fact.entries)
        self.handlers[events.Purged] = lambda fact: purges(fact.scope).inc()
        self.handlers[events.GenerationEnded] = lambda _: generations.inc()
        self.handlers[events.CorruptValue] = lambda _: corrupt.inc()
        return results, lookups

    def _count_upstream(self, teams: Iterable[str]) -> None:
        calls = _Kept(self._counter("gateway_upstream_requests_total", "Requests to the vendor", "code"))
        for code in (*_UPSTREAM_CODES, "too_large"):
            calls(code)
        duration = self._histogram(
            "gateway_upstream_request_duration_seconds", "One request to the vendor, to the end of its body",
            _UPSTREAM_BUCKETS,
        )  # fmt: skip
        caused = _Kept(self._counter("gateway_team_upstream_requests_total", "Vendor requests by team", "team"))
        for team in ("anonymous", *teams):
            caused(team)
        retries = _Kept(self._counter("gateway_upstream_retries_total", "Further attempts, by what failed", "reason"))
        for reason in ("timeout", "connect", "reset", "500", "502", "503", "504"):
            retries(reason)
        connections = _Kept(
            self._counter("gateway_upstream_connections_total", "Connections of calls to the vendor", "kind")
        )
        for kind in get_args(events.ConnectionKind):
            connections(kind)
        in_flight = self._gauge("gateway_upstream_in_flight", "Requests to the vendor under way")
        queued = self._gauge("gateway_upstream_queued", "Requests that wait for a place")
        loaded = self._gauge("gateway_upstream_key_loaded_timestamp_seconds", "When the vendor key was read")
        refusals = self._counter("gateway_upstream_key_refusals_total", "Times the vendor refused a key")

        paused = self._gauge(
            "gateway_upstream_paused_until_timestamp_seconds", "Until when the vendor asked for a pause"
        )
        state = _Kept(self._gauge("gateway_upstream_breaker_state", "1 for the breaker's state", "state"))

        def turned(now: events.BreakerChanged) -> None:
            for name in get_args(BreakerState):
                state(name).set(name == now.state)

        turned(events.BreakerChanged("closed"))

        def called(fact: events.UpstreamCalled) -> None:
            calls(fact.code).inc()
            caused(fact.team).inc()
            duration.observe(fact.duration)

        def queue(fact: events.UpstreamQueue) -> None:
            in_flight.set(fact.in_flight)
            queued.set(fact.queued)

        self.handlers[events.UpstreamCalled] = called
        self.handlers[events.UpstreamConnection] = lambda fact: connections(fact.kind).inc()
        self.handlers[events.UpstreamQueue] = queue
        self.handlers[events.BreakerChanged] = turned
        self.handlers[events.VendorPaused] = lambda fact: paused.set(fact.until)
        self.handlers[events.UpstreamRetried] = lambda fact: retries(fact.reason).inc()
        self.handlers[events.KeyLoaded] = lambda fact: loaded.set(fact.at)
        self.handlers[events.KeyRefused] = lambda _: refusals.inc()

    def _count_redis(self) -> None:
        up = self._gauge(
            "gateway_redis_up", "1 while Redis answers and permits what is needed; 0 also where none is configured"
        )
        commands = _Kept(self._counter("gateway_redis_commands_total", "Commands sent", "command", "result"))
        duration = _Kept(
            self._histogram("gateway_redis_command_duration_seconds", "One command", _REDIS_BUCKETS, "command")
        )
        for command in _REDIS_COMMANDS:
            for result in ("ok", "error", "timeout"):
                commands(command, result)

        def sent(fact: events.RedisCommand) -> None:
            commands(fact.command, fact.result).inc()
            duration(fact.command).observe(fact.duration)

        self.handlers[events.RedisCommand] = sent
        self.handlers[events.RedisAvailabilityChanged] = lambda fact: up.set(1 if fact.up else 0)

    def _count_reloads(self) -> None:
        reloads = _Kept(
            self._counter("gateway_config_reloads_total", "Times that the configuration was read", "result")
        )
        for result in ("success", "failure"):
            reloads(result)
        last = self._gauge("gateway_config_last_reload_successful", "0 when the last reload was refused")
        last.set(1)

        def reloaded(fact: events.Reloaded) -> None:
            reloads("success" if fact.fine else "failure").inc()
            last.set(fact.fine)

        self.handlers[events.Reloaded] = reloaded

    def _count_process(self) -> None:
        lag = self._histogram("gateway_event_loop_lag_seconds", "How late the event loop was for a timer", _LAG_BUCKETS)
        dropped = self._counter("gateway_log_dropped_total", "Log lines dropped because the output blocked or failed")
        self.handlers[events.LoopLag] = lambda fact: lag.observe(fact.seconds)
        self.handlers[events.LogDropped] = lambda fact: dropped.inc(fact.lines)
