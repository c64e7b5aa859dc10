"""The Date header (RFC 9110, section 6.6.1)."""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache


@lru_cache(maxsize=2)
def http_date(second: int) -> str:
    """Unix time in whole seconds as it stands in a Date header; written once a second."""
    return formatdate(second, usegmt=True)
