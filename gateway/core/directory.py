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
from typing import Literal

import msgspec

from gateway.core.listing import ID_BYTES, NO_ID, Listing

# Bounds on what one directory remembers, so that filing a page stays cheap for a listing of any length; what is
# forgotten can no longer prove that something slipped, and nothing else is lost.
_MOST_PAGES = 512
_MOST_IDS = 4096
_REVISION = 16


class Sight(msgspec.Struct, frozen=True, array_like=True):
    """What one fetch showed of a listing. Times are Unix time in seconds.

    `ids` holds a digest of each asset from `offset` on; it is empty where the page's own figures contradict each
    other, and then proves nothing about order. `until` is when its page may no longer be served.
    """

    offset: int
    limit: int
    ids: bytes
    started: float
    until: float


class Directory(msgspec.Struct, frozen=True, array_like=True):
    """The current generation of a listing. `total` is None when the vendor said 404."""

    listing: str
    epoch: str
    generation: str
    total: int | None
    confirmed: float
    """When the latest fetch that agrees with this generation began."""
    pages: tuple[Sight, ...]

    @property
    def revision(self) -> str:
        """Changes with every change: what a store compares before it replaces one directory by the next."""
        return revision_of(self.encode())

    @property
    def until(self) -> float:
        """When the last of its pages may no longer be served."""
        return max((page.until for page in self.pages), default=0.0)

    @property
    def size(self) -> int:
        """Bytes that this directory is counted with in a store."""
        return 700 + sum(len(page.ids) + 250 for page in self.pages)

    def encode(self) -> bytes:
        """Write it down, led by a digest of the rest, which is checksum and revision in one."""
        rest = _ENCODER.encode(self)
        return hashlib.blake2b(rest, digest_size=_REVISION // 2).hexdigest().encode() + rest


def revision_of(data: bytes) -> str:
    """The revision of an encoded directory."""
    return data[:_REVISION].decode("latin-1")


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


def sight(listing: Listing, offset: int, limit: int, *, started: float, until: float) -> Sight:
    """What a page that was asked for with `offset` and `limit` shows."""
    whole = listing.offset == offset and listing.count == max(0, min(listing.limit, listing.total - offset))
    return Sight(offset, limit, listing.ids if whole else b"", started, until)


def file(known: Directory | None, page: Sight, total: int | None, *, listing: str, epoch: str, now: float) -> Filed:
    """File a page, or a 404 (`total` None), under the listing's current generation, or under the next one."""
    if known is None or known.epoch != epoch:
        return _ended(page, total, b"", listing=listing, epoch=epoch, before="")
    if known.total != total or not all(agree(page, other) for other in known.pages):
        evidence = b"" if known.total != total else page.offset.to_bytes(8, "big") + page.ids
        if page.started < known.confirmed:
            return Filed(known, _name(epoch, known.generation, total, evidence), "older")
        return _ended(page, total, evidence, listing=listing, epoch=epoch, before=known.generation)
    others = []
    for other in known.pages:
        if (other.offset, other.limit) != (page.offset, page.limit):
            others.append(other)
        elif other.started > page.started:
            return Filed(known, known.generation, "older")
    pages = _bounded([page, *others], now)
    confirmed = max(known.confirmed, page.started)
    return Filed(Directory(listing, epoch, known.generation, total, confirmed, pages), known.generation, "joined")


def agree(one: Sight, other: Sight) -> bool:
    """Whether two pages show the same assets at the indices that both show."""
    start = max(one.offset, other.offset)
    end = min(one.offset + len(one.ids) // ID_BYTES, other.offset + len(other.ids) // ID_BYTES)
    for index in range(start, end):
        mine, its = _id_at(one, index), _id_at(other, index)
        if mine != its and NO_ID not in (mine, its):
            return False
    return True


def _id_at(page: Sight, index: int) -> bytes:
    place = (index - page.offset) * ID_BYTES
    return page.ids[place : place + ID_BYTES]


def _ended(page: Sight, total: int | None, evidence: bytes, *, listing: str, epoch: str, before: str) -> Filed:
    name = _name(epoch, before, total, evidence)
    return Filed(Directory(listing, epoch, name, total, page.started, (page,)), name, "ended")


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
