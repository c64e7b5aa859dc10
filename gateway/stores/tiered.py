"""A near store in front of a far one, itself a Store.

The near copy answers as long as it is fresh. Once it is not, the far store is asked, because another replica may have
fetched the page since; of two copies the one whose fetch began later counts.
"""

from __future__ import annotations

from contextlib import suppress

from gateway.clock import Clock
from gateway.core.entry import Entry
from gateway.core.errors import StoreDown
from gateway.stores.base import Store


class TieredStore:
    """Two stores as one. While the far one is down, the near one serves alone."""

    def __init__(self, near: Store, far: Store, clock: Clock) -> None:
        self._near = near
        self._far = far
        self._clock = clock

    async def get(self, key: str) -> Entry | None:
        """The later-fetched of both copies; the far one is asked only when the near one is not fresh."""
        near = await self._near.get(key)
        if near is not None and self._clock.now() < near.fresh_until:
            return near
        try:
            far = await self._far.get(key)
        except StoreDown:
            return near
        if far is None or (near is not None and near.started >= far.started):
            return near
        await self._near.put(far)
        return far

    async def put(self, entry: Entry) -> None:
        """Keep the entry in both, or in the near one alone while the far one is down."""
        await self._near.put(entry)
        with suppress(StoreDown):
            await self._far.put(entry)

    async def ping(self) -> None:
        """See whether the far store answers. Raises StoreDown."""
        await self._far.ping()

    async def close(self) -> None:
        """Close both."""
        await self._near.close()
        await self._far.close()
