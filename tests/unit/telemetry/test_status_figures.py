"""Facts become the figures of the status page, over time and over workers."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

import msgspec
import pytest

from gateway.core import events
from gateway.http.status_view import view_of
from gateway.telemetry.status import snapshot
from gateway.telemetry.status.collector import StatusCollector
from gateway.telemetry.status.document import Report
from gateway.telemetry.status.latency import BUCKETS
from gateway.telemetry.status.report import report
from gateway.telemetry.status.snapshot import Configuration, LifecycleState, Reload, Snapshot, State

STARTED = 1_800_000_000.0
LIVE = Configuration("gateway.toml", STARTED, "d1")


class HandClock:
    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> float:
        return STARTED + self.passed

    def monotonic(self) -> float:
        return 1000.0 + self.passed

    steps = 0

    def correct(self, earliest: float, latest: float) -> None:
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def served(status: int = 200, cache: str = "", **changed: Any) -> events.RequestServed:
    usual = events.RequestServed("id-1", "assets", "GET", "alpha", "::1", "aoi-1", status, cache, 100, 0.0004, None)
    return usual._replace(**changed)


class Process(NamedTuple):
    clock: HandClock
    status: StatusCollector

    def tell(self, *told: NamedTuple) -> None:
        for fact in told:
            self.status.handlers[type(fact)](fact)

    def snapshot(self, configuration: Configuration = LIVE, life: LifecycleState = "ready") -> Snapshot:
        return self.status.snapshot(configuration, life)

    def report(self) -> Report:
        return report(self.snapshot(), "host", "1.2")


@pytest.fixture
def process() -> Process:
    clock = HandClock()
    return Process(clock, StatusCollector(clock, State(most_in_flight=64, most_queued=256, most_size=10**6)))


def test_requests_are_told_by_how_they_were_answered(process: Process) -> None:
    results = ("hit", "hit", "window", "stale", "negative", "miss", "coalesced", "refresh", "bypass", "stale_if_error")
    process.tell(*(served(cache=result) for result in results))
    process.tell(served(503, problem="overloaded", request_id="id-2"), served(400), served(429), served(499))
    process.tell(served(204, method="OPTIONS"), served(200, route="landing"), served(404, route="unknown"))
    told = process.report()
    assert {name: count for name, count in told.requests.outcomes.items() if count != 1} == {"hit": 2, "refused": 2}
    assert (told.requests.count, told.requests.body_bytes) == (14, 1400)
    assert told.requests.without_vendor == round(5 / 11, 4)  # those that the client got wrong do not count
    assert (told.hits.count, told.misses.count) == (5, 5)
    [team] = told.teams
    assert (team.name, team.requests, team.without_vendor, team.fetched) == ("alpha", 14, 5, 5)
    assert (team.limited, team.refused, team.failed, team.bytes) == (1, 2, 1, 1400)
    assert [(one.aoi_id, one.requests, one.over) for one in told.busiest_aois] == [("aoi-1", 10, 0)]
    [error] = told.errors
    assert (error.at, error.status, error.code, error.request_id) == (STARTED, 503, "overloaded", "id-2")
    assert told.verdict.sentence == "Degraded: 9 % of requests in the last minute got an error, most of them overloaded"


def test_many_at_once_come_to_the_same(process: Process) -> None:
    other = Process(
        HandClock(), StatusCollector(HandClock(), State(most_in_flight=64, most_queued=256, most_size=10**6))
    )
    process.tell(*(served(cache="hit", duration=seconds) for seconds in (0.0001, 0.0002, 0.0002, 40.0)))
    buckets = [1, 2, *[0] * (BUCKETS - 3), 1]
    other.tell(events.RequestsReplayed("GET", "alpha", 200, "hit", 4, 400, 40.0005, tuple(buckets)))
    other.tell(events.PagesReplayed({"aoi-1": 4}))
    assert other.report() == process.report()
    assert process.report().hits.p99 == 30.0


def test_recent_is_five_minutes_and_the_series_a_quarter_of_an_hour(process: Process) -> None:
    for _ in range(240):  # a request every five seconds, for twenty minutes
        process.tell(served(cache="hit"), served(cache="miss", duration=0.2))
        process.clock.passed += 5
    told = process.report()
    assert (told.requests.count, told.requests_total.count) == (120, 480)
    assert told.requests.per_second == 0.4
    assert (told.requests.without_vendor, told.vendor.calls_saved) == (0.5, 480)
    series = told.series
    assert (len(series.requests), set(series.requests), set(series.without_vendor)) == (180, {2}, {1})
    assert series.start == STARTED + 1200 - 900
    assert set(series.hits_p50) == {0.000375}
    assert {len(each) for each in (series.failed, series.hits_p99, series.misses_p50, series.misses_p99)} == {180}
    assert 8 <= told.teams[0].requests / 12 <= 12  # five to six minutes, counted by the minute
    assert told.teams[0].requests_total == 480
    assert 120 <= told.busiest_aois[0].requests <= 240  # five to ten minutes
    process.clock.passed += 3600
    told = process.report()
    assert (told.requests.count, told.requests_total.count, told.teams[0].requests_total) == (0, 480, 480)
    assert (set(told.series.requests), set(told.series.hits_p50), told.busiest_aois) == ({0}, {None}, [])
    assert told.verdict.sentence == "Healthy: nobody asked for a page in the last 5 minutes"


def test_the_vendor_redis_and_memory_as_they_stand(process: Process) -> None:
    process.tell(
        events.UpstreamCalled("200", 0.2, "team"), events.UpstreamCalled("404", 0.2, "team"),
        events.UpstreamCalled("timeout", 10.0, "team"), events.UpstreamCalled("429", 0.1, "team"),
        events.UpstreamCalled("reset", 0.1, "team", lost=True),
        events.UpstreamRetried("timeout"), events.UpstreamQueue(3, 2),
        *map(events.UpstreamConnection, get_args(events.ConnectionKind)[:2]), events.UpstreamConnection("new"),
        events.UpstreamConnection("dirty"), events.FetchFailed("UpstreamTimeout", "no answer in time"),
        events.KeyLoaded(STARTED - 60),
        events.BreakerChanged("open"), events.VendorPaused(STARTED + 30),
        events.RedisAvailabilityChanged(up=False, reason="ConnectionError"), events.RedisCommand("mget", "ok", 0.001),
        events.RedisCommand("mget", "timeout", 0.05), events.TierLookup("redis", "hit"),
        events.TierLookup("redis", "error"), events.TierLookup("memory", "hit"),
        events.MemoryTierSize(7, 5000), events.Evicted(3), events.AuthFailed("missing"), events.LogDropped(4),
        events.LoopLag(0.004),
    )  # fmt: skip
    told = process.report()
    vendor, redis = told.vendor, told.redis
    assert (vendor.calls, vendor.calls_failed_recent, vendor.retries_recent) == (4, 2, 1)
    assert vendor.connections_recent == {"new": 2, "reused": 1, "replaced": 0, "dirty": 1}
    assert (vendor.breaker, vendor.in_flight, vendor.queued, vendor.paused_for, vendor.key_age) == (
        "open",
        3,
        2,
        30,
        60,
    )
    assert vendor.last_failure == snapshot.VendorFailure(STARTED, "UpstreamTimeout", "no answer in time")
    assert (vendor.latency.count, vendor.calls_saved) == (4, 0)
    assert (redis.up, redis.since, redis.reason) == (False, STARTED, "ConnectionError")
    assert (redis.commands_recent, redis.commands_failed_recent, redis.hits_recent, redis.misses_recent) == (2, 1, 1, 1)
    assert (told.memory.entries, told.memory.bytes, told.memory.max_bytes, told.memory.evictions) == (7, 5000, 10**6, 3)
    assert (told.process.credentials_refused_recent, told.process.log_lines_dropped) == (1, 4)
    codes = {finding.code for finding in told.verdict.findings}
    assert codes == {"breaker_open", "vendor_paused", "queueing", "log_dropped"}  # there is no Redis to be missed
    process.tell(events.VendorResumed(), events.BreakerChanged("closed"))
    process.clock.passed += 30
    assert (process.report().vendor.paused_for, process.report().vendor.breaker) == (None, "closed")


def test_a_refused_key_is_the_verdict_until_one_is_taken(process: Process) -> None:
    def judged() -> list[str]:
        return [finding.code for finding in process.report().verdict.findings]

    refused = (events.UpstreamCalled("401", 0.1, "team"), events.KeyRefused(401), served(502, problem="upstream_auth"))
    process.tell(events.KeyLoaded(STARTED), events.UpstreamCalled("200", 0.1, "team"))
    process.clock.passed += 5
    process.tell(*refused)
    process.clock.passed += 5
    assert judged() == ["key_refused"]
    process.tell(events.UpstreamCalled("200", 0.1, "team"))  # with the previous key
    assert "key_sometimes_refused" in judged()
    process.clock.passed += 60
    assert judged() == []
    process.tell(*refused)
    process.clock.passed += 1
    process.tell(events.KeyLoaded(process.clock.now()))
    assert judged() == ["requests_failed"]


def test_a_process_is_overworked_when_it_is_late_again_and_again(process: Process) -> None:
    process.tell(*[events.LoopLag(0.001)] * 18, events.LoopLag(2.0))
    assert process.report().verdict.findings == []
    process.tell(events.LoopLag(0.001))
    assert process.report().verdict.findings == []
    process.tell(*[events.LoopLag(0.4)] * 3)
    [finding] = process.report().verdict.findings
    assert (finding.code, process.report().process.loop_lag.count) == ("overworked", 23)
    process.clock.passed += 66
    assert process.report().verdict.findings == []


def test_errors_and_aois_are_bounded_and_the_latest_come_first(process: Process) -> None:
    for number in range(1000):
        process.tell(served(500, request_id=f"id-{number}"), served(cache="hit", aoi_id=f"aoi-{number}"))
        process.tell(served(cache="hit", aoi_id="busy"))
    told = process.report()
    assert [error.request_id for error in told.errors] == [f"id-{number}" for number in range(999, 979, -1)]
    assert told.busiest_aois[0].aoi_id == "busy"
    assert len(told.busiest_aois) == 10
    assert len(snapshot.encode(process.snapshot())) < 20_000


def test_workers_are_one_whoever_is_asked(process: Process) -> None:
    other = Process(HandClock(), StatusCollector(HandClock(), State(redis=True, most_in_flight=64, most_size=10**6)))
    process.tell(*[served(cache="hit")] * 3, events.MemoryTierSize(2, 100), events.KeyLoaded(STARTED - 5))
    process.tell(events.UpstreamQueue(1, 0), served(500, request_id="mine"))
    other.tell(served(cache="miss", team="beta"), events.MemoryTierSize(3, 50), events.KeyLoaded(STARTED - 9))
    other.tell(events.BreakerChanged("half_open"), events.RedisAvailabilityChanged(up=False, reason="gone"))
    refused = Reload(STARTED + 1, successful=False, why="nonsense")
    two = other.snapshot(Configuration("gateway.toml", STARTED, "d2", refused), "leaving")
    there = report(snapshot.merge(process.snapshot(), snapshot.decode(snapshot.encode(two))), "host", "1")
    here = report(snapshot.merge(two, process.snapshot()), "host", "1")
    assert msgspec.structs.replace(here, configuration=there.configuration, verdict=there.verdict) == there
    assert (there.requests.count, there.instance.workers, there.instance.life) == (5, 2, "ready")
    assert (there.memory.entries, there.memory.bytes, there.memory.max_bytes) == (5, 150, 2 * 10**6)
    assert (there.vendor.in_flight, there.vendor.most_in_flight, there.vendor.key_age) == (1, 128, 9)
    assert (there.vendor.breaker, there.redis.configured, there.redis.up) == ("half_open", True, False)
    assert [team.name for team in there.teams] == ["alpha", "beta"]
    assert there.configuration.last_reload == refused
    assert not there.configuration.workers_agree
    codes = [finding.code for finding in there.verdict.findings]
    assert codes == ["requests_failed", "breaker_open", "redis_down", "reload_refused", "workers_disagree"]

    gone = report(snapshot.merge(snapshot.totals(two), process.snapshot()), "host", "1")
    assert (gone.requests.count, gone.instance.workers, gone.memory.entries, gone.redis.up) == (5, 1, 2, None)
    assert gone.configuration.workers_agree


def test_the_page_says_it_in_words(process: Process) -> None:
    process.tell(*[served(cache="hit")] * 1500, *[served(cache="miss", duration=1.5)] * 100)
    process.tell(events.MemoryTierSize(1234, 987_654), events.KeyLoaded(STARTED - 93_784))
    process.clock.passed = 90
    view = view_of(process.report())
    assert view.verdict == "Healthy: 94 % of requests answered without the vendor"
    shown = {name: view.texts[name] for name in ("requests", "without-vendor", "hits-p99", "misses-p99", "key-age")}
    assert shown == {
        "requests": "1,600 (17.8 per second)", "without-vendor": "93.8 %", "hits-p99": "0.498 ms",
        "misses-p99": "2.48 s", "key-age": "loaded 1 d 2 h ago",
    }  # fmt: skip
    assert (view.texts["size"], view.texts["uptime"]) == ("988 kB of 1.0 MB", "1 min 30 s")
    assert view.texts["time"] == "2027-01-15 08:01:30 UTC"
    assert view.rows["outcomes"] == [
        ["from the cache", "1,500", "1,500"], ["fetched from the vendor", "100", "100"],
    ]  # fmt: skip
    assert len(view.rows["minutes"]) == 15
    assert ["1,600", "93.8 %", "0", "0.498 ms", "2.48 s"] in [row[1:] for row in view.rows["minutes"]]
