"""Which pages hold a window, and what is cut from them."""

from __future__ import annotations

import pytest
from entries import ids
from msgspec import structs

from gateway.cache.windows import WindowPlan, plan
from gateway.storage.listing_index import ListingIndex, PageRecord

NOW = 1_000_000.0
FRESH, GRACE, KEPT = (10.0, 20.0, 100.0), (-1.0, 20.0, 100.0), (-2.0, -1.0, 100.0)


def page(text: str, offset: int, lives: tuple[float, float, float] = FRESH, *, sliceable: bool = True) -> PageRecord:
    fresh, grace, until = (NOW + seconds for seconds in lives)
    return PageRecord(offset, len(text) or 5, len(text) or 5, ids(text), NOW - 5, fresh, grace, until, sliceable)


def listing(*pages: PageRecord, total: int | None = 20) -> ListingIndex:
    return ListingIndex("l", "e", "g", total, since=NOW - 50, confirmed=NOW - 5, until=NOW + 100, pages=pages)


def planned(pages: list[PageRecord], offset: int, limit: int, *, total: int | None = 20) -> WindowPlan | None:
    directory = listing(*pages, total=total)
    return plan(directory, offset, limit, NOW)


def used(pages: list[PageRecord], offset: int, limit: int, *, total: int | None = 20) -> tuple[str, list[int]] | None:
    """The plan's state, and the offsets of its pages."""
    found = planned(pages, offset, limit, total=total)
    return None if found is None else (found.state, [one.offset for one in found.pages])


A, B, C = page("abcdefgh", 0), page("hijklmno", 7), page("opqrst", 14)


@pytest.mark.parametrize(
    ("pages", "offset", "limit", "expected"),
    [
        ([A], 0, 8, ("fresh", [0])),
        ([A], 2, 3, ("fresh", [0])),
        ([A], 2, 7, None),
        ([B], 6, 3, None),
        ([A, B], 2, 10, ("fresh", [0, 7])),
        ([B, A], 2, 10, ("fresh", [0, 7])),
        ([A, B, C], 2, 18, ("fresh", [0, 7, 14])),
        ([A, C], 2, 18, None),
        ([C], 16, 50, ("fresh", [14])),  # reaches past the end of the listing
        ([A, page("ijklmn", 8)], 2, 10, None),  # neighbours that share nothing
        ([A, page(".ijklmn", 7)], 2, 10, None),  # an asset without an id proves nothing
        ([A, page("h.jklmn", 7)], 2, 10, ("fresh", [0, 7])),
        ([A, page("hijklma", 7)], 2, 10, None),  # `a` has moved, so these two are of different lists
        ([page("abcdefgh", 0, sliceable=False)], 2, 3, None),
        ([page("abcdefgh", 0, GRACE)], 2, 3, ("grace", [0])),
        ([page("abcdefgh", 0, KEPT)], 2, 3, ("kept", [0])),
        ([page("abcdefgh", 0, (-3, -2, -1))], 2, 3, None),
        ([page("abcdefgh", 0, GRACE), page("cdefgh", 2)], 2, 3, ("fresh", [2])),
        ([page("abcdefgh", 0, GRACE), B], 2, 10, ("grace", [0, 7])),
        ([page("abcdefgh", 0, KEPT), page("hijklmno", 7, GRACE)], 2, 10, ("kept", [0, 7])),
        ([A, page("abcdefghij", 0), page("ab", 0)], 1, 8, ("fresh", [0])),
        ([A, B], 20, 5, None),  # nobody knows how an empty page is printed
        ([A, page("", 20)], 20, 5, None),  # nobody knows what the vendor says past the end
        ([A, page("", 20)], 900, 5, None),
        ([A, page("", 25)], 20, 5, None),
        ([], 0, 5, None),
    ],
)  # fmt: skip
def test_which_pages_hold_a_window(
    pages: list[PageRecord], offset: int, limit: int, expected: tuple[str, list[int]] | None
) -> None:
    assert used(pages, offset, limit) == expected


def test_a_listing_that_is_gone_has_no_windows() -> None:
    assert used([A], 0, 3, total=None) is None


def test_pages_of_this_very_fetch_count_as_fresh() -> None:
    directory = listing(page("abcdefgh", 0, KEPT))
    found = plan(directory, 0, 3, NOW, since=NOW - 5)
    assert found is not None
    assert found.state == "fresh"
    assert plan(directory, 0, 3, NOW, since=NOW - 4, only=True) is None


def test_of_pages_that_would_do_the_latest_is_taken() -> None:
    old, new = page("abcdefgh", 0), structs.replace(page("abcd", 0, GRACE), started=NOW, fresh_until=NOW + 1)
    found = plan(listing(old, new), 1, 3, NOW)
    assert found is not None
    assert found.pages == (new,)


def test_as_few_pages_as_will_do() -> None:
    pages = [page("abcdefghij"[start : start + 3], start) for start in range(8)]
    assert used([*pages, page("bcdefghi", 1)], 0, 10) == ("fresh", [0, 1, 7])


def test_the_name_of_a_window_changes_with_its_pages() -> None:
    one = planned([A, B], 2, 10)
    other = planned([A, structs.replace(B, started=NOW)], 2, 10)
    assert one is not None
    assert other is not None
    assert one.name("p") != other.name("p")
