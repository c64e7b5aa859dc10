"""Entries in the process, bounded in bytes."""

from __future__ import annotations

from cachetools import LRUCache

from gateway.clock import Clock
from gateway.core.entry import Entry
from gateway.core.facts import Evicted, MemoryTierSize, Observe, TierLookup


class MemoryStore:
    """A Store that forgets what was used longest ago once `max_bytes` are reached."""

    def __init__(self, max_bytes: int, clock: Clock, observe: Observe) -> None:
        self._entries = _Bounded(max_bytes, observe)
        self._clock = clock
        self._observe = observe

    async def get(self, key: str) -> Entry | None:
        """The entry of this key, if it is still kept."""
        entry: Entry | None = self._entries.get(key)
        if entry is not None and self._clock.now() >= entry.last_use:
            del self._entries[key]
            self._tell_size()
            entry = None
        self._observe(TierLookup("memory", "miss" if entry is None else "hit"))
        return entry

    async def put(self, entry: Entry) -> None:
        """Keep the entry, unless the one at hand was fetched later or the entry alone is beyond the bound."""
        known: Entry | None = self._entries.get(entry.key)
        if (known is not None and known.started > entry.started) or entry.size > self._entries.maxsize:
            return
        self._entries[entry.key] = entry
        self._tell_size()

    async def ping(self) -> None:
        """Memory always answers."""

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._tell_size()

    def _tell_size(self) -> None:
        self._observe(MemoryTierSize(len(self._entries), int(self._entries.currsize)))


class _Bounded(LRUCache[str, Entry]):
    """An LRUCache that tells of evictions; `popitem` is the place that cachetools documents for it."""

    def __init__(self, max_bytes: int, observe: Observe) -> None:
        super().__init__(max_bytes, getsizeof=lambda entry: entry.size)
        self._tell = observe

    def popitem(self) -> tuple[str, Entry]:
        evicted = super().popitem()
        self._tell(Evicted(1))
        return evicted

    def clear(self) -> None:
        """Forget everything at once; this is no eviction."""
        while self:
            super().popitem()
