"""What is known of one listing: its current generation, and which pages of it were seen.

All pages of a listing (an AOI and its filters) belong to a generation. A page that shows another `total`, or other ids
where it overlaps a page seen before, ends it, and so does a 404. What a generation is called is derived from what ended
the one before, so that replicas which see the same change call it the same without talking.

Pure: filing a page takes an index and gives the next one. The stores make that one step.

The order of what was seen is the order in which fetches began. Of two fetches that straddle a change of the vendor's
list, the one that began later is right whichever lands first:

    A begins, sees 10    B begins, sees 11    B lands: generation of 11    A lands: older than what B showed, not filed
    A begins, sees 10    B begins, sees 11    A lands: generation of 10    B lands: ends it, generation of 11
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

import msgspec
from msgspec import structs

from gateway.core.listing import ID_BYTES, NO_ID

# Bounds on what one index remembers, so that filing a page stays cheap for a listing of any length. A page that is
# forgotten goes on serving as it is; no windows are cut from it, and it can no longer prove that something slipped.
_MOST_PAGES = 512
_MOST_IDS = 16_384
_REVISION = 16


class PageRecord(msgspec.Struct, frozen=True, array_like=True):
    """What one fetch showed of a listing. Times are Unix time in seconds.

    It was asked for `limit` assets from `offset` on, and `printed` is the limit that the vendor named. `ids` holds a
    digest of each asset, from index `first` on; it is empty where the page's own figures contradict each other, and
    then proves nothing about order. It is fresh before `fresh_until`, in grace before `grace_until`, and not served
    from `until` on. Windows can be cut from it if it is `sliceable`. `shift` is how far the vendor has moved the page.
    """

    offset: int
    limit: int
    effective_limit: int
    ids: bytes
    started: float
    fresh_until: float
    grace_until: float
    until: float
    sliceable: bool
    shift: int = 0

    @property
    def first(self) -> int:
        """The index of its first asset."""
        return self.offset + self.shift

    @property
    def end(self) -> int:
        """The index after its last asset."""
        return self.first + len(self.ids) // ID_BYTES

    def shows_limit(self, total: int | None) -> bool:
        """Tell whether it was the limit that ended the page, and not the end of the listing."""
        return self.sliceable and total is not None and self.offset <= self.end < total

    def id_at(self, index: int) -> bytes:
        """The digest of the asset at an index of the listing that it shows."""
        return self.ids_of(index, index + 1)

    def ids_of(self, start: int, end: int) -> bytes:
        """The digests of the assets at indices from `start` up to, not including, `end`."""
        return self.ids[(start - self.first) * ID_BYTES : (end - self.first) * ID_BYTES]


class ListingIndex(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """The current generation of a listing. `total` is None when the vendor said 404."""

    listing: str
    epoch: str
    generation: str
    total: int | None
    since: float
    """When the earliest fetch began that belongs to it. An entry from before may be of another state."""
    confirmed: float
    """When the latest fetch that agrees with this generation began."""
    until: float
    """When the last page of this and all earlier generations is served no more. So long the name is remembered."""
    pages: tuple[PageRecord, ...]
    revision: int = 0
    """Orders the indexes of a listing in the order in which Redis stored them."""
    shared: str = ""
    """The name of the generation that this one continues in one process alone; empty for a generation of all."""
    not_before: float = 0.0
    """When the latest fetch began that this generation, or one before it, has contradicted.

    A page from before that is not filed, even if it agrees: the list may have returned to an earlier state.
    """

    def owns(self, generation: str, started: float) -> bool:
        """Whether a page that was filed under this name, and whose fetch began then, is of this generation."""
        return (generation == self.generation or generation == self.shared != "") and started >= self.since

    @property
    def size(self) -> int:
        """Bytes that this index is counted with in a store."""
        return 950 + sum(len(page.ids) + 500 for page in self.pages)

    def page(self, offset: int, limit: int) -> PageRecord | None:
        """What is known of the page that was asked for with these."""
        return self._by_window.get((offset, limit))

    def without(self, offset: int, limit: int, *, before: float) -> ListingIndex:
        """The same, without what a fetch that began earlier showed of this page."""
        seen = self.page(offset, limit)
        if seen is None or seen.started >= before:
            return self
        return structs.replace(self, pages=tuple(page for page in self.pages if page is not seen))

    @cached_property
    def sliceable(self) -> tuple[PageRecord, ...]:
        """The pages that windows can be cut from, by offset."""
        return tuple(sorted((page for page in self.pages if page.sliceable), key=lambda page: page.offset))

    @cached_property
    def spans(self) -> tuple[tuple[int, int, float, PageRecord], ...]:
        """First index, end and start of the fetch of each page: many pages may be compared with one index."""
        return tuple((page.first, page.end, page.started, page) for page in self.pages)

    @cached_property
    def reach(self) -> tuple[int, ...]:
        """How far the listing is shown by the `sliceable` pages up to each: the largest end so far."""
        return tuple(accumulate((page.end for page in self.sliceable), max))

    @cached_property
    def limit_observations(self) -> tuple[tuple[int, int, int, float], ...]:
        """What the pages show of the vendor's limits: asked for, printed, assets sent, and when last; oldest first.

        A page that ends at the listing's total shows nothing of them.
        """
        told: dict[tuple[int, int], tuple[int, float]] = {}
        for page in self.sliceable:
            if not page.shows_limit(self.total):
                continue
            count, started = told.get((page.limit, page.effective_limit), (0, page.started))
            told[page.limit, page.effective_limit] = max(count, page.end - page.offset), max(started, page.started)
        found = ((*limits, count, started) for limits, (count, started) in told.items())
        return tuple(sorted(found, key=lambda limit: limit[3]))

    @cached_property
    def joins(self) -> dict[tuple[tuple[int, int], ...], bool]:
        """Whether pages, by offset and limit, go together: what `cache.windows` found out, for the next time."""
        return {}

    @cached_property
    def _by_window(self) -> dict[tuple[int, int], PageRecord]:
        return {(page.offset, page.limit): page for page in self.pages}

    def encode(self) -> bytes:
        """Write it down, led by a digest of the rest, which is checksum and revision in one."""
        rest = _ENCODER.encode(self)
        return hashlib.blake2b(rest, digest_size=_REVISION // 2).hexdigest().encode() + rest


def decode(data: bytes, listing: str) -> ListingIndex | None:
    """Read an index that was kept for `listing`; None when it is not intact, or another one's."""
    rest = data[_REVISION:]
    if hashlib.blake2b(rest, digest_size=_REVISION // 2).hexdigest().encode() != data[:_REVISION]:
        return None
    try:
        found = _DECODER.decode(rest)
    except msgspec.MsgspecError:
        return None
    return found if found.listing == listing else None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(ListingIndex)


@dataclass(frozen=True, slots=True)
class RecordResult:
    """What came of filing: the next index, and the name of the generation that the page belongs to.

    `older`: a fetch that began later has shown the same window, or another state of the list, so the page is for those
    who wait for it and nobody else; the index is then as it was.
    """

    listing_index: ListingIndex
    generation: str
    outcome: Literal["joined", "ended", "older"]


def record(
    known: ListingIndex | None,
    page: PageRecord,
    total: int | None,
    *,
    listing: str,
    epoch: str,
    now: float,
    alone: str = "",
) -> RecordResult:
    """File a page, or a 404 (`total` None), under the listing's current generation, or under the next one.

    Where no index is known, one may have been lost, and the name that is derived from nothing may have been that
    of a generation before: so the time of the first fetch goes into the name.

    `alone` names a process that cannot file pages where the others see them. Others may see other states meanwhile,
    and two states must not share a name: so its generations, and those that it continues, have names of its own.
    """
    shown = page.offset.to_bytes(8, "big") + page.ids
    own = f"{alone} {page.started!r} ".encode() + shown if alone else b""
    if known is None or known.epoch != epoch:
        evidence = repr(page.started).encode() + own
        return _ended(page, total, evidence, listing=listing, epoch=epoch, before=None, now=now)
    if page.started < known.not_before:
        return RecordResult(known, known.generation, "older")
    beaten = _contradicted(known, page, total)
    if beaten is not None:
        evidence = b"" if known.total != total else shown
        evidence += own
        if page.started < beaten:
            return RecordResult(known, _name(listing, epoch, known.generation, total, evidence), "older")
        return _ended(page, total, evidence, listing=listing, epoch=epoch, before=known, beaten=beaten, now=now)
    others = []
    for other in known.pages:
        if (other.offset, other.limit) != (page.offset, page.limit):
            others.append(other)
        elif other.started > page.started:
            return RecordResult(known, known.generation, "older")
    pages = _bounded([page, *others], now)
    generation, shared = known.generation, known.shared
    if alone and not shared:
        generation, shared = _name(listing, epoch, known.generation, total, own), known.generation
    index = structs.replace(
        known,
        generation=generation,
        shared=shared,
        since=min(known.since, page.started),
        confirmed=max(known.confirmed, page.started),
        until=max(known.until, page.until),
        pages=pages,
        revision=_next_revision(known, now),
    )
    return RecordResult(index, generation, "joined")


def contradicts(known: ListingIndex, page: PageRecord, total: int | None) -> bool:
    """Tell whether a page that was fetched later shows another state than an index."""
    beaten = _contradicted(known, page, total)
    return beaten is not None and page.started >= beaten


def without_contradicted(known: ListingIndex, page: PageRecord, total: int | None) -> ListingIndex | None:
    """Leave of an index what a page does not contradict; None if nothing is left.

    If the page shows another state than anything that was fetched before it, only what was fetched after it is left.
    The list may have returned to an earlier total since, which does not make the pages from before right again.
    """
    if known.since > page.started:
        return known
    if known.total == total:
        first, end, started = page.first, page.end, page.started
        for other_first, other_end, other_started, other in known.spans:
            if other_first < end and first < other_end and other_started <= started and not agrees(page, other):
                break
        else:
            return known
    return fetched_after(known, page.started)


def fetched_after(known: ListingIndex, at: float) -> ListingIndex | None:
    """Leave of an index what was fetched after a moment (Unix time); None if nothing is left."""
    if known.since > at:
        return known
    if known.confirmed <= at:
        return None
    pages = tuple(other for other in known.pages if other.started > at)
    return structs.replace(known, since=math.nextafter(at, math.inf), pages=pages)


def is_superseded(page: PageRecord, total: int | None, known: ListingIndex) -> bool:
    """Tell whether an index knows a later fetch of the same page, or one that shows another state."""
    if page.started < known.not_before:
        return True
    beaten = _contradicted(known, page, total)
    same = known.page(page.offset, page.limit)
    return (beaten is not None and page.started < beaten) or (same is not None and page.started < same.started)


def _contradicted(known: ListingIndex, page: PageRecord, total: int | None) -> float | None:
    """When the latest of the fetches began that a page contradicts, None where there are none.

    Every page shows the total. The order is shown only by pages that overlap: a later fetch of another part of the list
    does not confirm it.
    """
    if known.total != total:
        return known.confirmed
    return max((other.started for other in known.pages if not agrees(page, other)), default=None)


def agrees(one: PageRecord, other: PageRecord) -> bool:
    """Whether two pages show the same assets at the indices that both show."""
    start, end = max(one.first, other.first), min(one.end, other.end)
    if start >= end or one.ids_of(start, end) == other.ids_of(start, end):
        return True
    for index in range(start, end):
        mine, its = one.id_at(index), other.id_at(index)
        if mine != its and NO_ID not in (mine, its):
            return False
    return True


def _ended(
    page: PageRecord,
    total: int | None,
    evidence: bytes,
    *,
    listing: str,
    epoch: str,
    before: ListingIndex | None,
    beaten: float = 0.0,
    now: float,
) -> RecordResult:
    name = _name(listing, epoch, "" if before is None else before.generation, total, evidence)
    until = page.until if before is None else max(page.until, before.until)
    index = ListingIndex(
        listing, epoch, name, total, since=page.started, until=until, pages=(page,),
        confirmed=page.started if before is None else max(page.started, before.confirmed),
        revision=_next_revision(before, now), not_before=max(beaten, 0.0 if before is None else before.not_before),
    )  # fmt: skip
    return RecordResult(index, name, "ended")


def _next_revision(before: ListingIndex | None, now: float) -> int:
    """Give the number of the next index; time goes into it in case that Redis loses the one before."""
    return max(0 if before is None else before.revision + 1, int(now * 1e6))


def _name(listing: str, epoch: str, before: str, total: int | None, evidence: bytes) -> str:
    told = b"\n".join((listing.encode(), epoch.encode(), before.encode(), str(total).encode(), evidence))
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def _bounded(pages: list[PageRecord], now: float) -> tuple[PageRecord, ...]:
    """Return the pages to remember, within the limits: first those that may still be served, then the latest.

    A page past its use still proves whether the list has shifted: it was served under the name of the generation.
    """
    kept: list[PageRecord] = []
    ids = 0
    for page in sorted(pages, key=lambda seen: (seen.until <= now, -seen.started)):
        ids += len(page.ids) // ID_BYTES
        if len(kept) < _MOST_PAGES and (ids <= _MOST_IDS or not kept):
            kept.append(page)
    return tuple(kept)
