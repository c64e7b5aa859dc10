"""How the vendor treats a `limit`: what was learned of it, never what one might guess.

A vendor may print a smaller limit than it was asked for. What a window would have looked like is known only where that
is known: limits up to the largest that was honoured are honoured, and one that was changed is known for that exact
value. What contradicts the rest ends it all, and so does what was seen before that no longer count.
"""

from __future__ import annotations

import math
from collections.abc import Callable

# So many changed limits are known at once; beyond, all is forgotten and learned again.
_MOST = 1000


class PageLimits:
    """What the vendor does with limits. One vendor, one of these.

    `forgotten` is called when what was known counts no more: no window that was cut by it may be shown again.
    """

    def __init__(self, forgotten: Callable[[], None] = lambda: None) -> None:
        self._tell_forgotten = forgotten
        self._since = -math.inf
        self._latest = -math.inf
        self._honoured = 0
        self._delivered = 0
        self._changed: dict[int, int] = {}
        self.contradictions = 0
        """How often everything was discarded. What was concluded before the last time does not hold."""

    def learn(self, asked: int, printed: int, count: int, started: float) -> None:
        """Learn from a page that does not end at the listing's total: limits asked for and printed, and its assets.

        `started` is when its fetch began (Unix time). What began before a contradiction is known no more, and what
        began before something that was learned does not contradict it.
        """
        if started < self._since:
            return
        contradicts = self._contradicts(asked, printed)
        if contradicts and started < self._latest:
            return
        self._latest = max(self._latest, started)
        if self.effective(asked) == printed and count <= self._delivered:
            return
        if contradicts or len(self._changed) >= _MOST:
            self._since, self._honoured, self._delivered = started, 0, 0
            self._changed.clear()
            self.contradictions += 1
            self._tell_forgotten()
        if asked == printed:
            self._honoured = max(self._honoured, asked)
        else:
            self._changed[asked] = printed
        self._delivered = max(self._delivered, count)

    def effective(self, asked: int) -> int | None:
        """The limit that the vendor would print when asked for this one; None where that is not known."""
        return asked if asked <= self._honoured else self._changed.get(asked)

    def has_sent(self, count: int) -> bool:
        """Whether the vendor has sent a page of so many assets: it may print a limit, and stop short of it."""
        return count <= self._delivered

    def _contradicts(self, asked: int, printed: int) -> bool:
        if asked == printed:
            return any(other <= asked for other in self._changed)
        return asked <= self._honoured or self._changed.get(asked, printed) != printed
