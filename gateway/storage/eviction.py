"""A byte-bounded map that forgets by S3-FIFO.

"FIFO queues are all you need for cache eviction" (Yang, Zhang, Qiu, Yue, Rashmi, SOSP 2023). What comes in is on
probation in a small queue; only what is asked for again there moves to the main one. A crawl that reads each page of a
long listing once thus passes through the small queue and leaves the main one alone, where under LRU it would drive
everything else out. Measured by tests/bench/eviction.py on a Zipf trace with crawls.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")

_SMALL_SHARE = 0.1
_MOST_USES = 3


class _Node(Generic[V]):
    __slots__ = ("size", "uses", "value")

    def __init__(self, value: V, size: int) -> None:
        self.value = value
        self.size = size
        self.uses = 0


class S3Fifo(Generic[V]):
    """Values by name within `max_bytes`; `evicted` is told of each value that goes for want of room."""

    def __init__(self, max_bytes: int, evicted: Callable[[V], None]) -> None:
        self.max_bytes = max_bytes
        self.size = 0
        self._evicted = evicted
        self._small: OrderedDict[str, _Node[V]] = OrderedDict()
        self._main: OrderedDict[str, _Node[V]] = OrderedDict()
        # Names that left the small queue of late: if one comes back, it was worth keeping after all.
        self._ghosts: OrderedDict[str, None] = OrderedDict()
        self._small_size = 0

    def get(self, name: str) -> V | None:
        """The value, and a use of it."""
        node = self._main.get(name) or self._small.get(name)
        if node is None:
            return None
        if node.uses < _MOST_USES:
            node.uses += 1
        return node.value

    def put(self, name: str, value: V, size: int) -> bool:
        """Hold a value of `size` bytes, unless it alone is beyond the bound; whether the name is new."""
        if size > self.max_bytes:
            return False
        node = self._main.get(name)
        if node is None and (node := self._small.get(name)) is not None:
            self._small_size += size - node.size
        if node is not None:
            self.size += size - node.size
            node.value, node.size = value, size
        elif name in self._ghosts:
            del self._ghosts[name]
            self._main[name] = _Node(value, size)
            self.size += size
        else:
            self._small[name] = _Node(value, size)
            self._small_size += size
            self.size += size
        new = node is None
        while self.size > self.max_bytes:
            self._make_room()
        return new

    def pop(self, name: str) -> V | None:
        """Let go of a value; this is no eviction."""
        node = self._main.pop(name, None)
        if node is None:
            node = self._small.pop(name, None)
            if node is None:
                return None
            self._small_size -= node.size
        self.size -= node.size
        return node.value

    def clear(self) -> None:
        """Let go of everything; this is no eviction."""
        self._small.clear()
        self._main.clear()
        self._ghosts.clear()
        self.size = self._small_size = 0

    def _make_room(self) -> None:
        if self._small and (self._small_size > self.max_bytes * _SMALL_SHARE or not self._main):
            name, node = self._small.popitem(last=False)
            self._small_size -= node.size
            if node.uses > 1:
                node.uses = 0
                self._main[name] = node
                return
            self._ghosts[name] = None
            while len(self._ghosts) > max(len(self._main), 16):
                self._ghosts.popitem(last=False)
        else:
            name, node = self._main.popitem(last=False)
            if node.uses > 0:
                node.uses -= 1
                self._main[name] = node
                return
        self.size -= node.size
        self._evicted(node.value)
