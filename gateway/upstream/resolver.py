"""Look up host names, with an end to look-ups that hang when the gateway stops."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
from aiohttp.abc import ResolveResult

# Seconds. A resolver retries a lost packet after five seconds at the earliest (resolv.conf(5)), too late for a drain.
_LAST_SECONDS = 0.5


class Resolver(aiohttp.ThreadedResolver):
    """The system's resolver, called in threads."""

    def __init__(self) -> None:
        super().__init__()
        self._ends: float | None = None
        self._pending: set[asyncio.Timeout] = set()

    def abandon_lookups(self) -> None:
        """End all look-ups, also later ones, half a second from now: what has not been answered by then hangs."""
        self._ends = asyncio.get_running_loop().time() + _LAST_SECONDS
        for limit in self._pending:
            limit.reschedule(self._ends)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises OSError."""
        limit = asyncio.timeout_at(self._ends)
        try:
            async with limit:
                self._pending.add(limit)
                return await super().resolve(host, port, family)
        except TimeoutError:
            raise OSError(None, "the look-up was given up because the gateway is stopping") from None
        finally:
            self._pending.discard(limit)
