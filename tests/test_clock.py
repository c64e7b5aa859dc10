"""The wall clock goes on evenly, whoever sets whose."""

from __future__ import annotations

import pytest

from gateway.clock import SystemClock


@pytest.mark.parametrize("jump", [3600, -3600])
def test_another_clock_is_taken_once_and_then_approached(jump: float) -> None:
    clock = SystemClock()
    start = clock.now()
    clock.correct(start + 50)
    assert clock.now() - start == pytest.approx(50, abs=1)
    clock.correct(clock.now() + jump)
    assert clock.now() - start == pytest.approx(50 + (1 if jump > 0 else -1), abs=0.5)
    clock.correct(clock.now() + 0.25)
    assert clock.now() - start == pytest.approx(50.25 + (1 if jump > 0 else -1), abs=0.5)


def test_a_machine_whose_clock_is_set_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    before = clock.now()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert clock.now() == pytest.approx(before, abs=1)
