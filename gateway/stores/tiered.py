"""Memory in front of Redis, itself a Store.

What is in memory answers without asking as long as word comes from Redis (`stores.word`), because then every newer
page, every ended generation and every purge has been told. When word stops:

- Redis is *silent*: others may still reach it and purge. A copy lives `max_age` longer and then has to be checked; a
  check that fails leaves no copy to use.
- Redis is *gone*: nobody can purge. Copies live their own lifetimes, and pages are filed in memory alone.

After word has come back each listing is checked once; of two copies of a page, the one whose fetch began later counts.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from gateway.clock import Clock
from gateway.core.admission import Candidate
from gateway.core.directory import Directory
from gateway.core.entry import Entry
from gateway.core.errors import StoreDown
from gateway.core.facts import Observe, TierLookup
from gateway.core.query import Address
from gateway.stores.base import Kept, Shelf, ends_one, filed
from gateway.stores.memory import Checked, Shelves
from gateway.stores.redis import RedisStore, Word
from gateway.stores.told import Moment, Told
from gateway.stores.word import WordOfRedis

_WORD = msgspec.msgpack.Decoder(Word)


class _Stamp(NamedTuple):
    """In which session of word, and at which moment of the monotonic clock, something was right."""

    session: int
    at: float


class TieredStore:
    """Two tiers as one Store. `max_age` is `cache.memory_max_age`, in seconds."""

    def __init__(
        self, near: Shelves, far: RedisStore, word: WordOfRedis, *, max_age: float, clock: Clock, observe: Observe
    ) -> None:
        self._near = near
        self._far = far
        self._word = word
        self.seals = word.seals
        self._max_age = max_age
        self._clock = clock
        self._observe = observe
        # Under this epoch is kept what is fetched before Redis was ever reached; it is nobody else's.
        self._alone = secrets.token_hex(8)
        # What was checked before a purge counts no more, nor what was asked before there was word of it.
        self._told = Told()

    def directory(self, address: Address) -> Directory | None:
        """The listing's directory, where it may be trusted."""
        checked = self._checked(address)
        return checked.directory if checked is not None and self._is_trusted(checked) else None

    def glance(self, address: Address) -> Shelf | None:
        """The copy in memory, and the listing's directory, where they may be trusted."""
        checked = self._checked(address)
        if checked is None or not self._is_trusted(checked):
            return None
        return Shelf(checked.directory.epoch, checked.directory, self._copy(address, checked.directory))

    async def look_up(self, address: Address) -> Shelf:
        """The copy in memory where it may be trusted, else what Redis has, or whichever was fetched later."""
        shelf = self.glance(address)
        if shelf is not None and shelf.entry is not None:
            self._observe(TierLookup("memory", "hit"))
            return shelf
        return await self.ask(address)

    async def ask(self, address: Address) -> Shelf:
        """What Redis has, or memory, if it was fetched later."""
        self._observe(TierLookup("memory", "miss"))
        checked = self._checked(address)
        try:
            return await self._page_from_far(address, checked) or await self._from_far(address, checked)
        except StoreDown:
            return self._without_far(address, checked)

    def copies(self, names: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these names, if memory has them all. Who asks knows by a directory which fetches count."""
        return self._near.entries(names, epoch, self._clock.now())

    async def read(self, address: Address, pages: Sequence[str], epoch: str) -> list[Entry] | None:
        """The entries of these pages as Redis has them. Raises StoreDown."""
        stamp = self._stamp()
        found = await self._far.read(address, pages, epoch)
        if found is not None and stamp.at >= self._told.of(address.listing):
            for entry in found:
                self._put_newer(entry)
            self.seals.break_one(address.aoi_id)
        return found

    def use(self, names: Iterable[str]) -> None:
        """Count a use of what is in memory."""
        self._near.use(names)

    def hold(self, entry: Entry) -> None:
        """Hold what was made of others in memory."""
        self._near.put_entry(entry)

    async def keep(self, address: Address, candidate: Candidate, epoch: str) -> Kept:
        """Keep a page in both tiers, or in memory alone while Redis does not answer."""
        if epoch.startswith(self._alone):
            return self._keep_alone(address, candidate, epoch)
        stamp = self._stamp()
        try:
            kept = await self._far.keep(address, candidate, epoch)
        except StoreDown:
            return self._keep_alone(address, candidate, epoch)
        if kept.outcome == "kept" and kept.directory is not None:
            self._adopt(address, kept.directory, kept.entry, stamp)
        return kept

    async def purge(self, aoi_id: str | None) -> None:
        """Purge memory in any case. Raises StoreDown when Redis did not confirm it for everybody."""
        self._purge_near(aoi_id)
        await self._far.purge(aoi_id)

    def hear(self, data: bytes) -> None:
        """Take in what another replica did."""
        try:
            word = _WORD.decode(data)
        except msgspec.MsgspecError:
            self.upset()  # of another version: it may have told anything
            return
        if word.by == self._far.name:
            return
        if word.page:
            self._note_page(word)
        else:
            self._purge_near(word.aoi_id or None)
            if not word.aoi_id:
                self._far.epochs.note(word.epoch)

    def upset(self) -> None:
        """Trust nothing that is in memory: anything may have happened."""
        self._purge_near(None)

    async def close(self) -> None:
        """Close both."""
        self._near.clear()
        await self._far.close()

    def _note_page(self, word: Word) -> None:
        checked = self._near.checked(word.listing)
        known = checked is not None and checked.at >= self._told.of(word.listing)
        now = self._clock.monotonic()
        self._told.note(word.listing, now)
        self.seals.break_one(word.aoi_id)
        if checked is not None and known and _speaks_of(word, checked.directory):
            # It is still the current one, and known to be so as of now; but for that page, which there is anew.
            directory = checked.directory.without(word.offset, word.limit, before=word.started)
            self._near.put_directory(directory, session=checked.session, at=now)
        entry = self._near.entry(word.page, word.epoch, self._clock.now())
        if entry is not None and entry.started < word.started:
            self._near.drop(word.page)

    def _checked(self, address: Address) -> Checked | None:
        checked = self._near.checked(address.listing)
        if checked is None or checked.at <= self._told.purge_of(address.aoi_id).monotonic:
            return None
        return checked

    def _is_trusted(self, checked: Checked) -> bool:
        if checked.at < self._told.of(checked.directory.listing):
            return False
        if self._word.heard:
            return checked.session == self._word.session
        silent = self._clock.monotonic() - max(self._word.stopped, checked.at)
        return self._word.unreachable or silent <= self._max_age

    def _copy(self, address: Address, directory: Directory) -> Entry | None:
        """The page in memory, unless the directory knows of one that was fetched later."""
        entry = self._near.entry(address.page, directory.epoch, self._clock.now())
        if entry is None:
            return None
        seen = directory.seen(address.offset, address.limit)
        return None if seen is not None and seen.started > entry.started else entry

    async def _page_from_far(self, address: Address, checked: Checked | None) -> Shelf | None:
        """The page alone, where its listing's directory knows of it and is trusted: that may be larger than the page.

        None where it is not the one that the directory knows, or something was told meanwhile: then everything has to
        be asked for.
        """
        if checked is None or not self._is_trusted(checked):
            return None
        directory = checked.directory
        seen = directory.seen(address.offset, address.limit)
        if seen is None or seen.until <= self._clock.now():
            return None
        entry = await self._far.page(address, directory.epoch)
        if entry is None or entry.started != seen.started:
            return None
        if self._checked(address) is not checked or not self._is_trusted(checked):
            return None
        self._observe(TierLookup("redis", "hit"))
        self._put_newer(entry)
        self.seals.break_one(address.aoi_id)
        return Shelf(directory.epoch, directory, entry, "redis")

    async def _from_far(self, address: Address, checked: Checked | None) -> Shelf:
        stamp = self._stamp()
        shelf = await self._far.look_up(address)
        entry = self._near.entry(address.page, shelf.epoch, self._clock.now())
        if entry is not None and (shelf.entry is None or entry.started > shelf.entry.started):
            # Fetched while Redis was away: tell the others.
            seen = None if checked is None else checked.directory.seen(address.offset, address.limit)
            if checked is not None and seen is not None:
                kept = await self._far.keep(address, Candidate(entry, seen, checked.directory.total), shelf.epoch)
                if kept.outcome == "kept" and kept.directory is not None:
                    self._adopt(address, kept.directory, kept.entry, stamp)
                    return Shelf(shelf.epoch, kept.directory, kept.entry)
        if shelf.directory is not None:
            self._adopt(address, shelf.directory, shelf.entry, stamp)
        return shelf

    def _without_far(self, address: Address, checked: Checked | None) -> Shelf:
        if checked is not None and self._is_trusted(checked):
            epoch = checked.directory.epoch
            return Shelf(epoch, checked.directory, self._near.entry(address.page, epoch, self._clock.now()))
        # Nothing here may be trusted. What is fetched now is filed under the epoch that was known last, so that it can
        # be told to the others when Redis is back, if there was no purge.
        purges = self._told.purge_of(address.aoi_id).wall
        return Shelf(f"{self._alone}/{purges}" if checked is None else checked.directory.epoch, None, None)

    def _keep_alone(self, address: Address, candidate: Candidate, epoch: str) -> Kept:
        checked = self._checked(address)
        known = None if checked is None else checked.directory
        result, entry = filed(address, known, candidate, epoch, self._clock.now(), alone=True)
        if entry.started <= self._told.purge_of(address.aoi_id).wall:
            return Kept(entry, "purged")
        if result.outcome == "older":
            return Kept(entry, "older")
        self._adopt(address, result.directory, entry, self._stamp())
        return Kept(entry, "kept", result.directory, ended=ends_one(known, result))

    def _stamp(self) -> _Stamp:
        """Taken before Redis is asked: what is told while its answer is under way comes after that answer."""
        return _Stamp(self._word.session, self._clock.monotonic())

    def _adopt(self, address: Address, directory: Directory, entry: Entry | None, stamp: _Stamp) -> None:
        """Hold what Redis answered, unless something was told, or learnt, that is later than that."""
        if stamp.at < self._told.of(directory.listing):
            return
        self.seals.break_one(address.aoi_id)
        held = self._near.checked(directory.listing)
        if held is None or held.at <= stamp.at:
            self._near.put_directory(directory, session=stamp.session, at=stamp.at)
        if entry is not None:
            self._put_newer(entry)

    def _put_newer(self, entry: Entry) -> None:
        mine = self._near.entry(entry.key, entry.epoch, self._clock.now())
        if mine is None or mine.started <= entry.started:
            self._near.put_entry(entry)

    def _purge_near(self, aoi_id: str | None) -> None:
        everything = self._told.note_purge(aoi_id, Moment(self._clock.monotonic(), self._clock.now()))
        if everything or aoi_id is None:
            self._near.clear()
            self.seals.break_all()
        else:
            self.seals.break_one(aoi_id)


def _speaks_of(word: Word, directory: Directory) -> bool:
    return (word.generation, word.epoch) == (directory.generation, directory.epoch)
