"""The Cache-Status header (RFC 9211): how an answer came about, for people and programs."""

from __future__ import annotations

import math

from gateway.cache.handler import CacheAnswer, Forward

CACHE_NAME = "pixxel-gateway"


def cache_status(answer: CacheAnswer) -> str:
    """Tell of a hit how long it stays fresh, and of anything else why and with what success it was forwarded."""
    if answer.forward is None:
        # Rounded down: 0.4 s left are not "1", and an answer in grace never looks fresh.
        window = "; detail=window" if answer.window else ""
        return f"{CACHE_NAME}; hit; ttl={math.floor(answer.entry.fresh_until - answer.now)}{window}"
    return f"{CACHE_NAME}; {_forwarded(answer.forward)}"


def _forwarded(forward: Forward) -> str:
    parts = [f"fwd={forward.reason}"]
    if forward.status is not None:
        parts.append(f"fwd-status={forward.status}")
    if forward.failed:
        parts.append("detail=stale-if-error")
    else:
        if forward.stored:
            parts.append("stored")
        if forward.collapsed:
            parts.append("collapsed")
    return "; ".join(parts)
