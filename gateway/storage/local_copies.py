"""The copies in this process: pages, and the directories of their listings with their proofs.

A reply of Redis is believed if no message that came after its proof began speaks of something newer. Messages and
directories of a listing carry a revision, by which Redis' order of them is known whatever crosses on the way. What this
replica has fetched itself counts at once, whether Redis was told or not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import structs

from gateway.core.clock import Clock
from gateway.core.query import Address
from gateway.storage.base import Candidate, Kept, Shelf, ends_one, filed, unfiled
from gateway.storage.entry import Entry
from gateway.storage.listing_index import Directory, Sight, after, agree, fetched_after, precedes
from gateway.storage.memory import ListingCopy, Shelves
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


class Known(NamedTuple):
    """What memory has of a listing that may be used: its directory, and for what.

    `checked` tells that the directory was checked against Redis, and its epoch with it: then every entry of that epoch
    may be served if the vendor fails.
    """

    directory: Directory
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

    `shared` tells that Redis has compared it with its directory.
    """

    page: Sight
    total: int | None
    at: float
    shared: bool = False


class _OwnFetches:
    """What this replica's own fetches have shown: those that Redis was not told of, and the latest of which it was.

    Redis' directories do not take the former into account, and no longer the latter if Redis has lost the directory. So
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

    def note_shared(self, listing: str, at: float, page: Sight) -> None:
        """Note that Redis' directories take a fetch into account from now on."""
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


