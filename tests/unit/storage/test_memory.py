"""What memory holds is bounded in bytes."""

from __future__ import annotations

from entries import Facts, address, candidate, entry
from harness import SteeredClock

from gateway.core.events import Evicted, MemoryTierSize
from gateway.storage.memory import LocalPages, MemoryStore


def test_what_is_used_stays_and_what_passes_through_goes() -> None:
    facts = Facts()
    used = entry("used", now=0, body=b"x" * 1000)
    shelves = LocalPages(used.size * 5, facts)
    shelves.put_entry(used)
    for _ in range(2):
        assert shelves.entry("used", "p", 0) == used
    for number in range(50):
        shelves.put_entry(entry(f"crawled {number}", now=0, body=b"x" * 1000))
        shelves.flush()
    assert shelves.entry("used", "p", 0) == used
    sizes = [fact for fact in facts if isinstance(fact, MemoryTierSize)]
    assert sizes[-1] == MemoryTierSize(5, used.size * 5)
    assert max(size.size for size in sizes) <= used.size * 5
    assert sum(fact.entries for fact in facts if isinstance(fact, Evicted)) == 46


def test_what_is_beyond_the_bound_is_not_held_and_drives_nobody_out() -> None:
    shelves = LocalPages(10_000, Facts())
    small = entry("small", now=0)
    shelves.put_entry(small)
    shelves.put_entry(entry("large", now=0, body=b"x" * 10_000))
    assert shelves.entry("large", "p", 0) is None
    assert shelves.entry("small", "p", 0) == small


def test_an_entry_of_another_epoch_or_past_its_last_use_is_let_go() -> None:
    facts = Facts()
    shelves = LocalPages(10_000, facts)
    for epoch, now in (("q", 0.0), ("p", 30.0)):
        shelves.put_entry(entry("page", now=0))
        assert shelves.entry("page", epoch, now) is None
        shelves.flush()
        assert facts[-1] == MemoryTierSize(0, 0)


async def test_epochs_of_many_aois_are_bounded_and_forgetting_them_is_a_miss() -> None:
    clock = SteeredClock()
    store = MemoryStore(100_000, clock, Facts())
    where = address("kept")
    await store.put(where, candidate(where, now=clock.now()), (await store.get(where)).epoch)
    for number in range(10_001):
        await store.purge(f"a{number}")
    assert len(store._of_aoi) <= 10_000
    assert (await store.get(where)).entry is None
