"""Pages in the process, bounded in bytes."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.core.clock import Clock
from gateway.core.events import Emit, Evicted, MemoryTierSize, TierLookup
from gateway.core.query import Address
from gateway.core.validity_token import ValidityTokens
from gateway.storage.base import FetchedEntry, PutResult, StoreResult, ends_generation, record_page, unrecorded_entry
from gateway.storage.entry import Entry
from gateway.storage.epoch import survives_purges
from gateway.storage.eviction import S3Fifo
from gateway.storage.listing_index import ListingIndex, contradicts
from gateway.storage.validity import NO_PROOF, Proof

# Beyond so many AOIs purged one by one, their epochs are forgotten by a purge of everything: a miss, never an old page.
_MOST_EPOCHS = 10_000


class MemoryStore:
    """A Store on its own; `max_bytes` bounds what it holds.

    `purge_others` purges the stores of other processes that serve together with this one, or raises StoreDown; its
    second argument tells whether the purge is soft.
    """

    def __init__(
        self,
        max_bytes: int,
        clock: Clock,
        emit: Emit,
        purge_others: Callable[[str | None, bool], Awaitable[None]] | None = None,
    ) -> None:
        self._pages = LocalPages(max_bytes, emit)
        self.validity_tokens = ValidityTokens()
        self._purge_others = purge_others
        self._clock = clock
        self._emit = emit
        self._everything = _next_pair("", soft=False)
        self._of_aoi: dict[str, str] = {}

    def proof(self) -> Proof:
        """Nothing has to be proved: nobody else changes what is here."""
        return NO_PROOF

    def is_current(self, address: Address, stored: StoreResult) -> bool:
        """Tell whether nothing was purged, and no generation ended, since."""
        now = self._get(address)
        return now.epoch == stored.epoch and _generation(now) == _generation(stored)

    def index(self, address: Address) -> ListingIndex | None:
        """What is known of the listing."""
        return self._pages.index(address.listing, self._epoch(address.aoi_id))

    def peek(self, address: Address) -> StoreResult:
        """What there is for the address."""
        return self._get(address)

    async def get(self, address: Address) -> StoreResult:
        """What there is for the address."""
        stored = self._get(address)
        self._emit(TierLookup("memory", "miss" if stored.entry is None else "hit"))
        return stored

    async def get_remote(self, address: Address) -> StoreResult:
        """What there is for the address."""
        return await self.get(address)

    def peek_many(self, names: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these names, if they are all here."""
        return self._pages.entries(names, epoch, self._clock.now())

    async def get_many(self, address: Address, pages: Sequence[str], epoch: str) -> list[Entry] | None:  # noqa: ARG002 - as Store says
        """The same: there is nowhere else to look."""
        return self.peek_many(pages, epoch)

    def touch(self, names: Iterable[str]) -> None:
        """Count a use of what is in memory."""
        self._pages.touch(names)

    def put_local(self, entry: Entry) -> None:
        """Hold what was made of others."""
        self._pages.put_entry(entry)

    def note_fetch(self, address: Address, candidate: FetchedEntry, proof: Proof) -> None:  # noqa: ARG002 - as Store says
        """Forget the index that the page contradicts."""
        known = self._get(address).listing_index
        if known is not None and contradicts(known, candidate.record, candidate.total):
            self._pages.drop(address.listing)
            self.validity_tokens.invalidate(address.aoi_id)

    async def put(self, address: Address, candidate: FetchedEntry, epoch: str, proof: Proof | None = None) -> PutResult:  # noqa: ARG002 - as Store says
        """File and keep a page. Nothing is awaited in between, which makes it one step."""
        if epoch != self._epoch(address.aoi_id):
            return PutResult(unrecorded_entry(candidate, epoch), "purged")
        known = self._get(address).listing_index
        result, entry = record_page(address, known, candidate, epoch, self._clock.now())
        if result.outcome == "older":
            return PutResult(entry, "older")
        self._pages.put_index(result.listing_index)
        self._pages.put_entry(entry)
        self.validity_tokens.invalidate(address.aoi_id)
        return PutResult(entry, "kept", result.listing_index, ended=ends_generation(known, result))

    async def purge(self, aoi_id: str | None, *, soft: bool = False) -> None:
        """Purge here, and then in the other processes. Raises StoreDown when one of them did not confirm it."""
        self.purge_local(aoi_id, soft=soft)
        if self._purge_others is not None:
            await self._purge_others(aoi_id, soft)

    def purge_local(self, aoi_id: str | None, *, soft: bool = False) -> None:
        """Begin a new epoch; what was kept under the old one is dropped as it is met, or for want of room."""
        if aoi_id is None or (aoi_id not in self._of_aoi and len(self._of_aoi) >= _MOST_EPOCHS):
            self._everything = _next_pair(self._everything, soft=soft and aoi_id is None)
            if not soft or aoi_id is not None:
                self._of_aoi.clear()
                self._pages.clear()
            self.validity_tokens.invalidate_all()
        if aoi_id is not None:
            self._of_aoi[aoi_id] = _next_pair(self._of_aoi.get(aoi_id, ""), soft=soft)
            self.validity_tokens.invalidate(aoi_id)

    def flush(self) -> None:
        """Tell how much is held."""
        self._pages.flush()

    async def close(self) -> None:
        """Forget everything."""
        self._pages.clear()

    def _epoch(self, aoi_id: str) -> str:
        return f"{self._everything}/{self._of_aoi.get(aoi_id, '')}"

    def _get(self, address: Address) -> StoreResult:
        epoch = self._epoch(address.aoi_id)
        index = self._pages.index(address.listing, epoch)
        return StoreResult(epoch, index, self._pages.entry(address.page, epoch, self._clock.now()))


