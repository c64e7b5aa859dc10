"""What a store is. Memory, Redis and the two together are each one; the cache knows no more than this."""

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
from gateway.storage.listing_index import Directory, Filed, Sight, file
from gateway.storage.validity import NO_PROOF, Proof


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry that is not filed yet, and what it shows of its listing; `total` is None for a 404."""

    entry: Entry
    sight: Sight
    total: int | None


class Shelf(NamedTuple):
    """What a store has for an address: the purge epoch, the listing's directory, and the page's entry.

    An entry from before a purge, or from before the store lost the epoch's tokens, is never shown: `entry` is None
    then. One from before a soft purge is. `tier` is where the entry was, `proof` when all this was known to be right.
    `listed` is False for an entry that may be shown only if the vendor fails, whatever its generation.
    """

    epoch: str
    directory: Directory | None
    entry: Entry | None
    tier: Tier = "memory"
    proof: Proof = NO_PROOF
    listed: bool = True

    @property
    def current(self) -> bool:
        """Whether the entry belongs to the current generation of its listing."""
        entry, directory = self.entry, self.directory
        return (
            self.listed and entry is not None and directory is not None
            and directory.owns(entry.generation, entry.started)
        )  # fmt: skip


# What there is while the store is down: the vendor still has the page.
NO_SHELF = Shelf("", None, None)


@dataclass(frozen=True, slots=True)
class Kept:
    """What came of keeping an entry.

    `entry` is the one to answer with, named after its generation. It is `kept`, or for those who wait for it and nobody
    else: a later fetch has shown more (`older`), or a purge came in between (`purged`). `directory` is the listing's
    next one where it was kept, and `ended` tells that it ended a generation.
    """

    entry: Entry
    outcome: Literal["kept", "older", "purged"]
    directory: Directory | None = None
    ended: bool = False


class Store(Protocol):
    """Pages and their listings by address. A store may forget a page at any time, and never returns another's."""

    def proof(self) -> Proof:
        """Begin a proof. Take it before a page is fetched, and hand it to `keep`."""
        ...

    def stands(self, address: Address, shelf: Shelf) -> bool:
        """Tell whether what was found for an address is still right, after something was awaited."""
        ...

    def directory(self, address: Address) -> Directory | None:
        """What this process knows of the listing, if it may be trusted. No page counts as used by that."""
        ...

    def glance(self, address: Address) -> Shelf | None:
        """What this process knows of the address without asking anybody; None where it may not be trusted."""
        ...

    async def look_up(self, address: Address) -> Shelf:
        """What there is for the address, whatever its age. Raises StoreDown."""
        ...

    async def ask(self, address: Address) -> Shelf:
        """The same, for who has just had a glance, and did not see the page. Raises StoreDown."""
        ...

    def copies(self, names: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these names and this epoch, if this process has them all."""
        ...

    async def read(self, address: Address, pages: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these pages of the same listing and epoch, if they are all there. Raises StoreDown."""
        ...

    def use(self, names: Iterable[str]) -> None:
        """Count a use of what this process holds under these names."""
        ...

    def hold(self, entry: Entry) -> None:
        """Hold an entry that was made here out of others, in this process and as long as there is room."""
        ...

    def saw(self, address: Address, candidate: Candidate, proof: Proof) -> None:
        """Take in what a fetched page shows that is not kept: another state ends the generation."""
        ...

    async def keep(self, address: Address, candidate: Candidate, epoch: str, proof: Proof | None = None) -> Kept:
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


async def found_in(store: Store, address: Address) -> Shelf:
    """What the store has for the address; nothing, while it is down: the vendor still has the page."""
    try:
        return await store.look_up(address)
    except StoreDown:
        return NO_SHELF


def filed(
    address: Address, known: Directory | None, candidate: Candidate, epoch: str, now: float, *, alone: str = ""
) -> tuple[Filed, Entry]:
    """File a candidate, and name its entry after the epoch and generation that it belongs to (see `file`)."""
    result = file(known, candidate.sight, candidate.total, listing=address.listing, epoch=epoch, now=now, alone=alone)
    if result.outcome == "older":
        return result, unfiled(candidate, epoch)
    return result, structs.replace(candidate.entry, epoch=epoch, generation=result.generation)


def unfiled(candidate: Candidate, epoch: str) -> Entry:
    """Name the entry of a page that belongs to no generation known to others: the name is used only once."""
    return structs.replace(candidate.entry, epoch=epoch, generation=secrets.token_hex(8))


def ends_one(known: Directory | None, result: Filed) -> bool:
    """Whether filing ended a generation, rather than beginning the first one."""
    return result.outcome == "ended" and known is not None and known.epoch == result.directory.epoch
