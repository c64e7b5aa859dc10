"""Caching headers, read as RFC 9111 says.

This file owns the syntax of Cache-Control, Expires and Age; what follows from them is decided in `policy`. A header
that makes no sense is never an error: RFC 9111, section 4.2.1, wants such an answer treated as stale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

_DIRECTIVE = re.compile(r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s,;"]+))?\s*(?:,|$)""")

# Deltas beyond this are "infinity" in RFC 9111, section 1.2.2; it also keeps int() away from absurd lengths.
_MAX_DELTA = 2**31


@dataclass(frozen=True, slots=True)
class VendorCaching:
    """What the vendor asks of caches. Times in seconds; `fresh_for` is None when the vendor does not say.

    `said_by` names the directive or header that `fresh_for` was taken from; it is told, and decides nothing.
    """

    storable: bool = True
    fresh_for: float | None = None
    stale_allowed: bool = True
    age: float = 0.0
    said_by: str = field(default="vendor", compare=False)


def directives(value: str) -> dict[str, str]:
    """Split a Cache-Control value into lower-case names and their (unquoted) arguments; the first of a name counts."""
    found: dict[str, str] = {}
    for match in _DIRECTIVE.finditer(value):
        found.setdefault(match[1].lower(), (match[2] or "").strip('"'))
    return found


def vendor_caching(headers: Mapping[str, str], now: float) -> VendorCaching:
    """Read the caching headers of a vendor answer that arrived at `now` (Unix time, seconds).

    `headers` must look names up without regard to case; several Cache-Control lines come joined by commas.
    """
    told = directives(headers.get("Cache-Control", ""))
    fresh_for, said_by = _fresh_for(told, headers, now)
    return VendorCaching(
        storable="no-store" not in told and "private" not in told,
        fresh_for=fresh_for,
        stale_allowed=not told.keys() & {"no-cache", "must-revalidate", "proxy-revalidate"},
        age=_delta(headers.get("Age", "0")) or 0.0,
        said_by=said_by,
    )


def _fresh_for(told: dict[str, str], headers: Mapping[str, str], now: float) -> tuple[float | None, str]:
    # RFC 9111, section 4.2.1: s-maxage, else max-age, else Expires less Date.
    for name in ("s-maxage", "max-age"):
        if name in told:
            return _delta(told[name]) or 0.0, name
    if "Expires" not in headers:
        return None, "nobody"
    expires = _http_date(headers["Expires"])
    if expires is None:
        return 0.0, "expires"
    return max(0.0, expires - (_http_date(headers.get("Date", "")) or now)), "expires"


def _delta(text: str) -> float | None:
    text = text.strip()
    if not (text.isascii() and text.isdigit()):
        return None
    return float(min(int(text[:11]), _MAX_DELTA))


def _http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
