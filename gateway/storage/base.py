"""The interface of a store, which memory, Redis and both together implement."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from msgspec import structs

from gateway.core.errors import StoreDown
from gateway.core.events import Tier
from gateway.core.query import Address
from gateway.storage.entry import Entry
from gateway.storage.listing_index import ListingIndex, PageRecord, RecordResult, record
from gateway.storage.validity import NO_PROOF, Proof


@dataclass(frozen=True, slots=True)
class FetchedEntry:
    """An entry that is not filed yet, and what it shows of its listing; `total` is None for a 404."""

    entry: Entry
    record: PageRecord
    total: int | None


class StoreResult(NamedTuple):
    """What a store has for an address: the purge epoch, the listing's index, and the page's entry.

    An entry from before a purge, or from before the store lost the epoch's tokens, is never shown: `entry` is None
    then. One from before a soft purge is. `tier` is where the entry was, `proof` when all this was known to be right.
    `listed` is False for an entry that may be shown only if the vendor fails, whatever its generation.
    """

    epoch: str
    listing_index: ListingIndex | None
    entry: Entry | None
    tier: Tier = "memory"
    proof: Proof = NO_PROOF
    listed: bool = True

    @property
    def is_current(self) -> bool:
        """Whether the entry belongs to the current generation of its listing."""
        entry, index = self.entry, self.listing_index
        return (
            self.listed and entry is not None and index is not None
            and index.owns(entry.generation, entry.started)
        )  # fmt: skip


# What there is while the store is down: the vendor still has the page.
NOTHING_STORED = StoreResult("", None, None)


@dataclass(frozen=True, slots=True)
class PutResult:
    """What came of keeping an entry.

    `entry` is the one to answer with, named after its generation. It is `kept`, or for those who wait for it and nobody
    else: a later fetch has shown more (`older`), or a purge came in between (`purged`). `index` is the listing's
    next one where it was kept, and `ended` tells that it ended a generation.
    """

    entry: Entry
    outcome: Literal["kept", "older", "purged"]
    listing_index: ListingIndex | None = None
    ended: bool = False


class Store(Protocol):
    """Pages and their listings by address. A store may forget a page at any time, and never returns another's."""

    def proof(self) -> Proof:
        """Begin a proof. Take it before a page is fetched, and hand it to `keep`."""
        ...

    def is_current(self, address: Address, stored: StoreResult) -> bool:
        """Tell whether what was found for an address is still right, after something was awaited."""
        ...

    def index(self, address: Address) -> ListingIndex | None:
        """What this process knows of the listing, if it may be trusted. No page counts as used by that."""
        ...

    def peek(self, address: Address) -> StoreResult | None:
        """What this process knows of the address without asking anybody; None where it may not be trusted."""
        ...

    async def get(self, address: Address) -> StoreResult:
        """What there is for the address, whatever its age. Raises StoreDown."""
        ...

    async def get_remote(self, address: Address) -> StoreResult:
        """The same, for who has just had a glance, and did not see the page. Raises StoreDown."""
        ...

    def peek_many(self, names: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these names and this epoch, if this process has them all."""
        ...

    async def get_many(self, address: Address, pages: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these pages of the same listing and epoch, if they are all there. Raises StoreDown."""
        ...

    def touch(self, names: Iterable[str]) -> None:
        """Count a use of what this process holds under these names."""
        ...

    def put_local(self, entry: Entry) -> None:
        """Hold an entry that was made here out of others, in this process and as long as there is room."""
        ...

    def note_fetch(self, address: Address, candidate: FetchedEntry, proof: Proof) -> None:
        """Take in what a fetched page shows that is not kept: another state ends the generation."""
        ...

    async def put(self, address: Address, candidate: FetchedEntry, epoch: str, proof: Proof | None = None) -> PutResult:
        """File and keep a page that was fetched under `epoch`, in one atomic step. Raises StoreDown.

        `proof` is from before the fetch; None stands for now.
        """
        ...

    async def purge(self, aoi_id: str | None, *, soft: bool = False) -> None:
        """End everything that is kept of an AOI, or (None) of all, for good. Raises StoreDown when unconfirmed.

        A `soft` purge leaves what is kept for the case that the vendor fails.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and memory."""
        ...


async def get_or_nothing(store: Store, address: Address) -> StoreResult:
    """What the store has for the address; nothing, while it is down: the vendor still has the page."""
    try:
        return await store.get(address)
    except StoreDown:
        return NOTHING_STORED


def record_page(
    address: Address, known: ListingIndex | None, candidate: FetchedEntry, epoch: str, now: float, *, alone: str = ""
) -> tuple[RecordResult, Entry]:
    """File a candidate, and name its entry after the epoch and generation that it belongs to (see `file`)."""
    result = record(
        known, candidate.record, candidate.total, listing=address.listing, epoch=epoch, now=now, alone=alone
    )
    if result.outcome == "older":
        return result, unrecorded_entry(candidate, epoch)
    return result, structs.replace(candidate.entry, epoch=epoch, generation=result.generation)


def unrecorded_entry(candidate: FetchedEntry, epoch: str) -> Entry:
    """Name the entry of a page that belongs to no generation known to others: the name is used only once."""
    return structs.replace(candidate.entry, epoch=epoch, generation=secrets.token_hex(8))


def ends_generation(known: ListingIndex | None, result: RecordResult) -> bool:
    """Whether filing ended a generation, rather than beginning the first one."""
    return result.outcome == "ended" and known is not None and known.epoch == result.listing_index.epoch
