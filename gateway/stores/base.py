"""What a store is. Memory, Redis and the two together are each one; the cache knows no more than this."""

from __future__ import annotations

from typing import Protocol

from gateway.core.entry import Entry


class Store(Protocol):
    """Entries by their key. A store may forget an entry at any time, and never returns another key's."""

    async def get(self, key: str) -> Entry | None:
        """The entry of this key, whatever its age; None when there is none that can be used. Raises StoreDown."""
        ...

    async def put(self, entry: Entry) -> None:
        """Keep the entry until its `keep_until`, unless the one at hand was fetched later. Raises StoreDown."""
        ...

    async def ping(self) -> None:
        """See whether the store answers. Raises StoreDown."""
        ...

    async def close(self) -> None:
        """Let go of connections and memory."""
        ...
