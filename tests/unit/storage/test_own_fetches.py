"""What this replica's own fetches make of the directories that Redis has."""

from __future__ import annotations

import math
import tracemalloc

from entries import Facts, address, candidate

from gateway.core.clock import SystemClock
from gateway.core.query import Address
from gateway.storage.base import FetchedEntry, record_page
from gateway.storage.listing_index import ListingIndex
from gateway.storage.local_copies import LocalCopies
from gateway.storage.memory import LocalPages
from gateway.storage.validity import Proof, Validity


class _Replica:
    """Copies on a clock that the test moves. Fetches are made one second after another."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.clock = SystemClock(lambda: self.time, lambda: self.time)
        self.validity = Validity(max_age=5.0, clock=self.clock)
        self.copies = LocalCopies(LocalPages(1 << 20, Facts()), self.validity, name="alone", clock=self.clock)

    def fetch(self, where: Address, *, total: int = 100, shows: str = "", body: bytes = b"{}") -> FetchedEntry:
        self.time += 1.0
        return candidate(where, now=self.clock.now(), total=total, shows=shows, body=body)

    def see(self, where: Address, *, total: int = 100, shows: str = "") -> tuple[FetchedEntry, Proof]:
        """Fetch a page that Redis is not told of."""
        proof = self.validity.proof()._replace(at=self.clock.monotonic() + 1.0)
        fetched = self.fetch(where, total=total, shows=shows)
        self.copies.note_fetch(where, fetched, proof)
        return fetched, proof

    def stored(self, *fetches: tuple[Address, FetchedEntry]) -> ListingIndex:
        """Store pages one after another, as Redis does."""
        known = None
        for where, fetched in fetches:
            known = record_page(where, known, fetched, "p", self.clock.now())[0].listing_index
        assert known is not None
        return known


FIRST, SECOND = address(), address(offset=10)


def offsets(directory: ListingIndex | None) -> list[int]:
    return [] if directory is None else sorted(page.offset for page in directory.pages)


def test_a_directory_from_before_an_own_fetch_of_another_total_is_not_taken() -> None:
    replica = _Replica()
    before = replica.stored((FIRST, replica.fetch(FIRST)))
    replica.see(SECOND, total=101)
    assert replica.copies.as_of_fetches(before) is None


def test_of_a_list_that_returned_to_its_total_only_later_pages_are_taken() -> None:
    replica = _Replica()
    first = FIRST, replica.fetch(FIRST)
    replica.see(SECOND, total=101)
    returned = replica.stored(first, (SECOND, replica.fetch(SECOND)))
    assert offsets(replica.copies.as_of_fetches(returned)) == [10]


def test_an_own_fetch_of_the_same_state_takes_nothing_from_a_directory() -> None:
    replica = _Replica()
    before = replica.stored((FIRST, replica.fetch(FIRST, shows="abc")))
    replica.see(address(offset=1, limit=2), shows="bc")
    assert replica.copies.as_of_fetches(before) is before


def test_an_own_fetch_that_redis_was_told_of_counts_if_redis_loses_its_directory() -> None:
    replica = _Replica()
    late = FIRST, replica.fetch(FIRST)
    seen, proof = replica.see(SECOND, total=101)
    replica.copies.note_shared(SECOND.listing, seen, proof)
    assert replica.copies.as_of_fetches(replica.stored(late)) is None


def test_of_own_fetches_that_redis_was_told_of_the_latest_alone_is_remembered() -> None:
    replica = _Replica()
    for number in range(100):
        where = address(offset=10 * number)
        fetched, proof = replica.see(where)
        replica.copies.note_shared(where.listing, fetched, proof)
    assert len(replica.copies._own.of(FIRST.listing)) == 1
    assert replica.copies._own.forgotten(FIRST.listing) == -math.inf
    before = replica.stored((FIRST, replica.fetch(FIRST)))
    assert replica.copies.as_of_fetches(before) is before


def test_many_listings_whose_fetches_redis_was_told_of_invalidate_nothing() -> None:
    replica = _Replica()
    before = replica.stored((FIRST, replica.fetch(FIRST)))
    for number in range(10_001):
        where = address(f"b{number}")
        fetched, proof = replica.see(where)
        replica.copies.note_shared(where.listing, fetched, proof)
    assert replica.copies.as_of_fetches(before) is before


def test_pages_from_before_a_forgotten_own_fetch_are_not_taken() -> None:
    replica = _Replica()
    first = FIRST, replica.fetch(FIRST)
    replica.see(SECOND, total=101)
    for number in range(128):  # the list has returned to 100; these push the first fetch out
        replica.see(address(offset=20 + 10 * number))
    later = replica.stored(first, (SECOND, replica.fetch(SECOND)))
    assert offsets(replica.copies.as_of_fetches(later)) == [10]


def test_a_burst_of_own_fetches_takes_nothing_from_a_directory_of_the_same_state() -> None:
    replica = _Replica()
    burst = [address(offset=10 * number) for number in range(64)]
    fetched = [(where, replica.see(where)[0]) for where in burst]
    stored = replica.stored(fetched[20])
    assert replica.copies.as_of_fetches(stored) is stored


def test_pages_of_every_listing_from_before_too_many_own_fetches_are_not_taken() -> None:
    replica = _Replica()
    first = FIRST, replica.fetch(FIRST)
    before = replica.stored(first)
    replica.see(FIRST, total=101)
    for number in range(10_000):
        replica.copies.note_fetch(address(f"b{number}"), first[1], replica.validity.proof())
    assert replica.copies.as_of_fetches(before) is None
    later = replica.stored((FIRST, replica.fetch(FIRST)))
    assert replica.copies.as_of_fetches(later) is later


def test_a_page_from_before_a_forgotten_own_fetch_is_not_kept_in_memory() -> None:
    replica = _Replica()
    late, proof = replica.fetch(FIRST), replica.validity.proof()
    for number in range(129):
        replica.see(address(offset=20 + 10 * number))
    assert replica.copies.put(FIRST, late, "p", proof).outcome == "older"
    fresh, proof = replica.fetch(FIRST), replica.validity.proof()
    assert replica.copies.put(FIRST, fresh, "p", proof).outcome == "kept"


def test_own_fetches_take_no_memory_for_their_bodies() -> None:
    replica = _Replica()
    tracemalloc.start()
    try:
        for number in range(200):
            where = address(f"b{number}")
            replica.copies.note_fetch(where, replica.fetch(where, body=bytes(100_000)), replica.validity.proof())
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
