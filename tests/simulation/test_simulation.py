"""Replicas of the real gateway on virtual time: schedules drawn from seeds, and those that once found a fault."""

from __future__ import annotations

import gc
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulation.__main__ import ENOUGH, never_met, report
from simulation.found import EXPECTED, FOUND, RULES
from simulation.schedule import schedule
from simulation.world import simulate

# A process that is killed closes nothing.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

# More run with `make simulate`.
_CHUNKS = 20
_RUNS = ENOUGH // _CHUNKS


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What killed replicas left open is collected here, and not in another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of this session, which the processes that run its tests share."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "simulation"
    path.mkdir(exist_ok=True)
    return path


@pytest.mark.parametrize("chunk", range(_CHUNKS))
def test_no_schedule_violates_an_invariant_and_all_faults_meet_all_decisions(chunk: int, sums: Path) -> None:
    met: Counter[tuple[str, str]] = Counter()
    for seed in range(chunk * _RUNS, (chunk + 1) * _RUNS):
        result = simulate(schedule(seed))
        assert result.violation is None, report(result)
        met += result.oracle.met
    unfinished = sums / f"{chunk}.unfinished"
    unfinished.write_text(json.dumps([[*pair, times] for pair, times in met.items()]))
    unfinished.replace(sums / f"{chunk}.json")
    done = list(sums.glob("*.json"))
    if len(done) == _CHUNKS:  # whoever is last looks at all
        met = Counter()
        for path in done:
            met += Counter({(fault, kind): times for fault, kind, times in json.loads(path.read_text())})
        assert never_met(met) == []


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
