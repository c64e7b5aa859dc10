"""Latencies as counts by bucket: the bounds of `gateway_http_request_duration_seconds`, and quantiles from them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

REQUEST_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip
"""Upper bounds in seconds, each included in its bucket. What is above the last one is in one bucket more."""

BUCKETS = len(REQUEST_SECONDS) + 1


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
    if index >= len(REQUEST_SECONDS):
        return float(REQUEST_SECONDS[-1])
    low = REQUEST_SECONDS[index - 1] if index else 0.0
    return low + (REQUEST_SECONDS[index] - low) * (wanted - below[index] + counts[index]) / counts[index]
