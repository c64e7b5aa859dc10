"""The pages for people: landing and docs, and the OpenAPI document behind them. Nothing on them is from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gateway import __version__
from gateway.http.errors import CODES
from gateway.http.router import Route

TEMPLATES = Path(__file__).with_name("templates")
_PLACEHOLDER = "YOUR_AOI_ID"
# Compiles a template when somebody looks at its page: most processes are never looked at.
JINJA = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, auto_reload=False,
)  # fmt: skip

StatusPlace = Literal["here", "with a token", "elsewhere", "nowhere"]


class Pages:
    """`/`, `/docs` and `/openapi.json`. `example_aoi` makes the shown requests work as they stand.

    `status` tells where `/status` is for those who see these pages.
    """

    def __init__(self, document: dict[str, Any], *, tokens: bool, example_aoi: str | None, status: StatusPlace) -> None:
        self._script = (TEMPLATES / "copy.js").read_text(encoding="utf-8")
        self._style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
        self._status = status
        self._document = document
        self._encoded = msgspec.json.format(msgspec.json.encode(document), indent=2)
        self._tokens = tokens
        self._aoi_id = example_aoi or _PLACEHOLDER
        self._headers = page_headers((self._script,), self._style)

    def routes(self) -> dict[str, Route]:
        """By path."""
        return {
            "/": Route("landing", self._landing),
            "/docs": Route("docs", self._docs),
            "/openapi.json": Route("openapi", self._openapi),
        }

    async def _landing(self, request: web.BaseRequest) -> web.Response:
        return self._page(JINJA.get_template("landing.html").render(self._common(request), status=self._status))

    async def _docs(self, request: web.BaseRequest) -> web.Response:
        operation = self._document["paths"]["/v0/aois/{aoi_id}/assets"]["get"]
        return self._page(
            JINJA.get_template("docs.html").render(self._common(request), operation=operation, errors=by_code())
        )

    async def _openapi(self, _: web.BaseRequest) -> web.Response:
        headers = {"Content-Type": "application/json", "Cache-Control": "no-cache"}
        return web.Response(body=self._encoded, headers=headers)

    def _common(self, request: web.BaseRequest) -> dict[str, Any]:
        return {
            "base": f"{request.scheme}://{request.host}",  # framing has matched the Host header
            "aoi_id": self._aoi_id,
            "tokens": self._tokens,
            "version": __version__,
            "script": self._script,
            "style": self._style,
            "cache_status": CACHE_STATUS,
        }

    def _page(self, html: str) -> web.Response:
        return web.Response(body=html.encode(), headers=self._headers)


def page_headers(scripts: Sequence[str], style: str, more: str = "") -> dict[str, str]:
    """The headers of a page on which nothing runs but these texts; `more` are further CSP directives.

    An icon is what browsers ask for by themselves, and the pages name one that is empty.
    """
    policy = (
        "default-src 'none'", f"script-src {' '.join(map(_hash, scripts))}", f"style-src {_hash(style)}",
        "img-src data:", more, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    )  # fmt: skip
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-cache",
        "Content-Security-Policy": "; ".join(filter(None, policy)),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def _hash(inline: str) -> str:
    """A source expression that allows exactly this inline text (Content Security Policy Level 3, section 2.3.1)."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode() + "'"


# What stands after `pixxel-gateway; ` in Cache-Status (RFC 9211; contract, section 3).
CACHE_STATUS: tuple[tuple[str, str], ...] = (
    ("hit; ttl=287", "From the cache, and fresh for 287 more seconds."),
    ("hit; ttl=-3", "From the cache, three seconds past its time; a new copy is being fetched behind your back."),
    ("hit; ttl=…; detail=window", "From the cache, cut from other pages: the bytes that the vendor would have sent."),
    ("fwd=miss; fwd-status=200; stored", "Not cached: fetched from the vendor for you, and kept for others."),
    ("fwd=stale; fwd-status=200; stored", "The cached copy had expired: fetched anew, and kept."),
    ("fwd=request; …", "You asked for a refresh (Cache-Control: no-cache), and may: fetched anew."),
    ("fwd=…; fwd-status=200", "Fetched, and not kept: the vendor forbids it, or the page was purged meanwhile."),
    ("…; collapsed", "Somebody else was fetching it already, so you shared that answer."),
    ("fwd=stale; …; detail=stale-if-error", "The vendor failed; this is the last good page. Age tells how old it is."),
)  # fmt: skip

_CODES = {
    "bad_request": "The request is not clear HTTP: its framing, its target or its Host header.",
    "body_not_allowed": "This takes no body, or no such large one.",
    "invalid_aoi_id": "An AOI id is 1 to 64 letters, digits, - and _.",
    "invalid_parameter": "details.parameter is unknown, empty, malformed or there twice.",
    "unauthorized": "The token is missing or not known, or there are two that differ.",
    "forbidden": "Your team may not read this AOI, or do this.",
    "not_found": "The vendor knows no such AOI, or there is nothing at this path.",
    "method_not_allowed": "Allow names the methods that there are.",
    "not_acceptable": "Pages come plain or as gzip, and your Accept-Encoding rules out both.",
    "request_timeout": "The request did not come in time.",
    "uri_too_long": "The target is longer than 8190 bytes.",
    "unsupported_media_type": "Send application/json.",
    "expectation_failed": "Send no Expect header.",
    "rate_limited": "Your team's budget (details.budget) is used up; ask again after Retry-After seconds.",
    "headers_too_large": "A header is longer than 8191 bytes, or there are too many.",
    "internal_error": "The gateway made a mistake; its log has the request id.",
    "upstream_error": "The vendor failed with details.upstream_status, also when asked again.",
    "upstream_unreachable": "The vendor cannot be reached.",
    "upstream_invalid": "The vendor answered something that its contract does not describe.",
    "upstream_too_large": "The vendor's answer is larger than the gateway takes.",
    "upstream_auth": "The vendor refused the gateway's key. It is not your token: tell whoever runs the gateway.",
    "upstream_rate_limited": "The vendor asks the gateway for a pause; ask again after Retry-After seconds.",
    "upstream_circuit_open": "The vendor failed several times in a row, and is left alone for Retry-After seconds.",
    "overloaded": "Too much waits for the vendor, or looks on; ask again after Retry-After seconds.",
    "store_unavailable": "A purge that Redis did not confirm: do it again.",
    "upstream_timeout": "The vendor did not answer in time.",
    "not_cached": "You sent Cache-Control: only-if-cached, and the page is not cached.",
    "http_version_not_supported": "Speak HTTP/1.1.",
}


def by_code() -> list[tuple[str, str, str]]:
    """Code, statuses and meaning of every error, in the order of the statuses."""
    statuses: dict[str, list[str]] = {}
    for status in sorted(CODES):
        for code in CODES[status]:
            statuses.setdefault(code, []).append(str(status))
    return [(code, ", ".join(where), _CODES[code]) for code, where in statuses.items()]
