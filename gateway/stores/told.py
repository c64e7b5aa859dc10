"""When something was told of a listing, or purged, last: what was asked before that may be older than it."""

from __future__ import annotations

import math
from typing import NamedTuple

# Beyond so many, it counts as told of all others when it was told of the last of these.
_MOST_LISTINGS = 10_000
_MOST_AOIS = 10_000


class Moment(NamedTuple):
    """A moment on both clocks, in seconds."""

    monotonic: float
    wall: float


_NEVER = Moment(-math.inf, -math.inf)


class Told:
    """The moments, as many as are worth remembering one by one."""

    def __init__(self) -> None:
        self._listings: dict[str, float] = {}
        self._all_listings = -math.inf
        self._purged: dict[str, Moment] = {}
        self._purged_all = _NEVER

    def of(self, listing: str) -> float:
        """When there was word of a listing last, on the monotonic clock."""
        return self._listings.get(listing, self._all_listings)

    def note(self, listing: str, now: float) -> None:
        """There is word of a listing."""
        if len(self._listings) >= _MOST_LISTINGS:
            self._all_listings = now
            self._listings.clear()
        self._listings[listing] = now

    def purge_of(self, aoi_id: str) -> Moment:
        """When an AOI was purged last, alone or with everything."""
        return max(self._purged_all, self._purged.get(aoi_id, self._purged_all))

    def note_purge(self, aoi_id: str | None, now: Moment) -> bool:
        """An AOI, or (None) everything, is purged; whether it counts as everything."""
        everything = aoi_id is None or len(self._purged) >= _MOST_AOIS
        if everything:
            self._purged_all = now
            self._purged.clear()
        elif aoi_id is not None:
            self._purged[aoi_id] = now
        return everything
