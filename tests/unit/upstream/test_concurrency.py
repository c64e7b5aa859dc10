"""Places at the vendor."""

from __future__ import annotations

import asyncio

import pytest
from entries import Facts

from gateway.core.errors import UpstreamOverloaded
from gateway.core.events import UpstreamQueue
from gateway.upstream.concurrency import ConcurrencyLimiter


class Guest:
    """Somebody who takes a place until told to leave."""

    def __init__(self, places: ConcurrencyLimiter, team: str | None = None, *, patience: float = 30.0) -> None:
        self.inside = asyncio.Event()
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(places, patience, team))

    async def _visit(self, places: ConcurrencyLimiter, patience: float, team: str | None) -> None:
        async with places.acquire(patience, team):
            self.inside.set()
            await self.leave.wait()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_at_once_and_then_in_order() -> None:
    facts = Facts()
    places = ConcurrencyLimiter(2, 10, facts)
    guests = [Guest(places) for _ in range(4)]
    await turns()
    assert [guest.inside.is_set() for guest in guests] == [True, True, False, False]
    assert facts[-1] == UpstreamQueue(2, 2)
    guests[1].leave.set()
    await turns()
    assert [guest.inside.is_set() for guest in guests] == [True, True, True, False]
    for guest in guests:
        guest.leave.set()
        await guest.task
    assert places.idle
    assert facts[-1] == UpstreamQueue(0, 0)


async def test_a_full_queue_and_a_long_wait_are_refused() -> None:
    places = ConcurrencyLimiter(1, 1, Facts())
    first, second = Guest(places), Guest(places, patience=0.01)
    third = Guest(places)
    with pytest.raises(UpstreamOverloaded):
        await third.task
    with pytest.raises(UpstreamOverloaded):
        await second.task
    first.leave.set()
    await first.task
    assert places.idle


async def test_who_leaves_the_queue_takes_no_place_along() -> None:
    places = ConcurrencyLimiter(1, 10, Facts())
    first, second, third = Guest(places), Guest(places), Guest(places)
    await turns()
    first.leave.set()
    await asyncio.sleep(0)  # the place is given to the second
    second.task.cancel()
    await turns()
    assert third.inside.is_set()
    third.leave.set()
    await asyncio.gather(first.task, second.task, third.task, return_exceptions=True)
    assert places.idle


async def test_the_limit_may_change() -> None:
    places = ConcurrencyLimiter(3, 10, Facts())
    places.set_limit(1)
    guests = [Guest(places) for _ in range(3)]
    await turns()
    assert [guest.inside.is_set() for guest in guests] == [True, False, False]
    places.set_limit(3)
    await turns()
    assert all(guest.inside.is_set() for guest in guests)
    for guest in guests:
        guest.leave.set()
        await guest.task


async def test_a_team_that_has_half_of_the_places_lets_others_go_first() -> None:
    places = ConcurrencyLimiter(4, 100, Facts())
    flood = [Guest(places, "flood") for _ in range(20)]
    await turns()
    assert sum(guest.inside.is_set() for guest in flood) == 4  # as long as nobody else is there
    others = [Guest(places, "other") for _ in range(3)]
    for guest in flood[:2]:
        guest.leave.set()
        await guest.task
    await turns()
    assert [guest.inside.is_set() for guest in others] == [True, True, False]
    flood[2].leave.set()
    await flood[2].task
    await turns()
    # Of two teams that have as much as they may while others wait, the first in the queue is next.
    assert sum(guest.inside.is_set() for guest in flood[3:]) == 2
    for guest in (*flood, *others):
        guest.leave.set()
    await asyncio.gather(*(guest.task for guest in (*flood, *others)))
    assert places.idle


async def test_a_flood_does_not_keep_others_out_of_the_queue() -> None:
    places = ConcurrencyLimiter(1, 10, Facts())
    flood = [Guest(places, "flood") for _ in range(11)]
    await turns()
    other = Guest(places, "other")
    await turns()
    with pytest.raises(UpstreamOverloaded):
        await flood[-1].task
    with pytest.raises(UpstreamOverloaded):
        await Guest(places, "flood").task
    for guest in (*flood, other):
        guest.leave.set()
    await asyncio.gather(*(guest.task for guest in (*flood[:-1], other)))
    assert places.idle
