"""Pages in Redis, where every replica sees them and a restart does not lose them.

Keys are `{prefix}:{format version}:{name}`; everything of an AOI has the AOI as its hash tag, and every key expires.
What was purged is told by `epochs`. Filing a page is one script: compare what was known with what is there, and replace
both the listing's index and the page, or nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from msgspec import structs

from gateway.core.clock import Clock
from gateway.core.errors import StoreDown
from gateway.core.events import CorruptValue, Emit, TierLookup
from gateway.core.query import Address
from gateway.storage import listing_index
from gateway.storage.base import FetchedEntry, PutResult, StoreResult, ends_generation, record_page, unrecorded_entry
from gateway.storage.entry import FORMAT_VERSION, CorruptEntry, Entry, ForeignVersion
from gateway.storage.epoch import survives_purges
from gateway.storage.redis.batched_reads import BatchedReads
from gateway.storage.redis.client import Connections
from gateway.storage.redis.commands import RedisCommands
from gateway.storage.redis.epochs import EPOCH_SECONDS, Epochs
from gateway.storage.validity import NO_PROOF, Proof

# An entry that is dated by more than this in the future, in seconds, is a miss.
_MOST_AHEAD = 1.0
# As often a page is filed anew because another replica was quicker, before it is left out of the store.
_TRIES = 8

_FILE = """
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return {'purged'} end
if KEYS[4] and redis.pcall('GET', KEYS[4]) ~= ARGV[11] then return {'purged'} end
local known = redis.pcall('GET', KEYS[2])
if type(known) ~= 'string' then known = '' end
if string.sub(known, 1, 16) ~= ARGV[2] then return {'moved', known} end
local head = redis.pcall('GETRANGE', KEYS[3], 0, 4)
if type(head) == 'string' and #head == 5 and string.sub(head, 1, 4) == 'pxgw'
  and string.byte(head, 5) > tonumber(ARGV[10]) then
  return {'newer'}
