"""Is the gateway well? One sentence for somebody who has never seen it, and what to do about each thing that is not.

A function of values. What is worse comes first; what hides something else hides it here too (while the key is refused,
that requests fail is no further news).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import msgspec

Level = Literal["healthy", "degraded", "failing"]

_WORDS: dict[Level, str] = {"healthy": "Healthy", "degraded": "Degraded", "failing": "Failing"}
_RANK: dict[Level, int] = {"failing": 0, "degraded": 1, "healthy": 2}

# From this share of failed requests on, the gateway does not do its job; below, it does with blemishes.
_FAILING_SHARE = 0.05
_FEW = 3
_BUSY_SECONDS = 0.1


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """What the verdict goes by.

    `requests`, `failed` and `served_old` are of the last minute, `recent` and `without_vendor` of the last five; `code`
    is the commonest one of what failed. Durations are seconds, and None stands for nothing of the kind.
    """

    recent: int = 0
    without_vendor: int = 0
    requests: int = 0
    failed: int = 0
    code: str = ""
    served_old: int = 0
    draining: bool = False
    key: Literal["fine", "refused", "sometimes refused"] = "fine"
    breaker_open: bool = False
    paused_for: float | None = None
    in_flight: int = 0
    queued: int = 0
    redis_down: bool = False
    reload_refused: str | None = None
    workers_agree: bool = True
    lag: float | None = None  # what a tenth of all timers was late by
    log_dropped: int = 0


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be: a stable code, what it is, and what to do."""

    level: Level
    code: str
    what: str
    advice: str


class Verdict(msgspec.Struct, frozen=True):
    """How well the gateway is, in one sentence, and why; the worst finding is the sentence's, and comes first."""

    level: Level
    sentence: str
    findings: list[Finding]


def verdict(vitals: Vitals) -> Verdict:
    """Judge."""
    findings = sorted((*_own(vitals), *_vendor(vitals), *_rest(vitals)), key=lambda finding: _RANK[finding.level])
    level: Level = findings[0].level if findings else "healthy"
    what = findings[0].what if findings else _all_is_well(vitals)
    return Verdict(level, f"{_WORDS[level]}: {what}", findings)


def percent(part: int, whole: int) -> str:
    """A share as text, which says neither 0 nor 100 unless it is exactly that."""
    share = min(part / whole, 1.0)
    if 0 < share < 0.01:
        return "under 1 %"
    return f"{math.floor(share * 1000) / 10} %" if 0.99 <= share < 1 else f"{share * 100:.0f} %"


def _all_is_well(vitals: Vitals) -> str:
    if not vitals.recent:
        return "nobody asked for a page in the last 5 minutes"
    return f"{percent(vitals.without_vendor, vitals.recent)} of requests answered without the vendor"


def _own(vitals: Vitals) -> Iterator[Finding]:
    if vitals.draining:
        yield Finding(
            "degraded", "draining", "this instance is going away, and wants no new requests",
            "That is as it should be if somebody restarts or replaces it.",
        )  # fmt: skip


def _vendor(vitals: Vitals) -> Iterator[Finding]:
    if vitals.key == "refused":
        yield Finding(
            "failing", "key_refused", "the vendor refuses the gateway's key; only pages that are cached are served",
            "Put a valid key where upstream.api_key or upstream.api_key_file says; pixxel-gateway doctor tries it.",
        )  # fmt: skip
    elif vitals.failed:
        yield _failed(vitals)
    if vitals.key == "sometimes refused":
        yield Finding(
            "degraded", "key_sometimes_refused", "the vendor refuses a key of the gateway for some requests",
            "If a rotation is under way, upstream.api_key is wrong and the previous key helps out; else this key may "
            "not read every AOI.",
        )  # fmt: skip
    if vitals.breaker_open:
        yield Finding(
            "degraded", "breaker_open", "the vendor failed several times in a row and is left alone for now",
            "Nothing to do here: it is tried again every few seconds, and cached pages are served meanwhile. Ask the "
            "vendor if it lasts.",
        )  # fmt: skip
    if vitals.paused_for is not None:
        yield Finding(
            "degraded", "vendor_paused", f"the vendor asks to be left alone for {vitals.paused_for:.0f} more seconds",
            "The vendor throttles this account: longer lifetimes or a miss_rate for the busiest team ask it less.",
        )  # fmt: skip
    if vitals.served_old:
        yield Finding(
            "degraded", "serving_old",
            f"{vitals.served_old} requests in the last minute got an old page, because the vendor failed",
            "Clients have an answer, whose Age tells how old it is. The vendor section below says what fails.",
        )  # fmt: skip
    if vitals.queued:
        yield Finding(
            "degraded", "queueing",
            f"{vitals.queued} requests wait for the vendor, with {vitals.in_flight} calls under way",
            "The vendor is slow, or upstream.max_concurrency is small for what is asked.",
        )  # fmt: skip


def _failed(vitals: Vitals) -> Finding:
    grave = vitals.failed >= _FEW and vitals.failed >= _FAILING_SHARE * vitals.requests
    most = f", most of them {vitals.code}" if vitals.code else ""
    return Finding(
        "failing" if grave else "degraded", "requests_failed",
        f"{percent(vitals.failed, vitals.requests)} of requests in the last minute got an error{most}",
        "The last errors below have request ids, which stand in the log; /docs says what each code means.",
    )  # fmt: skip


def _rest(vitals: Vitals) -> Iterator[Finding]:
    if vitals.redis_down:
        yield Finding(
            "degraded", "redis_down", "Redis cannot be used; pages come from this instance's memory and the vendor",
            "Clients notice little, but the vendor is asked more. pixxel-gateway doctor says what is wrong with Redis.",
        )  # fmt: skip
    if vitals.reload_refused is not None:
        yield Finding(
            "degraded", "reload_refused", "the last reload was refused, and the configuration from before is live",
            f"Mend it and send SIGHUP again: {vitals.reload_refused}",
        )  # fmt: skip
    if not vitals.workers_agree:
        yield Finding(
            "degraded", "workers_disagree", "the workers of this instance have different configurations",
            "Send SIGHUP to the parent, or restart.",
        )  # fmt: skip
    if vitals.lag is not None and vitals.lag >= _BUSY_SECONDS:
        yield Finding(
            "degraded", "overworked", f"this process is {vitals.lag * 1000:.0f} ms late with its work",
            "It has more to do than one core can: more server.workers, or more replicas.",
        )  # fmt: skip
    if vitals.log_dropped:
        yield Finding(
            "degraded", "log_dropped", f"{vitals.log_dropped} lines of the log were dropped in the last minute",
            "Whoever reads standard output is stuck or too slow.",
        )  # fmt: skip
