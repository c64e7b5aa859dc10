"""The token bucket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.token_bucket import TokenBucket


def test_so_many_at_once_and_then_so_many_a_second() -> None:
    bucket = TokenBucket.full(2.0, 3.0, 10.0)
    assert [bucket.take(10.0) for _ in range(3)] == [None] * 3
    assert bucket.take(10.0) == 0.5
    assert bucket.take(10.25) == 0.25
    assert bucket.take(10.5) is None
    assert bucket.take(9.0) == pytest.approx(0.5)  # a clock gone backwards brings nothing
    assert [bucket.take(100.0) for _ in range(4)] == [None, None, None, 0.5]


@given(st.floats(0.1, 100), st.integers(1, 50), st.lists(st.floats(0, 2), max_size=200))
def test_never_more_than_rate_and_burst_allow(rate: float, burst: int, pauses: list[float]) -> None:
    bucket, now, taken = TokenBucket.full(rate, burst, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        wait = bucket.take(now)
        taken += wait is None
        assert wait is None or 0 < wait <= 1 / rate + 1e-9
    assert taken <= burst + now * rate + 1e-6