end
local kind = redis.call('TYPE', KEYS[3])['ok']
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
redis.call('SET', KEYS[3], ARGV[5], 'PX', ARGV[6])
redis.call('EXPIRE', KEYS[1], ARGV[7])
redis.call('PUBLISH', ARGV[9], ARGV[8])
return {'kept', kind}
"""


class InvalidationMessage(msgspec.Struct, frozen=True, array_like=True):
    """What a replica (`by`) tells the others.

    With a `page`: this page was stored, in an index of this revision and generation. Without one: an AOI, or (no
    `aoi_id`) everything was purged. Fields are only ever added at the end, so that older replicas pass over them.
    """

    by: str
    aoi_id: str
    epoch: str
    listing: str = ""
    page: str = ""
    generation: str = ""
    started: float = 0.0
    offset: int = 0
    limit: int = 0
    revision: int = 0
    soft: bool = False


class RedisStore:
    """Pages in Redis, which all replicas share. `TieredStore` makes a Store of it."""

    def __init__(
        self, calls: RedisCommands, connections: Connections, *, prefix: str, clock: Clock, emit: Emit
    ) -> None:
        self._calls = calls
        self.prefix = f"{prefix}:{FORMAT_VERSION}:"
        self._clock = clock
        self._emit = emit
        self.name = secrets.token_hex(8)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # MGET reads a value of another type as none, where GET would fail.
        self._lookups = BatchedReads(calls)
        self.epochs = Epochs(calls, connections, self._lookups, self.prefix)
        self.epochs.on_run = self._meet_run
        self.on_run: Callable[[str], None] = lambda _: None
        """Called when another run of the server answers than before."""
        self.on_clock_step: Callable[[], None] = lambda: None
        """Called when our clock was stepped."""

    @property
    def channel(self) -> str:
        """Where replicas tell each other what they did."""
        return f"{self.prefix}word"

    async def get(self, address: Address) -> StoreResult:
        """What there is for the address, in one round trip. Raises StoreDown."""
        names = (self.prefix + address.listing, self.prefix + address.page)
        try:
            epoch, (listing, page) = await self.epochs.read(address.aoi_id, names)
        except StoreDown:
            self._emit(TierLookup("redis", "error"))
            raise
        index = None if listing is None else listing_index.decode(listing, address.listing)
        if listing is not None and index is None:
            self._emit(CorruptValue("index"))
        if index is not None and (index.epoch != epoch or self._is_from_the_future(index.confirmed)):
            index = None
        entry = None if page is None else self._read(page, address.page)
        if entry is not None and not survives_purges(entry.epoch, epoch):
            entry = None
        self._emit(TierLookup("redis", "miss" if entry is None else "hit"))
        return StoreResult(epoch, index, entry, "redis")

    async def get_page(self, address: Address, epoch: str) -> Entry | None:
        """The entry of a page alone, if it is there, whole and of this epoch. Raises StoreDown.

        Who is not content with that asks again for everything, and that is what is counted then.
        """
        try:
            (data,) = await self._lookups.get((self.prefix + address.page,))
        except StoreDown:
            self._emit(TierLookup("redis", "error"))
            raise
        try:
            entry = None if data is None else Entry.decode(data, address.page)
        except (CorruptEntry, ForeignVersion):
            return None
        if entry is None or entry.epoch != epoch or self._is_from_the_future(entry.started):
            return None
        return entry

    async def get_many(self, address: Address, pages: Sequence[str], epoch: str) -> list[Entry] | None:  # noqa: ARG002 - as Store says
        """The entries of these pages, which are all of one AOI, in one round trip. Raises StoreDown."""
        try:
            values = await self._lookups.get(tuple(self.prefix + page for page in pages))
        except StoreDown:
            self._emit(TierLookup("redis", "error"))
            raise
        found = []
        for page, value in zip(pages, values, strict=True):
            entry = None if value is None else self._read(value, page)
            if entry is None or entry.epoch != epoch:
                self._emit(TierLookup("redis", "miss"))
                return None
            found.append(entry)
        self._emit(TierLookup("redis", "hit"))
        return found

    async def put(self, address: Address, candidate: FetchedEntry, epoch: str, proof: Proof | None = None) -> PutResult:
        """File and keep a page: one comparison and its consequences in one step of Redis. Raises StoreDown."""
        # One page of a listing at a time: of many that are filed at once, most would lose the comparison each time.
        filing = self._locks.setdefault(address.listing, asyncio.Lock())
        async with filing:
            return await self._put(address, candidate, epoch, proof)

    async def purge(self, aoi_id: str | None, *, soft: bool = False) -> None:
        """Begin a new epoch and tell everybody: one key is written, whatever the number of pages. Raises StoreDown."""
        message = InvalidationMessage(self.name, aoi_id or "", "", soft=soft)
        await self.epochs.purge(aoi_id, soft=soft, channel=self.channel, message=msgspec.msgpack.encode(message))

    async def read_clock(self) -> None:
        """Set our clock by Redis' (TIME). Raises StoreDown."""
        asked = self._clock.monotonic()
        seconds, microseconds = await self._calls.run("time", lambda client: client.time())
        time = int(seconds) + int(microseconds) / 1e6
        steps = self._clock.steps
        self._clock.correct(time, time + self._clock.monotonic() - asked)
        if self._clock.steps != steps:
            self.on_clock_step()

    async def close(self) -> None:
        """Close the connections."""
        await self._lookups.close()
        await self._calls.close()

    async def _put(self, address: Address, candidate: FetchedEntry, epoch: str, proof: Proof | None) -> PutResult:
        await self.epochs.meet_run()  # nothing is written before the clock of this run was read
        if proof is not None and proof.clock not in {NO_PROOF.clock, self._clock.steps}:
            raise StoreDown("the clock was set while the page was fetched")
        (raw,) = await self._lookups.get((self.prefix + address.listing,))
        for _ in range(_TRIES):
            if not self.epochs.is_current(epoch):
                return PutResult(unrecorded_entry(candidate, epoch), "purged")
            stored = None if raw is None else listing_index.decode(raw, address.listing)
            known = None if stored is None or self._is_from_the_future(stored.confirmed) else stored
            result, entry = record_page(address, known, candidate, epoch, self._clock.now())
            if result.outcome == "older":
                return PutResult(entry, "older")
            index = result.listing_index
            if stored is not None and index.revision <= stored.revision:
                # Also where it is of another epoch, or of a clock that was ahead: others compare revisions.
                index = structs.replace(index, revision=stored.revision + 1)
            told = await self._compare_and_store(address, raw or b"", index, entry)
            if told[0] == b"purged":
                return PutResult(unrecorded_entry(candidate, epoch), "purged")
            if told[0] == b"newer":
                raise StoreDown("a newer format version stands there, and is left alone")
            if told[0] == b"kept":
                if told[1] not in (b"string", b"none"):
                    self._emit(CorruptValue("not a string"))
                return PutResult(entry, "kept", index, ended=ends_generation(known, result))
            raw = told[1]
        raise StoreDown("other replicas file pages of this listing all the time")

    async def _meet_run(self, run_id: str) -> None:
        await self.read_clock()
        self.on_run(run_id)

    def _is_from_the_future(self, date: float) -> bool:
        """Whether something is dated by a clock that cannot be trusted: what lives longer than it may is a miss."""
        return date > self._clock.now() + _MOST_AHEAD

    async def _compare_and_store(
        self, address: Address, known: bytes, index: listing_index.ListingIndex, entry: Entry
    ) -> Any:
        now = self._clock.now()
        message = InvalidationMessage(
            self.name, address.aoi_id, entry.epoch, address.listing, address.page, entry.generation, entry.started,
            address.offset, address.limit, index.revision,
        )  # fmt: skip
        everything, _, of_aoi = entry.epoch.partition("/")
        keys = [self.epochs.name(address.aoi_id), self.prefix + address.listing, self.prefix + address.page]
        if self.epochs.run_id:  # a Cluster has the epoch of everything elsewhere; readers compare it there
            keys.append(await self.epochs.meet_run())
        arguments = [
            of_aoi,
            known[:16],
            index.encode(),
            max(1, int((index.until - now) * 1000)),
            entry.encode(),
            max(1, int((entry.last_use - now) * 1000)),
            max(EPOCH_SECONDS, 2 * int(entry.last_use - now)),
            msgspec.msgpack.encode(message),
            self.channel,
            FORMAT_VERSION,
            everything,
        ]
        told = await self._calls.run("file", lambda client: client.eval(_FILE, len(keys), *keys, *arguments))
        if not isinstance(told, list) or not told:
            raise StoreDown("this is no answer of Redis")
        return told

    def _read(self, data: bytes, page: str) -> Entry | None:
        try:
            entry = Entry.decode(data, page)
            return None if self._is_from_the_future(entry.started) else entry
        except CorruptEntry as error:
            self._emit(CorruptValue(str(error)))
        except ForeignVersion:
            pass  # somebody else's, and the name under which it stands is not ours to judge
        return None
