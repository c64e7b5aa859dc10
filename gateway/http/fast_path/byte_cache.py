"""Values by the exact bytes, or pieces of bytes, of a request, within a limit of bytes.

A key is stored the second time it is seen, because requests that never come again must not evict others. Eviction is by
CLOCK (Corbato, "A paging experiment with the Multics system", 1968).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

# So much is known to have been seen once, and as much from before.
_MOST_SEEN = 16_384


class CacheValue(Protocol):
    """Tells whether it was used since somebody looked."""

    used: bool


V = TypeVar("V", bound=CacheValue)
Key = bytes | tuple[bytes, ...]


class ByteCache(Generic[V]):
    """Values by bytes, within `max_bytes`; each counts as its bytes and `overhead` more."""

    def __init__(self, max_bytes: int, overhead: int) -> None:
        self._max_bytes = max_bytes
        self._overhead = overhead
        self._values: dict[Key, V] = {}
        self._size = 0
        self._seen: set[int] = set()
        self._seen_before: set[int] = set()
        self.get: Callable[[Key], V | None] = self._values.get
        """What stands for these bytes. Bytes are compared as they are: who has them all has the token in them, and how
        long a look into a table of keyed hashes takes tells nothing of a token to who has not."""

    def __len__(self) -> int:
        return len(self._values)

    def seen_again(self, data: Key) -> bool:
        """Whether these bytes were seen before."""
        seen = hash(data)
        if seen in self._seen or seen in self._seen_before:
            return True
        if len(self._seen) >= _MOST_SEEN:
            self._seen_before, self._seen = self._seen, set()
        self._seen.add(seen)
        return False

    def put(self, data: Key, value: V) -> None:
        """Remember it, and forget others if need be."""
        if self._values.pop(data, None) is None:
            self._size += self._cost(data)
        self._values[data] = value
        while self._size > self._max_bytes:
            oldest, candidate = next(iter(self._values.items()))
            del self._values[oldest]
            if candidate.used:
                candidate.used = False
                self._values[oldest] = candidate
            else:
                self._size -= self._cost(oldest)

    def _cost(self, data: Key) -> int:
        return self._overhead + (len(data) if isinstance(data, bytes) else sum(map(len, data)))

    def clear(self) -> None:
        """Forget all of them; what was seen once still was."""
        self._values.clear()
        self._size = 0
