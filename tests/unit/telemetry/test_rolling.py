"""Counts of the last while, quantiles of them, and the busiest keys."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.events import LATENCY_BOUNDS
from gateway.telemetry.status import rolling, space_saving
from gateway.telemetry.status.latency import BUCKETS, quantiles
from gateway.telemetry.status.rolling import Rolling
from gateway.telemetry.status.space_saving import SpaceSaving


def test_rows_are_those_of_the_latest_slots_and_the_rest_is_past() -> None:
    counts = Rolling(3, 2)
    for slot in (10, 11, 11, 12):
        counts.at(slot)[0] += 1
    assert (counts.rows(), counts.past) == ({10: [1, 0], 11: [2, 0], 12: [1, 0]}, [0, 0])
    counts.at(13)[1] += 5
    assert (counts.rows(), counts.past) == ({11: [2, 0], 12: [1, 0], 13: [0, 5]}, [1, 0])
    counts.at(15)[0] += 7  # nothing in slot 14
    assert (counts.rows(), counts.past) == ({13: [0, 5], 15: [7, 0]}, [4, 0])
    counts.at(14)[0] += 1  # time seems to have gone back: it is the newest row that counts
    assert counts.rows()[15] == [8, 0]
    counts.at(10**9)
    assert (counts.rows(), counts.past) == ({}, [12, 5])


def test_rows_that_were_handed_out_do_not_change() -> None:
    counts = Rolling(2, 1)
    counts.at(1)[0] += 1
    told = counts.rows()
    counts.at(1)[0] += 1
    assert told == {1: [1]}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(1, 9)), max_size=60),
    st.integers(0, 5),
)
def test_two_that_counted_the_same_time_are_one_that_counted_it_all(
    steps: list[tuple[int, int, int]], late: int
) -> None:
    """Whatever falls out of the window meanwhile: nothing is lost, and nothing counted twice."""
    whole, parts, slot = Rolling(4, 1), (Rolling(4, 1), Rolling(4, 1)), 100
    for step, who, n in steps:
        slot += step
        whole.at(slot)[0] += n
        parts[who].at(slot)[0] += n
    now = slot + late
    whole.at(now)
    one, other = ((part.rows(), part.past) for part in parts)
    assert rolling.merge(one, other, now - 3) == (whole.rows(), whole.past)


def test_quantiles_lie_in_the_bucket_of_what_was_counted() -> None:
    counts = [0] * BUCKETS
    assert quantiles(counts, (0.5, 0.99)) == [None, None]
    counts[3] = 98  # 0.5 to 1 ms
    counts[8] = 2  # 25 to 50 ms
    assert quantiles(counts, (0.0, 0.5, 0.98)) == pytest.approx([0.0005, 0.0005 + 0.0005 * 50 / 98, 0.001])
    assert quantiles(counts, (0.99, 1.0)) == pytest.approx([0.0375, 0.05])
    counts = [0] * BUCKETS
    counts[-1] = 1  # over 30 s: the last bound is as much as is known
    assert quantiles(counts, (0.5,)) == [30.0]
    counts = [4] + [0] * (BUCKETS - 1)
    assert quantiles(counts, (0.5,)) == pytest.approx([LATENCY_BOUNDS[0] / 2])


def zipf(seed: int, n: int = 20_000) -> list[str]:
    chance = random.Random(seed)
    return [f"k{int(chance.paretovariate(1.1))}" for _ in range(n)]


def checked(summary: space_saving.Summary, truth: Counter[str], capacity: int) -> None:
    """What Space-Saving promises: nothing is counted too low, nothing too high by more than it says, and no key that
    is frequent is missing."""
    assert len(summary.keys) <= capacity
    for frequent in summary.keys:
        assert truth[frequent.key] <= frequent.count
        assert frequent.count - frequent.over <= truth[frequent.key]
    held = {frequent.key for frequent in summary.keys}
    assert all(count <= summary.floor for key, count in truth.items() if key not in held)
    assert [frequent.count for frequent in summary.keys] == sorted((one.count for one in summary.keys), reverse=True)


@pytest.mark.parametrize("capacity", [1, 7, 50])
def test_the_busiest_keys_are_found_in_bounded_memory(capacity: int) -> None:
    keys, found = zipf(1), SpaceSaving(capacity)
    for key in keys:
        found.add(key)
    truth = Counter(keys)
    checked(found.summary(), truth, capacity)
    assert found.summary().floor <= len(keys) / capacity
    if capacity == 50:
        assert [one.key for one in found.summary().keys[:5]] == [key for key, _ in truth.most_common(5)]
        assert len(found._heap) == len(found._counts) == capacity


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 50)), max_size=80), st.integers(1, 5))
def test_many_at_once_count_as_many(steps: list[tuple[str, int]], capacity: int) -> None:
    found, truth = SpaceSaving(capacity), Counter[str]()
    for key, n in steps:
        found.add(key, n)
        truth[key] += n
    checked(found.summary(), truth, capacity)


def test_summaries_of_two_promise_as_much_together() -> None:
    keys = zipf(2), zipf(3)
    several = []
    for each in keys:
        found = SpaceSaving(20)
        for key in each:
            found.add(key)
        several.append(found.summary())
    checked(space_saving.merge(several[0], several[1], 20), Counter(keys[0]) + Counter(keys[1]), 20)
    empty = SpaceSaving(20).summary()
    assert space_saving.merge(several[0], empty, 20) == several[0]
