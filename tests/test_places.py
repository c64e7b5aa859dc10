"""Places at the vendor."""

from __future__ import annotations

import asyncio

import pytest
from entries import Facts

from gateway.core.errors import UpstreamOverloaded
from gateway.core.facts import UpstreamQueue
from gateway.places import Places


class Guest:
    """Somebody who takes a place until told to leave."""

    def __init__(self, places: Places, *, patience: float = 30.0) -> None:
        self.inside = asyncio.Event()
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(places, patience))

    async def _visit(self, places: Places, patience: float) -> None:
        async with places.take(patience):
            self.inside.set()
            await self.leave.wait()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_at_once_and_then_in_order() -> None:
    facts = Facts()
    places = Places(2, 10, facts)
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
    places = Places(1, 1, Facts())
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
    places = Places(1, 10, Facts())
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
    places = Places(3, 10, Facts())
    places.allow(1)
    guests = [Guest(places) for _ in range(3)]
    await turns()
    assert [guest.inside.is_set() for guest in guests] == [True, False, False]
    places.allow(3)
    await turns()
    assert all(guest.inside.is_set() for guest in guests)
    for guest in guests:
        guest.leave.set()
        await guest.task
