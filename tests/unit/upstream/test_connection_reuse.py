"""When connections to the vendor may be used again."""

from __future__ import annotations

import pytest

from gateway.upstream.connection_reuse import ReuseGuard, quiet_seconds


@pytest.mark.parametrize(
    ("round_trip", "seconds"), [(0.00001, 0.005), (0.0025, 0.005), (0.02, 0.04), (0.05, 0.1), (3.0, 0.1), (None, 0.1)]
)
def test_quiet_time_is_twice_the_handshake_within_bounds(round_trip: float | None, seconds: float) -> None:
    assert quiet_seconds(round_trip) == seconds


def test_two_dirty_connections_within_ten_minutes_suspend_reuse_for_ten_minutes() -> None:
    guard = ReuseGuard()
    assert not guard.dirty(0.0)
    assert not guard.dirty(600.0)  # ten minutes later is not within
    assert guard.allows(1199.0)
    assert guard.dirty(1199.0)
    assert not guard.allows(1798.9)
    assert guard.allows(1799.0)
    assert not guard.dirty(1799.0)  # the count begins anew


def test_a_suspension_is_told_once() -> None:
    guard = ReuseGuard()
    assert [guard.dirty(second) for second in (0.0, 1.0, 2.0, 3.0)] == [False, True, False, False]


@pytest.mark.parametrize(
    ("checkouts", "replaced", "suspends"),
    [(10, 4, False), (10, 5, True), (50, 5, False), (49, 5, True), (600, 60, False)],
)
def test_more_than_a_tenth_replaced_connections_suspend_reuse(checkouts: int, replaced: int, suspends: bool) -> None:
    guard = ReuseGuard()
    for number in range(checkouts):
        guard.checked_out(number / checkouts)
    assert any(guard.replaced(1.0) for _ in range(replaced)) == suspends
    assert guard.allows(1.0) != suspends


def test_replaced_connections_count_for_a_minute() -> None:
    guard = ReuseGuard()
    for second in range(0, 300, 15):
        guard.checked_out(second)
        assert not guard.replaced(second)
