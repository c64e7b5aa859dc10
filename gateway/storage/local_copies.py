"""The copies in this process: pages, and the indexes of their listings with their proofs.

A reply of Redis is accepted if no message that arrived after its proof began is newer. Messages and indexes of a
listing have a revision, so their order in Redis is known even if they overtake each other. What this replica has
fetched itself counts at once, whether it could be stored in Redis or not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import structs

from gateway.core.clock import Clock
from gateway.core.query import Address
from gateway.storage.base import FetchedEntry, PutResult, StoreResult, ends_generation, record_page, unrecorded_entry
from gateway.storage.entry import Entry
from gateway.storage.listing_index import (
    ListingIndex,
    PageRecord,
    agrees,
    fetched_after,
    is_superseded,
    without_contradicted,
)
from gateway.storage.memory import ListingCopy, LocalPages
from gateway.storage.redis.store import InvalidationMessage
from gateway.storage.validity import Proof, Standing, Validity

# Messages are remembered for so many seconds, and up to so many; a reply from before a forgotten one is not believed.
_MESSAGE_SECONDS = 5.0
_MOST_MESSAGES = 50_000
# This many fetches of one listing that Redis was not told of are remembered: more than can be under way at once.
_MOST_FETCHES = 128
_MOST_LISTINGS = 10_000
# And digests of ids of fetched pages of this many bytes.
_MOST_ID_BYTES = 16 << 20


class KnownListing(NamedTuple):
    """What memory has of a listing that may be used: its index, and for what.

    `checked` tells that the index was checked against Redis, and its epoch with it: then every entry of that epoch
    may be served if the vendor fails.
    """

    listing_index: ListingIndex
    standing: Standing
    checked: bool


class _Messages:
    """The latest messages by listing, with the monotonic times at which they were received.

    They are remembered for longer than a round trip to Redis takes. A burst of misses stores many pages of one listing
    within one: each reply has to be compared with all of their messages.
    """

    def __init__(self) -> None:
        self._of: dict[str, deque[tuple[float, InvalidationMessage]]] = {}
        self._listings: deque[str] = deque()
        self._forgotten = -math.inf

    def note(self, message: InvalidationMessage, now: float) -> None:
        """Remember a message."""
        self._of.setdefault(message.listing, deque()).append((now, message))
        self._listings.append(message.listing)
        while len(self._listings) > _MOST_MESSAGES or self._of[self._listings[0]][0][0] < now - _MESSAGE_SECONDS:
            listing = self._listings.popleft()
            known = self._of[listing]
            self._forgotten = known.popleft()[0]
            if not known:
                del self._of[listing]

    def since(self, listing: str, at: float) -> list[InvalidationMessage] | None:
        """Give the messages of a listing that were received at or after a moment; None if some were forgotten."""
        if at <= self._forgotten:
            return None
        return [message for when, message in self._of.get(listing, ()) if when >= at]


class _OwnFetch(NamedTuple):
    """What a fetch of this replica showed. `at` is when it was sent (monotonic).

    `shared` tells that Redis has compared it with its index.
    """

    page: PageRecord
    total: int | None
    at: float
    shared: bool = False


class _OwnFetches:
    """What this replica's own fetches have shown: those that Redis was not told of, and the latest of which it was.

    Redis' indexes do not take the former into account, and no longer the latter if Redis has lost the index. So
    they are compared with both here. One that Redis was not told of and that is forgotten is replaced by its time: of
    what was fetched before that, nothing is known to be right.
    """

    def __init__(self) -> None:
        self._of: dict[str, list[_OwnFetch]] = {}
        self._forgotten: dict[str, float] = {}
        self._all_forgotten = -math.inf
        self._id_bytes = 0

    def note(self, listing: str, fetch: _OwnFetch) -> None:
        """Remember a fetch that Redis is not told of yet."""
        if (
            (listing not in self._of and max(len(self._of), len(self._forgotten)) >= _MOST_LISTINGS)
            or self._id_bytes >= _MOST_ID_BYTES
        ):  # fmt: skip
            untold = (one.at for known in self._of.values() for one in known if not one.shared)
            self._all_forgotten = max((self._all_forgotten, *self._forgotten.values(), *untold))
            self._of.clear()
            self._forgotten.clear()
            self._id_bytes = 0
        known = self._of.get(listing, [])
        untold_here = [one for one in known if not one.shared]
        if len(untold_here) >= _MOST_FETCHES:
            oldest = min(untold_here, key=lambda one: one.at)
            known = [one for one in known if one is not oldest]
            self._forgotten[listing] = max(oldest.at, self._forgotten.get(listing, -math.inf))
        self._replace(listing, [*known, fetch])

    def note_shared(self, listing: str, at: float, page: PageRecord) -> None:
        """Note that Redis' indexes take a fetch into account from now on."""
        known = [
            one._replace(shared=True) if (one.at, one.page) == (at, page) else one for one in self._of.get(listing, ())
        ]
        latest = max((one.at for one in known if one.shared), default=-math.inf)
        self._replace(listing, [one for one in known if not one.shared or one.at == latest])

    def of(self, listing: str) -> Sequence[_OwnFetch]:
        """Give the fetches of a listing."""
        return self._of.get(listing, ())

    def forgotten(self, listing: str) -> float:
        """Give the time of the latest fetch of a listing that was forgotten (monotonic)."""
        return max(self._all_forgotten, self._forgotten.get(listing, -math.inf))

    def _replace(self, listing: str, fetches: list[_OwnFetch]) -> None:
        self._id_bytes += sum(len(one.page.ids) for one in fetches)
        self._id_bytes -= sum(len(one.page.ids) for one in self._of.get(listing, ()))
        self._of[listing] = fetches