class Copies:
    """Copies and their validity. `name` is that of this process, for generations that it knows alone."""

    def __init__(self, near: Shelves, validity: Validity, *, name: str, clock: Clock) -> None:
        self._near = near
        self._validity = validity
        self._name = name
        self._clock = clock
        self._messages = _Messages()
        # When a fetch of this replica, or a message, ended the generation of a listing.
        self._ended: dict[str, float] = {}
        self._all_ended = -math.inf
        self._own = _OwnFetches()

    def stands(self, address: Address, shelf: Shelf) -> bool:
        """Tell whether what was found is still right: no purge, and no other generation, since its proof began."""
        if shelf.directory is None or not self._validity.holds(shelf.proof, address.aoi_id):
            return False
        if self._ended_at(address.listing) >= shelf.proof.at:
            return False
        return self.as_of_messages(shelf.directory, shelf.proof) is not None

    def note_page(self, message: InvalidationMessage) -> None:
        """Take in that a replica stored a page: an older copy of it, or an ended generation, is not valid any more."""
        now = self._clock.monotonic()
        self._messages.note(message, now)
        self._validity.validity_tokens.invalidate(message.aoi_id)
        held = self._near.listing(message.listing)
        if held is not None and held.directory.revision < message.revision:
            if (message.epoch, message.generation) == (held.directory.epoch, held.directory.generation):
                # It is still the current one, but for that page, of which there is a new one.
                directory = held.directory.without(message.offset, message.limit, before=message.started)
                self._near.put_listing(held._replace(directory=directory))
            else:
                self.end(message.listing)
        entry = self._near.entry(message.page, message.epoch, self._clock.now())
        if entry is not None and entry.started < message.started:
            self._near.drop(message.page)

    def known(self, address: Address) -> Known | None:
        """What memory has of a listing, and what it may be used for."""
        held = self._near.listing(address.listing)
        if held is None:
            return None
        standing = self._validity.standing(held.proof, address.aoi_id)
        if standing is Standing.VALID and not held.ended:
            return Known(held.directory, standing, checked=True)
        fallback = standing >= Standing.FALLBACK
        if held.pages:
            # A fetch proves the page that it returned, and nothing else.
            stands = {window: self._validity.standing(proof, address.aoi_id) for window, proof in held.pages.items()}
            proved = tuple(
                page for page in held.directory.pages
                if stands.get((page.offset, page.limit), Standing.NONE) is Standing.VALID
            )  # fmt: skip
            if proved:
                standing = Standing.FALLBACK if held.ended else Standing.VALID
                return Known(structs.replace(held.directory, pages=proved), standing, checked=fallback)
        return Known(held.directory, Standing.FALLBACK, checked=True) if fallback else None

    def listed(self, address: Address, directory: Directory) -> Entry | None:
        """The page in memory, if it is the very fetch that the directory knows."""
        entry = self._near.entry(address.page, directory.epoch, self._clock.now())
        seen = directory.seen(address.offset, address.limit)
        return entry if entry is not None and seen is not None and seen.started == entry.started else None

    def as_of_fetches(self, directory: Directory) -> Directory | None:
        """A directory without what later fetches of this replica contradict; None if nothing of it is current."""
        left = fetched_after(directory, self._wall(self._own.forgotten(directory.listing)))
        for fetch in self._own.of(directory.listing):
            if left is None:
                return None
            left = self._as_of_fetch(left, fetch)
        return left

    def _as_of_fetch(self, directory: Directory, fetch: _OwnFetch) -> Directory | None:
        # Dated anew: the clock may have been set since.
        return after(directory, structs.replace(fetch.page, started=self._wall(fetch.at)), fetch.total)

    def _wall(self, at: float) -> float:
        """Give the Unix time of a monotonic one."""
        return self._clock.now() - self._clock.monotonic() + at

    def fetched_alone(self, address: Address, shelf: Shelf) -> Candidate | None:
        """The page that this replica fetched while Redis was away, if Redis has none that was fetched later."""
        held = self._near.listing(address.listing)
        proof = None if held is None else held.pages.get((address.offset, address.limit))
        if held is None or proof is None or proof.clock != self._clock.steps:
            return None
        entry, seen = self.listed(address, held.directory), held.directory.seen(address.offset, address.limit)
        if entry is None or seen is None or entry.epoch != shelf.epoch:
            return None
        if shelf.entry is not None and shelf.entry.started >= entry.started:
            return None
        return Candidate(entry, seen, held.directory.total)

    def keep(self, address: Address, candidate: Candidate, epoch: str, proof: Proof) -> Kept:
        """Keep a page in memory, by the proof of its own fetch."""
        if not self._validity.holds_fetch(proof, address.aoi_id):
            return Kept(unfiled(candidate, epoch), "purged")
        if self._is_superseded(address, candidate, proof):
            return Kept(unfiled(candidate, epoch), "older")
        held, known = self._near.listing(address.listing), self.known(address)
        if held is None or known is None or known.standing is not Standing.VALID or known.directory.epoch != epoch:
            held = known = None
        # What is not proved any more was still served under the generation's name.
        before = None if held is None else held.directory
        result, entry = filed(address, before, candidate, epoch, self._clock.now(), alone=self._name)
        if result.outcome == "older":
            return Kept(entry, "older")
        window = (address.offset, address.limit)
        copy = ListingCopy(result.directory, pages={window: proof})
        if held is not None and result.outcome == "joined":
            copy = copy._replace(proof=held.proof, pages={**held.pages, window: proof})
        self._near.put_listing(copy)
        self.put_newer(entry)
        self._validity.validity_tokens.invalidate(address.aoi_id)
        return Kept(entry, "kept", result.directory, ended=ends_one(before, result))

    def _is_superseded(self, address: Address, candidate: Candidate, proof: Proof) -> bool:
        """Whether memory knows a later fetch of this page, or one that shows another state, under whatever epoch."""
        page, total = candidate.sight, candidate.total
        held = self._near.listing(address.listing)
        if (
            held is not None and precedes(page, total, held.directory)
            # Otherwise its dates do not compare with the page's.
            and self._clock.steps in {proof.clock for proof in (held.proof, *held.pages.values())}
        ):  # fmt: skip
            return True
        if self._own.forgotten(address.listing) >= proof.at:
            return True
        return any(
            other.at > proof.at and (
                other.total != total or not agree(page, other.page)
                or (page.offset, page.limit) == (other.page.offset, other.page.limit)
            )
            for other in self._own.of(address.listing)
        )  # fmt: skip

    def adopt(self, address: Address, directory: Directory, entry: Entry | None, proof: Proof) -> Directory | None:
        """Hold what Redis answered, as far as it is right now. Returns that, or None."""
        if not self._validity.holds(proof, address.aoi_id) or self._ended_at(address.listing) > proof.at:
            return None
        now = self.as_of_messages(directory, proof)
        now = None if now is None else self.as_of_fetches(now)
        if now is None:
            return None
        self._validity.validity_tokens.invalidate(address.aoi_id)
        held = self._near.listing(address.listing)
        if (
            held is not None and not held.ended and held.directory.revision > now.revision
            and self._validity.standing(held.proof, address.aoi_id) is Standing.VALID
        ):  # fmt: skip
            return held.directory if held.directory.generation == now.generation else None
        self._near.put_listing(ListingCopy(now, proof))
        if entry is not None:
            self.put_newer(entry)
        return now

    def as_of_messages(self, directory: Directory, proof: Proof) -> Directory | None:
        """A directory without the pages that messages have replaced since its proof; None if it is not current."""
        messages = self._messages.since(directory.listing, proof.at)
        if messages is None:
            return None
        for message in messages:
            if message.revision <= directory.revision:
                continue
            if (message.epoch, message.generation) != (directory.epoch, directory.generation):
                return None
            directory = directory.without(message.offset, message.limit, before=message.started)
        return directory

    def saw(self, address: Address, candidate: Candidate, proof: Proof) -> None:
        """End the generation in this process if the page shows another state, and do not take it from Redis again."""
        self._own.note(address.listing, _OwnFetch(candidate.sight, candidate.total, proof.at))
        held = self._near.listing(address.listing)
        if (
            held is not None and not held.ended
            # The earlier fetches were compared with it when they were made.
            and self._as_of_fetch(held.directory, self._own.of(address.listing)[-1]) is not held.directory
        ):  # fmt: skip
            self.end(address.listing)
            self._validity.validity_tokens.invalidate(address.aoi_id)

    def note_shared(self, listing: str, candidate: Candidate, proof: Proof) -> None:
        """Note that Redis has compared a fetched page with those before it."""
        self._own.note_shared(listing, proof.at, candidate.sight)

    def end(self, listing: str) -> None:
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
