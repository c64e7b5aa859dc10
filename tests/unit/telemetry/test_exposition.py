"""Numbers of several processes as those of one: a table of rules, and the two forms that they are written in."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from harness import parse_metrics
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.telemetry import exposition
from gateway.telemetry.exposition import MetricFamilies


def gauge(name: str, value: float, **labels: str) -> MetricFamilies:
    registry = CollectorRegistry()
    made = Gauge(name, "What it is", list(labels), registry=registry)
    (made.labels(**labels) if labels else made).set(value)
    return asyncio.run(exposition.collect(registry))


def shown(*several: MetricFamilies) -> dict[str, float]:
    whole = exposition.merge(several)
    assert whole == asyncio.run(exposition.merge_in_steps(several))
    return parse_metrics(asyncio.run(exposition.render(whole, ""))[0].decode())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gateway_http_requests_in_flight", 5),
        ("gateway_upstream_queued", 5),
        ("gateway_cache_bytes", 5),
        ("process_resident_memory_bytes", 5),
        ("process_open_fds", 5),
        ("gateway_upstream_paused_until_timestamp_seconds", 3),
        ("gateway_redis_up", 2),
        ("gateway_upstream_key_loaded_timestamp_seconds", 2),
        ("gateway_config_last_reload_successful", 2),
        ("process_start_time_seconds", 2),
        ("process_max_fds", 2),
    ],
)
def test_each_gauge_by_its_rule(name: str, expected: float) -> None:
    assert shown(gauge(name, 2), gauge(name, 3)) == shown(gauge(name, 3), gauge(name, 2)) == {name: expected}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("closed", "closed", "closed"), ("closed", "half_open", "half_open"), ("open", "half_open", "open")],
)
def test_of_several_breakers_the_most_open_one_counts(one: str, other: str, expected: str) -> None:
    def breaker(current: str) -> MetricFamilies:
        registry = CollectorRegistry()
        made = Gauge("gateway_upstream_breaker_state", "Breaker", ["state"], registry=registry)
        for state in ("closed", "open", "half_open"):
            made.labels(state).set(state == current)
        return asyncio.run(exposition.collect(registry))

    states = shown(breaker(one), breaker(other))
    assert states == shown(breaker(other), breaker(one))
    assert {series for series, value in states.items() if value} == {
        f'gateway_upstream_breaker_state{{state="{expected}"}}'
    }
    assert sum(states.values()) == 1


def counting(times: int, *results: str) -> MetricFamilies:
    registry = CollectorRegistry()
    counter = Counter("made", "Made", ["result"], registry=registry)
    histogram = Histogram("took_seconds", "Took", ["result"], buckets=(0.1, 1), registry=registry)
    for result in results:
        counter.labels(result).inc(times)
        for _ in range(times):
            histogram.labels(result).observe(0.5)
    return asyncio.run(exposition.collect(registry))


def test_counters_and_histograms_add_up_and_outlast_their_process() -> None:
    ended = exposition.totals(exposition.merge([counting(1, "fine"), gauge("gateway_cache_bytes", 9)]))
    told = [exposition.decode(exposition.encode(numbers)) for numbers in (counting(2, "fine", "bad"), ended)]
    values = {series: value for series, value in shown(*told).items() if "_created" not in series}
    assert values == {
        'made_total{result="fine"}': 3, 'made_total{result="bad"}': 2,
        'took_seconds_bucket{le="0.1",result="fine"}': 0, 'took_seconds_bucket{le="0.1",result="bad"}': 0,
        'took_seconds_bucket{le="1.0",result="fine"}': 3, 'took_seconds_bucket{le="1.0",result="bad"}': 2,
        'took_seconds_bucket{le="+Inf",result="fine"}': 3, 'took_seconds_bucket{le="+Inf",result="bad"}': 2,
        'took_seconds_count{result="fine"}': 3, 'took_seconds_count{result="bad"}': 2,
        'took_seconds_sum{result="fine"}': 1.5, 'took_seconds_sum{result="bad"}': 1,
    }  # fmt: skip


def test_a_counter_never_decreases_when_processes_are_added_in_another_order_or_end() -> None:
    def seconds(value: float) -> MetricFamilies:
        registry = CollectorRegistry()
        Counter("cpu_seconds", "Used", registry=registry).inc(value)
        return asyncio.run(exposition.collect(registry))

    def total(*several: MetricFamilies) -> float:
        return shown(*several)["cpu_seconds_total"]

    processes = [seconds(value) for value in (0.1, 0.2, 0.3, 0.7)]
    before = total(*processes)
    assert {total(*order) for order in itertools.permutations(processes)} == {before}

    ended = MetricFamilies()
    for _ in range(1000):
        ended = exposition.merge([ended, exposition.totals(processes[0])])
        after = total(ended, *processes[1:])
        assert before <= after
        before = total(ended, *processes)
        assert after <= before
    assert before == pytest.approx(101.3, abs=0.01)


def test_openmetrics_is_written_as_it_should_be() -> None:
    numbers = exposition.merge([counting(2, "fine"), counting(1, "fine", "bad"), gauge("gateway_redis_up", 1)])
    body, content_type = asyncio.run(exposition.render(numbers, "application/openmetrics-text; version=1.0.0"))
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}  # type: ignore[no-untyped-call]
    assert families["made"].type == "counter"
    assert families["took_seconds"].documentation == "Took"


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_many_samples_are_written_as_few_are(accept: str) -> None:
    """In steps, which nobody can tell: one head for each metric, and one end."""
    disable_created_metrics()  # type: ignore[no-untyped-call] # as `Metrics` does
    registry = CollectorRegistry()
    counter = Counter("made", "Made", ["result"], registry=registry)
    for number in range(333):
        counter.labels(f"# {number}\n").inc(number)
    Gauge("none", "None yet", ["result"], registry=registry)
    body, _ = asyncio.run(exposition.render(asyncio.run(exposition.collect(registry)), accept))
    whole, _ = choose_encoder(accept)
    assert body == whole(registry)