class LocalCopies:
    """Copies and their validity. `name` is that of this process, for generations that it knows alone."""

    def __init__(self, near: LocalPages, validity: Validity, *, name: str, clock: Clock) -> None:
        self._near = near
        self._validity = validity
        self._name = name
        self._clock = clock
        self._messages = _Messages()
        # When a fetch of this replica, or a message, ended the generation of a listing.
        self._ended: dict[str, float] = {}
        self._all_ended = -math.inf
        self._own = _OwnFetches()

    def is_current(self, address: Address, stored: StoreResult) -> bool:
        """Tell whether what was found is still right: no purge, and no other generation, since its proof began."""
        if stored.listing_index is None or not self._validity.holds(stored.proof, address.aoi_id):
            return False
        if self._ended_at(address.listing) >= stored.proof.at:
            return False
        return self.as_of_messages(stored.listing_index, stored.proof) is not None

    def note_page(self, message: InvalidationMessage) -> None:
        """Take in that a replica stored a page: an older copy of it, or an ended generation, is not valid any more."""
        now = self._clock.monotonic()
        self._messages.note(message, now)
        self._validity.validity_tokens.invalidate(message.aoi_id)
        held = self._near.listing(message.listing)
        if held is not None and held.listing_index.revision < message.revision:
            if (message.epoch, message.generation) == (held.listing_index.epoch, held.listing_index.generation):
                # It is still the current one, but for that page, of which there is a new one.
                index = held.listing_index.without(message.offset, message.limit, before=message.started)
                self._near.put_listing(held._replace(listing_index=index))
            else:
                self.end_generation(message.listing)
        entry = self._near.entry(message.page, message.epoch, self._clock.now())
        if entry is not None and entry.started < message.started:
            self._near.drop(message.page)

    def listing(self, address: Address) -> KnownListing | None:
        """What memory has of a listing, and what it may be used for."""
        held = self._near.listing(address.listing)
        if held is None:
            return None
        standing = self._validity.standing(held.proof, address.aoi_id)
        if standing is Standing.VALID and not held.ended:
            return KnownListing(held.listing_index, standing, checked=True)
        fallback = standing >= Standing.FALLBACK
        if held.pages:
            # A fetch proves the page that it returned, and nothing else.
            stands = {window: self._validity.standing(proof, address.aoi_id) for window, proof in held.pages.items()}
            proved = tuple(
                page for page in held.listing_index.pages
                if stands.get((page.offset, page.limit), Standing.NONE) is Standing.VALID
            )  # fmt: skip
            if proved:
                standing = Standing.FALLBACK if held.ended else Standing.VALID
                return KnownListing(structs.replace(held.listing_index, pages=proved), standing, checked=fallback)
        return KnownListing(held.listing_index, Standing.FALLBACK, checked=True) if fallback else None

    def listed_entry(self, address: Address, index: ListingIndex) -> Entry | None:
        """The page in memory, if it is the very fetch that the index knows."""
        entry = self._near.entry(address.page, index.epoch, self._clock.now())
        seen = index.page(address.offset, address.limit)
        return entry if entry is not None and seen is not None and seen.started == entry.started else None

    def as_of_fetches(self, index: ListingIndex) -> ListingIndex | None:
        """An index without what later fetches of this replica contradict; None if nothing of it is current."""
        left = fetched_after(index, self._wall(self._own.forgotten(index.listing)))
        for fetch in self._own.of(index.listing):
            if left is None:
                return None
            left = self._as_of_fetch(left, fetch)
        return left

    def _as_of_fetch(self, index: ListingIndex, fetch: _OwnFetch) -> ListingIndex | None:
        # Dated anew: the clock may have been set since.
        return without_contradicted(index, structs.replace(fetch.page, started=self._wall(fetch.at)), fetch.total)

    def _wall(self, at: float) -> float:
        """Give the Unix time of a monotonic one."""
        return self._clock.now() - self._clock.monotonic() + at

    def fetched_alone(self, address: Address, stored: StoreResult) -> FetchedEntry | None:
        """The page that this replica fetched while Redis was away, if Redis has none that was fetched later."""
        held = self._near.listing(address.listing)
        proof = None if held is None else held.pages.get((address.offset, address.limit))
        if held is None or proof is None or proof.clock != self._clock.steps:
            return None
        entry, seen = (
            self.listed_entry(address, held.listing_index),
            held.listing_index.page(address.offset, address.limit),
        )
        if entry is None or seen is None or entry.epoch != stored.epoch:
            return None
        if stored.entry is not None and stored.entry.started >= entry.started:
            return None
        return FetchedEntry(entry, seen, held.listing_index.total)

    def put(self, address: Address, candidate: FetchedEntry, epoch: str, proof: Proof) -> PutResult:
        """Keep a page in memory, by the proof of its own fetch."""
        if not self._validity.holds_fetch(proof, address.aoi_id):
            return PutResult(unrecorded_entry(candidate, epoch), "purged")
        if self._is_superseded(address, candidate, proof):
            return PutResult(unrecorded_entry(candidate, epoch), "older")
        held, known = self._near.listing(address.listing), self.listing(address)
        if held is None or known is None or known.standing is not Standing.VALID or known.listing_index.epoch != epoch:
            held = known = None
        # What is not proved any more was still served under the generation's name.
        before = None if held is None else held.listing_index
        result, entry = record_page(address, before, candidate, epoch, self._clock.now(), alone=self._name)
        if result.outcome == "older":
            return PutResult(entry, "older")
        window = (address.offset, address.limit)
        copy = ListingCopy(result.listing_index, pages={window: proof})
        if held is not None and result.outcome == "joined":
            copy = copy._replace(proof=held.proof, pages={**held.pages, window: proof})
        self._near.put_listing(copy)
        self.put_newer(entry)
        self._validity.validity_tokens.invalidate(address.aoi_id)
        return PutResult(entry, "kept", result.listing_index, ended=ends_generation(before, result))

    def _is_superseded(self, address: Address, candidate: FetchedEntry, proof: Proof) -> bool:
        """Whether memory knows a later fetch of this page, or one that shows another state, under whatever epoch."""
        page, total = candidate.record, candidate.total
        held = self._near.listing(address.listing)
        if (
            held is not None and is_superseded(page, total, held.listing_index)
            # Otherwise its dates do not compare with the page's.
            and self._clock.steps in {proof.clock for proof in (held.proof, *held.pages.values())}
        ):  # fmt: skip
            return True
        if self._own.forgotten(address.listing) >= proof.at:
            return True
        return any(
            other.at > proof.at and (
                other.total != total or not agrees(page, other.page)
                or (page.offset, page.limit) == (other.page.offset, other.page.limit)
            )
            for other in self._own.of(address.listing)
        )  # fmt: skip

    def adopt(self, address: Address, index: ListingIndex, entry: Entry | None, proof: Proof) -> ListingIndex | None:
        """Hold what Redis answered, as far as it is right now. Returns that, or None."""
        if not self._validity.holds(proof, address.aoi_id) or self._ended_at(address.listing) > proof.at:
            return None
        now = self.as_of_messages(index, proof)
        now = None if now is None else self.as_of_fetches(now)
        if now is None:
            return None
        self._validity.validity_tokens.invalidate(address.aoi_id)
        held = self._near.listing(address.listing)
        if (
            held is not None and not held.ended and held.listing_index.revision > now.revision
            and self._validity.standing(held.proof, address.aoi_id) is Standing.VALID
        ):  # fmt: skip
            return held.listing_index if held.listing_index.generation == now.generation else None
        self._near.put_listing(ListingCopy(now, proof))
        if entry is not None:
            self.put_newer(entry)
        return now

    def as_of_messages(self, index: ListingIndex, proof: Proof) -> ListingIndex | None:
        """An index without the pages that messages have replaced since its proof; None if it is not current."""
        messages = self._messages.since(index.listing, proof.at)
        if messages is None:
            return None
        for message in messages:
            if message.revision <= index.revision:
                continue
            if (message.epoch, message.generation) != (index.epoch, index.generation):
                return None
            index = index.without(message.offset, message.limit, before=message.started)
        return index

    def note_fetch(self, address: Address, candidate: FetchedEntry, proof: Proof) -> None:
        """End the generation in this process if the page shows another state, and do not take it from Redis again."""
        self._own.note(address.listing, _OwnFetch(candidate.record, candidate.total, proof.at))
        held = self._near.listing(address.listing)
        if (
            held is not None and not held.ended
            # The earlier fetches were compared with it when they were made.
            and self._as_of_fetch(held.listing_index, self._own.of(address.listing)[-1]) is not held.listing_index
        ):  # fmt: skip
            self.end_generation(address.listing)
            self._validity.validity_tokens.invalidate(address.aoi_id)

    def note_shared(self, listing: str, candidate: FetchedEntry, proof: Proof) -> None:
        """Note that Redis has compared a fetched page with those before it."""
        self._own.note_shared(listing, proof.at, candidate.record)

    def end_generation(self, listing: str) -> None:
        """End the generation of a listing in this process, and do not believe what was asked for before."""
        now = self._clock.monotonic()
        if listing not in self._ended and len(self._ended) >= _MOST_LISTINGS:
            self._ended.clear()
            self._all_ended = now
        self._ended[listing] = now
        held = self._near.listing(listing)
        if held is not None:
            self._near.put_listing(held._replace(ended=True))

    def _ended_at(self, listing: str) -> float:
        return max(self._all_ended, self._ended.get(listing, -math.inf))

    def put_newer(self, entry: Entry) -> None:
        """Hold an entry, unless there is one that was fetched later."""
        mine = self._near.entry(entry.key, entry.epoch, self._clock.now())
        if mine is None or mine.started <= entry.started:
            self._near.put_entry(entry)

    def purge(self, aoi_id: str | None, *, soft: bool) -> None:
        """Invalidate the copies of an AOI, or (None) all."""
        if self._validity.purge(aoi_id, soft=soft) and not soft:
            self._near.clear()
