"""Memory in front of Redis, itself a Store.

A copy in memory is served without asking Redis while its proof holds (`storage.validity`). This module begins the
proofs: before it reads from Redis, and before a page is fetched. `local_copies` holds the copies and decides which may
be used.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

import msgspec

from gateway.core.clock import Clock
from gateway.core.errors import StoreDown
from gateway.core.events import Emit, TierLookup
from gateway.core.query import Address
from gateway.storage.base import FetchedEntry, PutResult, StoreResult
from gateway.storage.entry import Entry
from gateway.storage.listing_index import ListingIndex
from gateway.storage.local_copies import LocalCopies
from gateway.storage.memory import LocalPages
from gateway.storage.redis.store import InvalidationMessage, RedisStore
from gateway.storage.validity import NO_PROOF, Proof, Standing, Validity

_MESSAGE = msgspec.msgpack.Decoder(InvalidationMessage)
# A reply that messages have overtaken is asked for again, at most this often in all.
_TRIES = 3


class TieredStore:
    """Two tiers as one Store."""

    def __init__(self, near: LocalPages, far: RedisStore, validity: Validity, *, clock: Clock, emit: Emit) -> None:
        self._local = near
        self._remote = far
        self._validity = validity
        self.validity_tokens = validity.validity_tokens
        self._clock = clock
        self._emit = emit
        # Under this name is kept what is fetched while no epoch is known; it is nobody else's.
        self._alone = f"alone-{secrets.token_hex(8)}"
        self._copies = LocalCopies(near, self._validity, name=self._alone, clock=clock)

    def proof(self) -> Proof:
        """Begin a proof."""
        return self._validity.proof()

    def is_current(self, address: Address, stored: StoreResult) -> bool:
        """Tell whether what was found is still right."""
        return self._copies.is_current(address, stored)

    def note_fetch(self, address: Address, candidate: FetchedEntry, proof: Proof) -> None:
        """End the generation in this process if the page shows another state, and do not take it from Redis again."""
        self._copies.note_fetch(address, candidate, proof)

    def index(self, address: Address) -> ListingIndex | None:
        """The listing's index, where it is valid."""
        known = self._copies.listing(address)
        return None if known is None or known.standing is not Standing.VALID else known.listing_index

    def peek(self, address: Address) -> StoreResult | None:
        """The copy in memory, and the listing's index, where they are valid."""
        known = self._copies.listing(address)
        if known is None or known.standing is not Standing.VALID:
            return None
        index = known.listing_index
        return StoreResult(index.epoch, index, self._copies.listed_entry(address, index), proof=self.proof())

    async def get(self, address: Address) -> StoreResult:
        """The copy in memory where it is valid, else what Redis has, or whichever was fetched later."""
        stored = self.peek(address)
        if stored is not None and stored.entry is not None:
            self._emit(TierLookup("memory", "hit"))
            return stored
        return await self.get_remote(address)

    async def get_remote(self, address: Address) -> StoreResult:
        """What Redis has, or memory, if it was fetched later."""
        self._emit(TierLookup("memory", "miss"))
        stored: StoreResult | None = None
        for _ in range(_TRIES):
            try:
                stored = await self._get_page_alone(address) or await self._get_from_remote(address)
            except StoreDown:
                return self._get_from_local(address)
            if stored.proof is not NO_PROOF:
                return stored
        # Messages have overtaken every reply: the vendor still has the page.
        return StoreResult("" if stored is None else stored.epoch, None, None, "redis")

    def peek_many(self, names: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these names, if memory has them all. The caller knows by an index which fetches count."""
        return self._local.entries(names, epoch, self._clock.now())

    async def get_many(self, address: Address, pages: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these pages as Redis has them. Raises StoreDown."""
        found = await self._remote.get_many(address, pages, epoch)
        if found is not None:
            for entry in found:
                self._copies.put_newer(entry)
            self.validity_tokens.invalidate(address.aoi_id)
        return found

    def touch(self, names: Iterable[str]) -> None:
        """Count a use of what is in memory."""
        self._local.touch(names)

    def put_local(self, entry: Entry) -> None:
        """Hold what was made of others in memory."""
        self._local.put_entry(entry)

    async def put(self, address: Address, candidate: FetchedEntry, epoch: str, proof: Proof | None = None) -> PutResult:
        """Keep a page in both tiers, or in memory alone while Redis does not answer.

        A page that shows another state ends the generation in this process at once, whatever comes of storing it.
        """
        proof = proof or self.proof()
        self._copies.note_fetch(address, candidate, proof)
        if epoch.startswith(self._alone):
            return self._copies.put(address, candidate, epoch, proof)
        check = self.proof()
        try:
            kept = await self._remote.put(address, candidate, epoch, proof)
        except StoreDown:
            return self._copies.put(address, candidate, epoch, proof)
        if kept.listing_index is None or self._copies.adopt(address, kept.listing_index, kept.entry, check) is None:
            self._copies.end_generation(address.listing)  # others have shown more, or may have: ask Redis
        # Of an older page, Redis' index does not tell what it contradicts.
        if kept.outcome == "kept":
            self._copies.note_shared(address.listing, candidate, proof)
        return kept

    async def purge(self, aoi_id: str | None, *, soft: bool = False) -> None:
        """Purge memory in any case. Raises StoreDown when Redis did not confirm it for everybody."""
        self._copies.purge(aoi_id, soft=soft)
        try:
            await self._remote.purge(aoi_id, soft=soft)
        finally:
            # What was read from Redis before the new epoch was there has a later proof than the first invalidation.
            self._copies.purge(aoi_id, soft=soft)

    def receive(self, data: bytes) -> None:
        """Take in what a replica did; this one, too: its own messages may overtake its own reads."""
        try:
            message = _MESSAGE.decode(data)
        except msgspec.MsgspecError:
            self.invalidate_all()  # of another version: it may say anything
            return
        if message.page:
            self._copies.note_page(message)
        else:
            self._copies.purge(message.aoi_id or None, soft=message.soft)

    def invalidate_all(self) -> None:
        """Trust nothing that is in memory: anything may have happened."""
        self._copies.purge(None, soft=False)

    async def close(self) -> None:
        """Close both."""
        self._local.clear()
        await self._remote.close()

    async def _get_page_alone(self, address: Address) -> StoreResult | None:
        """The page alone, where its listing's index knows of it and is valid: that may be larger than the page.

        None where it is not the one that the index knows, or a message came meanwhile: then everything has to be
        asked for.
        """
        index, proof = self.index(address), self.proof()
        seen = None if index is None else index.page(address.offset, address.limit)
        if index is None or seen is None or seen.until <= self._clock.now():
            return None
        entry = await self._remote.get_page(address, index.epoch)
        stored = StoreResult(index.epoch, index, entry, "redis", proof)
        if entry is None or entry.started != seen.started or not self.is_current(address, stored):
            return None
        if self._copies.as_of_messages(index, proof) is not index:
            return None
        self._emit(TierLookup("redis", "hit"))
        self._copies.put_newer(entry)
        self.validity_tokens.invalidate(address.aoi_id)
        return stored

    async def _get_from_remote(self, address: Address) -> StoreResult:
        """What Redis has. Without a proof where it may not be believed."""
        proof = self.proof()
        stored = await self._remote.get(address)
        if (newer := self._copies.fetched_alone(address, stored)) is not None:
            kept = await self._remote.put(address, newer, stored.epoch)
            if kept.outcome == "kept" and kept.listing_index is not None:
                stored = StoreResult(stored.epoch, kept.listing_index, kept.entry)
        if not self._validity.holds(proof, address.aoi_id):
            return stored
        if stored.listing_index is not None:
            stored = stored._replace(listing_index=self._copies.as_of_fetches(stored.listing_index))
        if stored.listing_index is not None:
            index = self._copies.adopt(address, stored.listing_index, stored.entry, proof)
            if index is None:
                return stored
            if stored.entry is not None and index is not stored.listing_index:
                seen = stored.listing_index.page(address.offset, address.limit)
                if index.page(address.offset, address.limit) is not seen:
                    return stored  # there is a newer one of this page
            stored = stored._replace(listing_index=index)
        return stored._replace(proof=proof)

    def _get_from_local(self, address: Address) -> StoreResult:
        """What memory has while Redis does not answer."""
        known = self._copies.listing(address)
        # Nobody joins a fetch from before a purge: the purges that are known here are part of the epoch's name.
        alone = f"{self._alone}/{self._validity.purges_of(address.aoi_id)}"
        if known is None:
            return StoreResult(alone, None, None)
        index = known.listing_index
        entry = self._copies.listed_entry(address, index)
        listed = entry is not None
        if entry is None and known.checked:
            entry = self._local.entry(address.page, index.epoch, self._clock.now())
        if known.standing is not Standing.VALID:
            return StoreResult(alone, None, entry, listed=False)
        return StoreResult(index.epoch, index, entry, proof=self.proof(), listed=listed)
