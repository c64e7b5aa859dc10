"""Replicas of the real gateway on virtual time: schedules drawn from seeds, and those that once found a fault."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest

from simulation.__main__ import report
from simulation.found import EXPECTED, FOUND, RULES
from simulation.schedule import schedule
from simulation.world import simulate

# A process that is killed closes nothing.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

# CI runs more with `make simulate`, which also checks that each kind of fault met each kind of decision.
_CHUNKS = 20
_RUNS = 3


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What killed replicas left open is collected here, and not in another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.parametrize("chunk", range(_CHUNKS))
def test_no_schedule_violates_an_invariant(chunk: int) -> None:
    for seed in range(chunk * _RUNS, (chunk + 1) * _RUNS):
        result = simulate(schedule(seed))
        assert result.violation is None, report(result)


@pytest.mark.parametrize("name", [*FOUND, *RULES])
def test_a_named_schedule_violates_no_invariant(name: str) -> None:
    result = simulate({**FOUND, **RULES}[name])
    assert result.violation is None, "\n".join(result.trace)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_named_schedule_is_answered_from_the_cache(name: str) -> None:
    plan, decision = EXPECTED[name]
    result = simulate(plan)
    assert result.violation is None, "\n".join(result.trace)
    assert result.answered[-1] == decision, "\n".join(result.trace)


def test_a_seed_replays_exactly() -> None:
    one, other = (simulate(schedule(3)) for _ in range(2))
    assert one.trace == other.trace
    assert one.oracle.met == other.oracle.met
    assert len(one.trace) > 10
