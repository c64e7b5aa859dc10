"""Cross-origin requests of browser apps (WHATWG Fetch, "CORS protocol"), for the listed origins and nobody else."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping

from aiohttp import web

_METHODS = "GET, HEAD"
_REQUEST_HEADERS = (
    "Authorization, Cache-Control, If-None-Match, Prefer, X-API-Key, X-Explain, X-Request-Id, "
    "baggage, traceparent, tracestate"
)
# Every header that a response may have, also those that browsers show without being asked to.
_RESPONSE_HEADERS = (
    "Age, Allow, Cache-Control, Cache-Status, Content-Encoding, Content-Length, Content-Type, ETag, "
    "Preference-Applied, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, Vary, WWW-Authenticate, "
    "X-Explain, X-Listing-Generation, X-Request-Id"
)
_PREFLIGHT_SECONDS = "600"


class Cors:
    """Answers preflights and marks answers for `origins`, which are lower case."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)

    def preflight(self, request: web.BaseRequest) -> web.Response | None:
        """The answer to a preflight from a listed origin; None for any other OPTIONS."""
        if (
            request.headers.get("Origin", "").lower() not in self._origins
            or "Access-Control-Request-Method" not in request.headers
        ):
            return None
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _REQUEST_HEADERS,
                "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
            },
        )

    def mark(self, headers: MutableMapping[str, str], origin: str) -> None:
        """Let the page of a listed origin read an answer; tell caches that it depends on the origin."""
        if not self._origins:
            return
        headers["Vary"] = f"{headers['Vary']}, Origin" if "Vary" in headers else "Origin"
        if origin.lower() in self._origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _RESPONSE_HEADERS
