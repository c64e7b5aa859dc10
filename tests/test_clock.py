"""The wall clock goes on evenly, whoever sets whose."""

from __future__ import annotations

import pytest

from gateway.clock import SystemClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SystemClock:
    """One for which no time passes: the test takes none, however long it takes."""
    monkeypatch.setattr("time.monotonic", lambda: 1234.5)
    return SystemClock()


@pytest.mark.parametrize("jump", [3600, -3600])
def test_another_clock_is_taken_once_and_then_approached(clock: SystemClock, jump: float) -> None:
    start = clock.now()
    clock.correct(start + 50)
    assert clock.now() - start == pytest.approx(50, abs=0.001)
    clock.correct(clock.now() + jump)
    assert clock.now() - start == pytest.approx(50 + (1 if jump > 0 else -1), abs=0.001)
    clock.correct(clock.now() + 0.25)
    assert clock.now() - start == pytest.approx(50.25 + (1 if jump > 0 else -1), abs=0.001)


def test_a_machine_whose_clock_is_set_changes_nothing(clock: SystemClock, monkeypatch: pytest.MonkeyPatch) -> None:
    before = clock.now()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert clock.now() == before
