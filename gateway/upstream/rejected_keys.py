"""How a refused key is held back: one try in a while, of everything or of one AOI.

A 401 speaks of the key. A 403 may speak of the AOI alone, if the key has ever been good for anything. What becomes of a
fetch that began with keys which have been replaced says nothing of those in use.
"""

from __future__ import annotations

from collections.abc import Hashable

BACKOFF_SECONDS = 10.0
_MOST_AOIS = 10_000


class RejectedKeyBackoff:
    """What is held. Times are of the monotonic clock, in seconds; `keys` stands for those in use, whatever they are."""

    def __init__(self) -> None:
        self._keys: Hashable = None
        self._has_worked = False
        self._all_until: float | None = None
        self._aois: dict[str, float] = {}
        self.refusals = 0

    def wait(self, keys: Hashable, aoi_id: str, now: float) -> float | None:
        """How many seconds there are until the next try; None when it may be made now, or nothing is held."""
        if keys != self._keys:
            return None
        held = (self._all_until, self._aois.get(aoi_id))
        return max((until - now for until in held if until is not None and until > now), default=None)

    def fetch_started(self, keys: Hashable, aoi_id: str, now: float) -> None:
        """A fetch begins with the keys that are in use; if it is the one try, the others go on waiting."""
        if keys != self._keys:  # new keys, new luck
            self._keys, self._has_worked, self._all_until = keys, False, None
            self._aois.clear()
        if self._all_until is not None:
            self._all_until = now + BACKOFF_SECONDS
        if aoi_id in self._aois:
            self._aois[aoi_id] = now + BACKOFF_SECONDS

    def key_accepted(self, keys: Hashable, aoi_id: str) -> None:
        """The vendor took one of these keys, for this AOI at least."""
        if keys != self._keys:
            return
        self._has_worked = True
        self._all_until = None
        self._aois.pop(aoi_id, None)

    def key_rejected(self, keys: Hashable, aoi_id: str, statuses: tuple[int, ...], now: float) -> None:
        """The vendor refused each of these keys, with these statuses."""
        if keys != self._keys:
            return
        self.refusals += 1
        if 403 in statuses and self._has_worked:
            if len(self._aois) >= _MOST_AOIS:
                self._aois.clear()
            self._aois[aoi_id] = now + BACKOFF_SECONDS
        else:
            self._all_until = now + BACKOFF_SECONDS
