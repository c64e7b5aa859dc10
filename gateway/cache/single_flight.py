"""One fetch per key within the process (groupcache's singleflight).

The fetch is a task of its own: whoever asked first may leave without cancelling it, and a fetch that fails fails all
who waited for it with the same error, so that no second herd follows the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Fetches under way, by key.

    A caller that looked into the cache, missed, and was held up before it came here may find the flight already
    result and gone:

        A: look up, miss            B: look up, miss
        A: join -> fetch, store, land
                                    B: join -> would fetch a page that was stored a moment ago

    So what is joined must look into the cache once more before it fetches; `fetch` is expected to.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[T]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._under_way

    def join(self, key: str, fetch: Callable[[], Awaitable[T]]) -> tuple[asyncio.Task[T], bool]:
        """The flight for this key, started if there is none; the flag tells whether this call started it.

        Await it through `asyncio.shield`: it belongs to everybody.
        """
        flight = self._under_way.get(key)
        if flight is not None:
            return flight, False
        flight = asyncio.ensure_future(_run(fetch))
        self._under_way[key] = flight
        flight.add_done_callback(lambda result: self._finished(key, result))
        return flight, True

    def _finished(self, key: str, flight: asyncio.Task[T]) -> None:
        del self._under_way[key]
        if not flight.cancelled():
            flight.exception()  # an error that nobody waited for is told by the fetch itself

    async def close(self) -> None:
        """Cancel what is under way and wait for its end."""
        flights = list(self._under_way.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)


async def _run(fetch: Callable[[], Awaitable[T]]) -> T:
    return await fetch()
