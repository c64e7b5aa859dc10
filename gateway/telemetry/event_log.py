"""Log events that are worth a line.

A sink like `metrics`. Events that may come with every request are logged at intervals, with the number of those that
were not logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.core import events
from gateway.core.clock import Clock

# Seconds between two lines about the same thing.
_QUIET = 10.0

_log = logging.getLogger("gateway")


class EventLog:
    """Subscribe `handlers` to facts."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}
        self._forbidden_told = False
        kinds = (
            events.RedisAvailabilityChanged, events.FetchFailed, events.KeyRefused, events.BreakerChanged,
            events.VendorPaused,
            events.VendorResumed, events.CorruptValue, events.VendorForbidsStoring, events.UnhandledError,
        )  # fmt: skip
        self.handlers: dict[type, Callable[[Any], None]] = dict.fromkeys(kinds, self._tell)
        self.handlers[events.ConnectionReuseSuspended] = _reuse_suspended

    def _tell(self, fact: NamedTuple) -> None:
        match fact:
            case events.RedisAvailabilityChanged():
                _tell_of_redis(fact)
            case events.FetchFailed(error, message):
                self._sometimes(f"upstream {error}", "the vendor failed", error=error, why=message)
            case events.KeyRefused(status):
                self._sometimes("key refused", "the vendor refused the key; is it still valid?", status=status)
            case events.BreakerChanged("open"):
                _log.warning("the vendor failed too often in a row and is left alone for a moment")
            case events.BreakerChanged("closed"):
                _log.info("the vendor answers again")
            case events.VendorPaused(until):
                _log.warning("the vendor asked for a pause", extra={"seconds": round(until - self._clock.now(), 1)})
            case events.VendorResumed():
                _log.info("the vendor's pause is over")
            case events.CorruptValue(reason):
                self._sometimes("corrupt", "a stored value could not be read and is treated as a miss", why=reason)
            case events.VendorForbidsStoring() if not self._forbidden_told:
                self._forbidden_told = True
                _log.warning('the vendor forbids to store its pages; upstream.cache_control = "ignore" overrules it')
            case events.UnhandledError(error, where, request_id):
                _log.error("an unexpected error", extra={"error": error, "where": where, "request_id": request_id})

    def _sometimes(self, topic: str, text: str, **extra: object) -> None:
        now = self._clock.monotonic()
        last, untold = self._told.get(topic, (-_QUIET, 0))
        if now - last < _QUIET:
            self._told[topic] = (last, untold + 1)
            return
        self._told[topic] = (now, 0)
        _log.warning(text, extra={**extra, "more": untold} if untold else extra)


def _tell_of_redis(fact: events.RedisAvailabilityChanged) -> None:
    if fact.up:
        _log.info("redis answers")
    elif fact.refuses:
        _log.warning("redis refuses commands that the gateway needs", extra={"why": fact.reason})
    else:
        _log.warning("redis does not answer; pages are served from memory and the vendor", extra={"why": fact.reason})


def _reuse_suspended(fact: events.ConnectionReuseSuspended) -> None:
    _log.warning(
        "for ten minutes each call to the vendor uses a connection of its own",
        extra={"why": fact.reason, "host": fact.host},
    )
