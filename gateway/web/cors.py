"""Cross-origin requests of browser apps (WHATWG Fetch, "CORS protocol"), for the listed origins and nobody else."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

_METHODS = "GET, HEAD"
_REQUEST_HEADERS = "Authorization, Cache-Control, If-None-Match, X-API-Key, X-Request-Id"
_RESPONSE_HEADERS = (
    "Age, Cache-Status, ETag, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, "
    "X-Listing-Generation, X-Request-Id"
)
_PREFLIGHT_SECONDS = "600"


class Cors:
    """Answers preflights and marks answers for `origins`, which are lower case."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)

    def preflight(self, request: web.BaseRequest) -> web.Response | None:
        """The answer to a preflight from a listed origin; None for any other OPTIONS."""
        if not self._is_listed(request) or "Access-Control-Request-Method" not in request.headers:
            return None
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _REQUEST_HEADERS,
                "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
            },
        )

    def mark(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Let the page of a listed origin read the answer; tell caches that it depends on the origin."""
        if not self._origins:
            return
        headers = response.headers
        headers["Vary"] = f"{headers['Vary']}, Origin" if "Vary" in headers else "Origin"
        if self._is_listed(request):
            headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            headers["Access-Control-Expose-Headers"] = _RESPONSE_HEADERS

    def _is_listed(self, request: web.BaseRequest) -> bool:
        return bool(self._origins) and request.headers.get("Origin", "").lower() in self._origins
