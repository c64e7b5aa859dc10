"""What is known of one listing: its current generation, and which pages of it were seen.

All pages of a listing (an AOI and its filters) belong to a generation. A page that shows another `total`, or other ids
where it overlaps a page seen before, ends it, and so does a 404. What a generation is called is derived from what ended
the one before, so that replicas which see the same change call it the same without talking.

Pure: filing a page takes a directory and gives the next one. Making that one step, atomically, is the stores' business.

The order of what was seen is the order in which fetches began. Of two fetches that straddle a change of the vendor's
list, the one that began later is right whichever lands first:

    A begins, sees 10    B begins, sees 11    B lands: generation of 11    A lands: older than what B showed, not filed
    A begins, sees 10    B begins, sees 11    A lands: generation of 10    B lands: ends it, generation of 11
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

import msgspec
from msgspec import structs

from gateway.core.listing import ID_BYTES, NO_ID, Listing

# Bounds on what one directory remembers, so that filing a page stays cheap for a listing of any length. A page that is
# forgotten goes on serving as it is; no windows are cut from it, and it can no longer prove that something slipped.
_MOST_PAGES = 512
_MOST_IDS = 16_384
_REVISION = 16


class Sight(msgspec.Struct, frozen=True, array_like=True):
    """What one fetch showed of a listing. Times are Unix time in seconds.

    It was asked for `limit` assets from `offset` on, and `printed` is the limit that the vendor named. `ids` holds a
    digest of each asset; it is empty where the page's own figures contradict each other, and then proves nothing about
    order. The page is fresh before `fresh_until`, in grace before `grace_until`, and not served from `until` on.
    `moulded` tells that windows can be cut from it.
    """

    offset: int
    limit: int
    printed: int
    ids: bytes
    started: float
    fresh_until: float
    grace_until: float
    until: float
    moulded: bool

    @property
    def end(self) -> int:
        """The index after its last asset."""
        return self.offset + len(self.ids) // ID_BYTES

    def id_at(self, index: int) -> bytes:
        """The digest of the asset at an index of the listing that it shows."""
        return self.ids_of(index, index + 1)

    def ids_of(self, start: int, end: int) -> bytes:
        """The digests of the assets at indices from `start` up to, not including, `end`."""
        return self.ids[(start - self.offset) * ID_BYTES : (end - self.offset) * ID_BYTES]


class Directory(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """The current generation of a listing. `total` is None when the vendor said 404."""

    listing: str
    epoch: str
    generation: str
    total: int | None
    since: float
    """When the earliest fetch began that this directory knows to belong to it. An entry from before is of nobody knows
    what: a directory that was lost and begun anew may have the name of one that had ended."""
    confirmed: float
    """When the latest fetch that agrees with this generation began."""
    until: float
    """When the last page of this and all earlier generations may no longer be served: so long the name is remembered,
    and the next one differs from all before."""
    pages: tuple[Sight, ...]

    def owns(self, generation: str, started: float) -> bool:
        """Whether a page that was filed under this name, and whose fetch began then, is of this generation."""
        return generation == self.generation and started >= self.since

    @property
    def size(self) -> int:
        """Bytes that this directory is counted with in a store."""
        return 950 + sum(len(page.ids) + 500 for page in self.pages)

    def seen(self, offset: int, limit: int) -> Sight | None:
        """What is known of the page that was asked for with these."""
        return self._by_window.get((offset, limit))

    def without(self, offset: int, limit: int, *, before: float) -> Directory:
        """The same, without what a fetch that began earlier showed of this page."""
        seen = self.seen(offset, limit)
        if seen is None or seen.started >= before:
            return self
        return structs.replace(self, pages=tuple(page for page in self.pages if page is not seen))

    @cached_property
    def moulded(self) -> tuple[Sight, ...]:
        """The pages that windows can be cut from, by offset."""
        return tuple(sorted((page for page in self.pages if page.moulded), key=lambda page: page.offset))

    @cached_property
    def reach(self) -> tuple[int, ...]:
        """How far the listing is shown by the `moulded` pages up to each: the largest end so far."""
        return tuple(accumulate((page.end for page in self.moulded), max))

    @cached_property
    def limits_seen(self) -> tuple[tuple[int, int, int, float], ...]:
        """What the pages tell of the vendor's limits: asked for, printed, assets sent, and when last; oldest first."""
        told: dict[tuple[int, int], tuple[int, float]] = {}
        for page in self.moulded:
            count, started = told.get((page.limit, page.printed), (0, page.started))
            told[page.limit, page.printed] = max(count, page.end - page.offset), max(started, page.started)
        found = ((*limits, count, started) for limits, (count, started) in told.items())
        return tuple(sorted(found, key=lambda limit: limit[3]))

    @cached_property
    def joins(self) -> dict[tuple[tuple[int, int], ...], bool]:
        """Whether pages, by offset and limit, go together: what `core.windows` found out, for the next time."""
        return {}

    @cached_property
    def _by_window(self) -> dict[tuple[int, int], Sight]:
        return {(page.offset, page.limit): page for page in self.pages}

    def encode(self) -> bytes:
        """Write it down, led by a digest of the rest, which is checksum and revision in one."""
        rest = _ENCODER.encode(self)
        return hashlib.blake2b(rest, digest_size=_REVISION // 2).hexdigest().encode() + rest


def decode(data: bytes, listing: str) -> Directory | None:
    """Read a directory that was kept for `listing`; None when it is not intact, or another one's."""
    rest = data[_REVISION:]
    if hashlib.blake2b(rest, digest_size=_REVISION // 2).hexdigest().encode() != data[:_REVISION]:
        return None
    try:
        found = _DECODER.decode(rest)
    except msgspec.MsgspecError:
        return None
    return found if found.listing == listing else None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Directory)


@dataclass(frozen=True, slots=True)
class Filed:
    """What came of filing: the next directory, and the name of the generation that the page belongs to.

    `older`: a fetch that began later has shown the same window, or another state of the list, so the page is for those
    who wait for it and nobody else; the directory is then as it was.
    """

    directory: Directory
    generation: str
    outcome: Literal["joined", "ended", "older"]


def is_whole(listing: Listing, offset: int) -> bool:
    """Whether a page that was asked for from `offset` on holds as many assets as its own figures say."""
    return listing.offset == offset and listing.count == max(0, min(listing.limit, listing.total - offset))


def file(
    known: Directory | None,
    page: Sight,
    total: int | None,
    *,
    listing: str,
    epoch: str,
    now: float,
    alone: bool = False,
) -> Filed:
    """File a page, or a 404 (`total` None), under the listing's current generation, or under the next one.

    Where no directory is known, one may have been lost, and the name that is derived from nothing may have been that
    of a generation before: so the time of the first fetch goes into it. Replicas that cannot talk (`alone`) could not
    agree on that, and leave it out.
    """
    if known is None or known.epoch != epoch:
        evidence = b"" if alone else repr(page.started).encode()
        return _ended(page, total, evidence, listing=listing, epoch=epoch, before=None)
    if known.total != total or not all(agree(page, other) for other in known.pages):
        evidence = b"" if known.total != total else page.offset.to_bytes(8, "big") + page.ids
        if page.started < known.confirmed:
            return Filed(known, _name(epoch, known.generation, total, evidence), "older")
        return _ended(page, total, evidence, listing=listing, epoch=epoch, before=known)
    others = []
    for other in known.pages:
        if (other.offset, other.limit) != (page.offset, page.limit):
            others.append(other)
        elif other.started > page.started:
            return Filed(known, known.generation, "older")
    pages = _bounded([page, *others], now)
    directory = structs.replace(
        known,
        since=min(known.since, page.started),
        confirmed=max(known.confirmed, page.started),
        until=max(known.until, page.until),
        pages=pages,
    )
    return Filed(directory, known.generation, "joined")


def agree(one: Sight, other: Sight) -> bool:
    """Whether two pages show the same assets at the indices that both show."""
    start, end = max(one.offset, other.offset), min(one.end, other.end)
    if start >= end or one.ids_of(start, end) == other.ids_of(start, end):
        return True
    for index in range(start, end):
        mine, its = one.id_at(index), other.id_at(index)
        if mine != its and NO_ID not in (mine, its):
            return False
    return True


def _ended(
    page: Sight, total: int | None, evidence: bytes, *, listing: str, epoch: str, before: Directory | None
) -> Filed:
    name = _name(epoch, "" if before is None else before.generation, total, evidence)
    until = page.until if before is None else max(page.until, before.until)
    directory = Directory(
        listing, epoch, name, total, since=page.started, confirmed=page.started, until=until, pages=(page,)
    )
    return Filed(directory, name, "ended")


def _name(epoch: str, before: str, total: int | None, evidence: bytes) -> str:
    told = b"\n".join((epoch.encode(), before.encode(), str(total).encode(), evidence))
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def _bounded(pages: list[Sight], now: float) -> tuple[Sight, ...]:
    """The latest pages that are still served, as many as are remembered."""
    kept: list[Sight] = []
    ids = 0
    for page in sorted(pages, key=lambda seen: -seen.started):
        ids += len(page.ids) // ID_BYTES
        if page.until > now and len(kept) < _MOST_PAGES and (ids <= _MOST_IDS or not kept):
            kept.append(page)
    return tuple(kept)
