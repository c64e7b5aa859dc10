"""Pages in the process, bounded in bytes."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from gateway.clock import Clock
from gateway.core.admission import Candidate
from gateway.core.directory import Directory
from gateway.core.entry import Entry
from gateway.core.facts import Evicted, MemoryTierSize, Observe, TierLookup
from gateway.core.query import Address
from gateway.core.seals import Seals
from gateway.stores.base import Kept, Shelf, ends_one, filed
from gateway.stores.s3fifo import S3Fifo

# Beyond so many AOIs purged one by one, their epochs are forgotten by a purge of everything: a miss, never an old page.
_MOST_EPOCHS = 10_000


class MemoryStore:
    """A Store on its own; `max_bytes` bounds what it holds.

    `purge_others` purges the stores of other processes that serve together with this one, or raises StoreDown.
    """

    def __init__(
        self,
        max_bytes: int,
        clock: Clock,
        observe: Observe,
        purge_others: Callable[[str | None], Awaitable[None]] | None = None,
    ) -> None:
        self._shelves = Shelves(max_bytes, observe)
        self.seals = Seals()
        self._purge_others = purge_others
        self._clock = clock
        self._observe = observe
        self._everything = secrets.token_hex(8)
        self._of_aoi: dict[str, str] = {}

    def directory(self, address: Address) -> Directory | None:
        """What is known of the listing."""
        return self._shelves.directory(address.listing, self._epoch(address.aoi_id))

    def glance(self, address: Address) -> Shelf:
        """What there is for the address."""
        return self._shelf(address)

    async def look_up(self, address: Address) -> Shelf:
        """What there is for the address."""
        shelf = self._shelf(address)
        self._observe(TierLookup("memory", "miss" if shelf.entry is None else "hit"))
        return shelf

    async def ask(self, address: Address) -> Shelf:
        """What there is for the address."""
        return await self.look_up(address)

    def copies(self, names: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these names, if they are all here."""
        return self._shelves.entries(names, epoch, self._clock.now())

    async def read(self, address: Address, pages: Sequence[str], epoch: str) -> list[Entry] | None:  # noqa: ARG002 - as Store says
        """The same: there is nowhere else to look."""
        return self.copies(pages, epoch)

    def use(self, names: Iterable[str]) -> None:
        """Count a use of what is in memory."""
        self._shelves.use(names)

    def hold(self, entry: Entry) -> None:
        """Hold what was made of others."""
        self._shelves.put_entry(entry)

    async def keep(self, address: Address, candidate: Candidate, epoch: str) -> Kept:
        """File and keep a page. Nothing is awaited in between, which makes it one step."""
        known = self._shelf(address).directory
        result, entry = filed(address, known, candidate, epoch, self._clock.now())
        if epoch != self._epoch(address.aoi_id):
            return Kept(entry, "purged")
        if result.outcome == "older":
            return Kept(entry, "older")
        self._shelves.put_directory(result.directory)
        self._shelves.put_entry(entry)
        self.seals.break_one(address.aoi_id)
        return Kept(entry, "kept", result.directory, ended=ends_one(known, result))

    async def purge(self, aoi_id: str | None) -> None:
        """Purge here, and then in the other processes. Raises StoreDown when one of them did not confirm it."""
        self.purge_here(aoi_id)
        if self._purge_others is not None:
            await self._purge_others(aoi_id)

    def purge_here(self, aoi_id: str | None) -> None:
        """Begin a new epoch; what was kept under the old one is dropped as it is met, or for want of room."""
        if aoi_id is None or len(self._of_aoi) >= _MOST_EPOCHS:
            self._everything = secrets.token_hex(8)
            self._of_aoi.clear()
            self._shelves.clear()
            self.seals.break_all()
        if aoi_id is not None:
            self._of_aoi[aoi_id] = secrets.token_hex(8)
            self.seals.break_one(aoi_id)

    def tell(self) -> None:
        """Tell how much is held."""
        self._shelves.tell()

    async def close(self) -> None:
        """Forget everything."""
        self._shelves.clear()

    def _epoch(self, aoi_id: str) -> str:
        return f"{self._everything}/{self._of_aoi.get(aoi_id, '')}"

    def _shelf(self, address: Address) -> Shelf:
        epoch = self._epoch(address.aoi_id)
        directory = self._shelves.directory(address.listing, epoch)
        return Shelf(epoch, directory, self._shelves.entry(address.page, epoch, self._clock.now()))


class Checked(NamedTuple):
    """A directory, and when it was last known to be right (see `TieredStore`)."""

    directory: Directory
    session: int
    at: float


class Shelves:
    """Entries and directories within a bound of bytes."""

    def __init__(self, max_bytes: int, observe: Observe) -> None:
        self._held: S3Fifo[Entry | Checked] = S3Fifo(max_bytes, self._note_eviction)
        self._entries = 0
        self._evicted = 0
        self._observe = observe

    def entry(self, page: str, epoch: str, now: float) -> Entry | None:
        """The entry of a page, if it is of this epoch and not past its last use."""
        held = self._held.get(page)
        if not isinstance(held, Entry):
            return None
        if held.epoch != epoch or now >= held.last_use:
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

    def checked(self, listing: str) -> Checked | None:
        """The directory of a listing, whatever its epoch, with its stamp."""
        held = self._held.get(listing)
        return held if isinstance(held, Checked) else None

    def directory(self, listing: str, epoch: str) -> Directory | None:
        """The directory of a listing, if it is of this epoch."""
        held = self.checked(listing)
        return held.directory if held is not None and held.directory.epoch == epoch else None

    def use(self, names: Iterable[str]) -> None:
        """Count a use of what is held under these names."""
        for name in names:
            self._held.get(name)

    def put_entry(self, entry: Entry) -> None:
        """Hold an entry, unless it alone is beyond the bound."""
        new = self._held.put(entry.key, entry, entry.size)  # which counts down what it evicts
        self._entries += new

    def put_directory(self, directory: Directory, *, session: int = 0, at: float = 0.0) -> None:
        """Hold a directory, stamped with the session of word from Redis, and the time, at which it was right."""
        self._held.put(directory.listing, Checked(directory, session, at), directory.size)

    def drop(self, name: str) -> None:
        """Let go of an entry or a directory."""
        self._entries -= isinstance(self._held.pop(name), Entry)

    def clear(self) -> None:
        """Let go of everything."""
        self._held.clear()
        self._entries = 0

    def tell(self) -> None:
        """Tell how much is held, and how many entries went for want of room since this was called last."""
        self._observe(MemoryTierSize(self._entries, self._held.size))
        if self._evicted:
            self._observe(Evicted(self._evicted))
            self._evicted = 0

    def _note_eviction(self, held: Entry | Checked) -> None:
        if isinstance(held, Entry):
            self._entries -= 1
            self._evicted += 1
