"""The wall clock goes on evenly, whoever sets whose."""

from __future__ import annotations

import pytest

from gateway.core.clock import SystemClock


@pytest.fixture
def clock() -> SystemClock:
    """A clock for which no time passes."""
    return SystemClock(monotonic=lambda: 1234.5)


@pytest.mark.parametrize("jump", [3600, -3600, 2, -2])
def test_a_clock_that_is_far_off_is_corrected_at_once_and_counts_a_step(clock: SystemClock, jump: float) -> None:
    right = clock.now() + jump
    clock.correct(right, right)
    assert clock.now() == pytest.approx(right, abs=0.001)
    assert clock.steps == 1


def test_a_time_within_the_bounds_is_right(clock: SystemClock) -> None:
    now = clock.now()
    clock.correct(now - 0.3, now + 5)
    assert clock.now() == now


def test_drift_is_made_good_without_a_step_until_it_sets_the_clock_back_by_a_second(clock: SystemClock) -> None:
    start = clock.now()
    for number in range(1, 20):
        clock.correct(start + number / 10, start + number / 10)
    assert clock.now() == pytest.approx(start + 1.9, abs=0.001)
    assert clock.steps == 0
    for number in range(1, 10):
        clock.correct(clock.now() - 0.11, clock.now() - 0.11)
        assert clock.steps == 0, number
    clock.correct(clock.now() - 0.11, clock.now() - 0.11)
    assert clock.steps == 1


def test_a_machine_whose_clock_is_set_changes_nothing(clock: SystemClock, monkeypatch: pytest.MonkeyPatch) -> None:
    before = clock.now()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert clock.now() == before
