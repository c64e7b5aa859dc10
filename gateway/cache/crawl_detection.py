"""Who pages through a listing: told by the third page in a row of one size, asked for by one team.

What is remembered is not where a client was but which page would be next for it, so several clients of a team may
crawl the same listing at once.
"""

from __future__ import annotations

from collections import OrderedDict

# From this page in a row on it is a crawl.
CRAWL_PAGES = 3
_MOST = 10_000


# A team at a page of a listing: its name, AOI id, filters, limit, offset.
Position = tuple[str, str, tuple[tuple[str, str], ...], int, int]


class CrawlDetector:
    """The pages that would be next for somebody, and how many came before in a row; the latest `most` of them."""

    def __init__(self, most: int = _MOST) -> None:
        self._next: OrderedDict[Position, int] = OrderedDict()
        self._most = most

    def follow(self, here: Position, following: Position) -> int:
        """Note that a team is at a page, and which one would be next. How many it was in a row."""
        row = self._next.pop(here, 0) + 1
        # Two clients may be at the same place, and the one that came further counts.
        self._next[following] = max(row, self._next.pop(following, 0))
        if len(self._next) > self._most:
            self._next.popitem(last=False)
        return row
