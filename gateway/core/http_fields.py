"""HTTP header fields: all lines of one name, and dates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from typing import Protocol


class Headers(Protocol):
    """Header lines by case-insensitive name; the headers of aiohttp are of this type."""

    def getall(self, key: str, default: tuple[str, ...], /) -> Sequence[str]:
        """Return the values of all lines with this name, in order, or `default` if there is none."""


def parse_http_date(text: str) -> float | None:
    """Parse a date in any of the three formats of RFC 9110, section 5.6.7; return Unix time in seconds, else None."""
    try:
        date = parsedate_to_datetime(text)
        # The asctime format has no zone, and HTTP dates are in UTC.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


@lru_cache(maxsize=2)
def http_date(second: int) -> str:
    """Unix time in whole seconds as it stands in a Date header; written once a second."""
    return formatdate(second, usegmt=True)
