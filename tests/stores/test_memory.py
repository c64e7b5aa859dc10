"""The in-process store is bounded in bytes and forgets what was used longest ago."""

from __future__ import annotations

from entries import Facts, entry
from harness import SteeredClock

from gateway.core.facts import Evicted, MemoryTierSize
from gateway.stores.memory import MemoryStore


async def test_what_was_used_longest_ago_goes_first() -> None:
    clock, facts = SteeredClock(), Facts()
    one, two, three = (entry(f"{{a}}:{name}", now=clock.now(), body=b"x" * 1000) for name in ("one", "two", "three"))
    store = MemoryStore(one.size * 2 + 100, clock, facts)
    await store.put(one)
    await store.put(two)
    assert await store.get(one.key) == one
    await store.put(three)
    assert await store.get(two.key) is None
    assert await store.get(one.key) == one
    assert [fact for fact in facts if isinstance(fact, Evicted)] == [Evicted(1)]
    assert [fact for fact in facts if isinstance(fact, MemoryTierSize)][-1] == MemoryTierSize(2, one.size + three.size)


async def test_an_entry_beyond_the_bound_is_not_kept_and_drives_nobody_out() -> None:
    clock, facts = SteeredClock(), Facts()
    store = MemoryStore(10_000, clock, facts)
    small = entry("{a}:small", now=clock.now())
    await store.put(small)
    await store.put(entry("{a}:large", now=clock.now(), body=b"x" * 10_000))
    assert await store.get("{a}:large") is None
    assert await store.get(small.key) == small


async def test_an_earlier_fetch_never_replaces_a_later_one() -> None:
    clock = SteeredClock()
    store = MemoryStore(10_000, clock, Facts())
    later = entry(now=clock.now(), started=5, body=b"later")
    await store.put(later)
    await store.put(entry(now=clock.now(), started=1, body=b"earlier"))
    assert await store.get(later.key) == later
