"""Copies in memory: what a reply of Redis, a message or an own fetch does to them, in every order."""

from __future__ import annotations

import pytest
from entries import Facts, address, candidate
from hand_clock import HandClock
from msgspec import structs

from gateway.storage.base import FetchedEntry, PutResult, StoreResult, record_page
from gateway.storage.listing_index import ListingIndex
from gateway.storage.local_copies import LocalCopies
from gateway.storage.memory import LocalPages
from gateway.storage.redis.store import InvalidationMessage
from gateway.storage.validity import Standing, Validity

EPOCH = "all.s/aoi.s"
FIRST = address(offset=0)
SECOND = address(offset=10)


class Replica:
    """The copies of one replica, during a session unless it is ended."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.validity = Validity(max_age=5.0, clock=self.clock)
        self.near = LocalPages(1_000_000, Facts())
        self.copies = LocalCopies(self.near, self.validity, name="alone", clock=self.clock)
        self.validity.begin_session(self.clock.monotonic())
        self.clock.skip(0.01)

    def page(self, shows: str = "abcdefghij", *, at: int = 0, total: int = 30, began: float = 0.0) -> FetchedEntry:
        """A page whose fetch began so many seconds from now."""
        return candidate(address(offset=at), now=self.clock.now(), started=began, total=total, shows=shows)

    def stored(self, page: FetchedEntry, known: ListingIndex | None = None) -> PutResult:
        """The page as Redis stores it after a directory."""
        result, entry = record_page(address(offset=page.record.offset), known, page, EPOCH, self.clock.now())
        return PutResult(entry, "kept", result.listing_index)

    def adopt(self, kept: PutResult, at: int = 0) -> ListingIndex | None:
        """Take what Redis answers at once."""
        proof = self.validity.proof()
        assert kept.listing_index is not None
        return self.copies.adopt(address(offset=at), kept.listing_index, kept.entry, proof)

    def told(self, kept: PutResult) -> InvalidationMessage:
        """The message that the page was stored."""
        entry, directory = kept.entry, kept.listing_index
        assert directory is not None
        [seen] = [page for page in directory.pages if page.started == entry.started]
        where = address(offset=seen.offset)
        return InvalidationMessage(
            "another", where.aoi_id, entry.epoch, where.listing, where.page, entry.generation, entry.started,
            seen.offset, seen.limit, directory.revision,
        )  # fmt: skip

    def standing(self) -> Standing | None:
        known = self.copies.listing(FIRST)
        return None if known is None else known.standing

    def keep(self, page: FetchedEntry, *, ago: float = 0.0) -> PutResult:
        """Keep a page without Redis, whose fetch was sent so many seconds ago."""
        proof = self.validity.proof()._replace(at=self.clock.monotonic() - ago)
        return self.copies.put(address(offset=page.record.offset), page, EPOCH, proof)


@pytest.fixture
def replica() -> Replica:
    return Replica()


def test_a_reply_that_a_purge_has_overtaken_is_not_adopted(replica: Replica) -> None:
    kept, proof = replica.stored(replica.page()), replica.validity.proof()
    replica.clock.skip(0.01)
    replica.copies.purge("a1", soft=False)
    assert kept.listing_index is not None
    assert replica.copies.adopt(FIRST, kept.listing_index, kept.entry, proof) is None
    assert replica.standing() is None


def test_a_reply_that_the_end_of_its_generation_has_overtaken_is_not_adopted(replica: Replica) -> None:
    kept, proof = replica.stored(replica.page()), replica.validity.proof()
    replica.clock.skip(0.01)
    replica.copies.end_generation(FIRST.listing)
    assert kept.listing_index is not None
    assert replica.copies.adopt(FIRST, kept.listing_index, kept.entry, proof) is None


def test_a_reply_that_a_message_of_another_generation_has_overtaken_is_not_adopted(replica: Replica) -> None:
    kept, proof = replica.stored(replica.page()), replica.validity.proof()
    later = replica.stored(replica.page(total=31, began=0.1), kept.listing_index)
    replica.clock.skip(0.01)
    replica.copies.note_page(replica.told(later))
    assert kept.listing_index is not None
    assert replica.copies.adopt(FIRST, kept.listing_index, kept.entry, proof) is None
    assert not replica.copies.is_current(FIRST, StoreResult(EPOCH, kept.listing_index, kept.entry, proof=proof))


def test_a_reply_that_is_newer_than_the_message_which_overtakes_it_is_adopted(replica: Replica) -> None:
    first = replica.stored(replica.page())
    later, proof = replica.stored(replica.page(total=31, began=0.1), first.listing_index), replica.validity.proof()
    replica.clock.skip(0.01)
    replica.copies.note_page(replica.told(first))
    assert later.listing_index is not None
    assert replica.copies.adopt(FIRST, later.listing_index, later.entry, proof) == later.listing_index
    assert replica.copies.is_current(FIRST, StoreResult(EPOCH, later.listing_index, later.entry, proof=proof))


def test_a_message_of_a_newer_fetch_of_one_page_leaves_the_others_of_a_reply(replica: Replica) -> None:
    first = replica.stored(replica.page())
    both, proof = (
        replica.stored(replica.page("klmnopqrst", at=10, began=0.1), first.listing_index),
        replica.validity.proof(),
    )
    again = replica.stored(replica.page(began=0.2), both.listing_index)
    replica.clock.skip(0.01)
    replica.copies.note_page(replica.told(again))
    assert both.listing_index is not None
    adopted = replica.copies.adopt(SECOND, both.listing_index, both.entry, proof)
    assert adopted is not None
    assert [page.offset for page in adopted.pages] == [10]


def test_a_message_of_another_generation_ends_the_copy(replica: Replica) -> None:
    kept = replica.stored(replica.page())
    later = replica.stored(replica.page(total=31, began=0.1), kept.listing_index)
    replica.adopt(kept)
    seal = replica.validity.validity_tokens.issue("a1")
    replica.clock.skip(0.01)
    replica.copies.note_page(replica.told(later))
    assert replica.standing() is Standing.FALLBACK
    assert seal.broken


def test_a_message_that_is_older_than_the_copy_leaves_it(replica: Replica) -> None:
    kept = replica.stored(replica.page())
    later = replica.stored(replica.page(total=31, began=0.1), kept.listing_index)
    replica.adopt(later)
    replica.clock.skip(0.01)
    replica.copies.note_page(replica.told(kept))
    assert replica.standing() is Standing.VALID


def test_a_message_of_a_newer_fetch_drops_that_page_alone(replica: Replica) -> None:
    first = replica.stored(replica.page())
    both = replica.stored(replica.page("klmnopqrst", at=10, began=0.1), first.listing_index)
    again = replica.stored(replica.page(began=0.2), both.listing_index)
    replica.adopt(first)
    replica.adopt(both, 10)
    replica.clock.skip(0.01)
    replica.copies.note_page(replica.told(again))
    known = replica.copies.listing(FIRST)
    assert known is not None
    assert known.standing is Standing.VALID
    assert [page.offset for page in known.listing_index.pages] == [10]
    assert replica.near.entry(FIRST.page, EPOCH, replica.clock.now()) is None
    assert replica.near.entry(SECOND.page, EPOCH, replica.clock.now()) is not None


def test_an_older_reply_does_not_replace_a_newer_copy(replica: Replica) -> None:
    first = replica.stored(replica.page())
    later = replica.stored(replica.page(total=31, began=0.1), first.listing_index)
    both = replica.stored(replica.page("klmnopqrst", at=10, total=31, began=0.2), later.listing_index)
    replica.adopt(both, 10)
    assert replica.adopt(first) is None
    assert replica.adopt(later) == both.listing_index
    known = replica.copies.listing(FIRST)
    assert known is not None
    assert known.listing_index == both.listing_index


def test_an_entry_that_the_directory_does_not_know_is_not_listed(replica: Replica) -> None:
    first = replica.stored(replica.page())
    again = replica.stored(replica.page(began=0.1), first.listing_index)
    assert first.listing_index is not None
    assert again.listing_index is not None
    replica.near.put_entry(first.entry)
    assert replica.copies.listed_entry(FIRST, again.listing_index) is None
    assert replica.copies.listed_entry(FIRST, first.listing_index) == first.entry


def test_an_older_entry_does_not_replace_a_newer_one(replica: Replica) -> None:
    first = replica.stored(replica.page())
    again = replica.stored(replica.page(began=0.1), first.listing_index)
    for kept in (again, first):
        replica.copies.put_newer(kept.entry)
    assert replica.near.entry(FIRST.page, EPOCH, replica.clock.now()) == again.entry


def test_a_fetch_without_redis_proves_its_own_page_and_no_other(replica: Replica) -> None:
    first = replica.stored(replica.page())
    both = replica.stored(replica.page("klmnopqrst", at=10), first.listing_index)
    replica.adopt(first)
    replica.adopt(both, 10)
    replica.validity.end_session()
    replica.clock.skip(4.0)
    assert replica.keep(replica.page(began=0.0)).outcome == "kept"
    replica.clock.skip(2.0)  # the proof of the session has ended, and that of the fetch has not
    known = replica.copies.listing(FIRST)
    assert known is not None
    assert [page.offset for page in known.listing_index.pages] == [0]
    assert not known.checked


def test_a_fetch_that_a_purge_has_overtaken_is_not_kept(replica: Replica) -> None:
    replica.copies.purge("a1", soft=False)
    assert replica.keep(replica.page(), ago=0.1).outcome == "purged"
    assert replica.standing() is None


@pytest.mark.parametrize("later", [
    pytest.param({"total": 31}, id="of another total"),
    pytest.param({"shows": "Xbcdefghij"}, id="of another order"),
    pytest.param({}, id="of the same page"),
])  # fmt: skip
def test_a_page_without_redis_gives_way_to_a_later_fetch_in_memory(replica: Replica, later: dict[str, object]) -> None:
    replica.adopt(replica.stored(replica.page(**later)))  # type: ignore[arg-type]
    replica.validity.end_session()
    replica.clock.skip(0.3)
    kept = replica.keep(replica.page(began=-1.0), ago=1.0)
    assert kept.outcome == "older"


@pytest.mark.parametrize("later", [
    pytest.param({"total": 31}, id="of another total"),
    pytest.param({"shows": "Xbcdefghij"}, id="of another order"),
    pytest.param({}, id="of the same page"),
])  # fmt: skip
def test_a_page_without_redis_gives_way_to_a_later_fetch_that_redis_was_not_told_of(
    replica: Replica, later: dict[str, object]
) -> None:
    replica.copies.note_fetch(FIRST, replica.page(**later), replica.validity.proof())  # type: ignore[arg-type]
    replica.clock.skip(0.3)
    assert replica.keep(replica.page(began=-1.0), ago=1.0).outcome == "older"


def test_a_page_without_redis_does_not_give_way_to_another_part_of_the_same_list(replica: Replica) -> None:
    replica.copies.note_fetch(SECOND, replica.page("klmnopqrst", at=10), replica.validity.proof())
    replica.clock.skip(0.3)
    assert replica.keep(replica.page(began=-1.0), ago=1.0).outcome == "kept"


def test_dates_of_before_a_step_of_the_clock_are_not_compared(replica: Replica) -> None:
    replica.adopt(replica.stored(replica.page(total=31)))
    replica.clock.step(-3600.0)
    assert replica.keep(replica.page()).outcome == "kept"


def test_a_generation_that_continues_in_one_process_has_a_name_of_its_own(replica: Replica) -> None:
    first = replica.stored(replica.page())
    replica.adopt(first)
    kept = replica.keep(replica.page("klmnopqrst", at=10))
    assert kept.listing_index is not None
    assert kept.listing_index.generation != first.entry.generation == kept.listing_index.shared


def test_what_is_not_valid_is_not_continued_without_redis(replica: Replica) -> None:
    replica.adopt(replica.stored(replica.page()))
    replica.clock.skip(0.01)
    replica.copies.purge("a1", soft=True)
    replica.clock.skip(0.01)
    kept = replica.keep(replica.page("klmnopqrst", at=10))
    assert kept.listing_index is not None
    assert [page.offset for page in kept.listing_index.pages] == [10]


def test_a_fetch_that_shows_another_state_ends_the_copy_and_what_redis_answers_of_before(replica: Replica) -> None:
    kept = replica.stored(replica.page())
    replica.adopt(kept)
    seal = replica.validity.validity_tokens.issue("a1")
    replica.clock.skip(1.0)
    replica.copies.note_fetch(SECOND, replica.page("klmnopqrst", at=10, total=31), replica.validity.proof())
    assert replica.standing() is Standing.FALLBACK
    assert seal.broken
    replica.clock.skip(0.01)
    assert replica.adopt(kept) is None


def test_a_page_of_an_ended_copy_is_a_fallback(replica: Replica) -> None:
    replica.validity.end_session()
    replica.keep(replica.page())
    replica.copies.end_generation(FIRST.listing)
    assert replica.standing() is Standing.FALLBACK


def test_a_page_that_was_fetched_alone_is_stored_if_redis_has_none_that_began_later(replica: Replica) -> None:
    replica.keep(replica.page())
    held = replica.copies.listing(FIRST)
    assert held is not None
    mine = replica.copies.listed_entry(FIRST, held.listing_index)
    assert mine is not None
    for shelf, found in (
        (StoreResult(EPOCH, None, None), True),
        (StoreResult(EPOCH, None, structs.replace(mine, started=mine.started - 1)), True),
        (StoreResult(EPOCH, None, structs.replace(mine, started=mine.started + 1)), False),
        (StoreResult(EPOCH, None, mine), False),
        (StoreResult("another/epoch", None, None), False),
    ):
        assert (replica.copies.fetched_alone(FIRST, shelf) is not None) == found
    replica.clock.step(3600.0)
    assert replica.copies.fetched_alone(FIRST, StoreResult(EPOCH, None, None)) is None


def test_messages_that_were_forgotten_are_not_believed_to_have_said_nothing(replica: Replica) -> None:
    first, proof = replica.stored(replica.page()), replica.validity.proof()
    assert first.listing_index is not None
    message = replica.told(first)
    replica.clock.skip(0.01)
    replica.copies.note_page(message)
    assert replica.copies.as_of_messages(first.listing_index, proof) is first.listing_index
    replica.clock.skip(6.0)
    replica.copies.note_page(message)
    assert replica.copies.as_of_messages(first.listing_index, proof) is None
    assert replica.copies.as_of_messages(first.listing_index, replica.validity.proof()) is first.listing_index
