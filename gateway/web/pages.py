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
from gateway.web.meanings import CACHE_STATUS, by_code
from gateway.web.router import Route

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
