"""Windows of a listing: which cached pages hold one, and the page that is cut from them.

Pages are put together only within one generation, and only where the next shares an asset with the one before, the
same id at the same index: one asset of overlap proves that nothing slipped between their fetches. What is cut is what
the vendor would have sent, so it is an entry like any other; its lifetimes and its age are those of the weakest page.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.cache.page_template import Pagination, Slice, decode_template, render
from gateway.core.listing import NO_ID
from gateway.storage.entry import Entry, compress, entity_tag
from gateway.storage.listing_index import ListingIndex, PageRecord

# More pages than this are not put together: asking the vendor once is cheaper.
_MOST_PAGES = 32
# So many chains of pages are remembered to go together, or not.
_MOST_JOINS = 256


_SOURCE = re.compile(r"(\d+)\+(\d+)@([0-9.e+-]+)")

State = Literal["fresh", "grace", "kept"]


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """The pages that hold a window, in the order of their assets, its pagination, and the state of the weakest page."""

    pages: tuple[PageRecord, ...]
    pagination: Pagination
    state: State

    def name(self, page: str) -> str:
        """What the window is called that these fetches of these pages give: the same name, the same bytes."""
        return "#".join(
            (
                page,
                f"limit={self.pagination.limit}",
                *(f"{source.offset}+{source.limit}@{source.started!r}" for source in self.pages),
            )
        )


def pages_of(name: str) -> list[tuple[int, int, float]]:
    """The pages that a window of this name was cut from, as offset, limit and when the fetch began (Unix time).

    None at all for a page itself, in whose key no # stands.
    """
    found = (_SOURCE.fullmatch(part) for part in name.split("#")[1:])
    return [(int(part[1]), int(part[2]), float(part[3])) for part in found if part is not None]


def end_of(pagination: Pagination) -> int:
    """The index after the last asset of a page with this pagination."""
    return max(pagination.offset, min(pagination.offset + pagination.limit, pagination.total))


def plan(
    index: ListingIndex, offset: int, printed: int, now: float, *, since: float = math.inf, only: bool = False
) -> WindowPlan | None:
    """The best way to put a window together: out of fresh pages, else with some in grace, else with some kept.

    `printed` is the limit that the vendor would print, `now` Unix time in seconds; a page whose fetch began at `since`
    or later counts as fresh, and no other does where `only` those are wanted. None when the pages do not hold the
    window.
    """
    if index.total is None:
        return None
    pagination = Pagination(index.total, offset, printed)
    end = end_of(pagination)
    if end <= offset:
        return None  # nobody knows what the vendor says past the end: it may clamp the offset, or refuse
    tries: tuple[tuple[State, Callable[[PageRecord], bool]], ...] = (
        ("fresh", lambda page: now < page.fresh_until or page.started >= since),
        ("grace", lambda page: now < page.grace_until),
        ("kept", lambda page: now < page.until),
    )
    if only:
        tries = (("fresh", lambda page: page.started >= since),)
    for state, usable in tries:
        pages = _cover(index, offset, end, usable)
        if pages:
            return WindowPlan(pages, pagination, state)
    return None


def slice_window(planned: WindowPlan, entries: Sequence[Entry], name: str, generation: str) -> Entry | None:
    """The window as an entry of this name and generation, out of the entries of the plan's pages.

    None where they were not printed alike.
    """
    end = end_of(planned.pagination)
    pieces: list[Slice] = []
    place = planned.pagination.offset
    for page, entry in zip(planned.pages, entries, strict=True):
        template = decode_template(entry.template)
        if template is None:
            return None
        until = min(page.end, end)
        pieces.append(Slice(entry.body, template, place - page.offset, until - page.offset))
        place = until
    body = render(pieces, planned.pagination)
    if body is None:
        return None
    weakest = min(entries, key=lambda entry: entry.fresh_until)
    return Entry(
        key=name,
        status=200,
        body=body,
        gzipped=compress(body),
        etag=entity_tag(body),
        epoch=weakest.epoch,
        generation=generation,
        rule=weakest.rule,
        started=min(entry.started for entry in entries),
        born=min(entry.born for entry in entries),
        fresh_until=weakest.fresh_until,
        grace_until=min(entry.grace_until for entry in entries),
        keep_until=min(entry.keep_until for entry in entries),
        reckoning=weakest.reckoning,
    )


def _cover(index: ListingIndex, offset: int, end: int, usable: Callable[[PageRecord], bool]) -> tuple[PageRecord, ...]:
    """As few pages as hold all of [offset, end), each sharing an asset with the next; none if there are no such."""
    found: list[PageRecord] = []
    place = offset
    while place < end and len(found) < _MOST_PAGES:
        last = found[-1] if found else None
        # The first page shows the asset at `offset`; each further one the last asset of the page before it, too.
        shown = offset if last is None else place - 1
        best: PageRecord | None = None
        for number in range(bisect_right(index.sliceable, shown, key=lambda page: page.offset) - 1, -1, -1):
            if index.reach[number] <= place:
                break  # nothing before shows more
            page = index.sliceable[number]
            if page.end > place and usable(page) and (last is None or _share(last, page)):
                best = page if best is None else max(best, page, key=lambda one: (min(one.end, end), one.started))
        if best is None:
            return ()
        found.append(best)
        place = best.end
    return tuple(found) if place >= end and (len(found) == 1 or _all_differ(index, found)) else ()


def _share(one: PageRecord, other: PageRecord) -> bool:
    """Whether both show one asset at one index. What they show differently would have ended their generation."""
    shared = range(max(one.offset, other.offset), min(one.end, other.end))
    return any(one.id_at(index) == other.id_at(index) != NO_ID for index in shared)


def _all_differ(index: ListingIndex, pages: Sequence[PageRecord]) -> bool:
    """Whether no asset stands at two places of what these pages show together, as one does that moved meanwhile."""
    chain = tuple((page.offset, page.limit) for page in pages)
    known = index.joins.get(chain)
    if known is None:
        ids: list[bytes] = []
        place = pages[0].offset
        for page in pages:
            ids += (page.id_at(index) for index in range(place, page.end))
            place = page.end
        proven = [one for one in ids if one != NO_ID]
        if len(index.joins) >= _MOST_JOINS:
            index.joins.clear()
        known = index.joins[chain] = len(proven) == len(set(proven))
    return known