def _next_pair(pair: str, *, soft: bool) -> str:
    """Replace both tokens of an epoch's pair, or the second alone (see `storage.epoch`)."""
    return f"{pair.partition('.')[0] if soft else secrets.token_hex(8)}.{secrets.token_hex(8)}"


def _generation(stored: StoreResult) -> str | None:
    return None if stored.listing_index is None else stored.listing_index.generation


Window = tuple[int, int]


class ListingCopy(NamedTuple):
    """An index, and when it was checked against Redis (see `TieredStore`).

    `pages` are the proofs of pages that were fetched without Redis, by offset and limit. `ended` tells that the
    generation has ended: no page of it is fresh any more.
    """

    listing_index: ListingIndex
    proof: Proof = NO_PROOF
    pages: Mapping[Window, Proof] = {}
    ended: bool = False


class LocalPages:
    """Entries and indexes within a bound of bytes."""

    def __init__(self, max_bytes: int, emit: Emit) -> None:
        self._held: S3Fifo[Entry | ListingCopy] = S3Fifo(max_bytes, self._note_eviction)
        self._entries = 0
        self._evicted = 0
        self._emit = emit

    def entry(self, page: str, epoch: str, now: float) -> Entry | None:
        """Give the entry of a page, if nothing but softly was purged since, and it is not past its last use."""
        held = self._held.get(page)
        if not isinstance(held, Entry):
            return None
        if now >= held.last_use or not survives_purges(held.epoch, epoch):
            self.drop(page)
            return None
        return held

    def entries(self, names: Sequence[str], epoch: str, now: float) -> list[Entry] | None:
        """The entries of all these names, or none."""
        found = []
        for name in names:
            entry = self.entry(name, epoch, now)
            if entry is None:
                return None
            found.append(entry)
        return found

    def listing(self, listing: str) -> ListingCopy | None:
        """Give the index of a listing, whatever its epoch, with its proof."""
        held = self._held.get(listing)
        return held if isinstance(held, ListingCopy) else None

    def index(self, listing: str, epoch: str) -> ListingIndex | None:
        """Give the index of a listing, if it is of this epoch."""
        held = self.listing(listing)
        return held.listing_index if held is not None and held.listing_index.epoch == epoch else None

    def touch(self, names: Iterable[str]) -> None:
        """Count a use of what is held under these names."""
        for name in names:
            self._held.get(name)

    def put_entry(self, entry: Entry) -> None:
        """Hold an entry, unless it alone is beyond the bound."""
        new = self._held.put(entry.key, entry, entry.size)  # which counts down what it evicts
        self._entries += new

    def put_index(self, index: ListingIndex) -> None:
        """Hold an index that needs no proof."""
        self.put_listing(ListingCopy(index))

    def put_listing(self, copy: ListingCopy) -> None:
        """Hold an index with its proof."""
        self._held.put(copy.listing_index.listing, copy, copy.listing_index.size)

    def drop(self, name: str) -> None:
        """Let go of an entry or an index."""
        self._entries -= isinstance(self._held.pop(name), Entry)

    def clear(self) -> None:
        """Let go of everything."""
        self._held.clear()
        self._entries = 0

    def flush(self) -> None:
        """Tell how much is held, and how many entries went for want of room since this was called last."""
        self._emit(MemoryTierSize(self._entries, self._held.size))
        if self._evicted:
            self._emit(Evicted(self._evicted))
            self._evicted = 0

    def _note_eviction(self, held: Entry | ListingCopy) -> None:
        if isinstance(held, Entry):
            self._entries -= 1
            self._evicted += 1
