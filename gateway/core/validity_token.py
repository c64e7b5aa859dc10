"""Tokens that become invalid with what a prepared response was made of.

A response that is kept for later takes the token of its AOI. A page that is stored or evicted, a generation that ends,
a purge and a new session with Redis invalidate the token. The end of a session invalidates nothing at the time, so
responses are used only before `until`.
"""

from __future__ import annotations

import math
from weakref import WeakValueDictionary


class ValidityToken:
    """Stands until something changes."""

    __slots__ = ("__weakref__", "broken")

    def __init__(self) -> None:
        self.broken = False


class ValidityTokens:
    """The validity_tokens of one store, by AOI; there are as many as somebody keeps."""

    def __init__(self) -> None:
        self._validity_tokens: WeakValueDictionary[str, ValidityToken] = WeakValueDictionary()
        self.until = math.inf
        """Prepared responses may be used until this monotonic time if no further PING is answered."""

    def issue(self, aoi_id: str) -> ValidityToken:
        """The token of an AOI, whole."""
        token = self._validity_tokens.get(aoi_id)
        if token is None:
            token = self._validity_tokens[aoi_id] = ValidityToken()
        return token

    def invalidate(self, aoi_id: str) -> None:
        """Something about this AOI has changed."""
        token = self._validity_tokens.pop(aoi_id, None)
        if token is not None:
            token.broken = True

    def invalidate_all(self) -> None:
        """Anything may have changed."""
        for token in list(self._validity_tokens.values()):
            token.broken = True
        self._validity_tokens.clear()
