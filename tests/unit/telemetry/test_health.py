"""One sentence about the gateway, worst first."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.telemetry.status.health import Vitals, percent, verdict

WELL: dict[str, Any] = {"recent": 100, "without_vendor": 94, "requests": 20}


def test_when_all_is_well_it_says_what_the_vendor_was_spared() -> None:
    told = verdict(Vitals(**WELL))
    assert (told.level, told.sentence, told.findings) == (
        "healthy", "Healthy: 94 % of requests answered without the vendor", [],
    )  # fmt: skip
    assert verdict(Vitals()).sentence == "Healthy: nobody asked for a page in the last 5 minutes"


@pytest.mark.parametrize(
    ("vitals", "level", "code", "words"),
    [
        ({"draining": True}, "degraded", "draining", "going away"),
        ({"key": "refused", "failed": 20}, "failing", "key_refused", "refuses the gateway's key"),
        ({"key": "sometimes refused"}, "degraded", "key_sometimes_refused", "for some requests"),
        ({"failed": 3, "code": "upstream_timeout"}, "failing", "requests_failed", "15 % of requests in the last"),
        ({"failed": 1, "requests": 20}, "degraded", "requests_failed", "5 %"),
        ({"failed": 3, "requests": 61}, "degraded", "requests_failed", "5 %"),
        ({"failed": 2, "requests": 2}, "degraded", "requests_failed", "100 %"),  # too few to be sure
        ({"breaker_open": True}, "degraded", "breaker_open", "left alone"),
        ({"paused_for": 12.4}, "degraded", "vendor_paused", "12 more seconds"),
        ({"served_old": 7}, "degraded", "serving_old", "7 requests"),
        ({"queued": 3, "in_flight": 64}, "degraded", "queueing", "3 requests wait for the vendor, with 64 calls"),
        ({"redis_down": True}, "degraded", "redis_down", "Redis cannot be used"),
        ({"reload_refused": "gateway.toml:3: nonsense"}, "degraded", "reload_refused", "the configuration from before"),
        ({"workers_agree": False}, "degraded", "workers_disagree", "different configurations"),
        ({"lag": 0.1}, "degraded", "overworked", "100 ms late"),
        ({"log_dropped": 5}, "degraded", "log_dropped", "5 lines"),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_has_its_sentence_and_a_mend(
    vitals: dict[str, Any], level: str, code: str, words: str
) -> None:
    told = verdict(Vitals(**{**WELL, **vitals}))
    [finding] = told.findings
    assert (told.level, finding.level, finding.code) == (level, level, code)
    assert words in told.sentence
    assert told.sentence == f"{level.capitalize()}: {finding.what}"
    assert finding.advice.endswith((".", "nonsense"))


def test_what_is_just_below_a_bound_is_nothing() -> None:
    assert verdict(Vitals(**WELL, lag=0.0999, served_old=0, queued=0, paused_for=None)).findings == []


def test_the_worst_comes_first_and_hides_what_follows_from_it() -> None:
    told = verdict(Vitals(**WELL, redis_down=True, breaker_open=True, failed=10, code="upstream_circuit_open"))
    assert [finding.code for finding in told.findings] == ["requests_failed", "breaker_open", "redis_down"]
    assert told.sentence.endswith(
        "50 % of requests in the last minute got an error, most of them upstream_circuit_open"
    )
    refused = verdict(Vitals(**WELL, key="refused", failed=10))
    assert [finding.code for finding in refused.findings] == ["key_refused"]


def test_a_share_is_0_or_100_only_if_it_is() -> None:
    assert [percent(part, 1000) for part in (0, 1, 10, 944, 946, 991, 999, 1000)] == [
        "0 %", "under 1 %", "1 %", "94 %", "95 %", "99.1 %", "99.9 %", "100 %",
    ]  # fmt: skip
    assert percent(99_999, 100_000) == "99.9 %"
