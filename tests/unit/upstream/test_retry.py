"""Retries: how many, and when."""

from __future__ import annotations

import pytest

from gateway.upstream.retry import RetryBudget, backoff


def test_retries_are_a_share_of_calls_and_some_to_start_with() -> None:
    budget = RetryBudget(0.1)
    assert sum(budget.take() for _ in range(100)) == 10
    for _ in range(1000):
        budget.called()
    assert sum(budget.take() for _ in range(1000)) in (99, 100)  # tenths do not add up exactly


@pytest.mark.parametrize(
    ("attempt", "chance", "seconds"), [(1, 0.0, 0.0), (1, 0.5, 0.05), (2, 0.5, 0.1), (10, 0.5, 1.0)]
)
def test_backoff_doubles_is_jittered_and_has_an_end(attempt: int, chance: float, seconds: float) -> None:
    assert backoff(attempt, chance) == pytest.approx(seconds)
