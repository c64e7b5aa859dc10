"""Decide in one process what a token bucket that several processes share admits.

The bucket itself is in Redis (`storage.redis.shared_budgets`). A process uses it in one of two ways:

- *Exact.* A request waits for one round trip, and Redis decides. All misses are counted like this.
- *Ahead.* A request is admitted at once and reported to Redis within 20 ms. Requests are counted like this while the
  bucket is known to be far from empty, so that a hit does not wait for Redis.

A process admits ahead while it has at most `ahead` = max(1, 0.15 * rate) requests that Redis has not confirmed, and at
most a quarter of the level that it last heard of, plus the refill since. Below 7 requests a second `ahead` is 0: a
single request more would be too large a part of what the rate allows.

A process refuses without asking Redis only before `sent + wait`, where `wait` is the time until the next token in the
last answer, and `sent` is when the question was sent. Redis computed `wait` later than `sent`, and other processes only
take tokens, so nothing is refused that the shared bucket would admit.

**Whatever one exact bucket admits is not refused.** Requests reach Redis up to `delay` seconds late: a round trip, the
wait for an earlier command, and the 20 ms before a report. A full bucket gains nothing, so a late charge costs up to
`rate * delay` tokens. The bucket therefore holds that much more (the tolerance of the GCRA, ITU-T I.371).

A request that was admitted ahead from an empty bucket is one that an exact bucket refuses, so it is not charged but
forgiven: at most `spare` = 2 * ahead at once, and 0.02 * rate a second. Beyond that it is charged as a debt, so that
repeated bursts on several replicas do not add up. A debt is at most 0.45 s of the rate, and delays the next token. It
arises only after more was admitted than by an exact bucket; a team within its rate has none.

**In any ten seconds at most 1.1 * rate * 10 + burst are admitted, with up to three processes.** The excess over one
exact bucket is at most 0.15 * rate of tolerance (delay <= 0.15 s), 2 * ahead = 0.3 * rate admitted but not charged (the
process that empties the bucket is charged in full), and 2 * ahead + 10 * 0.02 * rate = 0.5 * rate forgiven. The sum is
0.95 * rate.
With ahead = 1 it is 0.35 * rate + 4, which is at most `rate` from 7 a second on. Each process beyond the third adds at
most `ahead`.

**While Redis is late, or does not answer, each process counts for itself**, in a bucket (`own`) that has been charged
all along for what this process admitted, and that holds no more than the shared bucket did when it was last heard of.
What is admitted while Redis is late is reported, and the first answer ends this state. `own` is also reported: the
shared bucket never holds more than that of any process. A Redis that returns without its data (restart, failover,
eviction) therefore grants no second burst to a process that has used its first. This is no penalty either, because one
process cannot have used more than all together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from gateway.core.token_bucket import TOLERANCE, TokenBucket

# Seconds of the rate that a process may admit without an answer of Redis, and the rate from which on it may.
_AHEAD_SECONDS = 0.15
_AHEAD_RATE = 7.0
# A process admits ahead while its unconfirmed requests are at most this share of the level.
_AHEAD_SHARE = 1 / 4
# Share of the rate at which overdrafts are forgiven.
FORGIVEN_SHARE = 0.02
# Seconds of the rate that may be missing beyond an empty bucket.
DEBT_SECONDS = 0.3
# Seconds. Requests that were admitted ahead are reported after this time at the latest.
REPORT_SECONDS = 0.02
# The largest recent round trip to Redis, in seconds: at least, before the first one, and how fast it is forgotten.
_LEAST_TRIP = 0.002
_FIRST_TRIP = 0.01
_TRIP_DECAY = 0.98
# Seconds. A round trip that takes longer is not usual, so no request waits for another such one.
_MOST_USUAL_TRIP = 0.1
# Seconds.
_MOST_DELAY = 0.15


class SettlementReport(NamedTuple):
    """One question to the shared bucket.

    `spent` requests were admitted ahead, less the tokens that were given back; `wanted` requests wait for the answer.
    Either may reach Redis up to `delay` seconds after it was made. `own` are
    the tokens that this process alone has used, and `spare` is how many may be forgiven at once.
    """

    rate: float
    burst: float
    spent: int
    delay: float
    wanted: int
    own: float
    spare: int


class SettlementReply(NamedTuple):
    """The answer of the shared bucket: how many of the `wanted` are admitted, and the level after that."""

    granted: int
    level: float


@dataclass(slots=True)
class SharedBucketView:
    """What one process knows of a shared bucket. Times are seconds of a monotonic clock.

    With `exact`, nothing is admitted ahead.
    """

    own: TokenBucket
    exact: bool
    ahead: int = 0
    unreported: int = 0
    _unconfirmed: int = 0
    _level: float = 0.0
    _level_at: float = -math.inf
    _trip: float = _FIRST_TRIP
    _empty_until: float = -math.inf
    _token_at: float = -math.inf

    def __post_init__(self) -> None:
        """Derive the limits from the rate."""
        self._set_ahead()

    def retune(self, rate: float, burst: float, now: float) -> None:
        """Change rate and burst. The next request is decided by Redis."""
        self.own.retune(rate, burst, now)
        self._set_ahead()
        self._level_at = self._empty_until = -math.inf

    def admit(self, now: float) -> bool:
        """Admit a request ahead, if there are certainly tokens for it."""
        pending = self._unconfirmed + 1
        if pending > self.ahead or pending > self._shared_level(now) * _AHEAD_SHARE:
            return False
        self._unconfirmed = pending
        self.unreported += 1
        self.own.take(now)
        return True

    def fall_back(self, now: float) -> None:
        """Let `own` hold no more than the shared bucket does, as far as this process knows."""
        known = self._shared_level(now)
        if not math.isinf(known):
            self.own.charge(max(0, math.floor(self.own.level(now) - known)), now)

    def admit_late(self, now: float) -> float | None:
        """Decide without Redis, which is late. Return None, or the seconds until there is a token."""
        wait = self.own.take(now)
        if wait is None:
            self._unconfirmed += 1
            self.unreported += 1
        return wait

    def give_back(self, now: float) -> None:
        """Return a token that was not used after all."""
        self._unconfirmed -= 1
        self.unreported -= 1
        self.own.charge(-1, now)

    def refusal(self, now: float) -> float | None:
        """Return the seconds until there is a token; None where only Redis can tell whether there is one now."""
        return self._token_at - now if now < self._empty_until else None

    def wait(self, now: float) -> float:
        """Return the seconds until there is a token, after a refusal."""
        return max(0.0, self._token_at - now)

    def report(self, wanted: int, now: float) -> SettlementReport:
        """Return what to ask Redis, which will be told of every request that was admitted ahead."""
        # A request may have waited for an earlier command before its own.
        delay = min(_MOST_DELAY, 2 * self._trip + (REPORT_SECONDS if self.ahead else 0.0))
        spent, self.unreported = self.unreported, 0
        rate, burst = self.own.rate, self.own.burst
        # What other commands report at the same time may arrive later, and would be counted twice.
        own = burst - self.own.level(now) - (self._unconfirmed - spent)
        return SettlementReport(rate, burst, spent, delay, wanted, own, 2 * self.ahead)

    @property
    def usual_trip(self) -> float:
        """How long a request may wait for Redis without being held up, in seconds."""
        return min(self._trip, _MOST_USUAL_TRIP)

    def answered(
        self, report: SettlementReport, answer: SettlementReply, sent: float, now: float, *, late: bool
    ) -> None:
        """Take in the answer to a report that was sent at `sent`.

        With `late`, those who waited have been decided by `admit_late`, so what Redis granted them is reported already.
        """
        self._unconfirmed -= report.spent
        if late:
            self._unconfirmed -= answer.granted
            self.unreported -= answer.granted
        else:
            self.own.charge(answer.granted, now)
        self._trip = max(_LEAST_TRIP, now - sent, self._trip * _TRIP_DECAY)
        # Answers may overtake each other, and rate and burst may have been changed since.
        if sent < self._level_at or (report.rate, report.burst) != (self.own.rate, self.own.burst):
            return
        self._level, self._level_at = answer.level, sent
        wait = 0.0 if answer.level >= 1.0 - TOLERANCE else (1.0 - answer.level) / report.rate
        self._empty_until, self._token_at = sent + wait, now + wait

    def failed(self, report: SettlementReport, now: float) -> None:
        """Take in that a report was not answered. Whether Redis counted it is not known.

        Nothing that was admitted before is reported any more: it might be charged long after it was admitted.
        """
        self._unconfirmed -= report.spent + self.unreported
        self.unreported = 0
        self.fall_back(now)

    def _shared_level(self, now: float) -> float:
        """Return the level as far as this process knows; minus infinity where it does not."""
        if self._level_at == -math.inf:
            return -math.inf
        own = self.own
        level = self._level + (now - self._level_at) * own.rate
        return min(own.burst, level) - self._unconfirmed

    def _set_ahead(self) -> None:
        rate = self.own.rate
        self.ahead = 0 if self.exact or rate < _AHEAD_RATE else max(1, math.floor(rate * _AHEAD_SECONDS))
