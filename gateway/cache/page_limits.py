"""How the vendor treats a `limit`: what was learned of it, never what one might guess.

A vendor may print a smaller limit than it was asked for. What a window would have looked like is known only where that
is known: limits up to the largest that was honoured are honoured, and one that was changed is known for that exact
value. What contradicts the rest ends it all, and so does what was seen before that no longer count.
"""

from __future__ import annotations

import math
from collections.abc import Callable

# So many pairs of limits are known at once; beyond, all is forgotten and learned again.
_MOST = 1000


class PageLimits:
    """What the vendor does with limits. One vendor, one of these.

    `forgotten` is called when what was known counts no more: no window that was cut by it may be shown again.
    """

    def __init__(self, forgotten: Callable[[], None] = lambda: None) -> None:
        self._tell_forgotten = forgotten
        self._since = -math.inf
        # By the limits asked for and printed: how many assets came at most, and when the latest fetch began.
        self._seen: dict[tuple[int, int], tuple[int, float]] = {}
        self._honoured = 0
        self._delivered = 0
        self._changed: dict[int, int] = {}
        self.contradictions = 0
        """How often something was discarded. What was concluded before the last time does not hold."""

    def learn(self, asked: int, printed: int, count: int, started: float) -> None:
        """Learn from a page that does not end at the listing's total: limits asked for and printed, and its assets.

        `started` is when its fetch began (Unix time). What began before a contradiction is known no more, and a page
        does not contradict what began later.
        """
        most, latest = self._seen.get((asked, printed), (-1, -math.inf))
        if started < self._since or (count <= most and started <= latest):
            return
        contradicted = [
            began for (other, its), (_, began) in self._seen.items() if _contradict(asked, printed, other, its)
        ]  # fmt: skip
        if contradicted and started < max(contradicted):
            return
        if contradicted or len(self._seen) >= _MOST:
            self._since = started
            self._seen = {limits: seen for limits, seen in self._seen.items() if contradicted and seen[1] > started}
            self.contradictions += 1
            self._tell_forgotten()
            most, latest = self._seen.get((asked, printed), (-1, -math.inf))
        self._seen[asked, printed] = max(most, count), max(latest, started)
        self._honoured = max((other for other, its in self._seen if other == its), default=0)
        self._changed = {other: its for other, its in self._seen if other != its}
        self._delivered = max(seen[0] for seen in self._seen.values())

    def effective(self, asked: int) -> int | None:
        """The limit that the vendor would print when asked for this one; None where that is not known."""
        return asked if asked <= self._honoured else self._changed.get(asked)

    def has_sent(self, count: int) -> bool:
        """Whether the vendor has sent a page of so many assets: it may print a limit, and stop short of it."""
        return count <= self._delivered


def _contradict(asked: int, printed: int, other: int, its: int) -> bool:
    """Tell whether two pairs of limits exclude each other: all up to one that is honoured are honoured."""
    if asked == printed:
        return other != its and other <= asked
    return asked <= other if other == its else asked == other and printed != its
