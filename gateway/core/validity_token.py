"""Whether what an answer was made of still stands.

Who keeps an answer for later takes the seal of its AOI, and looks at it before the answer is given again: a page that
came or went, a generation that ended, a purge, or a connection to Redis that was made anew breaks it. What a seal
cannot tell is that word from Redis has stopped, because nothing happens then; `until` does.
"""

from __future__ import annotations

import math
from weakref import WeakValueDictionary


class Seal:
    """Stands until something changes."""

    __slots__ = ("__weakref__", "broken")

    def __init__(self) -> None:
        self.broken = False


class Seals:
    """The seals of one store, by AOI; there are as many as somebody keeps."""

    def __init__(self) -> None:
        self._seals: WeakValueDictionary[str, Seal] = WeakValueDictionary()
        self.until = math.inf
        """So long copies in memory may be trusted without asking, on the monotonic clock, if nothing is heard."""

    def take(self, aoi_id: str) -> Seal:
        """The seal of an AOI, whole."""
        seal = self._seals.get(aoi_id)
        if seal is None:
            seal = self._seals[aoi_id] = Seal()
        return seal

    def break_one(self, aoi_id: str) -> None:
        """Something about this AOI has changed."""
        seal = self._seals.pop(aoi_id, None)
        if seal is not None:
            seal.broken = True

    def break_all(self) -> None:
        """Anything may have changed."""
        for seal in list(self._seals.values()):
            seal.broken = True
        self._seals.clear()
