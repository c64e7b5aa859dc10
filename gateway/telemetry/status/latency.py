"""Latencies as counts by bucket, and quantiles from them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from gateway.core.events import LATENCY_BOUNDS

BUCKETS = len(LATENCY_BOUNDS) + 1
"""One for each bound, which is in it, and one for what is above the last."""


def quantiles(counts: Sequence[int], shares: Sequence[float]) -> list[float | None]:
    """The latencies in seconds that these shares of all were not above, from counts by bucket; None where all are 0.

    Interpolated within its bucket as Prometheus' histogram_quantile does: observations are taken to be spread evenly
    between two bounds, and the last bound stands for all that is above it.
    """
    below = list(accumulate(counts))
    if not below[-1]:
        return [None] * len(shares)
    return [_quantile(counts, below, share * below[-1]) for share in shares]


def _quantile(counts: Sequence[int], below: Sequence[int], wanted: float) -> float:
    index = bisect_left(below, wanted)
    while not counts[index]:  # nothing is in the first bucket, and nothing was wanted
        index += 1
    if index >= len(LATENCY_BOUNDS):
        return float(LATENCY_BOUNDS[-1])
    low = LATENCY_BOUNDS[index - 1] if index else 0.0
    return low + (LATENCY_BOUNDS[index] - low) * (wanted - below[index] + counts[index]) / counts[index]
