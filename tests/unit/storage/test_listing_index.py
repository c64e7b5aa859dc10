"""Generations of a listing: pure filing, by cases and by properties."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from entries import ids
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gateway.core.listing import ID_BYTES, Listing
from gateway.storage.listing_index import (
    ListingIndex,
    PageRecord,
    RecordResult,
    agrees,
    contradicts,
    decode,
    is_superseded,
    record,
    without_contradicted,
)

NOW = 1_000_000.0


def shown(text: str, offset: int = 0, *, limit: int = 10, began: float = 0.0) -> PageRecord:
    return PageRecord(
        offset, limit, limit, ids(text), NOW + began,
        fresh_until=NOW + 10, grace_until=NOW + 20, until=NOW + 1000, sliceable=True,
    )  # fmt: skip


def filed(known: ListingIndex | None, page: PageRecord, total: int | None = 20, *, epoch: str = "e") -> RecordResult:
    return record(known, page, total, listing="l", epoch=epoch, now=NOW)


FIRST = filed(None, shown("abcdefghij")).listing_index


@pytest.mark.parametrize(
    ("page", "total", "outcome"),
    [
        (shown("klmnopqrst", 10, began=1), 20, "joined"),
        (shown("abcdefghij", began=1), 20, "joined"),
        (shown("ghij", 6, limit=4, began=1), 20, "joined"),
        (shown("", 20, began=1), 20, "joined"),
        (shown("..........", began=1), 20, "joined"),
        (shown("", began=1), 20, "joined"),
        (shown("klmnopqrst", 10, began=1), 21, "ended"),
        (shown("klmnopqrst", 10, began=1), None, "ended"),
        (shown("Xbcdefghij", began=1), 20, "ended"),
        (shown("jklmnopqrs", 10, began=1), 20, "joined"),  # slipped by one, but no index is shown twice
        (shown("ijklmnopqr", 9, began=1), 20, "ended"),  # and here one is
        (shown("klmnopqrst", 10, began=-1), 21, "older"),
        (shown("Xbcdefghij", began=-1), 20, "older"),
        (shown("abcdefghij", began=-1), 20, "older"),
        (shown("klmnopqrst", 10, began=-1), 20, "joined"),
    ],
)
def test_what_ends_a_generation(page: PageRecord, total: int | None, outcome: str) -> None:
    result = filed(FIRST, page, total)
    assert result.outcome == outcome
    assert (result.generation == FIRST.generation) == (
        total == 20 and outcome != "ended" and agrees(page, FIRST.pages[0])
    )
    if outcome == "older":
        assert result.listing_index == FIRST
    else:
        assert page in result.listing_index.pages


def test_an_ended_generation_takes_its_pages_along() -> None:
    assert filed(FIRST, shown("klmnopqrst", 10, began=1), 21).listing_index.pages == (shown("klmnopqrst", 10, began=1),)


def test_a_page_from_before_a_state_that_has_passed_is_not_filed_though_it_agrees_with_the_present_one() -> None:
    gone = filed(FIRST, shown("", began=2), None).listing_index
    back = filed(gone, shown("abcdefghij", began=3)).listing_index
    late = filed(back, shown("klmnopqrst", 10, began=1))
    assert (late.outcome, late.listing_index) == ("older", back)
    assert is_superseded(shown("klmnopqrst", 10, began=1), 20, back)
    assert filed(back, shown("klmnopqrst", 10, began=2.5)).outcome == "joined"  # it began later than that state's fetch
    changed = filed(back, shown("Xbcdefghij", began=4)).listing_index
    assert filed(changed, shown("klmnopqrst", 10, began=1)).outcome == "older"
    assert filed(changed, shown("klmnopqrst", 10, began=2.5)).outcome == "older"
    assert filed(changed, shown("klmnopqrst", 10, began=3.5)).outcome == "joined"


def test_names_are_derived_and_differ_by_epoch_and_history() -> None:
    assert filed(None, shown("x")).generation == filed(None, shown("y")).generation == FIRST.generation
    assert filed(None, shown("x", began=1)).generation != FIRST.generation  # the directory before may have been lost
    assert filed(None, shown("x"), epoch="f").generation != FIRST.generation
    one, other = (
        record(FIRST, shown("k", 10, began=1), 20, listing="l", epoch="e", now=NOW, alone=process) for process in "pq"
    )
    assert one.outcome == "joined"
    assert len({one.generation, other.generation, FIRST.generation}) == 3  # the others do not see this page
    assert one.listing_index.owns(FIRST.generation, NOW)
    more = filed(FIRST, shown("k", 10, began=1), 21)
    assert more.generation == filed(FIRST, shown("k", 11, began=5), 21).generation  # another replica, another page
    back = filed(more.listing_index, shown("k", 10, began=2), 20)
    assert len({FIRST.generation, more.generation, back.generation}) == 3


def test_a_generation_owns_what_was_fetched_since_it_began() -> None:
    assert FIRST.owns(FIRST.generation, NOW)
    assert not FIRST.owns(FIRST.generation, NOW - 0.1)  # of an earlier one of this name, of which nothing is known
    assert not FIRST.owns("another", NOW)
    earlier = filed(FIRST, shown("klmnopqrst", 10, began=-3)).listing_index  # begun before, and landed later
    assert earlier.owns(FIRST.generation, NOW - 3)
    assert not filed(FIRST, shown("x", 10, began=1), 21).listing_index.owns(FIRST.generation, NOW)


def test_a_name_is_remembered_as_long_as_any_page_of_it_may_live() -> None:
    gone = filed(FIRST, structs.replace(shown("", began=1), until=NOW + 5), None).listing_index
    assert gone.until == FIRST.until == NOW + 1000
    back = filed(gone, shown("abcdefghij", began=2)).listing_index
    assert back.generation not in (FIRST.generation, gone.generation)


def test_what_is_told_of_a_page_takes_the_older_sight_away() -> None:
    assert FIRST.without(0, 10, before=NOW + 1).pages == ()
    assert FIRST.without(0, 10, before=NOW) is FIRST
    assert FIRST.without(10, 10, before=NOW + 1) is FIRST


def test_another_epoch_begins_anew() -> None:
    result = filed(FIRST, shown("zz", began=1), epoch="f")
    assert (result.outcome, result.listing_index.epoch, len(result.listing_index.pages)) == ("ended", "f", 1)


def test_a_page_is_whole_when_its_figures_agree() -> None:
    def whole(**told: int) -> bool:
        figures = {"total": 20, "offset": 0, "limit": 2, "count": 2} | told
        return Listing(settled=True, ids=ids("ab"), **figures).is_whole

    assert whole()
    assert whole(total=2)
    assert whole(offset=18)  # the vendor may have moved it
    for odd in ({"count": 3}, {"total": 1}, {"total": 20, "limit": 5}):
        assert not whole(**odd)


@given(st.binary(max_size=200))
def test_no_other_bytes_are_a_directory(data: bytes) -> None:
    assert decode(data, "l") is None


def test_a_directory_comes_back_as_it_was_and_only_for_its_listing() -> None:
    data = FIRST.encode()
    assert decode(data, "l") == FIRST
    assert decode(data, "m") is None
    assert decode(data[:-1] + bytes([data[-1] ^ 1]), "l") is None


@dataclass(frozen=True)
class Fetch:
    """A fetch of a changing list: when it began, and which of its states and windows it saw."""

    began: int
    state: int
    offset: int
    limit: int


STATES = ["abcdefgh", "abcdefghi", "xabcdefgh", "abcdxfgh", "", "abcdefgh"]
FETCHES = st.lists(
    st.builds(Fetch, st.integers(0, 50), st.integers(0, 5), st.integers(0, 9), st.integers(1, 6)), max_size=30
)


@given(FETCHES)
def test_no_generation_ever_holds_pages_that_disagree(fetches: list[Fetch]) -> None:
    known: ListingIndex | None = None
    for fetch in fetches:
        state = STATES[fetch.state]
        page = shown(
            state[fetch.offset : fetch.offset + fetch.limit], fetch.offset, limit=fetch.limit, began=fetch.began
        )
        before = known
        result = filed(known, page, len(state))
        known = result.listing_index
        assert all(agrees(one, other) for one in known.pages for other in known.pages)
        if result.outcome == "older":
            assert known == before
        else:
            assert known.total == len(state)
            assert known.generation == result.generation
            assert page in known.pages
        assert before is None or known.confirmed >= before.confirmed
        assert len({(seen.offset, seen.limit) for seen in known.pages}) == len(known.pages)


def test_what_is_remembered_is_bounded() -> None:
    known: ListingIndex | None = None
    for number in range(700):
        known = filed(known, shown("x" * 10, number * 10, began=number), 9000).listing_index
    assert known is not None
    assert len(known.pages) <= 512
    assert sum(len(page.ids) for page in known.pages) <= 16_384 * ID_BYTES
    assert max(page.started for page in known.pages) == NOW + 699


BOTH = filed(FIRST, shown("klmnopqrst", 10, began=5)).listing_index
"""Two pages, whose fetches began at 0 and at 5."""


@pytest.mark.parametrize(
    ("page", "total", "left"),
    [
        pytest.param(shown("abcdefghij", began=9), 20, (0, 10), id="the same state"),
        pytest.param(shown("Xbcdefghij", began=9), 20, None, id="another order, later than all"),
        pytest.param(shown("abcdefghij", began=9), 21, None, id="another total, later than all"),
        pytest.param(shown("abcdefghij", began=9), None, None, id="a 404, later than all"),
        pytest.param(shown("abcdefghij", began=5), 21, None, id="another total, at the moment of the last"),
        pytest.param(shown("Xbcdefghij", began=2), 20, (10,), id="another order, between the two"),
        pytest.param(shown("abcdefghij", began=2), 21, (10,), id="another total, between the two"),
        pytest.param(shown("Xlmnopqrst", 10, began=2), 20, (0, 10), id="another order than a later page shows"),
        pytest.param(shown("abcdefghij", began=-1), 21, (0, 10), id="another total, earlier than all"),
        pytest.param(shown("Xbcdefghij", began=-1), 20, (0, 10), id="another order, earlier than all"),
    ],
)
def test_a_fetch_leaves_of_a_directory_what_it_does_not_contradict(
    page: PageRecord, total: int | None, left: tuple[int, ...] | None
) -> None:
    found = without_contradicted(BOTH, page, total)
    assert (None if found is None else tuple(sorted(seen.offset for seen in found.pages))) == left
    if left == (0, 10):
        assert found is BOTH
    if left == (10,):
        assert found is not None
        assert not found.owns(BOTH.generation, page.started)
        assert found.owns(BOTH.generation, page.started + 0.001)


@pytest.mark.parametrize(
    ("page", "total", "expected"),
    [
        (shown("abcdefghij", began=-1), 20, True),  # the same page began later
        (shown("abcdefghij", began=1), 20, False),
        (shown("bcdefghijk", 1, began=-1), 20, False),  # it agrees
        (shown("Xcdefghijk", 1, began=-1), 20, True),
        (shown("Xcdefghijk", 1, began=1), 20, False),
        (shown("uvw", 20, began=4), 21, True),
        (shown("uvw", 20, began=6), 21, False),
        (shown("uvw", 20, began=4), None, True),
    ],
)
def test_a_directory_that_knows_a_later_fetch_precedes_a_page(
    page: PageRecord, total: int | None, expected: bool
) -> None:
    assert is_superseded(page, total, BOTH) == expected


def test_a_page_contradicts_the_latest_of_the_pages_that_it_differs_from() -> None:
    early = filed(None, shown("abcdefghij")).listing_index
    known = filed(early, shown("efghijklmn", 4, began=5)).listing_index
    assert not contradicts(known, shown("XXXXXXXXXX", 2, began=3), 20)  # of an older state than the page of 5
    assert contradicts(known, shown("XXXXXXXXXX", 2, began=6), 20)
    assert filed(known, shown("XXXXXXXXXX", 2, began=3)).outcome == "older"
    assert filed(known, shown("XX", 0, began=3)).outcome == "ended"


def test_the_latest_agreeing_fetch_confirms_the_total() -> None:
    assert (BOTH.since, BOTH.confirmed) == (NOW, NOW + 5)
    assert filed(BOTH, shown("uvw", 20, began=4), 21).outcome == "older"
    earlier = filed(BOTH, shown("klmno", 10, limit=5, began=-3)).listing_index
    assert (earlier.since, earlier.confirmed) == (NOW - 3, NOW + 5)


def test_an_entry_from_before_a_generation_is_not_of_it() -> None:
    assert FIRST.owns(FIRST.generation, NOW)
    assert not FIRST.owns(FIRST.generation, NOW - 1)
    assert not FIRST.owns("another", NOW)
    assert not FIRST.owns("", NOW)


def test_a_page_is_left_out_if_its_fetch_began_before_a_moment() -> None:
    assert [page.offset for page in BOTH.without(0, 10, before=NOW + 1).pages] == [10]
    assert BOTH.without(0, 10, before=NOW) is BOTH
    assert BOTH.without(99, 10, before=NOW + 1) is BOTH


def test_revisions_grow_even_if_the_directory_before_was_lost() -> None:
    again = record(FIRST, shown("abcdefghij", began=1), 20, listing="l", epoch="e", now=NOW - 100).listing_index
    assert again.revision == FIRST.revision + 1
    lost = record(None, shown("abcdefghij", began=1), 20, listing="l", epoch="e", now=NOW + 1).listing_index
    assert lost.revision > again.revision


def test_a_first_generation_is_named_after_the_time_of_its_fetch_too() -> None:
    assert filed(None, shown("abcdefghij", began=1)).generation != FIRST.generation


def test_the_epoch_the_listing_and_the_one_before_go_into_the_name_of_a_generation() -> None:
    page = shown("abcdefghij", began=9)
    names = {
        record(known, page, 21, listing=listing, epoch=epoch, now=NOW).generation
        for known, listing, epoch in (
            (FIRST, "l", "e"), (structs.replace(FIRST, generation="x"), "l", "e"), (None, "l", "e"), (None, "m", "e"),
            (None, "l", "f"),
        )
    }  # fmt: skip
    assert len(names) == 5
