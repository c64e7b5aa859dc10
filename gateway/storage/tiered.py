"""Memory in front of Redis, itself a Store.

What is in memory answers without asking while its proof stands (`stores.validity`). This file takes the proofs: before
it reads from Redis, and before a page is fetched. What memory holds, and what of it may be used, is `stores.copies`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

import msgspec

from gateway.core.clock import Clock
from gateway.core.errors import StoreDown
from gateway.core.events import Emit, TierLookup
from gateway.core.query import Address
from gateway.storage.base import Candidate, Kept, Shelf
from gateway.storage.entry import Entry
from gateway.storage.listing_index import Directory
from gateway.storage.local_copies import Copies
from gateway.storage.memory import Shelves
from gateway.storage.redis.invalidation import InvalidationSubscriber
from gateway.storage.redis.store import InvalidationMessage, RedisStore
from gateway.storage.validity import NO_PROOF, Proof, Standing, Validity

_MESSAGE = msgspec.msgpack.Decoder(InvalidationMessage)
# A reply that messages have overtaken is asked for again, at most this often in all.
_TRIES = 3


class TieredStore:
    """Two tiers as one Store."""

    def __init__(
        self, near: Shelves, far: RedisStore, word: InvalidationSubscriber, *, clock: Clock, emit: Emit
    ) -> None:
        self._near = near
        self._far = far
        self._word = word
        self._validity: Validity = word.validity
        self.validity_tokens = word.validity.validity_tokens
        self._clock = clock
        self._emit = emit
        # Under this name is kept what is fetched while no epoch is known; it is nobody else's.
        self._alone = f"alone-{secrets.token_hex(8)}"
        self._copies = Copies(near, self._validity, name=self._alone, clock=clock)

    def proof(self) -> Proof:
        """Begin a proof."""
        return self._validity.proof()

    def stands(self, address: Address, shelf: Shelf) -> bool:
        """Tell whether what was found is still right."""
        return self._copies.stands(address, shelf)

    def saw(self, address: Address, candidate: Candidate, proof: Proof) -> None:
        """End the generation in this process if the page shows another state, and do not take it from Redis again."""
        self._copies.saw(address, candidate, proof)

    def directory(self, address: Address) -> Directory | None:
        """The listing's directory, where it is valid."""
        known = self._copies.known(address)
        return None if known is None or known.standing is not Standing.VALID else known.directory

    def glance(self, address: Address) -> Shelf | None:
        """The copy in memory, and the listing's directory, where they are valid."""
        known = self._copies.known(address)
        if known is None or known.standing is not Standing.VALID:
            return None
        directory = known.directory
        return Shelf(directory.epoch, directory, self._copies.listed(address, directory), proof=self.proof())

    async def look_up(self, address: Address) -> Shelf:
        """The copy in memory where it is valid, else what Redis has, or whichever was fetched later."""
        shelf = self.glance(address)
        if shelf is not None and shelf.entry is not None:
            self._emit(TierLookup("memory", "hit"))
            return shelf
        return await self.ask(address)

    async def ask(self, address: Address) -> Shelf:
        """What Redis has, or memory, if it was fetched later."""
        self._emit(TierLookup("memory", "miss"))
        shelf: Shelf | None = None
        for _ in range(_TRIES):
            try:
                shelf = await self._page_from_far(address) or await self._from_far(address)
            except StoreDown:
                return self._without_far(address)
            if shelf.proof is not NO_PROOF:
                return shelf
        # Messages have overtaken every reply: the vendor still has the page.
        return Shelf("" if shelf is None else shelf.epoch, None, None, "redis")

    def copies(self, names: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these names, if memory has them all. The caller knows by a directory which fetches count."""
        return self._near.entries(names, epoch, self._clock.now())

    async def read(self, address: Address, pages: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these pages as Redis has them. Raises StoreDown."""
        found = await self._far.read(address, pages, epoch)
        if found is not None:
            for entry in found:
                self._copies.put_newer(entry)
            self.validity_tokens.invalidate(address.aoi_id)
        return found

    def use(self, names: Iterable[str]) -> None:
        """Count a use of what is in memory."""
        self._near.use(names)

    def hold(self, entry: Entry) -> None:
        """Hold what was made of others in memory."""
        self._near.put_entry(entry)

    async def keep(self, address: Address, candidate: Candidate, epoch: str, proof: Proof | None = None) -> Kept:
        """Keep a page in both tiers, or in memory alone while Redis does not answer.

        A page that shows another state ends the generation in this process at once, whatever comes of storing it.
        """
        proof = proof or self.proof()
        self._copies.saw(address, candidate, proof)
        if epoch.startswith(self._alone):
            return self._copies.keep(address, candidate, epoch, proof)
        check = self.proof()
        try:
            kept = await self._far.keep(address, candidate, epoch, proof)
        except StoreDown:
            return self._copies.keep(address, candidate, epoch, proof)
        if kept.directory is None or self._copies.adopt(address, kept.directory, kept.entry, check) is None:
            self._copies.end(address.listing)  # others have shown more, or may have: ask Redis
        # Of an older page, Redis' directory does not tell what it contradicts.
        if kept.outcome == "kept":
            self._copies.note_shared(address.listing, candidate, proof)
        return kept

    async def purge(self, aoi_id: str | None, *, soft: bool = False) -> None:
        """Purge memory in any case. Raises StoreDown when Redis did not confirm it for everybody."""
        self._copies.purge(aoi_id, soft=soft)
        try:
            await self._far.purge(aoi_id, soft=soft)
        finally:
            # What was read from Redis before the new epoch was there has a later proof than the first invalidation.
            self._copies.purge(aoi_id, soft=soft)

    def hear(self, data: bytes) -> None:
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
        self._near.clear()
        await self._far.close()

    async def _page_from_far(self, address: Address) -> Shelf | None:
        """The page alone, where its listing's directory knows of it and is valid: that may be larger than the page.

        None where it is not the one that the directory knows, or a message came meanwhile: then everything has to be
        asked for.
        """
        directory, proof = self.directory(address), self.proof()
        seen = None if directory is None else directory.seen(address.offset, address.limit)
        if directory is None or seen is None or seen.until <= self._clock.now():
            return None
        entry = await self._far.page(address, directory.epoch)
        shelf = Shelf(directory.epoch, directory, entry, "redis", proof)
        if entry is None or entry.started != seen.started or not self.stands(address, shelf):
            return None
        if self._copies.as_of_messages(directory, proof) is not directory:
            return None
        self._emit(TierLookup("redis", "hit"))
        self._copies.put_newer(entry)
        self.validity_tokens.invalidate(address.aoi_id)
        return shelf

    async def _from_far(self, address: Address) -> Shelf:
        """What Redis has. Without a proof where it may not be believed."""
        proof = self.proof()
        shelf = await self._far.look_up(address)
        if (newer := self._copies.fetched_alone(address, shelf)) is not None:
            kept = await self._far.keep(address, newer, shelf.epoch)
            if kept.outcome == "kept" and kept.directory is not None:
                shelf = Shelf(shelf.epoch, kept.directory, kept.entry)
        if not self._validity.holds(proof, address.aoi_id):
            return shelf
        if shelf.directory is not None:
            shelf = shelf._replace(directory=self._copies.as_of_fetches(shelf.directory))
        if shelf.directory is not None:
            directory = self._copies.adopt(address, shelf.directory, shelf.entry, proof)
            if directory is None:
                return shelf
            if shelf.entry is not None and directory is not shelf.directory:
                seen = shelf.directory.seen(address.offset, address.limit)
                if directory.seen(address.offset, address.limit) is not seen:
                    return shelf  # there is a newer one of this page
            shelf = shelf._replace(directory=directory)
        return shelf._replace(proof=proof)

    def _without_far(self, address: Address) -> Shelf:
        """What memory has while Redis does not answer."""
        known = self._copies.known(address)
        # Nobody joins a fetch from before a purge: the purges that are known here are part of the epoch's name.
        alone = f"{self._alone}/{self._validity.purges_of(address.aoi_id)}"
        if known is None:
            return Shelf(alone, None, None)
        directory = known.directory
        entry = self._copies.listed(address, directory)
        listed = entry is not None
        if entry is None and known.checked:
            entry = self._near.entry(address.page, directory.epoch, self._clock.now())
        if known.standing is not Standing.VALID:
            return Shelf(alone, None, entry, listed=False)
        return Shelf(directory.epoch, directory, entry, proof=self.proof(), listed=listed)
