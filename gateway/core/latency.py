"""Latencies as counts by bucket: the bounds of `gateway_http_request_duration_seconds`, and quantiles from them."""

from __future__ import annotations

from collections.abc import Sequence

REQUEST_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip
"""Upper bounds in seconds, each included in its bucket. What is above the last one is in one bucket more."""

BUCKETS = len(REQUEST_SECONDS) + 1


def quantile(counts: Sequence[int], share: float) -> float | None:
    """The latency in seconds that a share of all were not above, from counts by bucket; None when there are none.

    Interpolated within its bucket as Prometheus' histogram_quantile does: observations are taken to be spread evenly
    between two bounds, and the last bound stands for all that is above it.
    """
    wanted = share * sum(counts)
    if not wanted:
        return None
    below = 0
    for index, count in enumerate(counts):
        if count and below + count >= wanted:
            if index >= len(REQUEST_SECONDS):
                break
            low = REQUEST_SECONDS[index - 1] if index else 0.0
            return low + (REQUEST_SECONDS[index] - low) * (wanted - below) / count
        below += count
    return float(REQUEST_SECONDS[-1])
